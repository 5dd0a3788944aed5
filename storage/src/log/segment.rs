//! The files of the log.
//!
//! A file has its full size from the beginning, filled with zeros: a record that is written into it changes neither
//! the file's length nor where its blocks are, so that making it durable takes no entry in the file system's journal.
//! Its name says where in the log it begins.
//!
//! What is to be durable at once goes to the disk in whole blocks and without a copy in the page cache, where the file
//! system can do that: it takes a third less of the processor than a write into the cache and a sync.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::JoinHandle,
};

use crate::state_dir::sync_dir;

const EXTENSION: &str = "wal";
/// Name of a file that is being filled with zeros. One that is found at a start is of no use.
const SPARE: &str = "spare";
/// Zeros that are written and synced at a time: what else is synced meanwhile waits for no more than this.
const PIECE: usize = 256 * 1024;
/// What is written past the page cache begins and ends at multiples of this: no disk has larger sectors.
const BLOCK: usize = 4096;

/// A file of the log.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    /// The same file, where a write returns when it is durable. Opened when it is needed.
    durable: Option<File>,
    /// The written part of a block that was written past the cache in part; empty where it is to be read.
    begun: Vec<u8>,
    /// Something that was written may not be durable yet.
    unsynced: bool,
    /// Where in the log it begins.
    pub(super) start: u64,
    /// Bytes that it holds at most.
    pub(super) size: u64,
    path: PathBuf,
}

/// Name of the file that begins at this place.
pub(crate) fn name(start: u64) -> String {
    format!("{start:020}.{EXTENSION}")
}

/// Makes durable which files there are.
pub(super) fn sync_names(dir: &Path) -> io::Result<()> {
    sync_dir(dir)?;
    #[cfg(test)]
    super::trace::names_synced();
    Ok(())
}

/// The files of a log in their order.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let start = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(start) = start.filter(|start| path.file_name() == Some(name(*start).as_ref())) {
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            let size = file.metadata()?.len();
            segments.push(Segment::new(file, path, start, size));
        }
    }
    segments.sort_by_key(|segment| segment.start);
    Ok(segments)
}

impl Segment {
    fn new(file: File, path: PathBuf, start: u64, size: u64) -> Self {
        // Whoever has written to it before may have been killed before a sync.
        Self { file, durable: None, begun: Vec::new(), unsynced: true, start, size, path }
    }

    /// All that is in it.
    pub(super) fn read_all(&self) -> io::Result<Vec<u8>> {
        fs::read(&self.path)
    }

    /// Bytes of it, from this place in the log on.
    pub(super) fn read(&self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at - self.start)?;
        Ok(bytes)
    }

    /// Writes bytes at this place in the log.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        super::trace::written(&self.path, at - self.start, bytes);
        self.unsynced = true;
        self.begun.clear();
        self.file.write_all_at(bytes, at - self.start)
    }

    /// Writes bytes at this place in the log, behind which there is nothing, and returns when they and all that was
    /// written before are durable.
    pub(super) fn write_durably(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(at - self.start).map_err(io::Error::other)?;
        let first = offset - offset % BLOCK;
        let end = (offset + bytes.len()).next_multiple_of(BLOCK);
        if self.unsynced || end as u64 > self.size {
            self.write(at, bytes)?;
            return self.sync();
        }
        if self.begun.len() != offset - first {
            self.begun = self.read(self.start + first as u64, offset - first)?;
        }
        self.begun.extend_from_slice(bytes);
        #[cfg(test)]
        super::trace::written(&self.path, first as u64, &self.begun);
        let (aligned, from) = aligned(&self.begun, end - first);
        let file = match &self.durable {
            Some(file) => file,
            None => self.durable.insert(open_durable(&self.path)?),
        };
        match file.write_all_at(&aligned[from..from + end - first], first as u64) {
            // A file system that takes the flag, and no such write.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.write(at, bytes)?;
                return self.sync();
            }
            written => written?,
        }
        #[cfg(test)]
        super::trace::synced(&self.path);
        let complete = self.begun.len() - self.begun.len() % BLOCK;
        self.begun.drain(..complete);
        Ok(())
    }

    /// Returns when all that was written is durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if !self.unsynced {
            return Ok(());
        }
        self.file.sync_data()?;
        self.unsynced = false;
        #[cfg(test)]
        super::trace::synced(&self.path);
        Ok(())
    }

    /// Removes the file.
    pub(super) fn remove(self) -> io::Result<()> {
        #[cfg(test)]
        super::trace::removed(&self.path);
        fs::remove_file(self.path)
    }

    /// For messages.
    pub(super) fn file_name(&self) -> String {
        name(self.start)
    }
}

