//! The log on disk: checksummed records in files that have their full size before the first record is written.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    ENTRY_MAX, Entry, LogBackend, LogId, LogOp, LogState,
    index::{Index, Place},
    record::Record,
    recovery::{self, Recovered},
    segment::{Segment, Spares},
    watermark::{Found, Watermark},
};
use crate::{StorageError, state_dir::create};

const LOG: &str = "log";
const WATERMARK: &str = "watermark";
/// Size of a file: what is purged goes in such pieces.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes that are handed over to the system at once, or one record.
const BUFFER_BYTES: usize = 1024 * 1024;
/// How far the durable watermark may be behind the log.
pub(crate) const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// The log of one node on disk.
#[derive(Debug)]
pub(crate) struct DiskLog {
    /// In their order; the last one is written to.
    segments: VecDeque<Segment>,
    spares: Spares,
    index: Index,
    /// Where the log ends.
    end: u64,
    /// Records on their way to the file, from `written` to `end`.
    buffer: Vec<u8>,
    written: u64,
    /// Says how far the log has been synced.
    mark: Watermark,
    /// When the watermark was last made durable; none while it is.
    unsynced_since: Option<Instant>,
}

impl DiskLog {
    /// Opens the log in `dir`, or makes a new one.
    pub(crate) fn open(dir: &Path, state_dir: &Path) -> Result<Self, StorageError> {
        Self::open_in_segments(dir, state_dir, SEGMENT_BYTES)
    }

    pub(crate) fn open_in_segments(dir: &Path, state_dir: &Path, size: u64) -> Result<Self, StorageError> {
        let log_dir = dir.join(LOG);
        create(&log_dir)?;
        let refused = |error: io::Error| StorageError::io("open the log in", &log_dir, &error);
        let rejoin = |found: String| rejoin(&log_dir, state_dir, found);
        let found = recovery::read(&log_dir).map_err(refused)?.map_err(rejoin)?;
        let mark_path = dir.join(WATERMARK);
        let mark = match Watermark::open(&mark_path).map_err(refused)? {
            Found::Intact(mark) => mark,
            Found::Missing if found.is_none() => Watermark::create(&mark_path).map_err(refused)?,
            Found::Missing => return Err(rejoin("the watermark beside the log is missing".into())),
            Found::Damaged => return Err(rejoin("the watermark beside the log is damaged".into())),
        };
        let found = found.unwrap_or_default();
        if found.end < mark.end() {
            let why = found.tail.map(|tail| format!(" ({tail})")).unwrap_or_default();
            let (end, known) = (found.end, mark.end());
            return Err(rejoin(format!(
                "the log ends at byte {end}, but was durable up to byte {known}{why}"
            )));
        }
        found.index.check().map_err(rejoin)?;
        if let Some(tail) = &found.tail {
            tracing::warn!(log = %log_dir.display(), tail, "dropping an incomplete record that was never acknowledged");
        }
        Self::begin(&log_dir, size, found, mark).map_err(refused)
    }

    fn begin(dir: &Path, size: u64, found: Recovered, mark: Watermark) -> io::Result<Self> {
        let (index, end) = (found.index, found.end);
        let mut log = Self {
            segments: recovery::repair(dir, found.segments, end)?,
            spares: Spares::new(dir, size),
            index,
            end,
            buffer: Vec::new(),
            written: end,
            mark,
            unsynced_since: None,
        };
        if log.segments.is_empty() {
            log.begin_segment(0)?;
            log.hand_over(Segment::write)?;
        }
        Ok(log)
    }

    /// The record that makes this change; none where there is nothing to change.
    fn record_of(&self, op: LogOp) -> io::Result<Option<Record>> {
        let state = self.index.state();
        Ok(Some(match op {
            LogOp::Append(Entry { body, .. }) if body.len() > ENTRY_MAX => {
                return Err(StorageError::TooLarge { size: body.len(), limit: ENTRY_MAX }.into());
            }
            LogOp::Append(entry) => Record::Append(entry),
            LogOp::TruncateFrom(index) if index < state.next_index() => {
                Record::Truncate(index.checked_sub(1).and_then(|last| self.index.id(last)))
            }
            LogOp::Purge(id) => Record::Purge(id),
            LogOp::Vote(vote) => Record::Vote(vote),
            // A hint: it never goes back, nor beyond what is there.
            LogOp::Committed(id) if Some(id) > state.committed && Some(id) <= state.last => {
                Record::Committed(id)
            }
            LogOp::TruncateFrom(_) | LogOp::Committed(_) => return Ok(None),
        }))
    }

