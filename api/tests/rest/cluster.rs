//! The cluster's own routes: health, status, nodes, tokens, leaving, leadership, settings.

use http::{Method, StatusCode};
use pangolin_core::{NodeId, record::AdminState};
use pangolin_wire::*;
use serde_json::{Value, json};

use crate::Server;

#[tokio::test]
async fn health_needs_no_credentials_and_tells_the_revision() {
    let server = Server::start().await;
    let reply = server.ask_as(&[], Method::GET, "/health", "").await;
    assert_eq!(reply.status, StatusCode::OK);
    let mut health: Health = serde_json::from_value(reply.body["data"].clone()).expect("health");
    let revision = server.cluster.state().revision();
    let term = server.cluster.status().term;
    // A checkpoint is hashed beside everything else: it may be there already or not.
    let checkpoint = health.checkpoint.take();
    assert!(checkpoint.as_ref().is_none_or(|checkpoint| checkpoint.digest.len() == 64), "{checkpoint:?}");
    let expected = Health { revision, leader: Some(NodeId(1)), term, leads: true, checkpoint: None };
    assert_eq!(health, expected);
}

#[tokio::test]
async fn status_settings_and_nodes_are_shown() {
    let server = Server::start().await;
    let client = server.operator();
    let status: ClusterStatus = client.get("/cluster/status").await.expect("a status");
    assert_eq!(status.quorum.summary, "1 of 1 voters up, failure tolerance 0");
    let settings: Settings = client.get("/cluster/settings").await.expect("settings");
    assert_eq!(settings.control_host.as_str(), "pangolin.lab.example.com");
    let nodes: NodeList = client.get("/nodes").await.expect("nodes");
    assert_eq!(client.get::<Node>("/node/1").await.expect("the node"), nodes.nodes[0]);
    server.ask(Method::GET, "/node/9", "").await.refuses(Code::NotFound, "there is no node 9");
}

