use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use defguard_wireguard_rs::{Userspace, dns::DnsConfig, host::Host};
use pangolin_core::id::NodeId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    DEFAULT_MTU,
    probe::{PROBE_PORT, Probe},
    site::{FlowKind, SiteBackend, SiteNode, SiteTunnels},
    wireguard::namespace::inside_namespace,
};

const OWN: Ipv4Addr = Ipv4Addr::new(100, 90, 0, 1);
const SITE: Ipv4Addr = Ipv4Addr::new(100, 90, 1, 9);
const OTHER: Ipv4Addr = Ipv4Addr::new(100, 90, 1, 10);
const ECHO: u16 = 7;
/// In a namespace of the test's own.
const PORT: u16 = 51_820;
const SOON: Duration = Duration::from_secs(20);

fn network() -> Ipv4Net {
    "100.90.0.0/16".parse().unwrap()
}

type Answer<T> = Result<T, WireguardInterfaceError>;

/// What the kernel would be, by the library's own implementation of WireGuard. A peer that it is given twice ends that
/// one, so that a peer is taken away before it is given anew; and it blocks signals of the thread that makes it, and ends
/// threads of its own where something fails: it has a process of its own, which the test is inside of.
struct Stand(WGApi<Userspace>);

impl WireguardInterfaceApi for Stand {
    fn create_interface(&mut self) -> Answer<()> {
        self.0.create_interface()
    }

    fn assign_address(&self, address: &IpAddrMask) -> Answer<()> {
        self.0.assign_address(address)
    }

    fn configure_peer_routing(&self, peers: &[KernelPeer]) -> Answer<()> {
        self.0.configure_peer_routing(peers)
    }

    fn configure_interface(&self, config: &InterfaceConfiguration) -> Answer<()> {
        self.0.configure_interface(config)
    }

    fn remove_interface(&self) -> Answer<()> {
        self.0.remove_interface()
    }

    fn configure_peer(&self, peer: &KernelPeer) -> Answer<()> {
        // It says nothing of one that is not there.
        let _ = self.0.remove_peer(&peer.public_key);
        self.0.configure_peer(peer)
    }

    fn remove_peer(&self, key: &Key) -> Answer<()> {
        self.0.remove_peer(key)
    }

    fn read_interface_data(&self) -> Answer<Host> {
        self.0.read_interface_data()
    }

    fn set_dns(&self, config: &DnsConfig<'_>) -> Answer<()> {
        self.0.set_dns(config)
    }
}

/// A site that echoes, and the node's answers to its probes.
async fn site(secret: SecretKey, node: SiteNode, shutdown: CancellationToken) -> SiteTunnels {
    let (tunnels, task) =
        SiteTunnels::open(secret, SITE, DEFAULT_MTU, &SiteBackend::InProcess).await.unwrap();
    tunnels.listen(BTreeSet::from([ECHO]), BTreeSet::new());
    tokio::spawn(async move { task.run(shutdown).await.unwrap() });
    let accepting = tunnels.clone();
    tokio::spawn(async move {
        while let Some(flow) = accepting.accept().await {
            let FlowKind::Tcp(stream) = flow.kind else { continue };
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::spawn(async move {
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
            });
        }
    });
    let probes = UdpSocket::bind((OWN, PROBE_PORT)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 64];
        loop {
            let (length, from) = probes.recv_from(&mut buffer).await.unwrap();
            let Some(Probe::Ask(sequence)) = Probe::decode(&buffer[..length]) else { continue };
            // The way back may be gone for a moment.
            let _ = probes.send_to(&Probe::Answer(sequence).encode(), from).await;
        }
    });
    tunnels.set_nodes(vec![node]);
    tunnels
}

async fn wait_for(tunnels: &SiteTunnels, alive: bool) {
    let mut paths = tunnels.paths();
    let wanted = paths.wait_for(|paths| paths.get(&NodeId(1)).is_some_and(|seen| seen.alive) == alive);
    tokio::time::timeout(SOON, wanted).await.expect("the path is not seen as it is").unwrap();
}

