//! How long nobody is answered when the node dies that carries a site's traffic, as a visitor sees it who asks every
//! 50 ms. Nodes, connector and visitor have hosts of their own in network namespaces, so that a node can also fall
//! silent. Before each fault it is made sure that the victim carried the visitor's last requests.

pub(crate) mod lab;
mod resolver;
pub(crate) mod visitor;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pangolin_chaos::{
    prober::{INTERVAL, Probe, figures},
    testbed::network,
};
use pangolin_core::NodeId;
use pangolin_wire::ClusterStatus;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use self::{
    lab::{Fault, Lab},
    resolver::Resolver,
    visitor::{Visitor, Way},
};
use crate::{judge::Check, sample::Sample, say};

/// How long the visitor asks before the fault.
const BEFORE: Duration = Duration::from_millis(1200);
/// How many of its last requests the victim has to have carried.
const CARRIED: u32 = 10;
/// How long it asks afterwards: until the dead node is called down and whatever follows from that has happened.
const AFTER: Duration = Duration::from_secs(4);
/// A cluster is made anew after so many faults: nodes that die again and again are called up ever later, which would be
/// measured as well.
const FAULTS_PER_LAB: usize = 9;
/// How long a change of a tunnel may take to show.
const TUNNEL_PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked for.
const TUNNEL_LOOK: Duration = Duration::from_millis(10);

/// Who asks, and how the victim comes to carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// The visitor's entry node has its own tunnel and dies; a browser that knows the other addresses goes on there
    Own,
    /// The entry node has no tunnel and relays to the victim: five nodes, tunnels to two
    Relay,
    /// The visitor resolves the name through unbound, which keeps the dead node's address in the first place
    Resolver,
    /// The connector keeps one tunnel, which the cluster moves, as with a Newt
    Single,
    /// The same, and the victim leads
    SingleLeader,
    /// Nothing dies: only the way between site and carrying node is cut, and mended
    Tunnel,
}

/// What is measured of traffic.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TrafficOptions {
    /// How often the carrying node is killed, and cut, in each shape; needs root
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// Shapes to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    shapes: Vec<Shape>,
}

/// What came out of one shape and fault.
struct Series {
    shape: Shape,
    fault: Fault,
    gaps: Vec<Duration>,
    /// From the fault until the tunnel is taken for dead, and from the mending until it is alive.
    dead: Vec<Duration>,
    alive: Vec<Duration>,
}

/// Measures; gives the figures and the bounds.
///
/// # Errors
/// Something is missing for it, or a cluster does not come up or back.
pub(crate) async fn run(options: &TrafficOptions) -> Result<(Value, Vec<Check>)> {
    if options.count == 0 {
        return Ok((Value::Null, Vec::new()));
    }
    if let Some(missing) = network::missing() {
        anyhow::bail!("traffic cannot be measured here: {missing}; --count 0 leaves it out");
    }
    let all = [Shape::Own, Shape::Relay, Shape::Resolver, Shape::Single, Shape::SingleLeader, Shape::Tunnel];
    let mut told = Vec::new();
    let mut checks = Vec::new();
    for shape in all.into_iter().filter(|shape| options.shapes.is_empty() || options.shapes.contains(shape)) {
        for series in measure(shape, options.count).await.with_context(|| format!("{shape:?}"))? {
            told.push(series.told());
            checks.extend(series.checks());
        }
    }
    Ok((Value::Array(told), checks))
}

/// One shape with each of its faults in turn.
async fn measure(shape: Shape, count: usize) -> Result<Vec<Series>> {
    let faults: &[Fault] = match shape {
        Shape::Tunnel => &[Fault::TunnelCut],
        _ => &[Fault::Killed, Fault::Cut],
    };
    let empty = |fault: &Fault| Series {
        shape,
        fault: *fault,
        gaps: Vec::new(),
        dead: Vec::new(),
        alive: Vec::new(),
    };
    let mut all: Vec<Series> = faults.iter().map(empty).collect();
    let rounds: Vec<usize> = (0..count * faults.len()).map(|round| round % faults.len()).collect();
    for rounds in rounds.chunks(shape.faults_per_lab()) {
        let mut lab = shape.lab().await?;
        for which in rounds {
            let series = &mut all[*which];
            if let Err(error) = round(&mut lab, series).await {
                return Err(error.context(lab.tails()));
            }
        }
    }
    Ok(all)
}

/// Who has which part in a round.
struct Parts {
    victim: usize,
    way: Way,
    /// What the edge says of the way it takes while the victim carries the traffic.
    via: String,
}

