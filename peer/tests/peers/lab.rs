//! A small cluster of nodes that only have their peers' part.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use pangolin_core::{
    id::{ClusterId, NodeId},
    plan::{PeerPlan, PlannedPeer},
    record::Digest,
};
use pangolin_peer::{
    BoundPeers, BoxFuture, Handler, PeerError, PeerStream, Peers, Service,
    identity::{AuthorityKey, NodeIdentity, NodeKey},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub(crate) const LIMIT: Duration = Duration::from_secs(5);

pub(crate) struct Lab {
    pub(crate) authority: AuthorityKey,
    pub(crate) cluster: ClusterId,
    pub(crate) lineage: u64,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let authority = AuthorityKey::create("test cluster").unwrap();
        Self { authority, cluster: ClusterId([1; 16]), lineage: 1 }
    }

    pub(crate) fn identity(&self, id: u64) -> NodeIdentity {
        let (node, key) = (NodeId(id), NodeKey::generate().unwrap());
        let csr = key.csr_der().unwrap();
        let now = std::time::SystemTime::now();
        let certificate = self.authority.sign_node(&csr, self.cluster, node, now).unwrap();
        NodeIdentity {
            cluster: self.cluster,
            lineage: self.lineage,
            node,
            authority: self.authority.certificate().to_vec(),
            certificate,
            key,
        }
    }

    pub(crate) async fn node(&self, id: u64) -> Node {
        Node::start(self.identity(id)).await
    }

    pub(crate) fn plan(&self, nodes: &[&Node]) -> PeerPlan {
        let nodes = nodes.iter().map(|node| (node.id(), node.planned())).collect();
        let (cluster, lineage) = (Some(self.cluster), self.lineage);
        PeerPlan { cluster, lineage, known_until: u64::MAX, nodes, ..PeerPlan::default() }
    }

    /// Nodes 1 to `count`, all of them connected.
    pub(crate) async fn mesh(&self, count: u64) -> Vec<Node> {
        let mut nodes = Vec::new();
        for id in 1..=count {
            nodes.push(self.node(id).await);
        }
        self.introduce(&nodes);
        for node in &nodes {
            node.sees_all(&nodes).await;
        }
        nodes
    }

    pub(crate) fn introduce(&self, nodes: &[Node]) {
        let plan = self.plan(&nodes.iter().collect::<Vec<_>>());
        nodes.iter().for_each(|node| node.peers.set_plan(plan.clone()));
    }
}

pub(crate) struct Node {
    pub(crate) peers: Peers,
    pub(crate) address: SocketAddr,
    pub(crate) spki: Digest,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), PeerError>>,
}

impl Node {
    pub(crate) async fn start(identity: NodeIdentity) -> Self {
        Self::start_at(identity, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn start_at(identity: NodeIdentity, address: SocketAddr) -> Self {
        let bound = BoundPeers::bind(address).await.unwrap();
        let (address, spki) = (bound.local_addr(), identity.key.spki_digest());
        let (peers, task) = bound.start(identity, &tokio::runtime::Handle::current());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(task.run(shutdown.clone()));
        for service in [Service::Raft, Service::Relay, Service::Snapshot, Service::Status] {
            peers.serve(service, Arc::new(Echo(peers.node())));
        }
        Self { peers, address, spki, shutdown, task }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.peers.node()
    }

    pub(crate) fn planned(&self) -> PlannedPeer {
        PlannedPeer { name: format!("n{}", self.id()), address: self.address, spki: self.spki }
    }

    pub(crate) fn sees(&self, node: NodeId) -> Option<bool> {
        self.peers.seen().borrow().get(&node).map(|seen| seen.alive)
    }

    pub(crate) async fn sees_all(&self, nodes: &[Self]) {
        let others = || nodes.iter().filter(|other| other.id() != self.id());
        until("all nodes are alive", || others().all(|other| self.sees(other.id()) == Some(true))).await;
    }

    pub(crate) async fn ask(&self, to: NodeId, body: &'static str) -> Result<Bytes, PeerError> {
        self.peers.request(to, Service::Raft, Bytes::from_static(body.as_bytes()), LIMIT).await
    }

    /// Asks until the other node answers.
    pub(crate) async fn reaches(&self, to: NodeId) {
        let end = Instant::now() + 2 * LIMIT;
        while let Err(error) = self.ask(to, "x").await {
            assert!(Instant::now() < end, "{error}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks until the answer is an error that says `text`.
    pub(crate) async fn is_kept_from(&self, to: NodeId, text: &str) {
        let end = Instant::now() + 2 * LIMIT;
        loop {
            let error = self.ask(to, "x").await.expect_err("it should not answer");
            // The connection may be cut while a request is under way.
            assert!(error.not_delivered() || matches!(error, PeerError::Lost { .. }), "{error}");
            if error.to_string().contains(text) {
                return;
            }
            assert!(Instant::now() < end, "no {text:?} in {error}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Says what it was told, with the numbers of both nodes before it; some words make it do other things.
pub(crate) struct Echo(NodeId);

impl Handler for Echo {
    fn request(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            match &body[..] {
                b"refuse" => Err("not today".to_owned()),
                b"panic" => panic!("as the test wants it"),
                b"sleep" => std::future::pending().await,
                b"who" => Ok(Bytes::from(format!("{from} asks {}", self.0))),
                _ => Ok(body),
            }
        })
    }

    fn stream(&self, _: NodeId, mut stream: PeerStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let mut order = [0; 4];
            if stream.read_exact(&mut order).await.is_err() {
                return;
            }
            match &order {
                b"echo" => {
                    let (mut reader, mut writer) = tokio::io::split(&mut stream);
                    if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                        let _ = writer.shutdown().await;
                    }
                }
                // Ends after the request has, in the middle of its answer.
                b"part" => {
                    let mut request = Vec::new();
                    let _ = stream.read_to_end(&mut request).await;
                    let _ = stream.write_all(b"half of it").await;
                    let _ = stream.flush().await;
                }
                _ => std::future::pending().await,
            }
        })
    }
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + 2 * LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {:?}", 2 * LIMIT);
        sleep(Duration::from_millis(5)).await;
    }
}
