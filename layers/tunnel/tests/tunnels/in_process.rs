//! A node without privileges and a site, over loopback UDP.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use crate::{
    ends::{ECHO, Node, SITE, SITE_ADDRESS, Site, TIMEOUT, plan, revision},
    hostile::{Hostile, datagram, opening},
};
use pangolin_tunnel::{BackendChoice, DialError, SecretKey, TunnelError};
use tokio::io::AsyncReadExt;

const SOON: Duration = Duration::from_secs(5);

async fn pair() -> (Node, Site) {
    let node = Node::start(1, BackendChoice::InProcess).await;
    let site = Site::start().await;
    node.admit(1, &site).await;
    site.connect_to(&[&node]);
    node.wait_for(true, SOON).await;
    (node, site)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_megabytes_go_there_and_come_back() {
    let (node, site) = pair().await;
    tokio::time::timeout(Duration::from_secs(30), node.echo(10 << 20)).await.expect("10 MB take too long");
    let stats = node.layer.stats().await.unwrap()[&SITE];
    assert!(stats.received > 10 << 20 && stats.sent > 10 << 20, "{stats:?}");
    assert!(stats.last_handshake.is_some());
    site.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_flows_share_a_tunnel() {
    let (node, site) = pair().await;
    let flows = (0..100).map(|_| node.echo(20_000));
    tokio::time::timeout(Duration::from_secs(30), futures_util::future::join_all(flows)).await.unwrap();
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn datagrams_come_back_and_too_long_ones_are_refused() {
    let (node, site) = pair().await;
    let datagrams = node.layer.dial_udp(SITE, ECHO).await.unwrap();
    let mut buffer = [0; 2048];
    for payload in [&b"one"[..], b"", &vec![7; datagrams.limit()]] {
        datagrams.send(payload).await.unwrap();
        let len = tokio::time::timeout(SOON, datagrams.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..len], payload);
    }
    let too_long = datagrams.send(&vec![7; datagrams.limit() + 1]).await.unwrap_err();
    assert_eq!(too_long.kind(), std::io::ErrorKind::InvalidInput);
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_port_nobody_listens_on_refuses_at_once() {
    let (node, site) = pair().await;
    let refused = node.layer.dial_tcp(SITE, 81, TIMEOUT).await.err().unwrap();
    assert!(matches!(refused, DialError::Refused { port: 81, .. }), "{refused}");
    let unknown = node.layer.dial_tcp(pangolin_core::id::SiteId(5), 81, TIMEOUT).await.err().unwrap();
    assert!(matches!(unknown, DialError::UnknownSite(_)), "{unknown}");
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_site_that_vanishes_is_dead_within_a_moment_and_not_dialed() {
    let (node, site) = pair().await;
    let mut stream = node.layer.dial_tcp(SITE, ECHO, TIMEOUT).await.unwrap();
    site.stop().await;
    node.wait_for(false, SOON).await;
    let refused = node.layer.dial_tcp(SITE, ECHO, TIMEOUT).await.err().unwrap();
    assert!(matches!(refused, DialError::NotConnected(_)), "{refused}");
    node.stop().await;
    // Shutting down ends what is open.
    assert!(stream.read(&mut [0; 8]).await.is_err());
}

#[tokio::test]
async fn a_node_restarted_with_its_key_is_alive_again_within_seconds() {
    let (node, site) = pair().await;
    let (key, listen, id) = (node.key.clone(), node.layer.listen_address(), node.id);
    node.stop().await;
    site.wait_for(id, false, SOON).await;
    let node = Node::start_with(1, BackendChoice::InProcess, key, listen).await;
    node.admit(1, &site).await;
    node.wait_for(true, Duration::from_secs(3)).await;
    node.echo(1000).await;
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_site_keeps_tunnels_to_two_nodes_and_follows_their_coming_and_going() {
    let (one, site) = pair().await;
    let two = Node::start(2, BackendChoice::InProcess).await;
    two.admit(1, &site).await;
    site.connect_to(&[&one, &two]);
    two.wait_for(true, SOON).await;
    site.wait_for(one.id, true, SOON).await;
    site.wait_for(two.id, true, SOON).await;
    tokio::join!(one.echo(100_000), two.echo(100_000));
    site.connect_to(&[&two]);
    one.wait_for(false, SOON).await;
    two.echo(1000).await;
    site.stop().await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_plan_that_leaves_a_peer_as_it_is_leaves_its_connections() {
    let (node, site) = pair().await;
    let mut stream = node.layer.dial_tcp(SITE, ECHO, TIMEOUT).await.unwrap();
    let age = async || node.layer.stats().await.unwrap()[&SITE].last_handshake.unwrap();
    let before = age().await;
    let other =
        (pangolin_core::id::SiteId(10), "100.90.1.10".parse().unwrap(), SecretKey::generate().public());
    let more = plan(node.address, &[(SITE, SITE_ADDRESS, site.key), other]);
    node.layer.apply(revision(2), &more).await.unwrap();
    assert!(age().await >= before, "there was a new handshake");
    assert!(node.layer.seen().borrow()[&SITE].alive);
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"still").await.unwrap();
    let mut back = [0; 5];
    tokio::time::timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"still");

    let old = node.layer.apply(revision(1), &more).await.unwrap_err();
    assert!(matches!(old, TunnelError::OldRevision { .. }), "{old}");
    node.layer.apply(revision(3), &plan(node.address, &[])).await.unwrap();
    assert!(node.layer.seen().borrow().is_empty());
    let gone = node.layer.dial_tcp(SITE, ECHO, TIMEOUT).await.err().unwrap();
    assert!(matches!(gone, DialError::UnknownSite(_)), "{gone}");
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn garbage_on_the_wireguard_port_disturbs_nothing() {
    let (node, site) = pair().await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for kind in 0..=5_u8 {
        for len in [0, 1, 4, 31, 32, 92, 148, 1500, 60_000] {
            let mut datagram = vec![0xa5; len];
            if let Some(header) = datagram.get_mut(..4) {
                header.copy_from_slice(&[kind, 0, 0, 0]);
            }
            socket.send_to(&datagram, node.layer.listen_address()).await.unwrap();
        }
    }
    node.echo(10_000).await;
    site.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn a_site_opens_nothing_at_a_node() {
    let node = Node::start(1, BackendChoice::InProcess).await;
    let (address, key) = (Ipv4Addr::new(100, 90, 1, 10), SecretKey::generate());
    let sites = [(pangolin_core::id::SiteId(10), address, key.public())];
    node.layer.apply(revision(1), &plan(node.address, &sites)).await.unwrap();
    let mut hostile = Hostile::start(address, &key, &node).await;
    let here = SocketAddrV4::new(address, 5000);
    for port in [22, 443] {
        let there = SocketAddrV4::new(node.address, port);
        hostile.send(datagram(here, there, b"let me in")).await;
        hostile.send(datagram(here, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port), b"let me in")).await;
        hostile.send(opening(here, there)).await;
    }
    let answers = hostile.settled(node.address, 1).await;
    assert_eq!(answers.len(), 2, "{answers:?}");
    for answer in answers {
        assert!(answer[9] == 6 && answer[33] & 0x04 != 0, "not a reset: {answer:?}");
    }
    assert_eq!(node.layer.refused_packets(), None);
    hostile.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn an_ordinary_user_gets_the_in_process_stack() {
    if nix::unistd::geteuid().is_root() {
        println!("skipped: root gets an interface");
        return;
    }
    let node = Node::start(1, BackendChoice::Auto).await;
    assert_eq!(node.layer.backend(), pangolin_tunnel::Backend::InProcess);
    node.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_said_so() {
    let node = Node::start(1, BackendChoice::InProcess).await;
    let config = pangolin_tunnel::TunnelConfig {
        listen: node.layer.listen_address(),
        key: SecretKey::generate(),
        backend: BackendChoice::Auto,
        interface: "pgt1".into(),
        mtu: 1280,
    };
    let error =
        pangolin_tunnel::TunnelLayer::open(config, node.address, crate::ends::network()).await.err().unwrap();
    assert!(error.to_string().contains("another program has this port"), "{error}");
    node.stop().await;
}
