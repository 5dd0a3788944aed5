//! Certificates and issuers: what is shown to whom, and what is taken.

use pangolin_core::issuance::StandingKind;
use pangolin_wire::*;
use serde_json::json;

use crate::{Server, catalog::furnish};

#[tokio::test]
async fn certificates_that_are_wanted_are_listed_with_the_reason_why_there_are_none() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let list: CertificateList = server.operator().get("/certificates").await.expect("a list");
    let wanted = list.certificates.iter().find(|c| c.names.iter().any(|n| n.as_str() == "lab.example.org"));
    let wanted = wanted.expect("the domain's");
    assert_eq!((wanted.certificate_id, wanted.state), (None, StandingKind::Pending));
    assert!(!wanted.reason.is_empty());
}

#[tokio::test]
async fn an_org_sees_and_imports_certificates_for_its_own_names_alone() {
    let server = Server::start().await;
    furnish(&server, "lab").await;
    let request = json!({"name": "lab", "scope": {"org": "lab"}});
    let key: CreatedApiKey = server.operator().put("/api-key", &request).await.expect("a key");
    let holder = server.holder(&key.key.expect("the key"));
    let list: CertificateList = holder.get("/certificates").await.expect("a list");
    assert!(
        list.certificates.iter().all(|c| c.names.iter().all(|n| n.as_str().ends_with("lab.example.org")))
    );
    let import = |name: &str| json!({"chain": name, "key": "k"});
    let own: Certificate =
        holder.put("/certificate", &import("own.lab.example.org")).await.expect("imported");
    assert_eq!(own.issuer.as_deref(), Some("imported"));
    let id = own.certificate_id.expect("an id");
    let refused = holder.put::<_, Certificate>("/certificate", &import("foreign.example.net")).await;
    assert!(matches!(refused, Err(ClientError::Refused(failure)) if failure.code == Code::Forbidden));
    let renewed = holder.post::<_, Certificate>(&format!("/certificate/{id}/renew"), &json!({})).await;
    assert!(matches!(renewed, Err(ClientError::Refused(failure)) if failure.message.contains("imported")));
    let issuers = holder.get::<IssuerList>("/certificate-issuers").await;
    assert!(matches!(issuers, Err(ClientError::Refused(failure)) if failure.code == Code::Forbidden));
    holder.delete(&format!("/certificate/{id}")).await.expect("deleted");
    holder.get::<Certificate>(&format!("/certificate/{id}")).await.expect_err("gone");
}

#[tokio::test]
async fn issuers_have_an_order_and_keys_are_never_shown() {
    let server = Server::start().await;
    let client = server.operator();
    let set = |name: &str, first: bool| {
        let directory = format!("https://{name}.test/directory");
        json!({"name": name, "directory": directory, "first": first, "externalAccount": "me", "externalKey": "c2VjcmV0"})
    };
    for (name, first) in [("one", false), ("two", false), ("three", true), ("two", true)] {
        let issuer: CertificateIssuer =
            client.put("/certificate-issuer", &set(name, first)).await.expect("set");
        assert!(!format!("{issuer:?}").contains("c2VjcmV0"));
    }
    let list: IssuerList = client.get("/certificate-issuers").await.expect("a list");
    let names: Vec<&str> = list.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    assert_eq!(names, ["two", "three", "one"]);
    client.delete("/certificate-issuer/three").await.expect("deleted");
    client.delete("/certificate-issuer/three").await.expect_err("gone already");
    // Without an account there is no key to exchange, and without an issuer no account.
    for (name, says) in [("one", "no account"), ("three", "no issuer three")] {
        let path = format!("/certificate-issuer/{name}/account-key");
        let refused = client.post::<_, serde_json::Value>(&path, &json!({})).await;
        assert!(matches!(refused, Err(ClientError::Refused(failure)) if failure.message.contains(says)));
    }
    let plain = json!({"name": "plain", "directory": "http://plain.test/"});
    let refused = client.put::<_, CertificateIssuer>("/certificate-issuer", &plain).await;
    assert!(matches!(refused, Err(ClientError::Refused(failure)) if failure.message.contains("https")));
}
