//! Who is let in, and who is not.

use pangolin_core::{
    id::{ClusterId, NodeId},
    plan::PeerPlan,
};
use pangolin_peer::{BoundPeers, PeerError, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::lab::{Lab, Node, until};

#[tokio::test]
async fn a_removed_node_is_cut_off_at_once_and_refused_from_then_on() {
    let lab = Lab::new();
    let nodes = lab.mesh(3).await;
    let [a, b, c] = &nodes[..] else { panic!() };
    let mut stream = c.peers.open(a.id(), Service::Relay).await.unwrap();
    stream.write_all(b"hang").await.unwrap();

    let rest = lab.plan(&[a, b]);
    a.peers.set_plan(rest.clone());
    b.peers.set_plan(rest);
    stream.read(&mut [0; 8]).await.unwrap_err();
    c.is_kept_from(a.id(), "not a member").await;
    c.is_kept_from(b.id(), "not a member").await;
    assert!(matches!(a.ask(c.id(), "x").await, Err(PeerError::UnknownNode(_))));
    assert!(a.peers.is_suspect(c.id()), "nothing goes to a node that is no member");
    assert_eq!(a.sees(c.id()), None);
    assert_eq!(a.ask(b.id(), "still").await.unwrap(), "still");
}

#[tokio::test]
async fn a_node_without_a_plan_refuses_everybody() {
    let lab = Lab::new();
    let (a, b) = (lab.node(1).await, lab.node(2).await);
    a.peers.set_plan(lab.plan(&[&a, &b]));
    a.is_kept_from(b.id(), "does not know the members yet").await;
    b.peers.set_plan(lab.plan(&[&a, &b]));
    a.reaches(b.id()).await;
    b.peers.set_plan(PeerPlan::default());
    a.is_kept_from(b.id(), "does not know the members yet").await;
}

/// Node 2 as `stranger`, and node 1 as it should be; both think that they know each other.
async fn meet(lab: &Lab, stranger: Node) -> (Node, Node) {
    let a = lab.node(1).await;
    let plan = lab.plan(&[&a, &stranger]);
    a.peers.set_plan(plan.clone());
    stranger.peers.set_plan(plan);
    (a, stranger)
}

#[tokio::test]
async fn a_foreign_authority_is_refused_in_both_directions() {
    let (lab, other) = (Lab::new(), Lab::new());
    let (a, b) = meet(&lab, other.node(2).await).await;
    a.is_kept_from(b.id(), "certificate").await;
    b.is_kept_from(a.id(), "certificate").await;
}

#[tokio::test]
async fn a_certificate_with_the_right_name_and_another_key_is_refused_in_both_directions() {
    let lab = Lab::new();
    let (a, b) = (lab.node(1).await, lab.node(2).await);
    let mut plan = lab.plan(&[&a, &b]);
    plan.nodes.get_mut(&b.id()).unwrap().spki = a.spki;
    a.peers.set_plan(plan);
    b.peers.set_plan(lab.plan(&[&a, &b]));
    a.is_kept_from(b.id(), "not the one that it was admitted with").await;
    b.is_kept_from(a.id(), "not the one that node 2 was admitted with").await;
}

#[tokio::test]
async fn another_cluster_under_the_same_authority_is_refused() {
    let lab = Lab::new();
    let cluster = ClusterId([2; 16]);
    let key = pangolin_peer::identity::NodeKey::generate().unwrap();
    let now = std::time::SystemTime::now();
    let csr = key.csr_der().unwrap();
    let certificate = lab.authority.sign_node(&csr, cluster, NodeId(2), now).unwrap();
    let stranger = pangolin_peer::identity::NodeIdentity { cluster, certificate, key, ..lab.identity(2) };
    let (a, b) = meet(&lab, Node::start(stranger).await).await;
    a.is_kept_from(b.id(), "certificate").await;
    b.is_kept_from(a.id(), "certificate").await;
}

#[tokio::test]
async fn another_lineage_is_refused_and_the_reason_says_so() {
    let lab = Lab::new();
    let mut identity = lab.identity(2);
    identity.lineage = 2;
    let (a, b) = meet(&lab, Node::start(identity).await).await;
    a.is_kept_from(b.id(), "lineage").await;
    b.is_kept_from(a.id(), "lineage").await;
}

#[tokio::test]
async fn a_new_lineage_of_the_plan_cuts_whoever_stays_in_the_old_one() {
    let lab = Lab::new();
    let nodes = lab.mesh(2).await;
    let mut plan = lab.plan(&[&nodes[0], &nodes[1]]);
    plan.lineage = 2;
    nodes[0].peers.set_plan(plan.clone());
    nodes[1].is_kept_from(NodeId(1), "lineage").await;
    nodes[1].peers.set_plan(plan);
    nodes[0].reaches(NodeId(2)).await;
    nodes[1].reaches(NodeId(1)).await;
}

#[tokio::test]
async fn a_node_that_moves_is_followed_to_its_new_address() {
    let lab = Lab::new();
    let identity = lab.identity(2);
    let (a, old) = (lab.node(1).await, Node::start(identity.clone()).await);
    let plan = lab.plan(&[&a, &old]);
    a.peers.set_plan(plan.clone());
    old.peers.set_plan(plan);
    a.reaches(NodeId(2)).await;
    old.stop().await;
    let new = Node::start(identity).await;
    let plan = lab.plan(&[&a, &new]);
    a.peers.set_plan(plan.clone());
    new.peers.set_plan(plan);
    a.reaches(NodeId(2)).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_for_new_connections() {
    let lab = Lab::new();
    let nodes = lab.mesh(2).await;
    let identity = lab.identity(1);
    // Another key than the one that was admitted: the next connection has to fail.
    nodes[0].peers.renew(&identity).unwrap();
    let without = lab.plan(&[&nodes[0]]);
    nodes[0].peers.set_plan(without);
    nodes[0].peers.set_plan(lab.plan(&[&nodes[0], &nodes[1]]));
    nodes[0].is_kept_from(NodeId(2), "not the one that node 1 was admitted with").await;
}

#[tokio::test]
async fn an_identity_that_cannot_be_used_is_reported_by_the_task() {
    let lab = Lab::new();
    let mixed = pangolin_peer::identity::NodeIdentity { key: lab.identity(2).key, ..lab.identity(1) };
    let bound = BoundPeers::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (peers, task) = bound.start(mixed, &tokio::runtime::Handle::current());
    let error = task.run(CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, PeerError::Identity(_)), "{error}");
    until("nothing was seen", || peers.seen().borrow().is_empty()).await;
}

#[tokio::test]
async fn a_taken_port_is_reported() {
    let first = BoundPeers::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let error = BoundPeers::bind(first.local_addr()).await.unwrap_err();
    assert!(error.to_string().contains(&first.local_addr().to_string()), "{error}");
}
