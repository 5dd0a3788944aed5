//! What holds for every route: the envelope, verbs, limits, revisions, and repeats.

use http::{Method, StatusCode, header};
use pangolin_wire::*;
use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use crate::{Server, catalog::furnish};

#[tokio::test]
async fn a_repeat_under_the_same_id_is_done_once_and_answered_alike() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let (id, body) = (Uuid::new_v4().to_string(), r#"{"name":"Shed"}"#);
    let headers = [(REQUEST_ID_HEADER, id.as_str())];
    let first = server.ask_with(&headers, Method::PUT, "/org/lab/site", body).await;
    let again = server.ask_with(&headers, Method::PUT, "/org/lab/site", body).await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!(first.headers[REQUEST_ID_HEADER], id.as_str());
    assert_eq!(first.body["data"]["siteId"], again.body["data"]["siteId"]);
    assert_eq!(first.headers[REVISION_HEADER], again.headers[REVISION_HEADER]);
    assert!(first.body["data"]["secret"].is_string());
    assert!(again.body["data"]["secret"].is_null(), "a secret that does not work must not be shown");
    assert!(again.body["message"].as_str().is_some_and(|m| m.contains("answered before")));
    let sites: SiteList = server.operator().get("/org/lab/sites").await.expect("sites");
    assert_eq!(sites.sites.len(), 2);
}

#[tokio::test]
async fn a_repeat_with_credentials_of_the_clients_own_is_answered_with_them() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let id = Uuid::new_v4().to_string();
    let (newt_id, secret) = (random_id(), random_secret());
    let body = json!({"name": "Shed", "newtId": newt_id, "secret": secret}).to_string();
    for _ in 0..2 {
        let headers = [(REQUEST_ID_HEADER, id.as_str())];
        let reply = server.ask_with(&headers, Method::PUT, "/org/lab/site", body.clone()).await;
        assert_eq!(
            (&reply.body["data"]["newtId"], &reply.body["data"]["secret"]),
            (&json!(newt_id), &json!(secret))
        );
    }
}

#[tokio::test]
async fn a_repeated_removal_is_answered_as_the_first_one_and_a_fresh_one_is_not() {
    let server = Server::start().await;
    let made = furnish(&server, "lab").await;
    let (id, path) = (Uuid::new_v4().to_string(), format!("/target/{}", made.target.target_id));
    for _ in 0..2 {
        let reply = server.ask_with(&[(REQUEST_ID_HEADER, &id)], Method::DELETE, &path, "").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    }
    server.ask(Method::DELETE, &path, "").await.refuses(Code::NotFound, "there is no target");
}

#[tokio::test]
async fn a_refusal_is_repeated_as_well() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let id = Uuid::new_v4().to_string();
    let headers = [(REQUEST_ID_HEADER, id.as_str())];
    let ask = || server.ask_with(&headers, Method::DELETE, "/org/lab", "");
    ask().await.refuses(Code::Conflict, "still used by");
    let revision = server.cluster.state().revision();
    ask().await.refuses(Code::Conflict, "still used by");
    assert_eq!(server.cluster.state().revision(), revision, "it was answered from the state");
}

