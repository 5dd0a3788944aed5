//! A group of nodes in one process, over real connections on loopback.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use pangolin_core::{
    command::{Actor, Body, CatalogChange, Cause, ClusterCreated, Fence},
    id::{ClientId, ClusterId, NodeId, RequestId},
    plan::{PeerPlan, PlannedPeer},
    record::{Authority, Digest, NodeRole, NodeSpec, Sealed, Settings, TunnelKey},
};
use pangolin_peer::{
    BoundPeers, BoxFuture, PeerError, Peers, Service,
    identity::{AuthorityKey, NodeIdentity, NodeKey},
};
use pangolin_raft::{
    Cluster, Committed, Duplex, Endpoint, Leader, MembershipError, Proposal, RaftConfig, RaftError, Timing,
    Transport,
};
use pangolin_storage::{RaftStore, simulated::Disk};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
/// Patient enough for a machine that has other work to do.
pub(crate) const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(60),
    election_min: Duration::from_millis(400),
    election_max: Duration::from_millis(700),
};
/// How long a test waits for anything.
pub(crate) const WAIT: Duration = Duration::from_secs(15);

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) cluster: Cluster,
    pub(crate) peers: Peers,
    address: SocketAddr,
    key: NodeKey,
    dir: TempDir,
    _network: DropGuard,
}

/// Nodes by number, and what is needed for more of them.
pub(crate) struct Group {
    authority: AuthorityKey,
    pub(crate) nodes: BTreeMap<u64, Node>,
    tweak: fn(&mut RaftConfig),
    /// Where the log of a lone node lives, if not in a file.
    disk: Option<Disk>,
    /// How long a packet is on its way.
    way: Duration,
}

/// Nodes that are further apart than the two ends of loopback.
struct Far {
    peers: Peers,
    way: Duration,
}

impl Transport for Far {
    fn request(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>> {
        let answered = async move {
            tokio::time::sleep(self.way).await;
            let answer = self.peers.request(to, service, body, within).await;
            tokio::time::sleep(self.way).await;
            answer
        };
        Box::pin(async move {
            let late = PeerError::Timeout { node: to, after: within, sent: true };
            tokio::time::timeout(within, answered).await.unwrap_or(Err(late))
        })
    }

    fn open(&self, to: NodeId, service: Service) -> BoxFuture<'_, Result<Box<dyn Duplex>, PeerError>> {
        Transport::open(&self.peers, to, service)
    }

    fn serve(&self, service: Service, endpoint: Endpoint) {
        Transport::serve(&self.peers, service, endpoint);
    }

    fn is_suspect(&self, node: NodeId) -> bool {
        self.peers.is_suspect(node)
    }
}

impl Group {
    /// Node 1 alone, bootstrapped, with the cluster created.
    pub(crate) async fn of_one() -> Self {
        Self::tweaked(|_| {}).await
    }

    /// Node 1 alone, with its log on `disk`.
    pub(crate) async fn on(disk: Disk) -> Self {
        Self::begin(|_| {}, Some(disk), Duration::ZERO).await
    }

    pub(crate) async fn tweaked(tweak: fn(&mut RaftConfig)) -> Self {
        Self::begin(tweak, None, Duration::ZERO).await
    }

    /// Nodes 1 to 3, all voters, timed for distances, with packets that are on their way for so long.
    pub(crate) async fn far(way: Duration) -> Self {
        let mut group = Self::begin(|config| config.timing = Timing::wan(), None, way).await;
        group.grow(3).await;
        group
    }

    async fn begin(tweak: fn(&mut RaftConfig), disk: Option<Disk>, way: Duration) -> Self {
        let authority = AuthorityKey::create("test").expect("authority");
        let mut group = Self { authority, nodes: BTreeMap::new(), tweak, disk, way };
        group.add(1).await;
        group.node(1).bootstrap().await.expect("bootstrapped");
        group.leader().await;
        let created = insist(group.node(1), named(created())).await;
        assert_eq!(created.revision.lineage, 1);
        group
    }

