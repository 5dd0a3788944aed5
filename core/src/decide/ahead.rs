//! Where the tunnel of a single-homed site ends, ahead of the plan: what the node does by itself that holds the site's
//! control socket, because a data path never waits for a commit. The leader records afterwards what came of it.

use std::time::Duration;

use crate::{
    id::{Epoch, NodeId, Revision},
    plan::SiteTunnel,
    record::TunnelKey,
    time::Timestamp,
};

/// A connector that was told to connect shows a live tunnel within this time, or something is in its way: the next node
/// is tried. A Newt measured took 0.2 s, and without probes its node needs another second to see it.
pub const PUSH_PATIENCE: Duration = Duration::from_secs(3);
/// After this many pushes without a tunnel the fault is with the site, not with the nodes.
pub const PUSHES_MAX: u32 = 3;
/// … and then it is tried this often.
pub const PUSH_AGAIN: Duration = Duration::from_secs(30);

/// The node at which a single-homed connector that asks now should end its tunnel: the home, unless it is suspect, or
/// another one has the tunnel that the home has not.
#[must_use]
pub fn tunnel_end(
    offers: &[NodeId],
    suspect: impl Fn(NodeId) -> bool,
    carried: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let usable = || offers.iter().copied().filter(|node| !suspect(*node));
    usable().find(|node| carried(*node)).or_else(|| usable().next()).or_else(|| offers.first().copied())
}

/// What a node knows of the others when it looks at its sites.
pub struct Sight<'a> {
    /// This node.
    pub own: NodeId,
    /// The time, by a clock that is never set.
    pub now: Timestamp,
    /// Which nodes do not answer.
    pub suspect: &'a dyn Fn(NodeId) -> bool,
    /// Which nodes have a live tunnel to the site.
    pub carried: &'a dyn Fn(NodeId) -> bool,
    /// Which nodes have applied this revision, and so have the site's WireGuard peer: a Newt that is sent to one without
    /// it is deaf for three quarters of a minute.
    pub applied: &'a dyn Fn(NodeId, Revision) -> bool,
}

/// What the holder of a site's control socket remembers of its tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// The key that the connector has, and the revision at which it was known here.
    key: TunnelKey,
    key_at: Revision,
    epoch: Epoch,
    /// Where the tunnel ends, as far as it was told.
    end: NodeId,
    /// Since when it should be alive: when it was told, or last was.
    since: Timestamp,
    /// Pushes in a row of which nothing came.
    pushes: u32,
}

impl Ahead {
    /// Begins to follow a site whose control socket has come; none if there is nothing to follow: it is multi-homed, or
    /// its connector has not registered.
    #[must_use]
    pub fn begin(site: &SiteTunnel, at: Revision, sight: &Sight<'_>) -> Option<Self> {
        let key = site.key.filter(|_| !site.multi_homed)?;
        let end = tunnel_end(&site.offers, sight.suspect, sight.carried)?;
        Some(Self { key, key_at: at, epoch: site.epoch, end, since: sight.now, pushes: 0 })
    }

    /// Whether this still is the connector that it was begun for.
    #[must_use]
    pub fn is_of(&self, site: &SiteTunnel) -> bool {
        site.key == Some(self.key) && !site.multi_homed
    }

    /// Where the tunnel ends, as far as it was told.
    #[must_use]
    pub fn end(&self) -> NodeId {
        self.end
    }

