//! The log on a disk that loses power, or under a process that is killed, between any two of its steps.
//!
//! A real [`DiskLog`] writes real files, and each of its steps is kept ([`trace`]). A crash takes a prefix of the steps
//! and makes of it what a disk may hold then: all that was synced, and of the rest any version of each sector; names
//! in the order in which they were changed, but not all of them. The log is opened on that, and goes on. What it says
//! must be what some of the changes that it was given add up to: all those that were acknowledged, and maybe the next
//! ones, never others.
//!
//! `PANGOLIN_CRASH_SEEDS=N` tries more seeds, `PANGOLIN_CRASH_SEED=N` repeats one.

use std::{collections::BTreeMap, fs, path::Path};

use tempfile::TempDir;

use super::{
    disk::DiskLog,
    simulated::Log,
    trace::{self, Step},
    *,
};

/// How many are tried: some seconds' worth.
const SEEDS: u64 = 400;
/// Starts of one log.
const LIVES: usize = 7;
/// Most groups of writes between two crashes.
const WRITES: u64 = 24;
/// Bytes that a disk writes all or not at all.
const SECTOR: usize = 512;

/// Numbers that look random and are the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("small")
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// A file, with what was written since it was last synced.
#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl File {
    /// As processes see it.
    fn seen(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (at, written) in &self.pending {
            bytes[*at..at + written.len()].copy_from_slice(written);
        }
        bytes
    }

    /// As a loss of power may leave it: of each sector some version since the last sync.
    fn torn(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for start in (0..bytes.len()).step_by(SECTOR) {
            let end = bytes.len().min(start + SECTOR);
            let touching: Vec<_> =
                self.pending.iter().filter(|(at, new)| *at < end && at + new.len() > start).collect();
            for (at, new) in &touching[..random.below(touching.len() + 1)] {
                let (from, to) = (start.max(*at), end.min(at + new.len()));
                bytes[from..to].copy_from_slice(&new[from - at..to - at]);
            }
        }
        bytes
    }
}

/// A change of a directory.
#[derive(Clone, Debug)]
enum Change {
    Made(String, usize),
    Renamed(String, String, usize),
    Removed(String),
}

/// What the steps make of a disk.
#[derive(Clone, Debug, Default)]
struct Medium {
    files: Vec<File>,
    /// Which file has which name, as processes see it.
    seen: BTreeMap<String, usize>,
    /// The same after a loss of power, but for the changes that are not synced.
    durable: BTreeMap<String, usize>,
    changes: Vec<Change>,
}

