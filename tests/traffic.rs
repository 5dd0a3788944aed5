//! Ports and targets as users meet them: three node processes, connectors, and backends of the test's own.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use pangolin_chaos::{
    cluster::{Cluster, Node, Options, START_PATIENCE},
    site::{ORG, Site},
};
use pangolin_core::{SiteId, record::Method, traffic::ProxyProtocol};
use pangolin_node as _;
use pangolin_wire::{
    self as wire, Client, ClientError, CreateTarget, CreatedProvisioningKey, CreatedSite, HealthCheck,
    OpenPort, Port, PortList, Resource, SetShare, SiteList, Standing, Target, TargetList, TargetState,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    time::{sleep, timeout},
};

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// One cluster at a time: see `three_nodes.rs`.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits until `condition` gives something.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A backend that gives back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    at
}

async fn udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let at = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    });
    at
}

/// A backend that speaks TLS with a certificate of its own, and ends after one exchange.
async fn tls_backend(host: &str) -> (SocketAddr, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut word = [0; 5];
                if stream.read_exact(&mut word).await.is_ok() {
                    let _ = stream.write_all(b"from behind").await;
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    (at, certificate.to_vec())
}

async fn resource(client: &Client, host: &str) -> Resource {
    let request = json!({ "fullDomain": host });
    client.put(&format!("/org/{ORG}/resource"), &request).await.expect("a resource")
}

async fn target(
    client: &Client,
    resource: &Resource,
    site_id: SiteId,
    at: SocketAddr,
    method: Method,
) -> Target {
    let request = CreateTarget {
        site_id,
        ip: at.ip().to_string(),
        port: at.port(),
        method: Some(method),
        health_check: None,
    };
    client.put(&format!("/resource/{}/target", resource.resource_id), &request).await.expect("a target")
}

async fn open(client: &Client, resource: &Resource, port: &str, more: Value) -> Result<Port, ClientError> {
    let mut request = json!({ "port": port });
    request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let request: OpenPort = serde_json::from_value(request).expect("a request");
    client.put(&format!("/resource/{}/port", resource.resource_id), &request).await
}

/// Says a word and reads until it comes back; none if it does not.
async fn echoed(at: SocketAddr) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(at).await.ok()?;
        stream.write_all(b"hello\n").await.ok()?;
        let mut read = Vec::new();
        while !read.ends_with(b"hello\n") {
            if stream.read_buf(&mut read).await.ok()? == 0 {
                return None;
            }
        }
        Some(String::from_utf8_lossy(&read).into_owned())
    };
    timeout(Duration::from_secs(5), exchange).await.ok().flatten()
}

async fn udp_echoed(at: SocketAddr) -> Option<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.ok()?;
    socket.send_to(b"hello", at).await.ok()?;
    let mut buffer = [0; 100];
    let (length, from) = timeout(Duration::from_secs(2), socket.recv_from(&mut buffer)).await.ok()?.ok()?;
    (&buffer[..length] == b"hello" && from == at).then_some(())
}

/// The header that comes back with a datagram, if one does.
async fn udp_told(at: SocketAddr) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.ok()?;
    socket.send_to(b"hello", at).await.ok()?;
    let mut buffer = [0; 100];
    let (length, _) = timeout(Duration::from_secs(2), socket.recv_from(&mut buffer)).await.ok()?.ok()?;
    let header = buffer[..length].strip_suffix(b"hello")?;
    (header.len() == 28).then(|| header.to_vec())
}

async fn with_site(name: &str, tunnels: Option<usize>) -> (Cluster, Site) {
    let options = Options::of_a_test().expect("addresses and ports");
    let cluster = Cluster::start(options).await.expect("a cluster of three nodes");
    Site::found(&cluster).await.expect("an organisation and a domain");
    let mut site = Site::publish(&cluster, name, name, tunnels).await.expect("a site");
    site.settled(&cluster, START_PATIENCE).await.expect("tunnels");
    (cluster, site)
}