    /// Looks at the site again: the node to send its connector to, and why; none if all is well or nothing can be done.
    /// [`Ahead::pushed`] says that it was done.
    #[must_use]
    pub fn look(&mut self, site: &SiteTunnel, sight: &Sight<'_>) -> Option<(NodeId, &'static str)> {
        if site.epoch > self.epoch {
            self.epoch = site.epoch;
            // The plan sends the connector there, unless it is there already.
            if let Some(home) = site.offers.first().filter(|home| **home != self.end) {
                (self.end, self.since, self.pushes) = (*home, sight.now, 0);
            }
        }
        let suspect = (sight.suspect)(self.end);
        if !suspect && (sight.carried)(self.end) {
            (self.since, self.pushes) = (sight.now, 0);
            return None;
        }
        let patience = match (suspect, self.pushes < PUSHES_MAX) {
            // Also when it was sent there just now.
            (true, true) => Duration::ZERO,
            (true, false) | (false, true) => PUSH_PATIENCE,
            (false, false) => PUSH_AGAIN,
        };
        if sight.now.since(self.since) < patience {
            return None;
        }
        let next = self.next(&site.offers, sight)?;
        let why = if suspect {
            "the node where its tunnel ended does not answer"
        } else {
            "no tunnel came up where it was to end"
        };
        Some((next, why))
    }

    /// The connector has been told to go to this node.
    pub fn pushed(&mut self, to: NodeId, now: Timestamp) {
        (self.end, self.since) = (to, now);
        self.pushes = self.pushes.saturating_add(1);
    }

