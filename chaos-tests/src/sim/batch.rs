//! Many seeds, each in a process of its own, and what they show together.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::{command, run};
use crate::{
    history::What,
    verdict::{Finding, Verdict},
};

/// What seeds have to put to the test together, though each by itself need not: an invariant that has met nothing in all of
/// them is not shown to hold.
const EXPECTED: [&str; 1] = ["stale-fence"];

/// What is to be simulated.
#[derive(Clone, Debug, Args)]
pub struct SimOptions {
    /// How many seeds are run
    #[arg(long, default_value_t = 20, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1, conflicts_with = "seed")]
    from: u64,
    /// Run this seed alone, and say what every invariant finds
    #[arg(long)]
    seed: Option<u64>,
    /// How many are run at once; by default as many as there are processors
    #[arg(long)]
    jobs: Option<usize>,
    /// End with the first seed that breaks an invariant
    #[arg(long)]
    fail_fast: bool,
    /// Run each seed twice: both runs have to have the same history, event by event
    #[arg(long)]
    verify: bool,
    /// Where histories go: that of a single seed, and those of seeds whose verdict is not true
    #[arg(long, default_value = "chaos-out")]
    out: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Let this planted bug loose
    #[cfg(planted)]
    #[arg(long)]
    planted: Option<pangolin_core::planted::Bug>,
    /// Write no history unless the verdict is false or unknown
    #[arg(long, hide = true)]
    quiet: bool,
}

/// What one seed shows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// What it shows.
    pub verdict: Verdict,
    /// Digest of the history.
    pub digest: String,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// How many operations were answered.
    pub answered: usize,
    /// How many terms had a leader.
    pub terms: usize,
    /// Sorts of faults that happened.
    pub faults: Vec<String>,
    /// What is broken or cannot be told.
    pub findings: Vec<(String, Finding)>,
    /// How much each invariant had to check.
    #[serde(default)]
    pub checked: BTreeMap<String, usize>,
}

/// What all seeds show.
#[derive(Debug, Serialize)]
struct Total {
    verdict: Verdict,
    seeds: u64,
    from: u64,
    /// Seeds whose verdict is false, and the first one of them.
    broken: Vec<u64>,
    unknown: Vec<u64>,
    /// Seeds whose two runs were not the same.
    unrepeatable: Vec<u64>,
    /// What no seed has put to the test.
    untested: Vec<&'static str>,
    /// How much each invariant had to check in all seeds.
    checked: BTreeMap<String, usize>,
    answered: usize,
    simulated_s: u64,
    elapsed_s: u64,
    /// How many seeds have been run when this was printed: fewer than asked for after `--fail-fast`.
    done: u64,
}

/// Simulates, and says what it shows.
///
/// # Errors
/// The system gives no processes or files.
pub fn simulate(options: &SimOptions) -> Result<Verdict> {
    match options.seed {
        Some(seed) if options.verify => {
            let seeds = Seeds { from: seed, count: 1 };
            many(options, seeds)
        }
        Some(seed) => one(options, seed),
        None => many(options, Seeds { from: options.from, count: options.seeds }),
    }
}

#[derive(Clone, Copy)]
struct Seeds {
    from: u64,
    count: u64,
}

fn one(options: &SimOptions, seed: u64) -> Result<Verdict> {
    #[cfg(planted)]
    options.planted.into_iter().for_each(pangolin_core::planted::plant);
    let played = run(seed)?;
    let operations = played.history.operations();
    let answered = operations.iter().filter(|op| matches!(op.end, crate::history::End::Ok { .. })).count();
    let mut terms = std::collections::BTreeSet::new();
    let mut faults = std::collections::BTreeSet::new();
    for event in &played.history.events {
        match &event.what {
            What::Observed(seen) if seen.role == crate::history::Role::Leader => {
                terms.insert(seen.term);
            }
            What::FaultStarted(fault) => {
                faults.insert(fault.kind.clone());
            }
            _ => {}
        }
    }
    let judgement = played.judgement;
    let summary = Summary {
        seed,
        verdict: judgement.verdict,
        digest: played.history.digest(),
        simulated_ms: played.history.events.last().map_or(0, |event| event.at / 1000),
        answered,
        terms: terms.len(),
        faults: faults.into_iter().collect(),
        findings: judgement
            .findings
            .iter()
            .filter(|(_, finding)| finding.verdict != Verdict::True)
            .cloned()
            .collect(),
        checked: judgement.findings.iter().map(|(name, finding)| (name.clone(), finding.checked)).collect(),
    };
    let history = options.out.join(format!("seed-{seed}.history.jsonl"));
    if !options.quiet || judgement.verdict != Verdict::True {
        std::fs::create_dir_all(&options.out)
            .with_context(|| format!("cannot make {}", options.out.display()))?;
        played.history.save(&history).with_context(|| format!("cannot write {}", history.display()))?;
    }
    if options.json {
        say(&serde_json::to_string(&summary)?)?;
    } else {
        say(&format!("{judgement}\nhistory: {} ({})", history.display(), summary.digest))?;
    }
    Ok(judgement.verdict)
}

