//! Newt's conversations with the control channel, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datagrams;
mod hostile;
mod newt;
mod node;
mod provisioning;
mod transcripts;

use std::sync::Arc;

use pangolin_core::{Epoch, NodeId, TargetId, observation::TargetHealth, record::TunnelKey};
use serde_json::json;

use crate::{
    newt::{KEY, Newt, get_token, post},
    node::{FakeNode, HOME_LAB, OFFICE, serve, target, until},
};

#[tokio::test]
async fn the_sign_in_is_answered_as_newt_reads_it() {
    let server = serve(FakeNode::new()).await;
    let (head, body) = get_token(&server, HOME_LAB.1, HOME_LAB.2).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("connection: close"), "a kept connection to a dead node costs a Newt 30 s: {head}");
    assert_eq!((body["success"].as_bool(), body["error"].as_bool()), (Some(true), Some(false)));
    assert!(!body["data"]["token"].as_str().unwrap().is_empty());
    let version = body["data"]["serverVersion"].as_str().unwrap();
    assert_eq!(version.split('.').count(), 3, "{version} is a semantic version");

    let (head, body) = get_token(&server, HOME_LAB.1, "guessed").await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
    assert_eq!((body["success"].as_bool(), body["status"].as_u64()), (Some(false), Some(400)));
    assert!(body["message"].as_str().unwrap().contains("incorrect"));
}

#[tokio::test]
async fn a_newt_is_told_to_stay_as_it_is() {
    let server = serve(FakeNode::new()).await;
    let request = json!({ "newtId": HOME_LAB.1, "secret": HOME_LAB.2, "platform": "linux_amd64" });
    let (head, _) = post(server.address, "/api/v1/auth/newt/version", &request.to_string()).await;
    assert!(head.starts_with("http/1.1 204 "), "{head}");
}

#[tokio::test]
async fn a_newt_that_starts_gets_its_tunnel() {
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    newt.ping(0).await;
    assert_eq!(newt.hears_a("pong").await.1, 5);
    newt.say("newt/ping/request", json!({ "noCloud": false, "chainId": "825f955e1b986e56" })).await;
    let (nodes, _) = newt.hears_a("newt/ping/exitNodes").await;
    assert_eq!(nodes["chainId"], "825f955e1b986e56");
    assert_eq!(nodes["exitNodes"].as_array().unwrap().len(), 1);
    assert_eq!(nodes["exitNodes"][0]["exitNodeName"], "n1");

    newt.register("624b023cf2d993a9").await;
    let (connect, version) = newt.hears_a("newt/wg/connect").await;
    assert_eq!(version, 5);
    assert_eq!(connect["chainId"], "624b023cf2d993a9");
    assert_eq!(connect["endpoint"], "192.0.2.1:51820");
    assert_eq!((&connect["serverIP"], &connect["tunnelIP"]), (&json!("100.89.0.1"), &json!("100.89.4.17")));
    assert_eq!(connect["targets"], json!({ "tcp": ["40001:10.0.0.5:8080"], "udp": [] }));
    assert_eq!(connect["healthCheckTargets"][0]["hcMode"], "tcp");
    assert_eq!(connect.get("nodes"), None);
    let expected = (HOME_LAB.0, TunnelKey([1; 32]), "1.13.0".to_owned(), false);
    assert_eq!(*server.node.registered.lock(), [expected]);
}

#[tokio::test]
async fn a_newt_whose_tunnel_is_alive_comes_back_without_losing_it() {
    let node = FakeNode::new();
    node.change_home_lab(|site| site.key = Some(TunnelKey([1; 32])));
    node.carried.lock().insert((HOME_LAB.0, NodeId(1)));
    let server = serve(Arc::clone(&node)).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    let register =
        json!({ "publicKey": KEY, "newtVersion": "1.13.0", "backwardsCompatible": true, "chainId": "a8b2" });
    newt.say("newt/wg/register", register).await;
    newt.ping(5).await;
    newt.hears_a("pong").await;
    node.change_home_lab(|site| (site.offers, site.epoch) = (vec![NodeId(2), NodeId(1)], Epoch(2)));
    let (connect, _) = newt.hears_a("newt/wg/connect").await;
    assert_eq!((&connect["endpoint"], &connect["chainId"]), (&json!("192.0.2.2:51820"), &json!("")));
}

