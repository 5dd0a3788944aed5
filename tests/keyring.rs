//! A rotation of the keys that seal, on real nodes: nothing stops being served, nobody is left behind.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

#[allow(dead_code, reason = "each test file uses its own part of it")]
mod hosts;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use domain::{
    base::{
        Message, MessageBuilder, Name, Rtype,
        iana::OptionCode,
        opt::{ComposeOptData as _, Cookie, UnknownOptData},
    },
    dep::octseq::Parser,
};
use hosts::{PATIENCE, begun, leads, org, pangolinctl};
use pangolin_chaos::cluster::{Cluster, START_PATIENCE};
use pangolin_dns::CookieSecret;
use pangolin_node::local::layers::cookie_secrets;
use pangolin_peer::identity::Keyring;
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

/// Where questions come from: cookies are bound to it.
const CLIENT: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// A cookie of a client (RFC 7873 §4).
const CLIENT_COOKIE: &[u8] = b"12345678";

/// A question with a cookie, or without one where that is empty.
fn question(id: u16, cookie: &[u8]) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    let mut question = builder.question();
    question.push((Name::<Vec<u8>>::vec_from_str("demo.test").expect("a name"), Rtype::SOA)).expect("room");
    let mut additional = question.additional();
    if !cookie.is_empty() {
        let cookie = UnknownOptData::new(OptionCode::COOKIE, cookie).expect("short");
        additional.opt(|opt| opt.push(&cookie)).expect("room");
    }
    additional.finish()
}

fn socket(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((CLIENT, 0)).expect("a port");
    socket.connect(server).expect("a route");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    socket
}

fn received(socket: &UdpSocket) -> Option<Message<Vec<u8>>> {
    let mut reply = vec![0; 2048];
    let length = socket.recv(&mut reply).ok()?;
    reply.truncate(length);
    Message::from_octets(reply).ok()
}

/// The cookie that a node gives to who shows this one.
fn given(cluster: &Cluster, node: usize, shown: &[u8]) -> Vec<u8> {
    let socket = socket(cluster.nodes[node].dns());
    let end = Instant::now() + PATIENCE;
    loop {
        socket.send(&question(1, shown)).expect("sent");
        let cookie = received(&socket).and_then(|reply| reply.opt()?.opt().cookie());
        if let Some(cookie) = cookie {
            let mut wire = Vec::new();
            let Ok(()) = cookie.compose_option(&mut wire);
            return wire;
        }
        assert!(Instant::now() < end, "node {node} gives no cookie");
    }
}

/// Whether a cookie was made with this secret.
fn is_made_with(cookie: &[u8], secret: &CookieSecret) -> bool {
    let cookie = Cookie::parse(&mut Parser::from_ref(cookie)).expect("a cookie");
    cookie.check_server_hash(CLIENT.into(), &secret.0, |_| true)
}

/// The secrets of cookies, as a node's keyring says.
fn secrets(cluster: &Cluster, node: usize) -> Vec<CookieSecret> {
    let bytes = std::fs::read(cluster.nodes[node].state_dir().join("keyring")).expect("a keyring");
    cookie_secrets(&Keyring::from_bytes(&bytes).expect("a keyring"))
}

/// Rounds of [`is_taken`] that have to say the same.
const ROUNDS: usize = 5;

/// Whether a node takes a cookie: it answers who shows it in full while others at the same address get their answers cut
/// short, because of so many questions.
fn is_taken(cluster: &Cluster, node: usize, cookie: &[u8]) -> bool {
    const PLAIN: u16 = 0x1000;
    const SHOWN: u16 = 0x2000;
    const LAST: u16 = 0x3000;
    let socket = socket(cluster.nodes[node].dns());
    let own = given(cluster, node, CLIENT_COOKIE);
    let end = Instant::now() + PATIENCE * 2;
    let mut rounds = 0;
    while rounds < ROUNDS {
        assert!(Instant::now() < end, "node {node} does not limit its answers");
        // Fewer than a socket keeps; the last one is always answered.
        let before = (0..128).map(|number| question(PLAIN | number, &[]));
        let shown = (0..64).map(|number| question(SHOWN | number, cookie));
        let after = (128..160).map(|number| question(PLAIN | number, &[]));
        for message in before.chain(shown).chain(after).chain([question(LAST, &own)]) {
            socket.send(&message).expect("sent");
        }
        let (mut short_before, mut short_after, mut whole) = (0, 0, 0);
        while let Some(reply) = received(&socket).filter(|reply| reply.header().id() != LAST) {
            let header = reply.header();
            match (header.id() & 0xf000, header.tc()) {
                (SHOWN, true) => return false,
                (SHOWN, false) => whole += 1,
                (_, true) if header.id() & 0xfff < 128 => short_before += 1,
                (_, true) => short_after += 1,
                _ => {}
            }
        }
        rounds += usize::from(short_before > 0 && short_after > 0 && whole > 32);
    }
    true
}

#[tokio::test]
async fn dns_cookies_of_before_a_rotation_are_taken_by_every_node_until_its_end() {
    let (mut cluster, _) = begun(3).await;
    for node in [1, 2] {
        cluster.join(node).await.expect("joined");
    }
    let pids: Vec<u32> =
        cluster.nodes.iter_mut().map(|node| node.process().expect("it runs").pid()).collect();
    let [first] = &secrets(&cluster, 0)[..] else { panic!("one secret") };
    let before: Vec<Vec<u8>> = (0..3).map(|node| given(&cluster, node, CLIENT_COOKIE)).collect();
    assert!(before.iter().all(|cookie| is_made_with(cookie, first)), "they agree");
    let old = &before[0];
    let mut forged = old.clone();
    *forged.last_mut().expect("a byte") ^= 1;

    ok(&cluster, 1, &["keyring", "rotate"]);
    for node in 0..3 {
        until(&cluster, node, "everybody has gone over", |status| {
            status.keys[0].number == 2
                && status.keys[0].used == KeyUse::Active
                && status.missing.is_empty()
                && sealed_with(status, 1) == 0
        })
        .await;
        let both = secrets(&cluster, node);
        assert!(both.len() == 2 && both[1] == *first && both == secrets(&cluster, 0), "node {node}");
        let end = Instant::now() + PATIENCE;
        while !is_made_with(&given(&cluster, node, old), &both[0]) {
            assert!(Instant::now() < end, "node {node} goes on with the former secret");
            sleep(Duration::from_millis(50)).await;
        }
    }
    let new = given(&cluster, 2, CLIENT_COOKIE);
    for node in 0..3 {
        assert!(is_taken(&cluster, node, old), "node {node} takes what node 0 has given before");
        assert!(is_taken(&cluster, node, &new), "node {node} takes what node 2 gives now");
        assert!(!is_taken(&cluster, node, &forged), "node {node} takes what nobody has given");
    }

    ok(&cluster, 0, &["keyring", "retire"]);
    for node in 0..3 {
        until(&cluster, node, "the former key is retired", |status| status.settled).await;
        let end = Instant::now() + PATIENCE;
        while is_taken(&cluster, node, old) {
            assert!(Instant::now() < end, "node {node} takes what was given before");
            sleep(Duration::from_millis(50)).await;
        }
        assert!(is_taken(&cluster, node, &new), "node {node} takes what node 2 has given");
    }
    let now: Vec<u32> = cluster.nodes.iter_mut().map(|node| node.process().expect("it runs").pid()).collect();
    assert_eq!(now, pids, "nobody was started again");
}
