//! The client against a server that answers what the test tells it to.

use std::{path::PathBuf, sync::Arc, time::Duration};

use pangolin_core::Revision;
use pangolin_wire::{Client, ClientError, Code, Health, MIN_REVISION_HEADER, REQUEST_ID_HEADER};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    sync::Mutex,
    task::JoinHandle,
};

/// A server that gives one answer to each connection, in order, and keeps the requests.
struct Script {
    socket: PathBuf,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Script {
    fn of(answers: Vec<String>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("api.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = heads.clone();
        let task = tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut head).await.expect("a request"), 0);
                }
                kept.lock().await.push(String::from_utf8(head).expect("text").to_lowercase());
                stream.write_all(answer.as_bytes()).await.expect("an answer");
            }
        });
        Self { socket, heads, task, _dir: dir }
    }

    async fn header(&self, request: usize, name: &str) -> Option<String> {
        let heads = self.heads.lock().await;
        let line = heads[request].lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.map(ToOwned::to_owned)
    }
}

fn answer(status: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\npangolin-revision: 1.{status}\r\n\r\n{body}")
}

fn good() -> String {
    let data = json!({"revision": "1.9", "leader": 1});
    answer(
        200,
        &json!({"data": data, "success": true, "error": false, "message": "", "status": 200}).to_string(),
    )
}

fn bad(status: u16, code: &str) -> String {
    let body = json!({"data": null, "success": false, "error": true, "message": "why", "status": status,
        "code": code, "hint": "do this"});
    answer(status, &body.to_string())
}

#[tokio::test]
async fn what_fails_in_passing_is_repeated_under_the_same_id() {
    let script = Script::of(vec![
        bad(504, "outcome_unknown"),
        String::new(),
        bad(503, "not_appended"),
        answer(502, "<html>"),
        good(),
    ]);
    let client = Client::unix(&script.socket).with_deadline(Duration::from_secs(10));
    let health: Health = client.put("/org", &json!({})).await.expect("the last answer");
    assert_eq!(health.revision, Revision { lineage: 1, index: 9 });
    let first = script.header(0, REQUEST_ID_HEADER).await.expect("an id");
    for request in 1..5 {
        assert_eq!(script.header(request, REQUEST_ID_HEADER).await.as_deref(), Some(first.as_str()));
    }
    script.task.await.expect("all answers were fetched");
}

#[tokio::test]
async fn what_is_refused_for_good_is_not_repeated_and_a_client_without_patience_asks_once() {
    let script = Script::of(vec![bad(409, "conflict"), bad(503, "behind"), bad(418, "a_code_of_the_future")]);
    let client = Client::unix(&script.socket).with_deadline(Duration::from_secs(10));
    let error = client.delete("/org/x").await.expect_err("a refusal");
    assert!(matches!(&error, ClientError::Refused(failure) if failure.code == Code::Conflict));
    assert_eq!(
        (error.to_string().as_str(), error.hint(), error.is_passing()),
        ("why", Some("do this"), false)
    );
    let hasty = Client::unix(&script.socket);
    assert!(hasty.delete("/org/x").await.expect_err("a refusal").is_passing());
    let unknown = hasty.delete("/org/x").await.expect_err("a refusal");
    assert!(matches!(unknown, ClientError::Refused(failure) if failure.code == Code::Unknown));
    script.task.await.expect("three requests");
}

#[tokio::test]
async fn the_last_revision_is_sent_back() {
    let script = Script::of(vec![good(), good()]);
    let client = Client::unix(&script.socket);
    for _ in 0..2 {
        client.get::<Health>("/health").await.expect("health");
    }
    assert_eq!(script.header(0, MIN_REVISION_HEADER).await, None);
    assert_eq!(script.header(1, MIN_REVISION_HEADER).await.as_deref(), Some("1.200"));
}

#[tokio::test]
async fn what_is_not_this_api_is_called_so() {
    let script =
        Script::of(vec![answer(200, "<html>"), answer(200, "{}"), "SSH-2.0-x\r\n\r\n".into(), good()]);
    let client = Client::unix(&script.socket);
    for _ in 0..2 {
        let error = client.get::<Health>("/health").await.expect_err("another service");
        assert!(error.to_string().contains("not an answer of this API"), "{error}");
    }
    let error = client.get::<Health>("/health").await.expect_err("another protocol");
    assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    let error = client.get::<Vec<u8>>("/health").await.expect_err("another type");
    assert!(matches!(error, ClientError::Foreign { .. }), "{error}");
}
