//! A disk that does not keep what it is given, and says so; or takes its time.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault, STEP_PATIENCE};
use crate::{chance::Chance, shim::Wrongs, testbed::bed::Bed};

/// How much longer a slow sync takes: less than a leader may be silent, so that work goes on.
const SLOW: Duration = Duration::from_millis(200);

/// What is bad about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Error,
    Slow,
}

pub(super) fn of(trouble: Trouble, chance: &mut Chance) -> Box<dyn Fault> {
    Box::new(Sync { trouble, order: chance.number(), victim: None, before: Wrongs::default() })
}

struct Sync {
    trouble: Trouble,
    order: u64,
    victim: Option<usize>,
    before: Wrongs,
}

impl Sync {
    fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        let Some(victim) = Chance::new(self.order).one_of(&bed.running()).copied() else { return Ok(None) };
        self.before = bed.controls[victim].wrongs()?;
        self.victim = Some(victim);
        let name = bed.names(&[victim]);
        match self.trouble {
            Trouble::Error => {
                bed.controls[victim].fail_syncs(Some(libc::EIO))?;
                Begun::new(vec![victim], format!("every sync of {name} fails with EIO"))
            }
            Trouble::Slow => {
                bed.controls[victim].delay_syncs(SLOW)?;
                Begun::new(vec![victim], format!("every sync of {name} takes {SLOW:?} longer"))
            }
        }
    }
}

impl Fault for Sync {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(async move { self.start(bed) })
    }

    fn shown(&mut self, bed: &mut Bed) -> Result<Option<String>> {
        let Some(victim) = self.victim else { return Ok(None) };
        let wrongs = bed.controls[victim].wrongs()?;
        let (what, count) = match self.trouble {
            Trouble::Error => ("failed", wrongs.syncs_failed - self.before.syncs_failed),
            Trouble::Slow => ("were held up", wrongs.syncs_delayed - self.before.syncs_delayed),
        };
        Ok((count > 0).then(|| format!("syncs {what}")))
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some(victim) = self.victim.take() else { return Ok(()) };
            bed.controls[victim].fail_syncs(None)?;
            bed.controls[victim].delay_syncs(Duration::ZERO)?;
            if self.trouble == Trouble::Slow {
                return Ok(());
            }
            // After a failed sync nobody knows what is on the disk: a node has to be started anew.
            if bed.cluster.nodes[victim].runs()
                && let Err(error) = bed.terminate(victim, STEP_PATIENCE)
            {
                bed.recorder.note(format!("{error:#}"));
            }
            bed.start(victim)
        })
    }

    fn may_end(&self, position: usize) -> bool {
        self.trouble == Trouble::Error && self.victim == Some(position)
    }
}
