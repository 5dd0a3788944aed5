//! Where a node keeps its keyring: in a file of its own, or in a credential of the service manager.
//!
//! A node cannot change a credential. What a rotation adds is kept beside it, in a file that only the keyring in the
//! credential opens, until the operator puts the present keyring into the credential.

use std::path::Path;

use pangolin_core::{codec, record::Sealed};

use super::{Keyring, KeyringError, private_file};

/// Name of the credential that holds the keyring.
const CREDENTIAL: &str = "cluster-kek";
/// What is added to the name of the keyring's file for what a rotation has added to a credential.
const ADDED: &str = "sealed";
/// For what the addition is sealed.
const AAD: &str = "keyring beside a credential";
/// Largest addition: a keyring is far smaller.
const ADDED_MAX: usize = 16 * 1024;

impl Keyring {
    /// Reads a keyring file.
    ///
    /// # Errors
    /// The file is not private ([`private_file::read`]), or not a keyring.
    pub fn load(path: &Path) -> Result<Self, KeyringError> {
        Self::from_bytes(&private_file::read(path)?)
    }

    /// Writes the keyring file in one step, mode 0600.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), KeyringError> {
        Ok(private_file::write(path, &self.to_bytes())?)
    }

    /// The keyring in the service manager's credential `cluster-kek` if there is one (`credentials` is the
    /// directory `$CREDENTIALS_DIRECTORY`), with what was added beside it, otherwise the one in `file`.
    ///
    /// # Errors
    /// As [`Keyring::load`]. A credential, or an addition to it, that is there but cannot be read is an error: the
    /// rest might be an older keyring.
    pub fn load_preferred(credentials: Option<&Path>, file: &Path) -> Result<Self, KeyringError> {
        let Some(given) = credential(credentials)? else { return Self::load(file) };
        let added = match private_file::read(&file.with_extension(ADDED)) {
            Ok(bytes) => bytes,
            Err(error) if error.is_not_found() => return Ok(given),
            Err(error) => return Err(error.into()),
        };
        let sealed: Sealed = codec::decode(&added, ADDED_MAX)
            .map_err(|error| KeyringError::Format(format!("what was added to the credential: {error}")))?;
        let newer = Self::from_bytes(&given.open(&sealed, AAD)?)?;
        // A credential that the operator has renewed since may know more.
        Ok(if newer.active() >= given.active() { given.joined(newer) } else { newer.joined(given) })
    }

    /// Keeps the keyring where [`Keyring::load_preferred`] finds it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn store_preferred(&self, credentials: Option<&Path>, file: &Path) -> Result<(), KeyringError> {
        let Some(given) = credential(credentials)? else { return self.store(file) };
        let sealed = given.seal(&self.to_bytes(), AAD)?;
        let bytes = codec::encode(&sealed).map_err(|error| KeyringError::Format(error.to_string()))?;
        Ok(private_file::write(&file.with_extension(ADDED), &bytes)?)
    }
}

fn credential(credentials: Option<&Path>) -> Result<Option<Keyring>, KeyringError> {
    let Some(directory) = credentials else { return Ok(None) };
    match private_file::read_credential(&directory.join(CREDENTIAL)) {
        Ok(bytes) => Keyring::from_bytes(&bytes).map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyring_file_is_private_and_the_credential_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keyring");
        let (stored, credential) = (Keyring::create().unwrap(), Keyring::create().unwrap());
        stored.store(&file).unwrap();
        assert_eq!(Keyring::load_preferred(Some(directory.path()), &file).unwrap(), stored);
        std::fs::write(directory.path().join("cluster-kek"), credential.to_bytes()).unwrap();
        assert_eq!(Keyring::load_preferred(Some(directory.path()), &file).unwrap(), credential);
        assert_eq!(Keyring::load_preferred(None, &file).unwrap(), stored);
        std::fs::write(directory.path().join("cluster-kek"), b"rubbish").unwrap();
        assert!(Keyring::load_preferred(Some(directory.path()), &file).is_err());
    }

    #[test]
    fn what_a_rotation_adds_to_a_credential_lies_beside_it_and_is_worth_nothing_without_it() {
        let (state, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (file, at) = (state.path().join("keyring"), Some(credentials.path()));
        let mut ring = Keyring::create().unwrap();
        std::fs::write(credentials.path().join("cluster-kek"), ring.to_bytes()).unwrap();
        ring.make(2).unwrap();
        ring.activate(2).unwrap();
        ring.store_preferred(at, &file).unwrap();
        assert!(!file.exists(), "the keyring never lies on the disk in the clear");
        assert_eq!(Keyring::load_preferred(at, &file).unwrap(), ring);
        let other = Keyring::create().unwrap();
        std::fs::write(credentials.path().join("cluster-kek"), other.to_bytes()).unwrap();
        assert!(Keyring::load_preferred(at, &file).is_err());
        // The operator has put a newer keyring into the credential.
        ring.make(3).unwrap();
        ring.activate(3).unwrap();
        ring.retire(1).unwrap();
        std::fs::write(credentials.path().join("cluster-kek"), ring.to_bytes()).unwrap();
        assert_eq!(Keyring::load_preferred(at, &file).unwrap(), ring);
    }
}
