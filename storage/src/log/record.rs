//! Records, of which the log's files consist.
//!
//! A record is: length of the content (4 bytes), checksum (4 bytes), content, [`END`] (1 byte); numbers are
//! little-endian. The checksum includes where in the log the record stands: what was written for another place is not
//! taken for a record of this one. Behind the last record there are zeros up to the end of the file, so that a record
//! whose last byte is zero was never completed.

use bytes::{Buf, BufMut, Bytes};

use super::{ENTRY_MAX, Entry, LogId, LogState, Vote};

/// Length and checksum.
const HEADER: usize = 8;
/// Last byte of every record.
const END: u8 = 0xff;
/// What a power supply fails between: bytes that a disk writes all or not at all, at least.
const SECTOR: u64 = 512;
/// Longest content: the kind, an id, an entry.
const CONTENT_MAX: usize = 1 + 16 + ENTRY_MAX;

const OPENED: u8 = 1;
const APPEND: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGE: u8 = 4;
const VOTE: u8 = 5;
const COMMITTED: u8 = 6;

/// What a file of the log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The first one of every file: where the log stands. Makes the files before it dispensable.
    Opened(LogState),
    /// An entry behind the last one.
    Append(Entry),
    /// This one is the last entry; none: there is no entry.
    Truncate(Option<LogId>),
    /// The entries up to this one are in a snapshot.
    Purge(LogId),
    /// The vote.
    Vote(Vote),
    /// How far entries are committed.
    Committed(LogId),
}

/// Why there is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Nothing was written here.
    Nothing,
    /// Only a part of it has reached the disk.
    Incomplete,
    /// It is not what was written.
    Damaged(&'static str),
}

impl Record {
    /// Appends the record to `out`, for this place in the log.
    pub(super) fn encode(&self, at: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.put_bytes(0, HEADER);
        self.put_content(out);
        let content = &out[start + HEADER..];
        // No content is longer than what its length says: entries are bounded.
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let checksum = checksum(at, content);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 4..start + HEADER].copy_from_slice(&checksum.to_le_bytes());
        out.put_u8(END);
    }

    /// How many bytes it takes.
    pub(super) fn encoded_len(&self) -> usize {
        let fields = match self {
            Self::Opened(state) => {
                let id = |id: Option<LogId>| 1 + id.map_or(0, |_| 16);
                1 + state.vote.map_or(0, |_| 17) + id(state.committed) + id(state.purged) + id(state.last)
            }
            Self::Append(entry) => 16 + entry.body.len(),
            Self::Truncate(keep) => 1 + keep.map_or(0, |_| 16),
            Self::Purge(_) | Self::Committed(_) => 16,
            Self::Vote(_) => 17,
        };
        HEADER + 1 + fields + 1
    }

    fn put_content(&self, out: &mut Vec<u8>) {
        match self {
            Self::Opened(state) => {
                out.put_u8(OPENED);
                out.put_u8(u8::from(state.vote.is_some()));
                state.vote.iter().for_each(|vote| put_vote(out, *vote));
                [state.committed, state.purged, state.last].into_iter().for_each(|id| put_optional(out, id));
            }
            Self::Append(entry) => {
                out.put_u8(APPEND);
                put_id(out, entry.id);
                out.put_slice(&entry.body);
            }
            Self::Truncate(keep) => {
                out.put_u8(TRUNCATE);
                put_optional(out, *keep);
            }
            Self::Purge(id) => {
                out.put_u8(PURGE);
                put_id(out, *id);
            }
            Self::Vote(vote) => {
                out.put_u8(VOTE);
                put_vote(out, *vote);
            }
            Self::Committed(id) => {
                out.put_u8(COMMITTED);
                put_id(out, *id);
            }
        }
    }

    /// Reads the record at the beginning of `bytes`, which stand at this place in the log and at that place in their file,
    /// and how many bytes it has.
    pub(super) fn decode(at: u64, in_file: u64, bytes: &[u8]) -> Result<(Self, usize), Flaw> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
            return Err(if is_zero(bytes) { Flaw::Nothing } else { Flaw::Damaged("its length is cut off") });
        };
        let size = u32::from_le_bytes(*length) as usize;
        if size == 0 && is_zero(rest) {
            return Err(Flaw::Nothing);
        }
        let whole = HEADER + size + 1;
        let Some((expected, rest)) =
            rest.split_first_chunk::<4>().filter(|_| size > 0 && size <= CONTENT_MAX && bytes.len() >= whole)
        else {
            // Where it would end is not known. The sectors of its length are.
            return Err(if is_torn(in_file, length) {
                Flaw::Incomplete
            } else {
                Flaw::Damaged("its length is impossible")
            });
        };
        let content = &rest[..size];
        if rest[size] != END || checksum(at, content) != u32::from_le_bytes(*expected) {
            let torn = rest[size] == 0 || is_torn(in_file, &bytes[..whole]);
            return Err(if torn { Flaw::Incomplete } else { Flaw::Damaged("its checksum is wrong") });
        }
        let record = read_content(content).ok_or(Flaw::Damaged("its content makes no sense"))?;
        Ok((record, whole))
    }
}

