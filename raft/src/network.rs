//! openraft's network over [`Peers`]: the sending side.

use std::{future::Future, io, sync::Arc, time::Duration};

use futures_util::Stream;
use openraft::{
    EmptyNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    alias::SnapshotOf,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, stream_append_sequential},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use pangolin_core::id::NodeId;
use pangolin_peer::{PeerError, Service};

use crate::{
    config::{ENTRIES_PER_MESSAGE, Timing, append_patience},
    hold::{Bare, hold},
    machine::SnapshotData,
    messages::{Answer, Ask, decode, encode},
    nearest::Nearest,
    snapshot_stream,
    transport::Transport,
    types::{TypeConfig, Vote},
};

/// The smallest batch of entries that messages are cut down to.
const BATCH_MIN: usize = 8;
/// How long a commit waits for entries to go with: what a client that writes one change after the other needs to send the
/// next one. Followers learn of the last commit so much later.
const COMMIT_HOLD: Duration = Duration::from_millis(1);

/// Makes a client for each other member.
pub(crate) struct Network {
    pub(crate) node: NodeId,
    pub(crate) peers: Arc<dyn Transport>,
    pub(crate) timing: Timing,
    pub(crate) nearest: Nearest,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Client {
        let (node, target, peers) = (self.node, NodeId(target), self.peers.clone());
        let nearest = self.nearest.clone();
        Client { node, target, peers, timing: self.timing, nearest, batch: ENTRIES_PER_MESSAGE }
    }
}

/// Speaks to one other member.
pub(crate) struct Client {
    node: NodeId,
    target: NodeId,
    peers: Arc<dyn Transport>,
    timing: Timing,
    nearest: Nearest,
    /// Most entries of the next message.
    batch: usize,
}

/// Most entries of the next message, after one with `sent` entries has arrived or not. What takes a node that has no
/// processor so long that it is given up meanwhile would never arrive otherwise.
fn next_batch(batch: usize, sent: usize, arrived: bool) -> usize {
    match (arrived, sent) {
        (true, _) => (batch * 2).min(ENTRIES_PER_MESSAGE),
        (false, 0) => batch,
        (false, _) => (sent.min(batch) / 2).max(BATCH_MIN),
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl Client {
    async fn ask(&self, ask: Ask, action: RPCTypes, timeout: Duration) -> Rpc<Answer> {
        let bytes = encode(&ask).map_err(|error| failed(&error))?;
        match self.peers.request(self.target, Service::Raft, bytes, timeout).await {
            Ok(answer) => decode(&answer).map_err(|error| failed(&error)),
            Err(PeerError::Timeout { .. }) => {
                Err(RPCError::Timeout(Timeout { action, id: self.node.0, target: self.target.0, timeout }))
            }
            Err(error) if error.not_delivered() => Err(RPCError::Unreachable(Unreachable::new(&error))),
            Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }

    fn mismatch(&self) -> RPCError<TypeConfig> {
        failed(&format!("node {} answered another question", self.target))
    }
}

fn failed(error: &str) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&io::Error::other(error.to_owned())))
}

impl Bare for AppendEntriesRequest<TypeConfig> {
    fn is_bare(&self) -> bool {
        self.entries.is_empty()
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let first = rpc.prev_log_id.is_none();
        let cut = rpc.entries.len() > self.batch;
        rpc.entries.truncate(self.batch);
        let (sent, last) = (rpc.entries.len(), rpc.entries.last().map(|entry| entry.log_id));
        let patience = append_patience(&self.timing, sent);
        let answer = self.ask(Ask::Append(rpc), RPCTypes::AppendEntries, patience).await;
        self.batch = next_batch(self.batch, sent, answer.is_ok());
        match answer? {
            // The rest follows in a message of its own.
            Answer::Append(AppendEntriesResponse::Success) if cut => {
                Ok(AppendEntriesResponse::PartialSuccess(last))
            }
            // Nothing comes before the first entry, so nothing can conflict; openraft would not survive it.
            Answer::Append(AppendEntriesResponse::Conflict) if first => Err(self.mismatch()),
            Answer::Append(answer) => Ok(answer),
            _ => Err(self.mismatch()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let delay = self.nearest.delay(self.target);
        stream_append_sequential(self, hold(input, COMMIT_HOLD, delay), option)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        match self.ask(Ask::Vote(rpc), RPCTypes::Vote, option.soft_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(self.mismatch()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        match self.ask(Ask::PreVote(rpc), RPCTypes::Vote, option.soft_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(self.mismatch()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = snapshot_stream::send(&*self.peers, self.target, vote, &snapshot.meta, &snapshot.snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => match sent {
                Ok(vote) => Ok(SnapshotResponse { vote }),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        match self.ask(Ask::Transfer(rpc), RPCTypes::TransferLeader, self.timing.election_min).await? {
            Answer::Transfer(answer) => Ok(answer),
            _ => Err(self.mismatch()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_arrive_is_sent_in_smaller_pieces_and_what_does_in_larger_ones() {
        let most = ENTRIES_PER_MESSAGE;
        assert_eq!(next_batch(most, most, true), most);
        assert_eq!(next_batch(most, most, false), most / 2);
        assert_eq!(next_batch(most, 100, false), 50, "what counts is what was sent");
        assert_eq!(next_batch(most, 0, false), most, "a heartbeat says nothing of entries");
        assert_eq!(next_batch(BATCH_MIN, 1, false), BATCH_MIN);
        assert_eq!(next_batch(BATCH_MIN, BATCH_MIN, true), 2 * BATCH_MIN);
    }
}
