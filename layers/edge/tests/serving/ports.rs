//! Open ports: TCP, UDP, and TLS that is passed on.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use pangolin_core::{
    ResourceId, SiteId, TargetId,
    plan::{PlannedPort, Route, RouteTarget},
    record::Method,
    traffic::{Balancing, PortKind, PortRules, ProxyProtocol, Share},
};
use pangolin_edge::{Standing, Via};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use crate::lab::{Lab, Speaks, Target, connect, make, name, soon, until};

const HOST: &str = "raw.test.example";
const WEB: &str = "app.test.example";

/// A number that nobody uses, as far as can be told; below those that the system takes for outgoing connections.
fn number() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 1000).expect("small") * 19;
    let step = NEXT.fetch_add(1, Relaxed);
    12_000 + (start + step) % 20_000
}

/// A target that says after each line who it is and what it has read so far.
async fn teller(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut read).await {
                    if read.ends_with(b"\n") {
                        let answer = [name.as_bytes(), b" ", &read].concat();
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    at
}

/// A target that accepts as a connector does, and breaks the connection as one does whose target refuses.
async fn breaker() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    at
}

/// A target for datagrams, which gives them back with its name in front.
async fn parrot(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let at = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    at
}

/// Adds a port to the plan, with a target behind each address.
fn plan(lab: &mut Lab, resource: u16, kind: PortKind, rules: PortRules, targets: &[SocketAddr]) {
    let method = if matches!(kind, PortKind::Udp(_)) { Method::Udp } else { Method::Tcp };
    let planned = (resource..).zip(targets).map(|(port, at)| {
        lab.dialer.set(port, &[(Via::Local, *at)]);
        RouteTarget {
            id: TargetId(u64::from(port)),
            site: SiteId(1),
            method,
            address: [127, 0, 0, 1].into(),
            port,
            host: "target.internal".into(),
        }
    });
    let route = Route {
        resource: ResourceId(u64::from(resource)),
        targets: planned.collect(),
        balancing: Balancing::Address,
        ..Route::default()
    };
    lab.plan.ports.retain(|port| port.route.resource != route.resource || port.kind != kind);
    lab.plan.ports.push(PlannedPort { host: name(HOST), kind, rules, route });
}

/// Opens a port at a number that is free, and says where.
fn open(
    lab: &mut Lab,
    resource: u16,
    kind: fn(u16) -> PortKind,
    rules: impl Fn(PortRules) -> PortRules,
    targets: &[SocketAddr],
) -> SocketAddr {
    loop {
        let number = number();
        let kind = kind(number);
        plan(lab, resource, kind, rules(PortRules::usual(kind)), targets);
        lab.apply();
        if !lab.edge.port_problems().borrow().contains_key(&kind) {
            return SocketAddr::new(lab.https.ip(), number);
        }
        lab.plan.ports.retain(|port| port.kind != kind);
    }
}

