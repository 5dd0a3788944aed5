//! Reads a whole log without changing it, and judges it.
//!
//! A log that opens has everything that was acknowledged, or says why not: nothing behind damage is given up in
//! silence. Only the last record may be incomplete, as the power may have failed while it was on its way; whether it
//! was acknowledged is told by the [watermark](super::watermark).

use std::{collections::VecDeque, io, path::Path};

use super::{
    index::Index,
    record::{Flaw, Record},
    segment::{self, Segment},
};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) segments: VecDeque<Segment>,
    pub(super) index: Index,
    /// Where the last record ends.
    pub(super) end: u64,
    /// What stands behind `end`, if something does.
    pub(super) tail: Option<String>,
}

/// Reads the log in `dir`; none if there is none. The inner error is damage, in words.
pub(super) fn read(dir: &Path) -> io::Result<Result<Option<Recovered>, String>> {
    let segments = segment::list(dir)?;
    if segments.is_empty() {
        return Ok(Ok(None));
    }
    let mut log = Recovered { end: segments[0].start, ..Recovered::default() };
    let count = segments.len();
    for (number, segment) in segments.into_iter().enumerate() {
        if segment.start != log.end {
            return Ok(Err(format!("the log has a gap: bytes {} to {} are missing", log.end, segment.start)));
        }
        let bytes = segment.read_all()?;
        if let Err(damage) = log.follow(&segment, &bytes, number + 1 == count) {
            return Ok(Err(damage));
        }
        log.segments.push_back(segment);
    }
    Ok(Ok(Some(log)))
}

impl Recovered {
    /// Follows the records of one file.
    fn follow(&mut self, segment: &Segment, bytes: &[u8], is_last: bool) -> Result<(), String> {
        let damage = |at: u64, what: &str| {
            format!("{}: a record at byte {} is damaged ({what})", segment.file_name(), at - segment.start)
        };
        let mut rest = bytes;
        loop {
            if rest.is_empty() {
                return Ok(());
            }
            match Record::decode(self.end, self.end - segment.start, rest) {
                Ok((record, len)) => {
                    let is_first = rest.len() == bytes.len();
                    match record {
                        Record::Opened(state) if is_first && self.segments.is_empty() => {
                            self.index = Index::begin(state);
                        }
                        record if is_first == matches!(record, Record::Opened(_)) => {
                            self.index
                                .take(&record, self.end, len)
                                .map_err(|what| damage(self.end, &what))?;
                        }
                        _ => return Err(damage(self.end, "it does not belong there")),
                    }
                    rest = &rest[len..];
                    self.end += len as u64;
                }
                // The file before the only one is gone, and nothing says where the log stands.
                Err(_) if self.segments.is_empty() && self.end == segment.start && self.end > 0 => {
                    return Err(damage(self.end, "it is the first one"));
                }
                Err(Flaw::Nothing) => return Ok(()),
                Err(Flaw::Incomplete) if is_last => {
                    self.tail = Some(damage(self.end, "it is incomplete"));
                    return Ok(());
                }
                Err(Flaw::Incomplete) => return Err(damage(self.end, "it is incomplete")),
                Err(Flaw::Damaged(what)) => return Err(damage(self.end, what)),
            }
        }
    }
}

/// Clears what stands behind the end of the log in `dir`, so that new records can follow.
pub(super) fn repair(dir: &Path, mut segments: VecDeque<Segment>, end: u64) -> io::Result<VecDeque<Segment>> {
    // A file that was begun when the power failed: not even its first record is there.
    if let Some(unborn) = segments.pop_back_if(|newest| newest.start == end) {
        unborn.remove()?;
    }
    // Else it may be back after the next failure, behind records that have gone into the file before it; or be back though
    // the process before this one has removed it, and was killed.
    segment::sync_names(dir)?;
    if let Some(newest) = segments.back_mut() {
        let used = usize::try_from(end - newest.start).map_err(io::Error::other)?;
        let bytes = newest.read_all()?;
        let dirty = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if dirty > used {
            newest.write(end, &vec![0; dirty - used])?;
        }
        // A process that was killed may have left records that the system has not written yet: from here on they count.
        newest.sync()?;
    }
    Ok(segments)
}
