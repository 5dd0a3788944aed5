//! A real cluster of one node: its log on disk, its leader elected.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use pangolin_core::{ClusterId, NodeId, plan::PeerPlan};
use pangolin_peer::{
    BoundPeers,
    identity::{AuthorityKey, NodeIdentity, NodeKey},
};
use pangolin_raft::{Cluster, RaftConfig, Timing};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Nobody else votes, so that elections may be short.
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(25),
    election_min: Duration::from_millis(60),
    election_max: Duration::from_millis(250),
};

/// A cluster whose node is 1, created, with a leader. Its peers' task runs in `tasks`.
pub(crate) async fn cluster(dir: &Path, tasks: &mut JoinSet<()>) -> Cluster {
    let (node, id) = (NodeId(1), ClusterId([7; 16]));
    let authority = AuthorityKey::create("test").expect("an authority");
    let key = NodeKey::generate().expect("a key");
    let csr = key.csr_der().expect("a request");
    let identity = NodeIdentity {
        cluster: id,
        lineage: 1,
        node,
        authority: authority.certificate().to_vec(),
        certificate: authority.sign_node(&csr, id, node, SystemTime::now()).expect("a certificate"),
        key,
    };
    let bound = BoundPeers::bind("127.0.0.1:0".parse().expect("an address")).await.expect("a port");
    let (peers, task) = bound.start(identity, &tokio::runtime::Handle::current());
    tasks.spawn(async move {
        let _ = task.run(CancellationToken::new()).await;
    });
    peers.set_plan(PeerPlan { cluster: Some(id), lineage: 1, ..PeerPlan::default() });
    let config = RaftConfig { timing: TIMING, ..RaftConfig::new(node, dir) };
    let cluster = Cluster::start(config, peers).await.expect("a cluster");
    cluster.bootstrap().await.expect("the first node");
    let created = crate::server::proposal(crate::server::cluster_created());
    cluster.propose(created).await.expect("a leader and its first entry");
    cluster
}
