//! What a log is worth after crashes and damage: after each, either all that was acknowledged is there, or the
//! store refuses to open and says that the node must rejoin.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    disk::DiskLog,
    simulated::{Disk, Fault},
    *,
};
use crate::{LogStore, StorageError};

/// Size of a file; small, so that a few entries fill several.
const SEGMENT: u64 = 256;

fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

fn entry(term: u64, index: u64) -> Entry {
    let body = format!("{term}/{index}/").repeat(1 + usize::try_from(index % 5).expect("small"));
    Entry { id: id(term, index), body: body.into() }
}

fn vote(term: u64) -> Vote {
    Vote { term, node: 1, elected: true }
}

fn open(dir: &Path) -> Result<DiskLog, StorageError> {
    DiskLog::open_in_segments(dir, dir, SEGMENT)
}

fn all(log: &mut impl LogBackend) -> Vec<Entry> {
    let state = log.state();
    log.read(state.first_index(), state.next_index(), usize::MAX).expect("read")
}

/// A copy of a directory as a process that was killed leaves it. The watermark goes first: it is never ahead.
fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().expect("tempdir");
    fs::create_dir(to.path().join("log")).expect("made");
    fs::copy(from.join("watermark"), to.path().join("watermark")).expect("copied");
    for file in files(&from.join("log")) {
        let name = file.file_name().expect("name");
        fs::copy(&file, to.path().join("log").join(name)).expect("copied");
    }
    to
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(dir).expect("read").map(|entry| entry.expect("entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    files.sort();
    files
}

/// Bytes of a file up to the end of the last record: that never ends in zero.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// A directory in which vote 2 and entries 0 to 14 were acknowledged, in several files.
fn written() -> (TempDir, Vec<Entry>) {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut log = open(dir.path()).expect("opened");
    let entries: Vec<Entry> = (0..15).map(|index| entry(1 + index / 10, index)).collect();
    log.write(vec![LogOp::Vote(vote(1))], true).expect("written");
    for entry in &entries[..10] {
        log.write(vec![LogOp::Append(entry.clone())], true).expect("written");
    }
    log.write(vec![LogOp::Vote(vote(2)), LogOp::Committed(id(1, 9))], true).expect("written");
    log.write(entries[10..].iter().cloned().map(LogOp::Append).collect(), true).expect("written");
    drop(log);
    (dir, entries)
}

fn holds_everything_or_refuses(dir: &Path, entries: &[Entry], what: &str) -> bool {
    match open(dir) {
        Ok(mut log) => {
            assert_eq!(log.state().vote, Some(vote(2)), "{what}");
            assert_eq!(all(&mut log), entries, "{what}");
            true
        }
        Err(refused) => {
            assert!(refused.is_rejoin(), "{what}: {refused}");
            assert!(open(dir).expect_err("refused again").is_rejoin(), "{what}");
            false
        }
    }
}

#[test]
fn a_healthy_log_holds_everything() {
    let (dir, entries) = written();
    assert!(files(&dir.path().join("log")).len() > 2, "several files");
    assert!(holds_everything_or_refuses(copy(dir.path()).path(), &entries, "copy"));
    assert!(holds_everything_or_refuses(dir.path(), &entries, "original"));
}

#[test]
fn a_log_cut_anywhere_among_acknowledged_records_is_refused() {
    let (dir, entries) = written();
    for (number, file) in files(&dir.path().join("log")).iter().enumerate().rev() {
        let used = used(&fs::read(file).expect("read")) as u64;
        for cut in 0..used {
            let copy = copy(dir.path());
            let damaged = &files(&copy.path().join("log"))[number];
            fs::OpenOptions::new().write(true).open(damaged).expect("open").set_len(cut).expect("cut");
            let what = format!("file {number} cut at {cut}");
            assert!(!holds_everything_or_refuses(copy.path(), &entries, &what), "{what}");
        }
    }
}

#[test]
fn a_missing_file_is_refused() {
    let (dir, entries) = written();
    for number in 0..files(&dir.path().join("log")).len() {
        let copy = copy(dir.path());
        fs::remove_file(&files(&copy.path().join("log"))[number]).expect("removed");
        assert!(!holds_everything_or_refuses(copy.path(), &entries, &format!("file {number} missing")));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_harmless() {
    let (dir, entries) = written();
    for (number, file) in files(&dir.path().join("log")).iter().enumerate() {
        let whole = fs::read(file).expect("read");
        for at in 0..whole.len() {
            let copy = copy(dir.path());
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&files(&copy.path().join("log"))[number], damaged).expect("written");
            let what = format!("file {number}, byte {at}");
            let opened = holds_everything_or_refuses(copy.path(), &entries, &what);
            assert!(!opened || at >= used(&whole), "{what}");
        }
    }
    let mark = fs::read(dir.path().join("watermark")).expect("read");
    for at in (0..40).chain(4090..4140) {
        let copy = copy(dir.path());
        let mut damaged = mark.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(copy.path().join("watermark"), damaged).expect("written");
        assert!(holds_everything_or_refuses(copy.path(), &entries, &format!("watermark, byte {at}")));
    }
}

#[test]
fn a_log_without_a_readable_watermark_is_refused() {
    let (dir, entries) = written();
    let path = dir.path().join("watermark");
    fs::write(&path, [0; 8192]).expect("written");
    assert!(!holds_everything_or_refuses(dir.path(), &entries, "zeroed watermark"));
    fs::remove_file(&path).expect("removed");
    assert!(!holds_everything_or_refuses(dir.path(), &entries, "no watermark"));
}

#[test]
fn zeros_over_acknowledged_records_are_refused() {
    let (dir, entries) = written();
    let last = files(&dir.path().join("log")).len() - 1;
    let whole = fs::read(&files(&dir.path().join("log"))[last]).expect("read");
    for from in 0..whole.len() {
        let copy = copy(dir.path());
        let mut damaged = whole.clone();
        damaged[from..].fill(0);
        if damaged == whole {
            continue;
        }
        fs::write(&files(&copy.path().join("log"))[last], damaged).expect("written");
        assert!(!holds_everything_or_refuses(copy.path(), &entries, &format!("zeros from {from}")));
    }
}

/// The log grows by a record that was never synced, and the power fails while it is on its way.
#[test]
fn an_unacknowledged_tail_torn_at_any_byte_is_dropped() {
    let (dir, entries) = written();
    let last = files(&dir.path().join("log")).len() - 1;
    let before = used(&fs::read(&files(&dir.path().join("log"))[last]).expect("read"));
    let grown = copy(dir.path());
    let mut log = open(grown.path()).expect("opened");
    log.write(vec![LogOp::Append(entry(2, 15))], false).expect("written");
    drop(log);
    let after = fs::read(&files(&grown.path().join("log"))[last]).expect("read");
    assert!(used(&after) > before);
    for torn in before..used(&after) {
        let copy = copy(dir.path());
        let mut part = after.clone();
        part[torn..].fill(0);
        fs::write(&files(&copy.path().join("log"))[last], &part).expect("written");
        let mut log = open(copy.path()).expect("opened");
        assert_eq!(all(&mut log), entries, "torn at {torn}");
        // It goes on from there, and a restart finds all of it.
        log.write(vec![LogOp::Append(entry(2, 15))], true).expect("written");
        drop(log);
        assert_eq!(all(&mut open(copy.path()).expect("reopened")).len(), 16, "torn at {torn}");
    }
}

/// Many records were on their way when the power failed, and the disk has written some of their sectors.
#[test]
fn of_records_that_were_never_synced_those_before_the_first_gap_survive() {
    let sectors = 512;
    let open = |dir: &Path| DiskLog::open_in_segments(dir, dir, 16 * 1024).expect("opened");
    let large = |index: u64| Entry { id: id(1, index), body: vec![7; 300].into() };
    let dir = tempfile::tempdir().expect("tempdir");
    let mut log = open(dir.path());
    log.write(vec![LogOp::Vote(vote(1)), LogOp::Append(large(0))], true).expect("written");
    let path = files(&dir.path().join("log")).pop().expect("a file");
    let durable = used(&fs::read(&path).expect("read"));
    log.write((1..12).map(|index| LogOp::Append(large(index))).collect(), false).expect("written");
    let whole = fs::read(&path).expect("read");
    drop(log);
    let (first, last) = (durable / sectors, used(&whole).div_ceil(sectors));
    // Every choice of the first few, and of the last few.
    for choice in 0..1u32 << (last - first) {
        if choice.count_ones() > 2 && choice.count_zeros() > 34 - u32::try_from(last - first).expect("small")
        {
            continue;
        }
        let mut part = whole.clone();
        for lost in (first..last).filter(|sector| choice & (1 << (sector - first)) != 0) {
            part[durable.max(lost * sectors)..(lost + 1) * sectors].fill(0);
        }
        let copy = tempfile::tempdir().expect("tempdir");
        fs::create_dir(copy.path().join("log")).expect("made");
        let mut mark = super::watermark::Watermark::create(&copy.path().join("watermark")).expect("made");
        mark.set(durable as u64).expect("set");
        fs::write(copy.path().join("log").join(path.file_name().expect("name")), &part).expect("written");
        let found = all(&mut open(copy.path()));
        assert_eq!(found, (0..found.len() as u64).map(large).collect::<Vec<_>>(), "lost: {choice:b}");
        assert!(!found.is_empty() && (choice != 0 || found.len() == 12), "lost: {choice:b}");
        // What is left of records behind the gap does not come back behind new ones.
        let next = found.len() as u64;
        let mut log = open(copy.path());
        log.write(vec![LogOp::Append(large(next))], true).expect("written");
        drop(log);
        assert_eq!(all(&mut open(copy.path())).len() as u64, next + 1, "lost: {choice:b}");
    }
}

#[test]
fn a_file_that_was_begun_and_never_written_is_dropped() {
    let (dir, entries) = written();
    let path = files(&dir.path().join("log")).pop().expect("a file");
    let start: u64 =
        path.file_stem().and_then(|stem| stem.to_str()).expect("name").parse().expect("a number");
    let end = start + used(&fs::read(&path).expect("read")) as u64;
    fs::write(dir.path().join("log").join(super::segment::name(end)), [0; 400]).expect("written");
    fs::write(dir.path().join("log/spare"), [0; 100]).expect("written");
    assert!(holds_everything_or_refuses(dir.path(), &entries, "an empty file"));
    assert!(holds_everything_or_refuses(dir.path(), &entries, "opened again"));
}

#[test]
fn files_go_with_what_is_purged_and_entries_larger_than_a_file_have_their_own() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut log = open(dir.path()).expect("opened");
    log.write(vec![LogOp::Vote(vote(1))], true).expect("written");
    let large = Entry { id: id(1, 20), body: vec![1; 3000].into() };
    for entry in (0..20).map(|index| entry(1, index)).chain([large.clone(), entry(1, 21)]) {
        log.write(vec![LogOp::Append(entry)], true).expect("written");
    }
    let before = files(&dir.path().join("log")).len();
    log.write(vec![LogOp::Committed(id(1, 21)), LogOp::Purge(id(1, 19))], true).expect("written");
    let left = files(&dir.path().join("log"));
    assert!(left.len() < before && left.len() >= 2, "{before} files, then {left:?}");
    assert_eq!(all(&mut log), [large.clone(), entry(1, 21)]);
    drop(log);
    let mut log = open(dir.path()).expect("reopened");
    assert_eq!(all(&mut log), [large, entry(1, 21)]);
    // A snapshot of another node takes the place of all that is here.
    log.write(vec![LogOp::Purge(id(1, 50))], true).expect("written");
    assert_eq!(files(&dir.path().join("log")).len(), 1);
    log.write(vec![LogOp::Append(entry(1, 51))], true).expect("written");
    drop(log);
    let mut log = open(dir.path()).expect("reopened");
    assert_eq!((log.state().purged, all(&mut log)), (Some(id(1, 50)), vec![entry(1, 51)]));
}

#[test]
fn an_entry_that_does_not_follow_the_last_one_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut log = open(dir.path()).expect("opened");
    log.write(vec![LogOp::Vote(vote(3)), LogOp::Append(entry(2, 0))], true).expect("written");
    for wrong in [entry(2, 0), entry(2, 2), entry(1, 1)] {
        assert!(log.write(vec![LogOp::Append(wrong)], true).is_err());
    }
}

