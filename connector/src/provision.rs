//! Credentials for a provisioning key: asked for once, at the first start, and kept in a file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    dial::Tls,
    endpoint::{Door, pause},
    key::{SecretFileError, keep, read_secret},
    options::Secret,
    sign_in::{SignInError, provision},
};

/// No credentials came of a provisioning key.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The cluster does not want it.
    #[error("no site was made with the provisioning key: {0}")]
    Refused(String),
    /// They cannot be kept.
    #[error("the credentials cannot be kept: {0}")]
    Keep(#[from] SecretFileError),
}

/// What is kept of a site's credentials.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    pub(crate) id: String,
    pub(crate) secret: Secret,
}

impl Credentials {
    /// Those in the file; none if there is no file yet.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, SecretFileError> {
        match read_secret(path) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .map_err(|_| SecretFileError::Credentials { path: path.to_owned() }),
            Err(SecretFileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path) -> Result<(), SecretFileError> {
        let io = |source| SecretFileError::Io { path: path.to_owned(), source };
        let text = serde_json::to_string(self).map_err(|error| io(error.into()))?;
        keep(path, &text).map_err(io)
    }
}

/// A provisioning key that is to be exchanged for credentials.
pub struct Provisioning {
    pub(crate) key: Secret,
    pub(crate) name: Option<String>,
    pub(crate) doors: Vec<Door>,
    pub(crate) tls: Tls,
    pub(crate) file: PathBuf,
}

impl Provisioning {
    /// Has the cluster make a site, and keeps its credentials. Doors that do not answer are tried again.
    ///
    /// # Errors
    /// [`ProvisionError`] if the key is not good or the file cannot be written.
    pub async fn run(&self) -> Result<(), ProvisionError> {
        // Before a use of the key is spent.
        self.check_file()?;
        let mut failed = 0;
        loop {
            for door in &self.doors {
                match provision(door, &self.tls, &self.key, self.name.as_deref()).await {
                    Ok((id, secret)) => {
                        tracing::info!(%door, id, file = %self.file.display(), "a site was made for this connector");
                        return Ok(Credentials { id, secret }.write(&self.file)?);
                    }
                    Err(SignInError::Refused { status, message }) if status.is_client_error() => {
                        return Err(ProvisionError::Refused(message));
                    }
                    Err(error) => tracing::warn!(%door, %error, "no credentials yet, trying again"),
                }
            }
            tokio::time::sleep(pause(failed, rand::random())).await;
            failed = failed.saturating_add(1);
        }
    }

    fn check_file(&self) -> Result<(), SecretFileError> {
        let trial = self.file.with_extension("trial");
        let io = |source| SecretFileError::Io { path: self.file.clone(), source };
        keep(&trial, "trial").map_err(io)?;
        std::fs::remove_file(&trial).map_err(io)
    }
}
