//! `pangolinctl` as a process, against the API of a real one-node cluster.

#[path = "../../../api/tests/rest/no_backups.rs"]
mod no_backups;
#[path = "../../../api/tests/rest/no_dns.rs"]
mod no_dns;
#[path = "../../../api/tests/rest/no_keyring.rs"]
mod no_keyring;
#[path = "../../../api/tests/rest/one_node.rs"]
mod one_node;
#[path = "../../../api/tests/rest/server.rs"]
#[allow(dead_code, reason = "the tests of the API use the rest")]
mod server;
#[path = "../../../api/tests/rest/unsealed.rs"]
mod unsealed;

use std::{
    path::PathBuf,
    process::{Output, Stdio},
};

use pangolin_core::NodeId;
use pangolin_wire::*;
use server::Server;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// `pangolinctl` with nothing of the surrounding environment.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pangolinctl"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(server: &Server, arguments: &[&str]) -> Output {
    command(arguments).env("PANGOLIN_SOCKET", &server.socket).output().await.expect("a process")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// Runs it with success; what it printed.
async fn ok(server: &Server, arguments: &[&str]) -> String {
    let output = run(server, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs it with this exit code; what it complained about.
async fn fails(server: &Server, code: i32, arguments: &[&str]) -> String {
    let output = run(server, arguments).await;
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "", "{arguments:?}");
    text(&output.stderr)
}

fn file(server: &Server, name: &str, content: &str) -> PathBuf {
    let path = server.socket.with_file_name(name);
    std::fs::write(&path, content).expect("a file");
    path
}

#[tokio::test]
async fn a_service_is_published_with_names_alone() {
    let server = Server::start().await;
    assert_eq!(ok(&server, &["org", "create", "lab", "--name", "The Lab"]).await, "org lab created\n");
    ok(&server, &["domain", "create", "apps.example.org"]).await;
    let site = ok(&server, &["site", "create", "Home Lab"]).await;
    assert!(site.contains("lab/home-lab"), "{site}");
    let made: SiteList = server.operator().get("/org/lab/sites").await.expect("sites");
    let made = &made.sites[0];
    let line =
        site.lines().find(|line| line.contains("pangolin-connector")).expect("the connector's command");
    assert!(
        line.contains(&made.newt_id) && line.contains("--endpoint https://pangolin.lab.example.com:8443")
    );
    let secret = site.lines().find_map(|line| line.strip_prefix("secret")).expect("a secret");
    let secret = secret.split_whitespace().next().expect("a secret");
    let state = server.cluster.state();
    assert!(pangolin_core::access::site_of_credentials(&state, &made.newt_id, secret).is_some());
    ok(&server, &["resource", "create", "wiki.apps.example.org"]).await;
    let target = ["target", "create", "--resource", "wiki.apps.example.org", "--site", "home-lab"];
    ok(&server, &[&target[..], &["--ip", "10.0.0.5", "--port", "8080", "--health-path", "/up"]].concat())
        .await;
    let listed = ok(&server, &["target", "list", "--resource", "wiki.apps.example.org"]).await;
    assert!(listed.contains("10.0.0.5:8080") && listed.contains("/up every 30 s"), "{listed}");
    assert!(listed.contains("unknown  nobody looks"), "{listed}");
    ok(
        &server,
        &[&target[..], &["--ip", "10.0.0.6", "--port", "80", "--weight", "3", "--priority", "1"]].concat(),
    )
    .await;
    let resources: ResourceList = server.operator().get("/org/lab/resources").await.expect("resources");
    let path = format!("/resource/{}/targets", resources.resources[0].resource_id);
    let backup = server.operator().get::<TargetList>(&path).await.expect("targets").targets.remove(1);
    assert_eq!((backup.weight, backup.priority), (3, 1));
    ok(&server, &["target", "update", &backup.target_id.to_string(), "--weight", "2"]).await;
    ok(&server, &["resource", "balance", "wiki.apps.example.org", "cookie"]).await;
    let open = ["port", "open", "2222/tcp", "--resource", "wiki.apps.example.org", "--proxy-protocol", "v1"];
    let opened = ok(&server, &[&open[..], &["--allow", "192.0.2.0/24"]].concat()).await;
    assert!(opened.contains("2222/tcp of every node leads to"), "{opened}");
    let ports = ok(&server, &["port", "list"]).await;
    assert!(ports.contains("2222/tcp  wiki.apps.example.org  v1     192.0.2.0/24  -"), "{ports}");
    ok(&server, &["port", "close", "2222/tcp", "--resource", "wiki.apps.example.org"]).await;
    assert!(fails(&server, 2, &["port", "open", "ssh", "--resource", "x"]).await.contains("25565/tcp"));
    ok(&server, &["resource", "update", "wiki.apps.example.org", "--enabled", "false"]).await;
    let shown = ok(&server, &["resource", "show", "wiki-apps-example-org"]).await;
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["enabled", "no"])), "{shown}");
    assert!(ok(&server, &["site", "show", "lab/home-lab"]).await.contains("never seen"));
    ok(&server, &["resource", "delete", "wiki.apps.example.org"]).await;
    ok(&server, &["site", "update", "home-lab", "--name", "Shed"]).await;
    assert!(ok(&server, &["site", "secret", "home-lab"]).await.contains("shown this once"));
    assert_eq!(
        ok(&server, &["site", "delete", "home-lab"]).await,
        format!("site {} deleted\n", made.site_id)
    );
    ok(&server, &["domain", "delete", "apps.example.org"]).await;
    ok(&server, &["org", "delete", "lab"]).await;
    assert_eq!(ok(&server, &["org", "list"]).await, "ORG  NAME  CREATED\n");
}

