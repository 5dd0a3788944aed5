//! Two stacks with a wire between them that the tests can cut.

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const ONE: Ipv4Addr = Ipv4Addr::new(100, 90, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(100, 90, 1, 9);
const MTU: u16 = 1280;
const PORT: u16 = 80;

struct Pair {
    one: Stack,
    two: Stack,
    accepted: mpsc::Receiver<Accepted>,
    probes: mpsc::Receiver<(SocketAddrV4, Bytes)>,
    cut: Arc<AtomicBool>,
}

fn wire(mut from: mpsc::Receiver<BytesMut>, to: Stack, cut: Arc<AtomicBool>) {
    tokio::spawn(async move {
        while let Some(packet) = from.recv().await {
            assert!(packet.len() <= usize::from(MTU));
            if !cut.load(Ordering::Relaxed) {
                to.input(&packet);
            }
        }
    });
}

fn pair() -> Pair {
    let ((one, from_one), (two, from_two)) = (Stack::new(ONE, MTU), Stack::new(TWO, MTU));
    let cut = Arc::new(AtomicBool::new(false));
    wire(from_one.out, two.clone(), cut.clone());
    wire(from_two.out, one.clone(), cut.clone());
    two.listen(BTreeSet::from([PORT]), BTreeSet::from([PORT]));
    Pair { one, two, accepted: from_two.accepted, probes: from_two.probes, cut }
}

fn target() -> SocketAddrV4 {
    SocketAddrV4::new(TWO, PORT)
}

async fn connected(pair: &mut Pair) -> (FlowStream, FlowStream) {
    let near = pair.one.connect(target()).await.unwrap();
    let Some(Accepted::Tcp(_, far)) = pair.accepted.recv().await else { panic!("no flow came") };
    (near, far)
}

async fn settle(what: impl Fn() -> bool) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it does not settle");
}

fn flows(stack: &Stack) -> usize {
    stack.0.tcp.lock().len()
}

#[tokio::test]
async fn half_closed_flows_still_carry_the_other_direction() {
    let mut pair = pair();
    let (mut near, mut far) = connected(&mut pair).await;
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "question");
    far.write_all(b"answer").await.unwrap();
    drop(far);
    text.clear();
    near.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "answer");
    drop(near);
    settle(|| flows(&pair.one) == 0 && flows(&pair.two) == 0).await;
}

#[tokio::test]
async fn a_finished_flow_is_gone_at_once_on_both_ends() {
    let mut pair = pair();
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let (mut near, mut far) = connected(&mut pair).await;
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut text = Vec::new();
        far.read_to_end(&mut text).await.unwrap();
        far.write_all(&text).await.unwrap();
        drop(far);
        near.read_to_end(&mut text).await.unwrap();
        drop(near);
        let start = Instant::now();
        settle(|| flows(&pair.one) == 0 && flows(&pair.two) == 0).await;
        quickest = quickest.min(start.elapsed());
    }
    // The quickest: a busy machine makes some of them slow, a segment that is not acknowledged all of them.
    assert!(quickest < Duration::from_millis(500), "the last segment was not acknowledged");
}

