//! The product's promise: what breaks before a response is answered from elsewhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use pangolin_core::{NodeId, SiteId, record::Method};
use pangolin_edge::Via;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::lab::{Lab, SILENT, Speaks, Target, empty, full, until};

const HOST: &str = "app.test.example";
const A: Via = Via::Relay(NodeId(2));
const B: Via = Via::Relay(NodeId(3));

#[tokio::test]
async fn a_request_in_flight_on_a_relay_that_dies_succeeds_through_another() {
    let (one, two) = (Target::start("a", Speaks::Http1).await, Target::start("b", Speaks::Http1).await);
    let mut lab = Lab::start();
    let cuts = lab.publish(HOST, Method::Http, 1, &[&[(A, one.address), (B, two.address)]]);
    for mut client in [lab.http1(HOST).await, lab.http2(HOST).await] {
        let request = client.request("GET", "/wait", empty());
        let asking = tokio::spawn(async move { client.ask(request).await });
        if !cuts[0][0].is_cancelled() {
            until("the request is on its way", || one.hits() > 0).await;
        }
        cuts[0][0].cancel();
        until("it comes the other way", || two.hits() > 0).await;
        two.hits.store(0, Relaxed);
        two.go.notify_one();
        let answer = asking.await.expect("an answer");
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "b"));
    }
    let counters = lab.edge.counters();
    assert_eq!(counters.paths.get(&(SiteId(1), B)), Some(&2));
    assert!(counters.retries >= 1 && counters.upstream_errors >= 1);
}

#[tokio::test]
async fn a_request_waiting_on_a_suspect_node_moves_at_once() {
    let (one, two) = (Target::start("a", Speaks::Http1).await, Target::start("b", Speaks::Http1).await);
    for (via, h2c) in [(A, false), (Via::Local, false), (A, true)] {
        let speaks = if h2c { Speaks::H2c } else { Speaks::Http1 };
        let (third, fourth);
        let (one, two) = if h2c {
            third = Target::start("a", speaks).await;
            fourth = Target::start("b", speaks).await;
            (&third, &fourth)
        } else {
            (&one, &two)
        };
        one.hits.store(0, Relaxed);
        let mut lab = Lab::start();
        let method = if h2c { Method::H2c } else { Method::Http };
        lab.publish(HOST, method, 1, &[&[(via, one.address), (B, two.address)]]);
        let mut client = lab.http1(HOST).await;
        let request = client.request("GET", "/wait", empty());
        let asking = tokio::spawn(async move { client.ask(request).await });
        until("the request is on its way", || one.hits() > 0).await;
        // The way is silent, not broken.
        match via {
            Via::Relay(node) => lab.edge.forget_via(node),
            Via::Local => lab.edge.forget_local(SiteId(1)),
        }
        two.go.notify_one();
        assert_eq!(asking.await.expect("an answer").text(), "b", "{via}, {h2c}");
    }
}

#[tokio::test]
async fn requests_take_the_short_way_once_the_own_tunnel_is_back() {
    for speaks in [Speaks::Http1, Speaks::H2c] {
        let (relayed, own) = (Target::start("a", speaks).await, Target::start("b", speaks).await);
        let method = if matches!(speaks, Speaks::H2c) { Method::H2c } else { Method::Http };
        let mut lab = Lab::start();
        lab.publish(HOST, method, 1, &[&[(A, relayed.address)]]);
        let mut client = lab.http1(HOST).await;
        let asked = client.request("GET", "/", empty());
        assert_eq!(client.ask(asked).await.header("x-target"), "a");
        lab.dialer.set(1, &[(Via::Local, own.address)]);
        let asked = client.request("GET", "/", empty());
        assert_eq!(client.ask(asked).await.header("x-target"), "a", "a connection that waits is used");
        lab.edge.prefer_local(SiteId(1));
        let asked = client.request("GET", "/", empty());
        assert_eq!(client.ask(asked).await.header("x-target"), "b");
    }
}

