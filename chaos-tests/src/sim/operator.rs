//! An operator who takes nodes out of service and back, one at a time: so that leaders have something to decide.

use std::time::Duration;

use pangolin_core::{Actor, Body, Cause, Fence, NodeId, record::AdminState};
use pangolin_raft::Proposal;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{client::Doors, dice::Dice};

/// How long the operator waits for an answer before asking another node.
const PATIENCE: Duration = Duration::from_secs(3);

/// The operator.
pub(crate) struct Operator {
    /// Whom it can ask.
    pub(crate) doors: Doors,
    /// What it wants.
    pub(crate) dice: Dice,
    /// The nodes of the cluster.
    pub(crate) nodes: Vec<NodeId>,
}

impl Operator {
    /// Drains one node after the other until told to end; then all are back in service, once the cluster takes writes.
    pub(crate) async fn run(mut self, end: CancellationToken) {
        while !end.is_cancelled() {
            let Some(node) = self.dice.pick(&self.nodes) else { return };
            for admin in [AdminState::Drained, AdminState::Active] {
                self.set(node, admin).await;
                let pause = self.dice.time(400, 1600);
                tokio::select! {
                    () = sleep(pause) => {}
                    () = end.cancelled() => {}
                }
            }
        }
    }

    /// Asks any node, until one says that it is done. Asking twice does no harm.
    async fn set(&mut self, node: NodeId, admin: AdminState) {
        let proposal = Proposal {
            request: None,
            cause: Cause::new(Actor::Operator("simulator".into()), "maintenance"),
            fence: Fence::None,
            body: Body::NodeAdmin { node, admin },
        };
        loop {
            let doors: Vec<NodeId> = self.doors.lock().keys().copied().collect();
            let door = self.dice.pick(&doors).and_then(|door| self.doors.lock().get(&door).cloned());
            if let Some(alive) = door {
                let asked = timeout(PATIENCE, alive.cluster.propose(proposal.clone()));
                tokio::select! {
                    () = alive.ended.cancelled() => {}
                    answer = asked => if matches!(answer, Ok(Ok(_))) { return },
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
