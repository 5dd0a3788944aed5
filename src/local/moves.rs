//! Moves the tunnels of single-homed sites whose control sockets are here, at once when the node is lost where a tunnel
//! ends: [`Ahead`] says where to, and this tells the connector. Many at a time go in small groups, so that the node that
//! takes over keeps up with the handshakes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use pangolin_core::{
    NodeId, SiteId,
    decide::{Ahead, Sight},
    plan::TunnelPlan,
};
use pangolin_peer::Peers;
use pangolin_raft::Cluster;
use pangolin_tunnel::control::ControlService;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{pace::rest_after, reports::Reports};
use crate::clock;

/// How often the sites are looked at though nothing has changed: a tunnel that does not come up is no event.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Between two looks while connectors wait for their turn.
const TURN: Duration = Duration::from_millis(100);
/// Connectors sent to one node in one turn. WireGuard takes 100 handshakes a second before it makes senders prove their
/// addresses first, and several nodes may send connectors to the same one.
const AT_A_TIME: usize = 4;

/// Moves tunnels ahead of the plan.
pub struct Moves {
    /// This node.
    pub node: NodeId,
    /// The sites' control sockets.
    pub control: Arc<ControlService>,
    /// What is planned.
    pub plan: watch::Receiver<Arc<TunnelPlan>>,
    /// How far this node is.
    pub cluster: Cluster,
    /// Which nodes answer.
    pub peers: Peers,
    /// Which tunnels are alive, and how far the others are.
    pub reports: Reports,
}

impl Moves {
    /// Runs until told to end.
    ///
    /// # Errors
    /// None: what cannot be done now is tried again.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut followed = BTreeMap::new();
        let (mut peers, mut reports) = (self.peers.seen(), self.reports.changes());
        let mut attached = self.control.attached();
        loop {
            peers.mark_unchanged();
            reports.mark_unchanged();
            // Borrowed for no longer than the copy takes: a socket that opens meanwhile holds what `look` has to wait for.
            let here = attached.borrow_and_update().clone();
            let began = Instant::now();
            let wait = self.look(&mut followed, &here);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(rest_after(began.elapsed())) => {}
            }
            let changed = async {
                tokio::select! {
                    Ok(()) = attached.changed() => {}
                    Ok(()) = self.plan.changed() => {}
                    Ok(()) = peers.changed(), if !followed.is_empty() => {}
                    Ok(()) = reports.changed(), if !followed.is_empty() => {}
                    else => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = changed => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// Whether what this node sees of the others is worth acting on.
    fn is_in_company(&self) -> bool {
        let seen = self.peers.seen();
        let seen = seen.borrow();
        in_company(seen.values().filter(|seen| seen.alive).count(), seen.len())
    }

    /// Looks at every site that is attached here, and moves those that have to be. Gives the time until the next look,
    /// if there is something to look at.
    fn look(
        &mut self,
        followed: &mut BTreeMap<SiteId, Ahead>,
        attached: &BTreeSet<SiteId>,
    ) -> Option<Duration> {
        let plan = self.plan.borrow_and_update().clone();
        followed.retain(|site, _| attached.contains(site));
        if !followed.is_empty() && !self.is_in_company() {
            return Some(LOOK_EVERY);
        }
        let mut turns: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut waiting = false;
        for site in attached.iter().filter_map(|site| plan.sites.get(site)) {
            let carrying = self.reports.tunnels_to(site.site);
            let sight = Sight {
                own: self.node,
                now: clock::steady(),
                suspect: &|node| self.peers.is_suspect(node),
                carried: &|node| carrying.contains(&node),
                applied: &|node, revision| {
                    node == self.node
                        || self.reports.look_at(node, |report| report.applied >= revision) == Some(true)
                },
            };
            if followed.get(&site.site).is_none_or(|ahead| !ahead.is_of(site)) {
                let at = self.cluster.state().revision();
                match Ahead::begin(site, at, &sight) {
                    Some(ahead) => drop(followed.insert(site.site, ahead)),
                    None => drop(followed.remove(&site.site)),
                }
            }
            let Some(ahead) = followed.get_mut(&site.site) else { continue };
            let from = ahead.end();
            let Some((to, reason)) = ahead.look(site, &sight) else { continue };
            let turn = turns.entry(to).or_default();
            if *turn >= AT_A_TIME {
                waiting = true;
                continue;
            }
            if self.control.move_to(site.site, to) {
                *turn += 1;
                info!(site = %site.site, %from, %to, reason, "moving a tunnel ahead of the plan");
            }
            ahead.pushed(to, sight.now);
        }
        match followed.is_empty() {
            true => None,
            false if waiting => Some(TURN),
            false => Some(LOOK_EVERY),
        }
    }
}

/// Whether a node that reaches so many of so many others is not the one that is cut off: with itself, at least half. A
/// lonely node would draw tunnels to itself that live elsewhere; connectors that have lost theirs ask by themselves.
fn in_company(reached: usize, others: usize) -> bool {
    2 * (reached + 1) > others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lonely_node_moves_nothing() {
        let cases = [
            (0, 0, true),
            (0, 1, true),
            (1, 1, true),
            (0, 2, false),
            (1, 2, true),
            (0, 4, false),
            (1, 4, false),
            (2, 4, true),
        ];
        for (reached, others, expected) in cases {
            assert_eq!(in_company(reached, others), expected, "{reached} of {others}");
        }
    }
}
