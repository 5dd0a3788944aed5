//! The node's journal: what happened on and around this node, when and why, for the operator who comes later.
//!
//! Nothing else has to know of it: its task compares states and this node's own reports with the ones before
//! ([`changes`]). Only what leaves no trace in either is said to it, through [`Journal::note`], which never waits. A
//! journal that is slow or broken costs entries, which it counts, and nothing else.

pub mod changes;

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use pangolin_api::ApiFailure;
use pangolin_core::{ClusterState, NodeId, Report, Timestamp, codec};
use pangolin_storage::{Journal as Store, JournalRecord, RECORD_MAX, Retention};
use pangolin_wire::{Code, JournalEntry, JournalEvent, JournalLine, JournalPage};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::reports::Reports;
use crate::clock;

/// What is kept: some months of an ordinary cluster, about 20 MiB at most.
const RETENTION: Retention = Retention { records: 100_000, age: Duration::from_secs(90 * 24 * 3600) };
/// Entries that wait to be written. A burst of writes over the API stays far below.
const QUEUE_MAX: usize = 4096;
/// Entries written at a time.
const BATCH_MAX: usize = 256;
/// Newest entries that are looked at to find out what is in the journal already.
const LOOK_BACK: usize = 1000;
/// When nothing more comes for so long after the node was told to end, nothing more will.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// The end does not wait longer than this for last words.
const LAST_WORDS_MAX: Duration = Duration::from_secs(2);

/// The journal, for those who say something to it or read it. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    queue: mpsc::Sender<JournalEntry>,
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    /// Entries that could not be kept since this was last written down.
    lost: AtomicU64,
    /// Empty until it is open; the error is why it cannot be.
    store: OnceLock<Result<Store, String>>,
}

/// Writes the journal.
pub struct JournalTask {
    dir: PathBuf,
    journal: Journal,
    queue: mpsc::Receiver<JournalEntry>,
    states: watch::Receiver<Arc<ClusterState>>,
    reports: Reports,
    /// The state at the start: what is in it is no news.
    before: Arc<ClusterState>,
}

impl Journal {
    /// The journal in a state directory, and the task that writes it. Nothing is opened before the task runs.
    #[must_use]
    pub fn new(
        state_dir: &Path,
        node: NodeId,
        states: watch::Receiver<Arc<ClusterState>>,
        reports: Reports,
    ) -> (Self, JournalTask) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let shared = Shared { node, lost: AtomicU64::new(0), store: OnceLock::new() };
        let journal = Self { queue: sender, shared: Arc::new(shared) };
        let before = states.borrow().clone();
        let task = JournalTask {
            dir: state_dir.to_owned(),
            journal: journal.clone(),
            queue,
            states,
            reports,
            before,
        };
        (journal, task)
    }

    /// Takes note of something that happened now. Never waits: if the journal cannot keep up, this is lost, and
    /// counted.
    pub fn note(&self, event: JournalEvent) {
        let entry = JournalEntry { at: clock::now(), revision: None, event };
        // Closed: the journal cannot be used, which has been said.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(entry)
            && self.shared.lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            warn!("the journal cannot keep up: entries are lost; is the disk of the state directory slow?");
        }
    }

    /// At most `limit` entries behind `after`, or the newest ones.
    pub fn read(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'static, Result<JournalPage, ApiFailure>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(move || {
                let store = match shared.store.get() {
                    None => {
                        return Err(ApiFailure::new(Code::Behind, "the journal is being opened"));
                    }
                    Some(Err(reason)) => return Err(ApiFailure::internal(reason.as_str())),
                    Some(Ok(store)) => store,
                };
                let records = match after {
                    Some(after) => store.range(Some(after), limit),
                    None => store.newest(limit),
                };
                let records = records.map_err(|error| ApiFailure::internal(error.to_string()))?;
                Ok(JournalPage { node_id: shared.node, entries: records.iter().map(line).collect() })
            });
            read.await.map_err(|error| ApiFailure::internal(error.to_string()))?
        })
    }
}

fn entry(record: &JournalRecord) -> Result<JournalEntry, codec::CodecError> {
    codec::decode(&record.body, RECORD_MAX)
}

fn line(record: &JournalRecord) -> JournalLine {
    match entry(record) {
        Ok(entry) => JournalLine::new(record.serial, &entry),
        Err(error) => JournalLine::unreadable(record.serial, Timestamp(record.at), &error.to_string()),
    }
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = line(&JournalRecord { serial: 1, at: 0, body: bytes.to_vec() });
}