#[tokio::test]
async fn a_flow_let_go_yields_to_a_new_one_between_the_same_ends() {
    let mut pair = pair();
    let (near, far) = connected(&mut pair).await;
    let key = near.flow().key();
    pair.cut.store(true, Ordering::Relaxed);
    near.reset();
    drop(far);
    settle(|| flows(&pair.one) == 0).await;
    pair.cut.store(false, Ordering::Relaxed);
    assert_eq!(flows(&pair.two), 1);
    let again = tcp::TcpFlow::connect(&pair.one, key).unwrap();
    tokio::time::timeout(Duration::from_millis(500), again.established()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_dropped_with_data_unread_resets_the_other_end() {
    let mut pair = pair();
    let (mut near, far) = connected(&mut pair).await;
    near.write_all(b"never read").await.unwrap();
    settle(|| far.flow().queued() > 0).await;
    drop(far);
    assert_eq!(near.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    settle(|| flows(&pair.one) == 0 && flows(&pair.two) == 0).await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back_and_gets_everything() {
    let mut pair = pair();
    let (near, mut far) = connected(&mut pair).await;
    let (_, mut writer) = tokio::io::split(near);
    let sent = vec![5; 3 * tcp::BUFFER];
    let to_send = sent.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&to_send).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!writing.is_finished(), "nothing held the writer back");
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.unwrap();
    writing.await.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn an_end_that_forgot_the_flow_resets_it() {
    let mut pair = pair();
    let (mut near, far) = connected(&mut pair).await;
    pair.cut.store(true, Ordering::Relaxed);
    far.reset();
    settle(|| flows(&pair.two) == 0).await;
    pair.cut.store(false, Ordering::Relaxed);
    near.write_all(b"hello?").await.unwrap();
    assert_eq!(near.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn more_flows_than_are_accepted_are_refused() {
    let pair = pair();
    let mut open = Vec::new();
    for _ in 0..ACCEPT_QUEUE {
        open.push(pair.one.connect(target()).await.unwrap());
    }
    let refused = pair.one.connect(target()).await.err().unwrap();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop((pair.accepted, open));
    settle(|| flows(&pair.one) == 0 && flows(&pair.two) == 0).await;
}

#[tokio::test]
async fn closing_ends_every_flow_and_refuses_new_ones() {
    let mut pair = pair();
    let (mut near, far) = connected(&mut pair).await;
    let datagrams = pair.one.connect_udp(target()).unwrap();
    pair.one.close().await;
    assert_eq!(near.read(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(near.write(&[0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(datagrams.recv(&mut [0; 1]).await.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    assert_eq!(pair.one.connect(target()).await.err().unwrap().kind(), std::io::ErrorKind::NotConnected);
    drop(far);
}

#[tokio::test]
async fn an_idle_udp_session_ends() {
    let mut pair = pair();
    let near = pair.one.connect_udp(target()).unwrap();
    near.send(b"hello").unwrap();
    let Some(Accepted::Udp(_, far)) = pair.accepted.recv().await else { panic!("no session came") };
    let mut buffer = [0; 3];
    assert_eq!(far.recv(&mut buffer).await.unwrap(), 3);
    assert_eq!(&buffer, b"hel");
    pair.two.sweep(Instant::now() + UDP_IDLE - Duration::from_secs(1));
    assert_eq!(pair.two.0.udp.lock().len(), 1);
    pair.two.sweep(Instant::now() + UDP_IDLE);
    assert_eq!(far.recv(&mut buffer).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn probes_reach_their_queue_and_pings_are_answered() {
    let mut pair = pair();
    assert!(pair.one.send_udp(PROBE_PORT, SocketAddrV4::new(TWO, PROBE_PORT), b"probe"));
    let (from, payload) = pair.probes.recv().await.unwrap();
    assert_eq!((from, &payload[..]), (SocketAddrV4::new(ONE, PROBE_PORT), &b"probe"[..]));

    let (stack, mut queues) = Stack::new(ONE, MTU);
    let mut ping = packet::echo_reply(TWO, ONE, 3, 4, b"newtping");
    ping[20] = 8;
    stack.input(&ping);
    assert_eq!(queues.out.recv().await.unwrap(), packet::echo_reply(ONE, TWO, 3, 4, b"newtping"));
}

/// How long a flow that waits behind a full queue takes from the moment on when there is room.
async fn behind_a_full_queue() -> Duration {
    let ((one, mut from_one), (two, from_two)) = (Stack::new(ONE, MTU), Stack::new(TWO, MTU));
    let cut = Arc::new(AtomicBool::new(false));
    wire(from_two.out, one.clone(), cut);
    two.listen(BTreeSet::from([PORT]), BTreeSet::new());
    while one.send_udp(1, target(), b"filler") {}
    let connecting = tokio::spawn(async move { one.connect(target()).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!connecting.is_finished());
    let start = Instant::now();
    tokio::spawn(async move {
        while let Some(packet) = from_one.out.recv().await {
            two.input(&packet);
        }
    });
    connecting.await.unwrap().unwrap();
    start.elapsed()
}

#[tokio::test]
async fn a_full_queue_delays_a_flow_and_loses_nothing() {
    let mut quickest = Duration::MAX;
    for _ in 0..5 {
        quickest = quickest.min(behind_a_full_queue().await);
    }
    // A segment that was lost takes a retransmission, each time.
    assert!(quickest < Duration::from_millis(500), "it took a retransmission");
}

proptest! {
    #[test]
    fn no_packet_causes_a_panic(packets in proptest::collection::vec(
        (prop::sample::select(vec![1_u8, 6, 17]), proptest::collection::vec(any::<u8>(), 0..80), any::<bool>()),
        1..20,
    )) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let (stack, _queues) = Stack::new(ONE, MTU);
        stack.listen((0..=u16::MAX).collect(), BTreeSet::from([PORT]));
        for (protocol, payload, syn) in packets {
            let mut bytes = packet::udp(SocketAddrV4::new(TWO, 1), SocketAddrV4::new(ONE, PORT), &payload);
            bytes[9] = protocol;
            if protocol == 6 && bytes.len() >= 40 {
                bytes[32] = 0x50 | (bytes[32] & 0x0f);
                bytes[33] = if syn { 2 } else { bytes[33] };
            }
            stack.input(&bytes);
        }
    }
}