    /// Puts a record behind the last one, in another file where this one has no room for it.
    fn put(&mut self, record: &Record) -> io::Result<()> {
        let len = record.encoded_len();
        if self.segments.back().is_none_or(|newest| self.end + len as u64 > newest.start + newest.size) {
            self.begin_segment(len)?;
        }
        self.encode(record)?;
        if self.buffer.len() >= BUFFER_BYTES { self.hand_over(Segment::write) } else { Ok(()) }
    }

    fn encode(&mut self, record: &Record) -> io::Result<()> {
        let len = record.encoded_len();
        self.index.take(record, self.end, len).map_err(io::Error::other)?;
        record.encode(self.end, &mut self.buffer);
        self.end += len as u64;
        Ok(())
    }

    /// Begins a file that has room for a record of so many bytes.
    fn begin_segment(&mut self, len: usize) -> io::Result<()> {
        // Else what is in the next file could survive without what is in this one.
        self.hand_over_durably()?;
        let opened = Record::Opened(self.index.state());
        let least = opened.encoded_len() + len;
        self.segments.push_back(self.spares.take(self.end, least as u64)?);
        self.encode(&opened)
    }

    /// Hands over to the system what is on its way, in this manner.
    fn hand_over(&mut self, write: fn(&mut Segment, u64, &[u8]) -> io::Result<()>) -> io::Result<()> {
        if let Some(newest) = self.segments.back_mut().filter(|_| !self.buffer.is_empty()) {
            write(newest, self.written, &self.buffer)?;
            self.written = self.end;
            self.buffer.clear();
            // Half full: the next one is needed soon.
            if self.end - newest.start > newest.size / 2 {
                self.spares.prepare();
            }
        }
        Ok(())
    }

    /// The same, and returns when all of the log is durable.
    fn hand_over_durably(&mut self) -> io::Result<()> {
        self.hand_over(Segment::write_durably)?;
        self.segments.back_mut().map_or(Ok(()), Segment::sync)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.hand_over_durably()?;
        self.mark.set(self.end)?;
        self.unsynced_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Removes the files of which nothing is needed any more.
    fn remove_purged(&mut self) -> io::Result<()> {
        let needed = self.index.oldest().map_or(self.end, |place| place.at);
        while self.segments.get(1).is_some_and(|second| second.start <= needed) {
            self.segments.pop_front().map_or(Ok(()), Segment::remove)?;
        }
        Ok(())
    }

    fn sync_mark(&mut self) -> io::Result<()> {
        self.unsynced_since = None;
        self.mark.sync()
    }

    fn entry(&self, index: u64, place: Place) -> io::Result<Entry> {
        let behind = self.segments.partition_point(|segment| segment.start <= place.at);
        let segment = behind.checked_sub(1).and_then(|nth| self.segments.get(nth));
        let bytes = segment.map_or(Ok(Vec::new()), |segment| segment.read(place.at, place.len))?;
        // Only damage is told apart by the place in the file, and here nothing else is expected.
        match Record::decode(place.at, 0, &bytes) {
            Ok((Record::Append(entry), _)) if entry.id == (LogId { term: place.term, index }) => Ok(entry),
            found => {
                let message = format!("entry {index} cannot be read back from byte {}: {found:?}", place.at);
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }
}

impl LogBackend for DiskLog {
    fn write(&mut self, ops: Vec<LogOp>, sync: bool) -> io::Result<()> {
        if sync && self.unsynced_since.is_some_and(|since| since.elapsed() >= MARK_INTERVAL) {
            self.sync_mark()?;
        }
        let mut voted = false;
        for op in ops {
            voted |= matches!(op, LogOp::Vote(_));
            if let Some(record) = self.record_of(op)? {
                self.put(&record)?;
            }
        }
        if !sync {
            return self.hand_over(Segment::write);
        }
        self.sync()?;
        // Votes are rare and matter most.
        if voted {
            self.sync_mark()?;
        }
        // Not before the record that says so is durable.
        self.remove_purged()
    }

    fn read(&mut self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let state = self.state();
        for index in from.max(state.first_index())..to.min(state.next_index()) {
            // The log begins later.
            let Some(place) = self.index.place(index) else { continue };
            let entry = self.entry(index, place)?;
            bytes += entry.body.len();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn state(&self) -> LogState {
        self.index.state()
    }

    fn settle(&mut self) -> io::Result<()> {
        if self.unsynced_since.is_some() { self.sync_mark() } else { Ok(()) }
    }
}

fn rejoin(log_dir: &Path, state_dir: &Path, found: String) -> StorageError {
    StorageError::Rejoin { place: PathBuf::from(log_dir), found, state_dir: state_dir.to_owned() }
}
