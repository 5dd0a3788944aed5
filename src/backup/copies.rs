//! Copies of this node's backups in other places. They are written beside the backups, by a task of their own: a place
//! that does not answer holds up neither the archive nor the next backup.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use pangolin_storage::{
    StorageError,
    backup::{BucketConfig, BucketPlace, Copies, Header, Listed, Place},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Backups, Inner, blocking};

/// How long the last copies may take when the node stops.
const AT_THE_END: Duration = Duration::from_secs(2);

/// What is to be copied.
#[derive(Debug, Default)]
struct Due {
    /// These files.
    files: BTreeSet<String>,
    /// Whatever is missing, and what is superfluous goes.
    all: bool,
}

/// The way from the backups to their copies.
#[derive(Default)]
pub(super) struct Copier {
    due: Mutex<Due>,
    more: Notify,
    /// The bucket, once it was used.
    bucket: Mutex<Option<Arc<BucketPlace>>>,
}

impl Copier {
    /// A file was written: it is to be copied.
    pub(super) fn file(&self, name: String) {
        self.due.lock().files.insert(name);
        self.more.notify_one();
    }

    /// All copies are to be brought in line with what is here.
    pub(super) fn all(&self) {
        self.due.lock().all = true;
        self.more.notify_one();
    }
}

impl Backups {
    /// Copies what is due until told to end.
    pub(super) async fn copy(&self, shutdown: &CancellationToken) {
        let copies = async {
            loop {
                self.inner.copier.more.notified().await;
                self.copy_due().await;
            }
        };
        shutdown.run_until_cancelled(copies).await;
    }

    /// Copies what was written while the node was stopping, as far as there is time.
    pub(super) async fn copy_at_the_end(&self) {
        // What is left out is copied after the next start, with the next backup.
        let _ = timeout(AT_THE_END, self.copy_due()).await;
    }

    async fn copy_due(&self) {
        let (inner, due) = (self.inner.clone(), std::mem::take(&mut *self.inner.copier.due.lock()));
        let work = move || {
            inner.copy(&due);
            Ok(())
        };
        if let Err(error) = blocking(work).await {
            warn!(%error, "the copies of this node's backups are not complete");
        }
    }
}

impl Inner {
    fn copy(&self, due: &Due) {
        let here = match self.place.list() {
            Ok(here) => here,
            Err(error) => return warn!(%error, "this node's backups cannot be copied"),
        };
        let Some(newest) = here.iter().filter_map(|file| file.header.as_ref().ok()).next_back() else {
            return;
        };
        for copies in self.copies(newest) {
            let copied = copies.and_then(|copies| match due.all {
                true => self.mirror(&here, &*copies),
                false => self.copy_files(&due.files, &here, &*copies),
            });
            if let Err(error) = copied {
                warn!(%error, "the copies of this node's backups are not complete; they are tried again with the next backup");
            }
        }
    }

    /// Where copies go: for each place a part of this cluster and node.
    fn copies(&self, header: &Header) -> Vec<Result<Arc<dyn Copies>, StorageError>> {
        let id = header.cluster.to_string();
        let part = format!("{}-{}/node-{}", header.name, &id[..8.min(id.len())], self.node);
        let dir = self.config.second_dir.as_ref();
        let dir = dir.map(|dir| Ok(Arc::new(Place::new(dir.join(&part))) as Arc<dyn Copies>));
        let bucket = self.config.bucket.as_ref();
        let bucket = bucket.map(|config| Ok(self.bucket(config, &part)? as Arc<dyn Copies>));
        dir.into_iter().chain(bucket).collect()
    }

    fn bucket(&self, config: &BucketConfig, part: &str) -> Result<Arc<BucketPlace>, StorageError> {
        let mut known = self.copier.bucket.lock();
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        Ok(known.insert(Arc::new(BucketPlace::new(config, part)?)).clone())
    }

    fn copy_files(
        &self,
        names: &BTreeSet<String>,
        here: &[Listed],
        copies: &dyn Copies,
    ) -> Result<(), StorageError> {
        // One that is gone has a successor.
        for file in here.iter().filter(|file| names.contains(&file.name)) {
            copies.write(&file.name, &self.place.read(&file.name)?)?;
        }
        Ok(())
    }

    fn mirror(&self, here: &[Listed], copies: &dyn Copies) -> Result<(), StorageError> {
        let there = copies.list(here)?;
        for file in here.iter().filter(|file| file.header.is_ok()) {
            if !there.iter().any(|other| other.name == file.name && other.header == file.header) {
                copies.write(&file.name, &self.place.read(&file.name)?)?;
            }
        }
        // By their own age, not by what is here: the copies outlive the loss of the first ones.
        self.prune(copies, here)
    }
}
