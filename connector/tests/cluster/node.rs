//! A small cluster in this process: real control channels and real tunnels over loopback, and one plan that all its
//! nodes follow at once.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use pangolin_core::{
    Epoch, NodeId, Revision, SiteId, TargetId, Timestamp,
    plan::{SiteTunnel, TunnelNode, TunnelPlan, TunnelTarget},
    record::{Digest, HealthCheck, Method, TunnelKey},
};
use pangolin_tunnel::{
    BackendChoice, DEFAULT_MTU, SecretKey, TunnelConfig, TunnelLayer,
    control::{ControlService, ProvisionError, Provisioned, RegisterError, SiteControl},
};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub(crate) const SITE: SiteId = SiteId(4);
pub(crate) const PROVISIONING_KEY: &str = "spk000000000000.secret";
pub(crate) const ID: &str = "k3vhomelab00000";
pub(crate) const SECRET: &str = "secret of the home lab";

/// Nothing in these tests takes longer, unless it is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(elapsed.as_millis()).unwrap())
}

/// What all nodes agree on.
pub(crate) struct Agreed {
    plan: watch::Sender<(u64, Arc<TunnelPlan>)>,
    certificate: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Agreed {
    pub(crate) fn change(&self, change: impl FnOnce(&mut TunnelPlan)) {
        self.plan.send_modify(|(index, plan)| {
            *index += 1;
            change(Arc::make_mut(plan));
        });
    }

    pub(crate) fn change_site(&self, change: impl FnOnce(&mut SiteTunnel)) {
        self.plan.send_modify(|(index, plan)| {
            *index += 1;
            let site = Arc::make_mut(plan).sites.get_mut(&SITE).unwrap();
            site.config_version = *index;
            change(site);
        });
    }
}

/// A running node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) layer: TunnelLayer,
    pub(crate) control: Arc<ControlService>,
    pub(crate) address: SocketAddr,
    key: SecretKey,
    agreed: Arc<Agreed>,
    tasks: JoinSet<()>,
}

/// What remains of a node that was killed.
pub(crate) struct Dead {
    id: NodeId,
    key: SecretKey,
    web: SocketAddr,
    wireguard: SocketAddr,
    agreed: Arc<Agreed>,
}

/// The node's side of the control channel.
struct Port {
    id: NodeId,
    agreed: Arc<Agreed>,
    plan: watch::Receiver<Arc<TunnelPlan>>,
    layer: TunnelLayer,
}

impl SiteControl for Port {
    fn sign_in(&self, connector_id: &str, secret: &str) -> Option<SiteId> {
        (connector_id == ID && secret == SECRET).then_some(SITE)
    }

    fn provision(
        &self,
        key: String,
        _name: Option<String>,
    ) -> futures_util::future::BoxFuture<'_, Result<Provisioned, ProvisionError>> {
        Box::pin(async move {
            let good = key == PROVISIONING_KEY;
            let (connector_id, secret) = (ID.to_owned(), SECRET.to_owned().into());
            good.then_some(Provisioned { connector_id, secret }).ok_or(ProvisionError::Key)
        })
    }

    fn credential(&self, _: SiteId) -> Option<Digest> {
        Some(Digest([5; 32]))
    }

    fn register(
        &self,
        site: SiteId,
        key: TunnelKey,
        _: String,
        multi_homed: bool,
    ) -> futures_util::future::BoxFuture<'_, Result<(), RegisterError>> {
        Box::pin(async move {
            let known = |plan: &TunnelPlan| plan.sites[&site].key == Some(key);
            if !known(&self.plan.borrow()) {
                self.agreed.change(|plan| {
                    let tunnel = plan.sites.get_mut(&site).unwrap();
                    (tunnel.key, tunnel.multi_homed) = (Some(key), multi_homed);
                });
                self.plan.clone().wait_for(|plan| known(plan)).await.unwrap();
            }
            Ok(())
        })
    }

    fn carried(&self, site: SiteId, node: NodeId) -> bool {
        node == self.id && self.layer.seen().borrow().get(&site).is_some_and(|seen| seen.alive)
    }

    fn suspect(&self, _: NodeId) -> bool {
        false
    }

    fn wireguard(&self) -> Option<SocketAddr> {
        Some(self.layer.listen_address())
    }

    fn plan(&self) -> watch::Receiver<Arc<TunnelPlan>> {
        self.plan.clone()
    }

    fn node(&self) -> NodeId {
        self.id
    }
}

fn tunnel_address(id: NodeId) -> Ipv4Addr {
    Ipv4Addr::new(100, 89, 0, u8::try_from(id.0).unwrap())
}

