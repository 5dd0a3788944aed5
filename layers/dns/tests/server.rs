//! The server over real sockets on loopback.
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod zone;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use domain::base::Rtype;
use pangolin_dns::{DnsConfig, DnsError, DnsServer, Protocol, RateLimit};
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use zone::{a, at, loopback, no_keys, plan, query, show, zone};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(150);

struct Running {
    server: DnsServer,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), DnsError>>,
    runtime: Runtime,
}

fn config(addresses: &[&str]) -> DnsConfig {
    DnsConfig {
        listen: loopback(addresses),
        udp_threads: 2,
        nsid: "n1".to_owned(),
        rate_limit: None,
        ..DnsConfig::default()
    }
}

fn start(config: DnsConfig) -> Running {
    let runtime = Runtime::new().expect("a runtime");
    let (server, task) = DnsServer::bind(config).expect("free addresses");
    let shutdown = CancellationToken::new();
    let task = runtime.spawn(task.run(shutdown.clone()));
    Running { server, shutdown, task, runtime }
}

fn start_with_plan(config: DnsConfig) -> Running {
    let running = start(config);
    running.server.apply(at(7), &plan(7), &no_keys).expect("a plan");
    running
}

impl Running {
    fn address(&self) -> SocketAddr {
        self.server.local_addrs()[0]
    }

    fn stop(self) -> Result<(), DnsError> {
        self.shutdown.cancel();
        let task = self.task;
        self.runtime.block_on(async {
            tokio::time::timeout(PATIENCE, task).await.expect("an end").expect("no panic")
        })
    }
}

fn udp(server: SocketAddr) -> UdpSocket {
    let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(local).expect("a port");
    socket.connect(server).expect("a route");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn by_udp(server: SocketAddr, message: &[u8]) -> String {
    let socket = udp(server);
    socket.send(message).expect("room");
    let mut reply = [0; 2048];
    let length = socket.recv(&mut reply).expect("a reply");
    show(&reply[..length])
}

fn tcp(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("short");
    [&length.to_be_bytes(), message].concat()
}

fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

fn by_tcp(server: SocketAddr, message: &[u8]) -> String {
    let mut stream = tcp(server);
    stream.write_all(&frame(message)).expect("room");
    show(&read_frame(&mut stream).expect("a reply"))
}

/// Whether the server has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 512]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} does not come true");
        thread::sleep(Duration::from_millis(5));
    }
}

const APP: &str = "NOERROR aa\nan app.z.test. 30 A 192.0.2.2\nan app.z.test. 30 A 192.0.2.1";

#[test]
fn every_address_answers_by_udp_and_tcp() {
    let mut config = config(&["127.0.0.1", "127.0.0.1", "::1"]);
    if UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped in part: no IPv6 on this host");
        config.listen.pop();
    }
    let running = start_with_plan(config);
    let query = query("app.z.test.", Rtype::A, Some(1232));
    let addresses = running.server.local_addrs().to_vec();
    assert!(addresses.len() >= 2);
    for address in addresses {
        assert_ne!(address.port(), 0);
        assert_eq!(by_udp(address, &query), APP, "{address}");
        assert_eq!(by_tcp(address, &query), APP, "{address}");
    }
    // An answer is counted when it has been sent: a client may have it before.
    eventually("every answer is counted", || {
        let counters = running.server.counters();
        let (udp, tcp) = (counters.udp_queries, counters.tcp_queries);
        udp >= 2 && udp == tcp && counters.noerror == udp + tcp
    });
    running.stop().expect("a clean end");
}

#[test]
fn truncated_answers_are_whole_by_tcp() {
    let running = start_with_plan(config(&["127.0.0.1"]));
    let query = query("many.z.test.", Rtype::TXT, Some(1232));
    assert_eq!(by_udp(running.address(), &query), "NOERROR aa tc");
    assert_eq!(by_tcp(running.address(), &query).matches("\nan ").count(), 100);
    assert_eq!(running.server.counters().truncated, 1);
    running.stop().expect("a clean end");
}