impl JournalTask {
    /// Writes until told to end, and then what was said until then.
    ///
    /// # Errors
    /// None: a node does not end for its journal.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Infallible> {
        let Self { dir, journal, queue, states, reports, before } = self;
        let opening = tokio::task::spawn_blocking(move || open(&dir)).await;
        let opened = opening.unwrap_or_else(|error| Err(error.to_string()));
        let known_until = match opened {
            Ok((store, known_until)) => {
                let _ = journal.shared.store.set(Ok(store));
                known_until
            }
            Err(reason) => {
                warn!(reason, "this node runs without a journal");
                let _ = journal.shared.store.set(Err(reason));
                drop(queue);
                shutdown.cancelled().await;
                return Ok(());
            }
        };
        let watcher = Watcher { journal: journal.clone(), states, reports, before, known_until };
        tokio::join!(watcher.watch(&shutdown), Writer { journal, queue, failing: false }.write(&shutdown));
        Ok(())
    }
}

/// Opens the journal, writes down that the node has started, and says up to when the cluster's changes are in it.
fn open(dir: &Path) -> Result<(Store, Timestamp), String> {
    let store = Store::open(dir, RETENTION).map_err(|error| error.to_string())?;
    let records = store.newest(LOOK_BACK).map_err(|error| error.to_string())?;
    let entries: Vec<JournalEntry> = records.iter().filter_map(|record| entry(record).ok()).collect();
    let known_until = entries.iter().filter(|entry| entry.revision.is_some()).map(|entry| entry.at).max();
    let unclean = !records.is_empty() && !ended_in_order(&entries);
    let event = JournalEvent::NodeStarted { version: crate::VERSION.to_owned(), unclean };
    let started = JournalEntry { at: clock::now(), revision: None, event };
    append(&store, &started)?;
    Ok((store, known_until.unwrap_or_default()))
}

/// Whether the last run said that it stops. What it finished after that may stand behind it.
fn ended_in_order(entries: &[JournalEntry]) -> bool {
    let of_runs = entries.iter().rev().find_map(|entry| match entry.event {
        JournalEvent::NodeStopped { .. } => Some(true),
        JournalEvent::NodeStarted { .. } => Some(false),
        _ => None,
    });
    of_runs.unwrap_or(false)
}

fn append(store: &Store, entry: &JournalEntry) -> Result<(), String> {
    let bytes = codec::encode(entry).map_err(|error| error.to_string())?;
    store.append(&bytes).map(|_| ()).map_err(|error| error.to_string())
}

