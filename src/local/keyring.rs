//! Keeps this node's keyring in line with the state: fetches key-encryption keys (KEKs) that other nodes have made, goes
//! over to them, and takes old ones out of use; and what operators ask of it.
//!
//! A KEK travels between nodes that have proved who they are, encrypted (mTLS), and only to members that carry data. The
//! log knows its number and its fingerprint.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_api::{ApiFailure, KeyringPort};
use pangolin_core::{
    Body, Cause, ClusterState, Fence, NodeId, RequestId,
    command::Actor,
    keyring::{Kek, KeyringChange},
    record::NodeRole,
};
use pangolin_peer::{Handler, Peers, Service, identity::fingerprint};
use pangolin_raft::{Cluster, Proposal};
use pangolin_wire::{Code, KeyringEscrow};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::answers::NodeAnswers;
use crate::keys::Keys;

/// How long another node may take to hand over a KEK.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often everything is looked at though nothing changed.
const SLOW: Duration = Duration::from_secs(30);
/// A KEK that could not be had for this many looks in a row is worth a warning.
const WARN_AFTER: u32 = 5;
/// How long a rotation may take to show here once it is committed.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// Brings the keyring in line with the state.
pub struct Keeper {
    /// This node.
    pub node: NodeId,
    /// Which KEKs there are.
    pub cluster: Cluster,
    /// The nodes that have them.
    pub peers: Peers,
    /// The keyring.
    pub keys: Keys,
}