#[tokio::test]
async fn ports_lead_to_backends_from_every_node_and_say_what_is_in_the_way() {
    let _turn = TURN.lock().await;
    let (cluster, site) = with_site("lab", Some(1)).await;
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    let zone = &cluster.options.zone;
    // The cluster's own ports are five in a row; nobody takes the five behind them.
    let number = cluster.options.ports.tunnel + 1;
    let game = resource(&client, &format!("game.{zone}")).await;

    // TCP, from every node, with the client's address.
    target(&client, &game, site.id, echo().await, Method::Tcp).await;
    let told = json!({ "proxyProtocol": "v1" });
    open(&client, &game, &format!("{number}/tcp"), told).await.expect("opened");
    for node in &cluster.nodes {
        let at = SocketAddr::new(node.address, number);
        let text = until("the port leads to the backend", || echoed(at)).await;
        let told = text.starts_with("PROXY TCP4 127.") && text.contains(&format!(" {} ", node.address));
        assert!(told && text.ends_with(&format!(" {number}\r\nhello\n")), "{text:?}");
    }

    // UDP, from every node: one has the tunnel, the others relay.
    target(&client, &game, site.id, udp_echo().await, Method::Udp).await;
    open(&client, &game, &format!("{number}/udp"), json!({})).await.expect("opened");
    for node in &cluster.nodes {
        let at = SocketAddr::new(node.address, number);
        until("datagrams come back", || udp_echoed(at)).await;
    }
    // … with the client's address, if it is wanted: in front of what comes back, for the backend gives back all of it.
    let told = json!({ "proxyProtocol": "v2" });
    let shown = open(&client, &game, &format!("{number}/udp"), told).await.expect("changed");
    assert_eq!(shown.proxy_protocol, Some(ProxyProtocol::V2));
    for node in &cluster.nodes {
        let at = SocketAddr::new(node.address, number);
        let header = until("datagrams come back with a header", || udp_told(at)).await;
        assert_eq!(header[12..16], [0x21, 0x12, 0, 12], "version 2, of a datagram over IPv4");
        let IpAddr::V4(address) = node.address else { panic!("{} is not IPv4", node.address) };
        assert_eq!(header[20..24], address.octets());
        assert_eq!(header[26..28], number.to_be_bytes());
    }

    // What cannot be is refused with the reason.
    let other = resource(&client, &format!("other.{zone}")).await;
    let ports = cluster.options.ports;
    for (port, reason) in [
        (format!("{number}/tcp"), format!("taken by resource {}", game.resource_id)),
        (format!("{}/tcp", ports.https), "uses it for HTTPS".to_owned()),
        (format!("{}/tcp", ports.peers), "uses it for the other nodes".to_owned()),
        (format!("{}/udp", ports.tunnel), "uses it for its tunnels".to_owned()),
        ("53/udp".to_owned(), "for DNS".to_owned()),
        ("0/tcp".to_owned(), "between 1 and 65535".to_owned()),
        ("ssh".to_owned(), "is no port".to_owned()),
    ] {
        match open(&client, &other, &port, json!({})).await {
            Err(ClientError::Refused(failure)) => {
                assert!(failure.message.contains(&reason), "{port}: {:?} is not {reason:?}", failure.message);
            }
            other => panic!("{port}: {other:?}"),
        }
    }

    // A port that something else has on one node: told in the status, and opened once it is free.
    let blocked = number + 1;
    let holder = std::net::TcpListener::bind((cluster.nodes[1].address, blocked)).expect("bound");
    open(&client, &game, &format!("{blocked}/tcp"), json!({})).await.expect("opened");
    let name = cluster.nodes[1].name.clone();
    let remark = until("the status tells of it", || async {
        let status = cluster.status().await.ok()?;
        status.remarks.into_iter().find(|remark| remark.contains(&format!("{blocked}/tcp")))
    })
    .await;
    assert!(remark.starts_with(&name) && remark.contains("in use"), "{remark}");
    until("the others have opened it", || echoed(SocketAddr::new(cluster.nodes[0].address, blocked))).await;
    drop(holder);
    until("it is opened", || echoed(SocketAddr::new(cluster.nodes[1].address, blocked))).await;

    // Closed: nobody listens any more, and the other port goes on.
    let list: PortList = client.get(&format!("/org/{ORG}/ports")).await.expect("listed");
    assert_eq!(list.ports.len(), 3);
    let close = json!({ "port": format!("{number}/tcp") });
    let _: Value =
        client.post(&format!("/resource/{}/port/close", game.resource_id), &close).await.expect("closed");
    let at = SocketAddr::new(cluster.nodes[2].address, number);
    until("it is closed", || async { TcpStream::connect(at).await.is_err().then_some(()) }).await;
    until("the other port goes on", || echoed(SocketAddr::new(cluster.nodes[2].address, blocked))).await;

    passes_tls_on(&cluster, &site, &client).await;
    needs_no_connector(&cluster, &client, number + 2).await;
    asks_where_connectors_say_nothing(&cluster, &site, &client).await;
    makes_its_own_site(&cluster, &client).await;
}