#[tokio::test]
async fn a_request_still_dialing_a_suspect_node_moves_at_once() {
    let target = Target::start("b", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish(HOST, Method::Http, 1, &[&[(A, SILENT), (B, target.address)]]);
    let mut client = lab.http1(HOST).await;
    let request = client.request("POST", "/", full("abc"));
    let asking = tokio::spawn(async move { client.ask(request).await });
    until("it is dialing", || lab.dialer.dials.load(Relaxed) == 1).await;
    lab.edge.forget_via(NodeId(2));
    assert_eq!(asking.await.expect("an answer").header("x-target"), "b");
}

#[tokio::test]
async fn dials_that_fail_are_made_elsewhere_for_any_method() {
    let (one, two) = (Target::start("a", Speaks::Http1).await, Target::start("b", Speaks::Http1).await);
    let mut lab = Lab::start();
    let cuts = lab.publish(HOST, Method::Http, 1, &[&[(A, one.address), (B, two.address)]]);
    cuts[0][0].cancel();
    for mut client in [lab.http1(HOST).await, lab.http2(HOST).await] {
        for method in ["GET", "POST", "PATCH"] {
            let request = client.request(method, "/", full("abc"));
            let answer = client.ask(request).await;
            assert!(answer.text().starts_with(&format!("b\n{method} /")), "{}", answer.text());
            assert!(answer.text().ends_with("body 3\n"));
        }
    }
}

#[tokio::test]
async fn a_small_put_that_has_begun_is_sent_again_whole_and_a_post_is_not() {
    let (one, two) = (Target::start("a", Speaks::Http1).await, Target::start("b", Speaks::Http1).await);
    for (method, size, status) in [("PUT", 1000, 200), ("POST", 1000, 502), ("PUT", 1_000_000, 502)] {
        let mut lab = Lab::start();
        lab.publish(HOST, Method::Http, 1, &[&[(A, dying().await), (B, two.address)]]);
        let mut client = lab.http1(HOST).await;
        let request = client.request(method, "/", full(vec![b'x'; size]));
        let answer = client.ask(request).await;
        assert_eq!(answer.status, status, "{method} {size}");
        assert!(status != 200 || answer.text().ends_with("body 1000\n"), "{}", answer.text());
    }
    assert_eq!(one.hits(), 0);
}

/// A target that reads what comes for a moment and closes.
async fn dying() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 20];
                let reading = async { while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {} };
                let _ = tokio::time::timeout(Duration::from_millis(100), reading).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn idle_connections_that_the_target_has_closed_fail_no_request() {
    // Answers one request per connection, says nothing about closing, and closes a moment later.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let served = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                count.fetch_add(1, Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            });
        }
    });
    let mut lab = Lab::start();
    lab.publish(HOST, Method::Http, 1, &[&[(Via::Local, address)]]);
    let mut client = lab.http1(HOST).await;
    for _ in 0..30 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(served.load(Relaxed), 30);
}

#[tokio::test]
async fn another_target_answers_when_one_is_broken() {
    let good = Target::start("good", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish(HOST, Method::Http, 1, &[&[(Via::Local, dying().await)], &[(Via::Local, good.address)]]);
    for _ in 0..4 {
        assert_eq!(lab.get(HOST, "/").await.header("x-target"), "good");
    }
}

#[tokio::test]
async fn a_way_that_comes_back_shortly_is_waited_for() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish(HOST, Method::Http, 1, &[&[]]);
    let mut client = lab.http1(HOST).await;
    let request = client.request("POST", "/", full("abc"));
    let asking = tokio::spawn(async move { client.ask(request).await });
    until("the way is looked for", || lab.dialer.dials.load(Relaxed) >= 2).await;
    lab.dialer.set(1, &[(A, target.address)]);
    assert_eq!(asking.await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_target_that_stays_away_is_reported_and_then_at_once() {
    let mut lab = Lab::start();
    lab.publish(HOST, Method::Http, 1, &[&[]]);
    let answer = lab.get(HOST, "/").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("cannot be reached"));
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(lab.get(HOST, "/").await.status, 503);
}

#[tokio::test]
async fn a_response_that_has_begun_ends_with_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
        }
    });
    let mut lab = Lab::start();
    lab.publish(HOST, Method::Http, 1, &[&[(A, address)]]);
    for mut client in [lab.http1(HOST).await, lab.http2(HOST).await] {
        let request = client.request("GET", "/", empty());
        let response = client.send(request).await.expect("a head");
        assert_eq!(response.status(), 200);
        assert!(crate::lab::soon(response.into_body().collect()).await.is_err());
    }
}

#[tokio::test]
async fn a_target_that_never_answers_is_given_up_in_time() {
    let target = Target::start("t1", Speaks::Http1).await;
    let limits = pangolin_edge::Limits {
        response_timeout: Duration::from_millis(100),
        ..pangolin_edge::Limits::default()
    };
    let mut lab = Lab::with(limits);
    lab.publish(HOST, Method::Http, 1, &[&[(Via::Local, target.address)]]);
    assert_eq!(lab.get(HOST, "/wait").await.status, 504);
    assert_eq!(target.hits(), 1);
}
