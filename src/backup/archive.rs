//! The archive of the log: committed entries, written in segments that grow until they are large enough.

use pangolin_core::{ClusterState, Revision, Timestamp, record::RecoveryPublic};
use pangolin_raft::offline;
use pangolin_storage::backup::{self, Content, Header, Kind, Point, Segment, chain};
use tracing::warn;

use super::{BackupError, Backups, blocking, files_in};

/// A segment of so many bytes is closed and a new one begun: until then each archiving writes it anew.
const SEGMENT_BYTES: usize = 1024 * 1024;
/// Bytes of the log that are read at a time.
const READ_BYTES: usize = 256 * 1024;

/// How far the log is archived.
#[derive(Debug, Default)]
pub(super) struct Archive {
    /// Up to here without a gap since the last backup; none before there is one.
    reached: Option<Revision>,
    /// Entries were purged before they were archived: only another backup of the whole state helps.
    broken: bool,
    /// The segment that still grows.
    segment: Segment,
    /// Its first entry.
    first: u64,
    bytes: usize,
    /// When the newest backup of the whole state was made.
    pub(super) base_made_at: Option<Timestamp>,
    /// The recovery key, or none, that it is encrypted to; unknown where an earlier run made it.
    pub(super) base_key: Option<Option<RecoveryPublic>>,
}

impl Archive {
    /// Whether it is known how far the archive goes.
    pub(super) fn is_open(&self) -> bool {
        self.reached.is_some() || self.broken
    }

    /// The first entry that is not archived; none where the archive has not begun.
    pub(super) fn next_index(&self) -> Option<u64> {
        self.reached.map(|revision| revision.index + 1)
    }

    fn begin_segment(&mut self) {
        (self.segment, self.first, self.bytes) = (Segment::default(), self.next_index().unwrap_or(0), 0);
    }

    /// A backup of the whole state was made. Where the archive has a gap it begins anew behind it.
    pub(super) fn base(&mut self, header: &Header, key: Option<RecoveryPublic>, whole: bool) {
        (self.base_made_at, self.base_key) = (Some(header.made_at), Some(key));
        if !whole || self.reached.is_none() {
            (self.reached, self.broken) = (Some(header.revision), false);
            self.begin_segment();
        }
    }
}

impl Backups {
    /// Finds out how far an earlier run of this node has archived.
    pub(super) async fn resume(&self, archive: &mut Archive) -> Result<(), BackupError> {
        let inner = self.inner.clone();
        let state = self.inner.cluster.state();
        let (cluster, lineage) = (state.cluster().map(|cluster| cluster.id), state.revision().lineage);
        let files = blocking(move || files_in(&inner.place, cluster)).await?;
        let headers: Vec<Header> =
            files.into_iter().map(|file| file.1).filter(|h| h.revision.lineage == lineage).collect();
        if let Ok(found) = chain(&headers, Point::Latest) {
            let last = found.segments.last().copied().unwrap_or(found.base);
            archive.reached = Some(headers[last].revision);
            archive.base_made_at = Some(headers[found.base].made_at);
            archive.begin_segment();
        }
        Ok(())
    }

    /// Archives what has been applied since the last time. False where the archive has a gap, or has not begun: a
    /// backup of the whole state is needed first.
    pub(super) async fn archive_now(&self) -> Result<bool, BackupError> {
        let mut archive = self.inner.archive.lock().await;
        self.archive_up_to(&self.inner.cluster.state(), &mut archive).await
    }

    /// The same up to this state, so that the archive leads to a backup of it at once.
    pub(super) async fn archive_up_to(
        &self,
        state: &ClusterState,
        archive: &mut Archive,
    ) -> Result<bool, BackupError> {
        let Some(mut reached) = archive.reached else { return Ok(false) };
        let goal = state.revision();
        if goal.lineage != reached.lineage {
            *archive = Archive::default();
            return Ok(false);
        }
        let (mut time, mut grown) = (Timestamp::default(), false);
        while reached.index < goal.index {
            let Some(entries) = self.inner.cluster.applied_entries(reached.index + 1, READ_BYTES).await?
            else {
                warn!(
                    from = reached.index + 1,
                    "the log was purged before it was archived: until the next backup a restore goes to revision \
                     {reached} or to that backup, not between"
                );
                let base_made_at = archive.base_made_at;
                *archive = Archive { base_made_at, broken: true, ..Archive::default() };
                return Ok(false);
            };
            let entries: Vec<_> =
                entries.into_iter().take_while(|entry| entry.id.index <= goal.index).collect();
            for entry in &entries {
                archive.segment.push(entry);
                archive.bytes += entry.body.len();
                reached.index = entry.id.index;
                grown = true;
            }
            if let Some(at) = last_time(&entries)? {
                time = time.max(at);
            }
            if archive.bytes >= SEGMENT_BYTES {
                self.write_segment(archive, reached, time).await?;
                archive.begin_segment();
                grown = false;
            }
        }
        if grown {
            self.write_segment(archive, goal, state.time()).await?;
        }
        Ok(true)
    }

    async fn write_segment(
        &self,
        archive: &mut Archive,
        revision: Revision,
        time: Timestamp,
    ) -> Result<(), BackupError> {
        let (inner, state) = (self.inner.clone(), self.inner.cluster.state());
        let (segment, first) = (std::mem::take(&mut archive.segment), archive.first);
        let (written, segment) = blocking(move || {
            let write = || -> Result<(), BackupError> {
                let header = Header { revision, time, ..inner.header(&state, Kind::Log { first })? };
                let recovery = inner.recovery_key(&state);
                let bytes =
                    backup::seal(&header, Content::Log(&segment), &*inner.keyring()?, recovery.as_ref())?;
                inner.write(&header, &bytes)
            };
            Ok((write(), segment))
        })
        .await?;
        archive.segment = segment;
        match written {
            Ok(()) => {
                archive.reached = Some(revision);
                Ok(())
            }
            Err(error) => {
                // The entries are still in the log: the next time begins where the last segment ends.
                archive.begin_segment();
                Err(error)
            }
        }
    }
}

/// The time of the last entry that carries one. It never lies behind the time that the log has reached there.
fn last_time(entries: &[pangolin_storage::Entry]) -> Result<Option<Timestamp>, BackupError> {
    for entry in entries.iter().rev() {
        if let Some(at) = offline::time_of(entry)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}
