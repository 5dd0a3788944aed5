//! What the cluster does about its members by itself.

use std::time::Duration;

use pangolin_core::record::Verdict;
use pangolin_wire::RaftPart;
use tokio::time::sleep;

use crate::lab::*;

/// The shortest time after which a node that is down is given up.
const SHORT: &str = "5s";

#[tokio::test]
async fn a_learner_votes_in_the_place_of_a_voter_that_stays_down_and_the_dead_one_comes_back_as_a_learner() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(4, 4).await;
    let (dead, learner) = (id(&cluster, 2).await, id(&cluster, 3).await);
    becomes(&cluster, learner, RaftPart::Learner).await;
    ctl_ok(&cluster, 0, &["autopilot", "set", "--exchange-after", SHORT]);
    cluster.nodes[2].kill();
    becomes(&cluster, learner, RaftPart::Voter).await;
    let after = until("the dead one votes no more", || async {
        let status = status(&cluster).await?;
        let node = status.nodes.iter().find(|node| node.id == dead)?;
        (node.raft == RaftPart::Learner && node.verdict == Verdict::Down).then_some(status)
    })
    .await;
    assert_eq!((after.nodes.len(), after.quorum.voters, after.quorum.voters_up), (4, 3, 3), "{after:?}");
    assert_eq!(after.quorum.failure_tolerance, 1);

    cluster.nodes[2].start_ready().await.expect("back");
    until("it is up, and goes on as a learner", || async {
        let status = status(&cluster).await?;
        let node = status.nodes.iter().find(|node| node.id == dead)?;
        (node.raft == RaftPart::Learner && node.verdict == Verdict::Up).then_some(())
    })
    .await;
    write(&cluster, 2, "after").await;
}

#[tokio::test]
async fn a_node_that_stays_down_is_removed_only_when_the_others_stand_another_failure_without_it() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(3, 4).await;
    let dead = id(&cluster, 2).await;
    ctl_ok(&cluster, 0, &["autopilot", "set", "--remove-after", SHORT, "--exchange-after", SHORT]);
    cluster.nodes[2].kill();
    until("it is down", || async { (status(&cluster).await?.quorum.voters_up == 2).then_some(()) }).await;
    sleep(Duration::from_secs(8)).await;
    let alone = status(&cluster).await.expect("a status");
    assert_eq!((alone.nodes.len(), alone.quorum.voters), (3, 3), "two that are left need it: {alone:?}");

    // With a third one that votes, the dead one can go.
    cluster.join(3).await.expect("joined");
    let after = until("the dead one is gone", || async {
        let status = status(&cluster).await?;
        (!status.nodes.iter().any(|node| node.id == dead)).then_some(status)
    })
    .await;
    assert_eq!((after.nodes.len(), after.quorum.voters, after.quorum.voters_up), (3, 3, 3), "{after:?}");
    let told = ctl_ok(&cluster, 0, &["events"]);
    assert!(told.contains("it has been down for 5 s"), "{told}");

    // Should it come back after all, it learns of it, and takes no part any more.
    cluster.nodes[2].start().expect("started");
    has_left(&mut cluster, 2);
    write(&cluster, 3, "after").await;
}