#[test]
fn zeros_behind_the_last_record_are_dropped() {
    let (dir, entries) = written();
    for zeros in [1, 3, 4, 100, 5000] {
        let copy = copy(dir.path());
        let last = files(&copy.path().join("log")).pop().expect("a file");
        let mut bytes = fs::read(&last).expect("read");
        bytes.resize(bytes.len() + zeros, 0);
        fs::write(&last, bytes).expect("written");
        assert!(holds_everything_or_refuses(copy.path(), &entries, &format!("{zeros} zeros")));
    }
}

#[test]
fn garbage_behind_the_last_record_is_refused_or_dropped() {
    let (dir, entries) = written();
    for garbage in [vec![0xff; 3], vec![0xff; 300], b"\0\0\0\x01 and so on and so on and so on".to_vec()] {
        let copy = copy(dir.path());
        let last = files(&copy.path().join("log")).pop().expect("a file");
        let mut bytes = fs::read(&last).expect("read");
        bytes.truncate(used(&bytes));
        bytes.extend(&garbage);
        fs::write(&last, bytes).expect("written");
        holds_everything_or_refuses(copy.path(), &entries, "garbage");
    }
}

#[test]
fn a_process_killed_at_any_moment_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = LogStore::start(open(dir.path()).expect("opened")).expect("started");
    let (acknowledged, acks) = mpsc::channel();
    for index in 0..60 {
        let acknowledged = acknowledged.clone();
        let done = Box::new(move |result: Result<(), StorageError>| {
            result.expect("durable");
            acknowledged.send(index).expect("sent");
        });
        log.append(vec![entry(0, index)], done).expect("queued");
        if index % 5 == 0 {
            let seen = acks.try_iter().last();
            let copy = copy(dir.path());
            let state = open(copy.path()).expect("opened").state();
            assert!(state.last.map(|id| id.index) >= seen, "{:?} but {seen:?} was acknowledged", state.last);
        }
    }
    runtime().block_on(log.close());
    assert_eq!(open(dir.path()).expect("opened").state().last, Some(id(0, 59)));
}

