//! What was decided, and why.

use std::time::Duration;

use http::{Method, StatusCode};
use pangolin_core::record::AdminState;
use pangolin_wire::*;
use serde_json::json;

use crate::{Server, catalog::furnish};

#[tokio::test]
async fn why_is_answered_for_hosts_sites_certificates_and_nodes() {
    let server = Server::start().await;
    let (made, client) = (furnish(&server, "lab").await, server.operator());
    let _: Node = client.post("/node/1", &UpdateNode { admin: AdminState::Drained }).await.expect("the node");
    for (query, parts) in [
        (
            "name=app.lab.example.org",
            &[
                "resource app-lab-example-org",
                "requests go to target http://10.0.0.5:80",
                "no node is in service",
            ][..],
        ),
        ("name=nobody.lab.example.org", &["nothing is published"]),
        ("name=example.net", &["not in a zone of this cluster"]),
        ("name=lab%2Fhome", &["site lab/home", "no connector has registered yet", "operator: tester"]),
        ("name=home&kind=site", &["site lab/home"]),
        ("name=n1", &["node n1 (id 1)", "gives its work away", "operator: tester: POST /api/v1/node/1"]),
        ("name=app.lab.example.org&kind=certificate", &["no certificate yet", "*.lab.example.org"]),
    ] {
        let explanation: Explanation = client.get(&format!("/why?{query}")).await.expect(query);
        for part in parts {
            assert!(
                explanation.text.contains(part),
                "{part:?} is not said to {query}:\n{}",
                explanation.text
            );
        }
        assert!(explanation.text.starts_with(&explanation.about) && !explanation.facts.is_empty());
    }
    // What is gone is still explained.
    client.delete(&format!("/target/{}", made.target.target_id)).await.expect("no target");
    client.delete(&format!("/site/{}", made.site.site.site_id)).await.expect("no site");
    let gone: Explanation = client.get("/why?name=lab/home").await.expect("remembered");
    assert!(gone.text.contains("there is no such site any more"), "{}", gone.text);
    for (query, code, text) in [
        ("", Code::Invalid, "no name"),
        ("name=99", Code::NotFound, "there is no node or site"),
        ("name=n7", Code::NotFound, "there is no node or site"),
        ("name=n1&kind=org", Code::Invalid, "kind is"),
        ("name=a_b..c", Code::Invalid, "host name"),
        ("names=n1", Code::Invalid, "is not known in the query"),
    ] {
        server.ask(Method::GET, &format!("/why?{query}"), "").await.refuses(code, text);
    }
}

#[tokio::test]
async fn what_may_be_two_things_has_to_be_said() {
    let server = Server::start().await;
    let client = server.operator();
    let _: Org = client.put("/org", &json!({"orgId": "lab"})).await.expect("an org");
    let _: CreatedSite = client.put("/org/lab/site", &json!({"name": "n1"})).await.expect("a site");
    server.ask(Method::GET, "/why?name=n1", "").await.refuses(Code::Invalid, "may be node 1 or site lab/n1");
    let site: Explanation = client.get("/why?name=n1&kind=site").await.expect("the site");
    assert_eq!(site.about, "site lab/n1 (id 2)");
}

#[tokio::test]
async fn events_tell_who_did_what_and_are_read_on_from_where_one_was() {
    let server = Server::start().await;
    let client = server.operator();
    furnish(&server, "lab").await;
    let all: EventPage = client.get("/events?since=0").await.expect("events");
    assert_eq!((all.more, all.missing_up_to), (false, None));
    let told: Vec<&str> = all.events.iter().map(|event| event.what.as_str()).collect();
    assert!(told[0].starts_with("the cluster is made"), "{told:?}");
    let org = all.events.iter().find(|event| event.what.starts_with("org lab is made")).expect("the org");
    assert_eq!((org.automatic, org.actor.as_str()), (false, "tester"));
    assert_eq!(org.reason, "PUT /api/v1/org");
    assert_eq!((org.subjects[0].kind.as_str(), org.subjects[0].id.as_deref()), ("org", Some("lab")));

    // Page by page it is the same, without doubles and gaps.
    let (mut read, mut since) = (Vec::new(), "0".to_owned());
    loop {
        let page: EventPage = client.get(&format!("/events?since={since}&limit=2")).await.expect("a page");
        assert!(page.events.len() <= 2);
        read.extend(page.events);
        since = page.next.to_string();
        if !page.more {
            break;
        }
    }
    assert_eq!(read, all.events);
    let newest: EventPage = client.get("/events?limit=3").await.expect("events");
    assert_eq!(newest.events, all.events[all.events.len() - 3..]);

    // Whoever waits is answered as soon as something is decided.
    let path = format!("/events?since={since}&wait=8");
    let waiting = client.get::<EventPage>(&path);
    let writing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let writer = server.operator();
        writer.post::<_, Org>("/org/lab", &json!({"name": "Lab 2"})).await.expect("renamed");
    };
    let (next, ()) = tokio::join!(waiting, writing);
    let next = next.expect("an event").events;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].what, "org lab: name lab -> Lab 2");
    for query in ["since=yesterday", "limit=0", "limit=1001", "wait=60", "until=1"] {
        server.ask(Method::GET, &format!("/events?{query}"), "").await.refuses(Code::Invalid, "");
    }
}

#[tokio::test]
async fn an_orgs_key_is_told_of_what_is_the_orgs_own() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    furnish(&server, "other").await;
    let request = json!({"name": "lab", "scope": {"org": "lab"}});
    let key: CreatedApiKey = server.operator().put("/api-key", &request).await.expect("a key");
    let key = key.key.expect("the key");
    let holder = server.holder(&key);
    let page: EventPage = holder.get("/events?since=0").await.expect("events");
    assert!(page.events.len() >= 5);
    let orgs = page.events.iter().flat_map(|event| &event.subjects);
    assert!(orgs.clone().all(|subject| subject.org_id.as_ref().is_some_and(|org| org.as_str() == "lab")));
    let site: Explanation = holder.get("/why?name=home").await.expect("the only site of that name to see");
    assert!(site.about.starts_with("site lab/home"));
    let _: Explanation = holder.get("/why?name=app.lab.example.org").await.expect("its host");
    for query in [
        "name=n1",
        "name=1&kind=node",
        "name=other/home",
        "name=app.other.example.org",
        "name=app.other.example.org&kind=certificate",
        "name=example.net",
    ] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        let reply = server.ask_as(&headers, Method::GET, &format!("/why?{query}"), "").await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{query}: {}", reply.body);
    }
}