#[tokio::test]
async fn a_newt_that_missed_a_change_is_synchronised() {
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    newt.ping(3).await;
    newt.hears_a("pong").await;
    let (sync, version) = newt.hears_a("newt/sync").await;
    assert_eq!(version, 5);
    assert_eq!(sync["proxyTargets"]["tcp"], json!(["40001:10.0.0.5:8080"]));
    assert_eq!(sync["healthCheckTargets"][0]["id"], 7);
}

#[tokio::test]
async fn changes_reach_a_connected_newt_at_once() {
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    newt.register("c1").await;
    newt.hears_a("newt/wg/connect").await;
    server.node.change_home_lab(|site| {
        site.targets.push(target(8, 40_002));
        site.config_version = 6;
    });
    assert_eq!(newt.hears_a("newt/tcp/add").await, (json!({ "targets": ["40002:10.0.0.5:8080"] }), 6));
    assert_eq!(newt.hears_a("newt/healthcheck/add").await.0["targets"][0]["id"], 8);
    server.node.change_home_lab(|site| {
        site.targets.remove(0);
        site.config_version = 7;
    });
    assert_eq!(newt.hears_a("newt/tcp/remove").await, (json!({ "targets": ["40001:10.0.0.5:8080"] }), 7));
    assert_eq!(newt.hears_a("newt/healthcheck/remove").await, (json!({ "ids": [7] }), 7));
}