/// One step of a log's life; numbers are taken modulo what is possible.
#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    Truncate(u8),
    Purge(u8),
    Vote,
    Committed(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..6).prop_map(Step::Append),
        1 => any::<u8>().prop_map(Step::Truncate),
        1 => any::<u8>().prop_map(Step::Purge),
        1 => Just(Step::Vote),
        1 => any::<u8>().prop_map(Step::Committed),
    ]
}

/// Turns a step into an operation that a Raft node could ask for in this state.
fn ops(step: &Step, log: &LogState, term: &mut u64, ids: &[Entry]) -> Vec<LogOp> {
    let pick = |number: u8| ids.get(usize::from(number) % ids.len().max(1)).map(|entry| entry.id);
    match step {
        Step::Append(count) => {
            let next = log.next_index();
            (next..next + u64::from(*count)).map(|index| LogOp::Append(entry(*term, index))).collect()
        }
        Step::Truncate(number) => match pick(*number) {
            // What is given up may come back under the same ids: a later leader may have it.
            Some(id) if Some(id) >= log.committed => vec![LogOp::TruncateFrom(id.index + 1)],
            _ => vec![],
        },
        Step::Purge(number) => {
            pick(*number).filter(|id| Some(*id) <= log.committed).map_or(vec![], |id| vec![LogOp::Purge(id)])
        }
        Step::Vote => {
            *term += 1;
            vec![LogOp::Vote(vote(*term))]
        }
        Step::Committed(number) => pick(*number).map_or(vec![], |id| vec![LogOp::Committed(id)]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn a_store_reopened_after_every_operation_is_the_same(steps in proptest::collection::vec(step(), 1..25)) {
        let dir = tempfile::tempdir().expect("tempdir");
        let disk = Disk::default();
        let mut term = 0;
        for step in steps {
            let mut log = open(dir.path()).expect("opened");
            let mut model = disk.open();
            prop_assert_eq!(log.state(), model.state());
            prop_assert_eq!(all(&mut log), all(&mut model));
            let ops = ops(&step, &log.state(), &mut term, &all(&mut model));
            log.write(ops.clone(), true).expect("written");
            model.write(ops, true).expect("written");
            prop_assert_eq!(all(&mut log), all(&mut model));
        }
    }
}

#[test]
fn entries_that_come_back_under_a_third_leader_are_readable() {
    let dir = tempfile::tempdir().expect("tempdir");
    let open = || DiskLog::open_in_segments(dir.path(), dir.path(), 2000).expect("opened");
    let mut log = open();
    log.write(vec![LogOp::Vote(vote(1))], true).expect("written");
    let mut old = Vec::new();
    // The second file has just begun, and the first one ends behind what is given up below.
    while files(&dir.path().join("log")).len() < 2 {
        old.push(entry(1, old.len() as u64));
        log.write(old.last().cloned().map(LogOp::Append).into_iter().collect(), true).expect("written");
    }
    log.write(vec![LogOp::Vote(vote(2)), LogOp::TruncateFrom(5)], true).expect("written");
    log.write(vec![LogOp::Append(entry(2, 5))], true).expect("written");
    log.write(vec![LogOp::Vote(vote(3)), LogOp::TruncateFrom(5)], true).expect("written");
    log.write(old[5..8].iter().cloned().map(LogOp::Append).collect(), false).expect("written");
    assert_eq!(all(&mut log), old[..8]);
    drop(log);
    assert_eq!(all(&mut open()), old[..8]);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("runtime")
}

#[test]
fn the_first_failed_write_or_sync_ends_the_store() {
    for fault in [Fault::Write, Fault::Sync] {
        let disk = Disk::default();
        let log = LogStore::start(disk.open()).expect("started");
        runtime().block_on(async {
            log.save_vote(vote(1)).await.expect("saved");
            disk.fail_next(fault);
            let failed = log.save_vote(vote(2)).await.expect_err("failed");
            assert!(failed.to_string().contains("simulated"), "{failed}");
            // The medium would work again, but the store never touches it.
            assert!(log.save_vote(vote(3)).await.is_err());
            assert!(log.append(vec![entry(1, 0)], Box::new(|_| panic!("never"))).is_err());
            assert!(log.failure().borrow().is_some());
            assert_eq!(log.state().vote, Some(vote(1)), "only a durable vote is visible");
        });
        assert_eq!(disk.durable().vote, Some(vote(1)));
        runtime().block_on(log.close());
    }
}

#[test]
fn a_loss_of_power_takes_nothing_that_was_acknowledged() {
    for survive in 0..3 {
        let disk = Disk::default();
        let log = LogStore::start(disk.open()).expect("started");
        runtime().block_on(async {
            log.append((0..5).map(|index| entry(1, index)).collect(), Box::new(|_| {})).expect("queued");
            log.save_vote(vote(1)).await.expect("saved");
            log.save_committed(id(1, 2)).expect("queued");
            log.save_committed(id(1, 3)).expect("queued");
            assert_eq!(log.read(0, 9, usize::MAX).await.expect("read").len(), 5);
        });
        runtime().block_on(log.close());
        disk.crash(survive);
        let state = disk.open().state();
        assert_eq!((state.vote, state.last), (Some(vote(1)), Some(id(1, 4))));
        assert!(log.append(vec![entry(1, 5)], Box::new(|_| {})).is_err(), "closed");
    }
}

#[test]
fn waiting_appends_share_a_sync_and_are_acknowledged_in_order() {
    let disk = Disk::default();
    let log = LogStore::start(disk.open()).expect("started");
    let (sender, acks) = mpsc::channel();
    for index in 0..500 {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<(), StorageError>| {
            result.expect("durable");
            sender.send(index).expect("sent");
        });
        log.append(vec![entry(1, index)], done).expect("queued");
    }
    runtime().block_on(log.close());
    drop(sender);
    assert_eq!(acks.iter().collect::<Vec<_>>(), (0..500).collect::<Vec<_>>());
    assert!(disk.syncs() < 500, "{} syncs", disk.syncs());
}

#[test]
fn entries_that_left_the_cache_are_read_from_disk() {
    let dir = tempfile::tempdir().expect("tempdir");
    let log = LogStore::start(open(dir.path()).expect("opened")).expect("started");
    let entries: Vec<Entry> = (0..5000).map(|index| entry(0, index)).collect();
    log.append(entries.clone(), Box::new(|_| {})).expect("queued");
    runtime().block_on(async {
        assert_eq!(log.read(0, 5000, usize::MAX).await.expect("read"), entries);
        assert_eq!(log.read(10, 20, usize::MAX).await.expect("read"), entries[10..20]);
        assert_eq!(log.read(10, 20, 1).await.expect("read"), entries[10..11]);
        assert_eq!(log.read(4990, 9999, 1).await.expect("read"), entries[4990..4991]);
        log.purge(id(0, 99)).await.expect("purged");
        assert_eq!(log.read(0, 101, usize::MAX).await.expect("read"), entries[100..101]);
        assert_eq!(log.state().first_index(), 100);
    });
    runtime().block_on(log.close());
}

#[test]
fn appends_alone_and_in_groups_are_acknowledged_in_order_through_many_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let open = || DiskLog::open_in_segments(dir.path(), dir.path(), 16 * 1024).expect("opened");
    let log = LogStore::start(open()).expect("started");
    let (sender, acks) = mpsc::channel();
    let append = |index: u64| {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<(), StorageError>| {
            result.expect("durable");
            sender.send(index).expect("sent");
        });
        log.append(vec![entry(1, index)], done).expect("queued");
    };
    let mut next = 0;
    for round in 0..300 {
        for _ in 0..=round % 4 {
            append(next);
            next += 1;
        }
        // Every other round finds the medium at rest, the others something under way.
        if round % 2 == 0 {
            while acks.recv().expect("acknowledged") + 1 < next {}
        }
        if round % 50 == 0 {
            runtime().block_on(log.save_vote(vote(round + 1))).expect("saved");
        }
    }
    log.save_committed(id(1, next - 1)).expect("noted");
    runtime().block_on(log.close());
    assert!(log.append(vec![entry(1, next)], Box::new(|_| {})).is_err(), "closed");
    assert_eq!(acks.try_iter().last(), Some(next - 1));
    let mut log = open();
    assert!(files(&dir.path().join("log")).len() > 2, "one file is not many");
    assert_eq!(all(&mut log), (0..next).map(|index| entry(1, index)).collect::<Vec<_>>());
    assert_eq!(log.state().vote, Some(vote(251)));
    assert_eq!(log.state().committed, Some(id(1, next - 1)));
}
