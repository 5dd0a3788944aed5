//! The test bed itself: what faults, clients and probers stand on.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pangolin_core::{
    NodeId,
    record::{KeyScope, Verdict},
};
use pangolin_wire::{ClusterStatus, CreateApiKey, CreateOrg, CreatedApiKey, Health, Leave, Org, RaftPart};
use tokio::time::{sleep, timeout};

use super::{
    network::{Fabric, Plug},
    recorder::Recorder,
    roster::{Entry, Roster},
};
use crate::{
    cluster::{Backend, Cluster, Node, Options, Timing},
    history::What,
    host::{Host, Network},
    https::Https,
    kernel,
    ports::Ports,
    process,
    shim::{Controls, Library},
    site::Site,
};

/// The ports that the documentation names: every host has them for itself.
const PORTS: Ports = Ports { https: 443, http: 80, dns: 53, peers: 7420, tunnel: 51820 };
/// Where connector and backend are.
pub const SITE_HOST: &str = "site";
/// Where the clients of the API are.
pub const CLIENTS_HOST: &str = "clients";
/// Where visitors and resolvers are.
pub const OUTSIDE_HOST: &str = "outside";
/// Size of a node's disk.
const DISK_BYTES: u64 = 256 * 1024 * 1024;
/// How long one look at a node may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// How often a waiting call looks again.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a step of building the bed may take, on a machine that is busy.
const BUILD_PATIENCE: Duration = Duration::from_secs(90);
/// A node that lags by more than this many entries has not caught up.
const LAG_MAX: u64 = 500;

/// What a bed is to be like.
#[derive(Clone, Debug)]
pub struct BedOptions {
    /// Nodes that are members from the start.
    pub nodes: usize,
    /// Hosts that may join later.
    pub spares: usize,
    /// State directories are file systems in memory, which can be filled up.
    pub small_disks: bool,
    /// Registers that clients write and read.
    pub keys: usize,
    /// What nodes log (`tracing` filter syntax); none = what they log by themselves.
    pub log: Option<String>,
}

/// The bed. Dropping it ends all that runs in it.
#[derive(Debug)]
pub struct Bed {
    /// The site: a connector and a backend.
    pub site: Site,
    /// The nodes, also those that are not members.
    pub cluster: Cluster,
    /// Their disks and clocks.
    pub controls: Vec<Controls>,
    /// Who is who.
    pub roster: Roster,
    /// Where everything is written down.
    pub recorder: Recorder,
    /// A client that trusts the cluster.
    pub https: Https,
    /// A key of the API.
    pub key: String,
    /// The name of the API.
    pub control_host: String,
    /// Nodes that are not started again when they have ended: somebody else has to do something first.
    pub held: BTreeSet<usize>,
    /// Nodes whose cable has a bad wire in it.
    pub wired: BTreeSet<usize>,
    mounts: Vec<Mount>,
    /// The network; last, because everything stands in it.
    pub fabric: Fabric,
}

/// A disk; gone when dropped.
#[derive(Debug)]
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        // It is gone with this process anyway.
        let _ = kernel::unmount(&self.0);
    }
}

