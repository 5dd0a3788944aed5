//! How nodes come and go, as operators see it: real node processes, their API, and `pangolinctl`.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

use std::{
    process::Command,
    time::{Duration, Instant},
};

use http::Method;
use pangolin_chaos::{
    cluster::{Cluster, Options, START_PATIENCE},
    dns::{self, Kind},
    prober::{self, Prober},
    process,
    site::Site,
};
use pangolin_core::{NodeId, record::AdminState};
use pangolin_node as _;
use pangolin_wire::{ClientError, ClusterStatus, Code, CreatedToken, Failure, RaftPart, ReplaceNode};
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Several nodes keep a small machine busy, and one that is too busy holds elections: one story at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A cluster of which the first `joined` of `count` nodes have joined.
async fn cluster_of(joined: usize, count: u8) -> Cluster {
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
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
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
async fn status_at(cluster: &Cluster, position: usize) -> Option<ClusterStatus> {
    let status: ClusterStatus = cluster.nodes[position].client().get("/cluster/status").await.ok()?;
    status.partial.is_none().then_some(status)
}

async fn status(cluster: &Cluster) -> Option<ClusterStatus> {
    let position = cluster.nodes.iter().position(|node| node.runs())?;
    status_at(cluster, position).await
}

async fn voters(cluster: &Cluster) -> Option<usize> {
    Some(status(cluster).await?.quorum.voters)
}

async fn id(cluster: &Cluster, position: usize) -> NodeId {
    let name = cluster.nodes[position].name.clone();
    until("the node is in the status", || async {
        let status = status(cluster).await?;
        status.nodes.iter().find(|node| node.name.as_str() == name).map(|node| node.id)
    })
    .await
}

/// Waits until the node has this part in Raft.
async fn becomes(cluster: &Cluster, node: NodeId, part: RaftPart) {
    until(&format!("node {node} is {part:?}"), || async {
        let status = status(cluster).await?;
        status.nodes.iter().find(|known| known.id == node).filter(|known| known.raft == part).map(|_| ())
    })
    .await;
}

/// Runs `pangolinctl` on the host of the node at `position`.
fn ctl(cluster: &Cluster, position: usize, arguments: &[&str]) -> process::Output {
    let mut command = Command::new(&cluster.programs.pangolinctl);
    command.arg("--socket").arg(cluster.nodes[position].socket()).args(arguments);
    process::run(command, "", Duration::from_secs(90)).expect("pangolinctl runs")
}

fn ctl_ok(cluster: &Cluster, position: usize, arguments: &[&str]) -> String {
    ctl(cluster, position, arguments).ok(&arguments.join(" ")).expect("done").stdout
}

async fn write(cluster: &Cluster, position: usize, org: &str) {
    let client = cluster.nodes[position].client().with_deadline(PATIENCE);
    let body = json!({ "orgId": org, "name": org });
    client.send(Method::PUT, "/org", Some(body), Uuid::new_v4()).await.expect("written");
}

/// The node's process ends in order, and its state is put aside.
fn has_left(cluster: &mut Cluster, position: usize) {
    let node = &mut cluster.nodes[position];
    let ended = node.process().expect("it ran").wait(PATIENCE).expect("it has ended");
    assert!(ended.success(), "{} ended with {ended}", node.name);
    node.kill();
    assert!(!node.state_dir().join("identity.json").exists());
    let mut aside = std::fs::read_dir(node.state_dir()).expect("the state directory");
    assert!(aside.any(|entry| entry.expect("an entry").file_name().to_string_lossy().starts_with("left-")));
}

fn refusal(answer: Result<pangolin_wire::Answer, ClientError>) -> Failure {
    match answer {
        Err(ClientError::Refused(failure)) => failure,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn voters_stay_odd_and_nobody_leaves_whom_the_others_need() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(2, 4).await;
    let second = id(&cluster, 1).await;
    becomes(&cluster, second, RaftPart::Learner).await;
    until("it is said why the learner waits", || async {
        let remarks = status(&cluster).await?.remarks;
        remarks.iter().any(|remark| remark.contains("n2 has all of the log and does not vote")).then_some(())
    })
    .await;

    // A third node makes them all vote; a fourth waits.
    cluster.join(2).await.expect("joined");
    until("three vote", || async { (voters(&cluster).await? == 3).then_some(()) }).await;
    cluster.join(3).await.expect("joined");
    let fourth = id(&cluster, 3).await;
    becomes(&cluster, fourth, RaftPart::Learner).await;

    // It takes the place of a voter that goes, before that one goes.
    ctl_ok(&cluster, 0, &["node", "remove", "n3"]);
    has_left(&mut cluster, 2);
    let after = until("the fourth votes", || async {
        let status = status(&cluster).await?;
        (status.nodes.len() == 3 && status.quorum.voters == 3).then_some(status)
    })
    .await;
    assert_eq!(after.quorum.failure_tolerance, 1, "{after:?}");

    // With one voter dead, the others are needed: that is said, with what to do.
    cluster.nodes[3].kill();
    until("it is down", || async { (status(&cluster).await?.quorum.voters_up == 2).then_some(()) }).await;
    let client = cluster.nodes[0].client();
    let refused = client.send(Method::DELETE, &format!("/node/{second}"), None, Uuid::new_v4()).await;
    let failure = refusal(refused);
    assert_eq!(failure.code, Code::Conflict);
    assert!(
        failure.message.contains("first start n4") && failure.message.contains("node remove"),
        "{failure:?}"
    );
    let tolerances: Vec<usize> = [status_at(&cluster, 0).await, status_at(&cluster, 1).await]
        .map(|status| status.expect("a status").quorum.failure_tolerance)
        .into();
    assert_eq!(tolerances, [0, 0], "every node tells the same");

    // The dead one can go; two voters are left, and that is said.
    ctl_ok(&cluster, 1, &["node", "remove", "n4"]);
    let left = until("two are left", || async {
        let status = status(&cluster).await?;
        (status.nodes.len() == 2).then_some(status)
    })
    .await;
    assert_eq!((left.quorum.voters, left.quorum.failure_tolerance), (2, 0));
    assert!(left.remarks.iter().any(|remark| remark.contains("neither may fail")), "{:?}", left.remarks);
    write(&cluster, 1, "after").await;
}

#[tokio::test]
async fn a_leader_leaves_while_another_node_hangs_and_the_next_one_finishes_it() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(4, 4).await;
    let leader = until("a leader", || async { status(&cluster).await?.leader }).await.node_id;
    let before = status(&cluster).await.expect("a status");
    let position = cluster.position(&before, leader).expect("one of these");
    let slow = (0..3).find(|other| *other != position).expect("another voter");
    cluster.nodes[slow].process().expect("it runs").freeze();
    let leaving = ctl_in_background(&cluster, position, &["leave"]);
    sleep(Duration::from_secs(4)).await;
    cluster.nodes[slow].process().expect("it runs").thaw();
    let output = leaving.await.expect("no panic");
    assert!(output.success, "{output:?}");
    has_left(&mut cluster, position);
    let after = until("three nodes vote", || async {
        let status = status(&cluster).await?;
        (status.nodes.len() == 3 && status.quorum.voters == 3).then_some(status)
    })
    .await;
    assert_ne!(after.leader.expect("a leader").node_id, leader);
    write(&cluster, slow, "after").await;
}

fn ctl_in_background(
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

#[tokio::test]
async fn a_reinstalled_host_takes_the_place_of_the_node_that_it_was() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(3, 3).await;
    let old = id(&cluster, 2).await;
    cluster.nodes[2].kill();
    std::fs::remove_dir_all(cluster.nodes[2].state_dir()).expect("the disk is gone");
    until("it is down", || async { (status(&cluster).await?.quorum.voters_up == 2).then_some(()) }).await;

    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    let path = format!("/node/{old}/replacement");
    let made: CreatedToken = client.put(&path, &ReplaceNode::default()).await.expect("a token");
    cluster
        .join_with(2, &made.token.expect("it is shown"))
        .await
        .expect("joined, with the same name and address");
    let after = until("the new one votes, the old one is gone", || async {
        let status = status(&cluster).await?;
        (status.nodes.len() == 3 && status.quorum.voters_up == 3).then_some(status)
    })
    .await;
    let new = after.nodes.iter().find(|node| node.name.as_str() == "n3").expect("its name").id;
    assert!(new > old, "{new} takes the place of {old}");
    write(&cluster, 2, "after").await;
}

#[tokio::test]
async fn a_node_that_comes_back_with_another_address_is_followed() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(3, 4).await;
    let moved = id(&cluster, 2).await;
    let elsewhere = cluster.nodes[3].address;
    cluster.nodes[2].terminate(START_PATIENCE).expect("it ends in order");
    cluster.nodes[2].address = elsewhere;
    cluster.nodes[2].write_config(&cluster.options).expect("written");
    cluster.nodes[2].start_ready().await.expect("it comes back");
    for position in 0..3 {
        until("every node sees it there, and nobody twice", || async {
            let status = status_at(&cluster, position).await?;
            let there = status.nodes.iter().find(|node| node.address.ip() == elsewhere)?;
            let well = status.nodes.len() == 3 && there.id == moved && there.seen_by.len() == 2;
            (well && status.quorum.voters_up == 3).then_some(())
        })
        .await;
    }
    write(&cluster, 2, "after").await;
}

