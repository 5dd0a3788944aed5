//! What is wrong is refused with a clear word: what, where, what to do. Nothing panics, nothing is lost.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use http::Method;
use pangolin_chaos::{
    cluster::{COMMAND_PATIENCE, Cluster, Node, Options, START_PATIENCE},
    dns::{self, Kind},
    process::{Output, run},
};
use pangolin_node as _;
use pangolin_wire::{ClientError, ClusterStatus, Code, CreateToken, CreatedToken};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket, UnixStream},
    time::{sleep, timeout},
};
use uuid::Uuid;

fn prepared() -> Cluster {
    Cluster::prepare(Options::of_a_test().expect("addresses and ports")).expect("configuration files")
}

/// Runs a verb of `pangolind` with the node's configuration.
fn pangolind(cluster: &Cluster, node: usize, verb: &str, more: &[&str], input: &str) -> Output {
    let mut command = cluster.nodes[node].command(verb);
    command.args(more);
    run(command, input, COMMAND_PATIENCE).expect("it runs and ends")
}

/// The program refused, named every word, and did not panic.
fn refused(output: &Output, words: &[&str]) {
    assert!(!output.success, "it was taken: {output:?}");
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    let text = output.stderr.to_lowercase();
    for word in words {
        assert!(text.contains(&word.to_lowercase()), "{word:?} is not in: {}", output.stderr);
    }
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(path).expect("read");
    std::fs::write(path, change(text)).expect("written");
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_its_place() {
    type Change = fn(String) -> String;
    let cases: &[(&str, Change, &[&str])] = &[
        ("unknown key", |t| t.replace("[peer]", "[peer]\ncolour = 1"), &["colour", "pangolin.toml", "line"]),
        ("unknown section", |t| t + "\n[colours]\n", &["colours", "pangolin.toml"]),
        ("other version", |t| t.replace("version = 1", "version = 7"), &["version", "7"]),
        ("not TOML", |t| t.replace("version = 1", "version = "), &["pangolin.toml", "line"]),
        ("long name", |t| t.replace("\"n1\"", &format!("\"{}\"", "n".repeat(40))), &["node.name", "32"]),
        ("bad name", |t| t.replace("\"n1\"", "\"N 1\""), &["node.name"]),
        (
            "no address",
            |t| t.replace("public_addresses = [", "public_addresses = [] #"),
            &["public_addresses"],
        ),
        ("bad port", |t| t.replace("[peer]\nlisten = \"127", "[peer]\nlisten = \"x127"), &["listen"]),
    ];
    for (name, change, words) in cases {
        let cluster = prepared();
        edit(&cluster.nodes[0].config(), change);
        for verb in ["config", "run"] {
            let output = pangolind(&cluster, 0, verb, &[], "");
            assert!(!output.success, "{name}: {verb} took it");
            refused(&output, words);
        }
        assert!(!cluster.nodes[0].state_dir().exists(), "{name}: something was written");
    }
    let cluster = prepared();
    std::fs::remove_file(cluster.nodes[0].config()).expect("removed");
    refused(&pangolind(&cluster, 0, "run", &[], ""), &["cannot read", "pangolin.toml"]);
}

#[test]
fn a_node_that_was_never_made_does_not_start_and_one_that_was_is_not_made_twice() {
    let cluster = prepared();
    refused(&pangolind(&cluster, 0, "run", &[], ""), &["pangolinctl init", "join"]);
    let init = ["--cluster", "demo", "--zone", "demo.test"];
    pangolind(&cluster, 0, "init", &init, "").ok("init").expect("made");
    refused(&pangolind(&cluster, 0, "init", &init, ""), &["already", "nothing was changed"]);
}

#[test]
fn names_that_are_too_long_are_refused_at_the_command_line() {
    let cluster = prepared();
    let long_zone = vec!["a"; 200].join(".");
    let long_label = format!("{}.test", "a".repeat(64));
    let long_name = "c".repeat(33);
    for (cluster_name, zone) in
        [("demo", long_zone.as_str()), ("demo", &long_label), (&long_name, "demo.test")]
    {
        let output = pangolind(&cluster, 0, "init", &["--cluster", cluster_name, "--zone", zone], "");
        refused(&output, &["allowed"]);
        assert!(!cluster.nodes[0].state_dir().join("identity.json").exists());
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_the_node_does_not_start() {
    let cluster = prepared();
    let init = ["--cluster", "demo", "--zone", "demo.test"];
    pangolind(&cluster, 0, "init", &init, "").ok("init").expect("made");
    let node = &cluster.nodes[0];
    for (tcp, at) in [
        (true, node.peers()),
        (true, node.https()),
        (true, node.http()),
        (true, node.dns()),
        (false, node.dns()),
    ] {
        let held = if tcp {
            std::net::TcpListener::bind(at).map(|l| Box::new(l) as Box<dyn std::any::Any>)
        } else {
            std::net::UdpSocket::bind(at).map(|s| Box::new(s) as Box<dyn std::any::Any>)
        };
        let held = held.expect("bound");
        let output = pangolind(&cluster, 0, "run", &[], "");
        assert!(!output.success && !output.stderr.contains("panicked"), "{output:?}");
        assert!(output.stderr.contains(&at.to_string()), "{at} is not named: {}", output.stderr);
        drop(held);
    }
}

/// A running node to be joined.
async fn one_node() -> Cluster {
    let mut cluster = prepared();
    cluster.init().await.expect("a first node");
    cluster
}

/// Waits until the listeners for clients are open: a node knows its leader before.
async fn lets_clients_in(node: &Node) {
    let serves = async {
        loop {
            let status: ClusterStatus = node.client().get("/cluster/status").await.expect("a status");
            if status.nodes.iter().any(|node| node.serving == Some(true)) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(START_PATIENCE, serves).await.expect("it lets clients in");
}

async fn token(cluster: &Cluster, lifetime: u64) -> String {
    let wanted = CreateToken { lifetime_seconds: Some(lifetime), ..CreateToken::default() };
    let client = cluster.nodes[0].client().with_deadline(Duration::from_secs(10));
    let created: CreatedToken = client.put("/cluster/token", &wanted).await.expect("a token");
    created.token.expect("shown")
}

#[tokio::test]
async fn tokens_that_are_wrong_used_expired_or_of_another_cluster_let_nobody_in() {
    let mut cluster = one_node().await;
    let other = one_node().await;

    let short = token(&cluster, 10).await;
    let expired = tokio::time::Instant::now() + Duration::from_millis(10_500);

    // Not tokens.
    for text in ["", "hello", "pgl1.x.y@127.0.0.1:1", &"x".repeat(20_000)] {
        refused(&pangolind(&cluster, 1, "join", &[], text), &["token"]);
    }
    // One letter changed, and cut off.
    let good = token(&cluster, 600).await;
    let at = good.find('@').expect("an address part") - 3;
    let letter = if &good[at..=at] == "a" { "b" } else { "a" };
    let typo = format!("{}{letter}{}", &good[..at], &good[at + 1..]);
    refused(&pangolind(&cluster, 1, "join", &[], &typo), &["token"]);
    refused(&pangolind(&cluster, 1, "join", &[], &good[..at]), &["token"]);

    // Another cluster's token, with this cluster's address: the authority behind it is not the one expected.
    let foreign = token(&other, 600).await;
    let (foreign, _) = foreign.split_once('@').expect("an address part");
    let crossed = format!("{foreign}@{}", cluster.nodes[0].peers());
    refused(&pangolind(&cluster, 1, "join", &[], &crossed), &[&cluster.nodes[0].peers().to_string()]);

    // Nobody there.
    let (secret, _) = good.split_once('@').expect("an address part");
    refused(&pangolind(&cluster, 1, "join", &[], &format!("{secret}@127.0.0.1:1")), &["127.0.0.1:1"]);

    // Expired.
    tokio::time::sleep_until(expired).await;
    refused(&pangolind(&cluster, 1, "join", &[], &short), &["expired"]);
    assert!(!cluster.nodes[1].state_dir().join("identity.json").exists(), "a refused node was written");

    // The check uses nothing up and writes nothing.
    pangolind(&cluster, 1, "join", &["--check"], &good).ok("join --check").expect("all is ready");
    assert!(!cluster.nodes[1].state_dir().join("identity.json").exists(), "the check wrote a node");

    // The good one lets one node in, and only one.
    pangolind(&cluster, 1, "join", &[], &good).ok("join").expect("joined");
    refused(&pangolind(&cluster, 2, "join", &[], &good), &["used"]);
    cluster.nodes[1].start_ready().await.expect("it runs");
    let token_of_first = token(&cluster, 600).await;
    refused(&pangolind(&cluster, 1, "join", &[], &token_of_first), &["already"]);
}

#[tokio::test]
async fn the_api_refuses_what_is_wrong_with_what_and_where() {
    let cluster = one_node().await;
    let client = cluster.nodes[0].client().with_deadline(Duration::from_secs(10));
    let send = async |method: Method, path: &str, body: Value| {
        client.send(method, path, Some(body), Uuid::new_v4()).await
    };
    send(Method::PUT, "/org", json!({ "orgId": "acme", "name": "Acme" })).await.expect("an organisation");

    let long = "x".repeat(300);
    let long_host = format!("{}.demo.test", "a".repeat(64));
    let cases = [
        (Method::PUT, "/org", json!({ "orgId": long, "name": "x" }), 400, "orgId"),
        (Method::PUT, "/org", json!({ "orgId": "a b", "name": "x" }), 400, "orgId"),
        (Method::PUT, "/org", json!({ "orgId": "ok", "name": long }), 400, "128"),
        (Method::PUT, "/org", json!({ "orgId": "ok", "name": "x", "colour": 1 }), 400, "colour"),
        (Method::PUT, "/org", json!([]), 400, ""),
        (Method::PUT, "/org", json!({ "orgId": "acme", "name": "x" }), 409, "acme"),
        (Method::PUT, "/org/acme/domain", json!({ "baseDomain": long_host }), 400, "baseDomain"),
        (Method::PUT, "/org/nobody/site", json!({ "name": "x" }), 404, "nobody"),
        (Method::PUT, "/resource/99/target", json!({ "siteId": 1, "ip": "127.0.0.1", "port": 1 }), 404, "99"),
        (Method::PUT, "/resource/x/target", json!({ "siteId": 1, "ip": "127.0.0.1", "port": 1 }), 400, "x"),
        (Method::PUT, "/nothing", json!({}), 404, "route"),
    ];
    for (method, path, body, status, word) in cases {
        let said = format!("{method} {path} {}", body.to_string().chars().take(80).collect::<String>());
        let answer = send(method, path, body).await;
        let Err(ClientError::Refused(failure)) = answer else { panic!("{said}: {answer:?}") };
        assert_eq!(failure.status, status, "{said}: {failure:?}");
        assert_ne!(failure.code, Code::Unknown, "{said}: {failure:?}");
        let text = format!("{} {}", failure.message, failure.hint.clone().unwrap_or_default());
        assert!(text.contains(word), "{said}: {text:?} does not name {word:?}");
    }
    // Larger than any request.
    let huge = json!({ "orgId": "ok", "name": "x".repeat(1024 * 1024) });
    let answer = send(Method::PUT, "/org", huge).await;
    assert!(matches!(&answer, Err(ClientError::Refused(f)) if f.status == 413), "{answer:?}");
}

#[tokio::test]
async fn malformed_bytes_on_every_listener_harm_nobody() {
    let mut cluster = one_node().await;
    let node = &cluster.nodes[0];
    lets_clients_in(node).await;
    let garbage: Vec<u8> =
        Uuid::new_v4().into_bytes().iter().cycle().zip(1u32..).take(5000).map(noise).collect();
    // A TLS record that claims more than it has, an HTTP request without end, frames with lying lengths.
    let beginnings: Vec<Vec<u8>> = vec![
        vec![],
        vec![0],
        vec![0xff; 64],
        vec![0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xff],
        b"GET / HTTP/1.1\r\nHost: \r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff".to_vec(),
        format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(100_000)).into_bytes(),
        garbage.clone(),
    ];
    for at in [node.peers(), node.https(), node.http(), node.dns()] {
        for bytes in &beginnings {
            send_tcp(at, bytes).await;
        }
    }
    for bytes in &beginnings {
        let mut stream = UnixStream::connect(node.socket()).await.expect("connected");
        let _ = stream.write_all(bytes).await;
    }
    let socket = UdpSocket::bind((node.address, 0)).await.expect("bound");
    for at in [node.dns(), node.tunnel()] {
        for length in 0..100 {
            let _ = socket.send_to(&garbage[..length], at).await;
        }
        // WireGuard's message types and a DNS header, with nothing sensible behind them.
        for kind in 1..=4u8 {
            let mut packet = garbage[..148].to_vec();
            packet[..4].copy_from_slice(&[kind, 0, 0, 0]);
            let _ = socket.send_to(&packet, at).await;
        }
        for size in [512, 1400, 4096] {
            let _ = socket.send_to(&garbage[..size], at).await;
        }
    }

    let status = node.client().with_deadline(START_PATIENCE).get::<Value>("/cluster/status").await;
    status.expect("it still answers");
    let soa = dns::ask(node.dns(), &cluster.options.zone, Kind::Soa).await.expect("DNS still answers");
    assert_eq!((soa.code, soa.answers), (0, 1));
    let log = std::fs::read_to_string(node.log()).expect("a log");
    assert!(!log.contains("panicked at"), "{log}");
    assert!(cluster.nodes[0].process().expect("it ran").exit_status().is_none(), "the node has ended");
}

/// Bytes without a pattern: a hash of seed and position.
fn noise((seed, position): (&u8, u32)) -> u8 {
    let mixed = (u32::from(*seed) ^ position).wrapping_mul(0x9E37_79B1);
    (mixed >> 24) as u8
}

async fn send_tcp(at: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(at).await.expect("connected");
    // The node may close at any byte: that is an answer as well.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
}

#[tokio::test]
async fn a_node_with_a_damaged_store_stops_and_says_rejoin_while_the_others_go_on() {
    let options = Options::of_a_test().expect("addresses and ports");
    let mut cluster = Cluster::start(options).await.expect("a cluster");
    let client = cluster.nodes[0].client().with_deadline(START_PATIENCE);
    for n in 0..20 {
        let body = json!({ "orgId": format!("org-{n}"), "name": "x" });
        client.send(Method::PUT, "/org", Some(body), Uuid::new_v4()).await.expect("written");
    }
    cluster.healthy(START_PATIENCE).await.expect("all have it");
    cluster.nodes[2].kill();
    let log = largest_file(&cluster.nodes[2].state_dir().join("raft"));
    let mut bytes = std::fs::read(&log).expect("the log");
    // Early in the file: a complete record, not the torn end.
    let at = bytes.iter().position(|b| *b != 0).expect("content") + 200;
    bytes[at] ^= 0x10;
    std::fs::write(&log, bytes).expect("written");

    let output = run(cluster.nodes[2].command("run"), "", START_PATIENCE).expect("it ends by itself");
    refused(&output, &["rejoin"]);

    let body = json!({ "orgId": "after", "name": "x" });
    client.send(Method::PUT, "/org", Some(body), Uuid::new_v4()).await.expect("the others go on");
}

#[tokio::test]
async fn a_node_that_lost_its_log_does_not_vote_again_and_one_that_was_removed_ends_by_itself() {
    let options = Options::of_a_test().expect("addresses and ports");
    let mut cluster = Cluster::start(options).await.expect("a cluster");
    let names: Vec<String> =
        cluster.status().await.expect("a status").nodes.into_iter().map(|n| n.name.to_string()).collect();
    cluster.nodes[2].kill();
    std::fs::remove_dir_all(cluster.nodes[2].state_dir().join("raft")).expect("removed");
    let output = run(cluster.nodes[2].command("run"), "", START_PATIENCE).expect("it ends by itself");
    refused(&output, &["raft is gone", "join again"]);

    // First the dead one, so that a majority of those who stay can agree to the second.
    for name in [&names[2], &names[1]] {
        let mut leave = Command::new(&cluster.programs.pangolinctl);
        leave.arg("--socket").arg(cluster.nodes[0].socket()).args(["leave", "--node", name]);
        run(leave, "", START_PATIENCE).expect("pangolinctl").ok("leave").expect("taken out");
    }
    let ended = cluster.nodes[1].process().expect("it ran").wait(START_PATIENCE).expect("it has ended");
    assert!(ended.success(), "it ended with {ended}");
    let output = run(cluster.nodes[1].command("run"), "", COMMAND_PATIENCE).expect("it ends");
    refused(&output, &["holds no node"]);
}

fn largest_file(dir: &Path) -> PathBuf {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    let wal = |path: &PathBuf| path.extension().is_some_and(|e| e == "wal");
    let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
    files.into_iter().max_by_key(|path| (wal(path), size(path))).expect("a file")
}
