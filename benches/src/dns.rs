//! What an answer costs: our DNS beside NSD, Knot and gdnsd of Debian, one thread each, pinned to one core, in
//! interleaved rounds over the same zone of 10,000 names with the same questions. The generator has the other core.

mod load;
mod rivals;
mod zone;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::{judge::Check, say};
pub(crate) use rivals::{Options as ServerOptions, serve};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum System {
    /// Ours: cookies, EDNS, regions and the rate limit's code are on; the limit itself is out of reach.
    Pangolin,
    Nsd,
    Knot,
    Gdnsd,
}

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds of each system
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each run: one as fast as it goes, one at a fixed rate
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Questions under way at a time where it goes as fast as it can
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Questions a second where waiting times are measured
    #[arg(long, default_value_t = 40_000)]
    rate: u32,
    /// Names in the zone
    #[arg(long, default_value_t = 10_000)]
    names: usize,
    /// Only these
    #[arg(long, value_delimiter = ',', value_enum)]
    systems: Option<Vec<System>>,
}

/// What one system did in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    per_second: f64,
    /// CPU of the server per answer at full load, µs.
    cpu_us: f64,
    /// At the fixed rate, µs.
    p99_us: f64,
    lost: u64,
    wrong: u64,
}

/// Measures, prints, judges.
///
/// # Errors
/// A server is not installed or does not start.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let all = [System::Pangolin, System::Nsd, System::Knot, System::Gdnsd];
    let systems = options.systems.clone().unwrap_or(all.to_vec());
    if !systems.contains(&System::Pangolin) {
        bail!("there is nothing to compare without pangolin");
    }
    let plan = zone::plan(options.names);
    let questions = zone::questions(&plan);
    let span = Duration::from_secs_f64(options.seconds);
    let mut rounds: BTreeMap<System, Vec<Round>> = BTreeMap::new();
    for number in 0..options.rounds {
        for system in &systems {
            let server = rivals::start(*system, &plan, options.names)?;
            let questions = load::warm(server.address, &questions)?;
            let before = server.cpu()?;
            let fast = load::closed(server.address, &questions, options.window, span)?;
            let cpu = server.cpu()? - before;
            let paced = load::paced(server.address, &questions, options.rate, span)?;
            let round = Round {
                per_second: fast.answers as f64 / fast.took.as_secs_f64(),
                cpu_us: cpu.as_secs_f64() * 1e6 / fast.answers.max(1) as f64,
                p99_us: paced.p99_us,
                lost: fast.lost + paced.lost,
                wrong: fast.wrong + paced.wrong,
            };
            say(&format!(
                "round {number} {system:?}: {:.0} answers/s, {:.2} us CPU each, p99 {:.0} us at {}/s, {} lost, {} wrong",
                round.per_second, round.cpu_us, round.p99_us, options.rate, round.lost, round.wrong
            ));
            rounds.entry(*system).or_default().push(round);
        }
    }
    Ok(judge(&rounds))
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    let value = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    (value * 100.0).round() / 100.0
}

fn judge(rounds: &BTreeMap<System, Vec<Round>>) -> bool {
    let empty = Vec::new();
    let of = |system| rounds.get(&system).unwrap_or(&empty);
    let ours = of(System::Pangolin);
    let mut checks = Vec::new();
    for rival in [System::Nsd, System::Knot] {
        if rounds.contains_key(&rival) {
            checks.push(Check::at_most(
                format!("CPU of an answer, us, beside {rival:?}"),
                median(ours, |round| round.cpu_us),
                median(of(rival), |round| round.cpu_us),
            ));
        }
    }
    if rounds.contains_key(&System::Knot) {
        checks.push(Check::at_most(
            "p99 at the fixed rate, us, beside Knot",
            median(ours, |round| round.p99_us),
            median(of(System::Knot), |round| round.p99_us),
        ));
    }
    let wrong: u64 = ours.iter().map(|round| round.wrong).sum();
    checks.push(Check::at_most("answers of ours that are none", wrong as f64, 0.0));
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    let systems: BTreeMap<String, serde_json::Value> = rounds
        .iter()
        .map(|(system, rounds)| {
            let figures = json!({
                "per_second": median(rounds, |round| round.per_second),
                "cpu_us": median(rounds, |round| round.cpu_us),
                "p99_us": median(rounds, |round| round.p99_us),
                "lost": rounds.iter().map(|round| round.lost).sum::<u64>(),
            });
            (format!("{system:?}").to_lowercase(), figures)
        })
        .collect();
    say(&json!({ "bench": "dns", "systems": systems, "checks": checks, "ok": ok }).to_string());
    ok
}
