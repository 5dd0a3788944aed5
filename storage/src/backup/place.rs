//! Where backups lie.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    Header,
    file::{PEEK, peek},
};
use crate::{
    StorageError,
    state_dir::{create, sync_dir},
};

/// What backup files end with.
pub(super) const SUFFIX: &str = ".pgb";
/// What a file ends with while it is written.
const TEMPORARY: &str = ".new";

/// A file that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// What it says of itself, or why it cannot be read.
    pub header: Result<Header, String>,
}

/// A directory of backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(PathBuf);

impl Place {
    /// Names the directory; nothing is touched.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The backups in it, by name: states and segments each in their order. Blocks.
    ///
    /// # Errors
    /// The directory cannot be read. One that is not there is empty.
    pub fn list(&self) -> Result<Vec<Listed>, StorageError> {
        let refused = |error: io::Error| StorageError::io("read", &self.0, &error);
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(refused(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(refused)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.ends_with(SUFFIX) {
                continue;
            }
            let size = entry.metadata().map_err(refused)?.len();
            let header =
                begin_of(&entry.path()).map_err(|error| error.to_string()).and_then(|bytes| peek(&bytes));
            found.push(Listed { name, size, header });
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// A file's bytes. Blocks.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        let path = self.0.join(name);
        fs::read(&path).map_err(|error| StorageError::io("read", path, &error))
    }

    /// Writes a file whole or not at all: a temporary one, synced, renamed, and the directory synced. Blocks.
    ///
    /// # Errors
    /// What the system refuses; what was there stays then.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        create(&self.0)?;
        let (temporary, path) = (self.0.join(format!("{name}{TEMPORARY}")), self.0.join(name));
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        })();
        written.map_err(|error| {
            // Half a backup is of no use, and a full disk needs its room.
            let _ = fs::remove_file(&temporary);
            StorageError::io("write", &path, &error)
        })?;
        sync_dir(&self.0)
    }

    /// Removes a file; one that is gone already is no error. Blocks.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn remove(&self, name: &str) -> Result<(), StorageError> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::io("remove", path, &error))
            }
            _ => Ok(()),
        }
    }
}

/// Where copies of backups lie.
pub trait Copies {
    /// The copies, by name. Of one that has the name and size of a `known` file, what that one says of itself is taken for
    /// granted. Blocks.
    ///
    /// # Errors
    /// The place cannot be read.
    fn list(&self, known: &[Listed]) -> Result<Vec<Listed>, StorageError>;

    /// Writes a file whole or not at all. Blocks.
    ///
    /// # Errors
    /// It is refused.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError>;

    /// Removes a file; one that is gone already is no error. Blocks.
    ///
    /// # Errors
    /// It is refused.
    fn remove(&self, name: &str) -> Result<(), StorageError>;
}

impl Copies for Place {
    fn list(&self, _: &[Listed]) -> Result<Vec<Listed>, StorageError> {
        self.list()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        self.write(name, bytes)
    }

    fn remove(&self, name: &str) -> Result<(), StorageError> {
        self.remove(name)
    }
}

fn begin_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(PEEK).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_listed_and_read_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let place = Place::new(dir.path().join("backups"));
        assert!(place.list().expect("nothing there yet").is_empty());
        place.write("b.pgb", b"no backup").expect("written");
        place.write("b.pgb", b"no backup either").expect("replaced");
        std::fs::write(place.path().join("notes.txt"), "mine").expect("written");
        std::fs::write(place.path().join("c.pgb.new"), "half").expect("written");
        let listed = place.list().expect("listed");
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].name.as_str(), listed[0].size), ("b.pgb", 16));
        assert!(listed[0].header.as_ref().expect_err("no backup").contains("begin"));
        assert_eq!(place.read("b.pgb").expect("read"), b"no backup either");
        place.remove("b.pgb").expect("removed");
        place.remove("b.pgb").expect("gone already");
        assert!(place.read("b.pgb").is_err());
        assert!(place.path().join("notes.txt").exists());
    }
}
