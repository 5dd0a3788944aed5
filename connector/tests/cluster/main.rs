//! The connector and a cluster: real control channels, real tunnels, real targets, all on loopback.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod node;

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser as _;
use pangolin_connector::{
    ConnectorError,
    dial::Tls,
    endpoint::Door,
    options::{Arguments, Options, Secret},
};
use pangolin_core::{NodeId, TargetId, observation::TargetHealth, record::Method};
use pangolin_tunnel::{
    Backend, DEFAULT_MTU, SecretKey,
    site::{SiteBackend, SiteTunnels},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::node::{
    Agreed, ID, Node, PATIENCE, PROVISIONING_KEY, SECRET, SITE, cluster, target, write_certificate,
};

/// A connector in this process.
struct Connector {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ConnectorError>>,
    health_file: PathBuf,
    _folder: tempfile::TempDir,
}

fn door(node: &Node) -> Door {
    Door::configured(format!("https://{}", node.address).parse().unwrap(), Some("localhost"))
}

fn connect(agreed: &Agreed, at: &[&Node]) -> Connector {
    connect_with(agreed, at, |_| ())
}

fn connect_with(agreed: &Agreed, at: &[&Node], change: impl FnOnce(&mut Options)) -> Connector {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    write_certificate(agreed, &ca_file);
    let health_file = folder.path().join("healthy");
    let mut options = Options {
        id: ID.into(),
        secret: Secret::from(SECRET.to_owned()),
        doors: at.iter().map(|node| door(node)).collect(),
        tls: Tls::new(Some(&ca_file)).unwrap(),
        tunnels: 3,
        key: SecretKey::generate(),
        mtu: DEFAULT_MTU,
        backend: SiteBackend::InProcess,
        health_file: Some(health_file.clone()),
        status_file: None,
    };
    change(&mut options);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(pangolin_connector::run(options, shutdown.clone()));
    Connector { shutdown, task, health_file, _folder: folder }
}

impl Connector {
    async fn stop(self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.task).await.expect("it ends").unwrap().unwrap();
        assert!(!self.health_file.exists());
    }
}

/// A target that says everything twice, on TCP.
async fn tcp_target(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    let twice = [&buffer[..length], &buffer[..length]].concat();
                    if stream.write_all(&twice).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The same on UDP.
async fn udp_target(tasks: &mut JoinSet<()>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tasks.spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let twice = [&buffer[..length], &buffer[..length]].concat();
            let _ = socket.send_to(&twice, from).await;
        }
    });
    address
}

/// Says something through a node's tunnel and returns the answer.
async fn ask_tcp(node: &Node, port: u16) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut stream = node.layer.dial_tcp(SITE, port, PATIENCE).await.map_err(|error| text(&error))?;
    stream.write_all(b"hallo").await.map_err(|error| text(&error))?;
    stream.shutdown().await.map_err(|error| text(&error))?;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer))
        .await
        .expect("an end")
        .map_err(|error| text(&error))?;
    Ok(answer)
}

async fn ask_udp(node: &Node, port: u16) -> String {
    let flow = node.layer.dial_udp(SITE, port).await.unwrap();
    let mut buffer = vec![0; 4096];
    loop {
        flow.send(b"hallo").await.unwrap();
        if let Ok(length) = timeout(Duration::from_millis(500), flow.recv(&mut buffer)).await {
            return String::from_utf8(buffer[..length.unwrap()].to_vec()).unwrap();
        }
    }
}

async fn until<T>(mut watched: watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    timeout(PATIENCE, watched.wait_for(wanted)).await.expect("it does not come to that").unwrap();
}

