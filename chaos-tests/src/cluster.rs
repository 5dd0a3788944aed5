//! Nodes as real processes on loopback addresses, each with its own configuration and state.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pangolin_core::{
    NodeId,
    record::{NodeRole, Verdict},
};
use pangolin_wire::{Client, ClusterStatus, CreateToken, CreatedToken, Health, Issuer, RaftPart};
use tempfile::TempDir;

use crate::{
    host::Host,
    https::Https,
    leftovers,
    ports::Ports,
    process::{self, Process},
    programs::Programs,
};

/// How long a node may take from its start until it answers.
pub const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a one-shot command may take.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(30);
/// How often a waiting call looks again.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How nodes end tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The best that the node may use: a TUN device for root, else in the process.
    #[default]
    Auto,
    /// Without privileges.
    InProcess,
}

/// How far the nodes are from each other, as far as they know (`peer.timing`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Timing {
    /// In one place, or in places near each other.
    #[default]
    Lan,
    /// On different continents.
    Wan,
}

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// One address per node.
    pub addresses: Vec<IpAddr>,
    /// The ports on each of them.
    pub ports: Ports,
    /// Its zone.
    pub zone: String,
    /// How it ends tunnels.
    pub backend: Backend,
    /// What nodes log (`tracing` filter syntax); none = what they log by themselves.
    pub log: Option<String>,
    /// How soon nodes give each other up.
    pub timing: Timing,
}

impl Options {
    /// Three nodes for a test, on addresses and ports of their own.
    ///
    /// # Errors
    /// No ports are free.
    pub fn of_a_test() -> Result<Self> {
        Self::of_nodes(3)
    }

    /// So many nodes for a test, on addresses and ports of their own.
    ///
    /// # Errors
    /// No ports are free.
    pub fn of_nodes(count: u8) -> Result<Self> {
        let addresses = crate::ports::own_addresses(count);
        let ports = Ports::free(&addresses)?;
        let log = std::env::var("PANGOLIN_TEST_LOG").ok();
        Ok(Self {
            addresses,
            ports,
            zone: "demo.test".to_owned(),
            backend: Backend::InProcess,
            log,
            timing: Timing::default(),
        })
    }
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its short name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its ports.
    pub ports: Ports,
    /// Where its programs run.
    pub host: Host,
    dir: PathBuf,
    pangolind: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("pangolin.toml")
    }

    /// The folder of everything that it writes for good: in a test bed, a disk of its own.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// Where it keeps what outlives a restart.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.disk().join("state")
    }

    /// Its local socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/pangolin.sock")
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Where its edge serves HTTPS.
    #[must_use]
    pub fn https(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.https)
    }

    /// Where its edge serves plain HTTP.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.http)
    }

    /// Where it answers DNS.
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.dns)
    }

    /// Where its peers connect.
    #[must_use]
    pub fn peers(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.peers)
    }

    /// Where WireGuard datagrams arrive.
    #[must_use]
    pub fn tunnel(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.ports.tunnel)
    }

    /// A client for its local socket that makes one attempt.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::unix(self.socket())
    }

    /// Lets it run another program from its next start on.
    pub fn set_program(&mut self, pangolind: &Path) {
        self.pangolind = pangolind.to_owned();
    }

    /// Its process; none while it does not run.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Whether it has been started and not killed.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// A command of the node's program with this node's configuration.
    #[must_use]
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.pangolind);
        command.arg(verb).arg("--config").arg(self.config());
        self.host.place(&mut command);
        command
    }

    /// Starts it; it is not ready yet.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "node {} runs already", self.name);
        self.process = Some(Process::spawn(&self.name, self.command("run"), &self.log())?);
        Ok(())
    }

    /// Starts it and waits until it answers and has the first state.
    ///
    /// # Errors
    /// It ends instead, or takes too long.
    pub async fn start_ready(&mut self) -> Result<()> {
        self.start()?;
        self.ready(START_PATIENCE).await
    }

    /// Waits until it answers and knows a leader.
    ///
    /// # Errors
    /// It ends instead, or takes too long.
    pub async fn ready(&mut self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let answer = self.client().get::<Health>("/health").await;
            if answer.as_ref().is_ok_and(|health| health.leader.is_some()) {
                return Ok(());
            }
            let process = self.process.as_mut().context("the node was not started")?;
            if let Some(status) = process.exit_status() {
                bail!("node {} has ended ({status})\n{}", self.name, process.tail());
            }
            if Instant::now() >= until {
                bail!("node {} is not ready after {patience:?}: {answer:?}\n{}", self.name, process.tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it in order (`SIGTERM`).
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(&mut self, patience: Duration) -> Result<std::process::ExitStatus> {
        let mut process = self.process.take().context("the node does not run")?;
        process.terminate(patience)
    }

    /// Writes its configuration anew, for example after its address was changed. It counts from the next start.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_config(&self, options: &Options) -> Result<()> {
        let backend = match options.backend {
            Backend::Auto => "auto",
            Backend::InProcess => "in-process",
        };
        let timing = match options.timing {
            Timing::Lan => "lan",
            Timing::Wan => "wan",
        };
        // Interfaces of several nodes on one host need names of their own.
        let interface = format!("pg{}-{}", std::process::id() % 100_000, self.name);
        // What local sites reach in tests is on this host.
        let text = format!(
            "version = 1\n\n[node]\nname = \"{name}\"\nstate_dir = \"{state}\"\nruntime_dir = \"{run}\"\n\
             public_addresses = [\"{ip}\"]\n\n[peer]\nlisten = \"{peers}\"\ntiming = \"{timing}\"\n\n\
             [edge]\nhttps = [\"{https}\"]\n\
             http = [\"{http}\"]\n\n[dns]\nlisten = [\"{dns}\"]\n\n[tunnel]\nlisten = \"{tunnel}\"\n\
             backend = \"{backend}\"\ninterface = \"{interface}\"\n\n[local_targets]\n\
             allow = [\"127.0.0.0/8\"]\n\n[log]\nformat = \"text\"\n{log}",
            name = self.name,
            state = self.state_dir().display(),
            run = self.dir.join("run").display(),
            ip = self.address,
            peers = self.peers(),
            https = self.https(),
            http = self.http(),
            dns = self.dns(),
            tunnel = self.tunnel(),
            log = options.log.as_ref().map(|filter| format!("filter = \"{filter}\"\n")).unwrap_or_default(),
        );
        std::fs::write(self.config(), text)
            .with_context(|| format!("cannot write {}", self.config().display()))
    }
}

/// A cluster of nodes on this host. Dropping it kills them and removes all that they wrote.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, in the order in which they join.
    pub nodes: Vec<Node>,
    /// The programs that it is made of.
    pub programs: Programs,
    /// What it was to be like.
    pub options: Options,
    // Fields are dropped in order: the nodes are gone before their files.
    dir: TempDir,
}