#[tokio::test]
async fn an_id_that_is_used_again_for_something_else_does_not_get_the_first_answer() {
    let server = Server::start().await;
    let id = Uuid::new_v4().to_string();
    for org in ["one", "two"] {
        let body = json!({"orgId": org}).to_string();
        let reply = server.ask_with(&[(REQUEST_ID_HEADER, &id)], Method::PUT, "/org", body).await;
        assert_eq!(reply.body["data"]["orgId"], org);
    }
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_wrong_verb_405_with_the_right_ones() {
    let server = Server::start().await;
    for path in ["", "/", "/nothing", "/org/lab/nothing", "/site/1/secret/2"] {
        let reply = server.ask(Method::GET, path, "").await;
        reply.refuses(Code::NotFound, "there is no such route");
    }
    for (verb, path, allow) in [
        (Method::POST, "/orgs", "GET"),
        (Method::PUT, "/site/1", "GET, POST, DELETE"),
        (Method::GET, "/org/lab/site", "PUT"),
        (Method::PATCH, "/health", "GET"),
    ] {
        let reply = server.ask(verb, path, "").await;
        reply.refuses(Code::MethodNotAllowed, "does not take this verb");
        assert_eq!(reply.headers[header::ALLOW], allow, "{path}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_and_one_at_the_limit_is_read() {
    let server = Server::start().await;
    let reply = server.ask(Method::PUT, "/org", vec![b' '; REQUEST_BODY_MAX + 1]).await;
    reply.refuses(Code::TooLarge, "larger than 256 KiB");
    let mut body = br#"{"orgId":"lab"}"#.to_vec();
    body.resize(REQUEST_BODY_MAX, b' ');
    assert_eq!(server.ask(Method::PUT, "/org", body).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_revision_that_is_not_reached_is_503_and_one_that_is_answers_at_once() {
    let server = Server::start().await;
    let client = server.operator();
    let _: Org = client.put("/org", &json!({"orgId": "lab"})).await.expect("an org");
    let revision = client.revision().expect("a revision");
    assert_eq!(revision, server.cluster.state().revision());
    client.get::<Org>("/org/lab").await.expect("its own write");
    let later = format!("{}.{}", revision.lineage, revision.index + 1000);
    let reply = server.ask_with(&[(MIN_REVISION_HEADER, &later)], Method::GET, "/orgs", "").await;
    reply.refuses(Code::Behind, &later);
    assert_eq!(reply.headers[header::RETRY_AFTER], "1");
    let reply = server.ask_as(&[(MIN_REVISION_HEADER, &later)], Method::GET, "/orgs", "").await;
    reply.refuses(Code::Unauthorized, "no API key");
}

#[tokio::test]
async fn the_latest_state_is_shown_by_the_word_of_a_majority_or_not_at_all() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let latest = [(MIN_REVISION_HEADER, LATEST)];
    let reply = server.ask_with(&latest, Method::GET, "/org/lab", "").await;
    assert_eq!(reply.status, StatusCode::OK);
    server.ask_as(&latest, Method::GET, "/org/lab", "").await.refuses(Code::Unauthorized, "no API key");
    server.cluster.shutdown().await;
    let reply = server.ask_with(&latest, Method::GET, "/org/lab", "").await;
    reply.refuses(Code::Behind, "cannot show the latest state");
    assert_eq!(reply.headers[header::RETRY_AFTER], "1");
}

#[tokio::test]
async fn without_a_leader_writes_are_503_with_the_reason_and_reads_go_on() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    server.cluster.shutdown().await;
    let reply = server.ask(Method::PUT, "/org", r#"{"orgId":"home"}"#).await;
    reply.refuses(Code::NotAppended, "nothing was changed: ");
    assert_eq!(reply.headers[header::RETRY_AFTER], "1");
    let sites: SiteList = server.operator().get("/org/lab/sites").await.expect("sites");
    assert_eq!(sites.sites.len(), 1);
}

#[tokio::test]
async fn bad_headers_and_queries_are_named() {
    let server = Server::start().await;
    for bad in ["", "x", "00000000-0000-0000-0000-000000000000", "\u{e9}"] {
        let reply = server.ask_with(&[(REQUEST_ID_HEADER, bad)], Method::GET, "/orgs", "").await;
        reply.refuses(Code::Invalid, "Pangolin-Request-Id is not a UUID");
    }
    let reply = server.ask_with(&[(MIN_REVISION_HEADER, "12")], Method::GET, "/orgs", "").await;
    reply.refuses(Code::Invalid, "1.912, or \"latest\"");
    for (query, text) in [
        ("limit=0", "between 1 and 1000"),
        ("limit=1001", "between 1 and 1000"),
        ("limit=-1", "must be a number"),
        ("offset=x", "offset is \"x\""),
        ("color=red", "\"color\" is not known"),
    ] {
        let reply = server.ask(Method::GET, &format!("/orgs?{query}"), "").await;
        reply.refuses(Code::Invalid, text);
    }
    let far = server.ask(Method::GET, "/orgs?offset=99999999", "").await;
    assert_eq!(far.body["data"]["orgs"], json!([]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_body_and_no_path_brings_the_api_down(
        bodies in prop::collection::vec((0..64usize, "[a-zA-Z0-9%._~-]{1,40}", body()), 1..4)
    ) {
        static RUNTIME: std::sync::LazyLock<(tokio::runtime::Runtime, Server)> = std::sync::LazyLock::new(|| {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let server = runtime.block_on(async {
                let server = Server::start().await;
                furnish(&server, "lab").await;
                server
            });
            (runtime, server)
        });
        let (runtime, server) = &*RUNTIME;
        runtime.block_on(async {
            for (route, text, body) in bodies {
                let routes = server.api.routes();
                let (verb, path) = &routes[route % routes.len()];
                let path: Vec<&str> =
                    path.split('/').map(|part| if part.starts_with('{') { text.as_str() } else { part }).collect();
                let reply = server.ask(verb.clone(), &path.join("/"), body).await;
                assert_ne!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", reply.body);
            }
        });
    }
}

/// Any bytes, and JSON objects that resemble requests.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![
        Just("null".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|text| json!(text).to_string()),
        Just(r#"{"org":"lab"}"#.to_owned()),
    ];
    let field = prop_oneof![
        Just("name"),
        Just("orgId"),
        Just("port"),
        Just("ip"),
        Just("siteId"),
        Just("scope"),
        Just("email"),
        Just("baseDomain"),
        Just("fullDomain"),
        Just("healthCheck"),
        Just("roleIds"),
        Just("lifetimeSeconds"),
    ];
    let object = prop::collection::vec((field, value), 0..4).prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..200), object]
}
