//! The node-local journal: audit and request records, appended and read back in order, oldest forgotten first.
//!
//! Over sled, whose flush does not reach the disk at once: losing the last half second with the power is
//! acceptable here, and here alone. sled panics on damage, so it is touched only inside `catch_unwind`, and a
//! journal that cannot be opened is moved aside: no node goes down for its journal.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::{StateDir, StorageError, state_dir::create};

/// Largest record: far below what sled would put into a file of its own.
pub const RECORD_MAX: usize = 64 * 1024;
/// Most records of one answer.
const RANGE_MAX: usize = 10_000;
/// Memory for sled's pages.
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// Unit of sled's files. Small, because a few of them are held in memory.
const SEGMENT_BYTES: usize = 256 * 1024;
/// Background flush; what a loss of power may cost.
const FLUSH_EVERY_MS: u64 = 500;
/// Retention is enforced after so many appends: each time costs a look at the oldest record.
const SWEEP_EVERY: u64 = 64;
/// Most records removed at a time: large batches cost sled memory.
const SWEEP_MAX: usize = 256;
const TIME_LEN: usize = 8;

/// How much is kept. Whatever goes beyond either bound is forgotten, but for the newest record: numbering goes on
/// from it.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Number of records.
    pub records: u64,
    /// Their age.
    pub age: Duration,
}

impl Default for Retention {
    /// 100 000 records of at most 30 days.
    fn default() -> Self {
        Self { records: 100_000, age: Duration::from_secs(30 * 24 * 3600) }
    }
}

/// A record as it is read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// Its number: grows by one with each record and never begins anew, except with a new journal.
    pub serial: u64,
    /// When it was appended, in milliseconds since the Unix epoch.
    pub at: u64,
    /// What was appended.
    pub body: Vec<u8>,
}

/// An open journal. All calls block on a disk for a moment at worst.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    retention: Retention,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    records: sled::Db,
    next: u64,
    oldest: u64,
}

impl Journal {
    /// Opens the journal of a state directory, or makes a new one. A damaged one is moved aside, with a warning.
    /// Blocks: call it on a blocking thread.
    ///
    /// # Errors
    /// Not even a new one can be made.
    pub fn open(state_dir: &Path, retention: Retention) -> Result<Self, StorageError> {
        let dir = StateDir::journal_of(state_dir);
        create(&dir)?;
        let open = match open(&dir) {
            Ok(open) => open,
            Err(message) => {
                let aside = aside(&dir)?;
                std::fs::rename(&dir, &aside).map_err(|error| StorageError::io("rename", &dir, &error))?;
                tracing::warn!(
                    journal = %dir.display(), aside = %aside.display(), message,
                    "the journal is damaged and was moved aside; a new one begins"
                );
                create(&dir)?;
                open(&dir).map_err(|message| StorageError::Journal { dir: dir.clone(), message })?
            }
        };
        let journal = Self { dir, retention, open: Mutex::new(open) };
        journal.sweep()?;
        Ok(journal)
    }

    /// Appends records in one go and returns the number of the last one; 0 for none. Durable within half a second.
    ///
    /// # Errors
    /// One is too large, or sled refuses: none is there then.
    pub fn append_all(&self, bodies: &[Vec<u8>]) -> Result<u64, StorageError> {
        if let Some(body) = bodies.iter().find(|body| body.len() > RECORD_MAX) {
            return Err(StorageError::TooLarge { size: body.len(), limit: RECORD_MAX });
        }
        let at = now().to_be_bytes();
        let (before, next) = self.guard(|open| {
            let before = open.next;
            let mut batch = sled::Batch::default();
            for (serial, body) in (before..).zip(bodies) {
                batch.insert(&serial.to_be_bytes(), [&at[..], body].concat());
            }
            open.records.apply_batch(batch)?;
            open.next += bodies.len() as u64;
            Ok((before, open.next))
        })?;
        if before / SWEEP_EVERY != next / SWEEP_EVERY {
            self.sweep()?;
        }
        Ok(next.saturating_sub(1))
    }

    /// Appends a record and returns its number. Durable within half a second.
    ///
    /// # Errors
    /// The record is too large, or sled refuses.
    pub fn append(&self, body: &[u8]) -> Result<u64, StorageError> {
        if body.len() > RECORD_MAX {
            return Err(StorageError::TooLarge { size: body.len(), limit: RECORD_MAX });
        }
        let mut value = now().to_be_bytes().to_vec();
        value.extend_from_slice(body);
        let serial = self.guard(|open| {
            let serial = open.next;
            open.records.insert(serial.to_be_bytes(), value)?;
            open.next += 1;
            Ok(serial)
        })?;
        if serial.is_multiple_of(SWEEP_EVERY) {
            self.sweep()?;
        }
        Ok(serial)
    }

