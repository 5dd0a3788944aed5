//! What a tunnel carries and what it costs: between two hosts in network namespaces, beside wireguard-go of Debian at
//! both ends and beside no tunnel, in interleaved runs.

pub(crate) mod end;
mod lab;
mod load;
pub(crate) mod peers;
mod relay;
mod system;

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use pangolin_chaos::process;
use serde::Serialize;
use serde_json::{Value, json};

use self::{
    lab::{Conditions, Lab},
    load::Way,
    peers::Peers,
    system::{Running, System},
};
use crate::{judge::Check, sample::round, say};

/// What runs with a delay may take at most, bytes per second: their packets go through a wire in this program, which would
/// be what is measured. 200 Mbit/s.
const FAR_RATE: u64 = 25_000_000;
/// Connections at a time where their rate is measured.
const CONNECTIONS: usize = 32;
/// Large answers each way, local and relayed.
const LARGE_ANSWERS: usize = 12;
/// How long adding the peers may take.
const PEERS_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds of each run
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Runs of each case; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// One short run of each case, and only those with bounds of their own
    #[arg(long)]
    quick: bool,
    /// Largest packet inside the tunnels, of both systems
    #[arg(long, default_value_t = pangolin_tunnel::DEFAULT_MTU)]
    mtu: u16,
    /// Only these
    #[arg(long, value_delimiter = ',', value_enum)]
    systems: Option<Vec<System>>,
    /// Sites of a node whose cost is measured
    #[arg(long, default_value_t = 5000)]
    peers: u32,
    /// Requests each way, local and relayed, on a whole cluster; 0 leaves it out
    #[arg(long, default_value_t = 2000)]
    requests: usize,
    /// Only on a way without loss and delay
    #[arg(long)]
    clean: bool,
    /// Milliseconds that are added to the round trip, one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [0, 20])]
    delays: Vec<u64>,
    /// Shares of the packets that are lost in each direction, one after the other
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.001, 0.01])]
    losses: Vec<f64>,
}

/// One thing that every system does.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Case {
    conditions: Conditions,
    streams: usize,
    way: Way,
}

/// What a system did in a run.
#[derive(Clone, Copy, Debug)]
struct Run {
    mbit: f64,
    cpu_per_gb: f64,
}

/// The runs of a system in a case, as their medians.
#[derive(Clone, Debug, Serialize)]
struct Told {
    system: System,
    way: &'static str,
    streams: usize,
    #[serde(flatten)]
    conditions: Conditions,
    mbit: f64,
    cpu_seconds_per_gb: f64,
}

/// Measures, prints, judges.
///
/// # Errors
/// Something is missing for it, or a system does not carry anything.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let mut lab = Lab::new()?;
    load::serve(&lab.site().network)?;
    let all = [System::Pangolin, System::InProcess, System::WireguardGo, System::Plain];
    let systems = options.systems.clone().unwrap_or(all.to_vec());
    let mut told = Vec::new();
    for conditions in conditions(options) {
        lab.be(conditions)?;
        told.extend(measure(&lab, conditions, &systems, options)?);
        lab.check_packets(conditions)?;
    }
    lab.be(Conditions::default())?;
    let mut checks = judge(&told);
    let (rates, rate_checks) = connections(&lab, &systems, options)?;
    checks.extend(rate_checks);
    let peers = count_peers(options.peers)?;
    let relay = match (options.requests, options.quick) {
        (0, _) => Value::Null,
        (requests, true) => relay::measure(requests.min(300), 2)?,
        (requests, false) => relay::measure(requests, LARGE_ANSWERS)?,
    };
    checks.push(Check::at_most("peers: seconds to add all", peers.added_seconds, 2.0));
    checks.push(Check::at_most("peers: KiB each", peers.each_kib, 25.0));
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    let figures = json!({
        "bench": "tunnel", "mtu": options.mtu, "transfers": told, "connections": rates, "peers": peers, "relay": relay,
        "checks": checks, "ok": ok,
    });
    say(&figures.to_string());
    Ok(ok)
}

fn conditions(options: &Options) -> Vec<Conditions> {
    let of = |delay_ms, loss| Conditions { loss, delay_ms };
    if options.clean {
        vec![of(0, 0.0)]
    } else if options.quick {
        vec![of(0, 0.0), of(0, 0.01)]
    } else {
        let losses = |delay: u64| options.losses.iter().map(move |loss| of(delay, *loss));
        options.delays.iter().flat_map(|delay| losses(*delay)).collect()
    }
}

/// Every case under these conditions. Systems take turns, so that what else happens on this machine hits all.
fn measure(lab: &Lab, conditions: Conditions, systems: &[System], options: &Options) -> Result<Vec<Told>> {
    let streams: &[usize] = if options.quick { &[1] } else { &[1, 8] };
    let cases: Vec<Case> = streams
        .iter()
        .flat_map(|streams| Way::ALL.map(|way| Case { conditions, streams: *streams, way }))
        .collect();
    let rounds = if options.quick { 1 } else { options.rounds };
    let mut runs: BTreeMap<(usize, System), Vec<Run>> = BTreeMap::new();
    for _ in 0..rounds {
        for system in systems {
            let running = Running::start(*system, lab, options.mtu)?;
            for (number, case) in cases.iter().enumerate().filter(|(_, case)| does(*system, case)) {
                let run = one(lab, &running, case, options)
                    .with_context(|| format!("{}, {}", system.name(), conditions.name()))?;
                say(&format!(
                    "{:<12} {} {} streams, {}: {:>8.0} Mbit/s, {:>6.2} CPU s/GB",
                    system.name(),
                    case.way.name(),
                    case.streams,
                    conditions.name(),
                    run.mbit,
                    run.cpu_per_gb
                ));
                runs.entry((number, *system)).or_default().push(run);
            }
        }
    }
    let tell = |((number, system), runs): (&(usize, System), &Vec<Run>)| Told {
        system: *system,
        way: cases[*number].way.name(),
        streams: cases[*number].streams,
        conditions,
        mbit: round(median(runs, |run| run.mbit)),
        cpu_seconds_per_gb: round(median(runs, |run| run.cpu_per_gb)),
    };
    Ok(runs.iter().map(tell).collect())
}

