//! The cluster's key-encryption keys (KEKs) as the log knows them: by number and fingerprint, never the keys themselves.
//!
//! A rotation goes by itself once it was begun: a node makes a KEK and says so ([`KeyringChange::Made`]); the others
//! fetch it and say so ([`KeyringChange::Held`]); the leader makes it the one that seals, seals everything anew with it,
//! and retires the older ones. What the leader does next follows from the state alone ([`standing`]).

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    id::{CertificateId, NodeId, TokenId},
    name::HostName,
    record::{AdminState, Digest, Node, NodeRole, Sealed, Verdict},
    state::ClusterState,
    time::Timestamp,
};

/// Most sealed things in one command: some 20 KiB.
pub const REWRAPPED_MAX: usize = 64;
/// How long the KEKs before the active one are kept in use: session tickets, and what else is signed with keys derived
/// from them, have run out by then.
pub const RETIRE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// The KEK that a cluster begins with.
const FIRST: u32 = 1;

/// A KEK, as the log knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kek {
    /// Its number. None is given twice.
    pub number: u32,
    /// Tells whether a key is the one that is meant; says nothing about it.
    pub fingerprint: Digest,
    /// Since when it is what it is: to be fetched, or active.
    pub since: Timestamp,
}

/// What is known of the cluster's KEKs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// The one that seals; none = number 1, with which the cluster began.
    pub active: Option<Kek>,
    /// The one that the nodes are fetching.
    pub next: Option<Kek>,
    /// The nodes that have said that they hold the newest one.
    pub holders: BTreeSet<NodeId>,
    /// The highest number given so far, of those above 1.
    pub given: u32,
    /// All KEKs up to this number are retired: nothing is sealed with them, and nothing derived from them.
    pub retired: u32,
}

impl Keys {
    /// The number of the KEK that seals.
    #[must_use]
    pub fn active_number(&self) -> u32 {
        self.active.map_or(FIRST, |kek| kek.number)
    }

    /// The number that the next KEK gets.
    #[must_use]
    pub fn next_number(&self) -> u32 {
        self.given.max(FIRST).saturating_add(1)
    }

    /// The newest KEK; none while only the first one is known.
    #[must_use]
    pub fn newest(&self) -> Option<&Kek> {
        self.next.as_ref().or(self.active.as_ref())
    }

    /// The KEKs that a node needs besides the first one.
    pub fn needed(&self) -> impl Iterator<Item = &Kek> {
        self.active.iter().chain(&self.next)
    }
}

/// Where something sealed stands in the state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SealedPlace {
    /// The key of the authority that certifies nodes.
    Authority,
    /// The key of the internal issuer.
    InternalIssuer,
    /// The secret of a join token.
    Token(TokenId),
    /// The private key of a certificate.
    Certificate(CertificateId),
    /// The private key of a certificate that is being got.
    Order(CertificateId),
    /// The key of the account at a directory.
    Account(String),
    /// The key of the account that the one at a directory is bound to.
    External(String),
    /// The key that signs a zone.
    ZoneKey(HostName),
    /// A shared secret for zone transfers.
    TransferKey(HostName),
    /// The next key that signs a zone.
    NextZoneKey(HostName),
    /// The next key of the account at a directory.
    NextAccount(String),
}

/// The same content with its data key under another KEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrapped {
    /// Where.
    pub place: SealedPlace,
    /// What stands there from here on.
    pub sealed: Sealed,
}

/// A change of the KEKs. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyringChange {
    /// A node has made a KEK: the others are to fetch it.
    Made {
        /// Its number.
        number: u32,
        /// Its fingerprint.
        fingerprint: Digest,
    },
    /// A node holds the newest KEK.
    Held {
        /// The node.
        node: NodeId,
        /// The KEK.
        number: u32,
    },
    /// The KEK that was fetched seals from here on.
    Activated(u32),
    /// These are sealed with the active KEK now.
    Rewrapped(Vec<Rewrapped>),
    /// KEKs up to this number are out of use.
    Retired(u32),
}

impl KeyringChange {
    /// The variant's name, for logs.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Made { .. } => "KeyMade",
            Self::Held { .. } => "KeyHeld",
            Self::Activated(_) => "KeyActivated",
            Self::Rewrapped(_) => "Rewrapped",
            Self::Retired(_) => "KeyRetired",
        }
    }
}

/// How the KEKs stand, and so what is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// One KEK seals everything; no rotation is under way.
    Settled,
    /// These nodes have to fetch the next KEK first.
    Spreading(Vec<NodeId>),
    /// The next KEK can become the active one.
    Ready(u32),
    /// These are still sealed with another KEK than the active one.
    Sealing(Vec<SealedPlace>),
    /// Everything is sealed with the active KEK; those before it are kept.
    Keeping {
        /// Until then.
        until: Timestamp,
        /// And until these nodes hold the active one.
        missing: Vec<NodeId>,
    },
    /// The KEKs up to this number can be retired.
    Retirable(u32),
}

/// How the KEKs stand.
#[must_use]
pub fn standing(state: &ClusterState, now: Timestamp) -> Standing {
    let keys = state.keys();
    let holds = |node: &&Node| keys.holders.contains(&node.id);
    let (holding, missing): (Vec<&Node>, Vec<&Node>) = members(state).partition(holds);
    let ids = |nodes: Vec<&Node>| nodes.into_iter().map(|node| node.id).collect();
    if let Some(next) = &keys.next {
        // Who is away fetches it on the day it comes back; a key that a minority holds could be lost with it.
        let awaited: Vec<&Node> =
            missing.iter().copied().filter(|node| node.verdict == Verdict::Up).collect();
        return match holding.len() > missing.len() {
            true if awaited.is_empty() => Standing::Ready(next.number),
            true => Standing::Spreading(ids(awaited)),
            false => Standing::Spreading(ids(missing)),
        };
    }
    let Some(active) = &keys.active else { return Standing::Settled };
    let other = |(place, sealed): (SealedPlace, &Sealed)| (sealed.kek != active.number).then_some(place);
    let left: Vec<SealedPlace> = state.sealed().into_iter().filter_map(other).collect();
    if !left.is_empty() {
        return Standing::Sealing(left);
    }
    let older = active.number.saturating_sub(1);
    if keys.retired >= older {
        return Standing::Settled;
    }
    let until = active.since + RETIRE_AFTER;
    match missing.is_empty() && now >= until {
        true => Standing::Retirable(older),
        false => Standing::Keeping { until, missing: ids(missing) },
    }
}

/// The nodes that are to hold every KEK.
fn members(state: &ClusterState) -> impl Iterator<Item = &Node> {
    let keeps = |node: &&Node| node.spec.role == NodeRole::Data && node.admin != AdminState::Leaving;
    state.nodes().values().filter(keeps)
}
