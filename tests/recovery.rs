//! What is left when hosts are lost: one survivor of three, or backups alone.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

#[allow(dead_code, reason = "each test file uses its own part of it")]
mod hosts;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use hosts::{PATIENCE, begun, copy, has_org, leads, org, pangolinctl, pangolind, shown};
use pangolin_chaos::cluster::Cluster;
use pangolin_node as _;
use pangolin_wire::{
    Backup, BackupList, CreatedApiKey, CreatedSite, Event, EventPage, Health, Resource, RestoreCatalog,
    RestoredCatalog, VerifiedBackups,
};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Several nodes keep a small machine busy: one story at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits until the node has ended by itself, and gives its log.
async fn ended(cluster: &mut Cluster, node: usize) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let log = std::fs::read_to_string(cluster.nodes[node].log()).unwrap_or_default();
        let process = cluster.nodes[node].process().expect("it was started");
        if process.exit_status().is_some() {
            return log;
        }
        assert!(Instant::now() < end, "it still runs: {}", process.tail());
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn one_survivor_of_three_becomes_a_cluster_again_and_old_members_are_refused() {
    let _turn = TURN.lock().await;
    let (mut cluster, _key) = begun(4).await;
    for node in [1, 2] {
        cluster.join(node).await.expect("joined");
    }
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    for number in 0..20 {
        let through = cluster.nodes[number % 3].client().with_deadline(PATIENCE);
        org(&through, &format!("kept-{number}")).await;
    }
    // What the survivor has acknowledged itself is certainly in its log.
    org(&client, "last").await;
    let before = client.get::<Health>("/health").await.expect("health").revision;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();

    // While it runs, and without its name, nothing happens.
    let running = pangolind(&cluster, 0, "recover", &["--force-new-cluster"], "demo\n");
    assert!(!running.success && running.stderr.contains("in use"), "{running:?}");
    cluster.nodes[0].kill();
    let unforced = pangolind(&cluster, 0, "recover", &[], "demo\n");
    assert!(unforced.stderr.contains("--force-new-cluster"), "{unforced:?}");
    let mistyped = pangolind(&cluster, 0, "recover", &["--force-new-cluster"], "dmeo\n");
    assert!(!mistyped.success && mistyped.stderr.contains("nothing was changed"), "{mistyped:?}");
    for word in ["Lost: ", "n2", "n3", "log time", &before.index.to_string()[..1]] {
        assert!(mistyped.stdout.contains(word), "{word:?} is not in: {}", mistyped.stdout);
    }

    let recovered = pangolind(&cluster, 0, "recover", &["--force-new-cluster"], "demo\n");
    assert!(recovered.success, "{recovered:?}");
    let asides: Vec<_> = std::fs::read_dir(cluster.nodes[0].state_dir())
        .expect("listed")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("lineage-1-"))
        .collect();
    assert_eq!(asides.len(), 1, "the old state is kept: {asides:?}");
    cluster.nodes[0].start_ready().await.expect("it runs again");
    let status = leads(&cluster, 0).await;
    assert_eq!((status.revision.lineage, status.nodes.len(), status.quorum.voters), (2, 1, 1));
    // It is told like every other decision: what, by whom, and from where on.
    let told = pangolinctl(&cluster, 0, &["events"]).stdout;
    assert!(
        told.contains("begins lineage 2, from revision 1.") && told.contains("--force-new-cluster"),
        "{told}"
    );
    for number in 0..20 {
        assert!(has_org(&client, &format!("kept-{number}")).await, "{number} was acknowledged, but is gone");
    }
    assert!(has_org(&client, "last").await);
    org(&client, "new").await;

    // A new host joins, under an id that nobody had.
    cluster.join(3).await.expect("joined");
    let status = leads(&cluster, 0).await;
    assert!(status.nodes.iter().all(|node| node.id.0 == 1 || node.id.0 > 1_000_000), "{status:?}");
    shown(&cluster, 3, "new").await;

    // An old member is refused, says why, and ends.
    cluster.nodes[1].start().expect("started");
    let log = ended(&mut cluster, 1).await;
    assert!(log.contains("has begun a new lineage, 2") && log.contains("join the cluster anew"), "{log}");
    assert!(has_org(&client, "new").await, "the cluster did not mind");
    for node in &cluster.nodes {
        let log = std::fs::read_to_string(node.log()).unwrap_or_default();
        assert!(!log.contains("panicked at"), "{log}");
    }
}

