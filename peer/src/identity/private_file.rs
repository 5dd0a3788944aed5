//! Files with secrets: read only when nobody else can read them, written so that a crash leaves the old or the
//! new content, never half of it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::random;

/// Largest file read here: keys and keyrings are far smaller.
const SIZE_MAX: u64 = 256 * 1024;

/// Why a private file is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFileError {
    /// The system says no.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// `read`, `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Not a file of its own.
    #[error("{path} is {what}, not a regular file; put the file itself there")]
    NotRegular {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// Others may read it.
    #[error(
        "{path} has mode {mode:04o}: others could read or change the secret in it; run `chmod 600 {path}`"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Somebody else's.
    #[error("{path} belongs to user id {owner}, this program runs as {me}; run `chown {me} {path}`")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who reads.
        me: u32,
    },
    /// Not a key or keyring.
    #[error("{path} has {size} bytes, more than any keyring (limit {SIZE_MAX}); it is not the right file")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
}

impl PrivateFileError {
    /// Whether the file simply is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a secret.
///
/// # Errors
/// Not readable; a link, directory or device; any permission for group or others; somebody else's file.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    // Without waiting for a writer, should it be a pipe.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| {
        if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            return PrivateFileError::NotRegular { path: path.to_owned(), what: "a symbolic link" };
        }
        PrivateFileError::Io { doing: "read", path: path.to_owned(), source }
    })?;
    let metadata = file.metadata().map_err(io_error("read", path))?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "a directory" } else { "a device, pipe or socket" };
        return Err(PrivateFileError::NotRegular { path: path.to_owned(), what });
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        return Err(PrivateFileError::Owner { path: path.to_owned(), owner: metadata.uid(), me });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Open { path: path.to_owned(), mode });
    }
    read_limited(file, path)
}

/// Reads a secret that the service manager has put there, who guards it by its own means (systemd credentials
/// may show group bits that are the mask of an access list).
///
/// # Errors
/// Not readable, or too large.
pub(super) fn read_credential(path: &Path) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    read_limited(File::open(path).map_err(io_error("read", path))?, path)
}

fn read_limited(file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>, PrivateFileError> {
    let size = file.metadata().map_err(io_error("read", path))?.len();
    // Enough room from the start: a growing vector would leave copies of the secret behind.
    let room = usize::try_from(size.min(SIZE_MAX) + 1).unwrap_or_default();
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    file.take(SIZE_MAX + 1).read_to_end(&mut content).map_err(io_error("read", path))?;
    if content.len() as u64 > SIZE_MAX {
        return Err(PrivateFileError::TooLarge { path: path.to_owned(), size });
    }
    Ok(content)
}

/// Writes a secret with mode 0600 in one step: a new file beside the old one, synced, renamed over it, and the
/// directory synced.
///
/// # Errors
/// The directory is not writable, the disk is full, …
pub fn write(path: &Path, content: &[u8]) -> Result<(), PrivateFileError> {
    let error = io_error("write", path);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let suffix: [u8; 8] = random().map_err(|e| error(io::Error::other(e)))?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().ok_or_else(|| error(io::ErrorKind::InvalidInput.into()))?);
    name.push(format!(".{}.new", hex::encode(suffix)));
    let new = directory.join(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    })();
    written.map_err(|source| {
        // What was begun holds a secret; it is of no use to anybody.
        let _ = fs::remove_file(&new);
        error(source)
    })
}

fn io_error(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> PrivateFileError {
    move |source| PrivateFileError::Io { doing, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_written_is_private_and_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_slice(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, b"x").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, PrivateFileError::Open { .. }), "{mode:o}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn links_directories_and_giants_are_refused_and_absence_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("secret"), directory.path().join("link"));
        write(&path, b"x").unwrap();
        symlink(&path, &link).unwrap();
        assert!(matches!(read(&link), Err(PrivateFileError::NotRegular { .. })));
        assert!(matches!(read(directory.path()), Err(PrivateFileError::NotRegular { .. })));
        write(&path, &vec![0; 300_000]).unwrap();
        assert!(matches!(read(&path), Err(PrivateFileError::TooLarge { .. })));
        assert!(read(&directory.path().join("absent")).unwrap_err().is_not_found());
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a skipped test says so")]
    fn somebody_elses_file_is_refused() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        write(&path, b"x").unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert!(matches!(read(&path), Err(PrivateFileError::Owner { owner: 65_534, .. })));
    }
}
