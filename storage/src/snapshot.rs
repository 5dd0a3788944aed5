//! The snapshot file: the state at one log index, whole or not at all.
//!
//! Written to a temporary file, synced, renamed over the previous one, and the directory synced: until the new
//! one is durable, the previous one is what a restart finds. One checksum covers every byte.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::process::setpriority_process;
use tokio::sync::oneshot;

use crate::{
    StorageError,
    log::{LogId, simulated::Disk},
    state_dir::{create, sync_dir},
};

const FILE: &str = "snapshot";
const TEMPORARY: &str = "snapshot.new";
/// Where a simulated disk says that it is.
pub(crate) const SIMULATED: &str = "(simulated)";
const MAGIC: [u8; 8] = *b"PANGOLNS";
const VERSION: u32 = 1;
/// Magic, version, last log id, lengths of meta and data.
const HEADER: usize = 8 + 4 + 2 * 8 + 4 + 8;
const CHECKSUM: usize = 4;
/// How far work that nobody waits for stands back: a tenth of the processor where others want it.
const NICE: i32 = 10;

/// A state at one log index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last entry that the state includes.
    pub last: LogId,
    /// What the owner wants to know besides; uninterpreted here.
    pub meta: Vec<u8>,
    /// The state; uninterpreted here.
    pub data: Vec<u8>,
}

/// The place of the one snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    /// A file in `dir`.
    Dir { dir: PathBuf, state_dir: PathBuf },
    /// On a simulated disk that has crashed `generation` times.
    Simulated { disk: Disk, generation: u64 },
}

impl SnapshotStore {
    /// Takes the directory `dir` into use and removes what an interrupted write has left there. `state_dir` is
    /// named in errors as what a rejoining node gives up.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn open(dir: impl Into<PathBuf>, state_dir: &Path) -> Result<Self, StorageError> {
        let dir = dir.into();
        create(&dir)?;
        let temporary = dir.join(TEMPORARY);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::io("remove", temporary, &error))
            }
            _ => Ok(Self { place: Place::Dir { dir, state_dir: state_dir.to_owned() } }),
        }
    }

    /// The place on a simulated disk.
    #[must_use]
    pub fn simulated(disk: &Disk) -> Self {
        Self { place: Place::Simulated { disk: disk.clone(), generation: disk.generation() } }
    }

    /// Runs work on this store where it holds up no other task: on a thread of its own, unless the disk is simulated.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if let Place::Simulated { .. } = self.place {
            return work(self);
        }
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(io::Error::other)?
    }

    /// As [`SnapshotStore::run`], behind whatever else the processors have to do: for what takes long and nobody waits
    /// for. All nodes come to it at the same entry, and a change that is under way waits for their logs.
    ///
    /// # Errors
    /// Those of the work.
    pub async fn run_aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if let Place::Simulated { .. } = self.place {
            return work(self);
        }
        let store = self.clone();
        let (reply, answer) = oneshot::channel();
        std::thread::Builder::new().name("aside".into()).spawn(move || {
            // Only this thread, as Linux has it. Where it is refused the work is done at once.
            let _ = setpriority_process(None, NICE);
            let _ = reply.send(work(&store));
        })?;
        answer.await.map_err(io::Error::other)?
    }

    /// The snapshot that is there is of no use: this node has to begin anew.
    #[must_use]
    pub fn rejoin(&self, found: String) -> StorageError {
        match &self.place {
            Place::Dir { dir, state_dir } => {
                StorageError::Rejoin { place: dir.clone(), found, state_dir: state_dir.clone() }
            }
            Place::Simulated { .. } => {
                StorageError::Rejoin { place: SIMULATED.into(), found, state_dir: SIMULATED.into() }
            }
        }
    }

    /// Makes `snapshot` the current one; blocks until it is durable.
    ///
    /// # Errors
    /// What the system refuses: the previous snapshot stays then.
    pub fn save(&self, snapshot: &Snapshot) -> Result<(), StorageError> {
        let dir = match &self.place {
            Place::Dir { dir, .. } => dir,
            Place::Simulated { disk, generation } => {
                return disk
                    .save_snapshot(snapshot, *generation)
                    .map_err(|error| StorageError::io("write", SIMULATED, &error));
            }
        };
        let (temporary, path) = (dir.join(TEMPORARY), dir.join(FILE));
        let header = header(snapshot)?;
        let mut checksum = crc32fast::Hasher::new();
        let parts = [header.as_slice(), &snapshot.meta, &snapshot.data];
        parts.iter().for_each(|part| checksum.update(part));
        let checksum = checksum.finalize().to_le_bytes();
        File::create(&temporary)
            .and_then(|mut file| {
                parts.iter().try_for_each(|part| file.write_all(part))?;
                file.write_all(&checksum)?;
                file.sync_all()
            })
            .map_err(|error| StorageError::io("write", &temporary, &error))?;
        fs::rename(&temporary, &path).map_err(|error| StorageError::io("rename", &temporary, &error))?;
        sync_dir(dir)
    }

    /// The current snapshot; none before the first one.
    ///
    /// # Errors
    /// [`StorageError::Rejoin`] where it is damaged: the log before it is gone, so nothing can replace it.
    pub fn load(&self) -> Result<Option<Snapshot>, StorageError> {
        let (dir, state_dir) = match &self.place {
            Place::Dir { dir, state_dir } => (dir, state_dir),
            Place::Simulated { disk, .. } => return Ok(disk.snapshot()),
        };
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io("read", path, &error)),
        };
        parse(&bytes).map(Some).map_err(|found| StorageError::Rejoin {
            place: path,
            found: format!("the snapshot is damaged: {found}"),
            state_dir: state_dir.clone(),
        })
    }
}

