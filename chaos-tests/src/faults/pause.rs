//! A node that stands still, as if its host hung, and later goes on as if nothing had been.

use anyhow::{Context, Result};
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault, STEP_PATIENCE};
use crate::{chance::Chance, testbed::bed::Bed};

pub(super) fn of(leader: bool, chance: &mut Chance) -> Box<dyn Fault> {
    Box::new(Pause { leader, order: chance.number(), paused: None })
}

struct Pause {
    leader: bool,
    order: u64,
    paused: Option<usize>,
}

impl Pause {
    async fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        let victim = if self.leader {
            bed.leader(STEP_PATIENCE).await.ok()
        } else {
            Chance::new(self.order).one_of(&bed.running()).copied()
        };
        let Some(victim) = victim else { return Ok(None) };
        bed.cluster.nodes[victim].process().context("it does not run")?.freeze();
        self.paused = Some(victim);
        Begun::new(vec![victim], format!("stops {}", bed.names(&[victim])))
    }
}

/// Whether every thread of a process stands still (proc_pid_stat(5)).
fn stands(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

impl Fault for Pause {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(self.start(bed))
    }

    fn shown(&mut self, bed: &mut Bed) -> Result<Option<String>> {
        let process = self.paused.and_then(|victim| bed.cluster.nodes[victim].process());
        Ok(process
            .is_some_and(|process| stands(process.pid()))
            .then(|| "the process stands still".to_owned()))
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if let Some(process) = self.paused.take().and_then(|victim| bed.cluster.nodes[victim].process()) {
                process.thaw();
            }
            Ok(())
        })
    }
}
