//! Observations: what nodes have seen. They live in memory, are told to every other node, and never enter the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    agreement::StateHash,
    feature::FeatureLevel,
    id::{NodeId, Revision, SiteId, TargetId},
    time::Timestamp,
    traffic::PortKind,
};

/// A report older than this says nothing any more. Nodes report every second, and at once when something changes.
pub const REPORT_LIFETIME: Duration = Duration::from_secs(3);

/// How a thing looks from one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// It answers.
    pub alive: bool,
    /// Since when it has done, or has not, by the reporter's clock; for peers, by its steady one.
    pub since: Timestamp,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetHealth {
    /// Checks pass.
    Healthy,
    /// No check, or none has ended.
    #[default]
    Unknown,
    /// Checks fail.
    Unhealthy,
}

/// What one node says of itself and of all that it sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When it wrote this, by the reporter's steady clock: one that starts with the wall clock and is never set.
    /// What it says of durations is measured by that clock.
    pub at: Timestamp,
    /// How far it has applied the log.
    pub applied: Revision,
    /// Version of its program.
    pub version: String,
    /// Its peers, by direct probes.
    pub peers: BTreeMap<NodeId, Seen>,
    /// The sites with a live tunnel to this node, by probes inside the tunnel.
    pub tunnels: BTreeMap<SiteId, Seen>,
    /// The sites whose control socket is on this node.
    pub sockets: BTreeSet<SiteId>,
    /// What those sites' connectors say of their targets.
    pub targets: BTreeMap<TargetId, TargetHealth>,
    /// It is about to stop: it finishes what it has and should get nothing new.
    pub stopping: bool,
    /// Its wall clock when it wrote this.
    pub clock: Timestamp,
    /// When its program was started, by the same steady clock as `at`.
    pub started: Timestamp,
    /// Highest feature level that its program understands.
    pub feature_level: FeatureLevel,
    /// Hashes of its state at the latest checkpoints, oldest first.
    pub hashes: Vec<StateHash>,
    /// The ports of resources that it cannot open, and why.
    pub closed_ports: BTreeMap<PortKind, String>,
}

impl Report {
    /// Whether it says anything that `before`, of the same node, did not: more than that time goes on.
    #[must_use]
    pub fn has_news_since(&self, before: &Self) -> bool {
        let said = Self { at: self.at, clock: self.clock, applied: self.applied, ..before.clone() };
        *self != said
    }
}

/// The last report of each node, with the time it arrived by the reader's steady clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observations {
    reports: BTreeMap<NodeId, (Timestamp, Report)>,
}

impl Observations {
    /// Takes a report that arrived at `now`, by the reader's steady clock: a wall clock that is set would make old
    /// reports fresh, or fresh ones old.
    pub fn insert(&mut self, node: NodeId, now: Timestamp, report: Report) {
        self.reports.insert(node, (now, report));
    }

    /// Forgets a node.
    pub fn remove(&mut self, node: NodeId) {
        self.reports.remove(&node);
    }

    /// The nodes that have reported.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.reports.keys().copied()
    }

    /// The reports that still say something at `now`.
    pub fn fresh(&self, now: Timestamp) -> impl Iterator<Item = (NodeId, &Report)> {
        self.reports
            .iter()
            .filter(move |(_, (arrived, _))| now.since(*arrived) <= REPORT_LIFETIME)
            .map(|(node, (_, report))| (*node, report))
    }

    /// The nodes with a live tunnel to a site, in order of their ids.
    pub fn tunnels_to(&self, site: SiteId, now: Timestamp) -> impl Iterator<Item = NodeId> {
        self.fresh(now)
            .filter(move |(_, report)| report.tunnels.get(&site).is_some_and(|seen| seen.alive))
            .map(|(node, _)| node)
    }

    /// What is known of a target: the best that any fresh report says.
    #[must_use]
    pub fn target(&self, target: TargetId, now: Timestamp) -> TargetHealth {
        self.fresh(now)
            .filter_map(|(_, report)| report.targets.get(&target).copied())
            .min()
            .unwrap_or_default()
    }
}
