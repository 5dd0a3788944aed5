//! Nodes with a network interface, in a network namespace of their own. Needs root.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    process::Command,
    time::Duration,
};

use pangolin_tunnel::{Backend, BackendChoice, SecretKey, TunnelConfig, TunnelError, TunnelLayer};

use crate::{
    ends::{ECHO, Node, SITE, SITE_ADDRESS, Site, network, plan, revision},
    hostile::{Hostile, datagram, opening},
};

const INSIDE: &str = "PANGOLIN_TEST_INSIDE_NAMESPACE";
const SOON: Duration = Duration::from_secs(5);

/// Runs the test of this name again in a new network namespace; true = we are inside it.
fn inside_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for a network namespace");
        return false;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("skipped: there is no /dev/net/tun");
        return false;
    }
    if !Command::new("unshare").args(["--net", "ip", "link"]).output().is_ok_and(|run| run.status.success()) {
        println!("skipped: no network namespace can be made, or unshare or ip is missing");
        return false;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .arg("--net")
        .arg(program)
        .args(["--exact", &format!("interface::{test}"), "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    for line in said.lines().filter(|line| line.starts_with("skipped")) {
        println!("{line}");
    }
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn run(test: &str, work: impl Future<Output = ()>) {
    if inside_namespace(test) {
        tokio::runtime::Runtime::new().unwrap().block_on(work);
    }
}

fn exists(interface: &str) -> bool {
    Command::new("ip").args(["link", "show", "dev", interface]).output().unwrap().status.success()
}

async fn datagram_comes_back(node: &Node) {
    let datagrams = node.layer.dial_udp(SITE, ECHO).await.unwrap();
    datagrams.send(b"datagram").await.unwrap();
    let mut buffer = [0; 64];
    let len = tokio::time::timeout(SOON, datagrams.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..len], b"datagram");
}

#[test]
fn three_nodes_on_one_host_each_reach_the_site_through_their_own_interface() {
    run("three_nodes_on_one_host_each_reach_the_site_through_their_own_interface", async {
        let site = Site::start().await;
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let node = Node::start(id, BackendChoice::Auto).await;
            assert_eq!(node.layer.backend(), Backend::Tun);
            node.admit(1, &site).await;
            nodes.push(node);
        }
        site.connect_to(&nodes.iter().collect::<Vec<_>>());
        for node in &nodes {
            node.wait_for(true, SOON).await;
            site.origins.lock().unwrap().clear();
            tokio::time::timeout(Duration::from_secs(20), node.echo(2 << 20)).await.unwrap();
            datagram_comes_back(node).await;
            assert_eq!(site.origins.lock().unwrap().iter().collect::<Vec<_>>(), [&IpAddr::V4(node.address)]);
            let mut ping = Command::new("ping");
            ping.args(["-c1", "-W2", "-I", &format!("pgt{}", node.id), "100.90.1.9"]);
            // Where there is no such program, the stack's own test has to do.
            if let Ok(output) = ping.output() {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            }
        }
        let two = nodes.remove(1);
        let (key, listen) = (two.key.clone(), two.layer.listen_address());
        two.stop().await;
        for node in &nodes {
            node.echo(1000).await;
        }
        site.wait_for(pangolin_core::id::NodeId(2), false, SOON).await;
        let two = Node::start_with(2, BackendChoice::Tun, key, listen).await;
        two.admit(1, &site).await;
        two.wait_for(true, SOON).await;
        two.echo(1000).await;

        site.stop().await;
        two.wait_for(false, SOON).await;
        assert!(exists("pgt2"));
        for node in nodes.into_iter().chain([two]) {
            node.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!exists("pgt1") && !exists("pgt2") && !exists("pgt3"));
    });
}

