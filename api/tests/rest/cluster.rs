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
    let health: Health = serde_json::from_value(reply.body["data"].clone()).expect("health");
    assert_eq!(health, Health { revision: server.cluster.state().revision(), leader: Some(NodeId(1)) });
}

#[tokio::test]
async fn status_settings_and_nodes_are_shown() {
    let server = Server::start().await;
    let client = server.operator();
    let status: ClusterStatus = client.get("/cluster/status").await.expect("a status");
    assert_eq!(status.quorum.summary, "1 of 1 voters up, can lose 0");
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
