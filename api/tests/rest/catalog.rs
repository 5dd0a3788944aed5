//! Organisations, users, roles, keys, sites, domains, resources, targets: each verb, and what it refuses.

use http::{Method, StatusCode};
use pangolin_core::{record::KeyScope, record::Method as Speech};
use pangolin_wire::*;
use serde_json::{Value, json};

use crate::{Server, server::Reply};

impl Reply {
    /// The data of a good answer.
    fn data(self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.body);
        assert_eq!((&self.body["success"], &self.body["error"]), (&json!(true), &json!(false)));
        assert_eq!(self.body["status"], self.status.as_u16());
        self.body["data"].clone()
    }

    /// Checks that the answer is an error of this kind whose message has this text.
    #[track_caller]
    pub(crate) fn refuses(&self, code: Code, text: &str) {
        let message = self.body["message"].as_str().unwrap_or_default();
        assert_eq!(self.body["code"], json!(code), "{}: {message}", self.status);
        assert_eq!((&self.body["success"], &self.body["error"]), (&json!(false), &json!(true)));
        assert_eq!(self.body["data"], Value::Null);
        assert_eq!(self.status.as_u16(), code.status());
        assert!(message.contains(text), "{message:?} does not say {text:?}");
        assert_eq!(self.body["requestId"], self.headers[REQUEST_ID_HEADER].to_str().expect("a UUID"));
    }
}

/// An organisation with a domain, a site, a resource and a target.
pub(crate) struct Furnished {
    pub(crate) org: &'static str,
    pub(crate) site: CreatedSite,
    pub(crate) domain: Domain,
    pub(crate) resource: Resource,
    pub(crate) target: Target,
}

/// Makes one of everything.
pub(crate) async fn furnish(server: &Server, org: &'static str) -> Furnished {
    let client = server.operator();
    let _: Org = client.put("/org", &json!({"orgId": org})).await.expect("an org");
    let site = client.put(&format!("/org/{org}/site"), &json!({"name": "Home"})).await.expect("a site");
    let base = format!("{org}.example.org");
    let domain: Domain =
        client.put(&format!("/org/{org}/domain"), &json!({"baseDomain": base})).await.expect("a domain");
    let resource: Resource = client
        .put(&format!("/org/{org}/resource"), &json!({"fullDomain": format!("app.{base}")}))
        .await
        .expect("a resource");
    let site: CreatedSite = site;
    let body = json!({"siteId": site.site.site_id, "ip": "10.0.0.5", "port": 80});
    let target =
        client.put(&format!("/resource/{}/target", resource.resource_id), &body).await.expect("a target");
    Furnished { org, site, domain, resource, target }
}