fn many(options: &SimOptions, seeds: Seeds) -> Result<Verdict> {
    let program = std::env::current_exe().context("where this program is")?;
    let jobs = options
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
        .max(1);
    let started = Instant::now();
    let next = AtomicU64::new(0);
    let enough = AtomicBool::new(false);
    let done: Mutex<Vec<Done>> = Mutex::default();
    let failed: Mutex<Option<anyhow::Error>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= seeds.count {
                        return;
                    }
                    match play(&program, options, seeds.from + number) {
                        Ok(one) => {
                            if let Err(error) = report(options, &one) {
                                keep(&failed, error);
                            }
                            if options.fail_fast && one.summary.verdict == Verdict::False {
                                enough.store(true, Ordering::Relaxed);
                            }
                            keep_done(&done, one);
                        }
                        Err(error) => {
                            keep(&failed, error);
                            enough.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_default() {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|one| one.summary.seed);
    total(options, seeds, &done, started)
}

/// One seed that was run.
struct Done {
    summary: Summary,
    repeatable: bool,
}

fn keep(failed: &Mutex<Option<anyhow::Error>>, error: anyhow::Error) {
    if let Ok(mut failed) = failed.lock() {
        failed.get_or_insert(error);
    }
}

fn keep_done(done: &Mutex<Vec<Done>>, one: Done) {
    if let Ok(mut done) = done.lock() {
        done.push(one);
    }
}

fn play(program: &Path, options: &SimOptions, seed: u64) -> Result<Done> {
    let summary = child(program, options, seed)?;
    let repeatable = !options.verify || child(program, options, seed)?.digest == summary.digest;
    Ok(Done { summary, repeatable })
}

/// Runs a seed in a process of its own: what one run has drawn changes nothing for the next.
fn child(program: &Path, options: &SimOptions, seed: u64) -> Result<Summary> {
    let mut run = Command::new(program);
    run.args(["sim", "--json", "--quiet", "--seed"]).arg(seed.to_string()).arg("--out").arg(&options.out);
    #[cfg(planted)]
    if let Some(bug) = options.planted {
        run.args(["--planted", bug.name()]);
    }
    let output =
        run.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!(
            "seed {seed} ended without a verdict ({}): {said}; repeat it: {}",
            output.status,
            command(seed)
        )
    })
}

fn report(options: &SimOptions, one: &Done) -> Result<()> {
    let summary = &one.summary;
    if options.json || (summary.verdict == Verdict::True && one.repeatable) {
        return Ok(());
    }
    if !one.repeatable {
        say(&format!("seed {}: two runs of it differ", summary.seed))?;
    }
    for (invariant, finding) in &summary.findings {
        say(&format!("seed {}: {invariant} is {}: {}", summary.seed, finding.verdict, finding.detail))?;
    }
    say(&format!("  repeat it: {} --out {}", command(summary.seed), options.out.display()))
}

fn total(options: &SimOptions, seeds: Seeds, done: &[Done], started: Instant) -> Result<Verdict> {
    ensure!(!done.is_empty(), "no seed was run");
    let of = |verdict| {
        done.iter()
            .filter(|one| one.summary.verdict == verdict)
            .map(|one| one.summary.seed)
            .collect::<Vec<_>>()
    };
    let unrepeatable: Vec<u64> =
        done.iter().filter(|one| !one.repeatable).map(|one| one.summary.seed).collect();
    let (broken, unknown) = (of(Verdict::False), of(Verdict::Unknown));
    let checked = sums(done.iter().map(|one| &one.summary.checked));
    let untested = untested(&checked);
    let verdict =
        match (broken.is_empty() && unrepeatable.is_empty(), unknown.is_empty() && untested.is_empty()) {
            (false, _) => Verdict::False,
            (true, false) => Verdict::Unknown,
            (true, true) => Verdict::True,
        };
    let total = Total {
        verdict,
        seeds: seeds.count,
        from: seeds.from,
        broken,
        unknown,
        unrepeatable,
        untested,
        checked,
        answered: done.iter().map(|one| one.summary.answered).sum(),
        simulated_s: done.iter().map(|one| one.summary.simulated_ms).sum::<u64>() / 1000,
        elapsed_s: started.elapsed().as_secs(),
        done: done.len() as u64,
    };
    if options.json {
        say(&serde_json::to_string(&total)?)?;
    } else {
        for name in &total.untested {
            say(&format!("{name} is unknown: no seed has put it to the test"))?;
        }
        say(&format!(
            "{} seeds from {}: {} broken, {} unknown; {} operations answered in {} simulated seconds, {} s of \
             waiting\nverdict: {}",
            total.done,
            total.from,
            total.broken.len(),
            total.unknown.len(),
            total.answered,
            total.simulated_s,
            total.elapsed_s,
            total.verdict
        ))?;
    }
    Ok(verdict)
}

/// By invariant, over all seeds.
fn sums<'a>(seeds: impl Iterator<Item = &'a BTreeMap<String, usize>>) -> BTreeMap<String, usize> {
    let mut sums = BTreeMap::new();
    for (name, checked) in seeds.flatten() {
        *sums.entry(name.clone()).or_default() += checked;
    }
    sums
}

fn untested(checked: &BTreeMap<String, usize>) -> Vec<&'static str> {
    EXPECTED.into_iter().filter(|name| checked.get(*name).is_none_or(|checked| *checked == 0)).collect()
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_seed_has_put_to_the_test_is_named() {
        let seed =
            |fences: usize| BTreeMap::from([("stale-fence".to_owned(), fences), ("sessions".to_owned(), 5)]);
        let told = |seeds: &[BTreeMap<String, usize>]| {
            let sums = sums(seeds.iter());
            (sums.get("sessions").copied().unwrap_or_default(), untested(&sums))
        };
        assert_eq!(told(&[seed(0), seed(0)]), (10, vec!["stale-fence"]));
        assert_eq!(told(&[seed(0), seed(2)]), (10, vec![]));
        assert_eq!(
            told(&[BTreeMap::new()]),
            (0, vec!["stale-fence"]),
            "one that does not say has checked nothing"
        );
    }

    #[test]
    fn what_is_expected_is_an_invariant() {
        let known = |name: &&str| crate::invariants::ALL.iter().any(|invariant| invariant.name == *name);
        assert!(EXPECTED.iter().all(known));
    }
}
