//! Thousands of sites that come back at once: after the node died that they hang on, after that node was started again, and
//! after all their links were away. The nodes are whole ones, and the sites are whole connectors in a few processes.

pub(crate) mod crowd;

use std::{
    collections::BTreeSet,
    fs::OpenOptions,
    io::Write,
    net::Ipv4Addr,
    os::unix::fs::OpenOptionsExt,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use pangolin_chaos::{process::Process, site::ORG, testbed::network::missing};
use pangolin_core::NodeId;
use pangolin_wire::{CreateSite, CreatedSite, SiteStatus};
use serde::Serialize;
use serde_json::json;
use tokio::{task::JoinSet, time::sleep};

use self::crowd::Credentials;
use crate::{
    judge::Check,
    processes::{cpu_seconds, resident_mb},
    sample::round,
    say,
    traffic::lab::Lab,
};

/// Nodes of the cluster.
const NODES: u8 = 3;
/// Sites that are made at a time.
const MADE_AT_A_TIME: usize = 16;
/// How long making a site may take.
const MAKE_PATIENCE: Duration = Duration::from_secs(30);
/// How long all may take to come back. The bound is a part of it.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often the nodes are asked who is there: an answer names all sites, which costs the node some milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the links are away.
const AWAY: Duration = Duration::from_secs(20);
/// How long the cluster is left alone before each storm, and watched for what it costs at rest.
const AT_REST: Duration = Duration::from_secs(10);
/// Until all are back.
const BACK_SECONDS: f64 = 60.0;
/// CPU seconds per second of the busiest node meanwhile.
const CORES: f64 = 1.0;
/// The shortest time that they are counted over, in seconds: less than the kernel's ticks tell apart.
const CORES_OVER: f64 = 1.0;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Sites that come back at once; needs root
    #[arg(long, default_value_t = 2000)]
    sites: usize,
    /// Tunnels of each. With one, the cluster moves it as it moves a Newt's
    #[arg(long, default_value_t = 1)]
    tunnels: usize,
    /// Addresses that the sites are spread over, as different networks have different ones
    #[arg(long, default_value_t = 2000)]
    places: u16,
    /// Processes that the sites share
    #[arg(long, default_value_t = 2)]
    processes: usize,
}

/// What a storm, or no storm, was like.
#[derive(Clone, Debug, Serialize)]
struct Told {
    what: String,
    /// Until every site had its tunnels and a control socket again.
    seconds: f64,
    /// CPU seconds per second of each node in that time; zero for one that does not run.
    cores: Vec<f64>,
    /// Of each node at the end, in MB.
    memory_mb: Vec<f64>,
}

/// Measures, prints, judges.
///
/// # Errors
/// Something is missing for it, or not all sites come back.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    if let Some(missing) = missing() {
        bail!("storms cannot be made here: {missing}");
    }
    ensure!((1..=usize::from(NODES)).contains(&options.tunnels), "1 to {NODES} tunnels");
    ensure!(options.sites > 0 && options.places > 0, "at least one site, at one place");
    let mut storm = Storm::start(options).await?;
    let told = match storm.all().await {
        Ok(told) => told,
        Err(error) => return Err(error.context(storm.lab.tails())),
    };
    let mut checks = Vec::new();
    // How they begin and what they cost at rest is told, not judged.
    for told in &told[2..] {
        let most = told.cores.iter().copied().fold(0.0, f64::max);
        checks.push(Check::at_most(format!("{}: all back, s", told.what), told.seconds, BACK_SECONDS));
        checks.push(Check::at_most(format!("{}: cores of the busiest node", told.what), most, CORES));
    }
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    let figures = json!({
        "bench": "storm", "sites": options.sites, "places": options.places, "tunnels": options.tunnels, "told": told, "checks": checks, "ok": ok,
    });
    say(&figures.to_string());
    Ok(ok)
}

/// The cluster and the sites' processes. Dropped in order: the sites before what they hang on.
struct Storm {
    crowd: Vec<Process>,
    lab: Lab,
    tunnels: usize,
    sites: usize,
}