    /// The records behind `after` (none: from the oldest on), at most `limit` and at most 10 000.
    ///
    /// # Errors
    /// sled refuses.
    pub fn range(&self, after: Option<u64>, limit: usize) -> Result<Vec<JournalRecord>, StorageError> {
        let first = after.map_or(0, |after| after.saturating_add(1));
        self.guard(|open| {
            open.records
                .range(first.to_be_bytes()..)
                .take(limit.min(RANGE_MAX))
                .map(|item| item.and_then(|(key, value)| parse(&key, &value)))
                .collect()
        })
    }

    /// The newest records, oldest first, at most `limit` and at most 10 000.
    ///
    /// # Errors
    /// sled refuses.
    pub fn newest(&self, limit: usize) -> Result<Vec<JournalRecord>, StorageError> {
        let limit = limit.min(RANGE_MAX);
        let next = self.open.lock().next;
        let before = next.checked_sub(limit as u64 + 1);
        self.range(before, limit)
    }

    /// Makes everything appended so far durable, as far as sled can.
    ///
    /// # Errors
    /// sled refuses.
    pub fn flush(&self) -> Result<(), StorageError> {
        self.guard(|open| open.records.flush().map(|_| ()))
    }

    /// Forgets what is beyond the bounds.
    fn sweep(&self) -> Result<(), StorageError> {
        let Retention { records, age } = self.retention;
        let too_old = now().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        self.guard(|open| {
            for _ in 0..SWEEP_MAX {
                let Some((key, value)) = open.records.first()? else { break };
                let oldest = parse(&key, &value)?;
                open.oldest = oldest.serial;
                let held = open.next - open.oldest;
                if held <= 1 || (held <= records && oldest.at >= too_old) {
                    break;
                }
                open.records.remove(key)?;
                open.oldest += 1;
            }
            Ok(())
        })
    }

    fn guard<T>(&self, action: impl FnOnce(&mut Open) -> sled::Result<T>) -> Result<T, StorageError> {
        let mut open = self.open.lock();
        let result = catch_unwind(AssertUnwindSafe(|| action(&mut open)));
        let message = match result {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "sled panicked".to_owned(),
        };
        Err(StorageError::Journal { dir: self.dir.clone(), message })
    }
}

/// Opens sled and reads every record once, so that damage shows now. The error is damage, in words.
fn open(dir: &Path) -> Result<Open, String> {
    let attempt = || -> sled::Result<Open> {
        let records = sled::Config::new()
            .path(dir)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .open()?;
        let (mut next, mut oldest) = (0, None);
        for item in records.iter() {
            let (key, value) = item?;
            let record = parse(&key, &value)?;
            oldest.get_or_insert(record.serial);
            next = record.serial.saturating_add(1);
        }
        Ok(Open { records, next, oldest: oldest.unwrap_or(next) })
    };
    match catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("sled panicked".to_owned()),
    }
}

pub(crate) fn parse(key: &[u8], value: &[u8]) -> sled::Result<JournalRecord> {
    let serial: Option<[u8; 8]> = key.try_into().ok();
    match (serial, value.split_first_chunk::<TIME_LEN>()) {
        (Some(serial), Some((at, body))) => Ok(JournalRecord {
            serial: u64::from_be_bytes(serial),
            at: u64::from_be_bytes(*at),
            body: body.to_vec(),
        }),
        _ => Err(sled::Error::Unsupported("a record that is no journal record".into())),
    }
}

