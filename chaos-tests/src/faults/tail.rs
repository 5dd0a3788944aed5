//! The end of a killed node's log: half a record that was never acknowledged, which has to be dropped without a word;
//! or the loss of records that were acknowledged, with which a node must never vote again.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault, STEP_PATIENCE};
use crate::{chance::Chance, history::What, testbed::bed::Bed};

/// Bytes that are cut off.
const CUT_MAX: usize = 200;
/// Bytes of half a record: less than any whole one has.
const HALF: usize = 9;
/// How long a node may take to see that its log is short.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Torn,
    Lost,
}

pub(super) fn of(damage: Damage, chance: &mut Chance) -> Box<dyn Fault> {
    let cut = 1 + chance.below(CUT_MAX);
    Box::new(Tail { damage, cut, order: chance.number(), victim: None, shown: None })
}

struct Tail {
    damage: Damage,
    cut: usize,
    order: u64,
    victim: Option<usize>,
    shown: Option<String>,
}

impl Tail {
    async fn start(&mut self, bed: &mut Bed) -> Result<Option<Begun>> {
        let running = bed.running();
        // The others have to be whole: this one may be gone for good.
        if running.len() < 3 {
            return Ok(None);
        }
        let Some(victim) = Chance::new(self.order).one_of(&running).copied() else { return Ok(None) };
        bed.kill(victim)?;
        bed.held.insert(victim);
        self.victim = Some(victim);
        let path = newest_file(&bed.cluster.nodes[victim].state_dir())?;
        let bytes = std::fs::read(&path)?;
        // Zeros fill the file up to its size; no record ends with one.
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        let log = OpenOptions::new().write(true).open(&path)?;
        let name = bed.names(&[victim]);
        match self.damage {
            Damage::Torn => {
                let half = &bytes[..HALF.min(bytes.len())];
                log.write_all_at(half, end)?;
                self.shown = Some(format!("{} bytes of a record stand at its end", half.len()));
                Begun::new(vec![victim], format!("kills {name}; its log ends in half a record"))
            }
            Damage::Lost => {
                log.set_len(end.saturating_sub(self.cut as u64))?;
                self.refused(victim, bed).await?;
                Begun::new(vec![victim], format!("kills {name}; {} bytes of its log are gone", self.cut))
            }
        }
    }

    /// The node has to see it, and refuse to run.
    async fn refused(&mut self, victim: usize, bed: &mut Bed) -> Result<()> {
        let node = bed.id(victim)?;
        bed.start(victim)?;
        let until = Instant::now() + REFUSAL_PATIENCE;
        loop {
            if let Some((_, status)) = bed.reap().into_iter().find(|(position, _)| *position == victim) {
                let log = std::fs::read_to_string(bed.cluster.nodes[victim].log()).unwrap_or_default();
                let said = log.lines().rev().take(10).any(|line| line.contains("must rejoin"));
                if !said || status.success() {
                    let text =
                        format!("a log cut short ended it with {status}, without saying that it must rejoin");
                    bed.recorder.push(What::Wrong { node, text });
                }
                self.shown = Some("the node has refused to run".to_owned());
                return Ok(());
            }
            if Instant::now() >= until {
                let text = format!("it runs on a log from which {} acknowledged bytes were cut", self.cut);
                bed.recorder.push(What::Wrong { node, text });
                self.shown = Some("the node has not noticed".to_owned());
                bed.kill(victim)?;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn finish(&mut self, bed: &mut Bed) -> Result<()> {
        let Some(victim) = self.victim.take() else { return Ok(()) };
        if self.damage == Damage::Lost {
            // What its operator is told to do: take it out, empty its disk, let it join as a new node.
            bed.remove(victim).await?;
            bed.held.remove(&victim);
            bed.join(victim).await?;
            return bed.healthy(STEP_PATIENCE).await;
        }
        bed.held.remove(&victim);
        let log = bed.cluster.nodes[victim].log();
        let before = std::fs::metadata(&log).map(|log| log.len()).unwrap_or(0);
        bed.start(victim)?;
        bed.ready(victim, STEP_PATIENCE).await?;
        let said = std::fs::read(&log)?.split_off(usize::try_from(before).unwrap_or(0));
        ensure!(
            String::from_utf8_lossy(&said).contains("dropping an incomplete record"),
            "{} says nothing of the half record at the end of its log",
            bed.names(&[victim])
        );
        Ok(())
    }
}

/// The file of the log that is written to.
fn newest_file(state: &Path) -> Result<PathBuf> {
    let folder = state.join("raft/log");
    let files = std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let files = files.filter_map(|file| Some(file.ok()?.path())).filter(|path| path.is_file());
    // Their names hold where they begin, with leading zeros.
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .max()
        .with_context(|| format!("there is no log in {}", folder.display()))
}

impl Fault for Tail {
    fn begin<'a>(&'a mut self, _: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(self.start(bed))
    }

    fn shown(&mut self, _: &mut Bed) -> Result<Option<String>> {
        Ok(self.shown.clone())
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(self.finish(bed))
    }
}