impl Storm {
    async fn start(options: &Options) -> Result<Self> {
        let mut lab = Lab::start(NODES, options.tunnels).await?;
        lab.spread_site(places(options.places))?;
        let mut storm = Self { crowd: Vec::new(), lab, tunnels: options.tunnels, sites: options.sites };
        let began = Instant::now();
        let credentials = storm.make_sites().await?;
        say(&format!("{} sites made in {:.1} s", options.sites, began.elapsed().as_secs_f64()));
        for (number, share) in
            credentials.chunks(options.sites.div_ceil(options.processes.max(1))).enumerate()
        {
            let process = storm.spawn(number, share)?;
            storm.crowd.push(process);
        }
        Ok(storm)
    }

    async fn make_sites(&self) -> Result<Vec<Credentials>> {
        let (mut making, mut made) = (JoinSet::new(), Vec::new());
        for number in 0..self.sites {
            if making.len() >= MADE_AT_A_TIME {
                made.extend(making.join_next().await.transpose()?.transpose()?);
            }
            let client = self.lab.cluster.any_node()?.client().with_deadline(MAKE_PATIENCE);
            making.spawn_local(async move {
                let name = format!("crowd {number}");
                let site = CreateSite { name, kind: None, nice_id: None, newt_id: None, secret: None };
                let created: CreatedSite = client.put(&format!("/org/{ORG}/site"), &site).await?;
                let secret = created.secret.context("the site's secret is not shown")?;
                anyhow::Ok(Credentials { id: created.site.newt_id, secret })
            });
        }
        while let Some(site) = making.join_next().await {
            made.push(site??);
        }
        Ok(made)
    }

    /// Starts a process with some of the sites, on the sites' host.
    fn spawn(&self, number: usize, sites: &[Credentials]) -> Result<Process> {
        let cluster = &self.lab.cluster;
        let file = cluster.dir().join(format!("crowd-{number}.json"));
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&file)?
            .write_all(&serde_json::to_vec(sites)?)?;
        let endpoints: Vec<String> =
            cluster.nodes.iter().map(|node| format!("https://{}", node.https())).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("storm-crowd").arg("--sites").arg(&file);
        command.args(["--endpoint", &endpoints.join(",")]);
        command.args(["--server-name", &format!("control.{}", cluster.options.zone)]);
        command.arg("--ca-file").arg(cluster.ca_file());
        command.args(["--tunnels", &self.tunnels.to_string()]);
        self.lab.site_network()?.enter(&mut command);
        Process::spawn("crowd", command, &cluster.dir().join(format!("crowd-{number}.log")))
    }

    /// One after the other: they begin, rest, lose a node, get it back, lose their links.
    async fn all(&mut self) -> Result<Vec<Told>> {
        let all: BTreeSet<NodeId> = self.ids().await?;
        let mut told = vec![self.until_back("begin", Instant::now(), &all, self.tunnels).await?];
        let rest = (Instant::now(), self.cpu()?);
        sleep(AT_REST).await;
        told.push(self.tell("at rest", rest)?);
        let victim = self.victim().await?;
        let (id, began) = (self.id_of(victim).await?, Instant::now());
        self.lab.cluster.nodes[victim].kill();
        let others: BTreeSet<NodeId> = all.iter().copied().filter(|node| *node != id).collect();
        told.push(
            self.until_back("their node is killed", began, &others, self.tunnels.min(others.len())).await?,
        );
        sleep(AT_REST).await;
        self.lab.cluster.nodes[victim].start_ready().await?;
        told.push(self.until_back("it is started again", Instant::now(), &all, self.tunnels).await?);
        sleep(AT_REST).await;
        self.lab.unplug_site()?;
        sleep(AWAY).await;
        self.lab.plug_site()?;
        told.push(self.until_back("all links were away", Instant::now(), &all, self.tunnels).await?);
        Ok(told)
    }

    async fn ids(&self) -> Result<BTreeSet<NodeId>> {
        Ok(self.lab.cluster.status().await?.nodes.iter().map(|node| node.id).collect())
    }

    async fn id_of(&self, position: usize) -> Result<NodeId> {
        let status = self.lab.cluster.status().await?;
        let name = self.lab.cluster.nodes[position].name.as_str();
        Ok(status.nodes.iter().find(|node| node.name.as_str() == name).context("the node is not known")?.id)
    }

    /// The node with most tunnels.
    async fn victim(&self) -> Result<usize> {
        let status = self.lab.cluster.status().await?;
        let tunnels = |id: NodeId| status.sites.iter().filter(|site| site.tunnels.contains(&id)).count();
        let most = status.nodes.iter().max_by_key(|node| tunnels(node.id)).context("there are no nodes")?;
        say(&format!("the victim, {}, has {} tunnels", most.name, tunnels(most.id)));
        self.lab.cluster.position(&status, most.id)
    }

    /// CPU time of each node so far; zero for one that does not run.
    fn cpu(&mut self) -> Result<Vec<f64>> {
        let nodes = self.lab.cluster.nodes.iter_mut();
        nodes.map(|node| node.process().map_or(Ok(0.0), |process| cpu_seconds(&[process.pid()]))).collect()
    }

    fn tell(&mut self, what: &str, (began, before): (Instant, Vec<f64>)) -> Result<Told> {
        let took = began.elapsed().as_secs_f64();
        let over = took.max(CORES_OVER);
        let used = self.cpu()?.into_iter().zip(before).map(|(now, before)| (now - before).max(0.0));
        let cores: Vec<f64> = used.map(|used| round(used / over)).collect();
        let nodes =
            self.lab.cluster.nodes.iter_mut().filter_map(|node| node.process().map(|process| process.pid()));
        let memory_mb = nodes.map(resident_mb).collect::<Result<_>>()?;
        let told = Told { what: what.to_owned(), seconds: round(took), cores, memory_mb };
        say(&format!(
            "{:<22} {:>6.1} s, cores of the nodes {:?}, MB {:?}",
            told.what, told.seconds, told.cores, told.memory_mb
        ));
        Ok(told)
    }

    /// Waits until every site has a control socket and so many tunnels, all at these nodes.
    async fn until_back(
        &mut self,
        what: &str,
        began: Instant,
        nodes: &BTreeSet<NodeId>,
        tunnels: usize,
    ) -> Result<Told> {
        let before = (began, self.cpu()?);
        loop {
            let there = match self.lab.cluster.status().await {
                Ok(status) => status.sites.iter().filter(|site| is_back(site, nodes, tunnels)).count(),
                Err(_) => 0,
            };
            // The lab has a site of its own.
            if there > self.sites {
                return self.tell(what, before);
            }
            for process in &mut self.crowd {
                ensure!(process.exit_status().is_none(), "the sites have ended\n{}", process.tail());
            }
            let late = began.elapsed() > PATIENCE;
            ensure!(!late, "{what}: {there} of {} sites are back after {PATIENCE:?}", self.sites + 1);
            sleep(LOOK_EVERY).await;
        }
    }
}