    /// Nodes 1 to `count`, all voters.
    pub(crate) async fn of(count: u64) -> Self {
        let mut group = Self::of_one().await;
        group.grow(count).await;
        group
    }

    async fn grow(&mut self, count: u64) {
        for id in 2..=count {
            self.add(id).await;
            self.join(id).await;
            self.promote(id).await;
        }
    }

    pub(crate) fn node(&self, id: u64) -> &Cluster {
        &self.nodes[&id].cluster
    }

    /// Starts a node that is no member yet.
    pub(crate) async fn add(&mut self, id: u64) {
        let dir = tempfile::tempdir().expect("tempdir");
        self.start(id, dir, NodeKey::generate().expect("key")).await;
    }

    async fn start(&mut self, id: u64, dir: TempDir, key: NodeKey) {
        self.try_start(id, dir, key).await.expect("started");
    }

    async fn try_start(&mut self, id: u64, dir: TempDir, key: NodeKey) -> Result<(), RaftError> {
        let certificate = self
            .authority
            .sign_node(&key.csr_der().expect("csr"), CLUSTER, NodeId(id), SystemTime::now())
            .expect("signed");
        let identity = NodeIdentity {
            cluster: CLUSTER,
            lineage: 1,
            node: NodeId(id),
            authority: self.authority.certificate().to_vec(),
            certificate,
            key: key.clone(),
        };
        let bound = BoundPeers::bind("127.0.0.1:0".parse().expect("address")).await.expect("bound");
        let address = bound.local_addr();
        let (peers, task) = bound.start(identity, &tokio::runtime::Handle::current());
        let network = CancellationToken::new();
        tokio::spawn(task.run(network.clone()));
        let mut config = RaftConfig { timing: TIMING, ..RaftConfig::new(NodeId(id), dir.path()) };
        (self.tweak)(&mut config);
        let cluster = match &self.disk {
            None if !self.way.is_zero() => {
                Cluster::start(config, Far { peers: peers.clone(), way: self.way }).await?
            }
            None => Cluster::start(config, peers.clone()).await?,
            Some(disk) => {
                let store = RaftStore::open_on(dir.path(), disk.open()).expect("opened");
                Cluster::start_on(config, peers.clone(), store).await?
            }
        };
        let node = Node { id: NodeId(id), cluster, peers, address, key, dir, _network: network.drop_guard() };
        self.nodes.insert(id, node);
        self.plan();
        Ok(())
    }

    /// Tells everyone where everyone is.
    fn plan(&self) {
        let planned = |node: &Node| PlannedPeer {
            name: format!("n{}", node.id),
            address: node.address,
            spki: node.key.spki_digest(),
        };
        let nodes = self.nodes.values().map(|node| (node.id, planned(node))).collect();
        let cluster = Some(CLUSTER);
        let plan = PeerPlan { cluster, lineage: 1, known_until: u64::MAX, nodes, ..PeerPlan::default() };
        self.nodes.values().for_each(|node| node.peers.set_plan(plan.clone()));
    }

    pub(crate) async fn join(&self, id: u64) {
        self.change(async |leader| leader.add_learner(NodeId(id)).await).await;
    }

    pub(crate) async fn promote(&self, id: u64) {
        self.change(async |leader| leader.promote(NodeId(id)).await).await;
    }

