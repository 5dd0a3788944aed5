//! Conversations with a node that is played here, over a pipe.

use pangolin_core::NodeId;
use pangolin_tunnel::control::messages::{Connect, NodeList, OfferedNode, PingResult, TargetList};
use tokio::io::DuplexStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use super::*;

const FAST: Pace = Pace {
    ping: Duration::from_secs(30),
    probe: Duration::from_millis(50),
    silence: Duration::from_millis(100),
    register: Duration::from_millis(40),
    measure: Duration::from_millis(20),
    distances: Duration::from_millis(60),
};
const CALM: Pace = Pace { silence: Duration::from_secs(10), ..FAST };

/// The node's end of the pipe.
struct PlayedNode(WebSocketStream<DuplexStream>);

impl PlayedNode {
    async fn say(&mut self, message: FromNode) {
        self.0.send(Message::text(encode(&message, 5))).await.unwrap();
    }

    /// The next message other than pings.
    async fn hears(&mut self) -> (FromConnector, u64) {
        loop {
            let frame = timeout(Duration::from_secs(5), self.0.next()).await.expect("a message");
            let Message::Text(text) = frame.expect("the connector is there").unwrap() else { continue };
            match decode(text.as_bytes()).unwrap() {
                Received::Known(FromConnector::Ping(_), _) => {}
                Received::Known(message, version) => return (message, version),
                Received::Unknown(kind) => panic!("{kind} is not known"),
            }
        }
    }

    async fn hears_registration(&mut self) -> Register {
        match self.hears().await.0 {
            FromConnector::Register(register) => register,
            other => panic!("{other:?}"),
        }
    }
}

fn control() -> (Control, watch::Sender<Healths>) {
    let (healths, are_healths) = watch::channel(Healths::new());
    let control = Control {
        doors: vec![Door::configured("localhost".parse().unwrap(), None)],
        id: "k3v".into(),
        secret: Secret::from("s3cret".to_owned()),
        tls: Tls::new(None).unwrap(),
        key: TunnelKey([1; 32]),
        multi_homed: true,
        wanted: watch::Sender::default(),
        healths: are_healths,
        distances: watch::Sender::default().subscribe(),
        status: watch::Sender::default(),
        doubt: Arc::default(),
    };
    (control, healths)
}

async fn pipe() -> (Socket, PlayedNode) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let socket = WebSocketStream::from_raw_socket(Box::new(near) as _, Role::Client, None).await;
    (socket, PlayedNode(WebSocketStream::from_raw_socket(far, Role::Server, None).await))
}

fn connect(chain_id: &str) -> FromNode {
    FromNode::Connect(Connect {
        tunnel_ip: "100.89.4.17".into(),
        nodes: Some(vec![OfferedNode { node_id: 1, ..offered() }]),
        chain_id: chain_id.into(),
        ..Connect::default()
    })
}

fn offered() -> OfferedNode {
    OfferedNode {
        public_key: key_text(TunnelKey([2; 32])),
        server_ip: "100.89.0.1".into(),
        control: "192.0.2.1:443".into(),
        ..OfferedNode::default()
    }
}

#[tokio::test]
async fn a_registration_is_repeated_until_it_is_answered_for_this_chain() {
    let (mut control, _healths) = control();
    let mut wanted = control.wanted.subscribe();
    let (socket, mut node) = pipe().await;
    let conversation = Conversation::new(&mut control, socket, &CALM);
    let play = async {
        let first = node.hears_registration().await;
        assert!(first.multi_homed && !first.backwards_compatible);
        assert_eq!(first.public_key, key_text(TunnelKey([1; 32])));
        node.say(connect("of another one")).await;
        let second = node.hears_registration().await;
        assert_eq!(first, second);
        assert_eq!(wanted.borrow().address, None, "an answer to somebody else's registration is not taken");
        node.say(connect(&second.chain_id)).await;
        wanted.wait_for(|wanted| wanted.address.is_some() && wanted.nodes.len() == 1).await.unwrap();
        node.say(FromNode::TcpAdd(TargetList { targets: vec!["40001:a:80".into()] })).await;
        node.say(FromNode::Nodes(NodeList { nodes: vec![offered(), offered()] })).await;
        wanted.wait_for(|wanted| wanted.nodes.len() == 2 && wanted.tcp.len() == 1).await.unwrap();
    };
    let never = CancellationToken::new();
    tokio::select! {
        () = play => {}
        _ = conversation.hold(&never) => panic!("the conversation has ended"),
    }
    let doors = control.doors(None, None);
    assert_eq!(doors.len(), 3, "two learned doors and the configured one");
    assert_eq!(doors[2].address, None, "the configured one comes last");
    control.multi_homed = false;
    assert_eq!(control.doors(None, None)[0].address, None, "not to where the only tunnel ends");
}

