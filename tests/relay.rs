//! A node without a tunnel to a site serves it all the same: by relay through a node that has one.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

use std::time::Duration;

use pangolin_chaos::{
    cluster::{Cluster, Options, START_PATIENCE},
    https::Https,
    site::Site,
};
use pangolin_node as _;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn plain_requests_http2_and_websockets_pass_a_relay() {
    let options = Options::of_a_test().expect("addresses and ports");
    let cluster = Cluster::start(options).await.expect("a cluster of three nodes");
    Site::found(&cluster).await.expect("an organisation and a domain");
    let mut site = Site::publish(&cluster, "lab", "hello", Some(1)).await.expect("a site");
    let settled = site.settled(&cluster, START_PATIENCE).await.expect("a tunnel");
    let https = cluster.https_client().await.expect("the authority");

    let status = cluster.status().await.expect("a status");
    let [carrier] = settled.tunnels[..] else { panic!("one tunnel, not {:?}", settled.tunnels) };
    let carrier = &status.nodes.iter().find(|node| node.id == carrier).expect("in the status").name;
    let mut relays = 0;
    for position in 0..cluster.nodes.len() {
        if cluster.nodes[position].name.as_str() != carrier.as_str() {
            site.served_by(&cluster, &https, position).await.expect("served");
            passes_everything(&cluster, &site, &https, position).await;
            relays += 1;
        }
    }
    assert_eq!(relays, 2, "both nodes without a tunnel were asked");
}

async fn passes_everything(cluster: &Cluster, site: &Site, https: &Https, position: usize) {
    let (at, host) = (cluster.nodes[position].https(), site.host.as_str());
    let page = https.get(at, host, "/", PATIENCE).await.expect("a page");
    assert_eq!(page.header("x-backend"), Some("hello"));

    let echo = https.websocket(at, host, "a word", PATIENCE).await.expect("an echo");
    assert_eq!(echo, "a word");

    // The slow answer does not hold up the others of the same connection.
    let paths = ["/wait?300", "/bytes?2000000", "/", "/bytes?10"];
    let pages = https.get_all_over_http2(at, host, &paths, PATIENCE).await.expect("all pages");
    let lengths: Vec<usize> = pages.iter().map(|page| page.body.len()).collect();
    assert_eq!(lengths, ["hello from hello, late\n".len(), 2_000_000, "hello from hello\n".len(), 10]);
    assert!(pages.iter().all(|page| page.status.is_success() && page.header("x-backend") == Some("hello")));
}
