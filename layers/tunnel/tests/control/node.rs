//! A node as the control channel sees it, and a server on loopback in front of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::BoxFuture;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use pangolin_core::{
    Epoch, NodeId, SiteId, TargetId, Timestamp,
    plan::{SiteTunnel, TunnelNode, TunnelPlan, TunnelTarget},
    record::{Digest, HealthCheck, Method, TunnelKey},
};
use pangolin_tunnel::control::{ControlService, ProvisionError, Provisioned, RegisterError, SiteControl};
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};
use zeroize::Zeroizing;

/// The key that all nodes of the test cluster make tokens with.
pub(crate) const TOKEN_KEY: [u8; 32] = [9; 32];
/// The first site: id, connector id, secret.
pub(crate) const HOME_LAB: (SiteId, &str, &str) = (SiteId(4), "k3vhomelab00000", "secret of the home lab");
/// Another one.
pub(crate) const OFFICE: (SiteId, &str, &str) = (SiteId(5), "k3voffice000000", "secret of the office");

/// The provisioning key that the node knows.
pub(crate) const PROVISIONING_KEY: &str = "spk000000000000.secret";

/// Nothing in these tests takes longer, unless it is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(elapsed.as_millis()).unwrap())
}

/// What a registration said.
pub(crate) type Registered = (SiteId, TunnelKey, String, bool);

/// The node behind the port.
pub(crate) struct FakeNode {
    pub(crate) secrets: Mutex<BTreeMap<SiteId, (String, String)>>,
    pub(crate) registered: Mutex<Vec<Registered>>,
    /// Sites that were given to connectors, and the names these wished for.
    pub(crate) provisioned: Mutex<Vec<(SiteId, Option<String>)>>,
    pub(crate) refuses: Mutex<Option<String>>,
    /// How many registrations were refused.
    pub(crate) refused: watch::Sender<u32>,
    pub(crate) carried: Mutex<BTreeSet<(SiteId, NodeId)>>,
    pub(crate) suspects: Mutex<BTreeSet<NodeId>>,
    pub(crate) plan: watch::Sender<Arc<TunnelPlan>>,
}

impl FakeNode {
    pub(crate) fn new() -> Arc<Self> {
        let secrets = [HOME_LAB, OFFICE]
            .map(|(site, id, secret)| (site, (id.to_owned(), secret.to_owned())))
            .into_iter()
            .collect();
        Arc::new(Self {
            secrets: Mutex::new(secrets),
            registered: Mutex::default(),
            provisioned: Mutex::default(),
            refuses: Mutex::default(),
            refused: watch::Sender::default(),
            carried: Mutex::default(),
            suspects: Mutex::default(),
            plan: watch::Sender::new(Arc::new(plan())),
        })
    }

    /// Changes the plan.
    pub(crate) fn change(&self, change: impl FnOnce(&mut TunnelPlan)) {
        self.plan.send_modify(|plan| change(Arc::make_mut(plan)));
    }

    /// Changes the first site in the plan.
    pub(crate) fn change_home_lab(&self, change: impl FnOnce(&mut SiteTunnel)) {
        self.change(|plan| change(plan.sites.get_mut(&HOME_LAB.0).unwrap()));
    }
}

fn plan() -> TunnelPlan {
    let nodes = (1..=3_u8)
        .map(|number| {
            let node = TunnelNode {
                name: format!("n{number}"),
                endpoint: format!("192.0.2.{number}:51820"),
                key: TunnelKey([100 + number; 32]),
                address: Ipv4Addr::new(100, 89, 0, number),
                control: format!("192.0.2.{number}:443"),
                region: None,
            };
            (NodeId(u64::from(number)), node)
        })
        .collect();
    let sites = [(HOME_LAB.0, 17, target(7, 40_001)), (OFFICE.0, 18, target(70, 40_001))]
        .map(|(site, last, target)| {
            let tunnel = SiteTunnel {
                site,
                address: Ipv4Addr::new(100, 89, 4, last),
                key: None,
                multi_homed: false,
                offers: vec![NodeId(1), NodeId(2), NodeId(3)],
                epoch: Epoch(1),
                config_version: 5,
                targets: vec![target],
            };
            (site, tunnel)
        })
        .into_iter()
        .collect();
    TunnelPlan { address: Some(Ipv4Addr::new(100, 89, 0, 1)), network: None, sites, nodes }
}

