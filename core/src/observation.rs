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

impl TargetHealth {
    /// The word for it, also in the control protocol of connectors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unknown => "unknown",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// What the node that holds a site's control socket knows of its tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Where the tunnel of a single-homed connector ends, as far as it was told.
    pub end: Option<NodeId>,
    /// Milliseconds from the connector to nodes and back, as it has measured them; empty = it has not.
    pub distances: BTreeMap<NodeId, u32>,
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
    /// What those sites' connectors say of their targets, and what it has found itself of targets that it checks.
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
    /// What it knows of the tunnels of sites whose control socket it holds, where it knows something.
    pub attachments: BTreeMap<SiteId, Attachment>,
    /// The sites whose connectors have told it a moment ago that they end, and with them their tunnels.
    pub farewells: BTreeSet<SiteId>,
    /// Whether its edge and its DNS let clients in; none where it has neither, or its version does not say.
    pub serving: Option<bool>,
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

    /// Milliseconds from a site's connector to nodes and back, as it has measured them.
    #[must_use]
    pub fn distances(&self, site: SiteId, now: Timestamp) -> BTreeMap<NodeId, u32> {
        let attached = self.fresh(now).filter_map(|(_, report)| report.attachments.get(&site));
        let measured = attached.map(|attachment| &attachment.distances).find(|measured| !measured.is_empty());
        measured.cloned().unwrap_or_default()
    }

    /// Whether the tunnel of a single-homed site that `node` believes to have has gone: its connector has said that it
    /// ends, or the holder of its control socket says that it ends at another node, and that one has it.
    #[must_use]
    pub fn has_left(&self, site: SiteId, node: NodeId, now: Timestamp) -> bool {
        if self.has_ended(site, now) {
            return true;
        }
        let mut ends = self
            .fresh(now)
            .filter_map(|(_, report)| report.attachments.get(&site).and_then(|attachment| attachment.end))
            .peekable();
        let carries = |end: NodeId| self.tunnels_to(site, now).any(|other| other == end);
        ends.peek().is_some() && ends.all(|end| end != node && carries(end))
    }

    /// Whether a site's connector has said that it ends, and none has come since.
    fn has_ended(&self, site: SiteId, now: Timestamp) -> bool {
        let said = self.fresh(now).any(|(_, report)| report.farewells.contains(&site));
        said && !self.fresh(now).any(|(_, report)| report.sockets.contains(&site))
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

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: SiteId = SiteId(4);
    const NOW: Timestamp = Timestamp(100_000);

    /// Nodes with where they say that the tunnel ends, and those that have it.
    fn seen(ends: &[(u64, u64)], carriers: &[u64]) -> Observations {
        let mut seen = Observations::default();
        for node in 1..=4 {
            let mut report = Report::default();
            if carriers.contains(&node) {
                report.tunnels.insert(SITE, Seen { alive: true, since: Timestamp(0) });
            }
            for (_, end) in ends.iter().filter(|(holder, _)| *holder == node) {
                let attachment = Attachment { end: Some(NodeId(*end)), distances: BTreeMap::new() };
                report.attachments.insert(SITE, attachment);
            }
            seen.insert(NodeId(node), NOW, report);
        }
        seen
    }

    #[test]
    fn a_tunnel_has_left_when_the_holder_of_its_socket_says_so_and_another_node_has_it() {
        type Ends = &'static [(u64, u64)];
        let cases: [(&str, Ends, &[u64], bool); 6] = [
            ("nobody says anything", &[], &[1, 2], false),
            ("it ends here", &[(3, 1)], &[1, 2], false),
            ("it is on its way", &[(3, 2)], &[1], false),
            ("it is there", &[(3, 2)], &[1, 2], true),
            ("the node where it went holds its socket", &[(2, 2)], &[1, 2], true),
            ("an old socket says otherwise", &[(3, 2), (4, 1)], &[1, 2], false),
        ];
        for (what, ends, carriers, left) in cases {
            assert_eq!(seen(ends, carriers).has_left(SITE, NodeId(1), NOW), left, "{what}");
        }
        let late = Timestamp(NOW.0 + 10_000);
        assert!(!seen(&[(3, 2)], &[1, 2]).has_left(SITE, NodeId(1), late), "old reports say nothing");
    }

    #[test]
    fn a_tunnel_has_left_when_its_connector_has_said_farewell_and_none_has_come() {
        let cases: [(&str, &[u64], &[u64], bool); 4] = [
            ("it is there", &[], &[3], false),
            ("its socket has broken", &[], &[], false),
            ("it has said farewell", &[3], &[], true),
            ("and come back elsewhere", &[3], &[2], false),
        ];
        for (what, farewells, sockets, left) in cases {
            let mut seen = Observations::default();
            for node in 1..=3 {
                let of = |nodes: &[u64]| nodes.contains(&node).then_some(SITE).into_iter().collect();
                let (farewells, sockets) = (of(farewells), of(sockets));
                seen.insert(NodeId(node), NOW, Report { farewells, sockets, ..Report::default() });
            }
            assert_eq!(seen.has_left(SITE, NodeId(1), NOW), left, "{what}");
        }
    }

    #[test]
    fn distances_are_those_that_somebody_has_measured() {
        let mut seen = seen(&[(3, 2)], &[]);
        assert!(seen.distances(SITE, NOW).is_empty());
        let distances: BTreeMap<NodeId, u32> = [(NodeId(1), 11), (NodeId(2), 80)].into();
        let attachment = Attachment { end: None, distances: distances.clone() };
        let report = Report { attachments: [(SITE, attachment)].into(), ..Report::default() };
        seen.insert(NodeId(4), NOW, report);
        assert_eq!(seen.distances(SITE, NOW), distances);
    }
}