impl Cluster {
    /// Writes the configuration of all nodes; nothing runs yet.
    ///
    /// # Errors
    /// The programs are not built, or the files cannot be written.
    pub fn prepare(options: Options) -> Result<Self> {
        let programs = Programs::find()?;
        let dir = leftovers::folder()?;
        let mut nodes = Vec::new();
        for (number, address) in (1..).zip(&options.addresses) {
            let name = format!("n{number}");
            let node = Node {
                dir: dir.path().join(&name),
                name,
                address: *address,
                ports: options.ports,
                host: Host::default(),
                pangolind: programs.pangolind.clone(),
                process: None,
            };
            std::fs::create_dir_all(node.disk())?;
            node.write_config(&options)?;
            nodes.push(node);
        }
        Ok(Self { nodes, programs, options, dir })
    }

    /// Makes the cluster with its first node, and starts that.
    ///
    /// # Errors
    /// `init` fails, or the node does not come up.
    pub async fn init(&mut self) -> Result<()> {
        let mut command = self.nodes[0].command("init");
        command.args(["--cluster", "demo", "--zone", &self.options.zone]);
        process::run(command, "", COMMAND_PATIENCE)?.ok("pangolind init")?;
        self.nodes[0].start_ready().await
    }

    /// A new join token.
    ///
    /// # Errors
    /// The first node does not give one.
    pub async fn token(&self) -> Result<String> {
        self.token_for(NodeRole::Data).await
    }

    async fn token_for(&self, role: NodeRole) -> Result<String> {
        let client = self.nodes[0].client().with_deadline(Duration::from_secs(10));
        let wanted = CreateToken { role: Some(role), lifetime_seconds: None };
        let created: CreatedToken = client.put("/cluster/token", &wanted).await?;
        created.token.context("the token is not shown")
    }

    /// Lets a node join in this role, and starts it.
    ///
    /// # Errors
    /// `join` fails, or the node does not come up.
    pub async fn join_as(&mut self, node: usize, role: NodeRole) -> Result<()> {
        let token = self.token_for(role).await?;
        self.join_with(node, &token).await
    }