#[tokio::test]
async fn json_is_the_data_of_the_answer() {
    let server = Server::start().await;
    ok(&server, &["org", "create", "lab"]).await;
    let printed = ok(&server, &["--output", "json", "org", "list"]).await;
    let raw = server.ask(http::Method::GET, "/orgs", "").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).expect("JSON"), raw.body["data"]);
}

#[tokio::test]
async fn the_journal_reads_well_and_is_followed() {
    let server = Server::start().await;
    ok(&server, &["org", "create", "lab"]).await;
    ok(&server, &["node", "drain", "n1"]).await;
    let journal = ok(&server, &["journal"]).await;
    let lines: Vec<&str> = journal.lines().collect();
    assert!(lines[0].contains("Z  PUT /api/v1/org was answered 201 (operator tester, request "), "{journal}");
    assert_eq!(ok(&server, &["journal", "--limit", "1"]).await.trim_end(), lines[1]);
    let json = ok(&server, &["journal", "--output", "json"]).await;
    let page: JournalPage = serde_json::from_str(&json).expect("a page");
    assert_eq!(page.entries.len(), 2);
    fails(&server, 2, &["journal", "--limit", "0"]).await;

    let mut follow = command(&["journal", "--follow", "--limit", "1", "--output", "json"]);
    follow.env("PANGOLIN_SOCKET", &server.socket).stdout(Stdio::piped());
    let mut child = follow.spawn().expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    for path in ["/api/v1/node/1", "/api/v1/org/lab"] {
        let line = lines.next_line().await.expect("output").expect("a line");
        let line: JournalLine = serde_json::from_str(&line).expect("an entry");
        assert_eq!(line.event["apiWrite"]["path"], path);
        if path.ends_with('1') {
            ok(&server, &["org", "delete", "lab"]).await;
        }
    }
}

