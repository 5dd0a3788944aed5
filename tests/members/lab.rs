//! What the stories share: clusters, and ways to ask and wait.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use http::Method;
use pangolin_chaos::{
    cluster::{Cluster, Options},
    process,
};
use pangolin_core::NodeId;
use pangolin_wire::{ClientError, ClusterStatus, Code, Failure, RaftPart};
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

/// How long something may take that happens by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Several nodes keep a small machine busy, and one that is too busy holds elections: one story at a time.
pub(crate) static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A cluster of which the first `joined` of `count` nodes have joined.
pub(crate) async fn cluster_of(joined: usize, count: u8) -> Cluster {
    let options = Options::of_nodes(count).expect("addresses and ports");
    let mut cluster = Cluster::prepare(options).expect("prepared");
    cluster.init().await.expect("the first node");
    for node in 1..joined {
        cluster.join(node).await.expect("joined");
    }
    if joined >= 3 {
        let odd = joined - (joined + 1) % 2;
        until("all vote that may", || async { (voters(&cluster).await? == odd).then_some(()) }).await;
    }
    cluster
}

/// Waits until `condition` gives something.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// The leader's view, by way of the node at `position`.
pub(crate) async fn status_at(cluster: &Cluster, position: usize) -> Option<ClusterStatus> {
    let status: ClusterStatus = cluster.nodes[position].client().get("/cluster/status").await.ok()?;
    status.partial.is_none().then_some(status)
}

pub(crate) async fn status(cluster: &Cluster) -> Option<ClusterStatus> {
    let position = cluster.nodes.iter().position(|node| node.runs())?;
    status_at(cluster, position).await
}

pub(crate) async fn voters(cluster: &Cluster) -> Option<usize> {
    Some(status(cluster).await?.quorum.voters)
}

pub(crate) async fn id(cluster: &Cluster, position: usize) -> NodeId {
    let name = cluster.nodes[position].name.clone();
    until("the node is in the status", || async {
        let status = status(cluster).await?;
        status.nodes.iter().find(|node| node.name.as_str() == name).map(|node| node.id)
    })
    .await
}

/// Waits until the node has this part in Raft.
pub(crate) async fn becomes(cluster: &Cluster, node: NodeId, part: RaftPart) {
    until(&format!("node {node} is {part:?}"), || async {
        let status = status(cluster).await?;
        status.nodes.iter().find(|known| known.id == node).filter(|known| known.raft == part).map(|_| ())
    })
    .await;
}

/// Runs `pangolinctl` on the host of the node at `position`.
pub(crate) fn ctl(cluster: &Cluster, position: usize, arguments: &[&str]) -> process::Output {
    let mut command = Command::new(&cluster.programs.pangolinctl);
    command.arg("--socket").arg(cluster.nodes[position].socket()).args(arguments);
    process::run(command, "", Duration::from_secs(90)).expect("pangolinctl runs")
}

pub(crate) fn ctl_ok(cluster: &Cluster, position: usize, arguments: &[&str]) -> String {
    ctl(cluster, position, arguments).ok(&arguments.join(" ")).expect("done").stdout
}

pub(crate) fn ctl_in_background(
    cluster: &Cluster,
    position: usize,
    arguments: &[&str],
) -> tokio::task::JoinHandle<process::Output> {
    let mut command = Command::new(&cluster.programs.pangolinctl);
    command.arg("--socket").arg(cluster.nodes[position].socket()).args(arguments);
    tokio::task::spawn_blocking(move || {
        process::run(command, "", Duration::from_secs(90)).expect("pangolinctl runs")
    })
}

/// Writes, and does as it is told where there is no leader at the moment: repeats the request.
pub(crate) async fn write(cluster: &Cluster, position: usize, org: &str) {
    let client = cluster.nodes[position].client().with_deadline(PATIENCE);
    let (body, request) = (json!({ "orgId": org, "name": org }), Uuid::new_v4());
    let end = Instant::now() + PATIENCE;
    loop {
        match client.send(Method::PUT, "/org", Some(body.clone()), request).await {
            Err(ClientError::Refused(failure))
                if failure.code == Code::NotAppended && Instant::now() < end => {}
            written => return drop(written.expect("written")),
        }
    }
}

/// The node's process ends in order, and its state is put aside.
pub(crate) fn has_left(cluster: &mut Cluster, position: usize) {
    let node = &mut cluster.nodes[position];
    let ended = node.process().expect("it ran").wait(PATIENCE).expect("it has ended");
    assert!(ended.success(), "{} ended with {ended}", node.name);
    node.kill();
    assert!(!node.state_dir().join("identity.json").exists());
    let mut aside = std::fs::read_dir(node.state_dir()).expect("the state directory");
    assert!(aside.any(|entry| entry.expect("an entry").file_name().to_string_lossy().starts_with("left-")));
}

pub(crate) fn refusal(answer: Result<pangolin_wire::Answer, ClientError>) -> Failure {
    match answer {
        Err(ClientError::Refused(failure)) => failure,
        other => panic!("not refused: {other:?}"),
    }
}