#[tokio::test]
async fn a_node_is_drained_and_taken_back() {
    let server = Server::start().await;
    let client = server.operator();
    for admin in [AdminState::Drained, AdminState::Active] {
        let node: Node = client.post("/node/1", &UpdateNode { admin }).await.expect("the node");
        assert_eq!(node.admin, admin);
    }
    server.ask(Method::POST, "/node/1", r#"{"admin":"off"}"#).await.refuses(Code::Invalid, "at admin");
    server.ask(Method::POST, "/node/9", r#"{"admin":"active"}"#).await.refuses(Code::NotFound, "node 9");
}

#[tokio::test]
async fn a_join_token_is_created_listed_and_revoked() {
    let server = Server::start().await;
    let client = server.operator();
    let request = CreateToken { role: None, lifetime_seconds: Some(600) };
    let made: CreatedToken = client.put("/cluster/token", &request).await.expect("a token");
    assert!(made.token.is_some());
    let listed: TokenList = client.get("/cluster/tokens").await.expect("tokens");
    assert_eq!(listed.tokens[0].token_id, made.id);
    let life = listed.tokens[0].expires_at.0.since(listed.tokens[0].created_at.0);
    assert!((590..=600).contains(&life.as_secs()), "{life:?}");
    let path = format!("/cluster/token/{}", made.id);
    client.delete(&path).await.expect("no token any more");
    server.ask(Method::DELETE, &path, "").await.refuses(Code::NotFound, "there is no join token");
    server.ask(Method::DELETE, "/cluster/token/xyz", "").await.refuses(Code::Invalid, "is not a tokenId");
    for lifetime in [0, 8 * 24 * 3600] {
        let body = json!({"lifetimeSeconds": lifetime}).to_string();
        server.ask(Method::PUT, "/cluster/token", body).await.refuses(Code::Invalid, "lifetimeSeconds lies");
    }
}

#[tokio::test]
async fn leaving_and_handing_over_name_what_is_wrong() {
    let server = Server::start().await;
    let led: TransferredLeader =
        server.operator().post("/cluster/leader/transfer", &json!({})).await.expect("a leader");
    assert_eq!(led.node_id, NodeId(1));
    let path = "/cluster/leader/transfer";
    server.ask(Method::POST, path, r#"{"to":9}"#).await.refuses(Code::NotFound, "there is no node 9");
    let reply = server.ask(Method::POST, "/cluster/leave", r#"{"nodeId":9}"#).await;
    reply.refuses(Code::NotFound, "there is no node 9");
    let reply = server.ask(Method::POST, "/cluster/leave", "").await;
    reply.refuses(Code::Invalid, "the last node of a cluster cannot leave it");
    assert_eq!(reply.body["data"], Value::Null);
}

#[tokio::test]
async fn members_are_promoted_replaced_removed_and_the_cluster_taken_apart_by_name() {
    let server = Server::start().await;
    let client = server.operator();
    let made: CreatedToken =
        client.put("/node/1/replacement", &ReplaceNode::default()).await.expect("a token");
    let listed: TokenList = client.get("/cluster/tokens").await.expect("tokens");
    assert_eq!((listed.tokens[0].token_id, listed.tokens[0].replaces), (made.id, Some(NodeId(1))));
    client.send(Method::POST, "/node/1/promote", None, uuid::Uuid::new_v4()).await.expect("it votes");
    let reply = server.ask(Method::POST, "/node/1", r#"{"admin":"leaving"}"#).await;
    reply.refuses(Code::Invalid, "a node is not marked as leaving, but removed");
    for (verb, path, body, code, text) in [
        (Method::DELETE, "/node/9", "", Code::NotFound, "there is no node 9"),
        (Method::POST, "/node/9/promote", "", Code::NotFound, "there is no node 9"),
        (Method::PUT, "/node/9/replacement", "", Code::NotFound, "there is no node 9"),
        (Method::DELETE, "/node/1", "", Code::Invalid, "the last node of a cluster cannot leave it"),
        (Method::POST, "/cluster/disband", "{}", Code::Invalid, "missing field"),
        (Method::POST, "/cluster/disband", r#"{"cluster":"other"}"#, Code::Conflict, "not the cluster other"),
    ] {
        server.ask(verb, path, body).await.refuses(code, text);
    }
    let name = server.cluster.state().cluster().expect("a cluster").name.clone();
    let answer: serde_json::Value =
        client.post("/cluster/disband", &Disband { cluster: name }).await.expect("done");
    assert_eq!(answer, Value::Null);
    assert!(server.cluster.state().tokens().is_empty(), "nobody joins a cluster that is taken apart");
}

#[tokio::test]
async fn how_the_voters_are_looked_after_is_a_setting() {
    let server = Server::start().await;
    let client = server.operator();
    let before: Autopilot = client.get("/cluster/autopilot").await.expect("a setting");
    assert_eq!((before.stable_milliseconds, before.remove_after_seconds), (3000, None));
    let wanted = Autopilot { stable_milliseconds: 10_000, remove_after_seconds: Some(86_400), ..before };
    let after: Autopilot = client.post("/cluster/autopilot", &wanted).await.expect("changed");
    assert_eq!(after, wanted);
    assert_eq!(client.get::<Autopilot>("/cluster/autopilot").await.expect("a setting"), wanted);
    let hasty = json!({"stableMilliseconds": 0, "exchangeAfterSeconds": 1, "removeAfterSeconds": null});
    let reply = server.ask(Method::POST, "/cluster/autopilot", hasty.to_string()).await;
    reply.refuses(Code::Invalid, "it may be restarting");
}

#[tokio::test]
async fn every_write_is_noted_with_its_answer_and_reads_are_not() {
    let server = Server::start().await;
    let id = "8f14e45f-ceea-467f-9575-6d26a5a3c0de";
    for (verb, path, body) in [
        (Method::PUT, "/org", r#"{"orgId":"lab"}"#),
        (Method::GET, "/orgs", ""),
        (Method::PUT, "/org", r#"{"orgId":"lab"}"#),
        (Method::POST, "/node/1", r#"{"admin":"drained"}"#),
        (Method::POST, "/cluster/leader/transfer", "{}"),
        (Method::PUT, "/cluster/token", "nonsense"),
        (Method::GET, "/node/journal", ""),
        (Method::DELETE, "/org/lab", ""),
        (Method::PUT, "/no/such/route", ""),
    ] {
        let id: &[_] = if verb == Method::DELETE { &[("pangolin-request-id", id)] } else { &[] };
        server.ask_with(id, verb, path, body).await;
    }
    // Who shows no key does not fill the journal.
    server.ask_as(&[], Method::PUT, "/org", "").await.refuses(Code::Unauthorized, "");
    let writes = server.writes.lock().expect("no panic").clone();
    let told: Vec<String> = writes
        .iter()
        .map(|w| format!("{} {} {} {}", w.who, w.verb, w.path, w.status.unwrap_or_default()))
        .collect();
    let expected = [
        "PUT /api/v1/org 201",
        "PUT /api/v1/org 409",
        "POST /api/v1/node/1 200",
        "POST /api/v1/cluster/leader/transfer 200",
        "PUT /api/v1/cluster/token 400",
        "DELETE /api/v1/org/lab 200",
    ];
    assert_eq!(told, expected.map(|write| format!("operator tester {write}")));
    assert_eq!(writes[5].request_id, id);
}

#[tokio::test]
async fn the_journal_is_read_in_parts() {
    let server = Server::start().await;
    for org in ["a", "b", "c"] {
        server.ask(Method::PUT, "/org", json!({ "orgId": org }).to_string()).await;
    }
    let client = server.operator();
    let read = |query: &'static str| {
        let client = &client;
        async move {
            let page: JournalPage = client.get(&format!("/node/journal{query}")).await.expect(query);
            page.entries.iter().map(|line| line.serial).collect::<Vec<_>>()
        }
    };
    assert_eq!(read("").await, [0, 1, 2]);
    assert_eq!(read("?limit=2").await, [1, 2]);
    assert_eq!(read("?after=0&limit=1").await, [1]);
    assert_eq!(read("?after=2").await, [] as [u64; 0]);
    for (query, message) in [
        ("?offset=1", "this list takes limit and after"),
        ("?limit=0", "limit lies between"),
        ("?after=-1", "must be a number"),
    ] {
        let reply = server.ask(Method::GET, &format!("/node/journal{query}"), "").await;
        reply.refuses(Code::Invalid, message);
    }
}
