//! How far the log is known to have been durable.
//!
//! A log cut back to the end of a record looks like a shorter, healthy log. The watermark is written beside it
//! after each sync, so it never runs ahead of the log; a log that ends before it has lost acknowledged records.
//! It is synced itself only now and then (each sync would double the price of a commit): after a crash of the
//! process it is exact, after a loss of power it may be behind by [`disk::MARK_INTERVAL`](super::disk).

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::state_dir::sync_dir;

const MAGIC: [u8; 8] = *b"PANGOLNW";
/// Two slots are written in turn, each in a block of its own: a torn write leaves the other one.
const SLOT_SIZE: u64 = 4096;
const SLOTS: u64 = 2;
/// Magic, sequence, end, checksum.
const SLOT_LEN: usize = 8 + 8 + 8 + 4;

#[derive(Debug)]
pub(crate) struct Watermark {
    file: File,
    #[cfg(test)]
    path: std::path::PathBuf,
    sequence: u64,
    end: u64,
}

/// What an existing file says.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is no file.
    Missing,
    /// Neither slot can be read.
    Damaged,
    /// The mark.
    Intact(Watermark),
}

impl Watermark {
    /// Makes a new one that says 0; durable when this returns. It has its name once it can be read: one that cannot is
    /// damage, and no beginning that was cut off.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let begun = path.with_extension("new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&begun)?;
        file.set_len(SLOT_SIZE * SLOTS)?;
        #[cfg(test)]
        super::trace::made(&begun, SLOT_SIZE * SLOTS);
        let mut mark = Self {
            file,
            #[cfg(test)]
            path: begun.clone(),
            sequence: 0,
            end: 0,
        };
        (0..SLOTS).try_for_each(|_| mark.set(0))?;
        mark.file.sync_all()?;
        #[cfg(test)]
        super::trace::synced(&begun);
        std::fs::rename(&begun, path)?;
        #[cfg(test)]
        {
            super::trace::renamed(&begun, path);
            path.clone_into(&mut mark.path);
        }
        if let Some(dir) = path.parent() {
            sync_dir(dir)?;
        }
        #[cfg(test)]
        super::trace::names_synced();
        Ok(mark)
    }

    pub(crate) fn open(path: &Path) -> io::Result<Found> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            Err(error) => return Err(error),
        };
        let newest = (0..SLOTS).filter_map(|slot| read_slot(&file, slot)).max();
        Ok(match newest {
            Some((sequence, end)) => Found::Intact(Self {
                file,
                #[cfg(test)]
                path: path.to_owned(),
                sequence,
                end,
            }),
            None => Found::Damaged,
        })
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Notes a new end; survives the process, but not yet the power.
    pub(crate) fn set(&mut self, end: u64) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let at = SLOT_SIZE * (sequence % SLOTS);
        #[cfg(test)]
        super::trace::written(&self.path, at, &slot(sequence, end));
        self.file.write_all_at(&slot(sequence, end), at)?;
        self.sequence = sequence;
        self.end = end;
        Ok(())
    }

    /// Makes the mark durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        #[cfg(test)]
        super::trace::synced(&self.path);
        Ok(())
    }
}

fn slot(sequence: u64, end: u64) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    slot[..8].copy_from_slice(&MAGIC);
    slot[8..16].copy_from_slice(&sequence.to_le_bytes());
    slot[16..24].copy_from_slice(&end.to_le_bytes());
    let checksum = crc32fast::hash(&slot[..24]);
    slot[24..].copy_from_slice(&checksum.to_le_bytes());
    slot
}

fn read_slot(file: &File, number: u64) -> Option<(u64, u64)> {
    let mut bytes = [0; SLOT_LEN];
    file.read_exact_at(&mut bytes, SLOT_SIZE * number).ok()?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (sequence, end) = (word(8), word(16));
    (bytes == slot(sequence, end)).then_some((sequence, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(path: &Path) -> Option<u64> {
        match Watermark::open(path).expect("opened") {
            Found::Intact(mark) => Some(mark.end()),
            Found::Missing | Found::Damaged => None,
        }
    }

    #[test]
    fn a_single_flipped_bit_costs_at_most_the_newest_mark() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("watermark");
        assert_eq!(end_of(&path), None);
        let mut mark = Watermark::create(&path).expect("created");
        for end in [100, 200] {
            mark.set(end).expect("set");
            assert_eq!(end_of(&path), Some(end));
        }
        let whole = std::fs::read(&path).expect("read");
        for at in (0..SLOT_LEN).chain(4096..4096 + SLOT_LEN) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&path, damaged).expect("written");
            assert!(matches!(end_of(&path), Some(100 | 200)), "byte {at}");
        }
    }
}
