//! That a site comes back: after restarts of nodes, losses of its network for a second, for twenty and for five minutes,
//! and changes of its address, in turn.
//!
//! It is back when every node says that its own tunnel to it is alive. A tunnel that is silent for less than a second
//! ([`pangolin_tunnel::PROBE_LIFETIME`]) is alive all the time, so a change that costs less counts as none.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use pangolin_chaos::testbed::network::missing;
use serde::Serialize;
use serde_json::json;
use tokio::time::sleep;

use crate::{judge::Check, sample::round, say, traffic::lab::Lab};

/// Nodes of the cluster, each with a tunnel to the site.
const NODES: u8 = 3;
/// How long a site may take to be back; the bound is a part of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it may take: it is back when every node has its tunnel again.
const BACK_SECONDS: f64 = 5.0;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Cycles of restarts, losses of the network and changes of the address; needs root
    #[arg(long, default_value_t = 1000)]
    cycles: usize,
}

/// What happens in a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// A node is killed and started again
    NodeRestart,
    /// The site's network is away for so many seconds
    LinkAway(u64),
    /// The site gets another address, and loses the one that it had
    AddressChange,
}

impl Kind {
    /// What happens in a cycle of this number.
    fn of(cycle: usize) -> Self {
        match cycle {
            _ if cycle % 250 == 249 => Self::LinkAway(300),
            _ if cycle % 20 == 19 => Self::LinkAway(20),
            _ => match cycle % 4 {
                0 => Self::NodeRestart,
                2 => Self::AddressChange,
                _ => Self::LinkAway(1),
            },
        }
    }

    fn name(self) -> String {
        match self {
            Self::NodeRestart => "node restart".to_owned(),
            Self::LinkAway(seconds) => format!("link away for {seconds} s"),
            Self::AddressChange => "address change".to_owned(),
        }
    }
}

/// Measures, prints, judges.
///
/// # Errors
/// Something is missing for it, or a site does not come back at all.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let mut checks = Vec::new();
    let mut told = BTreeMap::new();
    for (kind, seconds) in cycles(options.cycles).await? {
        let longest = seconds.iter().copied().fold(0.0, f64::max);
        checks.push(Check::at_most(format!("{}: longest, s", kind.name()), round(longest), BACK_SECONDS));
        told.insert(
            kind.name(),
            json!({ "cycles": seconds.len(), "p50_s": median(&seconds), "longest_s": round(longest) }),
        );
    }
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    let figures = json!({
        "bench": "reconnect", "cycles": options.cycles, "back": told, "checks": checks, "ok": ok,
    });
    say(&figures.to_string());
    Ok(ok)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    round(sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN))
}

/// Runs the cycles on one cluster; gives the seconds until the site was back, by kind.
async fn cycles(count: usize) -> Result<BTreeMap<Kind, Vec<f64>>> {
    if let Some(missing) = missing() {
        anyhow::bail!("cycles cannot be run here: {missing}");
    }
    let mut lab = Lab::start(NODES, NODES.into()).await?;
    let mut back: BTreeMap<Kind, Vec<f64>> = BTreeMap::new();
    for cycle in 0..count {
        let kind = Kind::of(cycle);
        let took = match one(&mut lab, kind, cycle).await {
            Ok(took) => took,
            Err(error) => {
                return Err(error.context(format!("cycle {cycle}, {}\n{}", kind.name(), lab.tails())));
            }
        };
        say(&format!("cycle {cycle:>4}: {:<22} back after {:>6.2} s", kind.name(), took.as_secs_f64()));
        back.entry(kind).or_default().push(took.as_secs_f64());
    }
    Ok(back)
}

/// One cycle; gives the time from when the site could be back until it was, at every node.
async fn one(lab: &mut Lab, kind: Kind, cycle: usize) -> Result<Duration> {
    let possible = match kind {
        Kind::NodeRestart => {
            let position = cycle / 4 % usize::from(NODES);
            lab.cluster.nodes[position].kill();
            lab.cluster.nodes[position].start_ready().await?;
            Instant::now()
        }
        Kind::LinkAway(seconds) => {
            lab.unplug_site()?;
            sleep(Duration::from_secs(seconds)).await;
            lab.plug_site()?;
            Instant::now()
        }
        Kind::AddressChange => {
            lab.move_site()?;
            Instant::now()
        }
    };
    lab.attached(possible + PATIENCE).await.context("the site is not back")?;
    Ok(possible.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_cycles_hold_some_of_every_kind() {
        let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
        (0..1000).for_each(|cycle| *counts.entry(Kind::of(cycle)).or_default() += 1);
        let expected = [
            (Kind::NodeRestart, 250),
            (Kind::LinkAway(1), 448),
            (Kind::LinkAway(20), 48),
            (Kind::LinkAway(300), 4),
            (Kind::AddressChange, 250),
        ];
        assert_eq!(counts, expected.into());
    }
}
