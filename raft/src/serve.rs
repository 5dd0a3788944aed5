//! Answers what other nodes ask.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use openraft::{ReadPolicy, alias::SnapshotOf, async_runtime::watch::WatchReceiver as _};
use pangolin_core::{id::NodeId, state::ClusterState};
use pangolin_peer::Service;
use pangolin_storage::SnapshotStore;
use tokio::time::timeout;

use crate::{
    cluster::Inner,
    machine::SnapshotData,
    messages::{Answer, Ask, SnapshotAnswer, check, check_sender, decode, encode},
    snapshot_stream,
    transport::Duplex,
    types::{TypeConfig, decode_meta},
};

/// How long a leader tries to confirm that it leads.
pub(crate) const CONFIRM: Duration = Duration::from_secs(2);

/// Answers for one service. The cluster may end before the network does: it is asked anew each time.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(crate) service: Service,
    pub(crate) inner: Weak<Inner>,
}

impl Endpoint {
    /// Answers a request of `from`, whose identity is proven.
    ///
    /// # Errors
    /// The request is refused: `from` is to be told so.
    pub async fn answer(&self, from: NodeId, body: Bytes) -> Result<Bytes, String> {
        let inner = self.inner.upgrade().ok_or("Raft has ended here")?;
        match self.service {
            Service::Propose => encode(&inner.forwarded(decode(&body)?).await),
            Service::Raft => encode(&inner.answer(from, decode(&body)?).await?),
            _ => Err("not asked here".into()),
        }
    }

    /// Takes a stream of `from`, whose identity is proven.
    pub async fn take(&self, from: NodeId, stream: &mut dyn Duplex) {
        let Some(inner) = self.inner.upgrade() else { return };
        if self.service != Service::Snapshot {
            return;
        }
        if let Err(error) = inner.take_snapshot(from, stream).await {
            tracing::warn!(%from, %error, "a snapshot was not received");
        }
    }
}

impl Inner {
    async fn answer(self: &Arc<Self>, from: NodeId, ask: Ask) -> Result<Answer, String> {
        check(&ask, from)?;
        let raft = &self.raft;
        Ok(match ask {
            Ask::Append(ask) => {
                let answer = raft.append_entries(ask).await.map_err(|error| error.to_string())?;
                if answer.is_success() {
                    self.note_leader();
                }
                Answer::Append(answer)
            }
            Ask::Vote(ask) => Answer::Vote(raft.vote(ask).await.map_err(|error| error.to_string())?),
            Ask::PreVote(ask) => Answer::Vote(raft.pre_vote(ask).await.map_err(|error| error.to_string())?),
            Ask::Transfer(ask) => {
                Answer::Transfer(raft.handle_transfer_leader(ask).await.map_err(|error| error.to_string())?)
            }
            Ask::ReadIndex => Answer::ReadIndex(self.read_index().await?),
        })
    }

    /// How far the log is committed, as the leader, by the word of a majority that was asked after this call.
    pub(crate) async fn read_index(self: &Arc<Self>) -> Result<u64, String> {
        let inner = Arc::downgrade(self);
        let confirm = move || {
            let inner = inner.upgrade();
            async move { inner.ok_or("the node is stopping")?.confirm().await }
        };
        self.confirming.ask(confirm).await
    }

    async fn confirm(&self) -> Result<u64, String> {
        #[cfg(planted)]
        if pangolin_core::planted::is(pangolin_core::planted::Bug::LeaseWithoutBound)
            && self.leader() == Some(self.node)
        {
            return Ok(self.raft.metrics().borrow_watched().last_applied.map_or(0, |applied| applied.index));
        }
        let confirmed = timeout(CONFIRM, self.raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
        match confirmed {
            Ok(Ok((read, _))) => Ok(read.index()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no majority answered in time".into()),
        }
    }

    async fn take_snapshot(&self, from: NodeId, mut stream: &mut dyn Duplex) -> io::Result<()> {
        // One at a time: each may be large.
        let Ok(_one) = self.receiving.try_lock() else {
            let busy = Err("a snapshot is being received already".to_owned());
            return snapshot_stream::answer(&mut stream, &busy).await;
        };
        let (header, data) = snapshot_stream::receive(&mut stream).await?;
        let answer = self.install(from, header.vote, &header.meta, data).await;
        snapshot_stream::answer(&mut stream, &answer).await
    }

    async fn install(
        &self,
        from: NodeId,
        vote: crate::types::Vote,
        meta: &[u8],
        data: SnapshotData,
    ) -> SnapshotAnswer {
        check_sender(&vote, from)?;
        let meta = decode_meta(meta).map_err(|error| error.to_string())?;
        // openraft takes for granted that a leader has no entry of a later leadership.
        if meta.last_log_id.is_some_and(|last| last.leader_id.term > vote.leader_id.term) {
            return Err("the snapshot is newer than its sender's leadership".into());
        }
        // Nor does it survive a snapshot that contradicts what is committed here.
        let committed = self.raft.data_metrics().borrow_watched().local_committed;
        if meta.last_log_id > committed && meta.last_log_id.map(|id| id.index) <= committed.map(|id| id.index)
        {
            return Err("the snapshot contradicts what is committed here".into());
        }
        // A large one takes a while: whatever else this node has to answer goes on.
        let whole = data.clone();
        let check = move |_: &SnapshotStore| {
            let decoded = ClusterState::decode(&whole).map_err(io::Error::other);
            decoded.map(drop)
        };
        self.snapshots.run(check).await.map_err(|error| error.to_string())?;
        let snapshot = SnapshotOf::<TypeConfig, SnapshotData> { meta, snapshot: data };
        let answer =
            self.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?;
        self.note_leader();
        Ok(answer.vote)
    }
}
