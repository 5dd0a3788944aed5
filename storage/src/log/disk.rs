//! The log on disk, over raft-log: a write-ahead log in chunk files, each record checksummed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::sync_channel},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use raft_log::{
    Callback, Config, DumpApi, RaftLog, RaftLogAction, Segment, Types, WALRecord,
    api::raft_log_writer::RaftLogWriter,
    codeq::{Decode, Encode, Span},
};

use super::{
    ENTRY_MAX, Entry, LogBackend, LogId, LogOp, LogState, Told, Vote,
    scan::scan,
    watermark::{Found, Watermark},
};
use crate::{StorageError, state_dir::create};

const LOG: &str = "log";
const WATERMARK: &str = "watermark";
/// Size of a chunk file: what is purged goes in such pieces, and what raft-log holds of the newest one in memory.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Records in a chunk file: bounds what raft-log holds in memory per record of the newest one.
const CHUNK_RECORDS: usize = 32 * 1024;
/// More than a record has beside an entry's content: its kind, ids, lengths and checksums.
const RECORD_OVERHEAD: usize = 256;
/// Buffer for reading a chunk file at start.
const READ_BUFFER: usize = 256 * 1024;
/// How far the durable watermark may be behind the log.
pub(crate) const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// The log of one node on disk.
#[derive(Debug)]
pub(crate) struct DiskLog {
    wal: RaftLog<Wal>,
    /// Set where the log has been synced.
    mark: Arc<Mutex<Watermark>>,
    end: u64,
    /// When the watermark was last made durable; none while it is.
    unsynced_since: Option<Instant>,
    room: Room,
}

/// What still goes into the newest chunk file. Behind the truth at worst.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    bytes: usize,
    records: usize,
}

impl Room {
    /// What is left of it after these changes; none if they may need another file.
    fn after(self, ops: &[LogOp]) -> Option<Self> {
        let bytes: usize = ops.iter().map(|op| RECORD_OVERHEAD + body_of(op)).sum();
        // A file that has reached its size is full.
        let left =
            Self { bytes: self.bytes.checked_sub(bytes)?, records: self.records.checked_sub(ops.len())? };
        (left.bytes > 0 && left.records > 0).then_some(left)
    }
}

fn body_of(op: &LogOp) -> usize {
    match op {
        LogOp::Append(entry) => entry.body.len(),
        _ => 0,
    }
}

impl DiskLog {
    /// Opens the log in `dir`, or makes a new one.
    pub(crate) fn open(dir: &Path, state_dir: &Path) -> Result<Self, StorageError> {
        Self::open_in_chunks(dir, state_dir, CHUNK_BYTES)
    }

    pub(crate) fn open_in_chunks(dir: &Path, state_dir: &Path, chunk: usize) -> Result<Self, StorageError> {
        let wal_dir = dir.join(LOG);
        create(&wal_dir)?;
        let refused = |error: io::Error| StorageError::io("open the log in", &wal_dir, &error);
        let config = Arc::new(config(&wal_dir, chunk).map_err(refused)?);
        let rejoin = |found: String| StorageError::Rejoin {
            place: wal_dir.clone(),
            found,
            state_dir: state_dir.to_owned(),
        };
        let scan = scan(&config).map_err(refused)?.map_err(rejoin)?;
        let mark_path = dir.join(WATERMARK);
        let marked = Watermark::open(&mark_path).map_err(refused)?;
        let mark = match marked {
            Found::Intact(mark) => mark,
            Found::Missing if scan.empty => Watermark::create(&mark_path).map_err(refused)?,
            Found::Missing => return Err(rejoin("the watermark beside the log is missing".into())),
            Found::Damaged => return Err(rejoin("the watermark beside the log is damaged".into())),
        };
        if scan.end < mark.end() {
            let why = scan.tail.map(|tail| format!(" ({tail})")).unwrap_or_default();
            let (end, known) = (scan.end, mark.end());
            return Err(rejoin(format!(
                "the log ends at byte {end}, but was durable up to byte {known}{why}"
            )));
        }
        scan.check().map_err(rejoin)?;
        if let Some(tail) = &scan.tail {
            tracing::warn!(log = %wal_dir.display(), tail, "dropping an incomplete record that was never acknowledged");
        }
        let wal =
            RaftLog::open(config).map_err(|error| rejoin(format!("the log cannot be read: {error}")))?;
        let mark = Arc::new(Mutex::new(mark));
        let room = Room::default();
        let log = Self { wal, mark, end: scan.end, unsynced_since: None, room };
        if log.state() != scan.state {
            return Err(rejoin(format!(
                "two readings of the log differ: {:?} and {:?}",
                scan.state,
                log.state()
            )));
        }
        Ok(log)
    }

