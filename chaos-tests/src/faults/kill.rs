//! `kill -9`: the node's process is gone in the middle of whatever it did. It is started again at the end.

use anyhow::{Result, ensure};
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault, STEP_PATIENCE};
use crate::{chance::Chance, testbed::bed::Bed};

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    Leader,
    Random,
    Majority,
    All,
}

pub(super) fn of(whom: Whom, chance: &mut Chance) -> Box<dyn Fault> {
    Box::new(Kill { whom, order: chance.number(), killed: Vec::new(), shown: None })
}

struct Kill {
    whom: Whom,
    order: u64,
    killed: Vec<usize>,
    shown: Option<String>,
}

impl Kill {
    async fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        let mut victims = bed.running();
        Chance::new(self.order).shuffle(&mut victims);
        match self.whom {
            Whom::Leader => match bed.leader(STEP_PATIENCE).await {
                Ok(leader) => victims = vec![leader],
                Err(_) => return Ok(None),
            },
            Whom::Random => victims.truncate(1),
            Whom::Majority => victims.truncate(bed.members().len() / 2 + 1),
            Whom::All => {}
        }
        if victims.is_empty() {
            return Ok(None);
        }
        for victim in &victims {
            // All get the signal before the first one is waited for.
            if let Some(process) = bed.cluster.nodes[*victim].process() {
                process.signal(nix::sys::signal::Signal::SIGKILL);
            }
        }
        for victim in &victims {
            let status = bed.kill(*victim)?;
            ensure!(
                std::os::unix::process::ExitStatusExt::signal(&status) == Some(libc::SIGKILL),
                "{} ended with {status}, and not by the signal",
                bed.names(&[*victim])
            );
        }
        bed.held.extend(&victims);
        self.killed.clone_from(&victims);
        self.shown = Some("the processes are gone".to_owned());
        Begun::new(victims.clone(), format!("kills {}", bed.names(&victims)))
    }
}

impl Fault for Kill {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(self.start(bed))
    }

    fn shown(&mut self, _: &mut Bed) -> Result<Option<String>> {
        Ok(self.shown.clone())
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for victim in self.killed.drain(..) {
                bed.held.remove(&victim);
                if !bed.cluster.nodes[victim].runs() {
                    bed.start(victim)?;
                }
            }
            Ok(())
        })
    }
}
