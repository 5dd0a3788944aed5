//! Who may do what: no key, a wrong key, an organisation's key at its own and at other things.

use http::{Method, StatusCode, header};
use pangolin_wire::*;
use serde_json::json;

use crate::{Server, catalog::furnish};

/// A path with something in place of its parameters.
fn filled(path: &str) -> String {
    let segments = path.split('/').map(|segment| match segment {
        "{orgId}" => "lab",
        "{niceId}" => "home",
        "{apiKeyId}" => "abcdefghijklmno",
        "{tokenId}" => "0011223344556677",
        number if number.starts_with('{') => "1",
        fixed => fixed,
    });
    segments.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn without_a_valid_key_every_route_but_health_answers_401() {
    let server = Server::start().await;
    assert!(server.api.routes().len() > 45);
    for (verb, path) in server.api.routes() {
        if *path == "/health" {
            continue;
        }
        let path = filled(path);
        for credentials in [None, Some("Bearer a.b"), Some("Basic YTpi"), Some("Bearer"), Some("\u{e9}")] {
            let headers: Vec<_> = credentials.iter().map(|value| ("authorization", *value)).collect();
            let reply = server.ask_as(&headers, verb.clone(), &path, "").await;
            reply.refuses(Code::Unauthorized, "");
            assert!(reply.headers.contains_key(header::WWW_AUTHENTICATE), "{verb} {path}");
        }
    }
}

#[tokio::test]
async fn an_orgs_key_reaches_what_is_the_orgs_own() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await;
    let request = json!({"name": "lab", "scope": {"org": "lab"}});
    let key: CreatedApiKey = server.operator().put("/api-key", &request).await.expect("a key");
    let holder = server.holder(&key.key.expect("the key"));
    assert_eq!(holder.get::<OrgList>("/orgs").await.expect("orgs").orgs.len(), 1);
    for path in ["/org/lab", "/org/lab/sites", "/org/lab/users", "/org/lab/roles", "/org/lab/domains"] {
        holder.get::<serde_json::Value>(path).await.expect(path);
    }
    let site: CreatedSite = holder.put("/org/lab/site", &json!({"name": "Shed"})).await.expect("a site");
    holder.delete(&format!("/site/{}", site.site.site_id)).await.expect("no site");
    holder.delete(&format!("/target/{}", made.target.target_id)).await.expect("no target");
    let second: CreatedApiKey = holder.put("/api-key", &request).await.expect("a second key");
    assert_eq!(holder.get::<ApiKeyList>("/api-keys").await.expect("keys").api_keys.len(), 2);
    holder.delete(&format!("/api-key/{}", second.api_key.api_key_id)).await.expect("no second key");
}

