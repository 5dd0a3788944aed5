//! What a witness runs in place of the layers: it knows who the members are, and nothing else.

use std::time::Duration;

use pangolin_core::{NodeId, Revision, plan::plan};
use pangolin_peer::Peers;
use pangolin_raft::Cluster;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reports::Reports;

/// How often everything is brought in line though nothing changed.
const SLOW: Duration = Duration::from_secs(30);

/// The members, as a witness follows them.
pub struct Witness {
    /// This node.
    pub node: NodeId,
    /// Where states come from.
    pub cluster: Cluster,
    /// Who may talk to this node.
    pub peers: Peers,
    /// What others have seen; forgets removed nodes.
    pub reports: Reports,
    /// How far it has come.
    pub reached: watch::Sender<Revision>,
}

impl Witness {
    /// Follows the members until told to end.
    ///
    /// # Errors
    /// None.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut states = self.cluster.watch();
        loop {
            let state = states.borrow_and_update().clone();
            let peers = plan(&state, self.node).peers;
            self.reports.retain(&peers.nodes.keys().copied().collect::<Vec<_>>());
            self.peers.set_plan(peers);
            self.reached.send_replace(state.revision());
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                // The common path is the recovery path; and the watchdog wants to see it.
                () = tokio::time::sleep(SLOW) => {}
            }
        }
    }
}
