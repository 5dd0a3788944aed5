//! Goes on with rotations of the keys that seal: makes the next one active, seals everything anew, retires the former.

use std::time::Duration;

use pangolin_core::{
    Body, Cause, ClusterState, Fence,
    command::Actor,
    keyring::{KeyringChange, REWRAPPED_MAX, Rewrapped, SealedPlace, Standing, standing},
    record::Sealed,
};
use pangolin_peer::identity::Keyring;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Leading, RETRY};
use crate::{clock, keys::Keys, seal};

/// Pause between two steps: what is sealed anew is to be a small part of the log's work.
const PACE: Duration = Duration::from_millis(100);
/// How often it is looked at though nothing changed; also the pause when something cannot be sealed anew.
const SLOW: Duration = Duration::from_secs(60);

impl Leading {
    /// Looks after rotations; ends only by being dropped.
    pub(super) async fn keyring_loop(&self, keys: &Keys) {
        let mut states = self.cluster.watch();
        loop {
            let state = states.borrow_and_update().clone();
            match self.keyring_step(keys, &state).await {
                Ok(true) => sleep(PACE).await,
                Ok(false) => {
                    tokio::select! {
                        _ = states.changed() => sleep(PACE).await,
                        () = sleep(SLOW) => {}
                    }
                }
                Err(reason) => {
                    warn!(reason, "a rotation of the keys that seal does not go on");
                    sleep(SLOW).await;
                }
            }
        }
    }

    /// Whether there was a step to take.
    async fn keyring_step(&self, keys: &Keys, state: &ClusterState) -> Result<bool, String> {
        let (change, why) = match standing(state, clock::now()) {
            Standing::Settled | Standing::Spreading(_) | Standing::Keeping { .. } => return Ok(false),
            Standing::Ready(number) => {
                info!(number, "every node in service has the next key-encryption key: it seals from here on");
                (KeyringChange::Activated(number), "every node in service has it")
            }
            Standing::Sealing(places) => {
                let keyring = keys.now();
                // This node is about to go over to the active one itself.
                if keyring.active() != state.keys().active_number() {
                    return Ok(true);
                }
                let anew = sealed_anew(state, &keyring, places)?;
                (KeyringChange::Rewrapped(anew), "it was sealed with a former key")
            }
            Standing::Retirable(number) => {
                info!(number, "key-encryption keys up to this one are retired");
                (KeyringChange::Retired(number), "nothing is sealed with it any more")
            }
        };
        let fence = Fence::Term(state.leadership().map_or(0, |leadership| leadership.term));
        let cause = Cause::new(Actor::Leader(self.node), why);
        if let Err(reason) = self.lead(cause, fence, Body::Keyring(Box::new(change))).await {
            debug!(reason, "a step of a rotation is done again");
            sleep(RETRY).await;
        }
        Ok(true)
    }
}

/// As many as fit into one command. What cannot be opened is left, and told when nothing else is.
fn sealed_anew(
    state: &ClusterState,
    keyring: &Keyring,
    places: Vec<SealedPlace>,
) -> Result<Vec<Rewrapped>, String> {
    let mut sealed: Vec<(SealedPlace, &Sealed)> = state.sealed();
    sealed.retain(|(place, _)| places.contains(place));
    let (mut anew, mut problem) = (Vec::new(), None);
    for (place, sealed) in sealed {
        let Some(aad) = seal::place(state, &place) else { continue };
        match keyring.rewrap(sealed, &aad) {
            Ok(sealed) => anew.push(Rewrapped { place, sealed }),
            Err(error) => problem = Some(format!("{place:?} cannot be opened: {error}")),
        }
        if anew.len() == REWRAPPED_MAX {
            break;
        }
    }
    match problem {
        Some(problem) if anew.is_empty() => Err(problem),
        _ => Ok(anew),
    }
}
