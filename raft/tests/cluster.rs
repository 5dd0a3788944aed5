//! A group of nodes over real connections: what it acknowledges stays, whoever leads.

mod support;

use std::time::Duration;

use pangolin_core::{
    agreement::HASHES_KEPT,
    codec::COMMAND_MAX,
    command::{Body, Fence},
    feature::{self, FeatureLevel},
    id::{NodeId, Revision},
    name::Slug,
    outcome::{Outcome, Refusal},
    record::NodeSpec,
    time::Timestamp,
};
use pangolin_raft::{Clock, MembershipError, NotYet, ProposeError, RaftError, ServerState, Timing};
use pangolin_storage::simulated::{Disk, Fault};
use support::{Group, WAIT, insist, named, org, proposal, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_three_takes_writes_on_any_node_and_survives_a_restart_of_all() {
    let mut group = Group::of(3).await;
    for id in 1..=3 {
        let name = format!("org{id}");
        let committed = insist(group.node(id), named(org(&name))).await;
        assert!(matches!(committed.outcome, Outcome::Done(_)), "{committed:?}");
        for reader in 1..=3 {
            group.node(reader).wait_applied(committed.revision, WAIT).await.expect("applied");
            assert!(group.node(reader).state().orgs().contains_key(&name.parse::<Slug>().expect("slug")));
        }
    }
    let revision = group.node(2).read_barrier(WAIT).await.expect("confirmed");
    assert_eq!(group.node(2).state().orgs().len(), 3);
    assert!(revision.index >= 4);
    group.settle(1).await;
    let digests: Vec<_> = (1..=3).map(|id| group.node(id).state().digest().expect("digest")).collect();
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));

    let before = group.node(1).state();
    let mut stopped = Vec::new();
    for id in 1..=3 {
        stopped.push(group.stop(id).await);
    }
    for node in stopped {
        group.revive(node).await;
    }
    // What was committed is there before anyone leads.
    assert_eq!(group.node(1).state().orgs().len(), 3);
    assert!(group.node(1).is_bootstrapped());
    let refused = group.node(1).bootstrap().await.expect_err("has a history");
    assert!(matches!(refused, RaftError::Bootstrapped));
    group.leader().await;
    insist(group.node(3), named(org("after"))).await;
    assert!(group.node(3).state().revision() > before.revision());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_dies_nothing_acknowledged_is_lost_and_a_repeat_is_not_done_twice() {
    let mut group = Group::of(3).await;
    let old = group.leader().await;
    let request = named(org("once"));
    let first = insist(group.node(old), request.clone()).await;
    let dead = group.kill(old);
    let survivor = *group.nodes.keys().next().expect("two are left");
    // A write during the election waits for its end.
    let second = insist(group.node(survivor), named(org("second"))).await;
    assert!(second.revision > first.revision);
    let new = group.leader().await;
    assert_ne!(new, old);
    let repeated = insist(group.node(survivor), request.clone()).await;
    assert_eq!(repeated, first);
    assert_eq!(group.node(new).state().orgs().len(), 2);

    group.revive(dead).await;
    group.settle(new).await;
    assert_eq!(insist(group.node(old), request).await, first);
    assert_eq!(group.node(old).state().orgs().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_a_write_is_refused_or_its_outcome_unknown() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let others: Vec<u64> = group.nodes.keys().copied().filter(|id| *id != leader).collect();
    let mut leadership = group.node(leader).leadership();
    let _first = group.kill(others[0]);
    let _second = group.kill(others[1]);
    let alone = group.node(leader);
    // Appended while it still believed in its majority.
    let error = alone.propose(proposal(org("lost"))).await.expect_err("no majority");
    assert!(
        matches!(error, ProposeError::OutcomeUnknown { .. } | ProposeError::NotAppended { .. }),
        "{error}"
    );
    tokio::time::timeout(WAIT, leadership.wait_for(Option::is_none)).await.expect("given up").expect("open");
    let error = alone.propose(proposal(org("refused"))).await.expect_err("no majority");
    assert!(matches!(error, ProposeError::NotAppended { .. }), "{error}");
    let error = alone.read_barrier(Duration::from_millis(300)).await.expect_err("no majority");
    assert!(matches!(error, NotYet::Unconfirmed(_)), "{error}");
    assert!(alone.state().orgs().is_empty(), "the state goes on being served");
}

/// Has node `to` lead, if it takes more than one attempt.
async fn until_handed_over(group: &Group, to: u64) {
    loop {
        let leader = group.leader().await;
        if leader == to || group.node(leader).transfer_leadership(Some(NodeId(to))).await.is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_at_once_and_on_shutdown() {
    let mut group = Group::of(3).await;
    let (old, lost, taken) = loop {
        let old = group.leader().await;
        let Some(lost) = group.node(old).lead() else { continue };
        if let Ok(taken) = group.node(old).transfer_leadership(None).await {
            break (old, lost, taken);
        }
    };
    assert_ne!(taken.0, old);
    let term = lost.term();
    until("the end of the old leadership", || {
        group.node(old).lead().is_none_or(|leader| leader.term() > term).then_some(())
    })
    .await;
    let error = lost.propose(proposal(org("too-late"))).await.expect_err("the leadership is lost");
    assert!(matches!(error, ProposeError::NotAppended { .. }), "{error}");
    assert!(matches!(lost.remove(taken).await, Err(MembershipError::Conflict(_))));
    let new = group.leader().await;
    let idle = group.nodes.keys().copied().find(|id| *id != new).expect("three nodes");
    let refused = group.node(idle).transfer_leadership(None).await.expect_err("does not lead");
    assert!(matches!(refused, RaftError::Transfer(_)));

    let started = Body::LeaderStarted { term: term + 1, node: NodeId(new) };
    insist(group.node(new), named(started)).await;
    let stale = pangolin_raft::Proposal { fence: Fence::Term(term), ..named(org("stale")) };
    let outcome = insist(group.node(new), stale).await;
    assert!(matches!(outcome.outcome, Outcome::Refused(Refusal::StaleTerm { .. })), "{outcome:?}");

    let last = group.leader().await;
    let failed = {
        let cluster = group.node(last).clone();
        tokio::spawn(async move { cluster.failed().await })
    };
    group.stop(last).await;
    assert_ne!(group.leader().await, last);
    assert!(matches!(failed.await.expect("resolved"), RaftError::Ended(_)));
    let last = group.leader().await;
    insist(group.node(last), named(org("after"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_far_apart_keep_their_leader_and_confirm_reads() {
    let group = Group::far(Duration::from_millis(150)).await;
    let leader = group.node(group.leader().await);
    let term = leader.lead().expect("leads").term();
    // Longer than any leader leads without answers, while there is nothing but heartbeats.
    tokio::time::sleep(Timing::wan().election_max * 3).await;
    assert_eq!(leader.lead().expect("leads").term(), term);
    for id in 1..=3 {
        group.node(id).read_barrier(WAIT).await.expect("confirmed");
    }
    assert_eq!(leader.lead().expect("leads").term(), term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_as_learners_vote_when_promoted_and_go() {
    let mut group = Group::of_one().await;
    group.add(2).await;
    group.join(2).await;
    let status = group.node(1).status();
    assert_eq!(status.voters, [NodeId(1)].into());
    assert_eq!(status.learners, [NodeId(2)].into());
    group.settle(1).await;
    until("a learner", || (group.node(2).status().state == ServerState::Learner).then_some(())).await;
    // A learner takes writes as well.
    insist(group.node(2), named(org("from-a-learner"))).await;
    {
        let leader = group.node(1).lead().expect("leads");
        assert_eq!(leader.promote(NodeId(9)).await, Err(MembershipError::NoLearner(NodeId(9))));
        assert_eq!(leader.remove(NodeId(1)).await, Err(MembershipError::LastVoter(NodeId(1))));
        leader.add_learner(NodeId(2)).await.expect("is a member");
        leader.promote(NodeId(2)).await.expect("promoted");
        leader.promote(NodeId(2)).await.expect("votes already");
        assert_eq!(leader.voters(), [NodeId(1), NodeId(2)].into());
        assert_eq!(leader.remove(NodeId(1)).await, Err(MembershipError::IsLeader(NodeId(1))));
        until("progress", || group.node(1).status().progress.get(&NodeId(2)).filter(|at| **at > 0).copied())
            .await;
        assert!(group.node(2).status().leader_contact.is_some_and(|since| since < WAIT));
        leader.remove(NodeId(2)).await.expect("removed");
        assert_eq!((leader.voters(), leader.learners()), ([NodeId(1)].into(), [].into()));
        leader.remove(NodeId(2)).await.expect("is gone");
    }
    // The one who is left decides alone, and the removed one cannot disturb it.
    insist(group.node(1), named(org("alone"))).await;
    tokio::time::sleep(support::TIMING.election_max * 2).await;
    insist(group.node(1), named(org("still-alone"))).await;
    assert_eq!(group.node(1).leader(), Some(NodeId(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_gets_a_snapshot() {
    let mut group = Group::tweaked(|config| {
        config.snapshot_every = 50;
        config.keep_in_log = 5;
    })
    .await;
    for number in 0..120 {
        insist(group.node(1), named(org(&format!("org{number}")))).await;
    }
    until("a snapshot", || group.node(1).status().snapshot.filter(|at| *at > 60)).await;
    group.add(2).await;
    group.join(2).await;
    group.settle(1).await;
    assert_eq!(group.node(2).state().orgs().len(), 120);
    assert!(group.node(2).status().snapshot.is_some(), "it was not replayed from the first entry");
    assert_eq!(
        group.node(1).state().digest().expect("digest"),
        group.node(2).state().digest().expect("digest")
    );
    group.promote(2).await;
    insist(group.node(2), named(org("more"))).await;
    // Both start again from snapshot and log.
    let stopped = [group.stop(2).await, group.stop(1).await];
    for node in stopped {
        group.revive(node).await;
    }
    group.leader().await;
    insist(group.node(1), named(org("again"))).await;
    group.settle(1).await;
    assert_eq!(group.node(2).state().orgs().len(), 122);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_can_be_asked_for_a_snapshot_and_holds_its_directory_alone() {
    let group = Group::of_one().await;
    insist(group.node(1), named(org("one"))).await;
    group.node(1).snapshot().await.expect("asked");
    until("a snapshot", || group.node(1).status().snapshot).await;
    let status = group.node(1).status();
    assert_eq!((status.state, status.leader), (ServerState::Leader, Some(NodeId(1))));
    assert!(status.committed >= status.applied && status.applied >= status.snapshot, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_too_large_or_one_too_many_is_not_proposed() {
    let group = Group::of_one().await;
    let huge = proposal(Body::Catalog(Box::new(pangolin_core::CatalogChange::OrgChanged {
        id: "x".parse().expect("slug"),
        name: "x".repeat(COMMAND_MAX),
    })));
    let error = group.node(1).propose(huge).await.expect_err("too large");
    assert!(matches!(error, ProposeError::TooLarge { .. }), "{error}");
    let behind =
        group.node(1).wait_applied(Revision { lineage: 1, index: 999 }, Duration::from_millis(5)).await;
    assert!(matches!(behind, Err(NotYet::Behind { .. })));
    // 1100 at once: some are refused at the door, and each of the others is committed.
    let all = (0..1100).map(|number| {
        let cluster = group.node(1).clone();
        tokio::spawn(async move { cluster.propose(named(org(&format!("o{number}")))).await })
    });
    let mut committed = 0;
    for answer in all.collect::<Vec<_>>() {
        match answer.await.expect("answered") {
            Ok(_) => committed += 1,
            Err(ProposeError::NotAppended { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(group.node(1).state().orgs().len(), committed);
    assert!(committed >= 1000, "{committed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_disk_ends_the_node_and_takes_nothing_acknowledged() {
    for fault in [Fault::Write, Fault::Sync] {
        let disk = Disk::default();
        let mut group = Group::on(disk.clone()).await;
        let kept = insist(group.node(1), named(org("kept"))).await;
        disk.fail_next(fault);
        let error = group.node(1).propose(proposal(org("lost"))).await.expect_err("the disk fails");
        assert!(matches!(error, ProposeError::OutcomeUnknown { .. }), "{error}");
        let failed = tokio::time::timeout(WAIT, group.node(1).failed()).await.expect("ended");
        assert!(failed.to_string().contains("simulated"), "{failed}");
        until("the end of the leadership", || group.node(1).leadership().borrow().is_none().then_some(()))
            .await;
        let node = group.stop(1).await;
        disk.crash(0);
        group.revive(node).await;
        // How far the log was committed went with the power: a leader has to find out first.
        group.node(1).wait_applied(kept.revision, WAIT).await.expect("applied");
        let state = group.node(1).state();
        assert!(state.orgs().contains_key(&"kept".parse::<Slug>().expect("slug")), "{state:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_wrong_clock_stamps_no_wrong_time_and_hands_over() {
    let mut group = Group::tweaked(|config| {
        if config.node == NodeId(2) {
            config.clock = Clock::from_fn(|| pangolin_peer::wall_now() + Duration::from_secs(3600));
        }
    })
    .await;
    for id in [2, 3] {
        group.add(id).await;
        group.join(id).await;
        group.promote(id).await;
    }
    until_handed_over(&group, 2).await;
    insist(group.node(2), named(org("stamped"))).await;
    let latest = pangolin_peer::wall_now() + Duration::from_secs(2);
    let stamped = group.node(2).state().time();
    assert!(stamped <= latest, "the log is at {stamped}, it is {latest}");
    let deadline = tokio::time::Instant::now() + WAIT;
    while group.node(1).leader().is_none_or(|leader| leader == NodeId(2)) {
        assert!(tokio::time::Instant::now() < deadline, "node 2 still leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_is_hashed_at_checkpoints() {
    // A second for each millisecond: every entry is a checkpoint.
    let group = Group::tweaked(|config| {
        config.clock = Clock::from_fn(|| Timestamp(pangolin_peer::wall_now().0 * 1000))
    })
    .await;
    let cluster = group.node(1);
    let deadline = tokio::time::Instant::now() + WAIT;
    for number in 0.. {
        let committed = insist(cluster, named(org(&format!("o{number}")))).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let hashes = cluster.hashes();
        if hashes.len() == HASHES_KEPT {
            let last = hashes.last().expect("a hash");
            assert_eq!(last.revision, committed.revision);
            assert_eq!(last.digest, cluster.state().digest().expect("a digest"));
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{hashes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_meets_a_higher_level_stops_says_why_and_loses_nothing() {
    let mut group = Group::of_one().await;
    let cluster = group.node(1).clone();
    let higher = FeatureLevel(feature::NEWEST.0 + 1);
    let known = cluster.state().nodes()[&NodeId(1)].spec.clone();
    let spec = Box::new(NodeSpec { feature_level: higher, ..known });
    insist(&cluster, named(Body::NodeChanged { node: NodeId(1), spec })).await;
    // A newer version would go on from here.
    let _ = cluster.propose(proposal(Body::FeatureLevelRaised(higher))).await;
    let reason = tokio::time::timeout(WAIT, cluster.failed()).await.expect("it ends").to_string();
    assert!(reason.contains("feature level") && reason.contains("nothing is lost"), "{reason}");
    drop(cluster);
    let stopped = group.stop(1).await;
    let reason = group.try_revive(stopped).await.expect_err("not with this program").to_string();
    assert!(reason.contains("feature level") && reason.contains("install"), "{reason}");
}