async fn round(lab: &mut Lab, series: &mut Series) -> Result<()> {
    let (shape, fault) = (series.shape, series.fault);
    let status = lab.settled().await?;
    // Ends with the round.
    let (parts, _resolver) = parts(lab, shape, &status).await?;
    let visitor = Visitor::start(&lab.outside()?, lab.https.clone(), parts.way, lab.host())?;
    sleep(BEFORE).await;
    check_carried(&visitor.so_far(), &parts.via)?;
    let began = Instant::now();
    lab.fail(parts.victim, fault)?;
    if fault == Fault::TunnelCut {
        series.dead.push(tunnel_is(lab, parts.victim, false, began).await?);
    }
    sleep(AFTER.saturating_sub(began.elapsed())).await;
    let mut probes = visitor.stop()?;
    // A node that has just been started may have refused the first ones.
    probes.retain(|probe| probe.sent + INTERVAL * CARRIED >= began);
    let seen = figures(&probes);
    let gap = Duration::from_millis(seen.longest_gap_ms);
    say(&format!(
        "{:<13} {:<10} {:>3}: {:>5} ms without an answer, {} of {} requests failed",
        name(shape),
        name(fault),
        series.gaps.len() + 1,
        gap.as_millis(),
        seen.failed,
        seen.total
    ));
    for problem in probes.iter().filter_map(|probe| probe.result.as_ref().err()).take(3) {
        say(&format!("    {problem}"));
    }
    series.gaps.push(gap);
    let mended = Instant::now();
    lab.heal(parts.victim, fault).await?;
    if fault == Fault::TunnelCut {
        series.alive.push(tunnel_is(lab, parts.victim, true, mended).await?);
    }
    Ok(())
}

/// Every one of the last requests was answered, by way of the victim.
fn check_carried(probes: &[Probe], via: &str) -> Result<()> {
    let carried = usize::try_from(CARRIED)?;
    let recent = &probes[probes.len().saturating_sub(carried)..];
    ensure!(recent.len() == carried, "only {} requests have been answered", recent.len());
    for probe in recent {
        let taken =
            probe.result.as_ref().map_err(|problem| anyhow::anyhow!("before the fault: {problem}"))?;
        ensure!(taken.as_deref() == Some(via), "the traffic takes {taken:?}, not {via:?}");
    }
    Ok(())
}

/// Waits until the victim itself says that its tunnel to the site is alive, or not; gives the time since `from`.
async fn tunnel_is(lab: &Lab, victim: usize, alive: bool, from: Instant) -> Result<Duration> {
    let until = Instant::now() + TUNNEL_PATIENCE;
    let client = lab.cluster.nodes[victim].client();
    loop {
        let status: ClusterStatus = client.get("/cluster/status").await?;
        let id = id_at(lab, &status, victim)?;
        if lab.site_of(&status)?.tunnels.contains(&id) == alive {
            return Ok(from.elapsed());
        }
        ensure!(
            Instant::now() < until,
            "the tunnel is not taken for {}",
            if alive { "alive" } else { "dead" }
        );
        sleep(TUNNEL_LOOK).await;
    }
}

async fn parts(lab: &Lab, shape: Shape, status: &ClusterStatus) -> Result<(Parts, Option<Resolver>)> {
    let site = lab.site_of(status)?;
    let home_id = site.home.context("the site has no home")?;
    let home = lab.cluster.position(status, home_id)?;
    let https = |position: usize| lab.cluster.nodes[position].https();
    let local = "local".to_owned();
    let parts = match shape {
        Shape::Own => {
            let others = (0..lab.cluster.nodes.len()).filter(|position| *position != home).map(https);
            let way = Way::First([https(home)].into_iter().chain(others).collect());
            Parts { victim: home, way, via: local }
        }
        Shape::Tunnel => Parts { victim: home, way: Way::Entry(https(home)), via: local },
        Shape::Relay | Shape::Single | Shape::SingleLeader => {
            let carrier = if site.tunnels.contains(&home_id) {
                home_id
            } else {
                *site.tunnels.first().context("there is no tunnel")?
            };
            let victim = lab.cluster.position(status, carrier)?;
            let apart = |node: &&pangolin_wire::NodeStatus| !site.tunnels.contains(&node.id);
            let entry = status.nodes.iter().find(apart).context("every node has a tunnel")?.id;
            let entry = lab.cluster.position(status, entry)?;
            match shape {
                Shape::SingleLeader => drop(lab.lead(victim).await?),
                Shape::Single => drop(lab.lead(entry).await?),
                _ => {}
            }
            Parts { victim, way: Way::Entry(https(entry)), via: format!("node {carrier}") }
        }
        Shape::Resolver => {
            let (resolver, addresses) = Resolver::start(lab).await?;
            let victim = position_of(lab, *addresses.first().context("no address")?)?;
            let parts = Parts { victim, way: Way::Resolver(resolver.address()), via: local };
            return Ok((parts, Some(resolver)));
        }
    };
    Ok((parts, None))
}