/// A web server that says who it is, and whose health can be chosen.
struct Web {
    at: SocketAddr,
    /// The status of its answer to `/health`.
    health: Arc<AtomicU16>,
    /// Connectors that ask for that wait until this is true, and then hear 200.
    connectors: watch::Sender<bool>,
}

impl Web {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let web = Self { at, health: Arc::new(AtomicU16::new(200)), connectors: watch::Sender::new(false) };
        let (health, connectors) = (Arc::clone(&web.health), web.connectors.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (health, mut answered) = (Arc::clone(&health), connectors.subscribe());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                            return;
                        }
                    }
                    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                    let mut status = 200;
                    if head.starts_with("get /health ") {
                        if head.contains("user-agent: pangolin-connector/") {
                            let _ = answered.wait_for(|answered| *answered).await;
                        } else {
                            status = health.load(Ordering::Relaxed);
                        }
                    }
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nX-Backend: {name}\r\nConnection: close\r\n\
                         Content-Length: 0\r\n\r\n"
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        web
    }

    fn turns(&self, status: u16) {
        self.health.store(status, Ordering::Relaxed);
    }
}

/// Has a target be checked by its path `/health` every second.
async fn check(client: &Client, target: &Target, timeout: u32) {
    let path = Some("/health".to_owned());
    let check = HealthCheck { path, interval: 1, timeout, unhealthy_threshold: 2 };
    let checked = json!({ "healthCheck": check });
    let _: Target = client.post(&format!("/target/{}", target.target_id), &checked).await.expect("checked");
}

/// How a target stands, as a node says.
async fn state(node: &Node, target: &Target) -> Option<TargetState> {
    let path = format!("/resource/{}/targets", target.resource_id);
    let list: TargetList = node.client().with_deadline(PATIENCE).get(&path).await.ok()?;
    list.targets.into_iter().find(|other| other.target_id == target.target_id)?.state
}

/// Waits until a node says that a target stands like this, and gives its reason.
async fn stands(what: &str, node: &Node, target: &Target, standing: Standing) -> String {
    let asked = || async { state(node, target).await.filter(|state| state.standing == standing) };
    until(what, asked).await.reason
}

/// A connector that says nothing of a target is not waited for: one node asks through the tunnel. Its word counts once
/// it has one.
async fn asks_where_connectors_say_nothing(cluster: &Cluster, site: &Site, client: &Client) {
    let web = Web::start("quiet").await;
    let quiet = resource(client, &format!("quiet.{}", cluster.options.zone)).await;
    let target = target(client, &quiet, site.id, web.at, Method::Http).await;
    // The connector waits for an answer for an hour.
    check(client, &target, 3600).await;
    let mut waited = 0;
    // A node waits for a connector's word before it asks itself.
    while state(&cluster.nodes[0], &target).await.is_none_or(|state| state.standing != Standing::Healthy) {
        assert!(waited < 90, "nobody has checked the target");
        waited += 1;
        sleep(Duration::from_secs(1)).await;
    }
    web.turns(503);
    let mut own = 0;
    for node in &cluster.nodes {
        let reason = stands("every node hears of it", node, &target, Standing::Unhealthy).await;
        own += usize::from(reason.contains("this node's health checks fail: answered 503"));
    }
    assert_eq!(own, 1, "one node checks");
    web.connectors.send_replace(true);
    for node in &cluster.nodes {
        let reason = stands("the connector's word counts", node, &target, Standing::Healthy).await;
        assert_eq!(reason, "its health checks pass");
    }
}