/// A free name beside `dir`.
fn aside(dir: &Path) -> Result<PathBuf, StorageError> {
    const TRIES: u32 = 1000;
    (0..TRIES)
        .map(|number| dir.with_extension(format!("damaged-{number}")))
        .find(|path| !path.exists())
        .ok_or_else(|| StorageError::Journal {
            dir: dir.to_owned(),
            message: "too many damaged journals stand beside it".into(),
        })
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(records: &[JournalRecord]) -> Vec<String> {
        records.iter().map(|record| String::from_utf8_lossy(&record.body).into_owned()).collect()
    }

    #[test]
    fn records_are_read_back_in_order_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let journal = Journal::open(dir.path(), Retention::default()).expect("opened");
        for body in ["a", "b", "c"] {
            journal.append(body.as_bytes()).expect("appended");
        }
        assert_eq!(bodies(&journal.range(None, 2).expect("read")), ["a", "b"]);
        assert_eq!(bodies(&journal.range(Some(0), 9).expect("read")), ["b", "c"]);
        assert_eq!(bodies(&journal.newest(2).expect("read")), ["b", "c"]);
        assert_eq!(bodies(&journal.newest(9).expect("read")), ["a", "b", "c"]);
        journal.flush().expect("flushed");
        drop(journal);
        let journal = Journal::open(dir.path(), Retention::default()).expect("opened");
        assert_eq!(journal.append(b"d").expect("appended"), 3);
        assert_eq!(bodies(&journal.range(Some(1), 9).expect("read")), ["c", "d"]);
        let refused = journal.append(&[0; RECORD_MAX + 1]).expect_err("too large");
        assert!(matches!(refused, StorageError::TooLarge { .. }));
    }

    #[test]
    fn the_oldest_records_are_forgotten_beyond_the_bounds() {
        let dir = tempfile::tempdir().expect("tempdir");
        let retention = Retention { records: 10, ..Retention::default() };
        let journal = Journal::open(dir.path(), retention).expect("opened");
        for _ in 0..=2 * SWEEP_EVERY {
            journal.append(b"x").expect("appended");
        }
        let serials: Vec<u64> = journal.range(None, 99).expect("read").iter().map(|r| r.serial).collect();
        assert_eq!(serials, (2 * SWEEP_EVERY - 9..=2 * SWEEP_EVERY).collect::<Vec<_>>());
        drop(journal);
        let retention = Retention { age: Duration::ZERO, ..Retention::default() };
        std::thread::sleep(Duration::from_millis(2));
        let journal = Journal::open(dir.path(), retention).expect("opened");
        let serials: Vec<u64> = journal.range(None, 99).expect("read").iter().map(|r| r.serial).collect();
        assert_eq!(serials, [2 * SWEEP_EVERY]);
    }

    /// A state directory with a journal of 200 records, closed.
    fn written() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("tempdir");
        let journal = Journal::open(dir.path(), Retention::default()).expect("opened");
        for _ in 0..200 {
            journal.append(&[7; 100]).expect("appended");
        }
        journal.flush().expect("flushed");
        dir
    }

    #[test]
    fn a_damaged_journal_is_moved_aside_and_a_new_one_begins() {
        let dir = written();
        let file = StateDir::journal_of(dir.path()).join("conf");
        std::fs::write(file, [b'x'; 100]).expect("written");
        let journal = Journal::open(dir.path(), Retention::default()).expect("opened anew");
        assert_eq!(journal.range(None, 9).expect("read"), []);
        journal.append(b"x").expect("appended");
        assert!(dir.path().join("journal.damaged-0").is_dir());
    }

    #[test]
    fn a_flipped_bit_never_takes_the_process_down() {
        let dir = written();
        let whole = std::fs::read(StateDir::journal_of(dir.path()).join("db")).expect("read");
        for number in 0..16 {
            let dir = written();
            let mut damaged = whole.clone();
            let at = number * damaged.len().min(8192) / 16;
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(StateDir::journal_of(dir.path()).join("db"), damaged).expect("written");
            let journal = Journal::open(dir.path(), Retention::default()).expect("opened");
            let serial = journal.append(b"x").expect("appended");
            assert_eq!(journal.range(serial.checked_sub(1), 9).expect("read").len(), 1, "byte {at}");
        }
    }

    /// Where the process that is killed finds its journal; unset in the one that kills.
    const KILLED_IN: &str = "PANGOLIN_TEST_KILLED_IN";

    #[test]
    fn what_was_written_half_a_second_before_a_kill_is_kept() {
        if let Some(dir) = std::env::var_os(KILLED_IN) {
            return write_until_killed(Path::new(&dir));
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "journal::tests::what_was_written_half_a_second_before_a_kill_is_kept"])
            .env(KILLED_IN, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("started");
        let patience = std::time::Instant::now() + Duration::from_secs(30);
        while !dir.path().join("ready").exists() {
            assert!(std::time::Instant::now() < patience, "nothing was written");
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        let journal = Journal::open(dir.path(), Retention::default()).expect("opened");
        let kept = journal.range(None, 9999).expect("read");
        assert!(kept.len() >= 200, "{} are left", kept.len());
        assert!(kept.iter().zip(0..).all(|(record, serial)| record.serial == serial), "a gap");
    }

    fn write_until_killed(dir: &Path) {
        let journal = Journal::open(dir, Retention::default()).expect("opened");
        for _ in 0..200 {
            journal.append(&[7; 100]).expect("appended");
        }
        std::thread::sleep(Duration::from_millis(3 * FLUSH_EVERY_MS));
        for number in 0..1000 {
            journal.append(&[8; 100]).expect("appended");
            if number == 10 {
                std::fs::write(dir.join("ready"), "").expect("written");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
