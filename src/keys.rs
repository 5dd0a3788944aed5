//! The keyring of a running node: rotations change it while everybody uses it.

use std::{path::PathBuf, sync::Arc};

use pangolin_core::record::Digest;
use pangolin_peer::identity::{Keyring, KeyringError};
use parking_lot::Mutex;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// The node's keyring as it is now. Copies are of the same one.
#[derive(Clone)]
pub struct Keys {
    now: watch::Sender<Arc<Keyring>>,
    store: Arc<Mutex<Store>>,
}

/// Where it is kept. One at a time changes it.
struct Store {
    file: PathBuf,
    credentials: Option<PathBuf>,
}

impl Keys {
    /// Starts with what was read from `file`, or from the service manager's credentials.
    #[must_use]
    pub fn new(keyring: Keyring, file: PathBuf) -> Self {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        Self {
            now: watch::Sender::new(Arc::new(keyring)),
            store: Arc::new(Mutex::new(Store { file, credentials })),
        }
    }

    /// The keyring as it is now. Whoever keeps it for longer misses rotations.
    #[must_use]
    pub fn now(&self) -> Arc<Keyring> {
        self.now.borrow().clone()
    }

    /// Tells of each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Keyring>> {
        self.now.subscribe()
    }

    /// Changes the keyring: on the disk first, so that nothing is ever sealed with a key that a restart forgets.
    fn change(
        &self,
        change: impl FnOnce(&mut Keyring) -> Result<(), KeyringError>,
    ) -> Result<(), KeyringError> {
        let store = self.store.lock();
        let mut keyring = Keyring::clone(&self.now.borrow());
        change(&mut keyring)?;
        if keyring != **self.now.borrow() {
            keyring.store_preferred(store.credentials.as_deref(), &store.file)?;
            self.now.send_replace(Arc::new(keyring));
        }
        Ok(())
    }

    /// Makes the KEK with this number, unless it is there, and gives its fingerprint.
    ///
    /// # Errors
    /// There are too many, or it cannot be stored.
    pub fn make(&self, number: u32) -> Result<Digest, KeyringError> {
        self.change(|keyring| keyring.make(number))?;
        self.now().fingerprint(number).ok_or(KeyringError::UnknownKey(number))
    }

    /// Takes a KEK that another node has handed over.
    ///
    /// # Errors
    /// It is not the one that is meant, there are too many, or it cannot be stored.
    pub fn take(
        &self,
        number: u32,
        key: Zeroizing<[u8; 32]>,
        fingerprint: &Digest,
    ) -> Result<(), KeyringError> {
        self.change(|keyring| keyring.take(number, key, fingerprint))
    }

    /// Seals with `active` from here on, and has those up to `retired` out of use.
    ///
    /// # Errors
    /// The active one is not here, or the keyring cannot be stored.
    pub fn follow(&self, active: u32, retired: u32) -> Result<(), KeyringError> {
        self.change(|keyring| {
            keyring.activate(active)?;
            let old: Vec<u32> = keyring.numbers().filter(|number| *number <= retired).collect();
            old.into_iter().try_for_each(|number| keyring.retire(number))
        })
    }
}