impl Keeper {
    /// Runs until told to end.
    ///
    /// # Errors
    /// None: what fails is tried again, with a warning if it goes on failing.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut states = self.cluster.watch();
        let mut failures = 0;
        loop {
            let state = states.borrow_and_update().clone();
            let pause = match self.follow(&state).await {
                Ok(()) => {
                    failures = 0;
                    SLOW
                }
                Err(reason) => {
                    failures += 1;
                    if failures == WARN_AFTER {
                        warn!(reason, "this node's keyring is not what the cluster's is");
                    } else {
                        debug!(reason, "the keyring is looked at again");
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn follow(&self, state: &ClusterState) -> Result<(), String> {
        let keys = state.keys();
        for kek in keys.needed() {
            self.fetch(state, kek).await?;
        }
        if keys.active.is_some() {
            let before = self.keys.now().active();
            let active = keys.active_number();
            self.keys.follow(active, keys.retired).map_err(|error| error.to_string())?;
            if before != active {
                info!(active, "this node seals with another key-encryption key");
            }
        }
        let Some(newest) = keys.newest() else { return Ok(()) };
        if state.nodes().contains_key(&self.node) && !keys.holders.contains(&self.node) {
            let number = newest.number;
            let body = Body::Keyring(Box::new(KeyringChange::Held { node: self.node, number }));
            let cause = Cause::new(Actor::Node(self.node), format!("it has key-encryption key {number}"));
            let proposal = Proposal { request: None, cause, fence: Fence::None, body };
            let committed = self.cluster.propose(proposal).await.map_err(|error| error.to_string())?;
            committed.outcome.into_result().map_err(|refusal| refusal.to_string())?;
        }
        Ok(())
    }

    /// Asks those first that are known to have it.
    async fn fetch(&self, state: &ClusterState, kek: &Kek) -> Result<(), String> {
        if self.keys.now().fingerprint(kek.number) == Some(kek.fingerprint) {
            return Ok(());
        }
        let mut others: Vec<NodeId> = state
            .nodes()
            .values()
            .filter(|node| node.spec.role == NodeRole::Data && node.id != self.node)
            .map(|node| node.id)
            .collect();
        others.sort_by_key(|node| (!state.keys().holders.contains(node), self.peers.is_suspect(*node)));
        let mut reason = "there is no other node that could have it".to_owned();
        for node in others {
            match self.ask(node, kek).await {
                Ok(()) => {
                    info!(number = kek.number, from = %node, "fetched a key-encryption key");
                    return Ok(());
                }
                Err(error) => reason = format!("node {node}: {error}"),
            }
        }
        Err(format!("key-encryption key {} could not be fetched: {reason}", kek.number))
    }

    async fn ask(&self, node: NodeId, kek: &Kek) -> Result<(), String> {
        let body = Bytes::copy_from_slice(&kek.number.to_be_bytes());
        let answer = self.peers.request(node, Service::Keyring, body, PATIENCE).await;
        let key = handed_over(&answer.map_err(|error| error.to_string())?)?;
        self.keys.take(kek.number, key, &kek.fingerprint).map_err(|error| error.to_string())
    }
}

/// Which KEK another node asks for.
fn asked(body: &[u8]) -> Result<u32, String> {
    body.try_into().map(u32::from_be_bytes).map_err(|_| "a number has four bytes".to_owned())
}

/// The KEK that another node has answered with.
fn handed_over(answer: &[u8]) -> Result<Zeroizing<[u8; 32]>, String> {
    answer.try_into().map(Zeroizing::new).map_err(|_| "a key has 32 bytes".to_owned())
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = asked(bytes);
    let _ = handed_over(bytes);
}

/// Hands KEKs to nodes that lack them.
pub struct KeyringForPeers {
    /// Who may have them.
    pub cluster: Cluster,
    /// The keyring.
    pub keys: Keys,
}

impl Handler for KeyringForPeers {
    fn request(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let number = asked(&body)?;
            let state = self.cluster.state();
            let member = state.nodes().get(&from).is_some_and(|node| node.spec.role == NodeRole::Data);
            if !member {
                return Err("only a data node of this cluster gets its keys".to_owned());
            }
            let key = self.keys.now().hand_over(number);
            let key = key.ok_or_else(|| format!("this node has no key-encryption key {number}"))?;
            Ok(Bytes::copy_from_slice(key.as_slice()))
        })
    }
}

impl NodeAnswers {
    fn own_keys(&self) -> Result<&Keys, ApiFailure> {
        self.keyring.as_ref().ok_or_else(|| {
            ApiFailure::new(Code::Conflict, "this node is a witness and holds no keys")
                .hint("Ask a data node.")
        })
    }

    async fn begin_rotation(&self, cause: Cause, request: RequestId) -> Result<(), ApiFailure> {
        if self.cluster.state().outcome_of(request).is_none() {
            let number = self.cluster.state().keys().next_number();
            let fingerprint =
                self.own_keys()?.make(number).map_err(|error| ApiFailure::internal(error.to_string()))?;
            let body = Body::Keyring(Box::new(KeyringChange::Made { number, fingerprint }));
            let proposal = Proposal { request: Some(request), cause, fence: Fence::None, body };
            let committed = self.cluster.propose(proposal).await?;
            committed.outcome.into_result()?;
            let shown = self.cluster.wait_applied(committed.revision, APPLY_TIMEOUT).await;
            shown.map_err(|error| {
                ApiFailure::new(Code::NotVisibleYet, format!("the rotation has begun, but {error}"))
            })?;
        }
        Ok(())
    }
}

impl KeyringPort for NodeAnswers {
    fn rotate(&self, cause: Cause, request: RequestId) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(self.begin_rotation(cause, request))
    }

    fn escrow(&self) -> Result<KeyringEscrow, ApiFailure> {
        let keyring = self.own_keys()?.now();
        let recovery = self.cluster.state().recovery_key().ok_or_else(|| {
            ApiFailure::new(Code::Conflict, "the cluster has no recovery key yet")
                .hint("Make one with `pangolinctl backup new-key`.")
        })?;
        let escrow = keyring.to_escrow(&recovery).map_err(|error| ApiFailure::internal(error.to_string()))?;
        Ok(KeyringEscrow { escrow, recovery_key: fingerprint(&recovery), keys: keyring.numbers().collect() })
    }
}
