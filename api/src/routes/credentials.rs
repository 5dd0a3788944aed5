//! Credentials in requests: those that a client made itself are checked, missing ones are made.

use pangolin_core::{access, record::Digest};
use pangolin_wire::{CREDENTIAL_ID_LEN, SECRET_MAX, random_id, random_secret};

use crate::failure::ApiFailure;

/// Shortest secret that is taken from a client: with a fast hash only length keeps it safe.
const SECRET_MIN: usize = 32;

/// The two halves of a credential.
pub(super) struct Pair {
    pub(super) id: String,
    pub(super) secret: Secret,
}

/// A secret half.
pub(super) struct Secret(String);

impl Pair {
    /// The halves that the client made, or fresh ones.
    pub(super) fn given_or_new(
        id: Option<String>,
        secret: Option<String>,
        id_field: &str,
    ) -> Result<Self, ApiFailure> {
        match (id, secret) {
            (None, None) => Ok(Self { id: random_id(), secret: Secret(random_secret()) }),
            (Some(id), Some(secret)) => {
                if id.len() != CREDENTIAL_ID_LEN || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                    return Err(ApiFailure::invalid(format!(
                        "{id_field} has {CREDENTIAL_ID_LEN} letters and digits"
                    )));
                }
                Ok(Self { id, secret: Secret::given_or_new(Some(secret))? })
            }
            _ => Err(ApiFailure::invalid(format!("{id_field} and secret go together: give both, or none"))),
        }
    }
}

impl Secret {
    /// The secret that the client made, or a fresh one.
    pub(super) fn given_or_new(secret: Option<String>) -> Result<Self, ApiFailure> {
        let secret = secret.unwrap_or_else(random_secret);
        if !(SECRET_MIN..=SECRET_MAX).contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(ApiFailure::invalid(format!(
                "a secret has {SECRET_MIN} to {SECRET_MAX} visible ASCII characters"
            )));
        }
        Ok(Self(secret))
    }

    /// What the state keeps of it.
    pub(super) fn digest(&self) -> Digest {
        access::digest(&self.0)
    }

    /// The secret, if it is the one in the state: in the answer to a repeat, a secret made for the repeat is not.
    pub(super) fn if_kept_as(self, kept: Digest) -> Option<String> {
        (self.digest() == kept).then_some(self.0)
    }
}

/// The message of an answer that should hold a secret.
pub(super) fn message(done: &str, secret: Option<&String>) -> String {
    match secret {
        Some(_) => done.to_owned(),
        None => {
            format!("{done}. This request had been answered before: its secret was shown then, and only then")
        }
    }
}