impl Bed {
    /// Builds it: hosts, disks, nodes that join with tokens, a site, registers. Has to run on the main thread, before
    /// others have begun: mounts are the thread's own.
    ///
    /// # Errors
    /// Some step fails.
    pub async fn build(options: &BedOptions, recorder: Recorder) -> Result<Self> {
        let hosts = options.nodes + options.spares;
        let mut names: Vec<String> = (1..=hosts).map(|number| format!("n{number}")).collect();
        names.extend([SITE_HOST, CLIENTS_HOST, OUTSIDE_HOST].map(str::to_owned));
        let fabric = Fabric::new(&names)?;
        let mut cluster = prepare(options, &fabric.plugs[..hosts])?;
        let (mut mounts, mut controls) = (Vec::new(), Vec::new());
        if options.small_disks {
            kernel::own_mounts().context("mounts of this process's own")?;
        }
        let library = Library::build(cluster.dir())?;
        for node in &mut cluster.nodes {
            if options.small_disks {
                kernel::mount_memory(&node.disk(), DISK_BYTES).context("a disk in memory")?;
                mounts.push(Mount(node.disk()));
            }
            let page = library.controls(&node.disk().with_file_name("controls"))?;
            node.host.network = Some(fabric.plug(&node.name)?.network.clone());
            node.host.environment = page.environment().to_vec();
            controls.push(page);
        }
        cluster.init().await?;
        for position in 1..options.nodes {
            cluster.join(position).await?;
        }
        let roster = Roster::new(cluster.nodes.iter().map(entry).collect());
        let first = cluster.nodes[0].client().with_deadline(BUILD_PATIENCE);
        Site::found(&cluster).await?;
        let site_host = Host { network: Some(fabric.plug(SITE_HOST)?.network.clone()), ..Host::default() };
        let site = Site::publish_on(&cluster, "lab", "hello", Some(options.nodes), site_host).await?;
        let wanted = CreateApiKey {
            name: "chaos".to_owned(),
            scope: KeyScope::Cluster,
            api_key_id: None,
            secret: None,
        };
        let created: CreatedApiKey = first.put("/api-key", &wanted).await?;
        for key in keys(options.keys) {
            let org = CreateOrg { org_id: key.parse()?, name: None };
            let _: Org = first.put("/org", &org).await?;
        }
        let status: ClusterStatus = first.get("/cluster/status").await?;
        let mut bed = Self {
            https: cluster.https_client().await?,
            key: created.key.context("the key is not shown")?,
            control_host: status.control_host.to_string(),
            held: BTreeSet::new(),
            wired: BTreeSet::new(),
            site,
            cluster,
            controls,
            roster,
            recorder,
            mounts,
            fabric,
        };
        bed.enrol(&status);
        for (position, id, _) in bed.roster.members() {
            bed.recorder.push(What::Started { node: id });
            bed.note_pid(position);
        }
        bed.healthy(BUILD_PATIENCE).await?;
        bed.site_settled(BUILD_PATIENCE).await?;
        Ok(bed)
    }

    /// A host's network.
    ///
    /// # Errors
    /// There is no host of that name.
    pub fn network(&self, host: &str) -> Result<Network> {
        Ok(self.fabric.plug(host)?.network.clone())
    }

    /// The addresses of some hosts.
    #[must_use]
    pub fn addresses(&self, positions: impl IntoIterator<Item = usize>) -> BTreeSet<IpAddr> {
        positions.into_iter().map(|position| self.cluster.nodes[position].address).collect()
    }

    /// The address of a host that is no node.
    ///
    /// # Errors
    /// There is no host of that name.
    pub fn address_of(&self, host: &str) -> Result<IpAddr> {
        Ok(self.fabric.plug(host)?.address)
    }

    /// The nodes that are members, by position.
    #[must_use]
    pub fn members(&self) -> Vec<usize> {
        self.roster.members().into_iter().map(|(position, ..)| position).collect()
    }

