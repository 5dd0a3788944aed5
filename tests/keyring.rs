//! A rotation of the keys that seal, on real nodes: nothing stops being served, nobody is left behind.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

#[allow(dead_code, reason = "each test file uses its own part of it")]
mod hosts;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hosts::{PATIENCE, begun, leads, org, pangolinctl};
use pangolin_chaos::cluster::{Cluster, START_PATIENCE};
use pangolin_node as _;
use pangolin_wire::{KeyUse, KeyringStatus};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

async fn keyring(cluster: &Cluster, node: usize) -> Option<KeyringStatus> {
    cluster.nodes[node].client().get("/cluster/keyring").await.ok()
}

/// Waits until the node shows the keyring as it is to be.
async fn until(
    cluster: &Cluster,
    node: usize,
    what: &str,
    is: impl Fn(&KeyringStatus) -> bool,
) -> KeyringStatus {
    let end = Instant::now() + PATIENCE * 2;
    loop {
        let seen = keyring(cluster, node).await;
        match seen {
            Some(status) if is(&status) => return status,
            seen => assert!(Instant::now() < end, "not in time: {what}: {seen:?}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn sealed_with(status: &KeyringStatus, number: u32) -> usize {
    status.keys.iter().filter(|key| key.number == number).map(|key| key.sealed).sum()
}

fn ok(cluster: &Cluster, node: usize, words: &[&str]) -> String {
    let done = pangolinctl(cluster, node, words);
    assert!(done.success, "{words:?}: {done:?}");
    done.stdout
}

/// A visitor with a memory: sessions are resumed where that is possible.
struct Visitor(TlsConnector);

impl Visitor {
    async fn of(cluster: &Cluster) -> Self {
        let pem = cluster.authority().await.expect("the authority");
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self(TlsConnector::from(Arc::new(config)))
    }

    async fn visit(&self, at: SocketAddr, host: &str) -> std::io::Result<Option<HandshakeKind>> {
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let stream = TcpStream::connect(at).await?;
        let mut stream = self.0.connect(name, stream).await?;
        let request = format!("GET /api/v1/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        // Tickets come behind the handshake.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(stream.get_ref().1.handshake_kind())
    }

    /// Waits until the node serves the name.
    async fn served(&self, cluster: &Cluster, node: usize, host: &str) -> Option<HandshakeKind> {
        let end = Instant::now() + PATIENCE;
        loop {
            let visit = self.visit(cluster.nodes[node].https(), host);
            match timeout(Duration::from_secs(10), visit).await {
                Ok(Ok(kind)) => return kind,
                other => assert!(Instant::now() < end, "{host} is not served by node {node}: {other:?}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn published(cluster: &Cluster, org_id: &str, domain: &str) {
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    org(&client, org_id).await;
    let body = json!({ "baseDomain": domain });
    let _: Value = client.put(&format!("/org/{org_id}/domain"), &body).await.expect("a domain");
    let body = json!({ "name": "www", "fullDomain": format!("www.{domain}") });
    let _: Value = client.put(&format!("/org/{org_id}/resource"), &body).await.expect("a resource");
}

#[tokio::test]
async fn a_rotation_leaves_nobody_behind_and_everything_served() {
    let (mut cluster, key) = begun(4).await;
    for node in [1, 2] {
        cluster.join(node).await.expect("joined");
    }
    published(&cluster, "acme", "acme.example").await;
    ok(&cluster, 0, &["dns", "dnssec", "enable", "acme.example"]);
    let token = cluster.token().await.expect("a token");
    let visitor = Visitor::of(&cluster).await;
    for node in 0..3 {
        visitor.served(&cluster, node, "www.acme.example").await;
    }
    let before = keyring(&cluster, 0).await.expect("the keyring");
    assert!(before.settled && before.keys.len() == 1 && sealed_with(&before, 1) >= 4, "{before:?}");
    assert!(!pangolinctl(&cluster, 0, &["keyring", "retire"]).success, "there is nothing to retire");

    // One node is away while it happens.
    cluster.nodes[2].terminate(START_PATIENCE).expect("it ends in order");
    ok(&cluster, 1, &["keyring", "rotate"]);
    let sealed = until(&cluster, 0, "everything is sealed anew", |status| {
        sealed_with(status, 1) == 0 && status.keys[0].used == KeyUse::Active
    })
    .await;
    assert_eq!((sealed.keys[0].number, &*sealed.missing), (2, &["n3".to_owned()][..]), "{sealed:?}");
    assert_eq!(sealed_with(&sealed, 2), sealed_with(&before, 1), "{sealed:?}");
    let refused = pangolinctl(&cluster, 0, &["keyring", "retire"]);
    assert!(!refused.success && refused.stderr.contains("n3"), "{refused:?}");
    for node in [0, 1] {
        let kind = visitor.served(&cluster, node, "www.acme.example").await;
        assert_eq!(kind, Some(HandshakeKind::Resumed), "sessions of before go on at node {node}");
    }
    published(&cluster, "later", "later.example").await;
    visitor.served(&cluster, 1, "www.later.example").await;

    cluster.nodes[2].start_ready().await.expect("it comes back");
    until(&cluster, 2, "the one that was away has it", |status| status.missing.is_empty()).await;
    visitor.served(&cluster, 2, "www.later.example").await;
    ok(&cluster, 0, &["keyring", "retire"]);
    let retired = until(&cluster, 2, "the former key is retired", |status| status.settled).await;
    assert_eq!(retired.keys[1].used, KeyUse::Retired, "{retired:?}");

    for node in 0..3 {
        cluster.nodes[node].terminate(START_PATIENCE).expect("it ends in order");
    }
    for node in 0..3 {
        cluster.nodes[node].start().expect("started");
    }
    for node in 0..3 {
        cluster.nodes[node].ready(START_PATIENCE).await.expect("it is back");
        visitor.served(&cluster, node, "www.acme.example").await;
    }
    leads(&cluster, 0).await;
    // The token's secret was sealed with the key of then.
    cluster.join_with(3, &token).await.expect("joined with the old token");
    visitor.served(&cluster, 3, "www.later.example").await;
    until(&cluster, 3, "the newcomer has the keys", |status| status.missing.is_empty()).await;

    let verified = ok(&cluster, 0, &["backup", "verify"]);
    assert!(!verified.contains("PROBLEM"), "backups of before still open: {verified}");
    escrowed(&cluster, &key);
    for node in &cluster.nodes {
        let log = std::fs::read_to_string(node.log()).unwrap_or_default();
        assert!(!log.contains("panicked at"), "{log}");
    }
}

/// The keyring comes out of the drawer as it is on the nodes.
fn escrowed(cluster: &Cluster, key: &str) {
    let [escrow, recovery, out] = ["escrow", "recovery", "opened"].map(|name| cluster.dir().join(name));
    let [escrow_at, recovery_at, out_at] =
        [&escrow, &recovery, &out].map(|path| path.to_str().expect("text"));
    ok(cluster, 1, &["keyring", "escrow", "--file", escrow_at]);
    std::fs::write(&recovery, key).expect("written");
    let open =
        ["keyring", "open", "--escrow", escrow_at, "--recovery-key-file", recovery_at, "--out", out_at];
    ok(cluster, 0, &open);
    let on_node = |node: usize| std::fs::read_to_string(cluster.nodes[node].state_dir().join("keyring"));
    let opened = std::fs::read_to_string(&out).expect("opened");
    assert!(opened.contains("\n1 retired ") && opened.contains("\n2 active "));
    for node in 0..4 {
        assert_eq!(opened, on_node(node).expect("a keyring"), "node {node}");
    }
    let again = pangolinctl(cluster, 0, &open);
    assert!(!again.success && again.stderr.contains("exists already"), "{again:?}");
}
