//! Who did what to the cluster: every verb leaves its entry, and a learner votes by an operator's word.

use pangolin_core::NodeId;
use pangolin_wire::{EventPage, JournalPage, PAGE_MAX, RaftPart};

use crate::lab::*;

/// A verb: its command, the request that it makes, and whether it changes something.
type Verb<'a> = (&'a [&'a str], &'a str, bool);

/// How often the node at `position` has noted this write, whatever it answered.
async fn noted(cluster: &pangolin_chaos::cluster::Cluster, position: usize, request: &str) -> usize {
    let page: JournalPage = cluster.nodes[position]
        .client()
        .get(&format!("/node/journal?limit={PAGE_MAX}"))
        .await
        .expect("a journal");
    page.entries.iter().filter(|entry| entry.what.starts_with(&format!("{request} was answered"))).count()
}

/// How many decisions of the cluster name this request as their cause.
async fn decided(cluster: &pangolin_chaos::cluster::Cluster, position: usize, request: &str) -> usize {
    let page: EventPage = cluster.nodes[position]
        .client()
        .get(&format!("/events?since=0&limit={PAGE_MAX}"))
        .await
        .expect("events");
    assert!(page.missing_up_to.is_none() && !page.more, "all of them are read");
    page.events.iter().filter(|event| event.reason.starts_with(request)).count()
}

#[tokio::test]
async fn a_learner_votes_when_an_operator_says_so_and_every_verb_leaves_one_entry() {
    let _turn = TURN.lock().await;
    let mut cluster = cluster_of(4, 4).await;
    let learner = id(&cluster, 3).await;
    becomes(&cluster, learner, RaftPart::Learner).await;
    let [second, third] = [id(&cluster, 1).await, id(&cluster, 2).await].map(|NodeId(id)| id);
    let (first, fourth) = (id(&cluster, 0).await.0, learner.0);

    let at = |verb: &str, path: &str| format!("{verb} /api/v1{path}");
    let promote = at("POST", &format!("/node/{fourth}/promote"));
    let told = ctl_ok(&cluster, 0, &["node", "promote", "n4"]);
    assert!(told.contains(&format!("node {fourth} votes")), "{told}");
    becomes(&cluster, learner, RaftPart::Voter).await;
    assert_eq!(voters(&cluster).await, Some(4), "also where that makes their number even");
    assert_eq!((noted(&cluster, 0, &promote).await, decided(&cluster, 0, &promote).await), (1, 1));
    // It changes nothing a second time, and is noted all the same: by the node that was asked.
    ctl_ok(&cluster, 0, &["node", "promote", "n4"]);
    assert_eq!(noted(&cluster, 0, &promote).await, 2);

    let node = |id: u64| at("POST", &format!("/node/{id}"));
    let (drain, transfer, autopilot) =
        (node(second), at("POST", "/cluster/leader/transfer"), at("POST", "/cluster/autopilot"));
    let (token, replacement) =
        (at("PUT", "/cluster/token"), at("PUT", &format!("/node/{third}/replacement")));
    let (backup, verify, key) =
        (at("PUT", "/node/backup"), at("POST", "/node/backups/verify"), at("POST", "/cluster/recovery-key"));
    let (restore, upgrade) = (at("POST", "/cluster/restore"), at("POST", "/cluster/upgrade"));
    let (rotate, removal) = (at("POST", "/cluster/keyring/rotate"), at("DELETE", &format!("/node/{fourth}")));
    let verbs: Vec<Verb<'_>> = vec![
        (&["node", "drain", "n2"], &drain, true),
        (&["node", "drain", "n2"], &drain, false),
        (&["node", "undrain", "n2"], &drain, true),
        (&["node", "undrain", "n2"], &drain, false),
        (&["leader", "transfer", "--to", "n3"], &transfer, true),
        (&["leader", "transfer", "--to", "n3"], &transfer, false),
        (&["autopilot", "set", "--exchange-after", "90s"], &autopilot, true),
        (&["autopilot", "set", "--exchange-after", "90s"], &autopilot, false),
        (&["token", "create"], &token, true),
        (&["node", "replace", "n3"], &replacement, true),
        (&["backup", "create"], &backup, false),
        (&["backup", "verify"], &verify, false),
        (&["backup", "new-key"], &key, true),
        (&["backup", "restore", "--yes"], &restore, true),
        (&["upgrade", "finish"], &upgrade, false),
        (&["keyring", "rotate"], &rotate, true),
        (&["node", "remove", "n4"], &removal, true),
    ];
    for (arguments, request, changes) in verbs {
        let before = (noted(&cluster, 0, request).await, decided(&cluster, 0, request).await);
        ctl_ok(&cluster, 0, arguments);
        let after = until("the entry is written", || async {
            let after = noted(&cluster, 0, request).await;
            (after > before.0).then_some(after)
        })
        .await;
        assert_eq!(after, before.0 + 1, "{arguments:?}: one entry");
        let decisions = decided(&cluster, 0, request).await - before.1;
        assert!(!changes || decisions >= 1, "{arguments:?}: it changed something");
    }
    has_left(&mut cluster, 3);

    // One that is refused is noted as well; it decides nothing.
    let refused = at("POST", "/cluster/disband");
    let output = ctl(&cluster, 0, &["disband", "--yes", "other"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!((noted(&cluster, 0, &refused).await, decided(&cluster, 0, &refused).await), (1, 0));
    ctl_ok(&cluster, 0, &["disband", "--yes", "demo"]);
    assert_eq!(noted(&cluster, 0, &refused).await, 2);
    assert!(decided(&cluster, 0, &refused).await >= 1);
    let alone = status(&cluster).await.expect("a status");
    assert_eq!(alone.nodes.iter().map(|node| node.id.0).collect::<Vec<_>>(), [first]);
    for gone in [1, 2] {
        has_left(&mut cluster, gone);
    }
}
