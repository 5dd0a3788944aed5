//! A connector with a provisioning key gets credentials, as Newt reads them.

use serde_json::json;

use crate::{
    newt::{Newt, post},
    node::{FakeNode, HOME_LAB, PROVISIONING_KEY, serve},
};

const PATH: &str = "/api/v1/auth/newt/register";

#[tokio::test]
async fn a_key_gives_credentials_that_open_a_socket() {
    let server = serve(FakeNode::new()).await;
    let body = json!({ "provisioningKey": PROVISIONING_KEY, "name": "Branch 1" }).to_string();
    let (head, answer) = post(server.address, PATH, &body).await;
    assert!(head.starts_with("http/1.1 201 "), "{head}");
    assert_eq!((answer["success"].as_bool(), answer["error"].as_bool()), (Some(true), Some(false)));
    let (id, secret) =
        (answer["data"]["newtId"].as_str().unwrap(), answer["data"]["secret"].as_str().unwrap());
    Newt::sign_in(&server, (HOME_LAB.0, id, secret)).await.is_served().await;
    assert_eq!(*server.node.provisioned.lock(), [(HOME_LAB.0, Some("Branch 1".to_owned()))]);
}

#[tokio::test]
async fn a_key_that_is_not_good_and_a_body_that_is_none_are_refused_with_a_reason() {
    let server = serve(FakeNode::new()).await;
    let with = |key: &str| json!({ "provisioningKey": key }).to_string();
    let cases = [
        (with("spk000000000000.guessed"), 401, "not valid"),
        (with(""), 401, "not valid"),
        (with(&"x".repeat(8000)), 400, "body"),
        ("{}".to_owned(), 400, "provisioningKey"),
        (r#"{"provisioningKey":7}"#.to_owned(), 400, "provisioningKey"),
        (String::new(), 400, "provisioningKey"),
    ];
    for (body, status, reason) in cases {
        let (head, answer) = post(server.address, PATH, &body).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{body}: {head}");
        assert!(answer["message"].as_str().unwrap().contains(reason), "{body}: {answer}");
        assert_eq!(answer["success"].as_bool(), Some(false));
    }
    *server.node.refuses.lock() = Some("there is no leader".into());
    let (head, answer) = post(server.address, PATH, &with(PROVISIONING_KEY)).await;
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert!(answer["message"].as_str().unwrap().contains("no leader"));
    assert!(server.node.provisioned.lock().is_empty());
}