/// Whether a part of what was to be written here never was.
///
/// A record on its way when the power fails is written in part: the sectors that are missing are as they were, zero.
/// Where no part of a sector is zero, all of it was written, and has changed since.
fn is_torn(in_file: u64, bytes: &[u8]) -> bool {
    let left = (SECTOR - in_file % SECTOR) as usize;
    let (first, others) = bytes.split_at(left.min(bytes.len()));
    is_zero(first) || others.chunks(SECTOR as usize).any(is_zero)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn checksum(at: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&at.to_le_bytes());
    hasher.update(&(content.len() as u64).to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

fn put_id(out: &mut Vec<u8>, id: LogId) {
    out.put_u64_le(id.term);
    out.put_u64_le(id.index);
}

fn put_optional(out: &mut Vec<u8>, id: Option<LogId>) {
    out.put_u8(u8::from(id.is_some()));
    id.iter().for_each(|id| put_id(out, *id));
}

fn put_vote(out: &mut Vec<u8>, vote: Vote) {
    out.put_u64_le(vote.term);
    out.put_u64_le(vote.node);
    out.put_u8(u8::from(vote.elected));
}

/// None where the bytes are no content: too short, too long, or of a kind that is not known.
fn read_content(mut content: &[u8]) -> Option<Record> {
    let bytes = &mut content;
    let record = match bytes.try_get_u8().ok()? {
        OPENED => {
            let vote = if read_flag(bytes)? { Some(read_vote(bytes)?) } else { None };
            let (committed, purged) = (read_optional(bytes)?, read_optional(bytes)?);
            Record::Opened(LogState { vote, committed, purged, last: read_optional(bytes)? })
        }
        APPEND => {
            let id = read_id(bytes)?;
            let body = Bytes::copy_from_slice(std::mem::take(bytes));
            Record::Append(Entry { id, body })
        }
        TRUNCATE => Record::Truncate(read_optional(bytes)?),
        PURGE => Record::Purge(read_id(bytes)?),
        VOTE => Record::Vote(read_vote(bytes)?),
        COMMITTED => Record::Committed(read_id(bytes)?),
        _ => return None,
    };
    bytes.is_empty().then_some(record)
}

fn read_flag(bytes: &mut &[u8]) -> Option<bool> {
    match bytes.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn read_id(bytes: &mut &[u8]) -> Option<LogId> {
    Some(LogId { term: bytes.try_get_u64_le().ok()?, index: bytes.try_get_u64_le().ok()? })
}

fn read_optional(bytes: &mut &[u8]) -> Option<Option<LogId>> {
    if read_flag(bytes)? { read_id(bytes).map(Some) } else { Some(None) }
}

fn read_vote(bytes: &mut &[u8]) -> Option<Vote> {
    let (term, node) = (bytes.try_get_u64_le().ok()?, bytes.try_get_u64_le().ok()?);
    Some(Vote { term, node, elected: read_flag(bytes)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>()).prop_map(|(term, index)| LogId { term, index })
    }

    fn vote() -> impl Strategy<Value = Vote> {
        (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, elected)| Vote {
            term,
            elected,
            node,
        })
    }

    fn record() -> impl Strategy<Value = Record> {
        let some = || proptest::option::of(id());
        prop_oneof![
            (proptest::option::of(vote()), some(), some(), some()).prop_map(
                |(vote, committed, purged, last)| Record::Opened(LogState { vote, committed, purged, last })
            ),
            (id(), proptest::collection::vec(any::<u8>(), 0..2000))
                .prop_map(|(id, body)| Record::Append(Entry { id, body: body.into() })),
            some().prop_map(Record::Truncate),
            id().prop_map(Record::Purge),
            vote().prop_map(Record::Vote),
            id().prop_map(Record::Committed),
        ]
    }

    fn encoded(record: &Record, at: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.encode(at, &mut bytes);
        bytes
    }

    /// Golden: what a released node has written must stay readable.
    #[test]
    fn the_bytes_of_a_record_do_not_change() {
        let id = LogId { term: 2, index: 3 };
        let vote = Vote { term: 2, elected: true, node: 7 };
        let state = LogState { vote: Some(vote), committed: None, purged: Some(id), last: Some(id) };
        let cases = [
            (
                Record::Opened(state),
                "360000002a8bed86010102000000000000000700000000000000010001020000000000000003000000000000000102000000000000000300000000000000ff",
            ),
            (
                Record::Append(Entry { id, body: "ab".into() }),
                "130000001b91e35202020000000000000003000000000000006162ff",
            ),
            (Record::Truncate(None), "02000000e553a0a40300ff"),
            (Record::Purge(id), "1100000001c8249f0402000000000000000300000000000000ff"),
            (Record::Vote(vote), "1200000050c17492050200000000000000070000000000000001ff"),
            (Record::Committed(id), "11000000c658184b0602000000000000000300000000000000ff"),
        ];
        for (record, bytes) in cases {
            assert_eq!(hex::encode(encoded(&record, 100)), bytes, "{record:?}");
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_and_only_at_its_place(record in record(), at in 0u64..1 << 40) {
            let mut bytes = encoded(&record, at);
            prop_assert_eq!(bytes.len(), record.encoded_len());
            bytes.extend([0; 20]);
            prop_assert_eq!(Record::decode(at, at, &bytes), Ok((record, bytes.len() - 20)));
            prop_assert!(Record::decode(at + 1, at, &bytes).is_err());
        }

        #[test]
        fn a_record_that_was_written_in_part_is_told_from_a_damaged_one(
            record in record(),
            at in 0u64..1 << 20,
            sector in any::<prop::sample::Index>(),
            flip in any::<prop::sample::Index>(),
        ) {
            let whole = encoded(&record, at);
            // A sector that was never written.
            let (first, last) = (at / SECTOR, (at + whole.len() as u64 - 1) / SECTOR);
            let missing = first + sector.index(usize::try_from(last - first + 1).expect("small")) as u64;
            let mut torn = whole.clone();
            for (offset, byte) in torn.iter_mut().enumerate() {
                if (at + offset as u64) / SECTOR == missing {
                    *byte = 0;
                }
            }
            prop_assert!(matches!(Record::decode(at, at, &torn), Err(Flaw::Incomplete | Flaw::Nothing)));
            let mut damaged = whole.clone();
            let flipped = flip.index(whole.len());
            damaged[flipped] ^= 4;
            prop_assert!(Record::decode(at, at, &damaged).is_err());
        }

        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<u64>()) {
            let _ = Record::decode(at, at, &bytes);
            // As if the checksum were right.
            let _ = read_content(&bytes);
        }
    }
}