#[tokio::test]
async fn why_and_events_read_well_and_events_are_followed() {
    let server = Server::start().await;
    ok(&server, &["org", "create", "lab"]).await;
    ok(&server, &["site", "create", "Home"]).await;
    ok(&server, &["node", "drain", "n1"]).await;
    let why = ok(&server, &["why", "n1"]).await;
    assert!(why.starts_with("node n1 (id 1)\n\nup since "), "{why}");
    assert!(
        why.contains("gives its work away (drained)\n  ") && why.contains("operator: tester: POST "),
        "{why}"
    );
    assert_eq!(ok(&server, &["why", "node", "1"]).await, why);
    assert_eq!(
        ok(&server, &["why", "lab/home"]).await,
        ok(&server, &["--org", "lab", "why", "site", "home"]).await
    );
    let json = ok(&server, &["why", "n1", "--output", "json"]).await;
    let explanation: Explanation = serde_json::from_str(&json).expect("an explanation");
    assert_eq!(explanation.text.trim_end(), why.trim_end());
    assert!(fails(&server, 1, &["why", "n9"]).await.contains("there is no node or site"));
    assert!(fails(&server, 2, &["why", "org", "lab"]).await.contains("none of host, site, cert, node"));
    fails(&server, 2, &["why"]).await;

    let events = ok(&server, &["events", "--since", "0"]).await;
    let lines: Vec<&str> = events.lines().collect();
    assert!(lines[0].contains("the cluster is made"), "{events}");
    let last = lines.last().expect("an event");
    assert!(
        last.contains("node n1 (id 1) is to give its work away (operator: tester: POST /api/v1/node/1)"),
        "{last}"
    );
    assert_eq!(ok(&server, &["events", "-n", "1"]).await.trim_end(), *last);
    assert_eq!(ok(&server, &["events", "--since", "0", "--json"]).await.lines().count(), lines.len());
    fails(&server, 2, &["events", "--since", "yesterday"]).await;

    let mut follow = command(&["events", "--follow", "-n", "1", "--json"]);
    follow.env("PANGOLIN_SOCKET", &server.socket).stdout(Stdio::piped());
    let mut child = follow.spawn().expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    for what in ["node n1 (id 1) is to give its work away", "site lab/home (id 2) is gone"] {
        let line = lines.next_line().await.expect("output").expect("a line");
        let event: Event = serde_json::from_str(&line).expect("an event");
        assert_eq!(event.what, what);
        if what.starts_with("node") {
            ok(&server, &["site", "delete", "home"]).await;
        }
    }
}

#[tokio::test]
async fn status_shows_leader_quorum_and_nodes_without_colours_in_a_pipe() {
    let server = Server::start().await;
    let status = ok(&server, &["status"]).await;
    for part in ["lab (0707", "lab.example.com", "n1 (node 1), term 1", "1 of 1 voters up", "127.0.0.11:7420"]
    {
        assert!(status.contains(part), "{part:?} is missing:\n{status}");
    }
    assert!(!status.contains('\x1b'));
    let json = ok(&server, &["status", "--json"]).await;
    let status: ClusterStatus = serde_json::from_str(&json).expect("a status");
    assert_eq!(status.leader.expect("a leader").node_id, NodeId(1));
    assert!(ok(&server, &["node", "list"]).await.contains("n1"));
    ok(&server, &["node", "drain", "n1"]).await;
    assert!(ok(&server, &["status"]).await.contains("up, drained"));
}

#[tokio::test]
async fn watching_prints_a_status_whenever_it_changes() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let server = Server::start().await;
    let mut child = command(&["status", "--json", "--watch"])
        .env("PANGOLIN_SOCKET", &server.socket)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let first = lines.next_line().await.expect("a line").expect("a status");
    ok(&server, &["org", "create", "lab"]).await;
    let second = lines.next_line().await.expect("a line").expect("a status");
    let revision = |line: &str| serde_json::from_str::<ClusterStatus>(line).expect("a status").revision;
    assert!(revision(&second) > revision(&first));
}

#[tokio::test]
async fn a_key_opens_the_api_over_tls() {
    let server = Server::start().await;
    let key = ok(&server, &["key", "create", "automation", "--cluster"]).await;
    let (key_file, ca_file) = (file(&server, "key", &key), file(&server, "ca.pem", &server.ca));
    let endpoint = format!("https://localhost:{}", server.tls.port());
    let arguments = [
        "--endpoint",
        &endpoint,
        "--key-file",
        key_file.to_str().expect("a path"),
        "--ca-file",
        ca_file.to_str().expect("a path"),
    ];
    let mut create = arguments.to_vec();
    create.extend(["org", "create", "lab"]);
    assert_eq!(ok(&server, &create).await, "org lab created\n");
    let output = command(&["org", "list"])
        .env("PANGOLIN_ENDPOINT", &endpoint)
        .env("PANGOLIN_KEY", &key)
        .env("PANGOLIN_CA_FILE", &ca_file)
        .output()
        .await
        .expect("a process");
    assert!(text(&output.stdout).contains("lab"), "{}", text(&output.stderr));
    let mut untrusted = arguments[..4].to_vec();
    untrusted.extend(["org", "list"]);
    assert!(fails(&server, 3, &untrusted).await.contains("invalid peer certificate"));
    let bad = file(&server, "bad", "abcdefghijklmno.wrong");
    let mut refused = arguments.to_vec();
    refused[3] = bad.to_str().expect("a path");
    refused.extend(["org", "list"]);
    let complaint = fails(&server, 1, &refused).await;
    assert!(complaint.contains("not, or no longer, valid"), "{complaint}");
}