fn header(snapshot: &Snapshot) -> Result<Vec<u8>, StorageError> {
    let size = snapshot.meta.len();
    let meta = u32::try_from(size).map_err(|_| StorageError::TooLarge { size, limit: u32::MAX as usize })?;
    let mut header = Vec::with_capacity(HEADER);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    for number in [snapshot.last.term, snapshot.last.index] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&meta.to_le_bytes());
    header.extend_from_slice(&(snapshot.data.len() as u64).to_le_bytes());
    Ok(header)
}

/// Reads a snapshot file; the error says what is wrong with it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Snapshot, String> {
    let size = bytes.len();
    let (header, rest) = bytes.split_at_checked(HEADER).ok_or(format!("it has only {size} bytes"))?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let half = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..8] != MAGIC {
        return Err("it does not begin like one".into());
    }
    if half(8) != VERSION {
        return Err(format!("version {} is not known here (known: {VERSION})", half(8)));
    }
    let (meta, data) = (half(28) as usize, usize::try_from(word(32)).unwrap_or(usize::MAX));
    let expected = meta.saturating_add(data).saturating_add(CHECKSUM);
    if rest.len() != expected {
        return Err(format!("{expected} bytes should follow its header, {} do", rest.len()));
    }
    let (body, checksum) = bytes.split_at(size - CHECKSUM);
    if crc32fast::hash(body).to_le_bytes() != *checksum {
        return Err("its checksum does not match".into());
    }
    Ok(Snapshot {
        last: LogId { term: word(12), index: word(20) },
        meta: rest[..meta].to_vec(),
        data: rest[meta..meta + data].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(index: u64) -> Snapshot {
        Snapshot { last: LogId { term: 3, index }, meta: vec![1, 2, 3], data: vec![9; 50] }
    }

    fn open(dir: &Path) -> SnapshotStore {
        SnapshotStore::open(dir, dir).expect("opened")
    }

    #[test]
    fn the_last_snapshot_saved_is_loaded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = open(dir.path());
        assert_eq!(store.load().expect("loaded"), None);
        for index in [1, 2] {
            store.save(&sample(index)).expect("saved");
            assert_eq!(open(dir.path()).load().expect("loaded"), Some(sample(index)));
        }
    }

    #[test]
    fn an_interrupted_write_leaves_the_previous_snapshot() {
        let dir = tempfile::tempdir().expect("tempdir");
        open(dir.path()).save(&sample(1)).expect("saved");
        fs::write(dir.path().join(TEMPORARY), b"half").expect("written");
        assert_eq!(open(dir.path()).load().expect("loaded"), Some(sample(1)));
        assert!(!dir.path().join(TEMPORARY).exists());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = open(dir.path());
        store.save(&sample(7)).expect("saved");
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() {
            for damaged in [
                {
                    let mut b = whole.clone();
                    b[at] ^= 1 << (at % 8);
                    b
                },
                whole[..at].to_vec(),
            ] {
                fs::write(&path, damaged).expect("written");
                let refused = store.load().expect_err("damaged");
                assert!(refused.is_rejoin(), "byte {at}: {refused}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let mut begun = header(&sample(1)).expect("header");
            begun.extend(bytes);
            let _ = parse(&begun);
        }
    }
}
