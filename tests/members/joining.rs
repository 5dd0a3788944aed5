//! Nodes that come, come back, or come in the place of others.

use pangolin_chaos::{
    cluster::{Cluster, START_PATIENCE},
    process,
};
use pangolin_wire::{CreatedToken, ReplaceNode};
use serde_json::Value;

use crate::lab::*;

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
        "ok      from here to n1, https",
        "ok      from here to n2, https",
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

    // A node that cannot be asked is named.
    cluster.nodes[1].kill();
    let output = check(&cluster);
    assert_eq!(output.code, Some(1));
    let missing = "FAILED  from n2 to this host: n2 could not be asked";
    assert!(output.stdout.contains(missing), "{output:?}");
    assert!(output.stdout.contains("ok      from n1 to peers"), "{output:?}");
    assert!(!output.stdout.contains("agrees with that of n2"), "nobody knows: {output:?}");
    cluster.nodes[1].start_ready().await.expect("it is back");
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
    let mut check = cluster.nodes[2].command("join");
    check.arg("--check");
    let checked = process::run(check, &token, START_PATIENCE).expect("pangolind join --check");
    let told = checked.ok("join --check").expect("its own name and address are not taken").stdout;
    assert!(told.contains("ok      the cluster lets n3 in"), "{told}");
    join(&cluster, &token).ok("join").expect("joined again");
    assert_eq!(id(&cluster, 2).await, first);
    cluster.nodes[2].start_ready().await.expect("it runs");
    until("three vote", || async { (voters(&cluster).await? == 3).then_some(()) }).await;
    assert_eq!(status(&cluster).await.expect("a status").nodes.len(), 3);
}

#[tokio::test]
async fn a_node_that_cannot_tell_says_so_and_the_joiner_asks_the_next_before_it_gives_up() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(3, 4).await;
    let token = cluster.token().await.expect("a token");
    for stopped in [1, 2] {
        cluster.nodes[stopped].process().expect("it runs").freeze();
    }
    let output =
        process::run(cluster.nodes[3].command("join"), &token, 3 * PATIENCE).expect("pangolind join");
    assert_eq!(output.code, Some(1), "{output:?}");
    let (first, second) = (cluster.nodes[0].address, cluster.nodes[1].address);
    for words in [
        "no node of the cluster has answered".to_owned(),
        format!("{first}:"),
        "the node cannot answer now".to_owned(),
        format!("{second}:"),
    ] {
        assert!(output.stderr.contains(&words), "{words:?} is not in {output:?}");
    }
    assert!(!cluster.nodes[3].state_dir().join("identity.json").exists(), "it is no node");

    for stopped in [1, 2] {
        cluster.nodes[stopped].process().expect("it runs").thaw();
    }
    until("three nodes agree", || async { (voters(&cluster).await? == 3).then_some(()) }).await;
    cluster.join_with(3, &token).await.expect("the same token is still good");
}