fn position_of(lab: &Lab, at: SocketAddr) -> Result<usize> {
    lab.cluster.nodes.iter().position(|node| node.https() == at).with_context(|| format!("{at} is no node"))
}

fn id_at(lab: &Lab, status: &ClusterStatus, position: usize) -> Result<NodeId> {
    let name = lab.cluster.nodes[position].name.as_str();
    let node = status.nodes.iter().find(|node| node.name.as_str() == name);
    Ok(node.with_context(|| format!("{name} is not in the status"))?.id)
}

impl Shape {
    async fn lab(self) -> Result<Lab> {
        match self {
            Self::Own | Self::Resolver | Self::Tunnel => Lab::start(3, 3).await,
            Self::Relay => Lab::start(5, 2).await,
            Self::Single | Self::SingleLeader => Lab::start(3, 1).await,
        }
    }

    /// How many faults a cluster sees. After its tunnel was cut, the entry keeps connections by way of the relay and uses
    /// them on.
    fn faults_per_lab(self) -> usize {
        match self {
            Self::Tunnel => 1,
            // Before each of them all nodes have to be in the zone.
            Self::Resolver => 4,
            _ => FAULTS_PER_LAB,
        }
    }

    /// The longest silences that are allowed, in milliseconds: of half the runs, and of 99 in 100. Where only the tunnel
    /// is cut, nothing is promised.
    fn bounds(self, fault: Fault) -> (Option<f64>, Option<f64>) {
        match (self, fault) {
            (_, Fault::TunnelCut) => (None, None),
            (Self::Single | Self::SingleLeader, Fault::Killed) => (None, Some(2000.0)),
            (Self::Single | Self::SingleLeader, Fault::Cut) => (None, Some(3000.0)),
            (_, Fault::Killed) => (Some(300.0), Some(1000.0)),
            (_, Fault::Cut) => (Some(600.0), Some(1200.0)),
        }
    }
}

/// As the command line and the report name it.
fn name(what: impl std::fmt::Debug) -> String {
    let mut name = String::new();
    for letter in format!("{what:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

impl Series {
    fn told(&self) -> Value {
        let brief = |sample: &[Duration]| {
            let figures = Sample::of(sample).figures();
            json!({ "n": figures.operations, "p50_ms": figures.p50_ms, "p99_ms": figures.p99_ms, "max_ms": figures.max_ms })
        };
        let mut told =
            json!({ "shape": name(self.shape), "fault": name(self.fault), "gap": brief(&self.gaps) });
        if !self.dead.is_empty() {
            told["tunnel_dead"] = brief(&self.dead);
            told["tunnel_alive"] = brief(&self.alive);
        }
        told
    }

    fn checks(&self) -> Vec<Check> {
        let figures = Sample::of(&self.gaps).figures();
        let (p50, p99) = self.shape.bounds(self.fault);
        let what =
            |share: &str| format!("{}, {}: longest silence, {share} ms", name(self.shape), name(self.fault));
        let p50 = p50.map(|bound| Check::at_most(what("p50"), figures.p50_ms, bound));
        let p99 = p99.map(|bound| Check::at_most(what("p99"), figures.p99_ms, bound));
        p50.into_iter().chain(p99).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(via: Result<&str, &str>) -> Probe {
        let result = via.map(|via| Some(via.to_owned())).map_err(str::to_owned);
        Probe { sent: Instant::now(), took: Duration::ZERO, result }
    }

    #[test]
    fn the_victim_has_to_have_carried_every_one_of_the_last_requests() {
        let carried = |last: Probe, many: u32| {
            let mut probes: Vec<Probe> = (0..many).map(|_| probe(Ok("node 2"))).collect();
            probes.push(last);
            check_carried(&probes, "node 2").is_ok()
        };
        assert!(carried(probe(Ok("node 2")), CARRIED));
        assert!(!carried(probe(Ok("node 3")), CARRIED));
        assert!(!carried(probe(Err("status 502")), CARRIED));
        assert!(!carried(probe(Ok("node 2")), CARRIED - 2), "too few");
    }

    #[test]
    fn shapes_and_faults_have_the_names_of_the_command_line() {
        assert_eq!(name(Shape::SingleLeader), "single-leader");
        assert_eq!(name(Fault::TunnelCut), "tunnel-cut");
    }
}
