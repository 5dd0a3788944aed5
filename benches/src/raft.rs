//! Writes, linearizable reads and memory, beside etcd.
//!
//! Both clusters run for the whole time, and rounds alternate between them, so that whatever else the machine does
//! meets both alike.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::Result;
use serde_json::json;

use crate::{
    etcd::{self, Etcd},
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
    /// Measure this product alone: for profiling, no verdict
    #[arg(long)]
    alone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum System {
    Etcd,
    Pangolin,
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

struct Both {
    pangolin: Pangolin,
    etcd: Option<Etcd>,
    // Fields are dropped in order: etcd is gone before its files.
    _etcd_dir: tempfile::TempDir,
}

/// Measures, prints, judges.
///
/// # Errors
/// Something does not start, or operations fail.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let etcd_version = if options.alone { None } else { Some(etcd::version(&options.etcd)?) };
    let kinds: Vec<Kind> = [(Operation::Write, &options.writers), (Operation::Read, &options.readers)]
        .into_iter()
        .flat_map(|(operation, counts)| counts.iter().map(move |&clients| Kind { operation, clients }))
        .collect();
    let mut both = start(options).await?;
    let mut samples: BTreeMap<(usize, System), Sample> = BTreeMap::new();
    for round in 0..options.rounds {
        for (number, kind) in kinds.iter().enumerate() {
            let mut order = vec![System::Etcd, System::Pangolin];
            // Who comes first alternates: neither always meets what the other has just left behind.
            if (round as usize + number) % 2 == 1 {
                order.reverse();
            }
            for system in order {
                if let Some(sample) = both.measure(system, *kind, options).await? {
                    samples.entry((number, system)).or_default().add(&sample);
                }
            }
        }
    }
    let memory = both.memory()?;
    let figures: BTreeMap<(usize, System), Figures> =
        samples.into_iter().map(|(key, sample)| (key, sample.figures())).collect();
    report(&kinds, &figures, &memory);
    let checks = judge(&kinds, &figures, &memory);
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    let rows: Vec<_> = figures
        .iter()
        .map(|((number, system), figures)| {
            json!({ "run": kinds[*number].name(), "system": format!("{system:?}").to_lowercase(), "figures": figures })
        })
        .collect();
    say(&json!({
        "bench": "raft", "etcd": etcd_version, "road": format!("{:?}", options.road).to_lowercase(),
        "value_bytes": options.value, "keys": options.keys, "seconds": options.seconds, "rounds": options.rounds,
        "runs": rows,
        "rss_mb_max": memory.iter().map(|(s, mb)| (format!("{s:?}").to_lowercase(), mb)).collect::<BTreeMap<_, _>>(),
        "checks": checks, "ok": ok,
    }).to_string());
    Ok(ok)
}

async fn start(options: &Options) -> Result<Both> {
    let dir = tempfile::Builder::new().prefix("pangolin-bench-etcd-").tempdir()?;
    let etcd = match options.alone {
        true => None,
        false => Some(Etcd::start(&options.etcd, dir.path()).await?),
    };
    let both = Both { pangolin: Pangolin::start(options.keys).await?, etcd, _etcd_dir: dir };
    // All keys are there before the first round on either side.
    if let Some(etcd) = &both.etcd {
        for mut client in etcd.clients(options.keys, options.keys, options.value).await? {
            load::Client::write(&mut client, 0).await?;
        }
    }
    Ok(both)
}

impl Both {
    async fn measure(&mut self, system: System, kind: Kind, options: &Options) -> Result<Option<Sample>> {
        let during = Duration::from_secs_f64(options.seconds);
        let pids = match system {
            System::Etcd => self.etcd.as_ref().map(Etcd::pids),
            System::Pangolin => Some(self.pangolin.pids()),
        };
        let Some(pids) = pids else { return Ok(None) };
        let before = cpu_seconds(&pids)?;
        let mut sample = match (system, &self.etcd) {
            (System::Etcd, Some(etcd)) => {
                let clients = etcd.clients(kind.clients, options.keys, options.value).await?;
                load::run(clients, kind.operation, during).await?
            }
            _ => {
                let clients = self.pangolin.clients(options.road, kind.clients, options.value).await?;
                load::run(clients, kind.operation, during).await?
            }
        };
        sample.cpu = cpu_seconds(&pids)? - before;
        Ok(Some(sample))
    }

    /// The most that a node of either system holds.
    fn memory(&mut self) -> Result<BTreeMap<System, f64>> {
        let most = |pids: Vec<u32>| -> Result<f64> {
            pids.into_iter().try_fold(0.0, |most: f64, pid| Ok(most.max(resident_mb(pid)?)))
        };
        let mut memory = BTreeMap::from([(System::Pangolin, most(self.pangolin.pids())?)]);
        if let Some(etcd) = &self.etcd {
            memory.insert(System::Etcd, most(etcd.pids())?);
        }
        Ok(memory)
    }
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
        "longest stall ms",
        "CPU us",
        "failed",
    ]);
    for ((number, system), f) in figures {
        table.add_row([
            kinds[*number].name(),
            format!("{system:?}").to_lowercase(),
            format!("{:.0}", f.per_second),
            format!("{:.2}", f.p50_ms),
            format!("{:.2}", f.p99_ms),
            format!("{:.1}", f.stall_ms),
            format!("{:.0}", f.cpu_us),
            f.failed.to_string(),
        ]);
    }
    say(&table.to_string());
    for (system, mb) in memory {
        say(&format!("memory of the largest node, {}: {mb} MB", format!("{system:?}").to_lowercase()));
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
            (figures.get(&(number, System::Pangolin)), figures.get(&(number, System::Etcd)))
        else {
            continue;
        };
        let name = kind.name();
        let ratio = round(ours.per_second / theirs.per_second);
        match kind.operation {
            Operation::Write => {
                checks.push(Check::at_least(format!("{name}: rate / etcd's"), ratio, WRITES_AT_LEAST));
                checks.push(Check::at_most(format!("{name}: p99 ms"), ours.p99_ms, theirs.p99_ms));
                let stall = format!("{name}: longest stall ms");
                checks.push(Check::at_most(stall, ours.stall_ms, theirs.stall_ms));
            }
            Operation::Read => {
                checks.push(Check::at_least(format!("{name}: rate / etcd's"), ratio, READS_AT_LEAST));
            }
        }
    }
    if let (Some(ours), Some(theirs)) = (memory.get(&System::Pangolin), memory.get(&System::Etcd)) {
        checks.push(Check::at_most("memory of a node, MB", *ours, *theirs));
    }
    checks
}
