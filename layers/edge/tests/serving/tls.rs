//! Which certificate is shown, and when none is.

use std::sync::Arc;

use rustls::{AlertDescription, HandshakeKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{CONTROL, Lab, Tls, client_config, connect, connect_with, empty, soon};

fn shown(stream: &Tls) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().expect("certificates")[0].to_vec()
}

fn alert(error: std::io::Error) -> Option<AlertDescription> {
    match error.into_inner()?.downcast::<rustls::Error>().ok().map(|e| *e) {
        Some(rustls::Error::AlertReceived(alert)) => Some(alert),
        _ => None,
    }
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_unknown_names_an_alert() {
    let mut lab = Lab::start();
    let own = lab.certificate(2, 2, &["own.example"]);
    let wild = lab.certificate(1, 2, &["*.test.example"]);
    lab.apply();
    let protocols: &[&[u8]] = &[b"h2", b"http/1.1"];
    let stream = connect(lab.https, "own.example", protocols).await.expect("a handshake");
    assert_eq!(shown(&stream), own);
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(shown(&connect(lab.https, "A.test.example", protocols).await.expect("a handshake")), wild);
    for unknown in ["other.example", "test.example", "a.b.test.example", "127.0.0.1"] {
        let error = connect(lab.https, unknown, protocols).await.expect_err("an alert");
        assert_eq!(alert(error), Some(AlertDescription::UnrecognisedName), "{unknown}");
    }
    assert_eq!(lab.edge.counters().failed_handshakes, 4);
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let mut lab = Lab::start();
    let mut client = lab.http1(CONTROL).await;
    assert_eq!(client.get("/before").await.status, 200);
    let renewed = lab.certificate(1, 2, &["*.test.example"]);
    assert_eq!(lab.apply(), []);
    assert_eq!(client.get("/after").await.status, 200);
    assert_eq!(shown(&connect(lab.https, CONTROL, &[]).await.expect("a handshake")), renewed);

    let broken = lab.plan.certificates.iter_mut().find(|c| c.id.0 == 1).expect("a certificate");
    broken.generation = 3;
    broken.chain = vec![vec![1, 2, 3]];
    assert_eq!(lab.apply().len(), 1);
    assert_eq!(shown(&connect(lab.https, CONTROL, &[]).await.expect("a handshake")), renewed);
}

#[tokio::test]
async fn requests_for_a_host_with_another_certificate_are_misdirected() {
    let lab = Lab::start();
    for mut client in [lab.http1("a.test.example").await, lab.http2("a.test.example").await] {
        let mut request = client.request("GET", "/", empty());
        if request.headers().contains_key("host") {
            request.headers_mut().insert("host", "own.example".parse().expect("a value"));
        } else {
            *request.uri_mut() = "https://own.example/".parse().expect("a URI");
        }
        assert_eq!(client.ask(request).await.status, 421);
    }
    // The same certificate: one connection may serve both.
    let mut client = lab.http2("a.test.example").await;
    let mut request = client.request("GET", "/", empty());
    *request.uri_mut() = format!("https://{CONTROL}/").parse().expect("a URI");
    assert_eq!(client.ask(request).await.status, 200);
}

#[tokio::test]
async fn sessions_resume_on_another_edge_with_the_same_ticket_keys() {
    let (one, two) = (Lab::start(), Lab::start());
    let keys = [zeroize::Zeroizing::new([7; 32])];
    let config = Arc::new(client_config(&[b"http/1.1"]));
    for (lab, expected) in
        [(&one, HandshakeKind::Full), (&one, HandshakeKind::Resumed), (&two, HandshakeKind::Full)]
    {
        let kind = handshake(lab, &config).await;
        assert!(kind == expected || kind == HandshakeKind::FullWithHelloRetryRequest, "{kind:?}");
    }
    one.edge.set_ticket_keys(&keys);
    two.edge.set_ticket_keys(&keys);
    handshake(&one, &config).await;
    assert_eq!(handshake(&two, &config).await, HandshakeKind::Resumed);
}

/// One request, so that the client has read its tickets.
async fn handshake(lab: &Lab, config: &Arc<rustls::ClientConfig>) -> HandshakeKind {
    let mut stream = connect_with(lab.https, CONTROL, Arc::clone(config)).await.expect("a handshake");
    let request = format!("GET / HTTP/1.1\r\nhost: {CONTROL}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    stream.get_ref().1.handshake_kind().expect("a handshake")
}
