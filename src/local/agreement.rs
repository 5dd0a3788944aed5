//! Watches that this node's state is that of the others, and ends the node when it is not.

use std::time::Duration;

use pangolin_core::{
    NodeId,
    agreement::{Agreement, compare},
};
use pangolin_peer::Peers;
use pangolin_raft::Cluster;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::reports::Reports;
use crate::{
    clock,
    state_dir::{StateDir, StateDirError},
};

/// How often the hashes are compared: the reports that bring them come every second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Compares this node's state with that of the others.
pub struct Watch {
    /// This node.
    pub node: NodeId,
    /// Whose state.
    pub cluster: Cluster,
    /// What the others have.
    pub reports: Reports,
    /// Keeps the time.
    pub peers: Peers,
    /// Where it is noted that this node's state is of no use any more.
    pub state_dir: StateDir,
}

impl Watch {
    /// Runs until told to end, or until this node's state differs from that of the majority.
    ///
    /// # Errors
    /// [`StateDirError::Diverged`]: the node must end and not come back with this state.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StateDirError> {
        let mut told = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = self.peers.beat(LOOK_EVERY) => {}
            }
            let members = self.cluster.state().nodes().len();
            let own = self.cluster.hashes();
            match compare(self.node, &own, &self.reports.snapshot(), members, clock::steady()) {
                Agreement::Agreed => {}
                Agreement::Disputed { at, others } => {
                    if told.replace(at) != Some(at) {
                        let others = listed(&others);
                        warn!(revision = %at, others, "nodes differ in their state, and no majority says which is right");
                    }
                }
                Agreement::Alone { at, others } => {
                    let others = listed(&others);
                    let found = format!("its state at revision {at} differs from that of nodes {others}");
                    return Err(self.state_dir.note_diverged(self.node, &found));
                }
            }
        }
    }
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
