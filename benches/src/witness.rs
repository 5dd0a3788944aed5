//! What a witness takes of its host, beside two data nodes that have a state of some size and take writes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pangolin_chaos::cluster::{Cluster, START_PATIENCE};
use pangolin_core::record::NodeRole;
use pangolin_wire::{CreateOrg, Org};
use serde_json::json;

use crate::{judge::Check, pangolin, processes, say};

/// It runs on the smallest host that there is.
pub(crate) const RESIDENT_MB_MAX: f64 = 64.0;
/// Where it stands among the nodes.
const WITNESS: usize = 2;
/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between writes.
const PAUSE: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// For how long the data nodes take writes
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Measures, prints, judges.
///
/// # Errors
/// The cluster does not start, or a write fails.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let mut cluster = Cluster::prepare(pangolin::options(3)?)?;
    cluster.init().await?;
    cluster.join(1).await?;
    cluster.join_as(WITNESS, NodeRole::Witness).await?;
    cluster.healthy(START_PATIENCE).await?;
    let witness = cluster.nodes[WITNESS].process().context("the witness does not run")?.pid();
    let (mut written, mut most) = (0u64, 0.0_f64);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < end {
        let org = CreateOrg { org_id: format!("o{written}").parse()?, name: None };
        let _: Org = cluster.nodes[0].client().with_deadline(PATIENCE).put("/org", &org).await?;
        written += 1;
        most = most.max(processes::resident_mb(witness)?);
        tokio::time::sleep(PAUSE).await;
    }
    let check = Check::at_most("memory of a witness, MB", most, RESIDENT_MB_MAX);
    say(&check.line());
    say(&json!({
        "bench": "witness", "rss_mb": most, "rss_mb_max": RESIDENT_MB_MAX, "writes": written,
        "seconds": options.seconds, "ok": check.ok,
    })
    .to_string());
    Ok(check.ok)
}
