//! Those who do not keep to the protocol: they are told why they go, and nobody else notices.

use futures_util::SinkExt as _;
use pangolin_core::TargetId;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    newt::{Newt, get_token, post},
    node::{FakeNode, HOME_LAB, OFFICE, serve, until},
};

#[tokio::test]
async fn messages_that_are_none_close_the_socket_with_a_reason() {
    struct Case {
        what: &'static str,
        frames: Vec<Message>,
        code: u16,
        reason: &'static str,
    }
    let server = serve(FakeNode::new()).await;
    let mut other = Newt::sign_in(&server, OFFICE).await;
    let bomb = {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&vec![b' '; 16 << 20]).unwrap();
        gzip.finish().unwrap()
    };
    let nested = format!(r#"{{"type":"newt/ping","data":{}"#, "[".repeat(100_000));
    let cases = [
        Case {
            what: "too long",
            frames: vec![Message::text("x".repeat(2 << 20))],
            code: 1009,
            reason: "long",
        },
        Case { what: "no JSON", frames: vec![Message::text("hello")], code: 1008, reason: "not a message" },
        Case { what: "too deep", frames: vec![Message::text(nested)], code: 1008, reason: "not a message" },
        Case { what: "no gzip", frames: vec![Message::binary("hello")], code: 1008, reason: "gzip" },
        Case { what: "a gzip bomb", frames: vec![Message::binary(bomb)], code: 1009, reason: "longer than" },
        Case {
            what: "a key that is none",
            frames: vec![Message::text(r#"{"type":"newt/wg/register","data":{"publicKey":"AAAA"}}"#)],
            code: 1008,
            reason: "publicKey",
        },
        Case {
            what: "distances that are none",
            frames: vec![Message::text(
                r#"{"type":"newt/wg/register","data":{"publicKey":"AAAA","pingResults":[{"exitNodeId":"x"}]}}"#,
            )],
            code: 1008,
            reason: "newt/wg/register",
        },
        Case {
            what: "a chain without end",
            frames: vec![Message::text(format!(
                r#"{{"type":"newt/ping/request","data":{{"chainId":"{}"}}}}"#,
                "x".repeat(1000)
            ))],
            code: 1008,
            reason: "chainId",
        },
        Case {
            what: "a flood of blueprints",
            frames: vec![Message::text(r#"{"type":"newt/blueprint/apply","data":{"blueprint":"{}"}}"#); 700],
            code: 1008,
            reason: "messages in a minute",
        },
        Case {
            what: "a flood",
            frames: vec![Message::text(r#"{"type":"newt/receive-bandwidth","data":{}}"#); 700],
            code: 1008,
            reason: "messages in a minute",
        },
    ];
    for case in cases {
        let mut newt = Newt::sign_in(&server, HOME_LAB).await;
        for frame in case.frames {
            if newt.ws.send(frame).await.is_err() {
                break;
            }
        }
        let end = newt.is_closed().await;
        assert_eq!(u16::from(end.code), case.code, "{}: {}", case.what, end.reason);
        assert!(end.reason.contains(case.reason), "{}: {}", case.what, end.reason);
    }
    other.is_served().await;
}

#[tokio::test]
async fn unknown_messages_are_ignored() {
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    newt.say("newt/wg/get-config", json!({ "publicKey": "x", "port": 51337 })).await;
    newt.say("newt/browsergateway/anything", json!(null)).await;
    newt.say("newt/blueprint/apply", json!({ "blueprint": "{}" })).await;
    assert_eq!(newt.hears_a("newt/blueprint/results").await.0["success"], json!(false));
    newt.is_served().await;
}

#[tokio::test]
async fn nobody_speaks_for_the_targets_of_another_site() {
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    let status = json!({ "targets": {
        "70": { "status": "unhealthy" }, "7": { "status": "healthy" }, "x": { "status": "healthy" }, "-1": {} } });
    newt.say("newt/healthcheck/status", status).await;
    let health = until(server.control.target_health(), |health| !health.is_empty()).await;
    assert_eq!(health.into_keys().collect::<Vec<_>>(), [TargetId(7)]);
}

#[tokio::test]
async fn tokens_that_were_not_given_out_open_nothing() {
    let server = serve(FakeNode::new()).await;
    let (_, answer) = get_token(&server, HOME_LAB.1, HOME_LAB.2).await;
    let token = answer["data"]["token"].as_str().unwrap().to_owned();
    let last = if token.ends_with('A') { "E" } else { "A" };
    let forged = format!("{}{last}", &token[..token.len() - 1]);
    for bad in ["", "AAAA", &forged, &"A".repeat(4000)] {
        assert_eq!(Newt::open(server.address, bad).await.err(), Some(401), "{bad}");
    }
    server.node.secrets.lock().remove(&HOME_LAB.0);
    assert_eq!(Newt::open(server.address, &token).await.err(), Some(401), "its site is gone");
}

#[tokio::test]
async fn a_sign_in_that_is_none_is_refused() {
    let server = serve(FakeNode::new()).await;
    let long = json!({ "newtId": "x".repeat(10_000), "secret": "" }).to_string();
    for body in ["", "[]", "null", r#"{"newtId":1,"secret":2}"#, &long] {
        let (head, answer) = post(server.address, "/api/v1/auth/newt/get-token", body).await;
        assert!(head.starts_with("http/1.1 400 "), "{head}");
        assert!(!answer["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn one_site_cannot_take_all_sockets() {
    let server = serve(FakeNode::new()).await;
    let mut other = Newt::sign_in(&server, OFFICE).await;
    let mut first = Newt::sign_in(&server, HOME_LAB).await;
    first.is_served().await;
    let mut newer = Vec::new();
    for _ in 0..4 {
        let mut newt = Newt::sign_in(&server, HOME_LAB).await;
        newt.is_served().await;
        newer.push(newt);
    }
    assert!(first.is_closed().await.reason.contains("newer sockets"));
    for newt in &mut newer {
        newt.is_served().await;
    }
    other.is_served().await;
}