pub(crate) fn target(id: u64, port: u16) -> TunnelTarget {
    let health_check = HealthCheck { path: None, interval: 10, timeout: 3, unhealthy_threshold: 2 };
    TunnelTarget {
        id: TargetId(id),
        method: Method::Tcp,
        tunnel_port: port,
        host: "10.0.0.5".into(),
        port: 8080,
        health_check: Some(health_check),
    }
}

impl SiteControl for FakeNode {
    fn sign_in(&self, connector_id: &str, secret: &str) -> Option<SiteId> {
        let wanted = (connector_id.to_owned(), secret.to_owned());
        self.secrets.lock().iter().find(|(_, known)| **known == wanted).map(|(site, _)| *site)
    }

    fn provision(
        &self,
        key: String,
        name: Option<String>,
    ) -> BoxFuture<'_, Result<Provisioned, ProvisionError>> {
        Box::pin(async move {
            if key != PROVISIONING_KEY {
                return Err(ProvisionError::Key);
            }
            if let Some(reason) = self.refuses.lock().clone() {
                return Err(ProvisionError::Site { reason, later: true });
            }
            let (site, id, secret) = HOME_LAB;
            self.provisioned.lock().push((site, name));
            Ok(Provisioned { connector_id: id.to_owned(), secret: Zeroizing::new(secret.to_owned()) })
        })
    }

    fn credential(&self, site: SiteId) -> Option<Digest> {
        let secrets = self.secrets.lock();
        let mut digest = [0; 32];
        for (at, byte) in secrets.get(&site)?.1.bytes().enumerate() {
            digest[at % 32] ^= byte;
        }
        Some(Digest(digest))
    }

    fn register(
        &self,
        site: SiteId,
        key: TunnelKey,
        version: String,
        multi_homed: bool,
    ) -> BoxFuture<'_, Result<(), RegisterError>> {
        Box::pin(async move {
            if let Some(reason) = self.refuses.lock().clone() {
                self.refused.send_modify(|refused| *refused += 1);
                return Err(RegisterError { reason });
            }
            self.registered.lock().push((site, key, version, multi_homed));
            self.change(|plan| {
                let tunnel = plan.sites.get_mut(&site).unwrap();
                (tunnel.key, tunnel.multi_homed) = (Some(key), multi_homed);
            });
            Ok(())
        })
    }

    fn carried(&self, site: SiteId, node: NodeId) -> bool {
        self.carried.lock().contains(&(site, node))
    }

    fn suspect(&self, node: NodeId) -> bool {
        self.suspects.lock().contains(&node)
    }

    fn wireguard(&self) -> Option<SocketAddr> {
        None
    }

    fn plan(&self) -> watch::Receiver<Arc<TunnelPlan>> {
        self.plan.subscribe()
    }

    fn node(&self) -> NodeId {
        NodeId(1)
    }
}

/// The control channel of one node, served on loopback.
pub(crate) struct Server {
    pub(crate) node: Arc<FakeNode>,
    pub(crate) control: Arc<ControlService>,
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

pub(crate) async fn serve(node: Arc<FakeNode>) -> Server {
    let control = Arc::new(ControlService::new(Arc::clone(&node) as Arc<dyn SiteControl>, TOKEN_KEY, now));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    let served = Arc::clone(&control);
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let control = Arc::clone(&served);
            let answer = service_fn(move |request: hyper::Request<Incoming>| {
                let control = Arc::clone(&control);
                async move { Ok::<_, Infallible>(control.handle(request).await) }
            });
            connections.spawn(async move {
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                let _ = connection.with_upgrades().await;
            });
        }
    });
    Server { node, control, address, _tasks: tasks }
}

/// Waits until what is watched is as wanted.
pub(crate) async fn until<T: Clone>(mut watched: watch::Receiver<T>, wanted: impl Fn(&T) -> bool) -> T {
    let value = timeout(PATIENCE, watched.wait_for(|value| wanted(value))).await;
    value.expect("it does not come to that").expect("the service is gone").clone()
}
