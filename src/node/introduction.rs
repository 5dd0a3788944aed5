//! What a node tells the cluster of itself when it starts.

use std::time::Duration;

use pangolin_core::{Body, Cause, ClusterState, Fence, NodeId, command::Actor};
use pangolin_raft::{Cluster, Proposal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::RETRY;

/// Pause after the cluster has refused it: somebody has to change something first.
const REFUSED_RETRY: Duration = Duration::from_secs(60);

/// What the node that made the cluster has to tell.
pub(super) struct First {
    pub(super) created: Option<pangolin_core::command::ClusterCreated>,
    pub(super) recovery: Option<pangolin_core::record::RecoveryPublic>,
}

/// Tells the cluster what has to be told once: on the first node that there is a cluster now, on every node what the
/// configuration has changed about it.
pub(super) async fn introduce(
    cluster: Cluster,
    node: NodeId,
    first: First,
    spec: pangolin_core::record::NodeSpec,
    shutdown: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut states = cluster.watch();
    loop {
        let state = states.borrow_and_update().clone();
        let Some((reason, body)) = introduction(&state, node, &first, &spec) else {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = states.changed() => continue,
            }
        };
        let cause = Cause::new(Actor::Node(node), reason);
        let proposal = Proposal { request: None, cause, fence: Fence::None, body };
        let proposed = cluster.propose(proposal).await;
        match proposed.map(|done| done.outcome.into_result().map(|_| done.revision)) {
            // What comes next follows from the state that shows this.
            Ok(Ok(revision)) if cluster.wait_applied(revision, RETRY).await.is_ok() => continue,
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => {
                warn!(%refusal, "the cluster does not take what this node's configuration says");
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(REFUSED_RETRY) => continue,
                }
            }
            Err(error) => info!(%error, "the cluster does not take changes yet"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn introduction(
    state: &ClusterState,
    node: NodeId,
    first: &First,
    spec: &pangolin_core::record::NodeSpec,
) -> Option<(&'static str, Body)> {
    if state.cluster().is_none() {
        let created = first.created.clone()?;
        return Some(("`pangolind init` was run on this host", Body::ClusterCreated(Box::new(created))));
    }
    if let (None, Some(key)) = (state.recovery_key(), first.recovery) {
        return Some(("`pangolind init` was run on this host", Body::RecoveryKeyChanged(key)));
    }
    let known = &state.nodes().get(&node)?.spec;
    // Name, role and certificate key were fixed when the node was admitted.
    let wanted = pangolin_core::record::NodeSpec {
        name: known.name.clone(),
        role: known.role,
        spki: known.spki,
        ..spec.clone()
    };
    (*known != wanted).then(|| {
        ("its configuration or version has changed", Body::NodeChanged { node, spec: Box::new(wanted) })
    })
}
