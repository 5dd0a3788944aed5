//! What a large state costs: a live restore of its catalog, recovery of one survivor of three, and the cluster made
//! again from backups alone.
//!
//! The state is made by the same commands as any other, applied here to that of a running node and written as one of
//! its backups: a hundred thousand resources through the API would measure the API.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pangolin_chaos::{
    cluster::{Cluster, Node, START_PATIENCE},
    process::run as run_command,
};
use pangolin_core::{
    Actor, Body, CatalogChange, Cause, ClusterState, Command, Fence, Outcome, Revision, SiteId,
    outcome::Object, record::Method,
};
use pangolin_peer::identity::Keyring;
use pangolin_storage::backup::{self, Content, Header, Key, Kind, Opened, Place};
use pangolin_wire::{
    Backup, ClusterStatus, CreateDomain, CreateOrg, CreateSite, CreatedSite, Domain, NodeStatus, Org,
    RaftPart, RestoreCatalog, RestoredCatalog,
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{judge::Check, pangolin, sample::round, say};

const RESTORE_MAX_S: f64 = 60.0;
const RECOVER_MAX_S: f64 = 30.0;
/// The organisation that owns everything.
const ORG: &str = "bench";
/// Targets behind one site: a site has some 25,000 ports for them.
const TARGETS_PER_SITE: usize = 10_000;
/// How long one step may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// A pause of writes longer than this says that no leader was there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Resources, each with one target
    #[arg(long, default_value_t = 100_000)]
    resources: usize,
}

/// Measures, prints, judges.
///
/// # Errors
/// A step fails.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let mut cluster = Cluster::prepare(pangolin::options(4)?)?;
    let key = begin(&mut cluster).await?;
    let point = large_backup(&cluster, options.resources).await?;
    for node in [1, 2] {
        cluster.join(node).await?;
    }
    let before = voting(&cluster, 3).await?;

    let writer = Writer::start(&cluster.nodes[1]);
    let began = Instant::now();
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    let at = Some(point.to_string());
    let done: RestoredCatalog = client.post("/cluster/restore", &RestoreCatalog { at }).await?;
    let restored = began.elapsed();
    ensure!(done.resources == options.resources, "{} resources came back", done.resources);
    let after = settled(&cluster, &[0, 1, 2]).await?;
    let everywhere = began.elapsed();
    let stall = writer.stop().await?;
    let elections = term(&after)? - term(&before)?;
    say(&format!(
        "live restore of {} resources into three nodes: {:.1} s, on every node after {:.1} s; longest pause of writes \
         {} ms; {elections} elections",
        options.resources,
        restored.as_secs_f64(),
        everywhere.as_secs_f64(),
        stall.as_millis()
    ));

    for node in [1, 2] {
        cluster.nodes[node].kill();
    }
    cluster.nodes[0].kill();
    let began = Instant::now();
    let mut command = cluster.nodes[0].command("recover");
    command.arg("--force-new-cluster");
    run_command(command, "demo\n", PATIENCE)?.ok("pangolind recover")?;
    let offline = began.elapsed();
    cluster.nodes[0].start()?;
    takes_writes(&cluster.nodes[0], "recovered").await?;
    let recovered = began.elapsed();
    say(&format!(
        "one survivor of three: takes changes {:.1} s after `recover` began, which took {:.1} s itself",
        recovered.as_secs_f64(),
        offline.as_secs_f64()
    ));

    let _: Backup = client.put("/node/backup", &json!({})).await?;
    let saved = cluster.nodes[0].state_dir().join("backups");
    cluster.nodes[0].kill();
    let began = Instant::now();
    make_again(&cluster.nodes[3], &saved, &key, cluster.dir())?;
    cluster.nodes[3].start()?;
    takes_writes(&cluster.nodes[3], "made-again").await?;
    let again = began.elapsed();
    say(&format!("all hosts lost: takes changes {:.1} s after `init --restore` began", again.as_secs_f64()));

    let seconds = |time: Duration| round(time.as_secs_f64());
    let checks = [
        Check::at_most("live restore, s", seconds(everywhere), RESTORE_MAX_S),
        Check::at_most("elections during it", elections as f64, 0.0),
        Check::at_most("recovery of one survivor of three, s", seconds(recovered), RECOVER_MAX_S),
        Check::at_most("from backups alone, s", seconds(again), RESTORE_MAX_S),
    ];
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    say(&json!({
        "bench": "restore", "resources": options.resources, "restore_s": seconds(restored),
        "everywhere_s": seconds(everywhere), "longest_pause_ms": stall.as_millis(), "elections": elections,
        "recover_s": seconds(recovered), "from_backups_s": seconds(again), "checks": checks, "ok": ok,
    })
    .to_string());
    Ok(ok)
}

