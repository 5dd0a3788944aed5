//! How long it takes from `pangolind join` until the new node votes.

use std::time::{Duration, Instant};

use anyhow::Result;
use pangolin_chaos::cluster::{Cluster, START_PATIENCE};
use serde_json::json;

use crate::{judge::Check, pangolin, sample::Sample, say};

const VOTER_MAX_MS: f64 = 10_000.0;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How many clusters are made; the third node of each is measured
    #[arg(long, default_value_t = 5)]
    clusters: usize,
}

/// Measures, prints, judges.
///
/// # Errors
/// A node does not join.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let mut times = Vec::new();
    for round in 0..options.clusters {
        let mut cluster = Cluster::prepare(pangolin::options(3)?)?;
        cluster.init().await?;
        cluster.join(1).await?;
        // Two voters stand no more than one, so the second node may be waiting for the third.
        let began = Instant::now();
        cluster.join(2).await?;
        cluster.healthy(START_PATIENCE).await?;
        let took: Duration = began.elapsed();
        say(&format!(
            "cluster {}: all vote {} ms after the third node began to join",
            round + 1,
            took.as_millis()
        ));
        times.push(took);
    }
    let figures = Sample::of(&times).figures();
    let checks = [Check::at_most("join to voter, longest, ms", figures.max_ms, VOTER_MAX_MS)];
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    say(&json!({
        "bench": "join", "n": figures.operations, "p50_ms": figures.p50_ms, "max_ms": figures.max_ms,
        "checks": checks, "ok": ok,
    })
    .to_string());
    Ok(ok)
}
