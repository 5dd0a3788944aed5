//! Clients that do what they should not.

use std::time::{Duration, Instant};

use pangolin_core::record::Method;
use pangolin_edge::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::lab::{CONTROL, Lab, Speaks, Target, connect, empty, soon, until};

const HOST: &str = "app.test.example";

#[tokio::test]
async fn ambiguous_framing_never_reaches_a_target_as_two_requests() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    let hidden = "GET /hidden HTTP/1.1\r\nHost: app.test.example\r\n\r\n";
    // (fields and body, whether the request may pass with the chunked framing alone)
    for (rest, passes) in [
        (format!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"), true),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: 60\r\n\r\n0\r\n\r\n{hidden}"), true),
        (format!("Content-Length: 0\r\nContent-Length: 60\r\n\r\n{hidden}"), false),
        (format!("Content-Length: +60\r\n\r\n{hidden}"), false),
        (format!("Content-Length: 0, 60\r\n\r\n{hidden}"), false),
        (format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"), false),
        (format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"), false),
        (format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"), false),
        (format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{hidden}"), false),
        (format!(" X-Folded: 1\r\nContent-Length: 0\r\n\r\n{hidden}"), false),
    ] {
        let request = format!("POST /first HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{rest}");
        let before = target.hits();
        let text = lab.raw(HOST, request.as_bytes()).await;
        assert!(!text.contains("hidden"), "{rest:?} was answered {text}");
        let passed = text.starts_with("HTTP/1.1 200");
        assert_eq!(passed, passes, "{rest:?} was answered {text}");
        assert!(target.hits() <= before + 1, "{rest:?}");
        if passed {
            assert!(!text.contains("content-length: 6"), "{text}");
            assert!(text.contains("body 0\n"), "{text}");
        }
    }
}

#[tokio::test]
async fn requests_that_name_their_host_badly_are_refused() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nHost: {HOST}\r\n\r\n"), 400),
        (format!("GET http://other.test.example/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\nHost: {HOST}/../x\r\n\r\n"), 400),
        (format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"), 405),
        (format!("GET http://{HOST}/absolute HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"), 200),
    ] {
        let closing = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let text = lab.raw(HOST, closing.as_bytes()).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{request:?} was answered {text}");
        assert!(status != 200 || text.contains("GET /absolute\n"), "{text}");
    }
    assert_eq!(target.hits(), 1);
}

#[tokio::test]
async fn an_upgrade_to_http_2_in_the_clear_does_not_pass() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade, http2-settings, close\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
    );
    let text = lab.raw(HOST, request.as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(!text.contains("upgrade:") && !text.contains("http2-settings:"), "{text}");
}

#[tokio::test]
async fn heads_over_the_limits_are_refused() {
    let lab = Lab::start();
    let large = format!("GET / HTTP/1.1\r\nhost: {CONTROL}\r\nx: {}\r\n\r\n", "a".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nhost: {CONTROL}\r\n{}\r\n", "x: 1\r\n".repeat(101));
    for request in [large, many] {
        let text = lab.raw(CONTROL, request.as_bytes()).await;
        assert!(text.starts_with("HTTP/1.1 431"), "{text}");
    }
    let mut client = lab.http2(CONTROL).await;
    let mut request = client.request("GET", "/", empty());
    for n in 0..101 {
        let name = http::HeaderName::from_bytes(format!("x-{n}").as_bytes()).expect("a name");
        request.headers_mut().insert(name, "1".parse().expect("a value"));
    }
    assert_eq!(client.ask(request).await.status, 431);
    let mut request = client.request("GET", "/", empty());
    request.headers_mut().insert("x", "a".repeat(40_000).parse().expect("a value"));
    let refused = client.try_ask(request).await;
    assert!(refused.as_ref().map_or(true, |answer| answer.status == 431), "{refused:?}");
}

fn impatient() -> Limits {
    Limits {
        handshake_timeout: Duration::from_millis(300),
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(600),
        ..Limits::default()
    }
}

/// How long until the edge closes.
async fn closed_after(mut stream: impl AsyncReadExt + Unpin) -> Duration {
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    start.elapsed()
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let lab = Lab::with(impatient());
    // No ClientHello.
    let stream = TcpStream::connect(lab.https).await.expect("a connection");
    closed_after(stream).await;
    // Half a head, with one byte at a time keeping it busy.
    for secure in [true, false] {
        let outcome = if secure {
            let stream = connect(lab.https, CONTROL, &[b"http/1.1"]).await.expect("a handshake");
            soon(drip(stream)).await
        } else {
            soon(drip(TcpStream::connect(lab.http).await.expect("a connection"))).await
        };
        assert!(outcome, "the edge kept reading");
    }
    // Nothing at all after the handshake.
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let stream = connect(lab.https, CONTROL, &[protocol]).await.expect("a handshake");
        let after = closed_after(stream).await;
        assert!(after > Duration::from_millis(400), "{after:?}");
    }
    until("all places are free again", || lab.edge.counters().active_connections == 0).await;
}