/// Makes the cluster of one node, and gives the recovery key that was shown.
async fn begin(cluster: &mut Cluster) -> Result<String> {
    let mut command = cluster.nodes[0].command("init");
    command.args(["--cluster", "demo", "--zone", &cluster.options.zone]);
    let shown = run_command(command, "", PATIENCE)?;
    let key = shown.stdout.lines().map(str::trim).find(|line| line.starts_with("pgr1."));
    let key = key.context("no recovery key is shown")?.to_owned();
    cluster.nodes[0].start_ready().await?;
    Ok(key)
}

/// Backs the node up, lets the backup grow, and gives the point that it stands for.
async fn large_backup(cluster: &Cluster, resources: usize) -> Result<Revision> {
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    let _: Org = client.put("/org", &CreateOrg { org_id: ORG.parse()?, name: None }).await?;
    let domain = CreateDomain { base_domain: cluster.options.zone.parse()? };
    let _: Domain = client.put(&format!("/org/{ORG}/domain"), &domain).await?;
    let mut sites = Vec::new();
    for number in 0..resources.div_ceil(TARGETS_PER_SITE) {
        let name = format!("site {number}");
        let site = CreateSite { name, kind: None, nice_id: None, newt_id: None, secret: None };
        let made: CreatedSite = client.put(&format!("/org/{ORG}/site"), &site).await?;
        sites.push(made.site.site_id);
    }
    let made: Backup = client.put("/node/backup", &json!({})).await?;
    let dir = cluster.nodes[0].state_dir();
    let keyring = Keyring::load(&dir.join("keyring"))?;
    let place = Place::new(dir.join("backups"));
    let opened = backup::open(&place.read(&made.name)?, Key::Keyring(&keyring));
    let Ok((header, Opened::State(mut state), _)) = opened else { bail!("{} is not a state", made.name) };
    let began = Instant::now();
    grow(&mut state, &sites, resources)?;
    let grown = began.elapsed();
    let digest = state.digest()?;
    let header =
        Header { kind: Kind::State { digest }, revision: state.revision(), time: state.time(), ..header };
    let recovery = state.recovery_key();
    let bytes = backup::seal(&header, Content::State(&state), &keyring, recovery.as_ref())?;
    place.write(&header.file_name(), &bytes)?;
    say(&format!(
        "state of {resources} resources with a target each: {:.1} MB, {:.1} MB as a backup; {:.1} us per change",
        state.encode()?.len() as f64 / 1e6,
        bytes.len() as f64 / 1e6,
        grown.as_secs_f64() * 1e6 / (2 * resources) as f64
    ));
    Ok(header.revision)
}

fn grow(state: &mut ClusterState, sites: &[SiteId], resources: usize) -> Result<()> {
    let domain = *state.domains().keys().next().context("there is no domain")?;
    let zone = state.domains()[&domain].name.clone();
    let mut change = |change: CatalogChange| -> Result<Option<Object>> {
        let cause = Cause::new(Actor::Operator("bench".to_owned()), "as asked");
        let body = Body::Catalog(Box::new(change));
        let (at, index) = (state.time(), state.revision().index + 1);
        match state.apply(index, &Command { request: None, at, cause, fence: Fence::None, body }) {
            Outcome::Done(made) => Ok(made),
            Outcome::Refused(refusal) => bail!("{refusal}"),
        }
    };
    for number in 0..resources {
        let made = change(CatalogChange::ResourceCreated {
            id: None,
            org: ORG.parse()?,
            nice_id: Some(format!("r{number}").parse()?),
            name: format!("Resource {number}"),
            domain,
            host: zone.child(&format!("r{number}"))?,
        })?;
        let Some(Object::Resource(resource)) = made else { bail!("no resource was made") };
        change(CatalogChange::TargetCreated {
            id: None,
            resource,
            site: sites[number / TARGETS_PER_SITE],
            method: Method::Http,
            host: format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255),
            port: 8080,
            health_check: None,
        })?;
    }
    Ok(())
}