/// What comes back after a line; nothing if the connection has ended.
async fn say(stream: &mut TcpStream, line: &str) -> String {
    if stream.write_all(line.as_bytes()).await.is_err() {
        return String::new();
    }
    let mut answer = vec![0; 4096];
    let length = soon(stream.read(&mut answer)).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// The end of a connection, whichever way it comes.
async fn ended(stream: &mut TcpStream) -> bool {
    matches!(soon(stream.read(&mut [0; 16])).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn ports_open_and_close_by_plan_and_others_do_not_notice() {
    let mut lab = Lab::start();
    let one = open(&mut lab, 1, PortKind::Tcp, |rules| rules, &[teller("one").await]);
    let two = open(&mut lab, 2, PortKind::Tcp, |rules| rules, &[teller("two").await]);
    let mut first = TcpStream::connect(one).await.expect("connected");
    let mut second = TcpStream::connect(two).await.expect("connected");
    assert_eq!(say(&mut first, "hello\n").await, "one hello\n");
    assert_eq!(say(&mut second, "hello\n").await, "two hello\n");

    // Another revision with other rules ends nothing.
    lab.plan.ports[0].rules.connections = 7;
    lab.apply();
    assert_eq!(say(&mut first, "again\n").await, "one hello\nagain\n");

    lab.plan.ports.retain(|port| port.route.resource == ResourceId(2));
    lab.apply();
    assert!(ended(&mut first).await, "the connections of a closed port end");
    let mut refused = false;
    for _ in 0..2000 {
        refused = TcpStream::connect(one).await.is_err();
        if refused {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(refused, "nobody listens there any more");
    assert_eq!(say(&mut second, "still\n").await, "two hello\nstill\n");
}

#[tokio::test]
async fn a_target_is_told_who_connects() {
    let mut lab = Lab::start();
    for (resource, version) in [(1, ProxyProtocol::V1), (2, ProxyProtocol::V2)] {
        let told = |rules| PortRules { proxy_protocol: Some(version), ..rules };
        let at = open(&mut lab, resource, PortKind::Tcp, told, &[teller("t").await]);
        let mut client = TcpStream::connect(at).await.expect("connected");
        let own = client.local_addr().expect("an address");
        client.write_all(b"hello\n").await.expect("written");
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello\n") {
            assert!(soon(client.read_buf(&mut answer)).await.expect("read") > 0);
        }
        // The header may have come to the target before the line did, and been answered by itself.
        let at_line = answer.windows(2).rposition(|pair| pair == b"t ").expect("an answer") + 2;
        let header = &answer[at_line..];
        match version {
            ProxyProtocol::V1 => {
                let line = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello\n", own.port(), at.port());
                assert_eq!(String::from_utf8_lossy(header), line);
            }
            _ => {
                assert_eq!(header[..13], *b"\r\n\r\n\0\r\nQUIT\n\x21");
                assert_eq!(header[24..28], [own.port().to_be_bytes(), at.port().to_be_bytes()].concat());
                assert_eq!(header[28..], *b"hello\n");
            }
        }
    }
}

#[tokio::test]
async fn a_target_is_told_with_each_datagram_whose_it_is() {
    let mut lab = Lab::start();
    let told = |rules| PortRules { proxy_protocol: Some(ProxyProtocol::V2Datagrams), ..rules };
    let at = open(&mut lab, 1, PortKind::Udp, told, &[parrot("t").await]);
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let own = client.local_addr().expect("an address");
    client.connect(at).await.expect("connected");
    for word in [&b"first"[..], b"second, and longer", b"3"] {
        client.send(word).await.expect("sent");
        let mut answer = [0; 200];
        let length = soon(client.recv(&mut answer)).await.expect("an answer");
        let got = answer[..length].strip_prefix(b"t ").expect("from the target");
        assert_eq!(got[..12], *b"\r\n\r\n\0\r\nQUIT\n");
        // Version 2, PROXY; IPv4, datagram; 12 bytes of addresses.
        assert_eq!(got[12..16], [0x21, 0x12, 0, 12]);
        assert_eq!(got[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
        assert_eq!(got[24..28], [own.port().to_be_bytes(), at.port().to_be_bytes()].concat());
        assert_eq!(got[28..], *word);
    }
}

#[tokio::test]
async fn what_a_target_refuses_goes_to_the_next_one_and_nothing_is_said_twice() {
    let mut lab = Lab::start();
    let targets = [breaker().await, teller("whole").await];
    let at = open(&mut lab, 1, PortKind::Tcp, |rules| rules, &targets);
    // The backup, so that the broken one is asked first.
    lab.plan.ports[0].route.shares = [(TargetId(2), Share { weight: 1, priority: 1 })].into();
    lab.apply();
    let mut answered = 0;
    for _ in 0..5 {
        let mut client = TcpStream::connect(at).await.expect("connected");
        match say(&mut client, "hello\n").await.as_str() {
            "whole hello\n" => answered += 1,
            // On a host that is too busy the break comes after the line was sent: then there is no way back.
            other => assert_eq!(other, ""),
        }
    }
    assert!(answered > 0);
    until("the first one is ejected", || {
        lab.edge.target_state(TargetId(1)).is_some_and(|state| state.standing == Standing::Unhealthy)
    })
    .await;
    let broken = lab.edge.target_state(TargetId(1)).expect("known");
    assert!(broken.ejected_for.is_some(), "{broken:?}");
}

#[tokio::test]
async fn rules_and_limits_keep_clients_out() {
    let mut lab = Lab::start();
    let target = teller("t").await;
    let two = |rules| PortRules { per_source: 2, ..rules };
    let at = open(&mut lab, 1, PortKind::Tcp, two, &[target]);
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(at).await.expect("connected");
        assert_eq!(say(&mut client, "hello\n").await, "t hello\n");
        clients.push(client);
    }
    let mut third = TcpStream::connect(at).await.expect("connected");
    assert!(ended(&mut third).await, "one too many");
    drop(clients.pop());
    until("the place is free again", || lab.edge.target_state(TargetId(1)).is_some_and(|t| t.running == 1))
        .await;
    let mut fourth = TcpStream::connect(at).await.expect("connected");
    assert_eq!(say(&mut fourth, "hello\n").await, "t hello\n");

    for (resource, allow, deny, admitted) in [
        (5, &["127.0.0.0/8"][..], &[][..], true),
        (6, &["192.0.2.0/24"], &[], false),
        (7, &[], &["127.0.0.1/32"], false),
    ] {
        let networks = |list: &[&str]| list.iter().map(|text| text.parse().expect("a network")).collect();
        let rules = |rules| PortRules { allow: networks(allow), deny: networks(deny), ..rules };
        let at = open(&mut lab, resource, PortKind::Tcp, rules, &[target]);
        let mut client = TcpStream::connect(at).await.expect("connected");
        assert_eq!(say(&mut client, "hello\n").await == "t hello\n", admitted, "{allow:?} {deny:?}");
    }
}

#[tokio::test]
async fn a_silent_connection_is_ended() {
    let mut lab = Lab::start();
    let brief = |rules| PortRules { idle: 1, ..rules };
    let at = open(&mut lab, 1, PortKind::Tcp, brief, &[teller("t").await]);
    let mut silent = TcpStream::connect(at).await.expect("connected");
    assert!(ended(&mut silent).await);
}

#[tokio::test]
async fn datagrams_of_a_client_stay_with_one_target_and_are_answered_from_the_port() {
    let mut lab = Lab::start();
    let targets = [parrot("one").await, parrot("two").await];
    let at = open(&mut lab, 1, PortKind::Udp, |rules| rules, &targets);
    let mut served = Vec::new();
    for _ in 0..3 {
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        client.connect(at).await.expect("connected");
        for word in ["a", "b", "c"] {
            client.send(word.as_bytes()).await.expect("sent");
            let mut buffer = [0; 100];
            let length = soon(client.recv(&mut buffer)).await.expect("an answer");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let (target, rest) = text.split_once(' ').expect("a name");
            assert_eq!(rest, word);
            served.push(target.to_owned());
        }
    }
    served.dedup();
    assert_eq!(served.len(), 1, "one address, one target");
}

#[tokio::test]
async fn datagrams_from_more_clients_than_allowed_are_dropped() {
    let mut lab = Lab::start();
    let one = |rules| PortRules { per_source: 1, ..rules };
    let at = open(&mut lab, 1, PortKind::Udp, one, &[parrot("t").await]);
    let first = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    first.send_to(b"a", at).await.expect("sent");
    let mut buffer = [0; 100];
    soon(first.recv_from(&mut buffer)).await.expect("an answer");
    let before = lab.edge.counters().refused_connections;
    let second = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    second.send_to(b"a", at).await.expect("sent");
    until("it is refused", || lab.edge.counters().refused_connections > before).await;
    first.send_to(b"b", at).await.expect("sent");
    soon(first.recv_from(&mut buffer)).await.expect("the first one goes on");
}

#[tokio::test]
async fn tls_is_passed_on_by_name_and_other_names_are_served_as_ever() {
    let mut lab = Lab::start();
    let web = Target::start("web", Speaks::Http1).await;
    lab.publish_local(WEB, Method::Http, 1, &web);
    // The target speaks TLS with a certificate that the edge has not.
    let own = make(&[HOST]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let acceptor = own.acceptor();
    let told = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut header = vec![0; 28];
            stream.read_exact(&mut header).await.expect("a header");
            heard.lock().await.push(header);
            let mut stream = acceptor.accept(stream).await.expect("TLS");
            let mut buffer = [0; 5];
            stream.read_exact(&mut buffer).await.expect("read");
            stream.write_all(b"secret").await.expect("written");
            stream.shutdown().await.expect("ended");
        }
    });
    let rules = PortRules { proxy_protocol: Some(ProxyProtocol::V2), ..PortRules::usual(PortKind::Tls) };
    plan(&mut lab, 9, PortKind::Tls, rules, &[at]);
    lab.apply();

    let mut client = connect(lab.https, HOST, &[]).await.expect("a handshake with the target");
    let shown = client.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec();
    assert_eq!(shown, own.chain, "the target's own certificate");
    let port = client.get_ref().0.local_addr().expect("an address").port();
    client.write_all(b"hello").await.expect("written");
    let mut answer = String::new();
    soon(client.read_to_string(&mut answer)).await.expect("read");
    assert_eq!(answer, "secret");
    let header = told.lock().await.pop().expect("told");
    assert_eq!(header[..13], *b"\r\n\r\n\0\r\nQUIT\n\x21");
    assert_eq!(header[24..26], port.to_be_bytes());

    let answer = lab.get(WEB, "/").await;
    assert_eq!((answer.status.as_u16(), answer.text().starts_with("web")), (200, true));
    // Not TLS at all.
    let mut plain = TcpStream::connect(lab.https).await.expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    assert!(ended(&mut plain).await);
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_and_opened_once_it_is_free() {
    let mut lab = Lab::start();
    let target = teller("t").await;
    let (taken, number) = loop {
        let number = number();
        if let Ok(taken) = std::net::TcpListener::bind((lab.https.ip(), number)) {
            break (taken, number);
        }
    };
    let kind = PortKind::Tcp(number);
    plan(&mut lab, 1, kind, PortRules::usual(kind), &[target]);
    lab.apply();
    let problems = lab.edge.port_problems();
    let text = problems.borrow().get(&kind).cloned().expect("told");
    assert!(text.contains("the address is in use"), "{text}");
    drop(taken);
    let mut problems = problems;
    soon(problems.wait_for(|problems| problems.is_empty())).await.expect("the edge lives");
    let mut client = TcpStream::connect((lab.https.ip(), number)).await.expect("connected");
    assert_eq!(say(&mut client, "hello\n").await, "t hello\n");
}
