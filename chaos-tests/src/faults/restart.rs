//! What an operator does for every update: one node after the other is stopped in order and started again.

use anyhow::{Result, ensure};
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault, STEP_PATIENCE};
use crate::{chance::Chance, history::What, testbed::bed::Bed};

pub(super) fn of(chance: &mut Chance) -> Box<dyn Fault> {
    Box::new(Restart { order: chance.number(), left: Vec::new(), shown: None })
}

struct Restart {
    order: u64,
    left: Vec<usize>,
    shown: Option<String>,
}

impl Restart {
    fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        let mut all = bed.running();
        Chance::new(self.order).shuffle(&mut all);
        let Some(first) = all.first().copied() else { return Ok(None) };
        stop(first, bed)?;
        self.left.clone_from(&all);
        self.shown = Some("the first one has stopped in order".to_owned());
        Begun::new(all.clone(), format!("restarts {}", bed.names(&all)))
    }

    async fn finish(&mut self, bed: &mut Bed) -> Result<()> {
        for node in std::mem::take(&mut self.left) {
            if bed.cluster.nodes[node].runs() {
                stop(node, bed)?;
            }
            bed.start(node)?;
            bed.ready(node, STEP_PATIENCE).await?;
            // The next one is not touched before this one is whole.
            bed.healthy(STEP_PATIENCE).await?;
        }
        Ok(())
    }
}

fn stop(node: usize, bed: &mut Bed) -> Result<()> {
    let status = bed.terminate(node, STEP_PATIENCE)?;
    if !status.success() {
        let text = format!("stopped in order, it ended with {status}");
        bed.recorder.push(What::Wrong { node: bed.id(node)?, text });
    }
    ensure!(!bed.cluster.nodes[node].runs(), "{} runs on", bed.names(&[node]));
    Ok(())
}

impl Fault for Restart {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(async move { self.start(bed) })
    }

    fn shown(&mut self, _: &mut Bed) -> Result<Option<String>> {
        Ok(self.shown.clone())
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(self.finish(bed))
    }
}
