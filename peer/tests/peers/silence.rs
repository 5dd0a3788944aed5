//! Peers that die, fall silent, and come back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use pangolin_core::id::NodeId;
use pangolin_peer::{PeerError, Service};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::lab::{LIMIT, Lab, Node, until};

#[tokio::test]
async fn a_killed_peer_is_suspect_at_once_and_what_was_under_way_fails() {
    let lab = Lab::new();
    let mut nodes = lab.mesh(3).await;
    let c = nodes.pop().unwrap();
    let (a, id) = (&nodes[0], c.id());
    let mut stream = a.peers.open(id, Service::Relay).await.unwrap();
    stream.write_all(b"hang").await.unwrap();
    let asked = tokio::spawn({
        let peers = a.peers.clone();
        async move { peers.request(id, Service::Raft, "sleep".into(), 4 * LIMIT).await }
    });
    sleep(Duration::from_millis(50)).await;

    // Dropping the task closes all its sockets, as the end of a process does.
    c.task.abort();
    until("the killed node is suspect", || a.peers.is_suspect(id)).await;
    assert_eq!(a.sees(id), Some(false));
    let lost = asked.await.unwrap().unwrap_err();
    assert!(matches!(lost, PeerError::Lost { .. }) && !lost.not_delivered(), "{lost}");
    stream.read(&mut [0; 8]).await.unwrap_err();

    let refused = a.ask(id, "x").await.unwrap_err();
    assert!(matches!(refused, PeerError::Unreachable { .. }) && refused.not_delivered(), "{refused}");
    assert_eq!(a.ask(nodes[1].id(), "still").await.unwrap(), "still");
}

#[tokio::test]
async fn a_peer_that_comes_back_is_found_again() {
    let lab = Lab::new();
    let identity = lab.identity(2);
    let (a, b) = (lab.node(1).await, Node::start(identity.clone()).await);
    let plan = lab.plan(&[&a, &b]);
    a.peers.set_plan(plan.clone());
    b.peers.set_plan(plan.clone());
    a.reaches(NodeId(2)).await;
    let address = b.address;
    b.stop().await;
    until("it is suspect", || a.sees(NodeId(2)) == Some(false)).await;
    sleep(Duration::from_millis(300)).await;

    let again = Node::start_at(identity, address).await;
    again.peers.set_plan(plan);
    again.reaches(NodeId(1)).await;
    a.reaches(NodeId(2)).await;
    until("it is alive", || a.sees(NodeId(2)) == Some(true)).await;
}

/// Passes bytes on to `to` as long as `open` is set, and holds them back otherwise, as a broken network does.
async fn network(to: SocketAddr, open: Arc<AtomicBool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let (near, far) = (near.into_split(), far.into_split());
            tokio::spawn(pass(near.0, far.1, open.clone()));
            tokio::spawn(pass(far.0, near.1, open.clone()));
        }
    });
    address
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    open: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        while !open.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(10)).await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_suspect_and_found_again() {
    let lab = Lab::new();
    let (a, b) = (lab.node(1).await, lab.node(2).await);
    b.peers.set_plan(lab.plan(&[&a, &b]));
    let open = Arc::new(AtomicBool::new(true));
    let mut plan = lab.plan(&[&a, &b]);
    plan.nodes.get_mut(&b.id()).unwrap().address = network(b.address, open.clone()).await;
    a.peers.set_plan(plan);
    a.reaches(b.id()).await;
    let mut stream = a.peers.open(b.id(), Service::Relay).await.unwrap();
    stream.write_all(b"hang").await.unwrap();

    open.store(false, Ordering::Relaxed);
    until("it is suspect", || a.sees(b.id()) == Some(false)).await;
    stream.read(&mut [0; 8]).await.unwrap_err();
    a.is_kept_from(b.id(), "").await;

    open.store(true, Ordering::Relaxed);
    until("it is alive again", || a.sees(b.id()) == Some(true)).await;
    a.reaches(b.id()).await;
}

#[tokio::test]
async fn stopping_closes_everything_and_frees_the_port() {
    let lab = Lab::new();
    let mut nodes = lab.mesh(2).await;
    let b = nodes.pop().unwrap();
    let (address, id) = (b.address, b.id());
    let peers = b.peers.clone();
    b.stop().await;
    TcpListener::bind(address).await.unwrap();
    let error = peers.request(NodeId(1), Service::Raft, "x".into(), LIMIT).await.unwrap_err();
    assert!(error.not_delivered(), "{error}");
    until("the other one notices", || nodes[0].peers.is_suspect(id)).await;
}
