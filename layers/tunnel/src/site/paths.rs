//! What has to change when the set of nodes does. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use pangolin_core::id::NodeId;

use super::SiteNode;
use crate::probe::PROBE_LIFETIME;

/// Over so much time the handshakes of many sites are spread that lost a node at the same moment.
const SPREAD: Duration = Duration::from_millis(250);
/// How long WireGuard takes to repeat a handshake with the proof that it was asked for: `REKEY_TIMEOUT` of 5 s, up to 333 ms
/// besides, and the way.
const PROOF_PATIENCE: Duration = Duration::from_secs(6);

/// The way from one set of nodes to another, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NodeChange {
    pub remove: Vec<SiteNode>,
    pub add: Vec<SiteNode>,
    /// Only their endpoint is another.
    pub moved: Vec<SiteNode>,
}

/// The nodes by id. A key or an address can stand for one peer only; of several nodes the first keeps it.
pub(super) fn distinct(nodes: &[SiteNode]) -> BTreeMap<NodeId, SiteNode> {
    let (mut keys, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut distinct = BTreeMap::new();
    for node in nodes {
        if distinct.contains_key(&node.node) || !keys.insert(node.key) || !addresses.insert(node.address) {
            tracing::warn!(node = %node.node, "no tunnel to this node: its id, key or address is another's");
            continue;
        }
        distinct.insert(node.node, *node);
    }
    distinct
}

pub(super) fn change(now: &BTreeMap<NodeId, SiteNode>, wanted: &BTreeMap<NodeId, SiteNode>) -> NodeChange {
    let same_peer = |a: &SiteNode, b: &SiteNode| a.key == b.key && a.address == b.address;
    let mut change = NodeChange::default();
    for (id, node) in now {
        if !wanted.get(id).is_some_and(|new| same_peer(node, new)) {
            change.remove.push(*node);
        }
    }
    for (id, node) in wanted {
        match now.get(id) {
            Some(old) if old == node => {}
            Some(old) if same_peer(old, node) => change.moved.push(*node),
            _ => change.add.push(*node),
        }
    }
    change
}

/// How long after the last answer, or the last handshake that was forced, another one is forced. It makes the peer anew,
/// which throws away the proof of this end's address if the node has asked for one: then WireGuard's own repetition is
/// waited for. `share` is this site's part of the spread, 0 to 1.
pub(super) fn patience(asked_for_proof: bool, share: f64) -> Duration {
    let least = if asked_for_proof { PROOF_PATIENCE } else { PROBE_LIFETIME };
    least + SPREAD.mul_f64(share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use pangolin_core::record::TunnelKey;

    use super::*;

    fn node(id: u64, port: u16, key: u8, address: u8) -> SiteNode {
        SiteNode {
            node: NodeId(id),
            endpoint: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            key: TunnelKey([key; 32]),
            address: Ipv4Addr::new(10, 0, 0, address),
        }
    }

    #[test]
    fn a_node_that_asks_for_proof_gets_the_time_to_have_it() {
        for (asked, share, expected) in
            [(false, 0.0, 1000), (false, 1.0, 1250), (true, 0.0, 6000), (true, 0.5, 6125)]
        {
            assert_eq!(patience(asked, share), Duration::from_millis(expected), "{asked} {share}");
        }
    }

    #[test]
    fn only_what_differs_is_changed() {
        let (one, two) = (node(1, 100, 1, 1), node(2, 100, 2, 2));
        let (moved, rekeyed) = (node(1, 200, 1, 1), node(1, 100, 9, 1));
        let none = NodeChange::default;
        let cases = [
            ("first", vec![], vec![one], NodeChange { add: vec![one], ..none() }),
            ("the same", vec![one, two], vec![two, one], none()),
            ("one goes", vec![one, two], vec![two], NodeChange { remove: vec![one], ..none() }),
            ("another endpoint", vec![one], vec![moved], NodeChange { moved: vec![moved], ..none() }),
            (
                "another key",
                vec![one],
                vec![rekeyed],
                NodeChange { remove: vec![one], add: vec![rekeyed], ..none() },
            ),
            (
                "a key of another's",
                vec![],
                vec![one, node(2, 100, 1, 2)],
                NodeChange { add: vec![one], ..none() },
            ),
        ];
        for (name, now, wanted, expected) in cases {
            assert_eq!(change(&distinct(&now), &distinct(&wanted)), expected, "{name}");
        }
    }
}