impl Medium {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Made { name, size } => {
                self.files.push(File { durable: vec![0; *size], pending: Vec::new() });
                self.seen.insert(name.clone(), self.files.len() - 1);
                self.changes.push(Change::Made(name.clone(), self.files.len() - 1));
            }
            Step::Written { name, at, bytes } => self.file(name).pending.push((*at, bytes.clone())),
            Step::Synced { name } => {
                let file = self.file(name);
                (file.durable, file.pending) = (file.seen(), Vec::new());
            }
            Step::Renamed { from, to } => {
                let file = self.seen.remove(from).expect("it has this name");
                self.seen.insert(to.clone(), file);
                self.changes.push(Change::Renamed(from.clone(), to.clone(), file));
            }
            Step::Removed { name } => {
                self.seen.remove(name);
                self.changes.push(Change::Removed(name.clone()));
            }
            Step::NamesSynced => {
                self.durable = self.seen.clone();
                self.changes.clear();
            }
        }
    }

    fn file(&mut self, name: &str) -> &mut File {
        &mut self.files[self.seen[name]]
    }

    /// The power fails.
    fn lose_power(&mut self, random: &mut Random) {
        let survive = random.below(self.changes.len() + 1);
        for change in self.changes.drain(..).take(survive) {
            match change {
                Change::Made(name, file) => drop(self.durable.insert(name, file)),
                Change::Renamed(from, to, file) => {
                    self.durable.remove(&from);
                    self.durable.insert(to, file);
                }
                Change::Removed(name) => drop(self.durable.remove(&name)),
            }
        }
        self.seen = self.durable.clone();
        for file in &mut self.files {
            *file = File { durable: file.torn(random), pending: Vec::new() };
        }
    }

    /// What a process finds that starts now.
    fn lay_out(&self) -> TempDir {
        // Where syncs cost nothing: what is synced is known here.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.expect("tempdir");
        fs::create_dir(dir.path().join("log")).expect("made");
        for (name, file) in &self.seen {
            let folder =
                if name.starts_with("watermark") { dir.path().to_owned() } else { dir.path().join("log") };
            fs::write(folder.join(name), self.files[*file].seen()).expect("written");
        }
        dir
    }

    /// Changes a byte of a record that the watermark knows; false if there is none.
    fn damage(&mut self, random: &mut Random) -> bool {
        let dir = self.lay_out();
        let mark = match watermark::Watermark::open(&dir.path().join("watermark")).expect("read") {
            watermark::Found::Intact(mark) => mark.end(),
            _ => return false,
        };
        let start = |name: &str| name.split('.').next().and_then(|start| start.parse::<u64>().ok());
        let starts: Vec<u64> = self.seen.keys().filter_map(|name| start(name)).collect();
        let Some(first) = starts.first().filter(|first| **first < mark) else { return false };
        let at = first + random.next() % (mark - first);
        let begin = starts[starts.partition_point(|start| *start <= at) - 1];
        let at = usize::try_from(at - begin).expect("small");
        let bytes = &mut self.file(&segment::name(begin)).durable;
        // A file has zeros behind its last record.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if at >= used {
            return false;
        }
        if random.one_in(2) {
            bytes[at] ^= 1 << random.below(8);
            return true;
        }
        let end = used.min(at + 1 + random.below(2 * SECTOR));
        let before = bytes.clone();
        bytes[at..end].fill(0);
        *bytes != before
    }
}

/// What a log is asked to do, as Raft would.
struct Work {
    random: Random,
    written: u64,
}

impl Work {
    fn ops(&mut self, mut log: Log) -> Vec<LogOp> {
        let count = 1 + self.random.below(3);
        let mut ops = Vec::new();
        for _ in 0..count {
            let more = self.some(&log);
            more.iter().cloned().for_each(|op| log.apply(op));
            ops.extend(more);
        }
        ops
    }

    fn some(&mut self, log: &Log) -> Vec<LogOp> {
        let state = log.state;
        let term = state.vote.map_or(0, |vote| vote.term);
        let settled = state.committed.max(state.purged).map_or(0, |id| id.index + 1);
        let settled = settled.max(state.first_index());
        let open = usize::try_from(state.next_index().saturating_sub(settled)).expect("small");
        match self.random.below(12) {
            0 => vec![LogOp::Vote(Vote { term: term + 1, elected: false, node: self.random.next() % 3 })],
            1 => vec![LogOp::Vote(Vote { term, elected: true, node: self.random.next() % 3 })],
            2 if open > 0 => vec![LogOp::TruncateFrom(settled + self.random.below(open) as u64)],
            3 | 4 if open > 0 => {
                let entry = &log.entries[&(settled + self.random.below(open) as u64)];
                vec![LogOp::Committed(entry.id)]
            }
            5 => {
                let known =
                    log.entries.values().filter(|entry| entry.id.index < settled).map(|entry| entry.id);
                let known: Vec<LogId> = known.collect();
                match known.is_empty() {
                    true => Vec::new(),
                    false => vec![LogOp::Purge(known[self.random.below(known.len())])],
                }
            }
            // A snapshot of the leader, far ahead.
            6 if self.random.one_in(6) => {
                let index = state.next_index() + self.random.next() % 5;
                vec![LogOp::Purge(LogId { term, index })]
            }
            _ => {
                let mut next = state.next_index();
                (0..1 + self.random.below(4)).map(|_| LogOp::Append(self.entry(term, &mut next))).collect()
            }
        }
    }

    fn entry(&mut self, term: u64, next: &mut u64) -> Entry {
        let id = LogId { term, index: *next };
        (*next, self.written) = (*next + 1, self.written + 1);
        let longest = if self.random.one_in(8) { 4 * SECTOR } else { 60 };
        // Zeros are what a sector has that was never written.
        let filling = if self.random.one_in(4) { 0 } else { 7 };
        let mut body = self.written.to_le_bytes().to_vec();
        body.resize(8 + self.random.below(longest), filling);
        Entry { id, body: body.into() }
    }
}

