//! Writes, linearizable reads and memory, beside etcd.
//!
//! Three systems run for the whole time: etcd, the Raft group of this product asked over frames ([`crate::group`]),
//! and whole nodes asked over their REST API. Rounds alternate between them, so that whatever else the machine does
//! meets all alike.
//!
//! The bounds are those of the group: like etcd's server, it is a replicated state with a lean protocol. What the REST
//! API costs on top is shown beside it; the bound of memory holds for whole nodes.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    etcd::{self, Etcd},
    group::Group,
    judge::Check,
    load::{self, Operation},
    pangolin::{Pangolin, Road},
    processes::{cpu_seconds, resident_mb},
    sample::{Figures, Sample, round},
    say,
};

/// Writes per second, against etcd's.
const WRITES_AT_LEAST: f64 = 1.5;
/// Linearizable reads per second, against etcd's.
const READS_AT_LEAST: f64 = 5.0;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds of each run
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds: each runs everything once on both systems
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Clients of the runs that write
    #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
    writers: Vec<usize>,
    /// Clients of the runs that read
    #[arg(long, value_delimiter = ',', default_value = "16,256")]
    readers: Vec<usize>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value: usize,
    /// Keys that are written and read
    #[arg(long, default_value_t = 1000)]
    keys: usize,
    /// The way that clients of this product take
    #[arg(long, value_enum, default_value_t = Road::Socket)]
    road: Road,
    /// The etcd to compare with
    #[arg(long, default_value = "/usr/bin/etcd")]
    etcd: PathBuf,
    /// Measure these alone: for profiling, no verdict
    #[arg(long, value_enum, value_delimiter = ',', default_value = "etcd,group,api")]
    systems: Vec<System>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum System {
    /// The peer
    Etcd,
    /// This product's Raft group
    Group,
    /// This product's nodes, by their REST API
    Api,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Group => "group",
            Self::Api => "API",
        }
    }
}

/// A kind of run: what so many clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    operation: Operation,
    clients: usize,
}

impl Kind {
    fn name(self) -> String {
        let operation = match self.operation {
            Operation::Write => "write",
            Operation::Read => "read",
        };
        format!("{operation} {}", self.clients)
    }
}

#[derive(Default)]
struct Systems {
    etcd: Option<Etcd>,
    group: Option<Group>,
    nodes: Option<Pangolin>,
    // Fields are dropped in order: processes are gone before their files.
    dir: Option<tempfile::TempDir>,
}

/// Measures, prints, judges.
///
/// # Errors
/// Something does not start, or operations fail.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let etcd_version = match options.systems.contains(&System::Etcd) {
        true => Some(etcd::version(&options.etcd)?),
        false => None,
    };
    let kinds: Vec<Kind> = [(Operation::Write, &options.writers), (Operation::Read, &options.readers)]
        .into_iter()
        .flat_map(|(operation, counts)| counts.iter().map(move |&clients| Kind { operation, clients }))
        .collect();
    let mut systems = Systems::start(options).await?;
    let mut samples: BTreeMap<(usize, System), Sample> = BTreeMap::new();
    for round in 0..options.rounds {
        for (number, kind) in kinds.iter().enumerate() {
            let mut order = options.systems.clone();
            // Who comes first alternates: none always meets what another has just left behind.
            order.rotate_left((round as usize + number) % options.systems.len());
            for system in order {
                let sample = systems.measure(system, *kind, options).await?;
                samples.entry((number, system)).or_default().add(&sample);
            }
        }
    }
    let memory = systems.memory(&options.systems)?;
    let figures: BTreeMap<(usize, System), Figures> =
        samples.into_iter().map(|(key, sample)| (key, sample.figures())).collect();
    report(&kinds, &figures, &memory);
    let checks = judge(&kinds, &figures, &memory);
    checks.iter().for_each(|check| say(&check.line()));
    let ok = !checks.is_empty() && checks.iter().all(|check| check.ok);
    let rows: Vec<_> = figures
        .iter()
        .map(|((number, system), figures)| {
            json!({ "run": kinds[*number].name(), "system": system.name(), "figures": figures })
        })
        .collect();
    say(&json!({
        "bench": "raft", "etcd": etcd_version, "road": format!("{:?}", options.road).to_lowercase(),
        "value_bytes": options.value, "keys": options.keys, "seconds": options.seconds, "rounds": options.rounds,
        "runs": rows,
        "rss_mb_max": memory.iter().map(|(system, mb)| (system.name(), mb)).collect::<BTreeMap<_, _>>(),
        "checks": checks, "ok": ok,
    }).to_string());
    Ok(ok)
}

