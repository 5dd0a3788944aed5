//! The WebSocket for WireGuard's datagrams: who is let in.

use tokio_tungstenite::{connect_async, tungstenite::Error};

use crate::{
    newt::get_token,
    node::{FakeNode, HOME_LAB, serve},
};

#[tokio::test]
async fn only_a_site_with_a_token_may_send_datagrams_and_only_where_tunnels_end() {
    let server = serve(FakeNode::new()).await;
    let (_, answer) = get_token(&server, HOME_LAB.1, HOME_LAB.2).await;
    let token = answer["data"]["token"].as_str().unwrap();
    // This node has no WireGuard: whoever may come in is sent away for that.
    for (token, expected) in [("", 401), ("AAAA", 401), (token, 503)] {
        let url = format!("ws://{}/api/v1/tunnel/datagrams?token={token}", server.address);
        match connect_async(url).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status().as_u16(), expected, "{token}"),
            other => panic!("{other:?}"),
        }
    }
}
