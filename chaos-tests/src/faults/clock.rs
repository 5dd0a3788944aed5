//! A clock that jumps.

use anyhow::Result;
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault};
use crate::{chance::Chance, testbed::bed::Bed};

/// How far, in seconds: minutes, a day, three months.
const SHIFTS: [i64; 6] = [300, -300, 86_400, -86_400, 90 * 86_400, -90 * 86_400];

pub(super) fn of(chance: &mut Chance) -> Box<dyn Fault> {
    let shift = chance.one_of(&SHIFTS).copied().unwrap_or(SHIFTS[0]);
    Box::new(Clock { shift, order: chance.number(), victim: None, before: 0 })
}

struct Clock {
    shift: i64,
    order: u64,
    victim: Option<usize>,
    before: u64,
}

impl Clock {
    fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        let Some(victim) = Chance::new(self.order).one_of(&bed.running()).copied() else { return Ok(None) };
        self.before = bed.controls[victim].wrongs()?.clocks_shifted;
        bed.controls[victim].shift_clock(self.shift)?;
        self.victim = Some(victim);
        Begun::new(vec![victim], format!("the clock of {} is off by {} s", bed.names(&[victim]), self.shift))
    }
}

impl Fault for Clock {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(async move { self.start(bed) })
    }

    fn shown(&mut self, bed: &mut Bed) -> Result<Option<String>> {
        let Some(victim) = self.victim else { return Ok(None) };
        let shifted = bed.controls[victim].wrongs()?.clocks_shifted;
        Ok((shifted > self.before).then(|| "the node has read the wrong time".to_owned()))
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(
            async move { self.victim.take().map_or(Ok(()), |victim| bed.controls[victim].shift_clock(0)) },
        )
    }
}