#[tokio::test]
async fn an_org_is_created_listed_shown_renamed_and_deleted() {
    let server = Server::start().await;
    let made = server.ask(Method::PUT, "/org", r#"{"orgId":"lab","name":"The Lab"}"#).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert!(made.headers.contains_key(REVISION_HEADER));
    assert_eq!(made.data()["name"], "The Lab");
    let listed = server.ask(Method::GET, "/orgs", "").await.data();
    assert_eq!(listed["orgs"][0]["orgId"], "lab");
    assert_eq!(listed["pagination"], json!({"total": 1, "limit": 1000, "offset": 0}));
    let renamed = server.ask(Method::POST, "/org/lab", r#"{"name":"Lab 2"}"#).await.data();
    assert_eq!(renamed["name"], "Lab 2");
    assert_eq!(server.ask(Method::GET, "/org/lab", "").await.data(), renamed);
    assert_eq!(server.ask(Method::DELETE, "/org/lab", "").await.data(), Value::Null);
    server.ask(Method::GET, "/org/lab", "").await.refuses(Code::NotFound, "there is no org lab");
}

#[tokio::test]
async fn a_bad_org_is_refused_with_the_reason() {
    let server = Server::start().await;
    for (body, text) in [
        ("", "missing field `orgId`"),
        (r#"{"orgId":"Not Good"}"#, "at orgId: the short name"),
        (r#"{"orgId":"lab","name":""}"#, "cannot be empty"),
        (r#"{"orgId":"lab","nam":"x"}"#, "unknown field `nam`"),
        (r#"{"orgId":7}"#, "at orgId: invalid type: integer `7`, expected a string"),
        (r#"{"orgId":"lab""#, "is not JSON"),
        (r#"{"orgId":"lab"} trailing"#, "goes on behind its JSON"),
    ] {
        server.ask(Method::PUT, "/org", body).await.refuses(Code::Invalid, text);
    }
    furnish(&server, "lab").await;
    server.ask(Method::PUT, "/org", r#"{"orgId":"lab"}"#).await.refuses(Code::Conflict, "org lab exists");
    server.ask(Method::DELETE, "/org/lab", "").await.refuses(Code::Conflict, "still used by");
    server.ask(Method::DELETE, "/org/none", "").await.refuses(Code::NotFound, "there is no org none");
    server.ask(Method::POST, "/org/none", r#"{"name":"x"}"#).await.refuses(Code::NotFound, "org none");
    server.ask(Method::GET, "/org/NO%20", "").await.refuses(Code::Invalid, "is not a orgId");
}

#[tokio::test]
async fn a_user_gets_roles_in_an_org_and_loses_them() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let client = server.operator();
    let user: User = client
        .put(
            "/user",
            &CreateUser { email: "Ada@Example.com".into(), name: "Ada".into(), administrator: false },
        )
        .await
        .expect("a user");
    assert_eq!(user.email, "ada@example.com");
    let role: Role =
        client.put("/org/lab/role", &CreateRole { name: "Readers".into() }).await.expect("a role");
    let path = format!("/org/lab/user/{}", user.user_id);
    let member: User =
        client.post(&path, &SetMembership { role_ids: vec![role.role_id] }).await.expect("a member");
    assert_eq!(member.memberships[0].role_ids, [role.role_id]);
    let members: UserList = client.get("/org/lab/users").await.expect("members");
    assert_eq!(members.users, [member]);
    let roles: RoleList = client.get("/org/lab/roles").await.expect("roles");
    assert_eq!(roles.roles.len(), 2);
    assert_eq!(client.get::<Role>(&format!("/role/{}", role.role_id)).await.expect("a role"), role);
    let admin = roles.roles.iter().find(|role| role.is_admin).expect("the administrators' role");
    server.ask(Method::DELETE, &format!("/role/{}", admin.role_id), "").await.refuses(Code::Invalid, "stays");
    client.delete(&format!("/role/{}", role.role_id)).await.expect("no role any more");
    client.delete(&path).await.expect("no member any more");
    let update = UpdateUser { name: Some("Ada L.".into()), administrator: Some(true) };
    let path = format!("/user/{}", user.user_id);
    let updated: User = client.post(&path, &update).await.expect("an update");
    assert!(updated.administrator && updated.memberships.is_empty() && updated.name == "Ada L.");
    assert_eq!(client.get::<User>(&path).await.expect("the user"), updated);
    assert_eq!(client.get::<UserList>("/users").await.expect("users").users, [updated]);
    server.ask(Method::POST, &path, "{}").await.refuses(Code::Invalid, "nothing is to be changed");
    let again = r#"{"email":"ada@example.com","name":"B"}"#;
    server.ask(Method::PUT, "/user", again).await.refuses(Code::Conflict, "taken by user");
    let bad = r#"{"email":"ada","name":"B"}"#;
    server.ask(Method::PUT, "/user", bad).await.refuses(Code::Invalid, "not an e-mail address");
    client.delete(&path).await.expect("no user any more");
    server.ask(Method::GET, &path, "").await.refuses(Code::NotFound, "there is no user");
}

#[tokio::test]
async fn a_site_is_created_with_credentials_shown_once() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await.site;
    assert_eq!(made.secret.as_ref().map(String::len), Some(SECRET_LEN));
    assert_eq!(made.site.newt_id.len(), CREDENTIAL_ID_LEN);
    assert_eq!(made.endpoint, "https://pangolin.lab.example.com:8443");
    let client = server.operator();
    let path = format!("/site/{}", made.site.site_id);
    let shown = server.ask(Method::GET, &path, "").await.data();
    assert!(shown.get("secret").is_none());
    assert_eq!(client.get::<Site>("/org/lab/site/home").await.expect("the site"), made.site);
    assert_eq!(client.get::<SiteList>("/org/lab/sites").await.expect("sites").sites[0], made.site);
    let update = UpdateSite { name: None, enabled: Some(false) };
    let updated: Site = client.post(&path, &update).await.expect("an update");
    assert!(!updated.enabled && updated.name == "Home");
    let fresh: CreatedSite = client.post(&format!("{path}/secret"), &json!({})).await.expect("a secret");
    assert!(fresh.secret.is_some() && fresh.secret != made.secret);
    server.ask(Method::DELETE, &path, "").await.refuses(Code::Conflict, "still used by target");
}

#[tokio::test]
async fn a_bad_site_is_refused_with_the_reason() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    for (body, text) in [
        (json!({}), "missing field `name`"),
        (json!({"name": "x".repeat(200)}), "128 are allowed"),
        (json!({"name": "x", "niceId": "home"}), "taken by site"),
        (json!({"name": "x", "type": "wireguard"}), "at type: unknown variant `wireguard`"),
        (json!({"name": "x", "newtId": "a"}), "go together"),
        (json!({"name": "x", "newtId": "a", "secret": "b"}), "15 letters and digits"),
        (json!({"name": "x", "newtId": "abcdefghijklmno", "secret": "short"}), "32 to 128"),
    ] {
        let reply = server.ask(Method::PUT, "/org/lab/site", body.to_string()).await;
        let code = if text.contains("taken") { Code::Conflict } else { Code::Invalid };
        reply.refuses(code, text);
    }
    server.ask(Method::PUT, "/org/none/site", r#"{"name":"x"}"#).await.refuses(Code::NotFound, "org none");
    server.ask(Method::GET, "/site/abc", "").await.refuses(Code::Invalid, "\"abc\" is not a siteId");
    server.ask(Method::GET, "/site/4711", "").await.refuses(Code::NotFound, "there is no site 4711");
    server
        .ask(Method::GET, "/org/lab/site/none", "")
        .await
        .refuses(Code::NotFound, "no site none in org lab");
    server.ask(Method::POST, "/site/4711", r#"{"name":"x"}"#).await.refuses(Code::NotFound, "site 4711");
    server.ask(Method::DELETE, "/site/4711", "").await.refuses(Code::NotFound, "site 4711");
    server.ask(Method::POST, "/site/4711/secret", "").await.refuses(Code::NotFound, "site 4711");
}

#[tokio::test]
async fn a_resource_is_published_by_its_full_name_or_below_a_domain() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await;
    assert_eq!(made.resource.domain_id, made.domain.domain_id);
    assert_eq!(made.resource.subdomain.as_deref(), Some("app"));
    let client = server.operator();
    let below = json!({"name": "Wiki", "http": true, "domainId": made.domain.domain_id, "subdomain": "wiki"});
    let wiki: Resource = client.put("/org/lab/resource", &below).await.expect("a resource");
    assert_eq!(wiki.full_domain.as_str(), "wiki.lab.example.org");
    let apex: Resource =
        client.put("/org/lab/resource", &json!({"domainId": made.domain.domain_id})).await.expect("the apex");
    assert_eq!((apex.full_domain.as_str(), apex.subdomain), ("lab.example.org", None));
    let path = format!("/resource/{}", wiki.resource_id);
    let update = UpdateResource { name: None, enabled: Some(false) };
    let updated: Resource = client.post(&path, &update).await.expect("an update");
    assert!(!updated.enabled && updated.name == "Wiki");
    assert_eq!(client.get::<Resource>(&path).await.expect("the resource"), updated);
    let listed: ResourceList = client.get("/org/lab/resources?limit=1&offset=1").await.expect("resources");
    assert_eq!(listed.resources, [updated]);
    assert_eq!(listed.pagination, Pagination { total: 3, limit: 1, offset: 1 });
    client.delete(&path).await.expect("no resource any more");
    for (body, code, text) in [
        (json!({"name": "x"}), Code::Invalid, "give fullDomain"),
        (json!({"fullDomain": "a.example.net"}), Code::Invalid, "no domain of org lab holds"),
        (json!({"fullDomain": "app.lab.example.org"}), Code::Conflict, "taken by resource"),
        (json!({"fullDomain": "a b"}), Code::Invalid, "at fullDomain: the host name"),
        (json!({"domainId": 4711, "subdomain": "x"}), Code::NotFound, "domain 4711"),
        (json!({"domainId": made.domain.domain_id, "subdomain": "-"}), Code::Invalid, "subdomain is not"),
        (json!({"fullDomain": "b.lab.example.org", "subdomain": "x"}), Code::Invalid, "do not go together"),
        (json!({"fullDomain": "b.lab.example.org", "http": false}), Code::Invalid, "http is false"),
    ] {
        server.ask(Method::PUT, "/org/lab/resource", body.to_string()).await.refuses(code, text);
    }
    server.ask(Method::GET, "/resource/4711", "").await.refuses(Code::NotFound, "resource 4711");
    server.ask(Method::POST, "/resource/4711", "{}").await.refuses(Code::NotFound, "resource 4711");
    server.ask(Method::DELETE, "/resource/4711", "").await.refuses(Code::NotFound, "resource 4711");
}

#[tokio::test]
async fn a_domain_is_created_shown_and_deleted_when_nothing_uses_it() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await;
    let client = server.operator();
    let path = format!("/domain/{}", made.domain.domain_id);
    assert_eq!(client.get::<Domain>(&path).await.expect("the domain"), made.domain);
    assert_eq!(client.get::<DomainList>("/org/lab/domains").await.expect("domains").domains, [made.domain]);
    server.ask(Method::DELETE, &path, "").await.refuses(Code::Conflict, "still used by resource");
    client.delete(&format!("/resource/{}", made.resource.resource_id)).await.expect("no resource");
    client.delete(&path).await.expect("no domain");
    server.ask(Method::DELETE, &path, "").await.refuses(Code::NotFound, "there is no domain");
    let bad = r#"{"baseDomain":"*.example.org"}"#;
    server.ask(Method::PUT, "/org/lab/domain", bad).await.refuses(Code::Invalid, "not a domain to publish");
}

#[tokio::test]
async fn a_target_is_created_changed_checked_and_deleted() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await;
    let client = server.operator();
    assert_eq!((made.target.method, made.target.internal_port), (Speech::Http, 40_000));
    let path = format!("/target/{}", made.target.target_id);
    let checked: Target = client
        .post(&path, &json!({"port": 8080, "healthCheck": {"path": "/up", "interval": 5}}))
        .await
        .expect("an update");
    assert_eq!((checked.port, checked.ip.as_str()), (8080, "10.0.0.5"));
    assert_eq!(checked.health_check.as_ref().map(|check| check.interval), Some(5));
    let kept: Target = client.post(&path, &json!({"enabled": false})).await.expect("an update");
    assert!(!kept.enabled && kept.health_check.is_some());
    let unchecked: Target = client.post(&path, &json!({"healthCheck": null})).await.expect("an update");
    assert_eq!(unchecked.health_check, None);
    assert_eq!(client.get::<Target>(&path).await.expect("the target"), unchecked);
    let list = format!("/resource/{}/targets", made.resource.resource_id);
    assert_eq!(client.get::<TargetList>(&list).await.expect("targets").targets, [unchecked]);
    let site = made.site.site.site_id;
    let put = format!("/resource/{}/target", made.resource.resource_id);
    for (body, code, text) in [
        (json!({"siteId": site, "ip": "10.0.0.6"}), Code::Invalid, "missing field `port`"),
        (json!({"siteId": site, "ip": "10.0.0.6", "port": 70000}), Code::Invalid, "at port: invalid value"),
        (json!({"siteId": site, "ip": "a b", "port": 1}), Code::Invalid, "neither an IP address nor"),
        (json!({"siteId": 4711, "ip": "a", "port": 1}), Code::NotFound, "site 4711"),
        (json!({"siteId": site, "ip": "a", "port": 1, "method": "sctp"}), Code::Invalid, "unknown variant"),
        (
            json!({"siteId": site, "ip": "a", "port": 1, "healthCheck": {"interval": "x"}}),
            Code::Invalid,
            "at healthCheck.interval: invalid type",
        ),
    ] {
        server.ask(Method::PUT, &put, body.to_string()).await.refuses(code, text);
    }
    server.ask(Method::POST, &path, "{}").await.refuses(Code::Invalid, "nothing is to be changed");
    client.delete(&path).await.expect("no target");
    for verb in [Method::GET, Method::DELETE] {
        server.ask(verb, &path, "").await.refuses(Code::NotFound, "there is no target");
    }
    server.ask(Method::POST, &path, r#"{"port":1}"#).await.refuses(Code::NotFound, "there is no target");
    server.ask(Method::PUT, "/resource/4711/target", "{}").await.refuses(Code::NotFound, "resource 4711");
    server.ask(Method::GET, "/resource/4711/targets", "").await.refuses(Code::NotFound, "resource 4711");
}

#[tokio::test]
async fn an_api_key_works_until_it_is_deleted() {
    let server = Server::start().await;
    let client = server.operator();
    let request = json!({"name": "automation", "scope": "cluster"});
    let made: CreatedApiKey = client.put("/api-key", &request).await.expect("a key");
    assert_eq!(made.api_key.scope, KeyScope::Cluster);
    let holder = server.holder(&made.key.expect("the key is shown"));
    let listed: ApiKeyList = holder.get("/api-keys").await.expect("keys");
    assert_eq!(listed.api_keys[0], made.api_key);
    let path = format!("/api-key/{}", made.api_key.api_key_id);
    assert_eq!(holder.get::<ApiKey>(&path).await.expect("the key"), made.api_key);
    client.delete(&path).await.expect("no key any more");
    let error = holder.get::<OrgList>("/orgs").await.expect_err("a worthless key");
    assert!(matches!(&error, ClientError::Refused(failure) if failure.code == Code::Unauthorized), "{error}");
    server.ask(Method::GET, &path, "").await.refuses(Code::NotFound, "there is no API key");
    server.ask(Method::DELETE, &path, "").await.refuses(Code::NotFound, "there is no API key");
    let bad = r#"{"name":"x","scope":{"org":"none"}}"#;
    server.ask(Method::PUT, "/api-key", bad).await.refuses(Code::NotFound, "there is no org none");
    server.ask(Method::PUT, "/api-key", r#"{"name":"x"}"#).await.refuses(Code::Invalid, "field `scope`");
}