#[tokio::test]
async fn a_node_that_was_away_while_all_others_were_replaced_catches_up() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(3, 5).await;
    write(&cluster, 0, "before").await;
    cluster.nodes[2].terminate(START_PATIENCE).expect("it ends in order");
    for newcomer in [3, 4] {
        cluster.join(newcomer).await.expect("joined");
    }
    until("both newcomers vote", || async { (voters(&cluster).await? == 5).then_some(()) }).await;
    for (old, by) in [("n1", 3), ("n2", 4)] {
        ctl_ok(&cluster, by, &["node", "remove", old]);
    }
    has_left(&mut cluster, 0);
    has_left(&mut cluster, 1);
    write(&cluster, 4, "meanwhile").await;

    // It knows none of those who are there now.
    cluster.nodes[2].start().expect("started");
    until("it has caught up", || async {
        let status = status_at(&cluster, 2).await?;
        let client = cluster.nodes[2].client();
        client.get::<Value>("/org/meanwhile").await.ok()?;
        (status.nodes.len() == 3 && status.quorum.voters_up == 3).then_some(())
    })
    .await;
    write(&cluster, 2, "after").await;
}

#[tokio::test]
async fn a_host_is_checked_from_every_node_before_it_joins_and_nothing_is_written() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(2, 3).await;
    let token = cluster.token().await.expect("a token");
    let check = |cluster: &Cluster| {
        let mut command = cluster.nodes[2].command("join");
        command.arg("--check");
        process::run(command, &token, START_PATIENCE).expect("pangolind join --check")
    };
    let told = check(&cluster).ok("join --check").expect("all is well").stdout;
    for line in [
        "ok      no node in",
        "ok      the cluster lets n3 in",
        "ok      this clock agrees with that of n1",
        "ok      this clock agrees with that of n2",
        "ok      from n1 to peers",
        "ok      from n2 to tunnel",
        "ok      from here to n2, peers",
    ] {
        assert!(told.contains(line), "{line:?} is not in {told}");
    }
    assert!(!told.contains("FAILED"), "{told}");
    assert!(!cluster.nodes[2].state_dir().exists(), "nothing is written");

    // What would not work is found before it is tried: a name that is taken, a port that somebody has.
    let _somebody = std::net::TcpListener::bind(cluster.nodes[2].https()).expect("bound");
    cluster.nodes[2].name = "n1".to_owned();
    cluster.nodes[2].write_config(&cluster.options).expect("written");
    let output = check(&cluster);
    assert_eq!(output.code, Some(1));
    for (line, why) in [("the cluster lets n1 in", "is taken by node 1"), ("open https", "cannot listen on")]
    {
        let found =
            output.stdout.lines().any(|l| l.starts_with("FAILED") && l.contains(line) && l.contains(why));
        assert!(found, "{line:?} is not in {output:?}");
    }
    drop(_somebody);
    cluster.nodes[2].name = "n3".to_owned();
    cluster.nodes[2].write_config(&cluster.options).expect("written");
    cluster.join_with(2, &token).await.expect("the token is still good");
}

