//! What reaches a port that is open to the world.

use std::{sync::Arc, time::Duration};

use pangolin_core::id::NodeId;
use pangolin_peer::identity::{NodeIdentity, node_name};
use rustls::{ClientConfig, RootCertStore, version::TLS13};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::lab::{LIMIT, Lab, Node};

/// A TLS connection to `node`, made by hand.
async fn dial(
    node: &Node,
    own: &NodeIdentity,
    alpn: &[u8],
    show: bool,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(own.authority.clone().into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = if show {
        let key = PrivateKeyDer::try_from(own.key.to_pkcs8().to_vec()).unwrap();
        builder.with_client_auth_cert(vec![own.certificate.clone().into()], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = (!alpn.is_empty()).then(|| alpn.to_vec()).into_iter().collect();
    let stream = TcpStream::connect(node.address).await?;
    let name = ServerName::try_from(node_name(own.cluster, node.id())).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn hello(own: &NodeIdentity, to: NodeId, lane: u8) -> Vec<u8> {
    let mut text = vec![0, 1, 0, 1];
    text.extend(own.cluster.0);
    text.extend(own.lineage.to_be_bytes());
    text.extend(own.node.0.to_be_bytes());
    text.extend(to.0.to_be_bytes());
    text.push(lane);
    // What its program understands, and its clock.
    text.extend(u32::MAX.to_be_bytes());
    text.extend(0_u64.to_be_bytes());
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], &text].concat()
}

/// Waits until the other side closes the connection.
async fn is_closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut rest = Vec::new();
    let read = timeout(2 * LIMIT, stream.read_to_end(&mut rest)).await;
    drop(read.expect("the connection should be closed"));
}

/// Bytes without sense, the same in each run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    });
    next.take(length).collect()
}

#[tokio::test]
async fn random_bytes_on_the_port_close_the_connection_and_disturb_nobody() {
    let lab = Lab::new();
    let nodes = lab.mesh(2).await;
    for seed in 1..20 {
        let mut stream = TcpStream::connect(nodes[0].address).await.unwrap();
        // A TLS record header before half of them, so that they get further.
        let mut bytes = noise(seed, 600);
        if seed % 2 == 0 {
            bytes[..5].copy_from_slice(&[22, 3, 1, 2, 0]);
        }
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        is_closed(&mut stream).await;
    }
    assert_eq!(nodes[1].ask(NodeId(1), "still").await.unwrap(), "still");
    assert!(!nodes[1].peers.is_suspect(NodeId(1)));
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate_or_with_another_protocol() {
    let lab = Lab::new();
    let nodes = lab.mesh(2).await;
    let own = lab.identity(2);
    // In TLS 1.3 the client learns of the refusal with its first read.
    if let Ok(mut stream) = dial(&nodes[0], &own, b"pangolin-peer/1", false).await {
        let _ = stream.write_all(&hello(&own, NodeId(1), 1)).await;
        let error = stream.read_u8().await.unwrap_err();
        assert!(error.to_string().contains("CertificateRequired"), "{error}");
    }
    assert!(dial(&nodes[0], &own, b"h2", true).await.is_err());
    assert!(dial(&nodes[0], &own, b"", true).await.is_err());
}

#[tokio::test]
async fn a_certificate_of_one_node_does_not_open_the_door_for_another() {
    let lab = Lab::new();
    let nodes = lab.mesh(3).await;
    let claims = NodeIdentity { node: NodeId(3), ..lab.identity(2) };
    let mut stream = dial(&nodes[0], &claims, b"pangolin-peer/1", true).await.unwrap();
    stream.write_all(&hello(&claims, NodeId(1), 1)).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    let reason = String::from_utf8_lossy(&answer[3..]).into_owned();
    assert!(answer[0] == 1 && reason.contains("not one of node 3"), "{reason}");
    is_closed(&mut stream).await;
}

/// A member whose program is out of its mind.
async fn mad_member(lane: u8) -> (Vec<Node>, TlsStream<TcpStream>) {
    let lab = Lab::new();
    let nodes = lab.mesh(2).await;
    let identity = lab.identity(3);
    let mut plan = lab.plan(&[&nodes[0], &nodes[1]]);
    let mut planned = nodes[1].planned();
    planned.spki = identity.key.spki_digest();
    // Nobody listens on port 1.
    planned.address.set_port(1);
    plan.nodes.insert(NodeId(3), planned);
    nodes[0].peers.set_plan(plan);
    let mut stream = dial(&nodes[0], &identity, b"pangolin-peer/1", true).await.unwrap();
    stream.write_all(&hello(&identity, NodeId(1), lane)).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..3], [0, 0, 1]);
    (nodes, stream)
}

#[tokio::test]
async fn malformed_frames_close_the_control_lane_and_disturb_nobody() {
    let giant = [[1, 0, 1, 0].as_slice(), &u32::MAX.to_be_bytes(), &[0; 4]].concat();
    let answer_unasked = vec![2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    for bytes in [giant, answer_unasked, noise(7, 5000)] {
        let (nodes, mut stream) = mad_member(1).await;
        stream.write_all(&bytes).await.unwrap();
        is_closed(&mut stream).await;
        assert_eq!(nodes[1].ask(NodeId(1), "still").await.unwrap(), "still");
    }
}

#[tokio::test]
async fn malformed_frames_close_the_bulk_lane_and_disturb_nobody() {
    let (nodes, mut stream) = mad_member(2).await;
    stream.write_all(&noise(9, 5000)).await.unwrap();
    is_closed(&mut stream).await;
    assert_eq!(nodes[1].ask(NodeId(1), "still").await.unwrap(), "still");
}

#[tokio::test]
async fn a_malformed_hello_closes_the_connection() {
    let lab = Lab::new();
    let nodes = lab.mesh(2).await;
    let own = lab.identity(2);
    for bytes in [vec![0, 0], vec![0, 3, 1, 2, 3], vec![255, 255, 0], hello(&own, NodeId(1), 9)] {
        let mut stream = dial(&nodes[0], &own, b"pangolin-peer/1", true).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        is_closed(&mut stream).await;
    }
}

#[tokio::test]
async fn connections_that_prove_nothing_run_into_a_limit_and_a_timeout() {
    let lab = Lab::new();
    let nodes = lab.mesh(2).await;
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(TcpStream::connect(nodes[0].address).await.unwrap());
    }
    // The ones above the limit are closed at once, the others after five seconds.
    let (began, mut at_once) = (Instant::now(), 0);
    while at_once < 60 - 32 && began.elapsed() < Duration::from_secs(4) {
        at_once = 0;
        for stream in &mut idle {
            let read = timeout(Duration::from_millis(1), stream.read(&mut [0; 1])).await;
            at_once += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
        }
    }
    assert_eq!(at_once, 60 - 32);
    assert_eq!(nodes[1].ask(NodeId(1), "still").await.unwrap(), "still", "proven connections do not count");
    for stream in &mut idle {
        is_closed(stream).await;
    }
}
