//! A disk without a free byte.

use std::{fs::File, io::Write, path::PathBuf};

use anyhow::{Context, Result};
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault, STEP_PATIENCE};
use crate::{chance::Chance, testbed::bed::Bed};

/// What is written at a time; at the end, byte by byte is not worth the while: a page is what the disk gives.
const PIECE: usize = 64 * 1024;

pub(super) fn of(chance: &mut Chance) -> Box<dyn Fault> {
    Box::new(DiskFull { order: chance.number(), victim: None, ballast: None, said: 0 })
}

struct DiskFull {
    order: u64,
    victim: Option<usize>,
    ballast: Option<PathBuf>,
    /// Length of the node's log before.
    said: u64,
}

impl DiskFull {
    fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        let Some(victim) = Chance::new(self.order).one_of(&bed.running()).copied() else { return Ok(None) };
        let path = bed.cluster.nodes[victim].disk().join("ballast");
        self.said = std::fs::metadata(bed.cluster.nodes[victim].log())?.len();
        let written = fill(&path)?;
        self.victim = Some(victim);
        self.ballast = Some(path);
        Begun::new(
            vec![victim],
            format!("fills the disk of {} with {} MiB", bed.names(&[victim]), written >> 20),
        )
    }
}

/// Writes until nothing more goes in.
fn fill(path: &PathBuf) -> Result<u64> {
    let mut file = File::create(path).context("filling a disk")?;
    let mut written = 0;
    for size in [PIECE, 1] {
        let piece = vec![0x5a; size];
        loop {
            match file.write(&piece) {
                Ok(0) => break,
                Ok(length) => written += length as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error).context("filling a disk"),
            }
        }
    }
    Ok(written)
}

impl Fault for DiskFull {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(async move { self.start(bed) })
    }

    fn shown(&mut self, bed: &mut Bed) -> Result<Option<String>> {
        let Some(victim) = self.victim else { return Ok(None) };
        let Some(process) = bed.cluster.nodes[victim].process() else {
            return Ok(Some("the node has ended".to_owned()));
        };
        let text = std::fs::read(process.log())?.split_off(usize::try_from(self.said)?);
        if String::from_utf8_lossy(&text).contains("os error 28") {
            return Ok(Some("the node says that nothing goes in any more".to_owned()));
        }
        // The log goes on in files that have their size already: a node may write for a while without asking for room.
        let room = rustix::fs::statvfs(bed.cluster.nodes[victim].disk())?.f_bfree;
        Ok((room == 0)
            .then(|| "no block of the disk is free; the node writes into files that it has".to_owned()))
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if let Some(ballast) = self.ballast.take() {
                std::fs::remove_file(ballast)?;
            }
            let Some(victim) = self.victim.take() else { return Ok(()) };
            // What a node has latched it keeps until it is started anew, which is what its operator does.
            if bed.cluster.nodes[victim].runs() {
                // One that does not end when it is told to is killed by this.
                if let Err(error) = bed.terminate(victim, STEP_PATIENCE) {
                    bed.recorder.note(format!("{error:#}"));
                }
            }
            bed.held.remove(&victim);
            bed.start(victim)
        })
    }

    fn may_end(&self, position: usize) -> bool {
        self.victim == Some(position)
    }
}