#[tokio::test]
async fn a_host_that_was_cut_off_after_its_admission_joins_with_a_new_token_as_the_same_node() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(2, 3).await;
    let join = |cluster: &Cluster, token: &str| {
        process::run(cluster.nodes[2].command("join"), token, START_PATIENCE).expect("pangolind join")
    };
    let token = cluster.token().await.expect("a token");
    join(&cluster, &token).ok("join").expect("joined");
    let first = id(&cluster, 2).await;
    // It was admitted, but what it was told never got to its disk.
    for file in ["identity.json", "keyring"] {
        std::fs::remove_file(cluster.nodes[2].state_dir().join(file)).expect("removed");
    }
    let token = cluster.token().await.expect("another token");
    join(&cluster, &token).ok("join").expect("joined again");
    assert_eq!(id(&cluster, 2).await, first);
    cluster.nodes[2].start_ready().await.expect("it runs");
    until("three vote", || async { (voters(&cluster).await? == 3).then_some(()) }).await;
    assert_eq!(status(&cluster).await.expect("a status").nodes.len(), 3);
}

#[tokio::test]
async fn draining_a_node_disturbs_nobody_and_it_comes_back() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(3, 3).await;
    Site::found(&cluster).await.expect("an organisation and a domain");
    let mut site = Site::publish(&cluster, "lab", "hello", None).await.expect("a site");
    site.settled(&cluster, START_PATIENCE).await.expect("tunnels");
    let https = cluster.https_client().await.expect("the authority");
    for position in 0..3 {
        site.served_by(&cluster, &https, position).await.expect("served");
    }
    let leader = until("a leader", || async { status(&cluster).await?.leader }).await.node_id;
    let position =
        cluster.position(&status(&cluster).await.expect("a status"), leader).expect("one of these");
    let other = (position + 1) % 3;
    let name = cluster.nodes[position].name.clone();

    let probers: Vec<Prober> =
        cluster.nodes.iter().map(|node| Prober::start(https.clone(), node.https(), &site.host)).collect();
    sleep(Duration::from_secs(1)).await;
    ctl_ok(&cluster, other, &["node", "drain", &name]);
    until("it gives the leadership away", || async {
        (status_at(&cluster, other).await?.leader?.node_id != leader).then_some(())
    })
    .await;
    let drained = cluster.nodes[position].address;
    for node in &cluster.nodes {
        until("DNS names it no more", || async {
            let answer = dns::ask(node.dns(), &site.host, Kind::A).await.ok()?;
            (!answer.addresses.contains(&drained) && answer.addresses.len() == 2).then_some(())
        })
        .await;
    }
    let refused = ctl(&cluster, other, &["leader", "transfer", "--to", &name]);
    assert!(refused.stderr.contains("drained"), "{refused:?}");
    sleep(Duration::from_secs(2)).await;
    ctl_ok(&cluster, other, &["node", "undrain", &name]);
    until("DNS names it again", || async {
        let answer = dns::ask(cluster.nodes[other].dns(), &site.host, Kind::A).await.ok()?;
        answer.addresses.contains(&drained).then_some(())
    })
    .await;
    sleep(Duration::from_secs(1)).await;
    for prober in probers {
        let figures = prober::figures(&prober.stop().await);
        assert_eq!(figures.failed, 0, "{figures:?}");
    }
    let node: Value = cluster.nodes[other].client().get(&format!("/node/{leader}")).await.expect("the node");
    assert_eq!(node["admin"], json!(AdminState::Active));
    let cause = node["adminCause"].as_str().expect("a cause");
    assert!(
        cause.starts_with("operator ") && cause.contains(&format!("POST /api/v1/node/{leader}")),
        "{cause}"
    );
    cluster.nodes[position].terminate(START_PATIENCE).expect("it ends in order");
}

#[tokio::test]
async fn a_cluster_is_taken_apart_down_to_the_node_that_is_asked() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(4, 4).await;
    write(&cluster, 0, "before").await;
    let wrong = ctl(&cluster, 3, &["disband", "--yes", "other"]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("this is the cluster demo, not other"), "{wrong:?}");
    assert_eq!(status(&cluster).await.expect("a status").nodes.len(), 4, "nothing was changed");

    // The fourth node is the learner among them.
    let told = ctl_ok(&cluster, 3, &["disband", "--yes", "demo"]);
    assert!(told.contains("all that is left"), "{told}");
    for position in 0..3 {
        has_left(&mut cluster, position);
    }
    let alone = status_at(&cluster, 3).await.expect("a status");
    assert_eq!((alone.nodes.len(), alone.quorum.voters), (1, 1));
    write(&cluster, 3, "after").await;
    let kept: Value = cluster.nodes[3].client().get("/org/before").await.expect("what was written before");
    assert_eq!(kept["name"], json!("before"));
}