/// The first datagram that WireGuard sends there, when something is sent to the other site.
async fn is_sought_at(socket: &UdpSocket) -> bool {
    let sender = UdpSocket::bind((OWN, 0)).await.unwrap();
    let mut buffer = [0; 256];
    let sought = async {
        loop {
            sender.send_to(b"are you there?", (OTHER, ECHO)).await.unwrap();
            let wait = tokio::time::timeout(Duration::from_millis(500), socket.recv(&mut buffer));
            if let Ok(received) = wait.await {
                // A handshake's first message (whitepaper, section 5.4.2).
                return received.unwrap() == 148 && buffer[0] == 1;
            }
        }
    };
    tokio::time::timeout(SOON, sought).await.is_ok_and(|first| first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_to_the_kernel_makes_changes_and_removes_tunnels() {
    if !inside_namespace(
        "wireguard::kernel::tests::what_is_said_to_the_kernel_makes_changes_and_removes_tunnels",
    ) {
        return;
    }
    let name = format!("pgk{}", std::process::id());
    let device = KernelDevice::over(&name, DEADLINE, |name| WGApi::new(name).map(Stand)).await.unwrap();
    let key = SecretKey::generate();
    device.configure(&key, PORT, OWN, network(), DEFAULT_MTU).await.unwrap();
    device.fence(OWN).await;
    assert!(device.read().await.unwrap().is_empty());

    let secret = SecretKey::generate();
    let of_site = secret.public();
    let add = |peer| PeerChange { remove: Vec::new(), add: vec![peer] };
    device.change(add(Peer { key: of_site, address: SITE, endpoint: None })).await.unwrap();
    let shutdown = CancellationToken::new();
    let endpoint = SocketAddr::from(([127, 0, 0, 1], PORT));
    let node = SiteNode { node: NodeId(1), endpoint, key: key.public(), address: OWN };
    let tunnels = site(secret, node, shutdown.clone()).await;
    wait_for(&tunnels, true).await;

    // Data, through the kernel's TCP and the interface.
    let stream = tokio::time::timeout(SOON, TcpStream::connect((SITE, ECHO))).await.unwrap().unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sent = vec![0x5a; 300_000];
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        }
    });
    let mut received = Vec::new();
    tokio::time::timeout(SOON, reader.read_to_end(&mut received)).await.unwrap().unwrap();
    writing.await.unwrap();
    assert!(received == sent, "{} bytes came back, or others", received.len());
    let reading = device.read().await.unwrap()[0];
    assert_eq!(reading.key, of_site);
    assert!(reading.last_handshake.is_some_and(|age| age < Duration::from_secs(120)), "{reading:?}");
    assert!(reading.received > 300_000 && reading.sent > 300_000, "{reading:?}");

    // Another peer, sought where it is said to be, and then elsewhere. The first one keeps its session.
    let other = SecretKey::generate().public();
    for _ in 0..2 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Some(socket.local_addr().unwrap());
        device.change(add(Peer { key: other, address: OTHER, endpoint })).await.unwrap();
        assert!(is_sought_at(&socket).await);
    }
    let readings = device.read().await.unwrap();
    assert_eq!(readings.len(), 2);
    let found = |key| readings.iter().find(|reading| reading.key == key).copied();
    assert!(found(other).is_some_and(|reading| reading.last_handshake.is_none()), "{readings:?}");
    let kept = found(of_site).unwrap();
    assert!(kept.received >= reading.received && kept.last_handshake >= reading.last_handshake, "{kept:?}");

    // Peers go, one of which is not there.
    let gone = PeerChange { remove: vec![of_site, SecretKey::generate().public()], add: Vec::new() };
    device.change(gone).await.unwrap();
    wait_for(&tunnels, false).await;
    let left: Vec<_> = device.read().await.unwrap().iter().map(|reading| reading.key).collect();
    assert_eq!(left, [other]);

    shutdown.cancel();
    device.close().await;
    let mut patience = 200;
    while if_nametoindex(name.as_str()).is_ok() {
        assert!(patience > 0, "the interface is still there");
        patience -= 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(matches!(device.read().await, Err(TunnelError::Closed)));
}

/// What is asked of it.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<&'static str>>>);

impl Calls {
    fn note(&self, call: &'static str) {
        self.0.lock().unwrap().push(call);
    }