#[test]
fn before_the_first_plan_it_says_servfail_and_afterwards_never_goes_back() {
    let running = start(config(&["127.0.0.1"]));
    let (server, address) = (running.server.clone(), running.address());
    let soa = query("z.test.", Rtype::SOA, None);
    let serial = || by_udp(address, &soa).split(' ').rev().nth(4).expect("a serial").to_owned();
    assert_eq!(by_udp(address, &soa), "SERVFAIL");
    assert_eq!(by_tcp(address, &soa), "SERVFAIL");
    assert_eq!(server.revision(), None);

    server.apply(at(7), &plan(7), &no_keys).expect("a plan");
    assert_eq!((serial().as_str(), server.revision()), ("7", Some(at(7))));
    server.apply(at(6), &plan(6), &no_keys).expect("ignored");
    server.apply(at(7), &plan(99), &no_keys).expect("ignored");
    assert_eq!((serial().as_str(), server.revision()), ("7", Some(at(7))));
    server.apply(at(8), &plan(8), &no_keys).expect("a plan that differs by its serial");
    assert_eq!(serial(), "8");
    assert_eq!(by_udp(address, &query("app.z.test.", Rtype::A, None)), APP);

    let mut moved = plan(9);
    moved.zones[0].sets.extend(zone("z.test", 0, &[("app.z.test", 15, vec![a("192.0.2.1")])]).sets);
    server.apply(at(9), &moved, &no_keys).expect("a plan with other sets");
    let app = || by_udp(address, &query("app.z.test.", Rtype::A, None));
    assert_eq!(app(), "NOERROR aa\nan app.z.test. 15 A 192.0.2.1");

    let mut bad = plan(10);
    bad.zones.push(bad.zones[0].clone());
    assert!(server.apply(at(10), &bad, &no_keys).is_err());
    assert_eq!(server.revision(), Some(at(9)));
    assert_eq!(app(), "NOERROR aa\nan app.z.test. 15 A 192.0.2.1", "what was served stays");

    let restored = pangolin_core::id::Revision { lineage: 2, index: 1 };
    server.apply(restored, &plan(3), &no_keys).expect("a plan of a later lineage");
    assert_eq!((app().as_str(), serial().as_str()), (APP, "3"));
    server.apply(at(1000), &plan(1000), &no_keys).expect("ignored");
    assert_eq!(server.revision(), Some(restored));
    running.stop().expect("a clean end");
}

#[test]
fn tcp_answers_pipelined_queries_in_order_however_they_are_cut() {
    let running = start_with_plan(config(&["127.0.0.1"]));
    let mut stream = tcp(running.address());
    let names: Vec<String> = (0..50).map(|n| format!("x{n}.wild.z.test.")).collect();
    let bytes: Vec<u8> = names.iter().flat_map(|name| frame(&query(name, Rtype::A, None))).collect();
    let (first, rest) = bytes.split_at(61);
    for byte in first {
        stream.write_all(&[*byte]).expect("room");
        stream.flush().expect("room");
    }
    stream.write_all(rest).expect("room");
    for name in &names {
        let reply = show(&read_frame(&mut stream).expect("a reply"));
        assert_eq!(reply, format!("NOERROR aa\nan {name} 30 A 192.0.2.7"));
    }
    running.stop().expect("a clean end");
}

