//! What fuzz targets call: the decoder of what authorities answer. Compiled for fuzzing and for tests alone: here the
//! target also runs over random bytes.

use serde_json::Value;

use crate::answer::{self, Directory};

/// Bytes as every kind of answer.
pub fn answers(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    let _ = serde_json::from_value::<Directory>(value.clone());
    let _ = answer::order("https://ca.test/order", value.clone(), None);
    let _ = answer::authorization(value.clone(), None);
    let _ = answer::renewal_info(&value, None);
    let _ = answer::problem(400, &value, None);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            super::answers(&bytes);
        }
    }
}