#[tokio::test]
async fn targets_of_a_local_site_are_checked_by_the_node_that_reaches_them() {
    let _turn = TURN.lock().await;
    let options = Options::of_a_test().expect("addresses and ports");
    let cluster = Cluster::start(options).await.expect("a cluster of three nodes");
    Site::found(&cluster).await.expect("an organisation and a domain");
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    let site: CreatedSite =
        client.put(&format!("/org/{ORG}/site"), &json!({ "name": "Rack" })).await.expect("a site");
    let site = site.site.site_id;
    let status = cluster.status().await.expect("a status");
    let near = status.nodes.iter().find(|node| node.name.as_str() == cluster.nodes[1].name).expect("known");
    let local = json!({ "nodes": [near.id] });
    let _: wire::Site = client.post(&format!("/site/{site}/local"), &local).await.expect("local");

    let shop = resource(&client, &format!("shop.{}", cluster.options.zone)).await;
    let servers = [Web::start("one").await, Web::start("two").await];
    let mut targets = Vec::new();
    for web in &servers {
        let target = target(&client, &shop, site, web.at, Method::Http).await;
        check(&client, &target, 5).await;
        targets.push(target);
    }

    let https = cluster.https_client().await.expect("the authority");
    let host = shop.full_domain.as_str();
    // Who serves visitors of a node; none if one of them gets no answer.
    let serve = async |node: usize| {
        let mut names = Vec::new();
        for _ in 0..6 {
            let page =
                https.get(cluster.nodes[node].https(), host, "/", Duration::from_secs(5)).await.ok()?;
            names.push(page.header("x-backend")?.to_owned());
        }
        names.sort();
        names.dedup();
        Some(names)
    };
    let serving = async |what: &str, expected: &[&str]| {
        for node in 0..cluster.nodes.len() {
            until(what, || async { serve(node).await.filter(|names| names == expected) }).await;
        }
    };
    let [first, second] = [&targets[0], &targets[1]];
    let nodes = &cluster.nodes;

    stands("it is checked, and every node knows", &nodes[2], first, Standing::Healthy).await;
    stands("so is the other one", &nodes[2], second, Standing::Healthy).await;
    serving("both serve", &["one", "two"]).await;

    servers[0].turns(500);
    let reason = stands("the node that checks says why", &nodes[1], first, Standing::Unhealthy).await;
    assert!(reason.contains("this node's health checks fail: answered 500"), "{reason}");
    let reason = stands("the others have heard of it", &nodes[0], first, Standing::Unhealthy).await;
    assert_eq!(reason, "its health checks fail");
    serving("the sick one gets nobody", &["two"]).await;

    servers[1].turns(500);
    for node in nodes {
        stands("now both are sick", node, second, Standing::Unhealthy).await;
    }
    serving("visitors get through all the same, to both", &["one", "two"]).await;

    servers[0].turns(200);
    serving("the one that is well again serves alone", &["one"]).await;
    servers[1].turns(204);
    serving("and then both do", &["one", "two"]).await;
}

/// A site that one node reaches by itself is served by all of them.
async fn needs_no_connector(cluster: &Cluster, client: &Client, number: u16) {
    let site: CreatedSite =
        client.put(&format!("/org/{ORG}/site"), &json!({ "name": "Rack" })).await.expect("a site");
    let site = site.site.site_id;
    let status = cluster.status().await.expect("a status");
    let near =
        status.nodes.iter().find(|node| node.name.as_str() == cluster.nodes[1].name).expect("known").id;
    let local = json!({ "nodes": [near] });
    let shown: wire::Site = client.post(&format!("/site/{site}/local"), &local).await.expect("local");
    assert_eq!(shown.local, Some(vec![near]));
    let rack = resource(client, &format!("rack.{}", cluster.options.zone)).await;
    target(client, &rack, site, echo().await, Method::Tcp).await;
    target(client, &rack, site, udp_echo().await, Method::Udp).await;
    open(client, &rack, &format!("{number}/tcp"), json!({})).await.expect("opened");
    open(client, &rack, &format!("{number}/udp"), json!({})).await.expect("opened");
    for node in &cluster.nodes {
        let at = SocketAddr::new(node.address, number);
        until("the node, or one that it asks, reaches the backend", || echoed(at)).await;
        until("datagrams come back", || udp_echoed(at)).await;
    }
}