#[tokio::test]
async fn users_get_roles_by_name() {
    let server = Server::start().await;
    ok(&server, &["org", "create", "lab"]).await;
    ok(&server, &["user", "create", "ada@example.com", "--name", "Ada"]).await;
    ok(&server, &["role", "create", "Readers"]).await;
    ok(&server, &["user", "assign", "ada@example.com", "--role", "Readers"]).await;
    assert!(ok(&server, &["--org", "lab", "user", "list"]).await.contains("ada@example.com"));
    assert!(ok(&server, &["user", "show", "ada@example.com"]).await.contains("lab (roles"));
    ok(&server, &["user", "unassign", "ada@example.com"]).await;
    ok(&server, &["user", "update", "ada@example.com", "--administrator", "true"]).await;
    assert!(ok(&server, &["role", "list"]).await.contains("Readers"));
    ok(&server, &["role", "delete", "Readers"]).await;
    ok(&server, &["user", "delete", "ada@example.com"]).await;
}

#[tokio::test]
async fn a_token_alone_goes_to_stdout() {
    let server = Server::start().await;
    let token = ok(&server, &["token", "create", "--role", "witness", "--ttl", "10m"]).await;
    assert_eq!(token.lines().count(), 1);
    let list = ok(&server, &["token", "list"]).await;
    assert!(list.contains("witness"), "{list}");
    let id = list.lines().nth(1).and_then(|line| line.split_whitespace().next()).expect("an id");
    ok(&server, &["token", "revoke", id]).await;
    assert_eq!(ok(&server, &["leader", "transfer", "--to", "n1"]).await, "node 1 leads\n");
    let complaint = fails(&server, 1, &["leave", "--node", "n1"]).await;
    assert!(complaint.contains("the last node of a cluster cannot leave it"), "{complaint}");
}

#[tokio::test]
async fn complaints_say_what_was_wrong_and_what_to_do() {
    let server = Server::start().await;
    let none = fails(&server, 1, &["site", "list"]).await;
    assert!(none.contains("no organisation yet") && none.contains("pangolinctl org create"), "{none}");
    for org in ["lab", "home"] {
        ok(&server, &["org", "create", org]).await;
        ok(&server, &["--org", org, "site", "create", "Shed"]).await;
    }
    for (code, arguments, text) in [
        (2, &["site", "list"][..], "2 organisations: which one?"),
        (2, &["site", "show", "shed"], "2 sites are called"),
        (1, &["site", "show", "barn"], "there is no site \"barn\""),
        (1, &["site", "show", "4711"], "there is no site 4711"),
        (1, &["org", "create", "lab"], "org lab exists already"),
        (2, &["org", "create", "Not Good"], "a-z, 0-9 and inner hyphens"),
        (2, &["key", "create", "x"], "how far shall the key reach?"),
        (2, &["key", "delete", "a/b"], "not the id of a key"),
        (2, &["token", "create", "--ttl", "soon"], "not a time"),
        (1, &["token", "create", "--ttl", "8d"], "lifetimeSeconds lies between"),
        (2, &["--endpoint", "https://localhost", "org", "list"], "needs an API key"),
        (
            2,
            &["--endpoint", "http://localhost", "--key-file", "/nonexistent", "org", "list"],
            "cannot be read",
        ),
        (3, &["--socket", "/nonexistent/x.sock", "status"], "no such socket"),
        (2, &["nonsense"], "unrecognized subcommand"),
    ] {
        let complaint = fails(&server, code, arguments).await;
        assert!(complaint.contains(text), "{arguments:?}: {complaint}");
    }
    assert!(ok(&server, &["site", "show", "home/shed"]).await.contains("home/shed"));
}

#[tokio::test]
async fn without_a_leader_the_exit_code_is_3_and_the_reason_is_told() {
    let server = Server::start().await;
    server.cluster.shutdown().await;
    let complaint = fails(&server, 3, &["--timeout", "0s", "org", "create", "lab"]).await;
    assert!(complaint.contains("nothing was changed: "), "{complaint}");
    assert_eq!(ok(&server, &["org", "list"]).await.lines().count(), 1);
}

#[tokio::test]
async fn completions_are_printed_without_a_node() {
    let output = command(&["completions", "bash"]).output().await.expect("a process");
    assert!(output.status.success() && text(&output.stdout).contains("_pangolinctl()"));
}
