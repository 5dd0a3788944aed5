//! Both ends of tunnels in one process, over loopback UDP.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use ipnet::Ipv4Net;
use pangolin_core::{
    id::{Epoch, NodeId, Revision, SiteId},
    plan::{SiteTunnel, TunnelPlan},
    record::TunnelKey,
};
use pangolin_tunnel::{
    BackendChoice, DEFAULT_MTU, SecretKey, TunnelConfig, TunnelLayer,
    site::{FlowKind, SiteBackend, SiteNode, SiteTunnels},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

pub(crate) const SITE: SiteId = SiteId(9);
pub(crate) const SITE_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 90, 1, 9);
pub(crate) const ECHO: u16 = 7;
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn network() -> Ipv4Net {
    "100.90.0.0/16".parse().unwrap()
}

pub(crate) fn revision(index: u64) -> Revision {
    Revision { lineage: 1, index }
}

pub(crate) fn plan(address: Ipv4Addr, sites: &[(SiteId, Ipv4Addr, TunnelKey)]) -> TunnelPlan {
    let sites = sites.iter().map(|(site, address, key)| {
        let tunnel = SiteTunnel {
            site: *site,
            address: *address,
            key: Some(*key),
            multi_homed: true,
            offers: Vec::new(),
            epoch: Epoch(1),
            config_version: 1,
            targets: Vec::new(),
        };
        (*site, tunnel)
    });
    TunnelPlan {
        address: Some(address),
        network: Some(network()),
        sites: sites.collect(),
        nodes: BTreeMap::new(),
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) key: SecretKey,
    pub(crate) address: Ipv4Addr,
    pub(crate) layer: TunnelLayer,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Node {
    pub(crate) async fn start(id: u8, backend: BackendChoice) -> Self {
        Self::start_with(id, backend, SecretKey::generate(), "127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_with(
        id: u8,
        backend: BackendChoice,
        key: SecretKey,
        listen: SocketAddr,
    ) -> Self {
        let address = Ipv4Addr::new(100, 90, 0, id);
        let config = TunnelConfig {
            listen,
            key: key.clone(),
            backend,
            interface: format!("pgt{id}"),
            mtu: DEFAULT_MTU,
        };
        let (layer, task) = TunnelLayer::open(config, address, network()).await.unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { task.run(stop).await.unwrap() });
        Self { id: NodeId(u64::from(id)), key, address, layer, shutdown, task }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    pub(crate) fn as_site_node(&self) -> SiteNode {
        SiteNode {
            node: self.id,
            endpoint: self.layer.listen_address(),
            key: self.key.public(),
            address: self.address,
        }
    }

    pub(crate) async fn admit(&self, index: u64, site: &Site) {
        let plan = plan(self.address, &[(SITE, SITE_ADDRESS, site.key)]);
        self.layer.apply(revision(index), &plan).await.unwrap();
    }

    /// Waits until the site is alive, or dead.
    pub(crate) async fn wait_for(&self, alive: bool, within: Duration) {
        let mut seen = self.layer.seen();
        let wanted = seen.wait_for(|seen| seen.get(&SITE).is_some_and(|seen| seen.alive) == alive);
        tokio::time::timeout(within, wanted).await.expect("the tunnel is not seen as it is").unwrap();
    }

    /// Sends bytes through the echo port and reads them back.
    pub(crate) async fn echo(&self, len: usize) {
        let stream = self.layer.dial_tcp(SITE, ECHO, TIMEOUT).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sent: Arc<Vec<u8>> =
            Arc::new((0..len).map(|i| u8::try_from((i ^ (i >> 8) ^ (i >> 16)) & 0xff).unwrap()).collect());
        let to_send = sent.clone();
        let writing = tokio::spawn(async move {
            writer.write_all(&to_send).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut received = Vec::with_capacity(len);
        reader.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        assert!(received == *sent, "{} of {len} bytes came back, or others", received.len());
    }
}

/// A site that echoes on TCP and UDP port 7.
pub(crate) struct Site {
    pub(crate) key: TunnelKey,
    pub(crate) tunnels: SiteTunnels,
    /// Where its flows came from.
    pub(crate) origins: Arc<Mutex<BTreeSet<IpAddr>>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    echo: JoinHandle<()>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(SecretKey::generate()).await
    }

    pub(crate) async fn start_with(secret: SecretKey) -> Self {
        let key = secret.public();
        let (tunnels, task) =
            SiteTunnels::open(secret, SITE_ADDRESS, DEFAULT_MTU, &SiteBackend::InProcess).await.unwrap();
        tunnels.listen(BTreeSet::from([ECHO]), BTreeSet::from([ECHO]));
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { task.run(stop).await.unwrap() });
        let accepting = tunnels.clone();
        let origins = Arc::new(Mutex::new(BTreeSet::new()));
        let noted = origins.clone();
        let echo = tokio::spawn(async move {
            while let Some(flow) = accepting.accept().await {
                assert_eq!(flow.port, ECHO);
                noted.lock().unwrap().insert(flow.from.ip());
                tokio::spawn(echo(flow.kind));
            }
        });
        Self { key, tunnels, origins, shutdown, task, echo }
    }

    pub(crate) fn connect_to(&self, nodes: &[&Node]) {
        self.tunnels.set_nodes(nodes.iter().map(|node| node.as_site_node()).collect());
    }

    /// Waits until the path to the node is alive, or dead.
    pub(crate) async fn wait_for(&self, node: NodeId, alive: bool, within: Duration) {
        let mut paths = self.tunnels.paths();
        let wanted = paths.wait_for(|paths| paths.get(&node).is_some_and(|seen| seen.alive) == alive);
        tokio::time::timeout(within, wanted).await.expect("the path is not seen as it is").unwrap();
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
        self.echo.await.unwrap();
    }
}

async fn echo(kind: FlowKind) {
    match kind {
        FlowKind::Tcp(stream) => {
            let (mut reader, mut writer) = tokio::io::split(stream);
            if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
                let _ = writer.shutdown().await;
            }
        }
        FlowKind::Udp(datagrams) => {
            let mut buffer = [0; 2048];
            while let Ok(len) = datagrams.recv(&mut buffer).await {
                datagrams.send(&buffer[..len]).await.unwrap();
            }
        }
    }
}
