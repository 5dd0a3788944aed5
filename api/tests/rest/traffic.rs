//! Ports, balancing, shares: each verb, and what it refuses.

use http::Method;
use pangolin_core::traffic::{Balancing, ProxyProtocol};
use pangolin_wire::{Code, Port, PortList, Resource, Standing, Target};
use serde_json::{Value, json};

use crate::{Server, catalog::furnish};

#[tokio::test]
async fn the_share_and_the_choice_of_targets_are_set_and_shown() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await;
    let client = server.operator();
    let path = format!("/target/{}", made.target.target_id);
    assert_eq!((made.target.weight, made.target.priority), (1, 0));
    assert_eq!(made.target.state.map(|state| state.standing), Some(Standing::Unknown));
    let set: Target = client.post(&format!("{path}/share"), &json!({ "weight": 3 })).await.expect("set");
    assert_eq!((set.weight, set.priority), (3, 0));
    let set: Target = client.post(&format!("{path}/share"), &json!({ "priority": 1 })).await.expect("set");
    assert_eq!((set.weight, set.priority), (3, 1));
    assert_eq!(client.get::<Target>(&path).await.expect("the target"), set);

    let path = format!("/resource/{}", made.resource.resource_id);
    assert_eq!(made.resource.balancing, Balancing::RoundRobin);
    let set: Resource = client
        .post(&format!("{path}/balancing"), &json!({ "balancing": "least-connections" }))
        .await
        .expect("set");
    assert_eq!(set.balancing, Balancing::LeastConnections);
    assert_eq!(client.get::<Resource>(&path).await.expect("the resource"), set);

    let share = format!("/target/{}/share", made.target.target_id);
    for (path, body, code, text) in [
        (share.as_str(), "{}", Code::Invalid, "nothing is to be changed"),
        (&share, r#"{"weight":0}"#, Code::Invalid, "between 1 and 256"),
        (&share, r#"{"priority":300}"#, Code::Invalid, "at priority"),
        ("/target/4711/share", r#"{"weight":2}"#, Code::NotFound, "target 4711"),
        (&format!("{path}/balancing"), r#"{"balancing":"dice"}"#, Code::Invalid, "at balancing"),
        ("/resource/4711/balancing", r#"{"balancing":"cookie"}"#, Code::NotFound, "resource 4711"),
    ] {
        server.ask(Method::POST, path, body).await.refuses(code, text);
    }
}

#[tokio::test]
async fn ports_are_opened_changed_listed_and_closed() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await;
    let client = server.operator();
    let path = format!("/resource/{}/port", made.resource.resource_id);
    let wanted =
        json!({ "port": "25565/tcp", "proxyProtocol": "v2", "allow": ["192.0.2.0/24"], "connections": 50 });
    let opened: Port = client.put(&path, &wanted).await.expect("opened");
    assert_eq!(opened.proxy_protocol, Some(ProxyProtocol::V2));
    assert_eq!((opened.connections, opened.per_source, opened.idle_seconds), (50, 50, 3600));
    // Once more says exactly how it is from then on.
    let again: Port = client.put(&path, &json!({ "port": "25565/tcp" })).await.expect("changed");
    assert_eq!((again.proxy_protocol, again.allow.len(), again.connections), (None, 0, 1000));
    let told: Port =
        client.put(&path, &json!({ "port": "25565/udp", "proxyProtocol": "v2" })).await.expect("opened");
    assert_eq!(told.proxy_protocol, Some(ProxyProtocol::V2));
    let talk: Port = client.put(&path, &json!({ "port": "25565/udp" })).await.expect("opened");
    assert_eq!(talk.idle_seconds, 60);
    let _: Port = client.put(&path, &json!({ "port": "tls" })).await.expect("opened");
    let list: PortList = client.get("/org/lab/ports").await.expect("listed");
    assert_eq!(list.ports[..2], [again, talk]);
    let resource: Resource =
        client.get(&format!("/resource/{}", made.resource.resource_id)).await.expect("the resource");
    assert_eq!(resource.ports, ["25565/tcp", "25565/udp", "tls"]);

    let other: Resource =
        client.put("/org/lab/resource", &json!({ "fullDomain": "b.lab.example.org" })).await.expect("made");
    let elsewhere = format!("/resource/{}/port", other.resource_id);
    for (path, body, code, text) in [
        (&elsewhere, json!({ "port": "25565/tcp" }), Code::Conflict, "is taken by resource"),
        (&elsewhere, json!({ "port": "53/udp" }), Code::Invalid, "for DNS"),
        (&elsewhere, json!({ "port": "80/tcp" }), Code::Invalid, "for plain HTTP"),
        (&elsewhere, json!({ "port": "0/tcp" }), Code::Invalid, "between 1 and 65535"),
        (&elsewhere, json!({ "port": "22" }), Code::Invalid, "is no port"),
        (&elsewhere, json!({ "port": "22/udp", "proxyProtocol": "v1" }), Code::Invalid, "no datagrams"),
        (&elsewhere, json!({ "port": "22/tcp", "deny": ["192.0.2.1/24"] }), Code::Invalid, "bits behind"),
        (&"/resource/4711/port".to_owned(), json!({ "port": "22/tcp" }), Code::NotFound, "resource 4711"),
    ] {
        server.ask(Method::PUT, path, body.to_string()).await.refuses(code, text);
    }

    let close = json!({ "port": "25565/udp" });
    let _: Value = client.post(&format!("{path}/close"), &close).await.expect("closed");
    server
        .ask(Method::POST, &format!("{path}/close"), close.to_string())
        .await
        .refuses(Code::Invalid, "not open");
    client.delete(&format!("/resource/{}", made.resource.resource_id)).await.expect("removed");
    let list: PortList = client.get("/org/lab/ports").await.expect("listed");
    assert!(list.ports.is_empty(), "its ports are gone with it");
    let _: Port = client.put(&elsewhere, &json!({ "port": "25565/tcp" })).await.expect("free again");
}
