//! The cycles, on one cluster or, each in a process of its own, on several at once.

use std::{collections::BTreeMap, ops::Range, process::Command, time::Duration};

use anyhow::{Context, Result, bail};
use pangolin_chaos::{process::Process, testbed::network::missing};
use tokio::time::sleep;

use super::cycle::{Back, Kind, NODES, one};
use crate::{say, traffic::lab::Lab};

/// How often the processes are looked after.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What came out, by the name of the kind.
pub(super) type Told = BTreeMap<String, Vec<Back>>;

/// Runs these cycles on one cluster.
///
/// # Errors
/// Something is missing for it, or a site does not come back at all.
pub(super) async fn on_one(cycles: Range<usize>) -> Result<Told> {
    if let Some(missing) = missing() {
        bail!("cycles cannot be run here: {missing}");
    }
    let mut lab = Lab::start(NODES, NODES.into()).await?;
    let mut told = Told::new();
    for cycle in cycles {
        let kind = Kind::of(cycle);
        let back = match one(&mut lab, kind, cycle).await {
            Ok(back) => back,
            Err(error) => {
                return Err(error.context(format!("cycle {cycle}, {}\n{}", kind.name(), lab.tails())));
            }
        };
        say(&format!(
            "cycle {cycle:>4}: {:<22} visitors served after {:>6.2} s, whole after {:>6.2} s",
            kind.name(),
            back.served,
            back.whole
        ));
        told.entry(kind.name()).or_default().push(back);
    }
    Ok(told)
}

/// Runs so many cycles on so many clusters at once.
///
/// # Errors
/// One of them fails.
pub(super) async fn on_several(cycles: usize, labs: usize) -> Result<Told> {
    let folder = tempfile::tempdir()?;
    let mut running = Vec::new();
    for (lab, range) in shares(cycles, labs).into_iter().enumerate() {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("reconnect-lab");
        command.args(["--from", &range.start.to_string(), "--to", &range.end.to_string()]);
        let log = folder.path().join(format!("lab{lab}.log"));
        running.push(Running { process: Process::spawn(&format!("lab {lab}"), command, &log)?, told: 0 });
    }
    loop {
        // Looked at before what it says is read: what is said at the end is not missed.
        let ended = running.iter_mut().all(|lab| lab.process.exit_status().is_some());
        for lab in &mut running {
            lab.relay();
        }
        if ended {
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    let mut told = Told::new();
    for lab in &running {
        for (kind, backs) in lab.last_word()? {
            told.entry(kind).or_default().extend(backs);
        }
    }
    Ok(told)
}

/// The cycles of each cluster: as many for each as can be.
fn shares(cycles: usize, labs: usize) -> Vec<Range<usize>> {
    (0..labs).map(|lab| cycles * lab / labs..cycles * (lab + 1) / labs).collect()
}

/// A cluster in a process of its own.
struct Running {
    process: Process,
    /// How many lines of it have been passed on.
    told: usize,
}

impl Running {
    fn said(&self) -> String {
        std::fs::read_to_string(self.process.log()).unwrap_or_default()
    }

    /// Passes on what it has said since the last time.
    fn relay(&mut self) {
        let said = self.said();
        for line in said.lines().skip(self.told) {
            if !line.starts_with('{') {
                say(&format!("{}: {line}", self.process.name()));
            }
            self.told += 1;
        }
    }

    /// Its figures.
    fn last_word(&self) -> Result<Told> {
        let said = self.said();
        let last = said.lines().last().filter(|line| line.starts_with('{'));
        let last = last.with_context(|| format!("{} has not come to its end", self.process.name()))?;
        Ok(serde_json::from_str(last)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cycle_is_run_once() {
        assert_eq!(shares(1000, 4), [0..250, 250..500, 500..750, 750..1000]);
        assert_eq!(shares(10, 3), [0..3, 3..6, 6..10]);
        assert_eq!(shares(2, 1).first(), Some(&(0..2)));
    }
}