    /// Lets a node join, and starts it.
    ///
    /// # Errors
    /// `join` fails, or the node does not come up.
    pub async fn join(&mut self, node: usize) -> Result<()> {
        let token = self.token().await?;
        self.join_with(node, &token).await
    }

    /// Lets a node join with a token, and starts it.
    ///
    /// # Errors
    /// `join` fails, or the node does not come up.
    pub async fn join_with(&mut self, node: usize, token: &str) -> Result<()> {
        let node = &mut self.nodes[node];
        let joined = process::run(node.command("join"), token, COMMAND_PATIENCE)?;
        joined.ok(&format!("pangolind join of {}", node.name))?;
        node.start_ready().await
    }

    /// All nodes, joined, up and voting.
    ///
    /// # Errors
    /// Some step fails.
    pub async fn start(options: Options) -> Result<Self> {
        let mut cluster = Self::prepare(options)?;
        cluster.init().await?;
        for node in 1..cluster.nodes.len() {
            cluster.join(node).await?;
        }
        cluster.healthy(START_PATIENCE).await?;
        Ok(cluster)
    }

    /// Where all its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A running node.
    ///
    /// # Errors
    /// None runs.
    pub fn any_node(&self) -> Result<&Node> {
        self.nodes.iter().find(|node| node.runs()).context("no node runs")
    }

    /// The status as some running node gives it.
    ///
    /// # Errors
    /// It gives none.
    pub async fn status(&self) -> Result<ClusterStatus> {
        Ok(self.any_node()?.client().get("/cluster/status").await?)
    }

    /// The position of a node in [`Self::nodes`] by its id in the status.
    ///
    /// # Errors
    /// It is none of these nodes.
    pub fn position(&self, status: &ClusterStatus, id: NodeId) -> Result<usize> {
        let name = status.nodes.iter().find(|node| node.id == id).map(|node| node.name.as_str());
        let position = self.nodes.iter().position(|node| Some(node.name.as_str()) == name);
        position.with_context(|| format!("node {id} is not among these"))
    }

    /// Waits until every node is up, votes, and has all of the log, by the word of the leader as every node
    /// passes it on.
    ///
    /// # Errors
    /// It takes too long.
    pub async fn healthy(&self, patience: Duration) -> Result<ClusterStatus> {
        let until = Instant::now() + patience;
        loop {
            let problem = match self.try_healthy().await {
                Ok(status) => return Ok(status),
                Err(problem) => problem,
            };
            if Instant::now() >= until {
                let tails: String =
                    self.nodes.iter().filter_map(|n| n.process.as_ref()).map(|p| p.tail() + "\n").collect();
                return Err(problem.context(format!("not healthy after {patience:?}\n{tails}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn try_healthy(&self) -> Result<ClusterStatus> {
        let mut last = None;
        for node in &self.nodes {
            let status: ClusterStatus = node.client().get("/cluster/status").await?;
            ensure!(status.partial.is_none(), "{} has only its own view: {:?}", node.name, status.partial);
            let leader = status.leader.as_ref().context("there is no leader")?;
            ensure!(leader.since.is_some(), "the leader has not taken up its duties");
            ensure!(status.nodes.len() == self.nodes.len(), "{} nodes have joined", status.nodes.len());
            for other in &status.nodes {
                ensure!(other.verdict == Verdict::Up, "{} is down", other.name);
                ensure!(other.serving != Some(false), "{} lets no client in yet", other.name);
                ensure!(
                    matches!(other.raft, RaftPart::Leader | RaftPart::Voter),
                    "{} does not vote",
                    other.name
                );
                ensure!(other.lag.is_some_and(|lag| lag <= 5), "{} lags by {:?}", other.name, other.lag);
            }
            last = Some(status);
        }
        last.context("no nodes")
    }

    /// The authority behind the certificates that the edges show, in PEM; also written to [`Self::ca_file`].
    ///
    /// # Errors
    /// No node tells.
    pub async fn authority(&self) -> Result<String> {
        let issuer: Issuer = self.any_node()?.client().get("/cluster/issuer").await?;
        std::fs::write(self.ca_file(), &issuer.pem)?;
        Ok(issuer.pem)
    }

    /// The file that [`Self::authority`] writes.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir().join("ca.pem")
    }

    /// A client that trusts this cluster.
    ///
    /// # Errors
    /// No node tells its authority.
    pub async fn https_client(&self) -> Result<Https> {
        Https::trusting(&self.authority().await?)
    }
}
