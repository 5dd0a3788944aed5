//! The one door to `bincode`: every byte that is stored or sent between nodes passes here.
//!
//! Each encoding begins with a format byte; decoding has a size limit and refuses trailing bytes.

mod cautious;

use std::io::Read as _;

use bincode::{
    config::{Configuration, Limit, LittleEndian, Varint},
    serde as bincode_serde,
};
use serde::{Serialize, de::DeserializeOwned};

use self::cautious::Cautious;
use crate::feature::{self, FeatureLevel};

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
    /// Ends in the middle.
    #[error("the end is missing")]
    CutOff,
    /// A section that is not known, or not where it belongs.
    #[error("section {0} is not known here, or not in its place")]
    Section(u8),
    /// Of a feature level that is not understood.
    #[error(transparent)]
    Level(#[from] feature::TooNew),
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
    let (Cautious(value), used) = bincode_serde::decode_from_slice(rest, config())?;
    if used != rest.len() {
        return Err(CodecError::Trailing(rest.len() - used));
    }
    Ok(value)
}

/// Most bytes that fields of a later version may have, in their shortest form.
const GROWTH_MAX: u64 = 256;

/// Decodes a message between nodes to which later versions append fields: what a newer sender has appended is
/// skipped, and what an older one does not know yet is read as zero, false, none or empty.
///
/// # Errors
/// Too large, of another format, or damaged.
pub fn decode_grown<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { size: bytes.len(), limit });
    }
    let (&format, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if format != FORMAT {
        return Err(CodecError::Format { found: format });
    }
    let mut grown = rest.chain(std::io::repeat(0).take(GROWTH_MAX));
    let Cautious(value) = bincode_serde::decode_from_std_read(&mut grown, config())?;
    Ok(value)
}

/// Writes something that consists of numbered sections, each of which may be absent.
#[derive(Debug)]
pub struct SectionsWriter(Vec<u8>);

/// Bytes before the first section: format and feature level.
const HEAD: usize = 5;

impl SectionsWriter {
    /// Begins, with the feature level that a reader must understand.
    #[must_use]
    pub fn new(level: FeatureLevel) -> Self {
        let mut out = vec![FORMAT];
        out.extend(level.0.to_le_bytes());
        Self(out)
    }

    /// Appends a section. Tags grow.
    ///
    /// # Errors
    /// The value has no encoding.
    pub fn put<T: Serialize + ?Sized>(&mut self, tag: u8, value: &T) -> Result<(), CodecError> {
        self.0.push(tag);
        let length_at = self.0.len();
        self.0.extend([0; 8]);
        let begin = self.0.len();
        bincode_serde::encode_into_std_write(value, &mut self.0, config())?;
        let length = (self.0.len() - begin) as u64;
        self.0[length_at..begin].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    /// The bytes.
    ///
    /// # Errors
    /// There are more than [`DECODE_MAX`].
    pub fn finish(self) -> Result<Vec<u8>, CodecError> {
        if self.0.len() > DECODE_MAX {
            return Err(CodecError::TooLarge { size: self.0.len(), limit: DECODE_MAX });
        }
        Ok(self.0)
    }
}

/// Reads what [`SectionsWriter`] has written.
#[derive(Debug)]
pub struct SectionsReader<'a> {
    rest: &'a [u8],
    last: Option<u8>,
}

impl<'a> SectionsReader<'a> {
    /// Begins.
    ///
    /// # Errors
    /// Too large, of another format, or of a feature level that this program does not understand.
    pub fn new(bytes: &'a [u8]) -> Result<Self, CodecError> {
        if bytes.len() > DECODE_MAX {
            return Err(CodecError::TooLarge { size: bytes.len(), limit: DECODE_MAX });
        }
        let format = *bytes.first().ok_or(CodecError::Empty)?;
        if format != FORMAT {
            return Err(CodecError::Format { found: format });
        }
        let level = bytes.get(1..HEAD).and_then(|level| level.try_into().ok()).ok_or(CodecError::CutOff)?;
        feature::check(FeatureLevel(u32::from_le_bytes(level)))?;
        Ok(Self { rest: &bytes[HEAD..], last: None })
    }