/// All of them in one go, which costs a fraction of one after the other: a burst of writes over the API makes as many
/// entries.
fn append_all(store: &Store, entries: &[JournalEntry]) -> Result<(), String> {
    let encoded = entries.iter().map(codec::encode).collect::<Result<Vec<_>, _>>();
    store
        .append_all(&encoded.map_err(|error| error.to_string())?)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// How many entries are lost with this one.
fn weight(entry: &JournalEntry) -> u64 {
    match entry.event {
        JournalEvent::EntriesLost { count } => count,
        _ => 1,
    }
}

/// Finds out what has happened.
struct Watcher {
    journal: Journal,
    states: watch::Receiver<Arc<ClusterState>>,
    reports: Reports,
    before: Arc<ClusterState>,
    /// Changes of the state up to this time are in the journal: a node that starts sees some of them again.
    known_until: Timestamp,
}

impl Watcher {
    async fn watch(mut self, shutdown: &CancellationToken) {
        let mut reported = self.reports.changes();
        let mut seen = Report::default();
        loop {
            let state = self.states.borrow_and_update().clone();
            let mut entries = self.of_state(&state);
            let news = |report: &Report| {
                let same = report.peers == seen.peers
                    && report.tunnels == seen.tunnels
                    && report.sockets == seen.sockets;
                (!same).then(|| report.clone())
            };
            if let Some(report) = self.reports.look_at(self.journal.shared.node, news).flatten() {
                let sights = changes::sights_between(&seen, &report, &state);
                entries.extend(sights.into_iter().map(|(at, event)| JournalEntry {
                    at,
                    revision: None,
                    event,
                }));
                seen = report;
            }
            for entry in entries {
                // Waiting here holds up nobody: what changes meanwhile is seen afterwards.
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    sent = self.journal.queue.send(entry) => if sent.is_err() { return },
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.states.changed() => if changed.is_err() { return },
                changed = reported.changed() => if changed.is_err() { return },
            }
        }
    }

    fn of_state(&mut self, state: &Arc<ClusterState>) -> Vec<JournalEntry> {
        let before = std::mem::replace(&mut self.before, state.clone());
        let revision = Some(state.revision());
        changes::events_between(&before, state)
            .into_iter()
            .filter(|(at, _)| *at > self.known_until)
            .map(|(at, event)| JournalEntry { at, revision, event })
            .collect()
    }
}

/// Writes it down.
struct Writer {
    journal: Journal,
    queue: mpsc::Receiver<JournalEntry>,
    failing: bool,
}

impl Writer {
    async fn write(mut self, shutdown: &CancellationToken) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = self.queue.recv_many(&mut batch, BATCH_MAX) => self.append(&mut batch).await,
            }
        }
        let last_words = async {
            while let Ok(1..) = timeout(LAST_WORDS, self.queue.recv_many(&mut batch, BATCH_MAX)).await {
                self.append(&mut batch).await;
            }
        };
        let _ = timeout(LAST_WORDS_MAX, last_words).await;
        let shared = self.journal.shared.clone();
        let flush = move || match shared.store.get() {
            Some(Ok(store)) => store.flush(),
            _ => Ok(()),
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(flush).await {
            warn!(%error, "the end of the journal may be missing");
        }
    }

    async fn append(&mut self, batch: &mut Vec<JournalEntry>) {
        let shared = self.journal.shared.clone();
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let event = JournalEvent::EntriesLost { count: lost };
            batch.insert(0, JournalEntry { at: clock::now(), revision: None, event });
        }
        let entries = std::mem::take(batch);
        let count = entries.len() as u64;
        let writing = tokio::task::spawn_blocking(move || {
            let Some(Ok(store)) = shared.store.get() else { return (0, None) };
            match append_all(store, &entries) {
                Ok(()) => (0, None),
                Err(reason) => (entries.iter().map(weight).sum(), Some(reason)),
            }
        });
        let (failed, reason) = writing.await.unwrap_or_else(|error| (count + lost, Some(error.to_string())));
        self.journal.shared.lost.fetch_add(failed, Ordering::Relaxed);
        match reason {
            Some(reason) if !self.failing => warn!(reason, "the journal cannot be written; entries are lost"),
            None if self.failing => info!("the journal is written again"),
            _ => {}
        }
        self.failing = failed > 0;
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::{Body, Timestamp, observation::Seen};

    use super::{changes::tests::*, *};

    /// A journal whose task runs until it is ended.
    struct Running {
        journal: Journal,
        states: watch::Sender<Arc<ClusterState>>,
        reports: Reports,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<Result<(), Infallible>>,
    }

    impl Running {
        fn start(dir: &Path, state: &Life) -> Self {
            let (states, watched) = watch::channel(Arc::new(state.0.clone()));
            let reports = Reports::default();
            let (journal, task) = Journal::new(dir, NodeId(1), watched, reports.clone());
            let shutdown = CancellationToken::new();
            let task = tokio::spawn(task.run(shutdown.clone()));
            Self { journal, states, reports, shutdown, task }
        }

        /// Waits until there are `count` entries.
        async fn entries(&self, count: usize) -> Vec<String> {
            let reads = async {
                loop {
                    if let Ok(page) = self.journal.read(None, 1000).await
                        && page.entries.len() >= count
                    {
                        return page.entries.into_iter().map(|line| line.what).collect::<Vec<_>>();
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(10), reads).await.expect("that many entries")
        }

        async fn end(self) {
            self.journal.note(JournalEvent::NodeStopped { reason: "told to stop".to_owned() });
            self.shutdown.cancel();
            self.task.await.expect("no panic").expect("no error");
        }
    }

    fn leads(term: u64) -> Body {
        Body::LeaderStarted { term, node: NodeId(1) }
    }

    #[tokio::test]
    async fn what_happens_is_written_once_also_across_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let begun = Life::default().goes_on([created()]);
        let later = begun.clone().goes_on([leads(1)]);
        let running = Running::start(dir.path(), &begun);
        running.entries(1).await;
        running.states.send_replace(Arc::new(later.0.clone()));
        running.entries(2).await;
        let peers = [(NodeId(3), Seen { alive: true, since: Timestamp(1) })].into();
        running.reports.insert(NodeId(1), Report { peers, ..Report::default() });
        running.entries(3).await;
        running.end().await;

        // It starts with a state that lacks what it has seen already.
        let running = Running::start(dir.path(), &begun);
        running.states.send_replace(Arc::new(later.0.clone()));
        running.states.send_replace(Arc::new(later.goes_on([leads(2)]).0));
        let started = format!("this node started, version {}", crate::VERSION);
        assert_eq!(
            running.entries(6).await,
            [
                &started,
                "node n1 (id 1) leads in term 1",
                "node 3 answers this node",
                "this node stops",
                &started,
                "node n1 (id 1) leads in term 2",
            ]
        );
        let page = running.journal.read(Some(2), 2).await.expect("read");
        let serials: Vec<u64> = page.entries.iter().map(|line| line.serial).collect();
        assert_eq!(serials, [3, 4]);
        assert_eq!(page.entries[1].why, None, "the run before ended in order");
        // Dropped without a last word.
        running.task.abort();
        let _ = running.task.await;
        drop(running.journal);
    }

    #[test]
    fn a_run_has_ended_in_order_if_it_said_so_last_of_all_runs() {
        let started = || JournalEvent::NodeStarted { version: "1".to_owned(), unclean: false };
        let stopped = || JournalEvent::NodeStopped { reason: "told to stop".to_owned() };
        let other = || JournalEvent::EntriesLost { count: 1 };
        for (events, expected) in [
            (vec![], false),
            (vec![other()], false),
            (vec![started(), other()], false),
            (vec![started(), other(), stopped()], true),
            (vec![started(), stopped(), other()], true),
            (vec![stopped(), started()], false),
        ] {
            let entry = |event| JournalEntry { at: Timestamp(1), revision: None, event };
            let entries: Vec<JournalEntry> = events.into_iter().map(entry).collect();
            assert_eq!(ended_in_order(&entries), expected, "{entries:?}");
        }
    }

    #[tokio::test]
    async fn a_start_after_a_run_without_a_last_word_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path(), RETENTION).expect("a journal");
        let event = JournalEvent::EntriesLost { count: 1 };
        append(&store, &JournalEntry { at: clock::now(), revision: None, event }).expect("appended");
        store.append(b"of another version").expect("appended");
        store.append(&codec::encode(&7u8).expect("encoded")).expect("appended");
        let event = JournalEvent::EntriesLost { count: 2 };
        append(&store, &JournalEntry { at: clock::now(), revision: None, event }).expect("appended");
        store.flush().expect("flushed");
        drop(store);
        let running = Running::start(dir.path(), &Life::default());
        running.entries(5).await;
        let page = running.journal.read(None, 5).await.expect("read");
        assert!(page.entries[4].why.as_ref().is_some_and(|why| why.contains("no last word")));
        assert_eq!(page.entries[1].what, "an entry that this version cannot read");
        running.end().await;
    }

    #[tokio::test]
    async fn what_is_too_much_is_counted_and_nobody_waits() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_states, watched) = watch::channel(Arc::default());
        let (journal, task) = Journal::new(dir.path(), NodeId(1), watched, Reports::default());
        for _ in 0..QUEUE_MAX + 7 {
            journal.note(JournalEvent::NodeStopped { reason: String::new() });
        }
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        task.run(shutdown).await.expect("no error");
        let page = journal.read(None, 10_000).await.expect("read");
        assert_eq!(page.entries.len(), QUEUE_MAX + 2);
        assert_eq!(page.entries[1].what, "7 entries are missing here");
    }

    #[tokio::test]
    async fn a_journal_that_cannot_be_opened_stops_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("journal"), "in its place").expect("a file");
        let running = Running::start(dir.path(), &Life::default());
        let refused = async {
            loop {
                match running.journal.read(None, 1).await {
                    Err(failure) if failure.code == Code::Internal => return failure,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let failure = timeout(Duration::from_secs(10), refused).await.expect("refused");
        assert!(failure.message.contains("journal"), "{failure}");
        assert!(!running.task.is_finished());
        for _ in 0..2 * QUEUE_MAX {
            running.journal.note(JournalEvent::EntriesLost { count: 1 });
        }
        running.end().await;
    }
}