/// Whether a system takes part. That the in-process stack is slow is known; how slow is shown once for each loss.
fn does(system: System, case: &Case) -> bool {
    system != System::InProcess || (case.streams == 1 && case.conditions.delay_ms == 0)
}

fn one(lab: &Lab, running: &Running, case: &Case, options: &Options) -> Result<Run> {
    let seconds = if options.quick { options.seconds.min(2.0) } else { options.seconds };
    let rate = if case.conditions.delay_ms > 0 { FAR_RATE } else { 0 };
    let before = running.cpu()?;
    let (bytes, took) = load::transfer(
        &lab.node().network,
        running.far,
        case.way,
        case.streams,
        Duration::from_secs_f64(seconds),
        rate,
    )?;
    let cpu = running.cpu()? - before;
    Ok(Run {
        mbit: bytes as f64 * 8.0 / 1e6 / took.as_secs_f64(),
        cpu_per_gb: cpu / (bytes.max(1) as f64 / 1e9),
    })
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What is to hold beside wireguard-go.
fn judge(told: &[Told]) -> Vec<Check> {
    let mut checks = Vec::new();
    for ours in told.iter().filter(|told| told.system == System::Pangolin) {
        let same = |other: &&Told| {
            (other.way, other.streams, other.conditions) == (ours.way, ours.streams, ours.conditions)
        };
        let rival = told.iter().filter(|told| told.system == System::WireguardGo).find(same);
        let Some(rival) = rival else { continue };
        let Conditions { loss, delay_ms } = ours.conditions;
        let clean = loss == 0.0 && delay_ms == 0;
        let bound = if clean { 1.5 } else { 1.0 };
        let what = format!("{}, {} streams, {}", ours.way, ours.streams, ours.conditions.name());
        let ratio = round(ours.mbit / rival.mbit);
        checks.push(Check::at_least(format!("{what}: times wireguard-go"), ratio, bound));
        if clean {
            let (is, bound) = (ours.cpu_seconds_per_gb, rival.cpu_seconds_per_gb);
            checks.push(Check::at_most(format!("{what}: CPU s/GB"), is, bound));
        }
    }
    checks
}

/// New connections through each system that carries any.
fn connections(lab: &Lab, systems: &[System], options: &Options) -> Result<(Value, Vec<Check>)> {
    let span = Duration::from_secs_f64(if options.quick { 1.0 } else { options.seconds });
    let (mut rates, mut checks) = (serde_json::Map::new(), Vec::new());
    for system in systems {
        let running = Running::start(*system, lab, options.mtu)?;
        let sample = load::connections(&lab.node().network, running.far, CONNECTIONS, span)?;
        let figures = sample.figures();
        say(&format!(
            "{:<12} {:.0} connections/s, p50 {} ms",
            system.name(),
            figures.per_second,
            figures.p50_ms
        ));
        if *system == System::Pangolin {
            checks.push(Check::at_least("new connections/s", figures.per_second, 2000.0));
        }
        rates.insert(
            system.name().to_owned(),
            json!({ "per_second": figures.per_second, "p50_ms": figures.p50_ms, "p99_ms": figures.p99_ms }),
        );
    }
    Ok((Value::Object(rates), checks))
}

/// In a process of its own, whose memory holds nothing else.
fn count_peers(peers: u32) -> Result<Peers> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["tunnel-peers", "--peers", &peers.to_string()]);
    let output = process::run(command, "", PEERS_PATIENCE)?.ok("tunnel-peers")?;
    let figures: Peers = serde_json::from_str(output.stdout.lines().last().context("it said nothing")?)?;
    say(&format!("{peers} peers: added in {} s, {} KiB each", figures.added_seconds, figures.each_kib));
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_from_way_and_conditions() {
        let told = |system, way: Way, loss, delay_ms, mbit| Told {
            system,
            way: way.name(),
            streams: 1,
            conditions: Conditions { loss, delay_ms },
            mbit,
            cpu_seconds_per_gb: 5.0,
        };
        let cases = [
            (Way::NodeToSite, 0.0, 0, vec![1.5, 5.0]),
            (Way::SiteToNode, 0.0, 0, vec![1.5, 5.0]),
            (Way::SiteToNode, 0.01, 0, vec![1.0]),
            (Way::NodeToSite, 0.0, 20, vec![1.0]),
        ];
        for (way, loss, delay, expected) in cases {
            let both = [
                told(System::Pangolin, way, loss, delay, 1000.0),
                told(System::WireguardGo, way, loss, delay, 500.0),
                told(System::WireguardGo, way, 0.5, delay, 1.0),
            ];
            let bounds: Vec<f64> =
                judge(&both).iter().filter_map(|check| check.at_least.or(check.at_most)).collect();
            assert_eq!(bounds, expected, "{way:?} {loss} {delay}");
        }
    }
}
