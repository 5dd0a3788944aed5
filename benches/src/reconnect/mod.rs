//! That a site comes back: after restarts of nodes, losses of its network for a second, for twenty and for five minutes,
//! and changes of its address, in turn.
//!
//! It is back when visitors of every node are answered, by way of the tunnel, and it is whole when besides every node says
//! that its own tunnel to it is alive and it has a control socket.

mod cycle;
mod labs;
mod served;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use self::{
    cycle::Back,
    labs::{Told, on_one, on_several},
};
use crate::{judge::Check, sample::round, say};

/// What it may take until visitors are served again.
const BACK_SECONDS: f64 = 5.0;
/// Most clusters at once. Each keeps some 5 % of a core busy when nothing happens.
const LABS_MAX: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Cycles of restarts, losses of the network and changes of the address; needs root
    #[arg(long, default_value_t = 1000)]
    cycles: usize,
    /// Clusters at once that share the cycles, each in network namespaces of its own
    #[arg(long, default_value_t = 1)]
    labs: usize,
}

/// Which cycles one cluster runs.
#[derive(Debug, Args)]
pub(crate) struct LabOptions {
    #[arg(long)]
    from: usize,
    #[arg(long)]
    to: usize,
}

/// Measures, prints, judges.
///
/// # Errors
/// Something is missing for it, or a site does not come back at all.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    ensure!((1..=LABS_MAX).contains(&options.labs), "1 to {LABS_MAX} clusters at once");
    let told = match options.labs {
        1 => on_one(0..options.cycles).await?,
        labs => on_several(options.cycles, labs).await?,
    };
    let (figures, checks) = judge(&told);
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    let figures = json!({
        "bench": "reconnect", "cycles": options.cycles, "back": figures, "checks": checks, "ok": ok,
    });
    say(&figures.to_string());
    Ok(ok)
}

/// Runs cycles on one cluster of several, and says what came out in its last line.
///
/// # Errors
/// Something is missing for it, or a site does not come back at all.
pub(crate) async fn run_lab(options: &LabOptions) -> Result<()> {
    let told = on_one(options.from..options.to).await?;
    say(&serde_json::to_string(&told)?);
    Ok(())
}

fn judge(told: &Told) -> (Value, Vec<Check>) {
    let mut figures = serde_json::Map::new();
    let mut checks = Vec::new();
    for (kind, backs) in told {
        let [served, whole] = [|back: &Back| back.served, |back: &Back| back.whole].map(|of| {
            let mut seconds: Vec<f64> = backs.iter().map(of).collect();
            seconds.sort_by(f64::total_cmp);
            seconds
        });
        let median = |sorted: &[f64]| sorted.get(sorted.len() / 2).copied().map(round);
        let longest = |sorted: &[f64]| sorted.last().copied().map(round);
        figures.insert(
            kind.clone(),
            json!({
                "cycles": backs.len(),
                "served_p50_s": median(&served), "served_longest_s": longest(&served),
                "whole_p50_s": median(&whole), "whole_longest_s": longest(&whole),
            }),
        );
        let is = longest(&served).unwrap_or(f64::NAN);
        checks.push(Check::at_most(
            format!("{kind}: longest until visitors are served, s"),
            is,
            BACK_SECONDS,
        ));
    }
    (Value::Object(figures), checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_until_visitors_are_served_is_judged() {
        let back = |served, whole| Back { served, whole };
        let told = |backs| Told::from([("a kind".to_owned(), backs)]);
        let (figures, checks) = judge(&told(vec![back(0.1, 6.0), back(4.9, 5.0), back(0.3, 0.4)]));
        assert!(checks.iter().all(|check| check.ok));
        assert_eq!(figures["a kind"]["served_p50_s"], 0.3);
        assert_eq!(figures["a kind"]["whole_longest_s"], 6.0);
        let (_, checks) = judge(&told(vec![back(5.1, 5.2)]));
        assert!(checks.iter().all(|check| !check.ok));
    }
}