/// Where a log stood after each change, and which of them a crash may show.
struct History {
    states: Vec<Log>,
    /// Number of steps at which so many changes were under way, and at which they were acknowledged.
    begun: Vec<(usize, usize)>,
    acknowledged: Vec<(usize, usize)>,
}

impl History {
    fn candidates(&self, steps: usize) -> &[Log] {
        let last =
            self.acknowledged.iter().rev().find(|(at, _)| *at <= steps).map_or(0, |(_, changes)| *changes);
        let most = self.begun.iter().rev().find(|(at, _)| *at < steps).map_or(0, |(_, changes)| *changes);
        &self.states[last..=most.max(last)]
    }
}

fn found(log: &mut DiskLog) -> Log {
    let state = log.state();
    let entries = log.read(state.first_index(), state.next_index(), usize::MAX).expect("read");
    Log { state, entries: entries.into_iter().map(|entry| (entry.id.index, entry)).collect() }
}

/// One log through several crashes. The error says what is wrong.
fn live(seed: u64) -> Result<(), String> {
    let mut work = Work { random: Random(seed), written: 0 };
    // The last one consists of whole blocks, which are written past the page cache.
    let segment = [700, 2000, 5000, 8192][work.random.below(4)];
    let open = |dir: &Path| DiskLog::open_in_segments(dir, dir, segment);
    let mut medium = Medium::default();
    let mut candidates = vec![Log::default()];
    for life in 0..LIVES {
        let dir = medium.lay_out();
        trace::begin();
        let mut log = open(dir.path()).map_err(|error| format!("start {life}: {error}"))?;
        let base = found(&mut log);
        if !candidates.contains(&base) {
            return Err(format!("start {life}: found {base:#?}\nwhich is none of {candidates:#?}"));
        }
        let opened = trace::len();
        let mut history = History { states: vec![base], begun: Vec::new(), acknowledged: Vec::new() };
        for _ in 0..=work.random.next() % WRITES {
            let mut now = history.states.last().cloned().unwrap_or_default();
            let (ops, sync) = (work.ops(now.clone()), !work.random.one_in(3));
            for op in &ops {
                now.apply(op.clone());
                history.states.push(now.clone());
            }
            let changes = history.states.len() - 1;
            history.begun.push((trace::len(), changes));
            log.write(ops, sync).map_err(|error| format!("start {life}: {error}"))?;
            if sync {
                history.acknowledged.push((trace::len(), changes));
            }
            if work.random.one_in(6) {
                log.settle().map_err(|error| format!("start {life}: {error}"))?;
            }
            if found(&mut log) != now {
                return Err(format!("start {life}: {:#?} was written, {now:#?} was meant", found(&mut log)));
            }
        }
        drop(log);
        let steps = trace::end();
        let crash = if work.random.one_in(5) { steps.len() } else { work.random.below(steps.len() + 1) };
        steps[..crash].iter().for_each(|step| medium.take(step));
        // A start that was cut off has told nobody anything.
        if crash >= opened {
            candidates = history.candidates(crash).to_vec();
        }
        // A process that is killed leaves what the system was handed, synced or not.
        if work.random.one_in(3) {
            continue;
        }
        medium.lose_power(&mut work.random);
        let mut damaged = medium.clone();
        if damaged.damage(&mut work.random) {
            match open(damaged.lay_out().path()) {
                Err(error) if error.is_rejoin() => {}
                other => return Err(format!("start {life}: damage is not refused: {other:?}")),
            }
        }
    }
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn after_any_crash_all_that_was_acknowledged_is_there_and_nothing_else() {
    let seeds = match number("PANGOLIN_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PANGOLIN_CRASH_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(what) = live(seed) {
            panic!(
                "seed {seed}: {what}\nrepeat it: PANGOLIN_CRASH_SEED={seed} cargo test --workspace --lib crash_tests"
            );
        }
    }
}
