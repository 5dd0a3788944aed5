//! Rolling upgrades from this version to the next one and back, with real processes under load; and a node whose state
//! is not that of the others.
//!
//! The next version is built by `scripts/next.sh` (scripts/test.sh does).

#![expect(clippy::print_stdout, reason = "says why it is skipped, and its figures")]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use pangolin_chaos::{
    cluster::{Cluster, Options, START_PATIENCE},
    prober::{self, Probe, Prober},
    site::Site,
};
use pangolin_core::{FeatureLevel, record::UpgradeStep};
use pangolin_node as _;
use pangolin_wire::{Client, ClusterStatus, TransferLeader, TransferredLeader};
use serde_json::json;
use tokio::{io::AsyncReadExt as _, net::TcpStream, process::Command, task::JoinHandle, time::sleep};
use uuid::Uuid;

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(40);
/// How long a whole run may take.
const RUN_PATIENCE: Duration = Duration::from_secs(240);

/// How long a node that is up may leave clients without an answer, whatever happens to the others.
const GAP_MAX_MS: u64 = 1000;

static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The program of the next version, if it was built.
fn next_version(cluster: &Cluster) -> Option<PathBuf> {
    let folder = cluster.programs.pangolind.parent()?.parent()?;
    let program = folder.join("next/pangolind");
    if program.is_file() {
        return Some(program);
    }
    println!("skipped: {} is not there: scripts/next.sh builds it", program.display());
    None
}

fn prepared() -> Option<(Cluster, PathBuf)> {
    let cluster = Cluster::prepare(Options::of_a_test().expect("addresses and ports")).expect("prepared");
    let next = next_version(&cluster)?;
    Some((cluster, next))
}

async fn start(cluster: &mut Cluster) {
    cluster.init().await.expect("the first node");
    for node in 1..cluster.nodes.len() {
        cluster.join(node).await.expect("a node joins");
    }
    cluster.healthy(START_PATIENCE).await.expect("healthy");
}

/// Writes through whichever node answers, without a pause, and notes what was not done in time.
struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>, Duration)>,
}

impl Writer {
    fn start(cluster: &Cluster, prefix: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<Client> = cluster.nodes.iter().map(|node| node.client()).collect();
        let told = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (mut done, mut failed, mut slowest) = (0, Vec::new(), Duration::ZERO);
            while !told.load(Ordering::Relaxed) {
                let (id, began) = (Uuid::new_v4(), Instant::now());
                let body = json!({ "orgId": format!("{prefix}{done}"), "name": "Written" });
                let mut last = String::new();
                let mut turn = 0;
                let written = loop {
                    let client = &clients[(done + turn) % clients.len()];
                    match client.send(Method::PUT, "/org", Some(body.clone()), id).await {
                        Ok(_) => break true,
                        Err(error) => last = error.to_string(),
                    }
                    turn += 1;
                    if began.elapsed() > Duration::from_secs(10) {
                        break false;
                    }
                    sleep(Duration::from_millis(20)).await;
                };
                if !written {
                    failed.push(last);
                }
                slowest = slowest.max(began.elapsed());
                done += 1;
                sleep(Duration::from_millis(50)).await;
            }
            (done, failed, slowest)
        });
        Self { stop, task }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (done, failed, slowest) = self.task.await.expect("the writer");
        println!("{done} writes, the slowest took {slowest:?}");
        assert!(done > 10 && failed.is_empty(), "{} of {done} writes failed: {failed:?}", failed.len());
    }
}

/// `pangolinctl upgrade`, its hooks answered by the test, which owns the processes.
struct Upgrader {
    next: PathBuf,
    current: PathBuf,
    /// When which node was away.
    away: Mutex<Vec<(usize, Instant, Instant)>>,
}

