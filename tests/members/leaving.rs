//! Nodes that go, or give their work away.

use std::time::Duration;

use http::Method;
use pangolin_chaos::{
    cluster::START_PATIENCE,
    dns::{self, Kind},
    prober::{self, Prober},
    site::Site,
};
use pangolin_core::record::AdminState;
use pangolin_wire::{Code, RaftPart};
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use crate::lab::*;

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