    fn made(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

/// One that cannot be configured, and does not say what it knows of its peers while it is held.
struct Stuck {
    calls: Calls,
    held: Arc<AtomicBool>,
    /// Whether it knows the interface.
    known: bool,
}

impl Default for Stuck {
    fn default() -> Self {
        Self { calls: Calls::default(), held: Arc::default(), known: true }
    }
}

impl WireguardInterfaceApi for Stuck {
    fn create_interface(&mut self) -> Answer<()> {
        self.calls.note("create");
        Ok(())
    }

    fn assign_address(&self, _: &IpAddrMask) -> Answer<()> {
        Ok(())
    }

    fn configure_peer_routing(&self, _: &[KernelPeer]) -> Answer<()> {
        Ok(())
    }

    fn configure_interface(&self, _: &InterfaceConfiguration) -> Answer<()> {
        self.calls.note("configure");
        Err(WireguardInterfaceError::Interface("no".to_owned()))
    }

    fn remove_interface(&self) -> Answer<()> {
        self.calls.note("remove");
        Ok(())
    }

    fn configure_peer(&self, _: &KernelPeer) -> Answer<()> {
        self.calls.note("peer");
        Ok(())
    }

    fn remove_peer(&self, _: &Key) -> Answer<()> {
        Ok(())
    }

    fn read_interface_data(&self) -> Answer<Host> {
        self.calls.note("read");
        while self.held.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(5));
        }
        if self.known {
            Ok(Host::default())
        } else {
            Err(WireguardInterfaceError::Interface("no".to_owned()))
        }
    }

    fn set_dns(&self, _: &DnsConfig<'_>) -> Answer<()> {
        Ok(())
    }
}

async fn stuck(name: &str, deadline: Duration) -> (KernelDevice, Calls, Arc<AtomicBool>) {
    let stuck = Stuck::default();
    let (calls, held) = (stuck.calls.clone(), stuck.held.clone());
    (KernelDevice::over(name, deadline, |_| Ok(stuck)).await.unwrap(), calls, held)
}

#[tokio::test]
async fn what_cannot_be_configured_is_removed_again() {
    let (device, calls, _) = stuck("pg-none", DEADLINE).await;
    let key = SecretKey::generate();
    let error = device.configure(&key, PORT, OWN, network(), DEFAULT_MTU).await.unwrap_err();
    // The kind of error at which another backend is tried.
    assert!(matches!(error, TunnelError::Kernel { .. }), "{error}");
    assert_eq!(calls.made(), ["create", "configure", "remove"]);
}

#[tokio::test]
async fn an_interface_that_is_something_else_is_left_alone() {
    // The loopback interface is none of WireGuard's.
    let stuck = Stuck { known: false, ..Stuck::default() };
    let calls = stuck.calls.clone();
    let error = KernelDevice::over("lo", DEADLINE, |_| Ok(stuck)).await.err().unwrap();
    assert!(error.to_string().contains("another interface has this name"), "{error}");
    assert_eq!(calls.made(), ["create", "read"]);
}

#[tokio::test]
async fn a_call_that_does_not_return_holds_up_nobody() {
    let (device, calls, held) = stuck("pg-none", Duration::from_millis(50)).await;
    held.store(true, Ordering::Release);
    let late = device.read().await.unwrap_err();
    assert!(late.to_string().contains("no answer"), "{late}");
    let peer = Peer { key: SecretKey::generate().public(), address: SITE, endpoint: None };
    let add = || PeerChange { remove: Vec::new(), add: vec![peer] };
    for _ in 0..QUEUE {
        assert!(device.change(add()).await.unwrap_err().to_string().contains("no answer"));
    }
    let busy = device.change(add()).await.unwrap_err();
    assert!(busy.to_string().contains("calls wait already"), "{busy}");
    held.store(false, Ordering::Release);
    // What was given up is not done behind anybody's back.
    let mut patience = 200;
    while device.change(add()).await.is_err() {
        assert!(patience > 0, "it does not recover");
        patience -= 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let made = calls.made();
    assert_eq!(made[..2], ["create", "read"]);
    assert!(made[2..].iter().all(|call| *call == "peer") && made.len() < 2 + QUEUE, "{made:?}");
}