/// What the command of `--replace` does.
#[derive(Clone, Copy)]
enum Replaced {
    /// Its work.
    Everywhere,
    /// It fails on this node.
    NotOn(&'static str),
    /// It says that all is well, and does nothing.
    Nowhere,
}

impl Upgrader {
    /// Runs a verb to its end. Returns whether it succeeded, and what it said.
    async fn run(&self, cluster: &mut Cluster, verb: &str, replaced: Replaced) -> (bool, String) {
        let dir = cluster.dir().to_owned();
        let (broken, action) = match replaced {
            Replaced::Everywhere => ("-", "$PANGOLIN_ACTION"),
            Replaced::NotOn(node) => (node, "$PANGOLIN_ACTION"),
            Replaced::Nowhere => ("-", "nothing"),
        };
        let replace = format!(
            "[ \"$PANGOLIN_NODE\" != \"{broken}\" ] || exit 7; echo \"{action}\" > {0}/ask-$PANGOLIN_NODE.new && \
             mv {0}/ask-$PANGOLIN_NODE.new {0}/ask-$PANGOLIN_NODE",
            dir.display()
        );
        let restart = format!("while [ -e {}/ask-$PANGOLIN_NODE ]; do sleep 0.05; done", dir.display());
        let mut child = Command::new(&cluster.programs.pangolinctl)
            .args(["upgrade", verb, "--replace", &replace, "--restart", &restart, "--drain-time", "500ms"])
            .arg("--socket")
            .arg(cluster.nodes[0].socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("pangolinctl");
        let end = Instant::now() + RUN_PATIENCE;
        let (mut out, mut err) = (child.stdout.take().expect("out"), child.stderr.take().expect("err"));
        let mut reading = tokio::spawn(async move {
            let mut said = [String::new(), String::new()];
            let [told, complained] = &mut said;
            let _ = tokio::join!(out.read_to_string(told), err.read_to_string(complained));
            said.concat()
        });
        let output = loop {
            tokio::select! {
                said = &mut reading => break said.expect("what it said"),
                () = sleep(Duration::from_millis(50)) => self.serve(cluster, &dir).await,
            }
            assert!(Instant::now() < end, "upgrade {verb} does not end");
        };
        let status = child.wait().await.expect("an end");
        (status.success(), output)
    }

    /// Replaces and restarts the node that was asked for.
    async fn serve(&self, cluster: &mut Cluster, dir: &Path) {
        for position in 0..cluster.nodes.len() {
            let node = &mut cluster.nodes[position];
            let ask = dir.join(format!("ask-{}", node.name));
            let Ok(action) = std::fs::read_to_string(&ask) else { continue };
            let began = Instant::now();
            node.terminate(PATIENCE).expect("an end in order");
            match action.trim() {
                "upgrade" => node.set_program(&self.next),
                "rollback" => node.set_program(&self.current),
                _ => {}
            }
            node.start_ready().await.expect("back");
            // From here on it takes connections, so it has to serve them; before, clients are sent away at once.
            let takes_connections = Instant::now() + PATIENCE;
            while TcpStream::connect(node.https()).await.is_err() {
                assert!(Instant::now() < takes_connections, "{} lets nobody in", node.name);
                sleep(Duration::from_millis(5)).await;
            }
            self.away.lock().expect("a lock").push((position, began, Instant::now()));
            std::fs::remove_file(&ask).expect("removed");
        }
    }

    /// The probes through a node while it was not away, in the stretches between.
    fn served(&self, position: usize, probes: &[Probe]) -> Vec<Vec<Probe>> {
        let away = self.away.lock().expect("a lock");
        let away: Vec<_> = away.iter().filter(|(node, ..)| *node == position).collect();
        let ends = away.iter().map(|(_, from, _)| Some(*from)).chain([None]);
        let begins = [None].into_iter().chain(away.iter().map(|(.., to)| Some(*to)));
        let lies_in = |probe: &&Probe, begin: Option<Instant>, end: Option<Instant>| {
            begin.is_none_or(|begin| probe.sent > begin)
                && end.is_none_or(|end| probe.sent + probe.took < end)
        };
        let stretch =
            |(begin, end)| probes.iter().filter(|probe| lies_in(probe, begin, end)).cloned().collect();
        begins.zip(ends).map(stretch).collect()
    }
}

async fn status(cluster: &Cluster) -> ClusterStatus {
    let client = cluster.any_node().expect("a node").client().with_deadline(PATIENCE);
    client.get("/cluster/status").await.expect("a status")
}

async fn make_leader(cluster: &Cluster, position: usize) {
    let id = status(cluster).await.nodes[position].id;
    let client = cluster.nodes[position].client().with_deadline(PATIENCE);
    let moved: TransferredLeader =
        client.post("/cluster/leader/transfer", &TransferLeader { to: Some(id) }).await.expect("transferred");
    assert_eq!(moved.node_id, id);
    cluster.healthy(PATIENCE).await.expect("healthy");
}

async fn write(cluster: &Cluster, position: usize, org: &str) {
    let client = cluster.nodes[position].client().with_deadline(Duration::from_secs(10));
    let body = json!({ "orgId": org, "name": "Written" });
    client.send(Method::PUT, "/org", Some(body), Uuid::new_v4()).await.expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_upgrade_loses_no_request_and_no_write_goes_back_and_is_finished() {
    let _turn = TURN.lock().await;
    let Some((mut cluster, next)) = prepared() else { return };
    start(&mut cluster).await;
    Site::found(&cluster).await.expect("an organisation and a domain");
    let mut site = Site::publish(&cluster, "lab", "hello", None).await.expect("a site");
    site.settled(&cluster, START_PATIENCE).await.expect("tunnels");
    let https = cluster.https_client().await.expect("the authority");
    for position in 0..3 {
        site.served_by(&cluster, &https, position).await.expect("served");
    }
    let upgrader = Upgrader { next, current: cluster.programs.pangolind.clone(), away: Mutex::default() };
    let probers: Vec<Prober> =
        (0..3).map(|n| Prober::start(https.clone(), cluster.nodes[n].https(), &site.host)).collect();
    let writer = Writer::start(&cluster, "w");
    // The leader is known, so that the order is: n2, n3, and n1 last.
    make_leader(&cluster, 0).await;

    // A command that does nothing is found out at the first node.
    let (done, said) = upgrader.run(&mut cluster, "run", Replaced::Nowhere).await;
    assert!(!done && said.contains("node n2: it was restarted, but still runs version"), "{said}");
    assert!(said.contains("Made the backup state-"), "{said}");
    let stopped = status(&cluster).await;
    let steps: Vec<UpgradeStep> =
        stopped.upgrade.as_ref().expect("open").nodes.iter().map(|node| node.step).collect();
    assert_eq!(steps, [UpgradeStep::Waiting, UpgradeStep::UnderWay, UpgradeStep::Waiting]);

    // The second node cannot be upgraded: the run stops and says how to go on.
    let (done, said) = upgrader.run(&mut cluster, "run", Replaced::NotOn("n3")).await;
    assert!(!done && said.contains("--replace of node n3 has failed"), "{said}");
    assert!(said.contains("upgrade rollback"), "{said}");
    assert!(said.contains("Going on with what was begun"), "{said}");
    let mixed = status(&cluster).await;
    let steps: Vec<UpgradeStep> =
        mixed.upgrade.as_ref().expect("open").nodes.iter().map(|node| node.step).collect();
    assert_eq!(steps, [UpgradeStep::Waiting, UpgradeStep::Done, UpgradeStep::UnderWay]);
    let versions: Vec<bool> = mixed.nodes.iter().map(|node| node.version.ends_with("-next")).collect();
    assert_eq!(versions, [false, true, false]);
    assert_eq!((mixed.feature_level, mixed.common_level), (FeatureLevel(1), FeatureLevel(1)));

    // Both versions together: either one leads, every node takes writes.
    for leader in [1, 0] {
        make_leader(&cluster, leader).await;
        for position in 0..3 {
            write(&cluster, position, &format!("mixed-{leader}-{position}")).await;
        }
    }

    // Back, and anew.
    let (done, said) = upgrader.run(&mut cluster, "rollback", Replaced::Everywhere).await;
    assert!(done, "{said}");
    let back = status(&cluster).await;
    assert!(back.upgrade.is_none() && back.nodes.iter().all(|node| !node.version.ends_with("-next")));
    let (done, said) = upgrader.run(&mut cluster, "run", Replaced::Everywhere).await;
    assert!(done && said.contains("upgrade finish"), "{said}");
    let upgraded = status(&cluster).await;
    assert!(upgraded.nodes.iter().all(|node| node.version.ends_with("-next")), "{upgraded:?}");
    assert_eq!((upgraded.feature_level, upgraded.common_level), (FeatureLevel(1), FeatureLevel(2)));

    // What is new is used only now.
    let refused = "Noted needs feature level 2";
    let told = cluster
        .nodes
        .iter()
        .any(|node| std::fs::read_to_string(node.log()).unwrap_or_default().contains(refused));
    assert!(told, "the next version was never kept from proposing what it knows");
    let finish = Command::new(&cluster.programs.pangolinctl)
        .args(["upgrade", "finish", "--socket"])
        .arg(cluster.nodes[1].socket())
        .output()
        .await
        .expect("pangolinctl");
    let told = String::from_utf8_lossy(&finish.stdout);
    assert!(finish.status.success(), "{}", String::from_utf8_lossy(&finish.stderr));
    assert!(told.contains("the feature level is 2"), "the node that was asked has it: {told}");
    let finished = status(&cluster).await;
    assert_eq!(finished.feature_level, FeatureLevel(2));
    assert!(finished.upgrade.is_none());
    let (done, said) = upgrader.run(&mut cluster, "rollback", Replaced::Everywhere).await;
    assert!(!done && said.contains("no upgrade"), "{said}");

    writer.stop().await;
    for (position, prober) in probers.into_iter().enumerate() {
        let stretches = upgrader.served(position, &prober.stop().await);
        for probes in &stretches {
            let figures = prober::figures(probes);
            println!("n{}: {figures:?}", position + 1);
            let why: Vec<&String> = probes.iter().filter_map(|probe| probe.result.as_ref().err()).collect();
            assert!(figures.failed == 0, "n{}: {figures:?} {why:?}", position + 1);
            assert!(figures.longest_gap_ms <= GAP_MAX_MS, "n{}: {figures:?}", position + 1);
        }
        let total: usize = stretches.iter().map(Vec::len).sum();
        assert!(total > 50, "n{} was hardly asked: {total}", position + 1);
    }

    // The previous version is kept out from here on, and says why.
    cluster.nodes[2].terminate(PATIENCE).expect("an end in order");
    cluster.nodes[2].set_program(&upgrader.current);
    let refused = format!("{:#}", cluster.nodes[2].start_ready().await.expect_err("too old"));
    assert!(refused.contains("install the version that the other nodes run"), "{refused}");
    cluster.nodes[2].kill();
    cluster.nodes[2].set_program(&upgrader.next);
    cluster.nodes[2].start_ready().await.expect("nothing was lost");
    cluster.healthy(PATIENCE).await.expect("healthy");
}

#[tokio::test]
async fn a_node_whose_state_differs_from_the_majority_stops_and_the_others_go_on() {
    let _turn = TURN.lock().await;
    let Some((mut cluster, next)) = prepared() else { return };
    // A program that forgets an organisation.
    let forgetful = cluster.dir().join("forgetful");
    let script = format!("#!/bin/sh\nPANGOLIN_NEXT_FORGETS=forgotten exec {} \"$@\"\n", next.display());
    std::fs::write(&forgetful, script).expect("written");
    std::fs::set_permissions(&forgetful, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("executable");
    cluster.nodes[2].set_program(&forgetful);
    start(&mut cluster).await;
    write(&cluster, 0, "forgotten").await;

    // At the next checkpoint it is found.
    let end = Instant::now() + PATIENCE;
    let status = loop {
        write(&cluster, 0, &format!("o{}", &Uuid::new_v4().simple().to_string()[..20])).await;
        let process = cluster.nodes[2].process().expect("a process");
        if let Some(status) = process.exit_status() {
            break status;
        }
        assert!(Instant::now() < end, "the node that differs still runs");
        sleep(Duration::from_millis(300)).await;
    };
    assert_eq!(status.code(), Some(78));
    let log = std::fs::read_to_string(cluster.nodes[2].log()).expect("a log");
    assert!(log.contains("differs from that of nodes 1, ") && log.contains("rejoin"), "{log}");

    // It does not come back with that state; the majority never stops.
    cluster.nodes[2].kill();
    let refused = format!("{:#}", cluster.nodes[2].start_ready().await.expect_err("not with this state"));
    assert!(refused.contains("rejoin"), "{refused}");
    cluster.nodes[2].kill();
    for position in 0..2 {
        write(&cluster, position, &format!("after{position}")).await;
        assert!(cluster.nodes[position].process().expect("a process").exit_status().is_none());
    }
}
