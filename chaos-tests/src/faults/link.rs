//! A bad wire between a node and everybody else.

use std::time::Duration;

use anyhow::Result;
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault};
use crate::{
    chance::Chance,
    testbed::bed::Bed,
    wire::{Quality, Wire},
};

/// What is bad about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    Delay,
    Loss,
    Reorder,
}

pub(super) fn of(trouble: Trouble, chance: &mut Chance) -> Box<dyn Fault> {
    let ms = |ms: usize| Duration::from_millis(ms as u64);
    let quality = match trouble {
        Trouble::Delay => {
            let delay = ms(5 + chance.below(146));
            Quality { delay, jitter: delay / 2, ..Quality::default() }
        }
        Trouble::Loss => Quality { loss: 0.01 + 0.19 * chance.share(), ..Quality::default() },
        Trouble::Reorder => Quality { delay: ms(10), jitter: ms(20), overtaking: 0.25, loss: 0.0 },
    };
    Box::new(Link { trouble, quality, order: chance.number(), wire: None })
}

struct Link {
    trouble: Trouble,
    quality: Quality,
    order: u64,
    wire: Option<(usize, Wire)>,
}

impl Link {
    fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        // A node has one cable.
        let free: Vec<usize> =
            bed.members().into_iter().filter(|position| !bed.wired.contains(position)).collect();
        let Some(victim) = Chance::new(self.order).one_of(&free).copied() else { return Ok(None) };
        let wire = bed.fabric.wire(victim)?;
        wire.be(self.quality);
        bed.wired.insert(victim);
        self.wire = Some((victim, wire));
        let Quality { delay, jitter, loss, overtaking } = self.quality;
        let detail = match self.trouble {
            Trouble::Delay => format!("{delay:?} and up to {jitter:?} more each way"),
            Trouble::Loss => format!("loses {:.1} % each way", loss * 100.0),
            Trouble::Reorder => format!("{:.0} % overtake the others", overtaking * 100.0),
        };
        Begun::new(vec![victim], format!("the wire of {}: {detail}", bed.names(&[victim])))
    }
}

impl Fault for Link {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(async move { self.start(bed) })
    }

    fn shown(&mut self, _: &mut Bed) -> Result<Option<String>> {
        let Some((_, wire)) = &self.wire else { return Ok(None) };
        let passed = wire.passed();
        let (what, count) = match self.trouble {
            Trouble::Delay => ("delayed", passed.delayed),
            Trouble::Loss => ("lost", passed.lost),
            Trouble::Reorder => ("overtook others", passed.overtook),
        };
        Ok((count > 0 && passed.frames > 0).then(|| format!("frames are passed on, and some {what}")))
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let Some((victim, wire)) = self.wire.take() else { return Ok(()) };
            drop(wire);
            bed.wired.remove(&victim);
            bed.fabric.unwire(victim)
        })
    }
}