    /// The next section: its tag and content.
    ///
    /// # Errors
    /// It is cut off, or not in order.
    pub fn next_section(&mut self) -> Result<Option<(u8, &'a [u8])>, CodecError> {
        let Some((&tag, rest)) = self.rest.split_first() else { return Ok(None) };
        let (length, rest) = rest.split_first_chunk::<8>().ok_or(CodecError::CutOff)?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| CodecError::CutOff)?;
        if self.last >= Some(tag) {
            return Err(CodecError::Section(tag));
        }
        if length > rest.len() {
            return Err(CodecError::CutOff);
        }
        let (content, rest) = rest.split_at(length);
        self.last = Some(tag);
        self.rest = rest;
        Ok(Some((tag, content)))
    }
}

/// Decodes the content of a section.
///
/// # Errors
/// Damaged, or followed by other bytes.
pub fn decode_section<T: DeserializeOwned>(content: &[u8]) -> Result<T, CodecError> {
    let (Cautious(value), used) = bincode_serde::decode_from_slice(content, config())?;
    if used != content.len() {
        return Err(CodecError::Trailing(content.len() - used));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_grows_and_both_versions_read_it() {
        let (older, newer) = ((7u8, "x".to_owned()), (7u8, "x".to_owned(), vec![1u8], Some(2u64)));
        let from_newer = encode(&newer).expect("encoded");
        assert_eq!(decode_grown::<(u8, String)>(&from_newer, 100).expect("decoded"), older);
        let from_older = encode(&older).expect("encoded");
        let read: (u8, String, Vec<u8>, Option<u64>) = decode_grown(&from_older, 100).expect("decoded");
        assert_eq!(read, (7, "x".to_owned(), vec![], None));
        assert!(decode_grown::<String>(&from_newer, 3).is_err());
    }

    #[test]
    fn no_room_is_reserved_for_what_is_only_announced() {
        let mut bytes = vec![FORMAT];
        // More pairs than there is memory for.
        let config = bincode::config::standard();
        bytes.extend(bincode::encode_to_vec(1u64 << 40, config).expect("encoded"));
        bytes.extend([0; 40]);
        type Map = imbl::OrdMap<u64, u64>;
        assert!(decode::<Map>(&bytes, 100).is_err());
        assert!(decode::<imbl::OrdSet<u64>>(&bytes, 100).is_err());
        assert!(decode::<imbl::Vector<u64>>(&bytes, 100).is_err());
        assert!(decode::<Vec<Map>>(&bytes, 100).is_err());
        assert!(decode_grown::<(Map, Option<String>)>(&bytes, 100).is_err());
        assert!(decode_section::<Map>(&bytes[1..]).is_err());
    }

    #[test]
    fn sections_are_read_in_order_and_only_by_who_understands_them() {
        let written = |level| {
            let mut writer = SectionsWriter::new(level);
            writer.put(1, &7u64).expect("put");
            writer.put(4, "x").expect("put");
            writer.finish().expect("finished")
        };
        let bytes = written(feature::NEWEST);
        let mut reader = SectionsReader::new(&bytes).expect("a reader");
        let (tag, content) = reader.next_section().expect("a section").expect("one");
        assert_eq!((tag, decode_section::<u64>(content).expect("a number")), (1, 7));
        let (tag, content) = reader.next_section().expect("a section").expect("one");
        assert_eq!((tag, decode_section::<String>(content).expect("a text")), (4, "x".to_owned()));
        assert!(reader.next_section().expect("the end").is_none());
        for cut in 6..bytes.len() {
            let mut reader = SectionsReader::new(&bytes[..cut]).expect("a reader");
            let whole =
                std::iter::from_fn(|| reader.next_section().transpose()).collect::<Result<Vec<_>, _>>();
            assert!(whole.is_err() || whole.is_ok_and(|sections| sections.len() < 2), "cut at {cut}");
        }
        let newer = written(FeatureLevel(feature::NEWEST.0 + 1));
        assert!(matches!(SectionsReader::new(&newer), Err(CodecError::Level(_))));
    }

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