/// Waits until a port of the site answers through a node, or does not any more.
async fn answers(node: &Node, port: u16, wanted: bool) {
    let start = Instant::now();
    loop {
        let answer = ask_tcp(node, port).await;
        if answer.is_ok_and(|answer| answer == "hallohallo") == wanted {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "port {port} at node {}", node.id);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The node that has the site's control socket.
async fn attached<'a>(nodes: impl Iterator<Item = &'a Node> + Clone) -> NodeId {
    let start = Instant::now();
    loop {
        if let Some(node) = nodes.clone().find(|node| node.control.attached().borrow().contains(&SITE)) {
            return node.id;
        }
        assert!(start.elapsed() < PATIENCE, "no control socket");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The kernel's TCP in a namespace that the connector's own program makes; none where that may not be.
#[expect(clippy::print_stdout, reason = "says why tests are skipped")]
fn namespace() -> Option<SiteBackend> {
    let possible = std::process::Command::new("unshare").args(["--user", "--net", "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) || !Path::new("/dev/net/tun").exists() {
        println!("skipped: no user namespace can be made here, or unshare or /dev/net/tun is missing");
        return None;
    }
    Some(SiteBackend::Tun(env!("CARGO_BIN_EXE_pangolin-connector").into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_datagrams_reach_their_targets_through_every_node() {
    carries_everything(SiteBackend::InProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_datagrams_pass_the_kernel_in_a_namespace() {
    if let Some(backend) = namespace() {
        carries_everything(backend).await;
    }
}

async fn carries_everything(backend: SiteBackend) {
    let mut tasks = JoinSet::new();
    let (agreed, nodes) = cluster(3).await;
    let (tcp, udp) = (tcp_target(&mut tasks).await, udp_target(&mut tasks).await);
    agreed.change_site(|site| site.targets = vec![target(1, Method::Tcp, tcp), target(2, Method::Udp, udp)]);
    let connector = connect_with(&agreed, &[&nodes[0]], |options| options.backend = backend);
    for node in &nodes {
        node.is_connected().await;
        assert_eq!(ask_tcp(node, 40_001).await.unwrap(), "hallohallo");
        assert_eq!(ask_udp(node, 40_002).await, "hallohallo");
    }
    assert!(connector.health_file.exists());
    connector.stop().await;
    until(nodes[0].control.attached(), |sites| sites.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_targets_are_followed_and_their_health_is_told() {
    follows_targets(SiteBackend::InProcess).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ports_are_opened_and_closed_in_a_namespace() {
    if let Some(backend) = namespace() {
        follows_targets(backend).await;
    }
}

async fn follows_targets(backend: SiteBackend) {
    let mut tasks = JoinSet::new();
    let (agreed, nodes) = cluster(1).await;
    let connector = connect_with(&agreed, &[&nodes[0]], |options| options.backend = backend);
    nodes[0].is_connected().await;
    let first = tcp_target(&mut tasks).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    agreed.change_site(|site| {
        site.targets = vec![target(1, Method::Tcp, first), target(2, Method::Tcp, nobody)]
    });
    answers(&nodes[0], 40_001, true).await;
    let health = nodes[0].control.target_health();
    until(health.clone(), |health| health.get(&TargetId(1)) == Some(&TargetHealth::Healthy)).await;
    until(health.clone(), |health| health.get(&TargetId(2)) == Some(&TargetHealth::Unhealthy)).await;

    assert!(ask_tcp(&nodes[0], 40_002).await.is_err(), "a target that is not there resets");

    let second = tcp_target(&mut tasks).await;
    agreed.change_site(|site| {
        site.targets.remove(0);
        site.targets[0].port = second.port();
    });
    answers(&nodes[0], 40_002, true).await;
    answers(&nodes[0], 40_001, false).await;
    until(health, |health| *health == [(TargetId(2), TargetHealth::Healthy)].into()).await;
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_pass_a_namespace_unharmed_and_in_order() {
    let Some(backend) = namespace() else { return };
    let (agreed, nodes) = cluster(1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let pattern: Arc<Vec<u8>> =
        Arc::new((0..8_u32 << 20).map(|at| (at ^ (at >> 9)).to_le_bytes()[0]).collect());
    let expected = Arc::clone(&pattern);
    // The first connections are those of the health check, which say nothing.
    let target_task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            if stream.read_to_end(&mut heard).await.is_ok() && !heard.is_empty() {
                assert!(heard == *expected, "{} bytes came, or others", heard.len());
                stream.write_all(&heard).await.unwrap();
                return;
            }
        }
    });
    agreed.change_site(|site| site.targets = vec![target(1, Method::Tcp, at)]);
    let connector = connect_with(&agreed, &[&nodes[0]], |options| options.backend = backend);
    nodes[0].is_connected().await;
    let stream = loop {
        // The port opens a moment after the tunnel.
        match nodes[0].layer.dial_tcp(SITE, 40_001, PATIENCE).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent = Arc::clone(&pattern);
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    timeout(PATIENCE * 3, reader.read_to_end(&mut back)).await.expect("an end").unwrap();
    assert!(back == *pattern, "{} bytes came back, or others", back.len());
    writing.await.unwrap();
    target_task.await.unwrap();
    connector.stop().await;
}

#[tokio::test]
async fn a_namespace_that_may_not_be_made_is_said_so_or_done_without() {
    let open = async |backend| {
        let address = "100.89.1.9".parse().unwrap();
        SiteTunnels::open(SecretKey::generate(), address, DEFAULT_MTU, &backend).await
    };
    // A program that ends at once and makes none.
    let program = PathBuf::from("/bin/false");
    let refused = open(SiteBackend::Tun(program.clone())).await.err().expect("no namespace").to_string();
    assert!(refused.contains("use the backend in-process"), "{refused}");
    let (tunnels, _task) = open(SiteBackend::Auto(program)).await.unwrap();
    assert_eq!(tunnels.backend(), Backend::InProcess);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_node_costs_neither_tunnels_nor_control() {
    let mut tasks = JoinSet::new();
    let (agreed, mut nodes) = cluster(3).await;
    let tcp = tcp_target(&mut tasks).await;
    agreed.change_site(|site| site.targets = vec![target(1, Method::Tcp, tcp)]);
    // The others' control channels are learned: only the first is configured.
    let connector = connect(&agreed, &[&nodes[0]]);
    for node in &nodes {
        node.is_connected().await;
    }
    assert_eq!(attached(nodes.iter()).await, NodeId(1));
    let mut open = nodes[1].layer.dial_tcp(SITE, 40_001, PATIENCE).await.unwrap();

    let dead = nodes.remove(0).kill().await;
    open.write_all(b"still").await.unwrap();
    let mut answer = [0; 10];
    timeout(PATIENCE, open.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"stillstill", "what flows through another node goes on");
    assert_eq!(ask_tcp(&nodes[0], 40_001).await.unwrap(), "hallohallo");
    let taken_over = attached(nodes.iter()).await;
    let control = &nodes.iter().find(|node| node.id == taken_over).unwrap().control;
    until(control.target_health(), |health| health.get(&TargetId(1)) == Some(&TargetHealth::Healthy)).await;

    let back = dead.start().await;
    back.is_connected().await;
    answers(&back, 40_001, true).await;
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_outlive_the_whole_control_channel() {
    let mut tasks = JoinSet::new();
    let (agreed, nodes) = cluster(2).await;
    let tcp = tcp_target(&mut tasks).await;
    agreed.change_site(|site| site.targets = vec![target(1, Method::Tcp, tcp)]);
    let connector = connect(&agreed, &[&nodes[0], &nodes[1]]);
    for node in &nodes {
        node.is_connected().await;
    }
    // Draining nodes refuse sockets; there is nowhere to go.
    tokio::join!(nodes[0].control.close(), nodes[1].control.close());
    for node in &nodes {
        until(node.control.attached(), |sites| sites.is_empty()).await;
        assert_eq!(ask_tcp(node, 40_001).await.unwrap(), "hallohallo");
    }
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_the_offer_loses_its_tunnel_and_one_that_joins_gets_one() {
    let (agreed, nodes) = cluster(3).await;
    agreed.change_site(|site| site.offers = vec![NodeId(1), NodeId(2)]);
    let connector = connect(&agreed, &[&nodes[0]]);
    nodes[1].is_connected().await;
    assert!(!nodes[2].layer.seen().borrow().get(&SITE).is_some_and(|seen| seen.alive));
    agreed.change_site(|site| site.offers = vec![NodeId(3), NodeId(1)]);
    nodes[2].is_connected().await;
    until(nodes[1].layer.seen(), |seen| !seen[&SITE].alive).await;
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_is_removed_gets_its_tunnels_taken_down() {
    let (agreed, nodes) = cluster(1).await;
    let connector = connect(&agreed, &[&nodes[0]]);
    nodes[0].is_connected().await;
    agreed.change(|plan| drop(plan.sites.remove(&SITE)));
    let start = Instant::now();
    while connector.health_file.exists() {
        assert!(start.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_are_told_how_far_they_are() {
    let (agreed, nodes) = cluster(3).await;
    agreed.change_site(|site| site.offers = vec![NodeId(3), NodeId(1)]);
    let connector = connect(&agreed, &[&nodes[1]]);
    let knows = |node: &Node, wanted: &[u64]| {
        let attachments = node.control.attachments();
        let wanted: Vec<NodeId> = wanted.iter().copied().map(NodeId).collect();
        until(attachments, move |known| {
            known
                .get(&SITE)
                .is_some_and(|known| known.distances.keys().copied().collect::<Vec<_>>() == wanted)
        })
    };
    knows(&nodes[1], &[1, 3]).await;
    nodes[1].control.close().await;
    assert!(nodes[1].control.attachments().borrow().is_empty());
    let other = attached(nodes.iter()).await;
    let other = nodes.iter().find(|node| node.id == other).unwrap();
    // With its registration there: nothing has changed since.
    knows(other, &[1, 3]).await;
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_lets_no_udp_out_is_passed_over_tls() {
    let mut tasks = JoinSet::new();
    let (agreed, nodes) = cluster(2).await;
    let tcp = tcp_target(&mut tasks).await;
    agreed.change_site(|site| site.targets = vec![target(1, Method::Tcp, tcp)]);
    // Takes datagrams and never answers, as behind a firewall.
    let hole = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = hole.local_addr().unwrap().to_string();
    agreed.change(|plan| plan.nodes.get_mut(&NodeId(1)).unwrap().endpoint.clone_from(&endpoint));
    let folder = tempfile::tempdir().unwrap();
    let status_file = folder.path().join("status.json");
    let connector = connect_with(&agreed, &[&nodes[1]], |options| {
        options.status_file = Some(status_file.clone());
    });
    nodes[1].is_connected().await;
    nodes[0].is_connected().await;
    answers(&nodes[0], 40_001, true).await;
    let start = Instant::now();
    let told = loop {
        let told = pangolin_connector::status::read(&status_file).unwrap();
        if told.tunnels.iter().all(|tunnel| tunnel.alive) {
            break told;
        }
        assert!(start.elapsed() < PATIENCE, "{told:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let over_tls: Vec<(&str, bool)> =
        told.tunnels.iter().map(|tunnel| (tunnel.node.as_str(), tunnel.over_tls)).collect();
    assert_eq!(over_tls, [("n1", true), ("n2", false)]);
    assert!(told.control.door.is_some(), "{told:?}");
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_tunnel_passes_over_tls_as_well_and_at_the_next_node_too() {
    let mut tasks = JoinSet::new();
    let (agreed, nodes) = cluster(2).await;
    let tcp = tcp_target(&mut tasks).await;
    agreed.change_site(|site| site.targets = vec![target(1, Method::Tcp, tcp)]);
    let hole = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = hole.local_addr().unwrap().to_string();
    agreed.change(|plan| {
        plan.nodes.values_mut().for_each(|node| node.endpoint.clone_from(&endpoint));
    });
    let connector = connect_with(&agreed, &[&nodes[1]], |options| options.tunnels = 1);
    nodes[0].is_connected().await;
    answers(&nodes[0], 40_001, true).await;
    assert!(!nodes[1].layer.seen().borrow().get(&SITE).is_some_and(|seen| seen.alive), "it keeps one tunnel");
    assert!(nodes[1].control.move_to(SITE, NodeId(2)));
    nodes[1].is_connected().await;
    answers(&nodes[1], 40_001, true).await;
    connector.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_runs_without_privileges_and_ends_cleanly() {
    let (agreed, nodes) = cluster(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_certificate(&agreed, &path("ca.pem"));
    std::fs::write(path("secret"), SECRET).unwrap();
    std::fs::set_permissions(path("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_pangolin-connector"))
        .args(["--id", ID, "--endpoint", &format!("https://localhost:{}", nodes[0].address.port())])
        .arg("--secret-file")
        .arg(path("secret"))
        .arg("--ca-file")
        .arg(path("ca.pem"))
        .arg("--key-file")
        .arg(path("key"))
        .arg("--status-file")
        .arg(path("status.json"))
        .env_remove("PANGOLIN_ENDPOINT")
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    nodes[0].is_connected().await;
    let asked = |verb: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pangolin-connector"));
        command.args(["--id", ID, "--endpoint", &format!("https://localhost:{}", nodes[0].address.port())]);
        command.arg("--secret-file").arg(path("secret")).arg("--ca-file").arg(path("ca.pem"));
        command.arg("--status-file").arg(path("status.json")).arg(verb).env_remove("PANGOLIN_ENDPOINT");
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let start = Instant::now();
    loop {
        let doctor = asked("doctor").await.unwrap();
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        if doctor.status.success() {
            assert!(said.contains("signs in") && said.contains("is alive"), "{said}");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{said}");
    }
    let status = String::from_utf8_lossy(&asked("status").await.unwrap().stdout).into_owned();
    assert!(status.contains("tunnel: n1 at ") && status.contains(" over UDP: alive for "), "{status}");
    assert_eq!(std::fs::metadata(path("key")).unwrap().permissions().mode() & 0o777, 0o600);
    let pid = program.id().unwrap().to_string();
    tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    let status = timeout(PATIENCE, program.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    assert!(nodes[0].control.attached().borrow().is_empty(), "it has said farewell");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_name_is_not_trusted() {
    let (agreed, nodes) = cluster(1).await;
    let folder = tempfile::tempdir().unwrap();
    write_certificate(&agreed, &folder.path().join("ca.pem"));
    let tls = Tls::new(Some(&folder.path().join("ca.pem"))).unwrap();
    let stream = || tokio::net::TcpStream::connect(nodes[0].address);
    assert!(tls.verified(stream().await.unwrap(), "localhost").await.is_ok());
    assert!(
        tls.verified(stream().await.unwrap(), "127.0.0.1").await.is_err(),
        "learned addresses keep the name"
    );
    assert!(tls.unverified(stream().await.unwrap(), "127.0.0.1").await.is_ok());
}

#[tokio::test]
async fn a_connector_with_a_provisioning_key_gets_credentials_and_keeps_them() {
    let (agreed, nodes) = cluster(1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    write_certificate(&agreed, &folder.path().join("ca.pem"));
    let arguments = |key: &str| {
        Arguments::try_parse_from([
            "pangolin-connector",
            "--provisioning-key",
            key,
            "--credentials-file",
            &path("credentials"),
            "--endpoint",
            &format!("https://{}", nodes[0].address),
            "--server-name",
            "localhost",
            "--ca-file",
            &path("ca.pem"),
        ])
        .unwrap()
    };
    let wrong = arguments("spk000000000000.guessed").provisioning().unwrap().unwrap();
    let error = timeout(PATIENCE, wrong.run()).await.expect("an answer").unwrap_err().to_string();
    assert!(error.contains("not valid"), "{error}");
    let right = arguments(PROVISIONING_KEY).provisioning().unwrap().unwrap();
    timeout(PATIENCE, right.run()).await.expect("an answer").unwrap();
    assert_eq!(std::fs::metadata(path("credentials")).unwrap().permissions().mode() & 0o777, 0o600);
    let options = arguments(PROVISIONING_KEY).resolve().unwrap();
    assert_eq!((options.id.as_str(), options.secret.expose()), (ID, SECRET));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
}