    /// Changes the members through whoever leads. Tried again when the leadership is lost on the way, as on a busy
    /// machine it may be: the changes do nothing where they are done already.
    async fn change(&self, change: impl AsyncFn(Leader<'_>) -> Result<(), MembershipError>) {
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            let leader = self.leader().await;
            let changed = match self.node(leader).lead() {
                Some(leader) => change(leader).await,
                None => continue,
            };
            match changed {
                Ok(()) => return,
                Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a leader with a majority behind it.
    pub(crate) async fn leader(&self) -> u64 {
        until("a leader", || {
            // What is published may be a moment behind: who has just lost the leadership may still be announced.
            let led = |node: &Node| {
                let led = *node.cluster.leadership().borrow();
                led.filter(|term| node.cluster.lead().is_some_and(|leader| leader.term() == *term))
            };
            self.nodes.values().filter_map(|node| Some((led(node)?, node.id.0))).max().map(|(_, id)| id)
        })
        .await
    }

    /// Takes a node's network away at once; its disk stays.
    pub(crate) fn kill(&mut self, id: u64) -> (u64, TempDir, NodeKey) {
        let Node { cluster, dir, key, _network, .. } = self.nodes.remove(&id).expect("there");
        drop(_network);
        let copy = copy(dir.path());
        drop(cluster);
        (id, copy, key)
    }

    pub(crate) async fn revive(&mut self, (id, dir, key): (u64, TempDir, NodeKey)) {
        self.start(id, dir, key).await;
    }

    pub(crate) async fn try_revive(&mut self, stopped: (u64, TempDir, NodeKey)) -> Result<(), RaftError> {
        let (id, dir, key) = stopped;
        self.try_start(id, dir, key).await
    }

    /// Ends a node in an orderly way.
    pub(crate) async fn stop(&mut self, id: u64) -> (u64, TempDir, NodeKey) {
        let node = self.nodes.remove(&id).expect("there");
        node.cluster.shutdown().await;
        (id, node.dir, node.key)
    }

    /// Waits until all nodes have the state that `id` has now.
    pub(crate) async fn settle(&self, id: u64) {
        let state = self.node(id).state();
        for node in self.nodes.values() {
            node.cluster.wait_applied(state.revision(), WAIT).await.expect("applied");
        }
    }
}

/// The state directory as a process that was killed leaves it: the watermark goes first, it is never ahead.
fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir_all(to.path().join("raft/log")).expect("made");
    for part in ["raft", "raft/log"] {
        let mut files: Vec<_> = std::fs::read_dir(from.join(part)).expect("read").flatten().collect();
        files.sort_by_key(|file| file.file_name() != "watermark");
        for file in files.into_iter().filter(|file| file.path().is_file()) {
            std::fs::copy(file.path(), to.path().join(part).join(file.file_name())).expect("copied");
        }
    }
    to
}

/// Looks again and again until there is an answer.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn proposal(body: Body) -> Proposal {
    let cause = Cause::new(Actor::Operator("test".into()), "a test");
    Proposal { request: None, cause, fence: Fence::None, body }
}

/// A request with a name of its own.
pub(crate) fn named(body: Body) -> Proposal {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    Proposal { request: Some(RequestId { client: ClientId([9; 16]), serial }), ..proposal(body) }
}

pub(crate) fn org(name: &str) -> Body {
    let id = name.parse().expect("slug");
    Body::Catalog(Box::new(CatalogChange::OrgCreated { id, name: name.to_owned() }))
}

/// Proposes until it is done: what a client with a request id may do.
pub(crate) async fn insist(cluster: &Cluster, proposal: Proposal) -> Committed {
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        match cluster.propose(proposal.clone()).await {
            Ok(committed) => return committed,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn created() -> Body {
    let sealed = || Sealed { kek: 1, wrapped_key: vec![], content: vec![] };
    let authority = || Authority { certificate: vec![], key: sealed() };
    Body::ClusterCreated(Box::new(ClusterCreated {
        id: CLUSTER,
        name: "test".parse().expect("slug"),
        authority: authority(),
        issuer: authority(),
        settings: Settings {
            zone: "pangolin.test".parse().expect("name"),
            control_host: "app.pangolin.test".parse().expect("name"),
            tunnel_network: "100.89.0.0/16".parse().expect("network"),
            ttl: 30,
        },
        node: NodeId(1),
        spec: NodeSpec {
            name: "n1".parse().expect("slug"),
            role: NodeRole::Data,
            peer_address: "127.0.0.1:7420".parse().expect("address"),
            spki: Digest([1; 32]),
            public_addresses: vec![],
            https_port: 443,
            tunnel_endpoint: "127.0.0.1:51820".into(),
            tunnel_key: TunnelKey([1; 32]),
            region: None,
            version: "1".into(),
            feature_level: pangolin_core::feature::NEWEST,
        },
    }))
}