/// Makes files, one ahead of need.
#[derive(Debug)]
pub(super) struct Spares {
    dir: PathBuf,
    size: u64,
    /// The thread that fills the next one.
    next: Option<JoinHandle<io::Result<File>>>,
}

impl Spares {
    /// Files of this size for a log in `dir`.
    pub(super) fn new(dir: &Path, size: u64) -> Self {
        Self { dir: dir.to_owned(), size, next: None }
    }

    /// Begins to make the next file, unless that has begun.
    pub(super) fn prepare(&mut self) {
        if self.next.is_some() {
            return;
        }
        let (path, size) = (self.dir.join(SPARE), self.size);
        let thread = std::thread::Builder::new().name("raft-log-spare".into());
        // Without a thread the file is made when it is needed.
        let fill = move || {
            fill(&path, size).inspect_err(|error| {
                tracing::warn!(file = %path.display(), %error, "the next file of the log cannot be made yet");
            })
        };
        self.next = thread.spawn(fill).ok();
    }

    /// A file that begins at this place in the log, with room for at least `least` bytes. Its name is durable.
    pub(super) fn take(&mut self, start: u64, least: u64) -> io::Result<Segment> {
        let spare = self.dir.join(SPARE);
        let size = self.size.max(least);
        let prepared = self.finish().filter(|_| size == self.size);
        let file = match prepared {
            Some(Ok(file)) => file,
            // Whatever was in its way may have gone.
            Some(Err(_)) | None => fill(&spare, size)?,
        };
        let path = self.dir.join(name(start));
        fs::rename(&spare, &path)?;
        #[cfg(test)]
        super::trace::made(&path, size);
        sync_names(&self.dir)?;
        Ok(Segment { unsynced: false, ..Segment::new(file, path, start, size) })
    }

    fn finish(&mut self) -> Option<io::Result<File>> {
        let thread = self.next.take()?;
        Some(thread.join().unwrap_or_else(|_| Err(io::Error::other("a file of the log could not be made"))))
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        // What it says is of no interest any more; but nothing shall write into the directory that another may open.
        let _ = self.finish();
    }
}

/// Opens a file for writes that are durable when they return, past the page cache where the file system allows that.
fn open_durable(path: &Path) -> io::Result<File> {
    let open = |flags| OpenOptions::new().write(true).custom_flags(libc::O_DSYNC | flags).open(path);
    match open(libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
        opened => opened,
    }
}

/// These bytes and zeros, `len` in all, from the returned place on, whose address is a multiple of [`BLOCK`].
fn aligned(bytes: &[u8], len: usize) -> (Vec<u8>, usize) {
    let mut room = vec![0; len + BLOCK];
    let from = room.as_ptr().align_offset(BLOCK);
    room[from..from + bytes.len()].copy_from_slice(bytes);
    (room, from)
}

/// Makes a file of zeros; its content and size are durable.
fn fill(path: &Path, size: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let zeros = vec![0; PIECE];
    let mut left = usize::try_from(size).map_err(io::Error::other)?;
    while left > 0 {
        let piece = left.min(PIECE);
        file.write_all(&zeros[..piece])?;
        file.sync_data()?;
        left -= piece;
    }
    file.sync_all()?;
    Ok(file)
}
