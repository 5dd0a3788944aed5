//! Backups as operators have them: which keys open them, where their copies lie, and what is said of a gap.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

#[allow(dead_code, reason = "each test file uses its own part of it")]
mod hosts;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use hosts::{
    PATIENCE, archived, back_up, begun, configured, copy, has_org, leads, made_again, org, pangolinctl, shown,
};
use pangolin_node as _;
use pangolin_wire::{BackupList, Event, EventPage};
use tokio::time::sleep;

/// Several nodes keep a small machine busy: one story at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn a_backup_made_right_after_init_opens_with_the_recovery_key() {
    let _turn = TURN.lock().await;
    let (mut cluster, key) = begun(2).await;
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    let made = back_up(&client).await;
    let saved = cluster.dir().join("saved");
    std::fs::create_dir_all(&saved).expect("made");
    let file = saved.join(&made.name);
    std::fs::copy(cluster.nodes[0].state_dir().join("backups").join(&made.name), &file).expect("copied");
    cluster.nodes[0].kill();
    let (done, said) = made_again(&mut cluster, &file, &key).await;
    assert!(done, "{said}");
    // Its own backups are encrypted to the same key.
    let client = cluster.nodes[1].client().with_deadline(PATIENCE);
    let end = Instant::now() + PATIENCE;
    while client.get::<BackupList>("/node/backups").await.expect("listed").recovery_key.is_none() {
        assert!(Instant::now() < end, "the recovery key is not known");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_new_recovery_key_opens_what_is_backed_up_from_then_on_and_the_old_one_does_not() {
    let _turn = TURN.lock().await;
    let (mut cluster, old) = begun(2).await;
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    org(&client, "early").await;
    back_up(&client).await;
    let before = client.get::<BackupList>("/node/backups").await.expect("listed").recovery_key;
    let shown = pangolinctl(&cluster, 0, &["backup", "new-key"]);
    assert!(shown.success && shown.stdout.starts_with("pgr1."), "{shown:?}");
    let after = client.get::<BackupList>("/node/backups").await.expect("listed").recovery_key;
    assert!(after.is_some() && after != before, "{before:?} {after:?}");
    org(&client, "late").await;
    archived(&client).await;
    let told = pangolinctl(&cluster, 0, &["events"]).stdout;
    assert!(told.contains("recovery key"), "{told}");

    let saved = cluster.dir().join("saved");
    copy(&cluster.nodes[0].state_dir().join("backups"), &saved);
    cluster.nodes[0].kill();
    let (done, said) = made_again(&mut cluster, &saved, &old).await;
    assert!(!done && said.contains("encrypted to the recovery key"), "{said}");
    let (done, said) = made_again(&mut cluster, &saved, shown.stdout.trim()).await;
    assert!(done, "{said}");
    let client = cluster.nodes[1].client().with_deadline(PATIENCE);
    for id in ["early", "late"] {
        assert!(has_org(&client, id).await, "{id} is gone");
    }
}

#[tokio::test]
async fn the_second_place_alone_makes_the_cluster_again() {
    let _turn = TURN.lock().await;
    let second = |dir: &Path, _: usize| format!("second_dir = {:?}\n", dir.join("share"));
    let (mut cluster, key) = configured(2, second);
    cluster.nodes[0].start_ready().await.expect("it runs");
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    org(&client, "early").await;
    back_up(&client).await;
    org(&client, "late").await;
    let last = archived(&client).await;
    let share = cluster.dir().join("share");
    let clusters: Vec<PathBuf> =
        std::fs::read_dir(&share).expect("a share").map(|entry| entry.expect("an entry").path()).collect();
    assert_eq!(clusters.len(), 1, "{clusters:?}");
    // It is written right behind the first copy.
    let copies = clusters[0].join("node-1");
    let end = Instant::now() + PATIENCE;
    while !copies.join(&last).exists() {
        assert!(Instant::now() < end, "{last} is not copied");
        sleep(Duration::from_millis(50)).await;
    }
    cluster.nodes[0].kill();
    std::fs::remove_dir_all(cluster.nodes[0].state_dir()).expect("lost");

    let (done, said) = made_again(&mut cluster, &copies, &key).await;
    assert!(done, "{said}");
    for id in ["early", "late"] {
        shown(&cluster, 1, id).await;
    }
}

#[tokio::test]
async fn a_gap_in_the_archive_is_told_with_the_entries_that_are_missing() {
    let _turn = TURN.lock().await;
    let (mut cluster, _key) = begun(1).await;
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    let first = back_up(&client).await;
    org(&client, "missing").await;
    let lost = archived(&client).await;
    // A node that starts again begins another segment.
    cluster.nodes[0].terminate(PATIENCE).expect("an end in order");
    cluster.nodes[0].start_ready().await.expect("it runs");
    leads(&cluster, 0).await;
    org(&client, "behind").await;
    archived(&client).await;
    let last = back_up(&client).await;
    std::fs::remove_file(cluster.nodes[0].state_dir().join("backups").join(lost)).expect("lost");

    let page: EventPage = client.get("/events?limit=200").await.expect("events");
    let about = |event: &&Event| event.subjects.iter().any(|about| about.id.as_deref() == Some("missing"));
    let event = page.events.iter().find(about).expect("an event");
    let missing = format!("entries {} to ", first.revision.index + 1);
    for at in [event.revision.to_string(), event.at.to_string()] {
        let refused = pangolinctl(&cluster, 0, &["backup", "restore", "--at", &at, "--yes"]);
        assert!(!refused.success && refused.stderr.contains(&missing), "{at}: {refused:?}");
    }
    assert!(has_org(&client, "missing").await, "nothing was changed");
    // Before and behind the gap it works.
    for at in [first.revision, last.revision] {
        let done = pangolinctl(&cluster, 0, &["backup", "restore", "--at", &at.to_string(), "--yes"]);
        assert!(done.success, "{at}: {done:?}");
        assert_eq!(has_org(&client, "behind").await, at == last.revision);
    }
}