/// A connector with a provisioning key gets a site and credentials, from any node; once, unless the answer was lost.
async fn makes_its_own_site(cluster: &Cluster, client: &Client) {
    let path = format!("/org/{ORG}/provisioning-key");
    let made: CreatedProvisioningKey = client.put(&path, &json!({ "name": "Branch" })).await.expect("a key");
    let key = made.key.expect("shown once");
    let site: CreatedSite =
        client.put(&format!("/org/{ORG}/site"), &json!({ "name": "Asks where" })).await.expect("a site");
    let host = site.endpoint.trim_start_matches("https://").split(':').next().expect("a host").to_owned();
    let https = cluster.https_client().await.expect("the authority");
    let ask = async |node: usize, path: &str, body: Value| {
        let body = body.to_string();
        let request = format!(
            "POST /api/v1/auth/newt/{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = https.connect(cluster.nodes[node].https(), &host).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("asked");
        let mut answer = Vec::new();
        // Who closes without a farewell has said all the same what there was to say.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let status: u16 = head.split(' ').nth(1).expect("a status").parse().expect("a status");
        (status, serde_json::from_str::<Value>(body).expect("JSON"))
    };
    let wrong = format!("{}x", &key[..key.len() - 1]);
    assert_eq!(ask(0, "register", json!({ "provisioningKey": wrong })).await.0, 401);
    let (status, first) = ask(1, "register", json!({ "provisioningKey": key, "name": "Branch 1" })).await;
    assert_eq!((status, &first["success"]), (201, &json!(true)), "{first}");
    let credentials =
        |answer: &Value| json!({ "newtId": answer["data"]["newtId"], "secret": answer["data"]["secret"] });
    // Every node knows it soon.
    for node in 0..3 {
        until("the credentials are good", || async {
            (ask(node, "get-token", credentials(&first)).await.0 == 200).then_some(())
        })
        .await;
    }
    let (status, again) = ask(2, "register", json!({ "provisioningKey": key })).await;
    assert_eq!(
        (status, &again["data"]["newtId"]),
        (201, &first["data"]["newtId"]),
        "no connector has registered"
    );
    until("the first secret is worthless", || async {
        (ask(0, "get-token", credentials(&first)).await.0 == 400).then_some(())
    })
    .await;
    let sites: SiteList = client.get(&format!("/org/{ORG}/sites")).await.expect("the sites");
    assert_eq!(sites.sites.iter().filter(|site| site.name == "Branch 1").count(), 1);
}

/// TLS for a name goes to the backend as it is, from every node, beside names that end at the edge.
async fn passes_tls_on(cluster: &Cluster, site: &Site, client: &Client) {
    let host = format!("vault.{}", cluster.options.zone);
    let (at, certificate) = tls_backend(&host).await;
    let vault = resource(client, &host).await;
    target(client, &vault, site.id, at, Method::Tcp).await;
    open(client, &vault, "tls", json!({})).await.expect("opened");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone().into()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for node in &cluster.nodes {
        let (name, connector) = (host.clone(), &connector);
        let answer = until("the backend's own TLS answers", || async {
            let name = rustls::pki_types::ServerName::try_from(name.clone()).ok()?;
            let stream = TcpStream::connect(node.https()).await.ok()?;
            let exchange = async {
                let mut stream = connector.connect(name, stream).await.ok()?;
                stream.write_all(b"hello").await.ok()?;
                let mut text = String::new();
                stream.read_to_string(&mut text).await.ok()?;
                Some(text)
            };
            timeout(Duration::from_secs(5), exchange).await.ok()?
        })
        .await;
        assert_eq!(answer, "from behind");
    }
    let https = cluster.https_client().await.expect("the authority");
    for position in 0..cluster.nodes.len() {
        site.served_by(cluster, &https, position).await.expect("other names are served as ever");
    }
}

#[tokio::test]
async fn a_resource_at_two_sites_goes_on_when_one_is_lost_and_tells_how_its_targets_stand() {
    let _turn = TURN.lock().await;
    let (cluster, one) = with_site("one", None).await;
    let mut two = Site::publish(&cluster, "two", "two", None).await.expect("a site");
    two.settled(&cluster, START_PATIENCE).await.expect("tunnels");
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    let both = resource(&client, &format!("both.{}", cluster.options.zone)).await;
    let backends = [backend_of(&client, &one).await, backend_of(&client, &two).await];
    let first = target(&client, &both, one.id, backends[0], Method::Http).await;
    let second = target(&client, &both, two.id, backends[1], Method::Http).await;

    let https = cluster.https_client().await.expect("the authority");
    let (at, host) = (cluster.nodes[0].https(), both.full_domain.as_str());
    let answers = |count: usize| {
        let https = &https;
        async move {
            let mut names = Vec::new();
            for _ in 0..count {
                let page = https.get(at, host, "/", Duration::from_secs(5)).await.ok()?;
                names.push(page.header("x-backend")?.to_owned());
            }
            names.sort();
            names.dedup();
            Some(names)
        }
    };
    until("both sites serve", || async { answers(8).await.filter(|names| names.len() == 2) }).await;

    // The second becomes the backup: nothing goes there while the first can, though only the second is known to be healthy.
    let checked =
        json!({ "healthCheck": HealthCheck { interval: 1, ..HealthCheck::of(Some("/".to_owned())) } });
    let _: Target = client.post(&format!("/target/{}", second.target_id), &checked).await.expect("checked");
    let share = SetShare { weight: None, priority: Some(1) };
    let _: Target = client.post(&format!("/target/{}/share", second.target_id), &share).await.expect("set");
    until("the first one serves alone", || async { answers(8).await.filter(|names| names == &["one"]) })
        .await;
    let state = |id| {
        let (client, path) = (&client, format!("/resource/{}/targets", both.resource_id));
        async move {
            let list: TargetList = client.get(&path).await.ok()?;
            list.targets.into_iter().find(|target| target.target_id == id)?.state
        }
    };
    until("the checked one is healthy", || async {
        state(second.target_id).await.filter(|state| state.standing == Standing::Healthy)
    })
    .await;
    assert_eq!(state(first.target_id).await.expect("a state").standing, Standing::Unknown);

    // Its connector is gone: the backup serves, and the list says why.
    let mut one = one;
    one.kill_connector();
    until("the backup serves", || async { answers(4).await.filter(|names| names == &["two"]) }).await;
    let lost = until("the state tells of it", || async {
        state(first.target_id).await.filter(|state| state.standing == Standing::Unreachable)
    })
    .await;
    assert!(lost.reason.contains("no node has a live tunnel to site one"), "{}", lost.reason);
    one.start_connector().expect("started");
    until("the first one serves again", || async { answers(4).await.filter(|names| names == &["one"]) })
        .await;
}

/// Where the backend of a site listens, as its own target says.
async fn backend_of(client: &Client, site: &Site) -> SocketAddr {
    let list: Value = client.get(&format!("/org/{ORG}/resources")).await.expect("listed");
    let resources: Vec<Resource> = serde_json::from_value(list["resources"].clone()).expect("resources");
    let own = resources.iter().find(|resource| resource.full_domain.as_str() == site.host).expect("its own");
    let list: TargetList =
        client.get(&format!("/resource/{}/targets", own.resource_id)).await.expect("listed");
    let ip: IpAddr = list.targets[0].ip.parse().expect("an address");
    SocketAddr::new(ip, list.targets[0].port)
}