/// So many addresses that are no host's.
fn places(count: u16) -> Vec<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(10, 78, 0, 1));
    (0..u32::from(count)).map(|number| Ipv4Addr::from(first + number)).collect()
}

fn is_back(site: &SiteStatus, nodes: &BTreeSet<NodeId>, tunnels: usize) -> bool {
    site.socket.is_some_and(|node| nodes.contains(&node))
        && site.tunnels.iter().filter(|node| nodes.contains(node)).count() >= tunnels
}

#[cfg(test)]
mod tests {
    use pangolin_core::SiteId;

    use super::*;

    #[test]
    fn a_site_is_back_with_its_tunnels_and_a_socket_at_nodes_that_live() {
        let nodes = BTreeSet::from([NodeId(1), NodeId(2)]);
        let cases: [(&[u64], Option<u64>, usize, bool); 6] = [
            (&[1], Some(2), 1, true),
            (&[3], Some(2), 1, false),
            (&[1], Some(3), 1, false),
            (&[1], None, 1, false),
            (&[1, 3], Some(1), 2, false),
            (&[1, 2, 3], Some(1), 2, true),
        ];
        for (at, socket, tunnels, expected) in cases {
            let site = SiteStatus {
                site_id: SiteId(1),
                org_id: "o".parse().unwrap(),
                nice_id: "s".parse().unwrap(),
                name: String::new(),
                home: None,
                standbys: Vec::new(),
                tunnels: at.iter().map(|node| NodeId(*node)).collect(),
                socket: socket.map(NodeId),
                local: false,
            };
            assert_eq!(is_back(&site, &nodes, tunnels), expected, "{at:?} {socket:?}");
        }
    }
}
