//! What a real node tells Prometheus, and to whom.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

#[allow(dead_code, reason = "each test file uses its own part of it")]
mod hosts;

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use hosts::{PATIENCE, pangolind};
use pangolin_chaos::{
    cluster::{Cluster, Options, START_PATIENCE},
    dns::{self, Kind},
    ports::{self, Ports},
};
use pangolin_node as _;

const TOKEN: &str = "a-token-of-enough-characters";
const TABLE: &str = include_str!("../docs/metrics.md");

/// A cluster of one node that tells metrics.
async fn cluster() -> (Cluster, SocketAddr) {
    let addresses = ports::own_addresses(1);
    let ports = Ports::free(&addresses).expect("ports");
    let at = TcpListener::bind((addresses[0], 0)).and_then(|bound| bound.local_addr()).expect("a free port");
    let options = Options { addresses, ports, ..Options::of_a_test().expect("options") };
    let mut cluster = Cluster::prepare(options).expect("configuration files");
    let token = cluster.dir().join("metrics.token");
    std::fs::write(&token, format!("{TOKEN}\n")).expect("written");
    let config = cluster.nodes[0].config();
    let text = std::fs::read_to_string(&config).expect("read");
    let more = format!("\n[metrics]\nlisten = [\"{at}\"]\ntoken_file = \"{}\"\n", token.display());
    std::fs::write(&config, text + &more).expect("written");
    let zone = cluster.options.zone.clone();
    let made = pangolind(&cluster, 0, "init", &["--cluster", "demo", "--zone", &zone], "");
    assert!(made.success, "{made:?}");
    cluster.nodes[0].start_ready().await.expect("it runs");
    cluster.healthy(START_PATIENCE).await.expect("healthy");
    (cluster, at)
}

/// Status and body.
fn get(at: SocketAddr, path: &str, token: Option<&str>) -> (u16, String) {
    let mut stream = TcpStream::connect(at).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\n{token}Connection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    assert!(!head.to_lowercase().contains("chunked"), "{head}");
    (status, body.to_owned())
}

fn value(text: &str, line: &str) -> Option<f64> {
    text.lines().find_map(|known| known.strip_prefix(line)?.trim().parse().ok())
}

#[tokio::test]
async fn a_node_tells_prometheus_what_the_table_promises() {
    let (cluster, at) = cluster().await;
    assert_eq!(get(at, "/metrics", None).0, 401);
    assert_eq!(get(at, "/metrics", Some("another-token-of-enough-x")).0, 401);
    assert_eq!(get(at, "/", Some(TOKEN)).0, 404);
    for _ in 0..5 {
        dns::ask(cluster.nodes[0].dns(), "control.demo.test", Kind::A).await.expect("an answer");
    }
    // The edge has nothing for this name.
    let https = cluster.https_client().await.expect("a client");
    https.connect(cluster.nodes[0].https(), "nobody.example").await.expect_err("an unknown name");
    let end = Instant::now() + PATIENCE;
    let text = loop {
        let (status, text) = get(at, "/metrics", Some(TOKEN));
        assert_eq!(status, 200, "{text}");
        let answered = value(&text, "pangolin_dns_answers_total{rcode=\"NOERROR\"}").unwrap_or(0.0);
        let certified = text.contains("pangolin_certificate_remaining_seconds{");
        if answered >= 5.0 && certified {
            break text;
        }
        assert!(Instant::now() < end, "{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    for (line, wanted) in [
        ("pangolin_raft_leader ", 1.0),
        ("pangolin_raft_contact ", 1.0),
        ("pangolin_raft_voters ", 1.0),
        ("pangolin_cluster_nodes{verdict=\"up\"}", 1.0),
        ("pangolin_cluster_failure_tolerance ", 0.0),
        ("pangolin_cluster_changes_possible ", 1.0),
        ("pangolin_certificates{state=\"valid\"}", 1.0),
        ("pangolin_certificate_orders{phase=\"finalizing\"}", 0.0),
        ("pangolin_keyring_active_key ", 1.0),
        ("pangolin_edge_failed_handshakes_total ", 1.0),
    ] {
        assert_eq!(value(&text, line), Some(wanted), "{line}:\n{text}");
    }
    let left =
        text.lines().find(|line| line.starts_with("pangolin_certificate_remaining_seconds{")).expect("one");
    let left: f64 = left.rsplit(' ').next().and_then(|left| left.parse().ok()).expect("a number");
    assert!((80.0..91.0).contains(&(left / 86_400.0)), "{left}");
    // Families without values have no lines: peers, tunnels and sites are not there on a node alone.
    let told: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let promised: BTreeSet<&str> = TABLE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|cell| cell.split('`').filter(|name| name.starts_with("pangolin_")))
        .chain(["pangolin_node_info"])
        .collect();
    assert_eq!(told.difference(&promised).count(), 0, "not in docs/metrics.md: {told:?} {promised:?}");
    for name in promised.difference(&told) {
        let alone = ["pangolin_peer_", "pangolin_tunnel_", "pangolin_edge_forwarded_"];
        assert!(alone.iter().any(|prefix| name.starts_with(prefix)), "{name} is promised, but not told");
    }
    checked(&text);
}

/// By Prometheus itself.
fn checked(text: &str) {
    let checker = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut checker) = checker else {
        println!("skipped: promtool is not installed (Debian package prometheus)");
        return;
    };
    checker.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("read by promtool");
    let done = checker.wait_with_output().expect("it ends");
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(done.status.success() && said.trim().is_empty(), "{said}");
}