/// Waits until these nodes have all applied what the first one has, and know a leader at work.
async fn settled(cluster: &Cluster, nodes: &[usize]) -> Result<ClusterStatus> {
    let end = Instant::now() + PATIENCE;
    let goal = cluster.nodes[nodes[0]].client().get::<pangolin_wire::Health>("/health").await?.revision;
    loop {
        let mut behind = 0;
        for node in nodes {
            let health = cluster.nodes[*node].client().get::<pangolin_wire::Health>("/health").await;
            behind += usize::from(!health.is_ok_and(|health| health.revision >= goal));
        }
        if behind == 0
            && let Ok(status) = cluster.status().await
            && status.leader.as_ref().is_some_and(|leader| leader.since.is_some())
        {
            return Ok(status);
        }
        ensure!(Instant::now() < end, "{behind} nodes do not catch up");
        sleep(LOOK_EVERY).await;
    }
}

/// Waits until so many nodes vote, under a leader at work.
async fn voting(cluster: &Cluster, nodes: usize) -> Result<ClusterStatus> {
    let end = Instant::now() + START_PATIENCE;
    loop {
        let status = cluster.status().await?;
        let votes = |node: &&NodeStatus| matches!(node.raft, RaftPart::Leader | RaftPart::Voter);
        if status.nodes.iter().filter(votes).count() == nodes
            && status.leader.as_ref().is_some_and(|leader| leader.since.is_some())
        {
            return Ok(status);
        }
        ensure!(Instant::now() < end, "not all {nodes} nodes vote after {START_PATIENCE:?}");
        sleep(LOOK_EVERY).await;
    }
}

fn term(status: &ClusterStatus) -> Result<u64> {
    Ok(status.leader.as_ref().context("there is no leader")?.term)
}

async fn takes_writes(node: &Node, org: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let org = CreateOrg { org_id: org.parse()?, name: None };
        match node.client().with_deadline(PATIENCE).put::<_, Value>("/org", &org).await {
            Ok(_) => return Ok(()),
            Err(error) => ensure!(Instant::now() < end, "it takes no changes: {error}"),
        }
        sleep(LOOK_EVERY).await;
    }
}

fn make_again(node: &Node, from: &Path, key: &str, dir: &Path) -> Result<()> {
    let file = dir.join("recovery.key");
    std::fs::write(&file, key)?;
    let mut command = node.command("init");
    command.arg("--restore").arg(from).arg("--recovery-key-file").arg(&file);
    run_command(command, "", PATIENCE)?.ok("pangolind init --restore").map(drop)
}

/// Writes through one node without a pause, and notes the longest time without an acknowledgement.
struct Writer {
    stop: CancellationToken,
    task: JoinHandle<Duration>,
}

impl Writer {
    fn start(node: &Node) -> Self {
        let (client, stop) = (node.client().with_deadline(PATIENCE), CancellationToken::new());
        let told = stop.clone();
        let task = tokio::spawn(async move {
            let (mut last, mut longest, mut number) = (Instant::now(), Duration::ZERO, 0);
            while !told.is_cancelled() {
                let name = json!({ "name": format!("robot {number}"), "scope": "cluster" });
                if client.put::<_, Value>("/api-key", &name).await.is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                number += 1;
                sleep(LOOK_EVERY).await;
            }
            longest.max(last.elapsed())
        });
        Self { stop, task }
    }

    async fn stop(self) -> Result<Duration> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}
