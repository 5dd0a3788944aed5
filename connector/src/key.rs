//! The connector's WireGuard key and other secrets in files.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pangolin_tunnel::SecretKey;

/// Longest file that is read: none of them has more than a line.
const LENGTH_MAX: u64 = 4096;

/// A file with a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read it.
    #[error("{path} can be read by others (mode {mode:o}); run chmod 600 on it")]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a key.
    #[error("{path} does not hold a WireGuard key (32 bytes in base64); remove it to have a new one made")]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// Not credentials.
    #[error("{path} does not hold the credentials of a site; remove it to have a new site made")]
    Credentials {
        /// The file.
        path: PathBuf,
    },
    /// Empty or too long.
    #[error("{path} is empty or has more than {LENGTH_MAX} bytes")]
    Length {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a secret of one line from a file that nobody else can read.
///
/// # Errors
/// [`SecretFileError`] if it cannot be read, is readable by others, or is empty.
pub fn read_secret(path: &Path) -> Result<String, SecretFileError> {
    let io = |source| SecretFileError::Io { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(io)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(SecretFileError::Open { path: path.to_owned(), mode: metadata.mode() & 0o777 });
    }
    let text =
        if metadata.len() <= LENGTH_MAX { fs::read_to_string(path).map_err(io)? } else { String::new() };
    match text.trim() {
        "" => Err(SecretFileError::Length { path: path.to_owned() }),
        secret => Ok(secret.to_owned()),
    }
}

/// Reads the key from `path`, or makes one and keeps it there.
///
/// # Errors
/// [`SecretFileError`] if it cannot be read or written, is readable by others, or holds something else.
pub fn stable_key(path: &Path) -> Result<SecretKey, SecretFileError> {
    match read_secret(path) {
        Ok(text) => {
            let bytes: Option<[u8; 32]> = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            bytes.map(SecretKey::from_bytes).ok_or_else(|| SecretFileError::Key { path: path.to_owned() })
        }
        Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let key = SecretKey::generate();
            keep(path, &STANDARD.encode(key.to_bytes().as_slice()))
                .map_err(|source| SecretFileError::Io { path: path.to_owned(), source })?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// Writes a new file of one line, in full or not at all, that nobody else can read.
pub(crate) fn keep(path: &Path, line: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written =
        writeln!(file, "{line}").and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let first = stable_key(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(stable_key(&path).unwrap().public(), first.public());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_file_that_others_can_read_or_that_holds_no_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "AAAA\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(stable_key(&path), Err(SecretFileError::Open { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(stable_key(&path), Err(SecretFileError::Key { .. })));
        fs::write(&path, "").unwrap();
        assert!(matches!(read_secret(&path), Err(SecretFileError::Length { .. })));
        assert!(matches!(stable_key(Path::new("/nowhere/key")), Err(SecretFileError::Io { .. })));
    }
}