#[test]
fn tcp_answers_garbage_with_format_errors_and_ends_what_is_no_dns() {
    let running = start_with_plan(config(&["127.0.0.1"]));
    let address = running.address();
    let mut stream = tcp(address);
    stream.write_all(&frame(&[0x55; 40])).expect("room");
    assert!(show(&read_frame(&mut stream).expect("a reply")).starts_with("NOTIMP"));
    stream.write_all(&frame(&query("app.z.test.", Rtype::A, None))).expect("room");
    assert_eq!(show(&read_frame(&mut stream).expect("a reply")), APP, "the next query is answered");

    let a_reply = {
        let mut message = query("app.z.test.", Rtype::A, None);
        message[2] |= 0x80;
        frame(&message)
    };
    for (what, bytes) in [
        ("a message without header", vec![0, 3, 1, 2, 3]),
        ("length 0", vec![0, 0]),
        ("a huge message", vec![0xff, 0xff, 0]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: app.z.test\r\n\r\n".to_vec()),
        ("a reply", a_reply),
    ] {
        let mut stream = tcp(address);
        stream.write_all(&bytes).expect("room");
        assert!(is_closed(&mut stream), "{what}");
    }
    assert_eq!(running.server.counters().tcp_cut, 5);
    running.stop().expect("a clean end");
}

#[test]
fn idle_tcp_connections_and_those_that_ask_too_much_are_ended() {
    let limits =
        DnsConfig { tcp_idle: Duration::from_millis(100), max_tcp_queries: 3, ..config(&["127.0.0.1"]) };
    let running = start_with_plan(limits);
    let mut idle = tcp(running.address());
    assert!(is_closed(&mut idle));
    let mut greedy = tcp(running.address());
    let asked = frame(&query("app.z.test.", Rtype::A, None)).repeat(3);
    greedy.write_all(&asked).expect("room");
    for _ in 0..3 {
        read_frame(&mut greedy).expect("a reply");
    }
    assert!(is_closed(&mut greedy));
    running.stop().expect("a clean end");
}

#[test]
fn tcp_connections_beyond_the_limits_are_refused_and_places_come_back() {
    let limits = DnsConfig { max_tcp_connections_per_network: 2, ..config(&["127.0.0.1"]) };
    let running = start_with_plan(limits);
    let query = frame(&query("app.z.test.", Rtype::A, None));
    let open = || {
        let mut stream = tcp(running.address());
        let answered = stream.write_all(&query).is_ok() && read_frame(&mut stream).is_ok();
        answered.then_some(stream)
    };
    let (first, second) = (open(), open());
    assert!(first.is_some() && second.is_some());
    assert!(open().is_none());
    assert_eq!(running.server.counters().tcp_refused, 1);
    assert_eq!(running.server.counters().tcp_open, 2);
    drop((first, second));
    eventually("a free place", || open().is_some());
    running.stop().expect("a clean end");
}

#[test]
fn beyond_the_rate_limit_clients_are_sent_to_tcp() {
    let limit = RateLimit { per_second: 1, burst: 9 };
    let running =
        start_with_plan(DnsConfig { rate_limit: Some(limit), udp_threads: 1, ..config(&["127.0.0.1"]) });
    let socket = udp(running.address());
    let query = query("app.z.test.", Rtype::A, Some(1232));
    for _ in 0..20 {
        socket.send(&query).expect("room");
    }
    let mut whole = 0;
    let mut slipped = 0;
    let mut reply = [0; 2048];
    while whole + slipped < 15 {
        let length = socket.recv(&mut reply).expect("a reply");
        match show(&reply[..length]).as_str() {
            APP => whole += 1,
            "NOERROR tc" => slipped += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((whole, slipped), (10, 5));
    eventually("counters", || running.server.counters().limited == 5);
    assert_eq!(by_tcp(running.address(), &query), APP);
    running.stop().expect("a clean end");
}

#[test]
fn replies_and_scraps_by_udp_get_nothing() {
    let running = start_with_plan(config(&["127.0.0.1"]));
    let socket = udp(running.address());
    let mut reply = query("app.z.test.", Rtype::A, None);
    reply[2] |= 0x80;
    for message in [reply.as_slice(), &[], &[0], &[0; 11], &[0; 5000]] {
        socket.send(message).expect("room");
    }
    socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
    assert!(socket.recv(&mut [0; 2048]).is_err(), "silence");
    eventually("counters", || running.server.counters().dropped == 5);
    assert_eq!(by_udp(running.address(), &query("app.z.test.", Rtype::A, None)), APP);
    running.stop().expect("a clean end");
}

/// A UDP socket on a port that nobody has for TCP, as a connection of another program may.
fn udp_port_alone() -> UdpSocket {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        if TcpListener::bind(udp.local_addr().expect("an address")).is_ok() {
            return udp;
        }
    }
}

#[test]
fn an_address_in_use_is_named_with_its_protocol() {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = tcp.local_addr().expect("an address");
    let bind = |listen: &[SocketAddr]| DnsServer::bind(DnsConfig { listen: listen.to_vec(), ..config(&[]) });
    let refused = bind(&[taken]).err().expect("an error");
    assert!(matches!(&refused, DnsError::Bind { address, protocol: Protocol::Tcp, .. } if *address == taken));
    assert!(refused.to_string().contains(&taken.to_string()), "{refused}");

    let udp = udp_port_alone();
    let taken = udp.local_addr().expect("an address");
    let refused = bind(&[taken]).err().expect("an error");
    assert!(matches!(&refused, DnsError::Bind { protocol: Protocol::Udp, .. }), "{refused}");

    let running = start_with_plan(config(&["127.0.0.1"]));
    assert!(bind(&[running.address()]).is_err(), "a second server does not share the first one's sockets");
    let foreign: SocketAddr = "192.0.2.1:0".parse().expect("an address");
    assert!(bind(&[foreign]).err().expect("an error").to_string().contains("no interface"));
    assert!(matches!(bind(&[]).err(), Some(DnsError::Config { .. })));
    running.stop().expect("a clean end");
}

#[test]
fn shutdown_and_drop_release_sockets_and_threads() {
    let query = query("app.z.test.", Rtype::A, None);
    let rebind = |address| DnsServer::bind(DnsConfig { listen: vec![address], ..config(&[]) }).is_ok();

    let running = start_with_plan(config(&["127.0.0.1", "127.0.0.1"]));
    let address = running.address();
    let mut open = tcp(address);
    assert_eq!(by_udp(address, &query), APP);
    running.stop().expect("a clean end");
    assert!(is_closed(&mut open));
    assert!(rebind(address));

    let running = start_with_plan(config(&["127.0.0.1"]));
    let address = running.address();
    assert_eq!(by_udp(address, &query), APP);
    running.task.abort();
    eventually("a free address", || rebind(address));

    let (_server, task) = DnsServer::bind(config(&["127.0.0.1"])).expect("free addresses");
    drop(task);
}

#[test]
fn dig_is_content() {
    if Command::new("dig").arg("-v").output().is_err() {
        println!("skipped: dig is not installed");
        return;
    }
    let secrets = vec![pangolin_dns::CookieSecret([7; 16])];
    let running = start_with_plan(DnsConfig { cookie_secrets: secrets, ..config(&["127.0.0.1"]) });
    let port = running.address().port().to_string();
    let dig = |args: &[&str]| {
        let mut command = Command::new("dig");
        command.args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=5"]).args(args);
        let output = command.output().expect("dig runs");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(dig(&["+short", "aPP.z.test", "A"]), "192.0.2.2\n192.0.2.1\n");
    let full = dig(&["+nsid", "+cookie", "app.z.test", "A"]);
    assert!(full.contains("(\"n1\")") && full.contains("(good)"), "{full}");
    assert!(!full.contains("WARNING: Message"), "{full}");
    assert!(dig(&["many.z.test", "TXT"]).contains("Truncated, retrying in TCP mode"));
    assert!(dig(&["+edns=1", "+noednsneg", "app.z.test"]).contains("BADVERS"));
    assert!(dig(&["+opcode=2", "app.z.test"]).contains("NOTIMP"));
    assert!(dig(&["nope.z.test"]).contains("NXDOMAIN"));
    assert!(dig(&["CH", "TXT", "version.bind"]).contains("REFUSED"));
    running.stop().expect("a clean end");
}