#[tokio::test]
async fn an_earlier_catalog_comes_back_but_nothing_that_was_revoked() {
    let _turn = TURN.lock().await;
    let (cluster, _key) = begun(1).await;
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    org(&client, "acme").await;
    let domain = json!({ "baseDomain": "acme.example" });
    let _: Value = client.put("/org/acme/domain", &domain).await.expect("a domain");
    let made = json!({ "name": "home" });
    let site: CreatedSite = client.put("/org/acme/site", &made).await.expect("a site");
    let robot = json!({ "name": "robot", "scope": "cluster" });
    let key: CreatedApiKey = client.put("/api-key", &robot).await.expect("a key");
    let body = json!({ "name": "www", "fullDomain": "www.acme.example" });
    let resource: Resource = client.put("/org/acme/resource", &body).await.expect("a resource");
    let (site, key, resource) = (site.site.site_id, key.api_key.api_key_id, resource.resource_id);

    let made: Backup = client.put("/node/backup", &json!({})).await.expect("made");
    let then = made.revision;
    client.delete(&format!("/resource/{resource}")).await.expect("deleted");
    client.delete(&format!("/site/{site}")).await.expect("deleted");
    client.delete(&format!("/api-key/{key}")).await.expect("revoked");
    org(&client, "later").await;
    let between = client.get::<Health>("/health").await.expect("health").revision;
    org(&client, "latest").await;

    // To a backup, and on from there to an entry between backups.
    let at = Some(then.to_string());
    let done: RestoredCatalog =
        client.post("/cluster/restore", &RestoreCatalog { at }).await.expect("restored");
    assert_eq!((done.from, done.resources), (Some(then), 1));
    assert_eq!(done.sites_without_credentials, ["acme/home"]);
    client.get::<Value>(&format!("/resource/{resource}")).await.expect("it is back");
    client.get::<Value>(&format!("/site/{site}")).await.expect("it is back");
    client.get::<Value>(&format!("/api-key/{key}")).await.expect_err("it was revoked");
    assert!(!has_org(&client, "later").await);
    let at = Some(between.index.to_string());
    let done: RestoredCatalog =
        client.post("/cluster/restore", &RestoreCatalog { at }).await.expect("restored");
    assert_eq!((done.from, done.resources), (Some(between), 0));
    assert!(has_org(&client, "later").await && !has_org(&client, "latest").await);

    // To a time: that of the last change that is to be there, as the events tell it.
    let page: EventPage = client.get("/events?limit=100").await.expect("events");
    let latest = |event: &&Event| event.subjects.iter().any(|about| about.id.as_deref() == Some("latest"));
    let event = page.events.iter().find(latest).expect("the last organisation was made");
    let at = Some(event.at.to_string());
    let done: RestoredCatalog =
        client.post("/cluster/restore", &RestoreCatalog { at }).await.expect("restored");
    assert_eq!(done.time, Some(event.at));
    assert!(has_org(&client, "latest").await);
    let told = pangolinctl(&cluster, 0, &["events"]).stdout;
    assert!(told.contains("gets the catalog of revision"), "{told}");

    // By hand: listed, verified, restored; and what cannot be is said.
    let listed = pangolinctl(&cluster, 0, &["backup", "list"]);
    assert!(listed.success && listed.stdout.contains("state-0001-"), "{listed:?}");
    let verified = pangolinctl(&cluster, 0, &["backup", "verify"]);
    assert!(verified.success && verified.stdout.contains("pairs of states joined"), "{verified:?}");
    let report: VerifiedBackups = client.post("/node/backups/verify", &json!({})).await.expect("verified");
    assert!(report.problems.is_empty() && report.joined >= 1, "{report:?}");
    let unsure = pangolinctl(&cluster, 0, &["backup", "restore"]);
    assert!(!unsure.success && unsure.stderr.contains("--yes"), "{unsure:?}");
    let undo = done.undo.expect("a backup before").to_string();
    let undone = pangolinctl(&cluster, 0, &["backup", "restore", "--at", &undo, "--yes"]);
    assert!(undone.success && undone.stdout.contains("To undo it"), "{undone:?}");
    assert!(has_org(&client, "later").await && !has_org(&client, "latest").await);
    for (at, word) in [("99999999", "lead up to revision"), ("1.0", "oldest backup"), ("soon", "neither")] {
        let refused = pangolinctl(&cluster, 0, &["backup", "restore", "--at", at, "--yes"]);
        assert!(!refused.success && refused.stderr.contains(word), "{at}: {refused:?}");
    }

    // A damaged file is told.
    let path = cluster.nodes[0].state_dir().join("backups").join(&made.name);
    let mut bytes = std::fs::read(&path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let damaged = pangolinctl(&cluster, 0, &["backup", "verify"]);
    assert!(!damaged.success && damaged.stdout.contains(&made.name), "{damaged:?}");
    assert!(damaged.stdout.contains("digest does not match"), "{damaged:?}");
}

#[tokio::test]
async fn when_all_hosts_are_lost_backups_and_recovery_key_make_the_cluster_again() {
    let _turn = TURN.lock().await;
    let (mut cluster, key) = begun(3).await;
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    org(&client, "early").await;
    let end = Instant::now() + PATIENCE;
    while client.get::<BackupList>("/node/backups").await.expect("listed").recovery_key.is_none() {
        assert!(Instant::now() < end, "the recovery key is not known");
        sleep(Duration::from_millis(50)).await;
    }
    let _: Backup = client.put("/node/backup", &json!({})).await.expect("made");
    org(&client, "archived").await;
    let acknowledged = client.get::<Health>("/health").await.expect("health").revision;
    // Not in any backup of the whole state: only the archive of the log has it.
    let end = Instant::now() + PATIENCE;
    loop {
        let list: BackupList = client.get("/node/backups").await.expect("listed");
        if list.backups.iter().any(|backup| backup.revision >= acknowledged) {
            break;
        }
        assert!(Instant::now() < end, "not archived: {list:?}");
        sleep(Duration::from_millis(100)).await;
    }
    let saved = cluster.dir().join("saved");
    copy(&cluster.nodes[0].state_dir().join("backups"), &saved);
    cluster.nodes[0].kill();
    std::fs::remove_dir_all(cluster.nodes[0].state_dir()).expect("lost");

    let (from, file) = (saved.to_str().expect("text").to_owned(), cluster.dir().join("recovery.key"));
    let file = file.to_str().expect("text").to_owned();
    let restore = ["--restore", &from, "--recovery-key-file", &file];
    std::fs::write(&file, "pgr1.x").expect("written");
    let wrong = pangolind(&cluster, 1, "init", &restore, "");
    assert!(!wrong.success && wrong.stderr.contains("recovery key is not complete"), "{wrong:?}");
    let other = pangolin_peer::identity::RecoveryKey::generate().expect("a key");
    std::fs::write(&file, other.to_text().as_bytes()).expect("written");
    let wrong = pangolind(&cluster, 1, "init", &restore, "");
    assert!(!wrong.success && wrong.stderr.contains("encrypted to the recovery key"), "{wrong:?}");
    std::fs::write(&file, &key).expect("written");
    let done = pangolind(&cluster, 1, "init", &restore, "");
    assert!(done.success && done.stdout.contains("is restored as of revision"), "{done:?}");
    assert!(!done.stdout.contains("pgr1."), "the key is not shown again");

    cluster.nodes[1].start_ready().await.expect("it runs");
    let status = leads(&cluster, 1).await;
    assert_eq!((status.revision.lineage, status.nodes.len(), status.name.as_str()), (2, 1, "demo"));
    let client = cluster.nodes[1].client().with_deadline(PATIENCE);
    for id in ["early", "archived"] {
        assert!(has_org(&client, id).await, "{id} is gone");
    }
    org(&client, "new").await;
    let again = pangolind(&cluster, 1, "init", &restore, "");
    assert!(!again.success && again.stderr.contains("holds node"), "{again:?}");

    // Other hosts join it, and its own backups go on under the same recovery key.
    let token = pangolinctl(&cluster, 1, &["token", "create"]);
    let joined = pangolind(&cluster, 2, "join", &[], token.stdout.trim());
    assert!(joined.success, "{joined:?}");
    cluster.nodes[2].start_ready().await.expect("it runs");
    shown(&cluster, 2, "new").await;
    let _: Backup = client.put("/node/backup", &json!({})).await.expect("made");
    for node in [1, 2] {
        cluster.nodes[node].kill();
    }
    let backups = cluster.nodes[1].state_dir().join("backups");
    let restore = ["--restore", backups.to_str().expect("text"), "--recovery-key-file", &file];
    let third = pangolind(&cluster, 0, "init", &restore, "");
    assert!(third.success, "{third:?}");
    cluster.nodes[0].start_ready().await.expect("it runs");
    assert_eq!(leads(&cluster, 0).await.revision.lineage, 3);
    assert!(has_org(&cluster.nodes[0].client().with_deadline(PATIENCE), "new").await);
}

/// What is done with a directory and all in it, rights and links included.
fn shell(words: &[&str]) {
    let done = std::process::Command::new(words[0]).args(&words[1..]).status().expect("it runs");
    assert!(done.success(), "{words:?}");
}

#[tokio::test]
async fn a_recovery_that_was_cut_off_anywhere_is_finished_by_running_it_again() {
    let _turn = TURN.lock().await;
    let (mut cluster, _key) = begun(1).await;
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    org(&client, "kept").await;
    cluster.nodes[0].terminate(PATIENCE).expect("an end in order");
    let state = cluster.nodes[0].state_dir();
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (before, after) = (text(&cluster.dir().join("before")), text(&cluster.dir().join("after")));
    shell(&["cp", "-a", &text(&state), &before]);
    let done = pangolind(&cluster, 0, "recover", &["--force-new-cluster"], "demo\n");
    assert!(done.success, "{done:?}");
    shell(&["cp", "-a", &text(&state), &after]);
    let aside = std::fs::read_dir(&after)
        .expect("listed")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|name| name.starts_with("lineage-1-"))
        .expect("the old state is kept");

    // How far it came: the new store is made and that is noted; the old one is out of the way; the new one is in its
    // place; the node knows its new lineage.
    for step in 1..=4 {
        std::fs::remove_dir_all(&state).expect("removed");
        shell(&["cp", "-a", &before, &text(&state)]);
        let at = |name: &str| text(&state.join(name));
        std::fs::write(at("recovering"), format!("{{\"lineage\":2,\"aside\":\"{aside}\"}}"))
            .expect("written");
        shell(&["chmod", "600", &at("recovering")]);
        if step < 3 {
            shell(&["mkdir", "-m", "700", &at("recovered")]);
            shell(&["cp", "-a", &format!("{after}/raft"), &at("recovered")]);
        }
        if step >= 2 {
            shell(&["mkdir", "-m", "700", &at(&aside)]);
            shell(&["mv", &at("raft"), &at(&aside)]);
        }
        if step >= 3 {
            shell(&["cp", "-a", &format!("{after}/raft"), &at("raft")]);
        }
        if step >= 4 {
            shell(&["cp", "-a", &format!("{after}/identity.json"), &at("identity.json")]);
        }
        let refused = format!("{:#}", cluster.nodes[0].start_ready().await.expect_err("half recovered"));
        assert!(refused.contains("recover --force-new-cluster` again"), "step {step}: {refused}");
        cluster.nodes[0].kill();
        let finished = pangolind(&cluster, 0, "recover", &["--force-new-cluster"], "");
        assert!(finished.success && finished.stdout.contains(&aside), "step {step}: {finished:?}");
        assert!(Path::new(&at(&aside)).join("raft").is_dir(), "step {step}: the old state is kept");
        cluster.nodes[0].start_ready().await.expect("it runs");
        let status = leads(&cluster, 0).await;
        assert_eq!((status.revision.lineage, status.nodes.len()), (2, 1), "step {step}");
        assert!(has_org(&client, "kept").await, "step {step}");
        cluster.nodes[0].terminate(PATIENCE).expect("an end in order");
    }
    // Cut off before anything was noted, it begins anew.
    std::fs::remove_dir_all(&state).expect("removed");
    shell(&["cp", "-a", &before, &text(&state)]);
    shell(&["mkdir", "-m", "700", &text(&state.join("recovered"))]);
    shell(&["cp", "-a", &format!("{after}/raft"), &text(&state.join("recovered"))]);
    let done = pangolind(&cluster, 0, "recover", &["--force-new-cluster"], "demo\n");
    assert!(done.success, "{done:?}");
    cluster.nodes[0].start_ready().await.expect("it runs");
    assert!(has_org(&client, "kept").await);
}
