//! What passes through the edge, and how it arrives.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use pangolin_core::{TargetId, observation::TargetHealth, record::Method};
use pangolin_edge::{BodyError, Via};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

use crate::lab::{CONTROL, Lab, Speaks, Target, connect, empty, full, soon};

const HOST: &str = "app.test.example";

#[tokio::test]
async fn requests_arrive_cleaned_and_signed_over_both_versions() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    for mut client in [lab.http1(HOST).await, lab.http2(HOST).await] {
        let mut request = client.request("POST", "/path?query=1", full("abc"));
        for (field, value) in [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("remote-user", "admin"),
            ("x-mine", "1"),
        ] {
            request.headers_mut().insert(field, value.parse().expect("a value"));
        }
        let answer = client.ask(request).await;
        assert_eq!(answer.status, 200);
        let text = answer.text();
        for line in [
            "t1\nPOST /path?query=1\n",
            "\nhost: app.test.example\n",
            "\nx-forwarded-for: 127.0.0.1\n",
            "\nx-real-ip: 127.0.0.1\n",
            "\nx-forwarded-proto: https\n",
            "\nx-forwarded-host: app.test.example\n",
            "\nx-mine: 1\n",
            "\nbody 3\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert!(!text.contains("6.6.6.6") && !text.contains("remote-user"), "{text}");
        assert!(text.contains(&format!("\nx-request-id: {}\n", answer.header("x-request-id"))));
        assert_eq!(answer.header("x-pangolin-node"), "n1");
        assert!(!answer.headers.contains_key("keep-alive"));
    }
    assert_eq!(lab.edge.counters().paths[&(pangolin_core::SiteId(1), Via::Local)], 2);
}

#[tokio::test]
async fn connections_to_targets_are_used_again() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    let mut client = lab.http1(HOST).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(target.hits(), 20);
    assert_eq!(lab.dialer.dials.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_share_the_connections_to_a_target() {
    let target = Target::start("t1", Speaks::Http1).await;
    let h2c = Target::start("t2", Speaks::H2c).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    lab.publish_local("h2c.test.example", Method::H2c, 2, &h2c);
    for (host, most) in [(HOST, 24), ("h2c.test.example", 1)] {
        lab.dialer.dials.store(0, std::sync::atomic::Ordering::Relaxed);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let mut client = lab.http1(host).await;
            clients.spawn(async move {
                for n in 0..40 {
                    let method = if n % 4 == 0 { "POST" } else { "GET" };
                    let request = client.request(method, "/", full("abc"));
                    assert_eq!(client.ask(request).await.status, 200);
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.expect("no failed request");
        }
        let dials = lab.dialer.dials.load(std::sync::atomic::Ordering::Relaxed);
        assert!(dials <= most, "{dials} connections to {host}");
    }
    assert_eq!(lab.edge.counters().by_class, [0, 2 * 16 * 40, 0, 0, 0]);
}

#[tokio::test]
async fn large_bodies_stream_in_both_directions() {
    let target = Target::start("t1", Speaks::Http1).await;
    let h2c = Target::start("t2", Speaks::H2c).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    lab.publish_local("h2c.test.example", Method::H2c, 2, &h2c);
    const CHUNKS: usize = 256;
    for mut client in [lab.http1(HOST).await, lab.http2(HOST).await, lab.http2("h2c.test.example").await] {
        let chunk = Bytes::from(vec![7; 64 * 1024]);
        let frames = (0..CHUNKS).map(move |_| Ok::<_, BodyError>(Frame::data(chunk.clone())));
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let request = client.request("POST", "/echo", body);
        let mut body = client.send(request).await.expect("a response").into_body();
        let mut length = 0;
        while let Some(frame) = soon(body.frame()).await {
            length += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
        }
        assert_eq!(length, CHUNKS * 64 * 1024);
    }
}

#[tokio::test]
async fn an_echo_comes_back_before_the_request_has_ended() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    let mut client = lab.http2(HOST).await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, BodyError>>(1);
    let body = StreamBody::new(futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|frame| (frame, receiver))
    }));
    let request = client.request("POST", "/echo", body.boxed_unsync());
    let mut body = client.send(request).await.expect("a response").into_body();
    for word in ["one", "two"] {
        sender.send(Ok(Frame::data(Bytes::from(word)))).await.expect("sent");
        let frame = soon(body.frame()).await.expect("a frame").expect("a frame");
        assert_eq!(frame.into_data().expect("data"), word);
    }
    drop(sender);
    let rest = soon(body.collect()).await.expect("the end").to_bytes();
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn trailers_pass_from_h2c_and_from_http_1() {
    let h2c = Target::start("t1", Speaks::H2c).await;
    let http = Target::start("t2", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local("h2c.test.example", Method::H2c, 1, &h2c);
    lab.publish_local("http.test.example", Method::Http, 2, &http);
    for host in ["h2c.test.example", "http.test.example"] {
        let mut client = lab.http2(host).await;
        let mut request = client.request("POST", "/trailers", full("x"));
        request.headers_mut().insert("te", "trailers".parse().expect("a value"));
        request.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
        let answer = client.ask(request).await;
        assert_eq!(answer.text(), "data", "{host}");
        assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0", "{host}");
    }
}

#[tokio::test]
async fn targets_that_speak_tls_are_reached_whatever_their_certificate() {
    let target = Target::start("t1", Speaks::Tls).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Https, 1, &target);
    let answer = lab.get(HOST, "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-target")), (200, "t1"));
}

