//! Capacities of nodes, regions of sites, provisioning keys: each verb, and what it refuses.

use http::Method;
use pangolin_wire::{Code, CreatedProvisioningKey, Node, NodeList, ProvisioningKeyList, Site};
use serde_json::json;

use crate::{Server, catalog::furnish};

#[tokio::test]
async fn a_node_has_a_weight_and_a_capacity() {
    let server = Server::start().await;
    let client = server.operator();
    let nodes: NodeList = client.get("/nodes").await.expect("the nodes");
    let node = &nodes.nodes[0];
    assert_eq!((node.weight, node.capacity), (1, None));
    let path = format!("/node/{}/capacity", node.node_id);
    let set: Node = client.post(&path, &json!({ "weight": 3 })).await.expect("set");
    assert_eq!((set.weight, set.capacity), (3, None));
    let set: Node = client.post(&path, &json!({ "capacity": 500 })).await.expect("set");
    assert_eq!((set.weight, set.capacity), (3, Some(500)));
    let set: Node = client.post(&path, &json!({ "weight": 1, "capacity": 0 })).await.expect("set");
    assert_eq!((set.weight, set.capacity), (1, None));
    for (path, body, code, text) in [
        (path.as_str(), "{}", Code::Invalid, "nothing is to be changed"),
        (&path, r#"{"weight":0}"#, Code::Invalid, "between 1 and 256"),
        (&path, r#"{"weight":257}"#, Code::Invalid, "between 1 and 256"),
        ("/node/4711/capacity", r#"{"weight":2}"#, Code::NotFound, "node 4711"),
    ] {
        server.ask(Method::POST, path, body).await.refuses(code, text);
    }
}

#[tokio::test]
async fn a_site_lies_in_a_region_or_in_none() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await;
    let client = server.operator();
    let path = format!("/site/{}/region", made.site.site.site_id);
    assert_eq!(made.site.site.region, None);
    let set: Site = client.post(&path, &json!({ "region": "eu-west" })).await.expect("set");
    assert_eq!(set.region.as_ref().map(ToString::to_string).as_deref(), Some("eu-west"));
    let set: Site = client.post(&path, &json!({ "region": null })).await.expect("set");
    assert_eq!(set.region, None);
    server.ask(Method::POST, &path, r#"{"region":"EU West"}"#).await.refuses(Code::Invalid, "at region");
    server.ask(Method::POST, "/site/4711/region", "{}").await.refuses(Code::NotFound, "site 4711");
}

#[tokio::test]
async fn provisioning_keys_are_made_listed_and_removed() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let client = server.operator();
    let made: CreatedProvisioningKey =
        client.put("/org/lab/provisioning-key", &json!({ "name": "branches" })).await.expect("made");
    let key = made.provisioning_key;
    assert_eq!((key.uses, key.used, key.expires_at.is_some()), (Some(1), 0, true));
    let shown = made.key.expect("shown once");
    assert_eq!(shown.split_once('.').map(|(id, _)| id), Some(key.provisioning_key_id.as_str()));
    let many = json!({ "name": "any", "uses": 0, "lifetimeSeconds": 0 });
    let many: CreatedProvisioningKey = client.put("/org/lab/provisioning-key", &many).await.expect("made");
    assert_eq!((many.provisioning_key.uses, many.provisioning_key.expires_at), (None, None));
    let list: ProvisioningKeyList = client.get("/org/lab/provisioning-keys").await.expect("listed");
    assert_eq!(list.provisioning_keys.len(), 2);
    let path = format!("/provisioning-key/{}", key.provisioning_key_id);
    client.delete(&path).await.expect("removed");
    server.ask(Method::GET, &path, "").await.refuses(Code::NotFound, "provisioning key");
    for (path, body, code, text) in [
        ("/org/lab/provisioning-key", r#"{"name":""}"#, Code::Invalid, "name"),
        (
            "/org/lab/provisioning-key",
            r#"{"name":"x","lifetimeSeconds":99999999999}"#,
            Code::Invalid,
            "seconds",
        ),
        ("/org/none/provisioning-key", r#"{"name":"x"}"#, Code::NotFound, "org none"),
    ] {
        server.ask(Method::PUT, path, body).await.refuses(code, text);
    }
}