/// Sends a head that never ends. Whether the edge closed.
async fn drip(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> bool {
    if stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.is_err() {
        return true;
    }
    let mut buffer = [0; 1024];
    for _ in 0..100 {
        if stream.write_all(b"a").await.is_err() || stream.flush().await.is_err() {
            return true;
        }
        let read = tokio::time::timeout(Duration::from_millis(50), stream.read(&mut buffer)).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn a_request_that_takes_longer_than_the_idle_time_is_not_cut_off() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::with(Limits { idle_timeout: Duration::from_millis(100), ..Limits::default() });
    lab.publish_local(HOST, Method::Http, 1, &target);
    let mut client = lab.http1(HOST).await;
    let go = std::sync::Arc::clone(&target.go);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        go.notify_one();
    });
    assert_eq!(client.get("/wait").await.text(), "t1");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::with(Limits { body_timeout: Duration::from_millis(200), ..Limits::default() });
    lab.publish_local(HOST, Method::Http, 1, &target);
    for method in ["POST", "PUT"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 10\r\n\r\nabc");
        let text = lab.raw(HOST, request.as_bytes()).await;
        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    }
    assert_eq!(target.hits(), 2);
    assert_eq!(lab.edge.counters().upstream_errors, 0);
    assert_eq!(lab.edge.counters().retries, 0);
}

#[tokio::test]
async fn garbage_on_either_port_does_no_harm() {
    let lab = Lab::start();
    let mut garbage: Vec<Vec<u8>> = vec![
        vec![0; 100],
        vec![0xff; 70_000],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\x16\x03\x01\xff\xff\x01".to_vec(),
        b"GET /\r\n\r\n".to_vec(),
        b"SSH-2.0-client\r\n".to_vec(),
    ];
    garbage.extend((0..20_u8).map(|n| (0..200).map(|i| n.wrapping_mul(31).wrapping_add(i)).collect()));
    for bytes in garbage {
        for address in [lab.https, lab.http] {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = soon(stream.read_to_end(&mut answer)).await;
        }
    }
    // Behind TLS as well.
    for protocol in [&b"http/1.1"[..], b"h2"] {
        let mut stream = connect(lab.https, CONTROL, &[protocol]).await.expect("a handshake");
        let _ = stream.write_all(&[0xfe; 5000]).await;
        let _ = closed_after(stream).await;
    }
    assert_eq!(lab.get(CONTROL, "/").await.status, 200);
    until("all places are free again", || lab.edge.counters().active_connections <= 1).await;
}

#[tokio::test]
async fn clients_over_the_limits_are_turned_away_and_let_in_again() {
    let lab = Lab::with(Limits { connections_per_address: 2, ..Limits::default() });
    let one = connect(lab.https, CONTROL, &[]).await.expect("a handshake");
    let _two = connect(lab.https, CONTROL, &[]).await.expect("a handshake");
    assert!(connect(lab.https, CONTROL, &[]).await.is_err());
    assert_eq!(lab.edge.counters().refused_connections, 1);
    drop(one);
    until("a place is free", || lab.edge.counters().active_connections == 1).await;
    connect(lab.https, CONTROL, &[]).await.expect("a handshake");
}