    /// The next usable node behind the present end, in the order offered, beginning anew at its end. This node comes
    /// last: one death must not take both tunnel and socket.
    fn next(&self, offers: &[NodeId], sight: &Sight<'_>) -> Option<NodeId> {
        let at = offers.iter().position(|node| *node == self.end).map_or(0, |at| at + 1);
        let round = || offers.iter().cycle().skip(at).take(offers.len()).copied();
        let usable = |node: &NodeId| {
            *node != self.end && !(sight.suspect)(*node) && (sight.applied)(*node, self.key_at)
        };
        let other = round().filter(usable).find(|node| *node != sight.own);
        other.or_else(|| round().find(usable))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use super::*;
    use crate::id::SiteId;

    const KEY: TunnelKey = TunnelKey([1; 32]);
    const AT: Revision = Revision { lineage: 1, index: 10 };

    fn site() -> SiteTunnel {
        SiteTunnel {
            site: SiteId(9),
            address: Ipv4Addr::new(100, 89, 4, 17),
            key: Some(KEY),
            multi_homed: false,
            offers: [1, 2, 3].map(NodeId).to_vec(),
            epoch: Epoch(1),
            config_version: 1,
            targets: Vec::new(),
        }
    }

    /// What a node sees at a moment, in seconds.
    #[derive(Clone, Default)]
    struct Seen {
        suspect: BTreeSet<u64>,
        carried: BTreeSet<u64>,
        behind: BTreeSet<u64>,
    }

    impl Seen {
        fn with<T>(&self, own: u64, at: f64, look: impl FnOnce(&Sight<'_>) -> T) -> T {
            look(&Sight {
                own: NodeId(own),
                now: Timestamp((at * 1000.0) as u64),
                suspect: &|node| self.suspect.contains(&node.0),
                carried: &|node| self.carried.contains(&node.0),
                applied: &|node, _| !self.behind.contains(&node.0),
            })
        }
    }

    fn seen(suspect: &[u64], carried: &[u64]) -> Seen {
        let set = |nodes: &[u64]| nodes.iter().copied().collect();
        Seen { suspect: set(suspect), carried: set(carried), behind: BTreeSet::new() }
    }

    #[test]
    fn a_connector_that_asks_goes_home_unless_the_tunnel_is_elsewhere_or_the_home_is_suspect() {
        let cases: [(&str, &[u64], &[u64], u64); 6] = [
            ("nothing is known", &[], &[], 1),
            ("the tunnel is at home", &[], &[1, 2], 1),
            ("it is at a standby", &[], &[2], 2),
            ("the home is suspect", &[1], &[], 2),
            ("a suspect's tunnel is not believed in", &[1, 2], &[1, 2], 3),
            ("all are suspect", &[1, 2, 3], &[], 1),
        ];
        for (what, suspect, carried, expected) in cases {
            let end = tunnel_end(
                &site().offers,
                |node| suspect.contains(&node.0),
                |node| carried.contains(&node.0),
            );
            assert_eq!(end, Some(NodeId(expected)), "{what}");
        }
        assert_eq!(tunnel_end(&[], |_| false, |_| true), None);
    }

    /// What is done with what a node sees over time; each push is carried out.
    fn pushes(own: u64, steps: &[(f64, Seen)]) -> Vec<(f64, u64)> {
        let site = site();
        let begin = seen(&[], &[1]).with(own, 0.0, |sight| Ahead::begin(&site, AT, sight));
        let mut ahead = begin.expect("a single-homed site");
        let mut pushes = Vec::new();
        for (at, seen) in steps {
            let next = seen.with(own, *at, |sight| ahead.look(&site, sight));
            if let Some((to, _)) = next {
                ahead.pushed(to, Timestamp((at * 1000.0) as u64));
                pushes.push((*at, to.0));
            }
        }
        pushes
    }

    #[test]
    fn a_suspect_end_is_left_at_once_for_the_next_node_that_is_not_this_one() {
        let dead = seen(&[1], &[]);
        assert_eq!(pushes(3, &[(0.1, dead.clone())]), [(0.1, 2)]);
        assert_eq!(pushes(2, &[(0.1, dead.clone())]), [(0.1, 3)], "node 2 holds the socket");
        let behind = Seen { behind: [3].into(), ..dead.clone() };
        assert_eq!(pushes(2, &[(0.1, behind)]), [(0.1, 2)], "rather both on one than nowhere");
        let none = Seen { behind: [2, 3].into(), ..dead };
        assert_eq!(pushes(3, &[(0.1, none)]), [], "nobody has the peer");
    }

    #[test]
    fn a_live_tunnel_is_left_alone() {
        assert_eq!(pushes(3, &[(1.0, seen(&[], &[1])), (99.0, seen(&[], &[1, 2]))]), []);
        let moved = [(0.1, seen(&[1], &[])), (0.4, seen(&[1], &[2])), (9.0, seen(&[], &[2]))];
        assert_eq!(pushes(3, &moved), [(0.1, 2)], "the old home comes back");
    }

    #[test]
    fn a_push_without_a_tunnel_is_followed_by_the_next_one_and_then_slowly() {
        let nothing = seen(&[], &[]);
        let steps: Vec<(f64, Seen)> =
            (0..=700).map(|tenth| (f64::from(tenth) / 10.0, nothing.clone())).collect();
        assert_eq!(pushes(3, &steps), [(3.0, 2), (6.0, 1), (9.0, 2), (39.0, 1), (69.0, 2)]);
        let both = [(0.1, seen(&[1], &[])), (0.2, seen(&[1, 2], &[])), (0.3, seen(&[1, 2], &[]))];
        assert_eq!(pushes(3, &both), [(0.1, 2), (0.2, 3)], "the second node dies as well");
    }

    #[test]
    fn a_new_plan_is_followed() {
        let mut site = site();
        let all = seen(&[], &[1]);
        let mut ahead = all.with(3, 0.0, |sight| Ahead::begin(&site, AT, sight)).expect("single-homed");
        site.epoch = Epoch(2);
        site.offers = [2, 1, 3].map(NodeId).to_vec();
        assert_eq!(all.with(3, 50.0, |sight| ahead.look(&site, sight)), None, "it is on its way to 2");
        assert_eq!(ahead.end(), NodeId(2));
        let next = all.with(3, 53.0, |sight| ahead.look(&site, sight));
        assert_eq!(next.map(|(node, _)| node), Some(NodeId(1)), "nothing came of it");
    }

    #[test]
    fn multi_homed_sites_and_those_without_connector_are_not_followed() {
        let all = seen(&[], &[]);
        let begin = |site: &SiteTunnel| all.with(3, 0.0, |sight| Ahead::begin(site, AT, sight));
        assert_eq!(begin(&SiteTunnel { multi_homed: true, ..site() }), None);
        assert_eq!(begin(&SiteTunnel { key: None, ..site() }), None);
        let ahead = begin(&site()).expect("single-homed");
        assert!(!ahead.is_of(&SiteTunnel { key: Some(TunnelKey([2; 32])), ..site() }));
    }
}
