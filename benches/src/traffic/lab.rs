//! What the failover of traffic is measured on: nodes, a site and a visitor on hosts of their own in network namespaces.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pangolin_chaos::{
    cluster::{Backend, Cluster, Options, START_PATIENCE, Timing},
    host::{Host, Network},
    https::Https,
    ports::Ports,
    process,
    site::Site,
    testbed::{
        filter::{Rule, Traffic},
        network::{Fabric, tool},
    },
};
use pangolin_core::NodeId;
use pangolin_wire::{ClusterStatus, RaftPart, SiteStatus, TransferLeader, TransferredLeader};
use tokio::time::sleep;

/// The ports that the documentation names: every host has them for itself.
const PORTS: Ports = Ports { https: 443, http: 80, dns: 53, peers: 7420, tunnel: 51820 };
const SITE_HOST: &str = "site";
/// Where the site's host moves to, in the network of the test bed.
const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 200);
/// Where the addresses are that [`Lab::spread_site`] takes.
const SPREAD: &str = "10.78.0.0/16";
/// How long `ip` may take.
const TOOL_PATIENCE: Duration = Duration::from_secs(20);
const OUTSIDE_HOST: &str = "outside";
/// How long the cluster may take to be whole again, on a machine that is busy.
const HEAL_PATIENCE: Duration = Duration::from_secs(90);
/// How long things have to stay as they are to count as settled.
const SETTLED: Duration = Duration::from_millis(700);
/// How often a waiting call looks again.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A node that lags by more entries has not caught up.
const LAG_MAX: u64 = 5;
/// The rules of a cut.
const CUT: &str = "cut";

/// How a node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `kill -9`: its host says so to whoever asks.
    Killed,
    /// Every packet from and to it is dropped: nobody says anything.
    Cut,
    /// Only the tunnels and requests between the site and it are dropped.
    TunnelCut,
}

/// The hosts, and what runs on them. Dropped in order: programs before their network.
pub(crate) struct Lab {
    site: Site,
    pub(crate) cluster: Cluster,
    pub(crate) https: Https,
    fabric: Fabric,
    /// The site has moved to its second address.
    moved: bool,
    /// Where packets of the site's host seem to come from, besides its own address.
    sources: Vec<Ipv4Addr>,
}

impl Lab {
    /// Starts so many nodes, and a connector that keeps so many tunnels.
    ///
    /// # Errors
    /// Some step fails; this needs root.
    pub(crate) async fn start(nodes: u8, tunnels: usize) -> Result<Self> {
        let mut names: Vec<String> = (1..=nodes).map(|number| format!("n{number}")).collect();
        names.extend([SITE_HOST, OUTSIDE_HOST].map(str::to_owned));
        let fabric = Fabric::new(&names)?;
        let addresses = fabric.plugs[..usize::from(nodes)].iter().map(|plug| plug.address).collect();
        let options = Options {
            addresses,
            ports: PORTS,
            zone: "bench.test".to_owned(),
            backend: Backend::Auto,
            log: Some("info,openraft=warn,gotatun=warn".to_owned()),
            timing: Timing::default(),
        };
        let mut cluster = Cluster::prepare(options)?;
        for node in &mut cluster.nodes {
            node.host.network = Some(fabric.plug(&node.name)?.network.clone());
        }
        cluster.init().await?;
        for position in 1..cluster.nodes.len() {
            cluster.join(position).await?;
        }
        cluster.healthy(HEAL_PATIENCE).await?;
        Site::found(&cluster).await?;
        let host = Host { network: Some(fabric.plug(SITE_HOST)?.network.clone()), ..Host::default() };
        let site = Site::publish_on(&cluster, "lab", "hello", Some(tunnels), host).await?;
        let https = cluster.https_client().await?;
        let lab = Self { site, cluster, https, fabric, moved: false, sources: Vec::new() };
        lab.settled().await?;
        Ok(lab)
    }

    /// The name that is published.
    pub(crate) fn host(&self) -> &str {
        &self.site.host
    }

    /// Where visitors and resolvers are.
    ///
    /// # Errors
    /// There is no such host.
    pub(crate) fn outside(&self) -> Result<Network> {
        Ok(self.fabric.plug(OUTSIDE_HOST)?.network.clone())
    }

    /// Where the site is.
    ///
    /// # Errors
    /// There is no such host.
    pub(crate) fn site_network(&self) -> Result<Network> {
        Ok(self.fabric.plug(SITE_HOST)?.network.clone())
    }

    /// The status, by the word of a node that is not `but`.
    ///
    /// # Errors
    /// No node tells.
    pub(super) async fn status(&self, but: Option<usize>) -> Result<ClusterStatus> {
        let mut nodes = self.cluster.nodes.iter().enumerate();
        let (_, node) = nodes.find(|(n, node)| Some(*n) != but && node.runs()).context("no node runs")?;
        Ok(node.client().get("/cluster/status").await?)
    }