    fn apply(&mut self, op: LogOp) -> io::Result<Option<Segment>> {
        let state = self.state();
        Ok(Some(match op {
            LogOp::Append(Entry { id, body }) => {
                if body.len() > ENTRY_MAX {
                    let size = body.len();
                    return Err(StorageError::TooLarge { size, limit: ENTRY_MAX }.into());
                }
                self.wal.append([(id, Body(body))])?
            }
            LogOp::TruncateFrom(index) if index < state.next_index() => self.wal.truncate(index)?,
            LogOp::Purge(id) => self.wal.purge(id)?,
            LogOp::Vote(vote) => self.wal.save_vote(vote)?,
            // A hint: it never goes back, nor beyond what is there.
            LogOp::Committed(id) if Some(id) > state.committed && Some(id) <= state.last => {
                self.wal.commit(id)?
            }
            LogOp::TruncateFrom(_) | LogOp::Committed(_) => return Ok(None),
        }))
    }

    /// Finds an entry by reading all files.
    ///
    /// raft-log keeps the entries of the newest file in memory and tells them from older ones by their ids. An
    /// entry that was given up for another leader's and came back under a third leader has an id that looks old:
    /// raft-log forgets it, and cannot read it back before the file is full.
    fn search(&self, index: u64) -> io::Result<(LogId, Body)> {
        self.wal.wait_worker_idle()?;
        let mut found = None;
        self.wal.dump().write_with(|_, _, record| {
            // The last one that was appended under an index is the one that counts.
            if let (_, WALRecord::Action(RaftLogAction::Append(id, body))) = record?
                && id.index == index
            {
                found = Some((id, body));
            }
            Ok(())
        })?;
        found.ok_or_else(|| io::Error::other(format!("entry {index} is not in the log's files")))
    }

    fn apply_all(&mut self, ops: Vec<LogOp>) -> io::Result<()> {
        let room = self.room.after(&ops);
        for op in ops {
            if let Some(segment) = self.apply(op)? {
                self.end = self.end.max(segment.end().0);
            }
        }
        self.room = room.unwrap_or_else(|| self.look_for_room());
        Ok(())
    }

    fn look_for_room(&self) -> Room {
        let (open, config) = (self.wal.stat().open_chunk, &self.wal.config().wal);
        let left = |most: usize, is: u64| most.saturating_sub(usize::try_from(is).unwrap_or(usize::MAX));
        Room {
            bytes: left(config.chunk_max_size(), open.size),
            records: left(config.chunk_max_records(), open.records_count),
        }
    }

    fn is_mark_due(&self) -> bool {
        self.unsynced_since.is_some_and(|since| since.elapsed() >= MARK_INTERVAL)
    }

    fn write_and_sync(&mut self, ops: Vec<LogOp>) -> io::Result<()> {
        let voted = ops.iter().any(|op| matches!(op, LogOp::Vote(_)));
        let (done, synced) = sync_channel(1);
        self.begin(ops, Box::new(move |result| Callback::send(done, result)));
        synced.recv().map_err(|_| io::Error::other("the thread that writes the log has ended"))??;
        // Votes are rare and matter most.
        if voted { self.sync_mark() } else { Ok(()) }
    }

    fn prepare(&mut self, ops: Vec<LogOp>) -> io::Result<()> {
        if self.is_mark_due() {
            self.sync_mark()?;
        }
        self.apply_all(ops)?;
        self.unsynced_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    fn sync_mark(&mut self) -> io::Result<()> {
        self.unsynced_since = None;
        self.mark.lock().sync()
    }
}

impl LogBackend for DiskLog {
    fn write(&mut self, ops: Vec<LogOp>, sync: bool) -> io::Result<()> {
        if sync {
            return self.write_and_sync(ops);
        }
        self.apply_all(ops)?;
        self.wal.flush(false, None)
    }

    fn begin(&mut self, ops: Vec<LogOp>, told: Told) {
        if let Err(error) = self.prepare(ops) {
            return told(Err(error));
        }
        let flushed = Flushed { told, mark: self.mark.clone(), end: self.end };
        // What waits for it is dropped with it, and says so.
        if let Err(error) = self.wal.flush(true, Some(flushed)) {
            tracing::error!(%error, "the thread that writes the log takes nothing more");
        }
    }

    fn is_quick(&self, ops: &[LogOp]) -> bool {
        let waits = |op: &LogOp| !matches!(op, LogOp::Append(_) | LogOp::Committed(_));
        !self.is_mark_due() && !ops.iter().any(waits) && self.room.after(ops).is_some()
    }

    fn read(&mut self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let state = self.state();
        for index in from.max(state.first_index())..to.min(state.next_index()) {
            let found = match self.wal.read(index, index + 1).next() {
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => self.search(index)?,
                Some(found) => found?,
                // The log begins later.
                None => continue,
            };
            let (id, Body(body)) = found;
            bytes += body.len();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(Entry { id, body });
        }
        Ok(entries)
    }

