//! Two data nodes and a witness: any one of the three may fail.

use http::Method;
use pangolin_chaos::{
    cluster::{Cluster, Options, START_PATIENCE},
    dns::{self, Kind},
};
use pangolin_core::record::NodeRole;
use pangolin_wire::{ClientError, ClusterStatus, Code, RaftPart, TransferLeader};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::lab::*;

/// Most memory of a witness: it runs on the smallest host that there is. A build for development takes half as much
/// again.
const WITNESS_MEMORY_MAX_KIB: u64 = if cfg!(debug_assertions) { 96 } else { 64 } * 1024;
/// Where the witness stands among the nodes.
const WITNESS: usize = 2;

async fn two_and_a_witness() -> Cluster {
    let options = Options::of_a_test().expect("addresses and ports");
    let mut cluster = Cluster::prepare(options).expect("prepared");
    cluster.init().await.expect("the first node");
    cluster.join(1).await.expect("the second node");
    cluster.join_as(WITNESS, NodeRole::Witness).await.expect("the witness");
    cluster.healthy(PATIENCE).await.expect("three vote");
    cluster
}

/// Who leads, by the word of the node at `position`.
async fn leader(cluster: &Cluster, position: usize) -> Option<(String, ClusterStatus)> {
    let status: ClusterStatus = cluster.nodes[position].client().get("/cluster/status").await.ok()?;
    let name = status.leader.as_ref()?.name.as_ref()?.to_string();
    status.partial.is_none().then_some((name, status))
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[tokio::test]
async fn any_one_of_three_may_die_and_the_witness_carries_nothing() {
    let _turn = TURN.lock().await;
    let mut cluster = two_and_a_witness().await;
    let witness = &cluster.nodes[WITNESS];
    assert!(!witness.state_dir().join("keyring").exists(), "it holds no key");
    for at in [witness.https(), witness.http(), witness.dns()] {
        tokio::net::TcpStream::connect(at).await.expect_err("nobody is served there");
    }
    let refused =
        witness.client().send(Method::PUT, "/org", Some(json!({ "orgId": "x" })), Uuid::new_v4()).await;
    let Err(ClientError::Refused(failure)) = refused else { panic!("{refused:?}") };
    assert_eq!(failure.code, Code::Conflict);
    assert!(failure.message.contains("this node is a witness"), "{failure:?}");
    let (_, status) = leader(&cluster, WITNESS).await.expect("it tells what the leader says");
    assert_eq!((status.quorum.voters, status.quorum.failure_tolerance), (3, 1));
    let itself = status.nodes.iter().find(|node| node.role == NodeRole::Witness).expect("the witness");
    let lead = TransferLeader { to: Some(itself.id) };
    let refused = cluster.nodes[0].client().post::<_, Value>("/cluster/leader/transfer", &lead).await;
    assert!(refused.expect_err("refused").to_string().contains("is a witness"));
    // Names lead to data nodes only, and only those answer for the zone.
    let zone = cluster.options.zone.clone();
    let servers = dns::ask(cluster.nodes[0].dns(), &zone, Kind::Ns).await.expect("NS");
    assert_eq!(servers.answers, 2);

    for victim in 0..3 {
        let other = (victim + 1) % 2;
        cluster.nodes[victim].kill();
        write(&cluster, other, &format!("without-{victim}")).await;
        until("a data node leads", || async {
            let (name, _) = leader(&cluster, other).await?;
            (name == cluster.nodes[other].name || victim == WITNESS).then_some(())
        })
        .await;
        write(&cluster, other, &format!("still-without-{victim}")).await;
        cluster.nodes[victim].start_ready().await.expect("back");
        cluster.healthy(PATIENCE).await.expect("healthy");
    }
    let pid = cluster.nodes[WITNESS].process().expect("it runs").pid();
    let memory = resident_kib(pid);
    assert!(memory <= WITNESS_MEMORY_MAX_KIB, "the witness takes {memory} KiB");
}

#[tokio::test]
async fn what_a_dead_node_and_the_witness_alone_have_written_is_not_lost() {
    let _turn = TURN.lock().await;
    let mut cluster = two_and_a_witness().await;
    // The first node leads; the second one misses what is written now.
    let (name, status) = leader(&cluster, 0).await.expect("a leader");
    if name != cluster.nodes[0].name {
        let to = status.nodes.iter().find(|node| node.name.as_str() == "n1").map(|node| node.id);
        let client = cluster.nodes[0].client().with_deadline(PATIENCE);
        client.post::<_, Value>("/cluster/leader/transfer", &TransferLeader { to }).await.expect("it leads");
        cluster.healthy(PATIENCE).await.expect("healthy");
    }
    cluster.nodes[1].process().expect("it runs").freeze();
    for number in 0..20 {
        write(&cluster, 0, &format!("only-two-know-{number}")).await;
    }
    cluster.nodes[0].kill();
    cluster.nodes[1].process().expect("it runs").thaw();

    until("the second node has caught up and leads", || async {
        let (name, status) = leader(&cluster, 1).await?;
        let part = status.nodes.iter().find(|node| node.name.as_str() == "n2")?.raft;
        (name == "n2" && part == RaftPart::Leader).then_some(())
    })
    .await;
    for number in 0..20 {
        let path = format!("/org/only-two-know-{number}");
        cluster.nodes[1].client().get::<Value>(&path).await.expect("what was acknowledged");
    }
    write(&cluster, 1, "after").await;
    let log = std::fs::read_to_string(cluster.nodes[WITNESS].log()).expect("its log");
    assert!(log.contains("handing the leadership over"), "the witness led in between:\n{log}");

    cluster.nodes[0].start_ready().await.expect("back");
    cluster.healthy(PATIENCE).await.expect("healthy");
    assert!(cluster.nodes[WITNESS].terminate(START_PATIENCE).expect("it ends in order").success());
}