    /// What a status says of the site.
    ///
    /// # Errors
    /// Nothing.
    pub(crate) fn site_of<'a>(&self, status: &'a ClusterStatus) -> Result<&'a SiteStatus> {
        status.sites.iter().find(|site| site.site_id == self.site.id).context("the site is gone")
    }

    /// The position of the leader.
    ///
    /// # Errors
    /// Nobody leads.
    pub(super) fn leader(&self, status: &ClusterStatus) -> Result<usize> {
        self.cluster.position(status, status.leader.as_ref().context("there is no leader")?.node_id)
    }

    /// Waits until all nodes run, are reached by all and vote, and the site has the tunnels that it shall have and keeps
    /// them for a moment. Nodes that died again and again are called up late, on purpose: that is not waited for.
    ///
    /// # Errors
    /// It takes too long.
    pub(crate) async fn settled(&self) -> Result<ClusterStatus> {
        let until = Instant::now() + HEAL_PATIENCE;
        let mut before: Option<(Instant, SiteStatus, NodeId)> = None;
        loop {
            match self.whole().await {
                Ok(status) => {
                    let leader = status.leader.as_ref().context("there is no leader")?.node_id;
                    let site = self.site_of(&status)?.clone();
                    match &before {
                        Some((since, old, led)) if *old == site && *led == leader => {
                            if since.elapsed() >= SETTLED {
                                return Ok(status);
                            }
                        }
                        _ => before = Some((Instant::now(), site, leader)),
                    }
                }
                Err(problem) if Instant::now() >= until => {
                    return Err(problem.context(format!("not settled after {HEAL_PATIENCE:?}")));
                }
                Err(_) => before = None,
            }
            ensure!(Instant::now() < until, "the site's tunnels do not settle: {before:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    async fn whole(&self) -> Result<ClusterStatus> {
        let status = self.status(None).await?;
        ensure!(status.partial.is_none(), "only one node's view: {:?}", status.partial);
        let leader = status.leader.as_ref().context("there is no leader")?;
        ensure!(leader.since.is_some(), "the leader has not taken up its duties");
        let members = self.cluster.nodes.len();
        for node in &status.nodes {
            let reached = node.seen_by.iter().filter(|by| **by != node.id).count() + 1;
            ensure!(reached >= members, "{} is reached by {:?} only", node.name, node.seen_by);
            let votes = matches!(node.raft, RaftPart::Leader | RaftPart::Voter);
            ensure!(votes, "{} does not vote", node.name);
            ensure!(node.lag.is_some_and(|lag| lag <= LAG_MAX), "{} lags by {:?}", node.name, node.lag);
        }
        let site = self.site_of(&status)?;
        let wanted = self.site.tunnels.unwrap_or(members).min(members);
        ensure!(site.home.is_some() && site.socket.is_some(), "the site is not attached: {site:?}");
        // Where a death takes both, the connector has to find out by itself; the leader keeps them apart.
        let apart = wanted > 1 || site.socket != site.home;
        ensure!(apart, "the control socket is where the only tunnel ends: {site:?}");
        let home = site.home.is_some_and(|home| site.tunnels.contains(&home));
        ensure!(wanted > 1 || home, "the only tunnel is not at home: {site:?}");
        ensure!(site.tunnels.len() == wanted, "the site has not {wanted} tunnels: {site:?}");
        Ok(status)
    }

    /// Moves the leadership, and waits until all is settled again.
    ///
    /// # Errors
    /// It goes to another node.
    pub(super) async fn lead(&self, position: usize) -> Result<ClusterStatus> {
        let status = self.status(None).await?;
        if self.leader(&status)? == position {
            return Ok(status);
        }
        let node = &self.cluster.nodes[position];
        let known = status.nodes.iter().find(|known| known.name.as_str() == node.name);
        let to = Some(known.context("the node is not in the status")?.id);
        let client = node.client().with_deadline(START_PATIENCE);
        let moved: TransferredLeader =
            client.post("/cluster/leader/transfer", &TransferLeader { to }).await?;
        ensure!(Some(moved.node_id) == to, "the leadership went to node {}", moved.node_id);
        self.settled().await
    }

    /// Has a node fail.
    ///
    /// # Errors
    /// The packet filter refuses.
    pub(super) fn fail(&mut self, victim: usize, fault: Fault) -> Result<()> {
        if fault == Fault::Killed {
            self.cluster.nodes[victim].kill();
            return Ok(());
        }
        let it = self.cluster.nodes[victim].address;
        let plugs = self.fabric.plugs.iter();
        let others = plugs
            .filter(|plug| plug.address != it && (fault == Fault::Cut || plug.name == SITE_HOST))
            .map(|plug| plug.address);
        let others: Vec<_> = others.collect();
        let mut rules = [Rule::all([it], others.clone()), Rule::all(others, [it])];
        if fault == Fault::TunnelCut {
            for rule in &mut rules {
                rule.what = Traffic::Data { tunnel: PORTS.tunnel, https: PORTS.https };
            }
        }
        self.fabric.block(CUT, &rules)
    }

    /// Mends it.
    ///
    /// # Errors
    /// The node does not start, or the packet filter refuses.
    pub(super) async fn heal(&mut self, victim: usize, fault: Fault) -> Result<()> {
        match fault {
            Fault::Killed => self.cluster.nodes[victim].start_ready().await,
            Fault::Cut | Fault::TunnelCut => self.fabric.unblock(CUT),
        }
    }

    /// From now on what is new from the site's host comes from one of these addresses, by the port that it is sent from:
    /// as if many sites were there, each at a place of its own.
    ///
    /// # Errors
    /// `ip` or the packet filter refuses.
    pub(crate) fn spread_site(&mut self, sources: Vec<Ipv4Addr>) -> Result<()> {
        let site = self.fabric.plug(SITE_HOST)?;
        for node in &self.cluster.nodes {
            let mut command = tool("ip");
            command.args(["route", "add", SPREAD, "via", &site.address.to_string()]);
            self.fabric.plug(&node.name)?.network.enter(&mut command);
            process::run(command, "", TOOL_PATIENCE)?.ok("ip route")?;
        }
        let places: Vec<String> =
            sources.iter().enumerate().map(|(number, source)| format!("{number} : {source}")).collect();
        let batch = format!(
            "table ip spread {{\nchain out {{\ntype nat hook postrouting priority 100\nmeta l4proto {{ tcp, udp }} snat to jhash \
             th sport mod {} map {{ {} }}\n}}\n}}\n",
            places.len(),
            places.join(", ")
        );
        let mut command = tool("nft");
        command.args(["-f", "-"]);
        site.network.enter(&mut command);
        process::run(command, &batch, TOOL_PATIENCE)?.ok("nft")?;
        self.sources = sources;
        Ok(())
    }

    /// Takes the site off the network: nothing leaves it or comes to it, and nobody says so.
    ///
    /// # Errors
    /// The packet filter refuses.
    pub(crate) fn unplug_site(&self) -> Result<()> {
        let mut site = vec![self.fabric.plug(SITE_HOST)?.address, SECOND_ADDRESS.into()];
        site.extend(self.sources.iter().copied().map(IpAddr::from));
        let nodes: Vec<_> = self.cluster.nodes.iter().map(|node| node.address).collect();
        self.fabric.block(CUT, &[Rule::all(site.clone(), nodes.clone()), Rule::all(nodes, site)])
    }

    /// Puts it back.
    ///
    /// # Errors
    /// The packet filter refuses.
    pub(crate) fn plug_site(&self) -> Result<()> {
        self.fabric.unblock(CUT)
    }

    /// Gives the site its other address, and takes away the one that it had.
    ///
    /// # Errors
    /// `ip` refuses.
    pub(crate) fn move_site(&mut self) -> Result<()> {
        let plug = self.fabric.plug(SITE_HOST)?;
        let (first, second) = (plug.address.to_string(), SECOND_ADDRESS.to_string());
        let (gone, new) = if self.moved { (second, first) } else { (first, second) };
        let mut command = tool("ip");
        command.args(["-batch", "-"]);
        plug.network.enter(&mut command);
        // Within a moment nothing leads anywhere: as when a lease is given up and another one taken.
        let batch = format!("addr del {gone}/24 dev eth0\naddr add {new}/24 dev eth0\n");
        process::run(command, &batch, TOOL_PATIENCE)?.ok("ip")?;
        self.moved = !self.moved;
        Ok(())
    }

    /// Waits until every node says that its own tunnel to the site is alive, and the site has a control socket.
    ///
    /// # Errors
    /// It takes longer than until then.
    pub(crate) async fn attached(&self, until: Instant) -> Result<()> {
        loop {
            let problem = match self.all_attached().await {
                Ok(()) => return Ok(()),
                Err(problem) => problem,
            };
            if Instant::now() >= until {
                return Err(problem);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn all_attached(&self) -> Result<()> {
        for node in &self.cluster.nodes {
            let status: ClusterStatus = node.client().get("/cluster/status").await?;
            let own = status.nodes.iter().find(|known| known.name.as_str() == node.name);
            let id = own.context("a node is not in its own status")?.id;
            let site = self.site_of(&status)?;
            ensure!(site.tunnels.contains(&id), "{} has no tunnel: {site:?}", node.name);
            ensure!(site.socket.is_some(), "the site has no control socket: {site:?}");
        }
        Ok(())
    }

    /// The last lines that the connector and the nodes have logged, for whoever looks for the reason of a failure.
    pub(crate) fn tails(&mut self) -> String {
        let mut tails = self.site.connector().map(|connector| connector.tail()).unwrap_or_default();
        for node in &mut self.cluster.nodes {
            tails += &node.process().map(|process| process.tail()).unwrap_or_default();
        }
        tails
    }
}
