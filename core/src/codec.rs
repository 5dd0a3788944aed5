//! The one door to `bincode`: every byte that is stored or sent between nodes passes here.
//!
//! Each encoding begins with a format byte; decoding has a size limit and refuses trailing bytes.

use bincode::{
    config::{Configuration, Limit, LittleEndian, Varint},
    serde as bincode_serde,
};
use serde::{Serialize, de::DeserializeOwned};

/// First byte of everything encoded here.
pub const FORMAT: u8 = 1;

/// Largest command in encoded form: well below a log segment, and far above any single change.
pub const COMMAND_MAX: usize = 256 * 1024;

/// Largest thing decoded at all, a snapshot: 1 GiB.
pub const DECODE_MAX: usize = 1 << 30;

/// Bytes that cannot be read, or a value that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Nothing there.
    #[error("no bytes to decode")]
    Empty,
    /// Written in another format.
    #[error(
        "format {found} is not known here (known: {FORMAT}); it was written by a newer version, or is damaged"
    )]
    Format {
        /// What the first byte says.
        found: u8,
    },
    /// Larger than what is allowed.
    #[error("{size} bytes, {limit} are allowed")]
    TooLarge {
        /// What it has.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Something behind the end.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// Not this type's encoding.
    #[error("cannot decode: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// Not encodable.
    #[error("cannot encode: {0}")]
    Encode(#[from] bincode::error::EncodeError),
}

fn config() -> Configuration<LittleEndian, Varint, Limit<DECODE_MAX>> {
    bincode::config::standard().with_limit::<DECODE_MAX>()
}

/// Encodes a value.
///
/// # Errors
/// The value has no encoding, or one above [`DECODE_MAX`].
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![FORMAT];
    bincode_serde::encode_into_std_write(value, &mut bytes, config())?;
    if bytes.len() > DECODE_MAX {
        return Err(CodecError::TooLarge { size: bytes.len(), limit: DECODE_MAX });
    }
    Ok(bytes)
}

/// Decodes a value of at most `limit` bytes.
///
/// # Errors
/// Too large, of another format, damaged, or followed by other bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { size: bytes.len(), limit });
    }
    let (&format, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if format != FORMAT {
        return Err(CodecError::Format { found: format });
    }
    let (value, used) = bincode_serde::decode_from_slice(rest, config())?;
    if used != rest.len() {
        return Err(CodecError::Trailing(rest.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes = encode(&(7u64, "x")).expect("encoded");
        assert_eq!(decode::<(u64, String)>(&bytes, 100).expect("decoded"), (7, "x".to_owned()));
    }

    #[test]
    fn damage_is_refused_with_the_reason() {
        let mut bytes = encode(&7u64).expect("encoded");
        assert!(matches!(decode::<u64>(&bytes, 1), Err(CodecError::TooLarge { size: 2, limit: 1 })));
        bytes.push(0);
        assert!(matches!(decode::<u64>(&bytes, 100), Err(CodecError::Trailing(1))));
        bytes[0] = 9;
        assert!(matches!(decode::<u64>(&bytes, 100), Err(CodecError::Format { found: 9 })));
        assert!(matches!(decode::<u64>(&[], 100), Err(CodecError::Empty)));
        assert!(matches!(decode::<u64>(&[FORMAT], 100), Err(CodecError::Decode(_))));
    }

    #[test]
    fn a_length_that_lies_is_refused_without_allocating_it() {
        let lying = [FORMAT, 253, 255, 255, 255, 255, 255, 255, 255, 127];
        assert!(decode::<Vec<u8>>(&lying, 100).is_err());
        assert!(decode::<String>(&lying, 100).is_err());
    }
}