/// Two sites at one node, one of which tries to get at what it must not. The node's host forwards, and has services on
/// all addresses.
#[test]
fn a_site_reaches_neither_the_nodes_services_nor_other_sites() {
    run("a_site_reaches_neither_the_nodes_services_nor_other_sites", async {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let node = Node::start(1, BackendChoice::Tun).await;
        let site = Site::start().await;
        let (address, key) = (Ipv4Addr::new(100, 90, 1, 10), SecretKey::generate());
        let sites = [(SITE, SITE_ADDRESS, site.key), (pangolin_core::id::SiteId(10), address, key.public())];
        node.layer.apply(revision(1), &plan(node.address, &sites)).await.unwrap();
        site.connect_to(&[&node]);
        node.wait_for(true, SOON).await;
        let mut hostile = Hostile::start(address, &key, &node).await;
        assert_eq!(hostile.settled(node.address, 1).await, Vec::<Vec<u8>>::new());

        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let here = SocketAddrV4::new(address, 5000);
        let tcp = listener.local_addr().unwrap().port();
        let udp = socket.local_addr().unwrap().port();
        let refused = node.layer.refused_packets().unwrap();
        for host in [node.address, SITE_ADDRESS, Ipv4Addr::LOCALHOST, Ipv4Addr::new(192, 0, 2, 1)] {
            for port in [tcp, ECHO] {
                hostile.send(opening(here, SocketAddrV4::new(host, port))).await;
            }
            for port in [udp, ECHO, 53] {
                hostile.send(datagram(here, SocketAddrV4::new(host, port), b"let me in")).await;
            }
        }
        assert_eq!(hostile.settled(node.address, 2).await, Vec::<Vec<u8>>::new(), "there are answers");
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(socket.recv(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(node.layer.refused_packets().unwrap() - refused, 4 * 5);

        // A flow into a site lets in what answers it.
        node.echo(1 << 20).await;
        datagram_comes_back(&node).await;
        assert!(node.layer.seen().borrow()[&SITE].alive, "probes are answered");
        let origins: Vec<_> = site.origins.lock().unwrap().iter().copied().collect();
        assert_eq!(origins, [IpAddr::V4(node.address)], "something was forwarded");
        assert_eq!(node.layer.refused_packets().unwrap() - refused, 4 * 5, "of what was asked for, nothing");
        hostile.stop().await;
        site.stop().await;
        node.stop().await;
    });
}

#[test]
fn an_interface_that_is_taken_or_goes_away_is_said_so() {
    run("an_interface_that_is_taken_or_goes_away_is_said_so", async {
        let config = |backend| TunnelConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            key: SecretKey::generate(),
            backend,
            interface: "pgt1".into(),
            mtu: 1280,
        };
        let address = "100.90.0.1".parse().unwrap();
        let (layer, task) = TunnelLayer::open(config(BackendChoice::Tun), address, network()).await.unwrap();
        for backend in [BackendChoice::Tun, BackendChoice::Auto] {
            let error = TunnelLayer::open(config(backend), address, network()).await.err().unwrap();
            assert!(error.to_string().contains("another interface name"), "{error}");
        }
        let running = tokio::spawn(task.run(tokio_util::sync::CancellationToken::new()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(Command::new("ip").args(["link", "delete", "dev", "pgt1"]).status().unwrap().success());
        let error = tokio::time::timeout(SOON, running).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(error, TunnelError::InterfaceGone { .. }), "{error}");
        assert!(layer.stats().await.is_err());
    });
}

#[test]
fn the_kernels_wireguard_carries_a_tunnel_where_there_is_one() {
    run("the_kernels_wireguard_carries_a_tunnel_where_there_is_one", async {
        let config = TunnelConfig {
            listen: "0.0.0.0:0".parse().unwrap(),
            key: SecretKey::generate(),
            backend: BackendChoice::Kernel,
            interface: "pgk1".into(),
            mtu: 1280,
        };
        let address = "100.90.0.1".parse().unwrap();
        match TunnelLayer::open(config, address, network()).await {
            Err(TunnelError::Kernel { .. }) => println!("skipped: kernel has no WireGuard"),
            Err(error) => panic!("{error}"),
            Ok((layer, task)) => {
                drop((layer, task));
                let listen = "0.0.0.0:51820".parse().unwrap();
                let node = Node::start_with(1, BackendChoice::Kernel, SecretKey::generate(), listen).await;
                let site = Site::start().await;
                node.admit(1, &site).await;
                let mut reached = node.as_site_node();
                reached.endpoint = "127.0.0.1:51820".parse().unwrap();
                site.tunnels.set_nodes(vec![reached]);
                node.wait_for(true, SOON).await;
                node.echo(1 << 20).await;
                site.stop().await;
                node.stop().await;
                assert!(!exists("pgt1"));
            }
        }
    });
}