#[tokio::test]
async fn websockets_pass() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    let stream = connect(lab.https, HOST, &[b"http/1.1"]).await.expect("a handshake");
    let (mut socket, response) =
        soon(Box::pin(tokio_tungstenite::client_async(format!("wss://{HOST}/socket"), stream)))
            .await
            .expect("a socket");
    assert_eq!(response.headers()["x-pangolin-node"], "n1");
    for text in ["one", "two"] {
        socket.send(Message::text(text)).await.expect("sent");
        assert_eq!(soon(socket.next()).await.expect("a message").expect("a message"), Message::text(text));
    }
    // A new plan does not touch it.
    lab.apply();
    socket.send(Message::text("three")).await.expect("sent");
    assert_eq!(soon(socket.next()).await.expect("a message").expect("a message"), Message::text("three"));
    assert_eq!(lab.edge.counters().active_connections, 1);
    // Nor does the end of the edge hold it up.
    lab.shutdown.cancel();
    soon(async { while socket.next().await.is_some_and(|message| message.is_ok()) {} }).await;
}

#[tokio::test]
async fn the_control_host_is_served_in_process_and_answers_pings() {
    let lab = Lab::start();
    for mut client in [lab.http1(CONTROL).await, lab.http2(CONTROL).await] {
        let mut request = client.request("GET", "/api", empty());
        request.headers_mut().insert("x-forwarded-for", "6.6.6.6".parse().expect("a value"));
        let answer = client.ask(request).await;
        assert_eq!(answer.text(), format!("local /api Some({CONTROL:?}) 127.0.0.1 false"));
        assert_eq!(client.get("/ping").await.text(), "pong\n");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_plainly() {
    let mut lab = Lab::start();
    lab.publish("empty.test.example", Method::Http, 1, &[]);
    for (host, status, text) in [
        ("nothing.test.example", 404, "Nothing is published here"),
        ("empty.test.example", 503, "No service"),
    ] {
        let answer = lab.get(host, "/").await;
        assert_eq!(answer.status, status);
        assert!(answer.text().contains(text), "{}", answer.text());
        assert!(answer.text().contains(answer.header("x-request-id")));
        assert_eq!(answer.header("x-pangolin-node"), "n1");
    }
}

#[tokio::test]
async fn plain_http_redirects_and_answers_pings() {
    let lab = Lab::start();
    let ask = async |request: String| {
        let mut stream = TcpStream::connect(lab.http).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut text = String::new();
        soon(stream.read_to_string(&mut text)).await.expect("an answer");
        text
    };
    let text = ask(format!("GET /x?y HTTP/1.1\r\nhost: {HOST}:80\r\nconnection: close\r\n\r\n")).await;
    assert!(text.starts_with("HTTP/1.1 308"), "{text}");
    assert!(text.contains(&format!("location: https://{HOST}:{}/x?y\r\n", lab.https.port())), "{text}");
    assert!(text.contains("x-pangolin-node: n1\r\n"), "{text}");
    let text = ask("GET /ping HTTP/1.1\r\nhost: anything\r\nconnection: close\r\n\r\n".into()).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("pong\n"), "{text}");
}

#[tokio::test]
async fn targets_take_turns_and_healthy_ones_come_first() {
    let (one, two) = (Target::start("t1", Speaks::Http1).await, Target::start("t2", Speaks::Http1).await);
    let mut lab = Lab::start();
    lab.publish(HOST, Method::Http, 1, &[&[(Via::Local, one.address)], &[(Via::Local, two.address)]]);
    let mut client = lab.http1(HOST).await;
    let mut rounds = async |n: usize| {
        for _ in 0..n {
            assert_eq!(client.get("/").await.status, 200);
        }
        let hits = (one.hits(), two.hits());
        one.hits.store(0, std::sync::atomic::Ordering::Relaxed);
        two.hits.store(0, std::sync::atomic::Ordering::Relaxed);
        hits
    };
    assert_eq!(rounds(6).await, (3, 3));
    lab.edge.set_target_health([(TargetId(2), TargetHealth::Healthy)].into());
    assert_eq!(rounds(4).await, (0, 4));
    lab.edge.set_target_health([(TargetId(2), TargetHealth::Unhealthy)].into());
    assert_eq!(rounds(4).await, (4, 0));
    let both = [(TargetId(1), TargetHealth::Unhealthy), (TargetId(2), TargetHealth::Unhealthy)];
    lab.edge.set_target_health(both.into());
    assert_eq!(rounds(4).await, (2, 2));
}
