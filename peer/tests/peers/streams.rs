//! Requests and streams between nodes that like each other.

use std::{io::ErrorKind, sync::Arc, time::Duration};

use bytes::Bytes;
use pangolin_core::id::NodeId;
use pangolin_peer::{BoxFuture, Handler, MESSAGE_MAX, PeerError, PeerStream, Service};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
};

use crate::lab::{LIMIT, Lab, until};

#[tokio::test]
async fn three_nodes_ask_each_other_and_know_who_asks() {
    let nodes = Lab::new().mesh(3).await;
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.id() != from.id()) {
            let answer = from.ask(to.id(), "who").await.unwrap();
            assert_eq!(answer, format!("{} asks {}", from.id(), to.id()));
            assert!(!from.peers.is_suspect(to.id()));
        }
    }
    until("round-trip times are known", || nodes[0].peers.rtt(NodeId(2)).is_some()).await;
    assert!(nodes[0].peers.rtt(NodeId(2)).unwrap() < LIMIT);
}

#[tokio::test]
async fn a_request_to_a_node_that_is_new_waits_for_the_first_connection() {
    let lab = Lab::new();
    let (a, b) = (lab.node(1).await, lab.node(2).await);
    b.peers.set_plan(lab.plan(&[&a, &b]));
    a.peers.set_plan(lab.plan(&[&a, &b]));
    assert_eq!(a.ask(b.id(), "who").await.unwrap(), "1 asks 2");
}

#[tokio::test]
async fn refusals_say_why_and_whether_the_request_was_delivered() {
    let nodes = Lab::new().mesh(2).await;
    let (a, b) = (&nodes[0], nodes[1].id());
    let refused = a.ask(b, "refuse").await.unwrap_err();
    assert!(matches!(&refused, PeerError::Refused { message, .. } if message == "not today"), "{refused}");
    assert!(!refused.not_delivered());
    let failed = a.ask(b, "panic").await.unwrap_err();
    assert!(matches!(failed, PeerError::Refused { .. }) && !failed.not_delivered(), "{failed}");

    let not_taken = a.peers.request(b, Service::Admin, Bytes::new(), LIMIT).await.unwrap_err();
    assert!(matches!(not_taken, PeerError::NotTaken { .. }), "{not_taken}");
    assert!(not_taken.not_delivered());

    let late =
        a.peers.request(b, Service::Raft, "sleep".into(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(late, PeerError::Timeout { sent: true, .. }), "{late}");
    assert!(!late.not_delivered());

    assert!(matches!(a.ask(NodeId(9), "x").await, Err(PeerError::UnknownNode(NodeId(9)))));
    assert!(matches!(a.ask(a.id(), "x").await, Err(PeerError::ThisNode(_))));
    let giant = Bytes::from(vec![0; MESSAGE_MAX + 1]);
    let refused = a.peers.request(b, Service::Raft, giant, LIMIT).await.unwrap_err();
    assert!(matches!(refused, PeerError::TooLarge { .. }), "{refused}");
}

#[tokio::test]
async fn the_largest_messages_pass_on_both_lanes_while_small_ones_overtake_them() {
    let nodes = Lab::new().mesh(2).await;
    let (a, b) = (&nodes[0], nodes[1].id());
    let large: Bytes = (0..MESSAGE_MAX).map(|i| (i / 3) as u8).collect::<Vec<u8>>().into();
    let (control, bulk, small) = tokio::join!(
        a.peers.request(b, Service::Raft, large.clone(), 4 * LIMIT),
        a.peers.request(b, Service::Snapshot, large.clone(), 4 * LIMIT),
        a.ask(b, "small"),
    );
    assert_eq!(small.unwrap(), "small");
    assert!(control.unwrap() == large);
    assert!(bulk.unwrap() == large);
}

#[tokio::test]
async fn many_requests_at_once_all_get_their_own_answers() {
    let nodes = Lab::new().mesh(2).await;
    let b = nodes[1].id();
    let asked = (0..200).map(|i: u32| {
        let peers = nodes[0].peers.clone();
        tokio::spawn(async move {
            let body = Bytes::from(i.to_string());
            assert_eq!(peers.request(b, Service::Status, body.clone(), LIMIT).await.unwrap(), body);
        })
    });
    for task in asked.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn one_direction_of_a_stream_ends_while_the_other_goes_on() {
    let nodes = Lab::new().mesh(2).await;
    let mut stream = nodes[0].peers.open(nodes[1].id(), Service::Relay).await.unwrap();
    stream.write_all(b"echo").await.unwrap();
    let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
        assert_eq!(writer.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    };
    let mut received = Vec::new();
    let ((), read) = tokio::join!(write, reader.read_to_end(&mut received));
    read.unwrap();
    assert!(received == sent);
    assert_eq!(reader.read(&mut [0; 8]).await.unwrap(), 0, "the end stays the end");
}

#[tokio::test]
async fn a_stream_that_is_broken_off_never_looks_complete() {
    let nodes = Lab::new().mesh(2).await;
    let mut stream = nodes[0].peers.open(nodes[1].id(), Service::Relay).await.unwrap();
    stream.write_all(b"partrequest").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let error = stream.read_to_end(&mut answer).await.unwrap_err();
    assert_eq!((error.kind(), &answer[..]), (ErrorKind::ConnectionReset, &b"half of it"[..]));

    let mut unserved = nodes[0].peers.open(nodes[1].id(), Service::Admin).await.unwrap();
    assert_eq!(unserved.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

/// Writes until it cannot, and says with which error.
struct Pour(mpsc::UnboundedSender<ErrorKind>);

impl Handler for Pour {
    fn request(&self, _: NodeId, _: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async { Err("streams only".to_owned()) })
    }

    fn stream(&self, _: NodeId, mut stream: PeerStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let chunk = vec![0; 100_000];
            loop {
                if let Err(error) = stream.write_all(&chunk).await {
                    let _ = self.0.send(error.kind());
                    return;
                }
            }
        })
    }
}

#[tokio::test]
async fn a_reader_that_leaves_stops_the_writer_even_when_its_own_side_has_ended() {
    let nodes = Lab::new().mesh(2).await;
    let (sender, mut stopped) = mpsc::unbounded_channel();
    nodes[1].peers.serve(Service::Admin, Arc::new(Pour(sender)));
    for ends in [true, false] {
        let mut stream = nodes[0].peers.open(nodes[1].id(), Service::Admin).await.unwrap();
        if ends {
            stream.shutdown().await.unwrap();
        }
        stream.read_exact(&mut [0; 1000]).await.unwrap();
        drop(stream);
        let error = tokio::time::timeout(LIMIT, stopped.recv()).await.unwrap();
        assert_eq!(error, Some(ErrorKind::ConnectionReset));
    }
}

#[tokio::test]
async fn hundreds_of_streams_share_one_connection() {
    let nodes = Lab::new().mesh(2).await;
    let b = nodes[1].id();
    let mut tasks = Vec::new();
    for i in 0..400_u32 {
        let peers = nodes[0].peers.clone();
        tasks.push(tokio::spawn(async move {
            let mut stream = peers.open(b, Service::Relay).await.unwrap();
            stream.write_all(b"echo").await.unwrap();
            stream.write_all(&i.to_be_bytes()).await.unwrap();
            assert_eq!(stream.read_u32().await.unwrap(), i);
            stream
        }));
    }
    let mut streams = Vec::new();
    for task in tasks {
        streams.push(task.await.unwrap());
    }
    assert_eq!(nodes[0].ask(b, "still here").await.unwrap(), "still here");
}