    /// The members that run.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        self.members().into_iter().filter(|position| self.cluster.nodes[*position].runs()).collect()
    }

    /// The id of a member.
    ///
    /// # Errors
    /// It is none.
    pub fn id(&self, position: usize) -> Result<NodeId> {
        let entry = self.roster.entries().into_iter().nth(position).context("no such host")?;
        entry.id.with_context(|| format!("{} is not a member", entry.name))
    }

    /// The ids of members.
    #[must_use]
    pub fn ids(&self, positions: &[usize]) -> BTreeSet<NodeId> {
        positions.iter().filter_map(|position| self.id(*position).ok()).collect()
    }

    /// The names of nodes, for people.
    #[must_use]
    pub fn names(&self, positions: &[usize]) -> String {
        let names: Vec<&str> =
            positions.iter().map(|position| self.cluster.nodes[*position].name.as_str()).collect();
        names.join(", ")
    }

    /// What a node says of itself; none if it does not answer.
    pub async fn health(&self, position: usize) -> Option<Health> {
        let client = self.cluster.nodes[position].client();
        timeout(LOOK_PATIENCE, client.get::<Health>("/health")).await.ok()?.ok()
    }

    /// The member that leads in the newest term, as it says itself; waits for one.
    ///
    /// # Errors
    /// Nobody leads for too long.
    pub async fn leader(&self, patience: Duration) -> Result<usize> {
        let until = Instant::now() + patience;
        loop {
            let mut leaders = Vec::new();
            for position in self.running() {
                if let Some(health) = self.health(position).await.filter(|health| health.leads) {
                    leaders.push((health.term, position));
                }
            }
            if let Some((_, position)) = leaders.into_iter().max() {
                return Ok(position);
            }
            ensure!(Instant::now() < until, "nobody leads after {patience:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// `kill -9`; returns how it ended.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, position: usize) -> Result<ExitStatus> {
        let node = &mut self.cluster.nodes[position];
        let process = node.process().context("the node does not run")?;
        process.kill();
        let status = process.exit_status().context("it was killed, and lives on")?;
        self.ended(position);
        Ok(status)
    }

    /// Starts a node; it is not ready yet.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self, position: usize) -> Result<()> {
        self.cluster.nodes[position].start()?;
        if let Ok(node) = self.id(position) {
            self.recorder.push(What::Started { node });
        }
        self.note_pid(position);
        Ok(())
    }

    /// Waits until a node answers and knows a leader.
    ///
    /// # Errors
    /// It ends instead, or takes too long.
    pub async fn ready(&mut self, position: usize, patience: Duration) -> Result<()> {
        self.cluster.nodes[position].ready(patience).await
    }

    /// Stops a node in order.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(&mut self, position: usize, patience: Duration) -> Result<ExitStatus> {
        let status = self.cluster.nodes[position].terminate(patience)?;
        self.ended(position);
        Ok(status)
    }

    /// The nodes that have ended by themselves since the last look, and how.
    pub fn reap(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut gone = Vec::new();
        for position in 0..self.cluster.nodes.len() {
            let ended = self.cluster.nodes[position].process().and_then(process::Process::exit_status);
            if let Some(status) = ended {
                self.ended(position);
                gone.push((position, status));
            }
        }
        gone
    }

    fn ended(&mut self, position: usize) {
        self.cluster.nodes[position].kill();
        self.roster.change(position, |entry| entry.pid = None);
        if let Ok(node) = self.id(position) {
            self.recorder.push(What::Stopped { node });
        }
    }

    fn note_pid(&mut self, position: usize) {
        let pid = self.cluster.nodes[position].process().map(|process| process.pid());
        self.roster.change(position, |entry| entry.pid = pid);
    }

    /// Lets a host join, and starts it.
    ///
    /// # Errors
    /// `join` fails, or the node does not come up.
    pub async fn join(&mut self, position: usize) -> Result<()> {
        let token = self.token().await?;
        let node = &mut self.cluster.nodes[position];
        let joined = process::run(node.command("join"), &token, BUILD_PATIENCE)?;
        joined.ok(&format!("pangolind join of {}", node.name))?;
        node.start_ready().await?;
        let until = Instant::now() + BUILD_PATIENCE;
        while self.id(position).is_err() {
            self.enrol(&self.status().await?);
            ensure!(Instant::now() < until, "{} is not in the status", self.cluster.nodes[position].name);
            sleep(LOOK_EVERY).await;
        }
        self.note_pid(position);
        self.recorder.push(What::Started { node: self.id(position)? });
        Ok(())
    }

    async fn token(&self) -> Result<String> {
        let node = self.running().first().copied().context("no node runs")?;
        let client = self.cluster.nodes[node].client().with_deadline(BUILD_PATIENCE);
        let created: pangolin_wire::CreatedToken =
            client.put("/cluster/token", &pangolin_wire::CreateToken::default()).await?;
        created.token.context("the token is not shown")
    }

    /// Takes a member out of the cluster for good, by the word of another one, and empties its disk.
    ///
    /// # Errors
    /// The cluster refuses, or the disk cannot be emptied.
    pub async fn remove(&mut self, position: usize) -> Result<()> {
        let node = self.id(position)?;
        let other = self.running().into_iter().find(|other| *other != position).context("nobody is left")?;
        let client = self.cluster.nodes[other].client().with_deadline(BUILD_PATIENCE);
        let leave = Leave { node_id: Some(node) };
        client.post::<_, serde_json::Value>("/cluster/leave", &leave).await?;
        let process = self.cluster.nodes[position].process();
        if let Some(process) = process {
            // It learns of its removal and ends; one that cannot learn of it is ended.
            let _ = process.wait(Duration::from_secs(5));
            self.ended(position);
        }
        self.recorder.push(What::Removed { node });
        self.roster.change(position, |entry| entry.id = None);
        empty(&self.cluster.nodes[position].disk())
    }

    /// Waits until all members run, are up or at least reached by all, vote (of an even number, one does not), and have caught up, by the word of the leader.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn healthy(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let Err(problem) = self.try_healthy().await else { return Ok(()) };
            if Instant::now() >= until {
                return Err(problem.context(format!("not healthy after {patience:?}")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn try_healthy(&self) -> Result<()> {
        let status = self.status().await?;
        ensure!(status.partial.is_none(), "only one node's view: {:?}", status.partial);
        let members = self.roster.members().len();
        ensure!(status.quorum.voters == members - (1 - members % 2), "{} vote", status.quorum.voters);
        for (position, id, entry) in self.roster.members() {
            ensure!(self.cluster.nodes[position].runs(), "{} does not run", entry.name);
            let node = status.nodes.iter().find(|node| node.id == id);
            let node = node.with_context(|| format!("{} is not in the status", entry.name))?;
            // One that has died again and again is called up late, on purpose; it has to be seen by everybody.
            let unseen = (node.seen_by.len() + 1 < members) && node.verdict != Verdict::Up;
            ensure!(!unseen, "{} is down, and seen by {:?} only", entry.name, node.seen_by);
            // An even one out does not vote: it would add nothing to what the cluster can stand.
            let spare = node.raft == RaftPart::Learner && members.is_multiple_of(2);
            let votes = matches!(node.raft, RaftPart::Leader | RaftPart::Voter);
            ensure!(votes || spare, "{} does not vote", entry.name);
            ensure!(node.lag.is_some_and(|lag| lag <= LAG_MAX), "{} lags by {:?}", entry.name, node.lag);
        }
        Ok(())
    }

    /// The status as some running member gives it.
    ///
    /// # Errors
    /// None gives it.
    pub async fn status(&self) -> Result<ClusterStatus> {
        let mut problem = None;
        for position in self.running() {
            let client = self.cluster.nodes[position].client();
            match timeout(LOOK_PATIENCE, client.get::<ClusterStatus>("/cluster/status")).await {
                Ok(Ok(status)) if status.partial.is_none() => return Ok(status),
                Ok(Ok(status)) => problem = status.partial,
                Ok(Err(error)) => problem = Some(error.to_string()),
                Err(_) => problem = Some(format!("no answer within {LOOK_PATIENCE:?}")),
            }
        }
        bail!("no node tells how the cluster stands: {}", problem.unwrap_or_else(|| "none runs".to_owned()))
    }

    /// Waits until the site has a home and a tunnel to every member.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn site_settled(&self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let status = self.status().await;
            let site = status.as_ref().ok().and_then(|s| s.sites.iter().find(|s| s.site_id == self.site.id));
            let members = self.members().len();
            if site.is_some_and(|site| site.home.is_some() && site.tunnels.len() >= members) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the site's tunnels are not up after {patience:?}: {site:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Learns the ids of nodes from the status.
    fn enrol(&self, status: &ClusterStatus) {
        for (position, node) in self.cluster.nodes.iter().enumerate() {
            let known = status.nodes.iter().find(|known| known.name.as_str() == node.name);
            if let Some(known) = known {
                self.roster.change(position, |entry| entry.id = Some(known.id));
            }
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Nobody writes to a disk any more when it is taken away.
        for node in &mut self.cluster.nodes {
            node.kill();
        }
        self.mounts.clear();
    }
}

/// The names of the registers: organisations, whose display names are the values.
#[must_use]
pub fn keys(number: usize) -> Vec<String> {
    (0..number).map(|key| format!("key{key:02}")).collect()
}

fn prepare(options: &BedOptions, plugs: &[Plug]) -> Result<Cluster> {
    Cluster::prepare(Options {
        addresses: plugs.iter().map(|plug| plug.address).collect(),
        ports: PORTS,
        zone: "demo.test".to_owned(),
        backend: Backend::Auto,
        log: options.log.clone(),
        timing: Timing::default(),
    })
}

fn entry(node: &Node) -> Entry {
    Entry {
        name: node.name.clone(),
        address: node.address,
        https: node.https(),
        dns: node.dns(),
        socket: node.socket(),
        id: None,
        pid: None,
    }
}

/// Removes everything in a folder, and leaves the folder.
fn empty(folder: &std::path::Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}