    fn state(&self) -> LogState {
        let state = self.wal.log_state();
        LogState {
            vote: state.vote().copied(),
            committed: state.committed().copied(),
            purged: state.purged().copied(),
            last: state.last().copied(),
        }
    }

    fn settle(&mut self) -> io::Result<()> {
        if self.unsynced_since.is_some() { self.sync_mark() } else { Ok(()) }
    }
}

fn config(dir: &Path, chunk: usize) -> io::Result<Config> {
    let not_text = || io::Error::new(io::ErrorKind::InvalidInput, "the path is not valid UTF-8");
    let mut config = Config::new(PathBuf::from(dir).to_str().ok_or_else(not_text)?);
    config.wal.chunk_max_size = Some(chunk);
    config.wal.chunk_max_records = Some(CHUNK_RECORDS);
    config.wal.read_buffer_size = Some(READ_BUFFER);
    // Writes arrive grouped already: waiting for more would only add to the latency.
    config.wal.flush_batch_wait = Some(Duration::ZERO);
    // The store above has the cache; raft-log keeps what is in the newest chunk in any case.
    config.log_cache_max_items = Some(0);
    config.log_cache_capacity = Some(0);
    Ok(config)
}

/// What raft-log's thread does after a flush: whoever waits for the entries need not wait for another thread to wake up.
pub(crate) struct Flushed {
    told: Told,
    mark: Arc<Mutex<Watermark>>,
    /// Where the log ends then.
    end: u64,
}

impl Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        let marked = result.and_then(|()| self.mark.lock().set(self.end));
        (self.told)(marked);
    }
}

/// What raft-log is told about our types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wal;

impl Types for Wal {
    type LogId = LogId;
    type LogPayload = Body;
    type Vote = Vote;
    type Callback = Flushed;
    type UserData = u64;

    fn log_index(log_id: &LogId) -> u64 {
        log_id.index
    }

    fn payload_size(payload: &Body) -> u64 {
        payload.0.len() as u64
    }
}

/// An entry's content as raft-log stores it: length (4 bytes), bytes.
#[derive(Clone, Debug)]
pub(crate) struct Body(Bytes);

impl Encode for Body {
    fn encode<W: io::Write>(&self, mut writer: W) -> io::Result<usize> {
        let len = u32::try_from(self.0.len()).map_err(io::Error::other)?;
        let n = len.encode(&mut writer)?;
        writer.write_all(&self.0)?;
        Ok(n + self.0.len())
    }
}

impl Decode for Body {
    fn decode<R: io::Read>(mut reader: R) -> io::Result<Self> {
        let len = u32::decode(&mut reader)? as usize;
        if len > ENTRY_MAX {
            let message = format!("an entry of {len} bytes, at most {ENTRY_MAX} are possible");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut bytes = vec![0; len];
        reader.read_exact(&mut bytes)?;
        Ok(Self(bytes.into()))
    }
}

impl Encode for LogId {
    fn encode<W: io::Write>(&self, mut writer: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut writer)? + self.index.encode(&mut writer)?)
    }
}

impl Decode for LogId {
    fn decode<R: io::Read>(mut reader: R) -> io::Result<Self> {
        Ok(Self { term: u64::decode(&mut reader)?, index: u64::decode(&mut reader)? })
    }
}

impl Encode for Vote {
    fn encode<W: io::Write>(&self, mut writer: W) -> io::Result<usize> {
        Ok(self.term.encode(&mut writer)?
            + self.node.encode(&mut writer)?
            + u8::from(self.elected).encode(&mut writer)?)
    }
}

impl Decode for Vote {
    fn decode<R: io::Read>(mut reader: R) -> io::Result<Self> {
        Ok(Self {
            term: u64::decode(&mut reader)?,
            node: u64::decode(&mut reader)?,
            elected: u8::decode(&mut reader)? != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fills_a_file_has_no_room_in_it() {
        let append =
            |len| LogOp::Append(Entry { id: LogId { term: 1, index: 1 }, body: vec![0; len].into() });
        let room = Room { bytes: 1000, records: 3 };
        let cases = [
            ("nothing", vec![], Some((1000, 3))),
            ("one", vec![append(100)], Some((644, 2))),
            ("as many records as are left", vec![append(1), append(1), append(1)], None),
            ("as many bytes as are left", vec![append(1000 - RECORD_OVERHEAD)], None),
            ("a hint counts", vec![append(1), LogOp::Committed(LogId { term: 1, index: 1 })], Some((487, 1))),
        ];
        for (what, ops, expected) in cases {
            let after = room.after(&ops).map(|room| (room.bytes, room.records));
            assert_eq!(after, expected, "{what}");
        }
        assert!(Room::default().after(&[]).is_none(), "where nothing is known, nothing is quick");
    }
}
