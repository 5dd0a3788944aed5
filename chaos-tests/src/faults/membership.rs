//! A node joins while the leader is killed; the killed one comes back, leaves for good, and the new one votes instead.

use anyhow::{Context, Result};
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault, STEP_PATIENCE};
use crate::{chance::Chance, testbed::bed::Bed};

pub(super) fn of(_: &mut Chance) -> Box<dyn Fault> {
    Box::new(Membership { joined: None, killed: None })
}

struct Membership {
    joined: Option<usize>,
    killed: Option<usize>,
}

impl Membership {
    async fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        let members = bed.members();
        let spare = (0..bed.cluster.nodes.len()).find(|position| !members.contains(position));
        let Some(spare) = spare else { return Ok(None) };
        bed.healthy(STEP_PATIENCE).await?;
        bed.join(spare).await?;
        self.joined = Some(spare);
        // It is admitted; whether it votes already is the next leader's business.
        let leader = bed.leader(STEP_PATIENCE).await?;
        bed.kill(leader)?;
        bed.held.insert(leader);
        self.killed = Some(leader);
        Begun::new(
            vec![spare, leader],
            format!("{} joins, and the leader {} is killed", bed.names(&[spare]), bed.names(&[leader])),
        )
    }

    /// The one that was killed comes back, and then leaves for good: the new one votes in its place.
    async fn finish(&mut self, bed: &mut Bed) -> Result<()> {
        let (Some(killed), Some(_)) = (self.killed.take(), self.joined.take()) else { return Ok(()) };
        bed.held.remove(&killed);
        if !bed.cluster.nodes[killed].runs() {
            bed.start(killed)?;
        }
        bed.healthy(STEP_PATIENCE).await.context("with the new node")?;
        bed.remove(killed).await?;
        bed.healthy(STEP_PATIENCE).await.context("without the one that left")
    }
}

impl Fault for Membership {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(self.start(bed))
    }

    fn shown(&mut self, _: &mut Bed) -> Result<Option<String>> {
        Ok(self.joined.map(|_| "the new node is a member, and the leader is gone".to_owned()))
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(self.finish(bed))
    }
}
