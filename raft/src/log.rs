//! The log as openraft wants it, over [`LogStore`].

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
};

use futures_util::{Stream, stream};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use pangolin_storage::LogStore;

use crate::types::{
    Entry, LogId, TypeConfig, Vote, decode_entry, encode_entry, load_log_id, load_vote, store_log_id,
    store_vote,
};

/// Most bytes of entries in one message to a follower (a single larger one goes alone), and in memory while the
/// log is applied.
const READ_BYTES: usize = 1024 * 1024;

/// The log of this node; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Log(pub(crate) LogStore);

impl Log {
    async fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        self.0.read(from, to, max_bytes).await?.iter().map(decode_entry).collect()
    }
}

/// A range of indices as `from..to`.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(to) => *to,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for Log {
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (log, (from, to)) = (self.clone(), bounds(&range));
        let batches = stream::try_unfold(from, move |from| {
            let log = log.clone();
            async move {
                let batch = if from < to { log.read(from, to, READ_BYTES).await? } else { Vec::new() };
                let Some(last) = batch.last() else { return Ok::<_, io::Error>(None) };
                let next = last.log_id.index + 1;
                Ok(Some((stream::iter(batch.into_iter().map(Ok)), next)))
            }
        });
        Box::pin(futures_util::TryStreamExt::try_flatten(batches))
    }

    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.state().vote.map(load_vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.0.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(load_log_id),
            last_log_id: state.last.map(load_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        Ok(self.0.save_vote(store_vote(vote)).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        match committed {
            Some(id) => Ok(self.0.save_committed(store_log_id(&id))?),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.state().committed.map(load_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| encode_entry(&entry)).collect::<io::Result<_>>()?;
        let done =
            Box::new(move |result: Result<(), _>| callback.io_completed(result.map_err(io::Error::from)));
        Ok(self.0.append(entries, done)?)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.0.truncate_after(last_log_id.as_ref().map(store_log_id)).await?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.0.purge(store_log_id(&log_id)).await?)
    }
}