#[tokio::test]
async fn a_multi_homed_connector_follows_the_nodes() {
    let server = serve(FakeNode::new()).await;
    let mut connector = Newt::sign_in(&server, HOME_LAB).await;
    let register = json!({ "publicKey": KEY, "newtVersion": "0.1.0", "multiHomed": true, "chainId": "c1" });
    connector.say("newt/wg/register", register).await;
    let (connect, _) = connector.hears_a("newt/wg/connect").await;
    let node = &connect["nodes"][1];
    assert_eq!((&node["nodeId"], &node["name"]), (&json!(2), &json!("n2")));
    assert_eq!((&node["endpoint"], &node["control"]), (&json!("192.0.2.2:51820"), &json!("192.0.2.2:443")));
    assert_eq!(node["serverIP"], "100.89.0.2");
    assert!(server.node.registered.lock()[0].3);
    server.node.change(|plan| drop(plan.nodes.remove(&NodeId(1))));
    let (nodes, _) = connector.hears_a("pangolin/nodes").await;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_registration_that_cannot_be_committed_is_refused_with_a_reason() {
    let server = serve(FakeNode::new()).await;
    *server.node.refuses.lock() = Some("there is no leader".into());
    let mut connector = Newt::sign_in(&server, HOME_LAB).await;
    let register = json!({ "publicKey": KEY, "multiHomed": true, "chainId": "c1" });
    connector.say("newt/wg/register", register).await;
    let (refused, _) = connector.hears_a("pangolin/refused").await;
    assert_eq!(refused, json!({ "reason": "there is no leader", "chainId": "c1" }));
}

#[tokio::test]
async fn who_is_attached_and_how_its_targets_are_is_published() {
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    until(server.control.attached(), |sites| sites.contains(&HOME_LAB.0)).await;
    let status = |status: &str| json!({ "targets": { "7": { "status": status, "checkCount": 1 } } });
    newt.say("newt/healthcheck/status", status("unhealthy")).await;
    let health = server.control.target_health();
    until(health.clone(), |health| health.get(&TargetId(7)) == Some(&TargetHealth::Unhealthy)).await;
    newt.say_gzipped("newt/healthcheck/status", status("healthy")).await;
    until(health.clone(), |health| health.get(&TargetId(7)) == Some(&TargetHealth::Healthy)).await;
    newt.say("newt/disconnecting", json!({})).await;
    until(server.control.attached(), |sites| sites.is_empty()).await;
    until(health, |health| health.is_empty()).await;
    until(server.control.farewells(), |farewells| farewells.contains_key(&HOME_LAB.0)).await;
    newt.is_closed().await;
    let _back = Newt::sign_in(&server, HOME_LAB).await;
    until(server.control.farewells(), |farewells| farewells.is_empty()).await;
}

#[tokio::test]
async fn a_site_that_is_removed_takes_its_connector_down() {
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    let mut other = Newt::sign_in(&server, OFFICE).await;
    newt.register("c1").await;
    newt.hears_a("newt/wg/connect").await;
    server.node.secrets.lock().remove(&HOME_LAB.0);
    server.node.change(|plan| drop(plan.sites.remove(&HOME_LAB.0)));
    newt.hears_a("newt/wg/terminate").await;
    assert!(newt.is_closed().await.reason.contains("gone"));
    other.is_served().await;
}

#[tokio::test]
async fn a_changed_secret_ends_sockets_and_tokens() {
    let server = serve(FakeNode::new()).await;
    let (_, answer) = get_token(&server, HOME_LAB.1, HOME_LAB.2).await;
    let token = answer["data"]["token"].as_str().unwrap();
    let mut newt = Newt::open(server.address, token).await.unwrap();
    newt.is_served().await;
    server.node.secrets.lock().get_mut(&HOME_LAB.0).unwrap().1 = "another".into();
    server.node.change(|_| ());
    newt.hears_a("newt/wg/terminate").await;
    assert!(newt.is_closed().await.reason.contains("secret"));
    assert_eq!(Newt::open(server.address, token).await.err(), Some(401));
}

#[tokio::test]
async fn a_token_of_one_node_opens_a_socket_at_another() {
    let (first, second) = (serve(FakeNode::new()).await, serve(FakeNode::new()).await);
    let (_, answer) = get_token(&first, HOME_LAB.1, HOME_LAB.2).await;
    let token = answer["data"]["token"].as_str().unwrap();
    Newt::open(second.address, token).await.unwrap().is_served().await;
}

#[tokio::test]
async fn a_tunnel_is_moved_ahead_of_the_plan() {
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    newt.register("c1").await;
    newt.hears_a("newt/wg/connect").await;
    assert!(server.control.move_to(HOME_LAB.0, NodeId(2)));
    let (connect, _) = newt.hears_a("newt/wg/connect").await;
    assert_eq!((&connect["endpoint"], &connect["chainId"]), (&json!("192.0.2.2:51820"), &json!("")));
    assert!(!server.control.move_to(OFFICE.0, NodeId(2)), "its socket is not here");
}

#[tokio::test]
async fn a_connector_that_asks_while_its_home_is_suspect_goes_to_a_standby() {
    let server = serve(FakeNode::new()).await;
    server.node.suspects.lock().insert(NodeId(1));
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    newt.register("c1").await;
    let (connect, _) = newt.hears_a("newt/wg/connect").await;
    assert_eq!(connect["endpoint"], json!("192.0.2.2:51820"));
    // The home is back, the tunnel lives at the standby: a connector that asks again is sent there, not home.
    server.node.suspects.lock().clear();
    server.node.carried.lock().insert((HOME_LAB.0, NodeId(2)));
    let mut again = Newt::sign_in(&server, HOME_LAB).await;
    again.register("c2").await;
    let (connect, _) = again.hears_a("newt/wg/connect").await;
    assert_eq!(connect["endpoint"], json!("192.0.2.2:51820"));
}

#[tokio::test]
async fn a_draining_node_sends_its_connectors_away() {
    let server = serve(FakeNode::new()).await;
    let (_, answer) = get_token(&server, HOME_LAB.1, HOME_LAB.2).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    newt.is_served().await;
    let control = Arc::clone(&server.control);
    let closing = tokio::spawn(async move { control.close().await });
    let end = newt.is_closed().await;
    assert_eq!(u16::from(end.code), 1001, "{}", end.reason);
    closing.await.unwrap();
    assert!(server.control.attached().borrow().is_empty());
    let token = answer["data"]["token"].as_str().unwrap();
    assert_eq!(Newt::open(server.address, token).await.err(), Some(503));
}

#[tokio::test]
async fn paths_of_others_are_left_to_them() {
    use pangolin_tunnel::control::ControlService;
    for path in [
        "/api/v1/auth/newt/get-token",
        "/api/v1/auth/newt/register",
        "/api/v1/auth/newt/version",
        "/api/v1/ws",
        "/api/v1/tunnel/datagrams",
    ] {
        assert!(ControlService::serves(path), "{path}");
    }
    for path in ["/", "/ping", "/api/v1/sites", "/api/v1/ws/x"] {
        assert!(!ControlService::serves(path), "{path}");
    }
    let server = serve(FakeNode::new()).await;
    let (head, _) = post(server.address, "/api/v1/auth/newt/get-token", "{}").await;
    assert!(head.starts_with("http/1.1 400 "), "{head}");
}
