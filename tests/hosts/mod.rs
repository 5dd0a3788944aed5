//! Hosts with nodes on them, as an operator handles them: by commands, files and signals.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use pangolin_chaos::{
    cluster::{COMMAND_PATIENCE, Cluster, Options},
    ports::{self, Ports},
    process::{Output, run},
};
use pangolin_wire::{Backup, BackupKind, BackupList, Client, ClientError, ClusterStatus};
use serde_json::{Value, json};
use tokio::time::sleep;

/// How long something may take that happens by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Configured nodes, of which the first one runs as a cluster; and the recovery key that was shown.
pub(crate) async fn begun(nodes: u8) -> (Cluster, String) {
    let (mut cluster, key) = configured(nodes, |_, _| String::new());
    cluster.nodes[0].start_ready().await.expect("it runs");
    (cluster, key)
}

/// The same, not started yet. `more` is what else stands under `[backup]` in a node's configuration, by the cluster's
/// directory and the node's position.
pub(crate) fn configured(nodes: u8, more: impl Fn(&Path, usize) -> String) -> (Cluster, String) {
    let addresses = ports::own_addresses(nodes);
    let ports = Ports::free(&addresses).expect("ports");
    let options = Options { addresses, ports, ..Options::of_a_test().expect("options") };
    let cluster = Cluster::prepare(options).expect("configuration files");
    for (position, node) in cluster.nodes.iter().enumerate() {
        let more = more(cluster.dir(), position);
        let text = std::fs::read_to_string(node.config()).expect("read");
        std::fs::write(node.config(), format!("{text}\n[backup]\narchive_seconds = 1\n{more}"))
            .expect("written");
    }
    let zone = cluster.options.zone.clone();
    let shown = pangolind(&cluster, 0, "init", &["--cluster", "demo", "--zone", &zone], "");
    assert!(shown.success, "{shown:?}");
    let keys: Vec<&str> = shown.stdout.lines().map(str::trim).filter(|l| l.starts_with("pgr1.")).collect();
    let [key] = keys[..] else { panic!("one recovery key is shown: {}", shown.stdout) };
    let key = key.to_owned();
    (cluster, key)
}

pub(crate) fn pangolind(cluster: &Cluster, node: usize, verb: &str, more: &[&str], input: &str) -> Output {
    let mut command = cluster.nodes[node].command(verb);
    command.args(more);
    run(command, input, COMMAND_PATIENCE).expect("it runs and ends")
}

pub(crate) fn pangolinctl(cluster: &Cluster, node: usize, words: &[&str]) -> Output {
    let mut command = Command::new(&cluster.programs.pangolinctl);
    command.arg("--socket").arg(cluster.nodes[node].socket()).args(words);
    run(command, "", COMMAND_PATIENCE).expect("it runs and ends")
}

pub(crate) async fn org(client: &Client, id: &str) {
    let _: Value = client.put("/org", &json!({ "orgId": id, "name": id })).await.expect("an organisation");
}

pub(crate) async fn has_org(client: &Client, id: &str) -> bool {
    match client.get::<Value>(&format!("/org/{id}")).await {
        Ok(_) => true,
        Err(ClientError::Refused(failure)) if failure.status == 404 => false,
        Err(error) => panic!("{id}: {error}"),
    }
}

/// Waits until a node shows an organisation.
pub(crate) async fn shown(cluster: &Cluster, node: usize, id: &str) {
    let client = cluster.nodes[node].client().with_deadline(PATIENCE);
    let end = Instant::now() + PATIENCE;
    while !has_org(&client, id).await {
        assert!(Instant::now() < end, "{id} does not come to node {node}");
        sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn leads(cluster: &Cluster, node: usize) -> ClusterStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(status) = cluster.nodes[node].client().get::<ClusterStatus>("/cluster/status").await
            && status.leader.as_ref().is_some_and(|leader| leader.since.is_some())
        {
            return status;
        }
        assert!(Instant::now() < end, "no leader");
        sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("listed") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

pub(crate) async fn back_up(client: &Client) -> Backup {
    client.put("/node/backup", &json!({})).await.expect("made")
}

/// Makes the cluster again on the second host, from files and a recovery key; says whether that went well, and what
/// was said.
pub(crate) async fn made_again(cluster: &mut Cluster, from: &Path, key: &str) -> (bool, String) {
    let file = cluster.dir().join("recovery.key");
    std::fs::write(&file, key).expect("written");
    let words =
        ["--restore", from.to_str().expect("text"), "--recovery-key-file", file.to_str().expect("text")];
    let done = pangolind(cluster, 1, "init", &words, "");
    if done.success {
        cluster.nodes[1].start_ready().await.expect("it runs");
        leads(cluster, 1).await;
    }
    (done.success, done.stdout + &done.stderr)
}

/// Waits until the log is archived up to what has been acknowledged; the name of the file that has the last of it.
pub(crate) async fn archived(client: &Client) -> String {
    let end = Instant::now() + PATIENCE;
    let goal = client.get::<pangolin_wire::Health>("/health").await.expect("health").revision;
    loop {
        let list: BackupList = client.get("/node/backups").await.expect("listed");
        if let Some(file) =
            list.backups.iter().find(|file| file.kind == BackupKind::Log && file.revision >= goal)
        {
            return file.name.clone();
        }
        assert!(Instant::now() < end, "not archived: {list:?}");
        sleep(Duration::from_millis(50)).await;
    }
}