impl Systems {
    async fn start(options: &Options) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("pangolin-bench-").tempdir()?;
        let mut systems = Self::default();
        // All keys are there before the first round on each side.
        for system in &options.systems {
            match system {
                System::Etcd => {
                    let etcd = Etcd::start(&options.etcd, dir.path()).await?;
                    for mut client in etcd.clients(options.keys, options.keys, options.value).await? {
                        load::Client::write(&mut client, 0).await?;
                    }
                    systems.etcd = Some(etcd);
                }
                System::Group => systems.group = Some(Group::start(dir.path(), options.keys).await?),
                System::Api => systems.nodes = Some(Pangolin::start(options.keys).await?),
            }
        }
        systems.dir = Some(dir);
        Ok(systems)
    }

    fn pids(&mut self, system: System) -> Vec<u32> {
        let pids = match system {
            System::Etcd => self.etcd.as_ref().map(Etcd::pids),
            System::Group => self.group.as_ref().map(Group::pids),
            System::Api => self.nodes.as_mut().map(Pangolin::pids),
        };
        pids.unwrap_or_default()
    }

    async fn measure(&mut self, system: System, kind: Kind, options: &Options) -> Result<Sample> {
        let pids = self.pids(system);
        let before = cpu_seconds(&pids)?;
        let mut sample = match system {
            System::Etcd => {
                let etcd = self.etcd.as_ref().context("etcd is not started")?;
                work(etcd.clients(kind.clients, options.keys, options.value).await?, kind, options).await?
            }
            System::Group => {
                let group = self.group.as_ref().context("the group is not started")?;
                work(group.clients(kind.clients, options.value).await?, kind, options).await?
            }
            System::Api => {
                let nodes = self.nodes.as_ref().context("the nodes are not started")?;
                work(nodes.clients(options.road, kind.clients, options.value).await?, kind, options).await?
            }
        };
        sample.cpu = cpu_seconds(&pids)? - before;
        Ok(sample)
    }

    /// The most that a process of each system holds.
    fn memory(&mut self, systems: &[System]) -> Result<BTreeMap<System, f64>> {
        let mut memory = BTreeMap::new();
        for &system in systems {
            for pid in self.pids(system) {
                let most: &mut f64 = memory.entry(system).or_default();
                *most = most.max(resident_mb(pid)?);
            }
        }
        Ok(memory)
    }
}

async fn work<C: load::Client + 'static>(clients: Vec<C>, kind: Kind, options: &Options) -> Result<Sample> {
    load::run(clients, kind.operation, Duration::from_secs_f64(options.seconds)).await
}

fn report(kinds: &[Kind], figures: &BTreeMap<(usize, System), Figures>, memory: &BTreeMap<System, f64>) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header([
        "run",
        "system",
        "per second",
        "p50 ms",
        "p99 ms",
        "longest stall ms, median of rounds",
        "of all",
        "CPU us",
        "failed",
    ]);
    for ((number, system), f) in figures {
        table.add_row([
            kinds[*number].name(),
            system.name().to_owned(),
            format!("{:.0}", f.per_second),
            format!("{:.2}", f.p50_ms),
            format!("{:.2}", f.p99_ms),
            format!("{:.1}", f.stall_ms),
            format!("{:.1}", f.stall_max_ms),
            format!("{:.0}", f.cpu_us),
            f.failed.to_string(),
        ]);
    }
    say(&table.to_string());
    for (system, mb) in memory {
        say(&format!("memory of the largest process, {}: {mb} MB", system.name()));
    }
}

fn judge(
    kinds: &[Kind],
    figures: &BTreeMap<(usize, System), Figures>,
    memory: &BTreeMap<System, f64>,
) -> Vec<Check> {
    let mut checks = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        let (Some(ours), Some(theirs)) =
            (figures.get(&(number, System::Group)), figures.get(&(number, System::Etcd)))
        else {
            continue;
        };
        let name = kind.name();
        let ratio = round(ours.per_second / theirs.per_second);
        match kind.operation {
            Operation::Write => {
                checks.push(Check::at_least(format!("{name}: rate / etcd's"), ratio, WRITES_AT_LEAST));
                checks.push(Check::at_most(format!("{name}: p99 ms"), ours.p99_ms, theirs.p99_ms));
                let stall = format!("{name}: longest stall of a round, median, ms");
                checks.push(Check::at_most(stall, ours.stall_ms, theirs.stall_ms));
            }
            Operation::Read => {
                checks.push(Check::at_least(format!("{name}: rate / etcd's"), ratio, READS_AT_LEAST));
            }
        }
    }
    for (system, what) in [(System::Group, "member"), (System::Api, "node")] {
        if let (Some(ours), Some(theirs)) = (memory.get(&system), memory.get(&System::Etcd)) {
            checks.push(Check::at_most(format!("memory of a {what}, MB"), *ours, *theirs));
        }
    }
    checks
}