#[tokio::test]
async fn a_node_that_does_not_answer_when_a_tunnel_has_died_is_left() {
    let (mut control, _healths) = control();
    let doubt = Arc::clone(&control.doubt);
    // It is not listened to, so that nothing answers.
    let (socket, _node) = pipe().await;
    doubt.notify_one();
    let conversation = Conversation::new(&mut control, socket, &CALM);
    let End::Lost(reason) = conversation.hold(&CancellationToken::new()).await else {
        panic!("it was told to stop")
    };
    assert_eq!(reason, "the node does not answer");
}

#[tokio::test]
async fn health_is_told_once_connected_and_when_it_changes() {
    let (mut control, healths) = control();
    let health = |verdict| Health { verdict, count: 1, ..Health::default() };
    healths.send_replace([(7, health(TargetHealth::Healthy))].into());
    let (socket, mut node) = pipe().await;
    let conversation = Conversation::new(&mut control, socket, &CALM);
    let play = async {
        let register = node.hears_registration().await;
        node.say(connect(&register.chain_id)).await;
        for (name, next) in [("healthy", TargetHealth::Unhealthy), ("unhealthy", TargetHealth::Unknown)] {
            let (FromConnector::HealthStatus(status), 5) = node.hears().await else { panic!("not a status") };
            assert_eq!(status.targets["7"].status, name);
            healths.send_replace([(7, health(next))].into());
        }
        node.hears().await;
        node.say(FromNode::HealthWanted(Nothing {})).await;
        let (FromConnector::HealthStatus(status), _) = node.hears().await else { panic!("not a status") };
        assert_eq!(status.targets["7"].status, "unknown");
    };
    let never = CancellationToken::new();
    tokio::select! {
        () = play => {}
        _ = conversation.hold(&never) => panic!("the conversation has ended"),
    }
}

#[tokio::test]
async fn distances_are_told_with_the_registration_and_when_they_are_news() {
    let (mut control, _healths) = control();
    let measured = watch::Sender::new(Distances::from([(NodeId(1), Duration::from_millis(10))]));
    control.distances = measured.subscribe();
    let (socket, mut node) = pipe().await;
    let conversation = Conversation::new(&mut control, socket, &CALM);
    let play = async {
        let register = node.hears_registration().await;
        let told = |results: Vec<PingResult>| -> Vec<(u64, f64)> {
            results.iter().map(|result| (result.exit_node_id, result.latency_ms)).collect()
        };
        assert_eq!(told(register.ping_results.unwrap()), [(1, 10.0)]);
        node.say(connect(&register.chain_id)).await;
        // What is a little different is not told.
        measured.send_replace([(NodeId(1), Duration::from_millis(12))].into());
        sleep(4 * CALM.measure).await;
        for (ms, expected) in [(40, 40.0), (80, 80.0)] {
            measured.send_replace([(NodeId(1), Duration::from_millis(ms))].into());
            let distances = loop {
                match node.hears().await {
                    (FromConnector::Distances(distances), 5) => break distances,
                    // One that crossed its answer.
                    (FromConnector::Register(_), _) => {}
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(told(distances.ping_results), [(1, expected)]);
        }
    };
    let never = CancellationToken::new();
    tokio::select! {
        () = play => {}
        _ = conversation.hold(&never) => panic!("the conversation has ended"),
    }
}

#[tokio::test]
async fn a_node_that_says_nothing_is_dead() {
    let (mut control, _healths) = control();
    let (socket, _node) = pipe().await;
    let end = Conversation::new(&mut control, socket, &FAST).hold(&CancellationToken::new()).await;
    assert!(matches!(end, End::Lost(reason) if reason.contains("does not answer")));
}

#[tokio::test]
async fn a_node_that_answers_pings_is_not() {
    let (mut control, _healths) = control();
    let (socket, mut node) = pipe().await;
    let conversation = Conversation::new(&mut control, socket, &FAST);
    // Reading is what makes it answer.
    let play = async { while node.0.next().await.is_some() {} };
    let never = CancellationToken::new();
    tokio::select! {
        () = play => panic!("the connector is gone"),
        _ = conversation.hold(&never) => panic!("the conversation has ended"),
        () = sleep(4 * FAST.silence) => {}
    }
}

#[tokio::test]
async fn a_farewell_is_said_at_the_end() {
    let (mut control, _healths) = control();
    let (socket, mut node) = pipe().await;
    let shutdown = CancellationToken::new();
    let conversation = Conversation::new(&mut control, socket, &CALM);
    let play = async {
        node.hears_registration().await;
        shutdown.cancel();
        while !matches!(node.hears().await.0, FromConnector::Disconnecting(_)) {}
        while let Some(Ok(frame)) = node.0.next().await {
            assert!(frame.is_close());
        }
    };
    let (end, ()) = tokio::join!(conversation.hold(&shutdown), play);
    assert!(matches!(end, End::Shutdown));
}