#[tokio::test]
async fn an_orgs_key_sees_nothing_of_another_org() {
    let server = Server::start().await;
    let (_, other) = (furnish(&server, "lab").await, furnish(&server, "other").await);
    let operator = server.operator();
    let scope = |org: &str| json!({"name": "key", "scope": {"org": org}});
    let key: CreatedApiKey = operator.put("/api-key", &scope("lab")).await.expect("a key");
    let foreign: CreatedApiKey = operator.put("/api-key", &scope("other")).await.expect("a key");
    let role = operator.get::<RoleList>("/org/other/roles").await.expect("roles").roles[0].role_id;
    let bearer = format!("Bearer {}", key.key.expect("the key"));
    let before = server.cluster.state();
    let org = other.org;
    let site = format!("/site/{}", other.site.site.site_id);
    let resource = format!("/resource/{}", other.resource.resource_id);
    let target = format!("/target/{}", other.target.target_id);
    let ask = |verb: Method, path: String, body: &'static str| {
        let (server, bearer) = (&server, &bearer);
        async move {
            let reply = server.ask_as(&[("authorization", bearer)], verb.clone(), &path, body).await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{verb} {path}: {}", reply.body);
        }
    };
    for (verb, path, body) in [
        (Method::GET, format!("/org/{org}"), ""),
        (Method::GET, format!("/org/{org}/sites"), ""),
        (Method::GET, format!("/org/{org}/site/home"), ""),
        (Method::PUT, format!("/org/{org}/site"), r#"{"name":"x"}"#),
        (Method::GET, format!("/org/{org}/domains"), ""),
        (Method::PUT, format!("/org/{org}/domain"), r#"{"baseDomain":"x.example.net"}"#),
        (Method::GET, format!("/org/{org}/resources"), ""),
        (Method::PUT, format!("/org/{org}/resource"), r#"{"fullDomain":"x.other.example.org"}"#),
        (Method::GET, format!("/org/{org}/users"), ""),
        (Method::GET, format!("/org/{org}/roles"), ""),
        (Method::PUT, format!("/org/{org}/role"), r#"{"name":"x"}"#),
        (Method::GET, format!("/role/{role}"), ""),
        (Method::DELETE, format!("/role/{role}"), ""),
        (Method::GET, site.clone(), ""),
        (Method::POST, site.clone(), r#"{"name":"x"}"#),
        (Method::POST, format!("{site}/secret"), ""),
        (Method::DELETE, site, ""),
        (Method::GET, format!("/domain/{}", other.domain.domain_id), ""),
        (Method::DELETE, format!("/domain/{}", other.domain.domain_id), ""),
        (Method::GET, resource.clone(), ""),
        (Method::POST, resource.clone(), r#"{"name":"x"}"#),
        (Method::GET, format!("{resource}/targets"), ""),
        (Method::PUT, format!("{resource}/target"), r#"{"siteId":1,"ip":"a","port":1}"#),
        (Method::DELETE, resource, ""),
        (Method::GET, target.clone(), ""),
        (Method::POST, target.clone(), r#"{"port":1}"#),
        (Method::DELETE, target, ""),
        (Method::GET, format!("/api-key/{}", foreign.api_key.api_key_id), ""),
        (Method::DELETE, format!("/api-key/{}", foreign.api_key.api_key_id), ""),
    ] {
        ask(verb, path, body).await;
    }
    assert_eq!(before.revision(), server.cluster.state().revision(), "nothing was proposed");
}

#[tokio::test]
async fn an_orgs_target_cannot_lead_to_another_orgs_site() {
    let server = Server::start().await;
    let (own, other) = (furnish(&server, "lab").await, furnish(&server, "other").await);
    let body = json!({"siteId": other.site.site.site_id, "ip": "a", "port": 1}).to_string();
    let path = format!("/resource/{}/target", own.resource.resource_id);
    server.ask(Method::PUT, &path, body).await.refuses(Code::NotFound, "there is no site");
}

#[tokio::test]
async fn an_orgs_key_does_not_administer_the_cluster() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let request = json!({"name": "lab", "scope": {"org": "lab"}});
    let key: CreatedApiKey = server.operator().put("/api-key", &request).await.expect("a key");
    let bearer = format!("Bearer {}", key.key.expect("the key"));
    for (verb, path, body) in [
        (Method::GET, "/cluster/status", ""),
        (Method::GET, "/cluster/settings", ""),
        (Method::GET, "/node/journal", ""),
        (Method::POST, "/cluster/leave", ""),
        (Method::POST, "/cluster/leader/transfer", ""),
        (Method::PUT, "/cluster/token", ""),
        (Method::GET, "/cluster/tokens", ""),
        (Method::DELETE, "/cluster/token/0011223344556677", ""),
        (Method::GET, "/nodes", ""),
        (Method::GET, "/node/1", ""),
        (Method::POST, "/node/1", r#"{"admin":"drained"}"#),
        (Method::DELETE, "/node/1", ""),
        (Method::POST, "/node/1/promote", ""),
        (Method::PUT, "/node/1/replacement", ""),
        (Method::POST, "/node/1/capacity", r#"{"weight":2}"#),
        (Method::GET, "/node/backups", ""),
        (Method::PUT, "/node/backup", ""),
        (Method::POST, "/node/backups/verify", ""),
        (Method::GET, "/cluster/autopilot", ""),
        (Method::POST, "/cluster/autopilot", ""),
        (Method::POST, "/cluster/disband", r#"{"cluster":"lab"}"#),
        (Method::POST, "/cluster/upgrade", r#"{"action":"start"}"#),
        (Method::POST, "/cluster/upgrade", r#"{"action":"finish"}"#),
        (Method::POST, "/cluster/restore", ""),
        (Method::POST, "/cluster/recovery-key", ""),
        (Method::GET, "/cluster/keyring", ""),
        (Method::POST, "/cluster/keyring/rotate", ""),
        (Method::POST, "/cluster/keyring/retire", ""),
        (Method::POST, "/cluster/keyring/escrow", ""),
        (Method::PUT, "/org", r#"{"orgId":"x"}"#),
        (Method::POST, "/org/lab", r#"{"name":"x"}"#),
        (Method::DELETE, "/org/lab", ""),
        (Method::PUT, "/user", ""),
        (Method::GET, "/users", ""),
        (Method::GET, "/user/1", ""),
        (Method::POST, "/user/1", ""),
        (Method::DELETE, "/user/1", ""),
        (Method::POST, "/org/lab/user/1", ""),
        (Method::DELETE, "/org/lab/user/1", ""),
        (Method::PUT, "/api-key", r#"{"name":"x","scope":"cluster"}"#),
        (Method::PUT, "/api-key", r#"{"name":"x","scope":{"org":"other"}}"#),
    ] {
        let reply = server.ask_as(&[("authorization", &bearer)], verb.clone(), path, body).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{verb} {path}: {}", reply.body);
        reply.refuses(Code::Forbidden, "");
    }
}
