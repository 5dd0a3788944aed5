//! What the fuzz target calls: the decoder of what clients send. Compiled for fuzzing and for tests alone: here the target
//! also runs over random bytes.

use pangolin_wire as wire;

use crate::call::read_body;

/// The body of a request, as every request that there is.
pub fn bodies(bytes: &[u8]) {
    macro_rules! all {
        ($($request:ident),+ $(,)?) => { $(let _ = read_body::<wire::$request>(bytes);)+ };
    }
    all!(
        CreateToken,
        Disband,
        ImportCertificate,
        Leave,
        ReplaceNode,
        RestoreCatalog,
        RevokeCertificate,
        SetIssuer,
        TransferLeader,
        UpdateNode,
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_body_makes_the_target_fail(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            super::bodies(&bytes);
        }

        #[test]
        fn no_object_makes_the_target_fail(
            fields in prop::collection::vec(("[a-zA-Z]{1,10}", "(-?[0-9]{1,25}|\"[^\"]{0,20}\"|null|\\[\\]|true)"), 0..5)
        ) {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            super::bodies(format!("{{{}}}", fields.join(",")).as_bytes());
        }
    }
}