/// Starts so many nodes, with one site that has no targets.
pub(crate) async fn cluster(nodes: u64) -> (Arc<Agreed>, Vec<Node>) {
    let site = SiteTunnel {
        site: SITE,
        address: Ipv4Addr::new(100, 89, 4, 17),
        key: None,
        multi_homed: false,
        offers: (1..=nodes).map(NodeId).collect(),
        epoch: Epoch(1),
        config_version: 1,
        targets: Vec::new(),
    };
    let plan = TunnelPlan { sites: BTreeMap::from([(SITE, site)]), ..TunnelPlan::default() };
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let agreed = Arc::new(Agreed { plan: watch::Sender::new((1, Arc::new(plan))), certificate });
    let mut started = Vec::new();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    for id in (1..=nodes).map(NodeId) {
        let dead =
            Dead { id, key: SecretKey::generate(), web: any, wireguard: any, agreed: Arc::clone(&agreed) };
        let node = dead.start().await;
        let known = TunnelNode {
            name: format!("n{id}"),
            endpoint: node.layer.listen_address().to_string(),
            key: node.key.public(),
            address: tunnel_address(id),
            control: node.address.to_string(),
            region: None,
        };
        agreed.change(|plan| drop(plan.nodes.insert(id, known)));
        started.push(node);
    }
    (agreed, started)
}

impl Dead {
    /// Starts it (again), where it was.
    pub(crate) async fn start(self) -> Node {
        let Self { id, key, web, wireguard, agreed } = self;
        let mut tasks = JoinSet::new();
        let config = TunnelConfig {
            listen: wireguard,
            key: key.clone(),
            backend: BackendChoice::InProcess,
            interface: String::new(),
            mtu: DEFAULT_MTU,
        };
        let network = "100.89.0.0/16".parse().unwrap();
        let (layer, task) = TunnelLayer::open(config, tunnel_address(id), network).await.unwrap();
        tasks.spawn(async move { task.run(CancellationToken::new()).await.unwrap() });

        let (plan, is_plan) = watch::channel(Arc::default());
        let (mut agrees, follows) = (agreed.plan.subscribe(), layer.clone());
        tasks.spawn(async move {
            loop {
                let (index, agreed) = agrees.borrow_and_update().clone();
                let own = TunnelPlan { address: Some(tunnel_address(id)), ..(*agreed).clone() };
                follows.apply(Revision { lineage: 1, index }, &own).await.unwrap();
                plan.send_replace(Arc::new(own));
                if agrees.changed().await.is_err() {
                    return;
                }
            }
        });

        let port = Port { id, agreed: Arc::clone(&agreed), plan: is_plan, layer: layer.clone() };
        let control = Arc::new(ControlService::new(Arc::new(port), [9; 32], now));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(web).unwrap();
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(serve(listener, acceptor(&agreed.certificate), Arc::clone(&control)));
        Node { id, layer, control, address, key, agreed, tasks }
    }
}

impl Node {
    /// Ends it without a word to anyone.
    pub(crate) async fn kill(mut self) -> Dead {
        let (web, wireguard) = (self.address, self.layer.listen_address());
        self.tasks.shutdown().await;
        Dead { id: self.id, key: self.key, web, wireguard, agreed: self.agreed }
    }

    /// Waits until the site's tunnel to this node is alive.
    pub(crate) async fn is_connected(&self) {
        let mut seen = self.layer.seen();
        let alive = seen.wait_for(|seen| seen.get(&SITE).is_some_and(|seen| seen.alive));
        timeout(PATIENCE, alive).await.expect("no tunnel").unwrap();
    }
}

fn acceptor(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, control: Arc<ControlService>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, control) = (tls.clone(), Arc::clone(&control));
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let control = Arc::clone(&control);
                async move { Ok::<_, Infallible>(control.handle(request).await) }
            });
            let _ =
                http1::Builder::new().serve_connection(TokioIo::new(stream), answer).with_upgrades().await;
        });
    }
}

/// Writes the cluster's certificate where a connector finds it.
pub(crate) fn write_certificate(agreed: &Agreed, path: &Path) {
    std::fs::write(path, agreed.certificate.cert.pem()).unwrap();
}

pub(crate) fn target(id: u64, method: Method, address: SocketAddr) -> TunnelTarget {
    let health_check = HealthCheck { path: None, interval: 1, timeout: 1, unhealthy_threshold: 1 };
    TunnelTarget {
        id: TargetId(id),
        method,
        tunnel_port: 40_000 + u16::try_from(id).unwrap(),
        host: address.ip().to_string(),
        port: address.port(),
        health_check: Some(health_check),
    }
}
