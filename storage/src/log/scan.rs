//! Reads a whole log without changing it, and judges it.
//!
//! raft-log repairs while it opens: it drops a torn tail, and with it everything that a damaged length field
//! makes look like one. So the log is read first, and opened only if nothing acknowledged would be dropped.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use raft_log::{Config, Dump, DumpApi, RaftLogAction, WALRecord, codeq::OffsetSize};

use super::{LogId, LogState, disk::Wal};

/// What a scan has found.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// There is no log at all.
    pub(crate) empty: bool,
    /// Byte offset behind the last record that can be read.
    pub(crate) end: u64,
    /// What stands behind `end`, if something does.
    pub(crate) tail: Option<String>,
    /// Where the log stands at `end`.
    pub(crate) state: LogState,
    ids: BTreeMap<u64, LogId>,
}

struct Chunk {
    name: String,
    start: u64,
    len: u64,
    /// Bytes of complete records.
    good: u64,
    error: Option<io::Error>,
}

impl Chunk {
    /// The rest behind the good bytes was never completed: cut short, or zeros that the file system left there.
    fn is_torn(&self, dir: &Path) -> io::Result<bool> {
        match &self.error {
            None => Ok(true),
            Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(true),
            Some(_) => {
                let bytes = std::fs::read(dir.join(&self.name))?;
                Ok(bytes.iter().skip(usize::try_from(self.good).unwrap_or(usize::MAX)).all(|byte| *byte == 0))
            }
        }
    }

    fn damage(&self) -> String {
        let what = self.error.as_ref().map_or("records are missing".to_owned(), ToString::to_string);
        format!("{}: a record at byte {} is damaged ({what})", self.name, self.good)
    }
}

/// Reads the log in `config`'s directory. The inner error is damage, in words.
pub(crate) fn scan(config: &Arc<Config>) -> io::Result<Result<Scan, String>> {
    let dir = Path::new(&config.wal.dir);
    let mut chunks = list(dir)?;
    if chunks.is_empty() {
        return Ok(Ok(Scan { empty: true, ..Scan::default() }));
    }
    let mut scan = Scan::default();
    Dump::<Wal>::new(config.clone())?.write_with(|id, _, record| {
        let Some(chunk) = chunks.iter_mut().find(|chunk| chunk.start == id.offset()) else { return Ok(()) };
        match record {
            Ok((segment, record)) => {
                chunk.good = segment.end().0;
                // Records behind damage belong to a chunk that is refused below.
                scan.apply(&record);
            }
            Err(error) => chunk.error = Some(error),
        }
        Ok(())
    })?;
    // A successor file is made before its predecessor is synced: without a first record it says nothing.
    while let Some(last) = chunks.last() {
        if last.good > 0 || chunks.len() == 1 || !last.is_torn(dir)? {
            break;
        }
        scan.tail = Some(format!("{} has no complete record", last.name));
        chunks.pop();
    }
    let mut end = chunks[0].start;
    let count = chunks.len();
    for (number, chunk) in chunks.iter().enumerate() {
        if chunk.start != end {
            return Ok(Err(format!("the log has a gap: bytes {end} to {} are missing", chunk.start)));
        }
        end = chunk.start + chunk.good;
        if chunk.good == chunk.len && chunk.error.is_none() {
            continue;
        }
        if number + 1 < count || !chunk.is_torn(dir)? {
            return Ok(Err(chunk.damage()));
        }
        scan.tail = Some(chunk.damage());
    }
    scan.end = end;
    Ok(Ok(scan))
}

fn list(dir: &Path) -> io::Result<Vec<Chunk>> {
    let mut chunks = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Ok(start) = raft_log::chunked_wal::Config::parse_chunk_file_name(&name) {
            chunks.push(Chunk { name, start, len: entry.metadata()?.len(), good: 0, error: None });
        }
    }
    chunks.sort_by_key(|chunk| chunk.start);
    Ok(chunks)
}

impl Scan {
    fn apply(&mut self, record: &raft_log::RaftLogRecord<Wal>) {
        let state = &mut self.state;
        match record {
            WALRecord::Action(RaftLogAction::SaveVote(vote)) => state.vote = Some(*vote),
            WALRecord::Action(RaftLogAction::Commit(id)) => state.committed = Some(*id),
            WALRecord::Action(RaftLogAction::Append(id, _)) => {
                self.ids.insert(id.index, *id);
                state.last = Some(*id);
            }
            WALRecord::Action(RaftLogAction::TruncateAfter(id)) => {
                self.ids.split_off(&id.map_or(0, |id| id.index + 1));
                if state.last > *id {
                    state.last = *id;
                }
            }
            WALRecord::Action(RaftLogAction::PurgeUpto(id)) => {
                self.ids = self.ids.split_off(&(id.index + 1));
                state.purged = state.purged.max(Some(*id));
                state.last = state.last.max(Some(*id));
            }
            WALRecord::Checkpoint(found) => {
                *state = LogState {
                    vote: found.vote().copied(),
                    committed: found.committed().copied(),
                    purged: found.purged().copied(),
                    last: found.last().copied(),
                };
            }
        }
    }

    /// Whether the records, each intact, make up a log. The error says what does not fit.
    pub(crate) fn check(&self) -> Result<(), String> {
        let LogState { vote, committed, last, .. } = self.state;
        let (first, next) = (self.state.first_index(), self.state.next_index());
        let mut expected = first;
        let mut term = 0;
        for id in self.ids.values() {
            if id.index != expected {
                return Err(format!("the log has a gap: entries {expected} to {} are missing", id.index - 1));
            }
            if id.term < term {
                return Err(format!("entry {id} follows one of term {term}"));
            }
            (expected, term) = (expected + 1, id.term);
        }
        if expected != next {
            return Err(format!("entries {expected} to {} are missing", next.saturating_sub(1)));
        }
        if let (Some(committed), Some(last)) = (committed, last)
            && committed.index > last.index
        {
            return Err(format!("the log ends at {last}, but {committed} was committed"));
        }
        let voted = vote.map_or(0, |vote| vote.term);
        match last {
            Some(last) if last.term > voted => {
                Err(format!("the log ends at {last}, but the last vote is of term {voted}"))
            }
            _ => Ok(()),
        }
    }
}
