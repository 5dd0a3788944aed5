//! openraft's network over [`Peers`]: the sending side.

use std::{future::Future, io, sync::Arc, time::Duration};

use openraft::{
    EmptyNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    alias::SnapshotOf,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use pangolin_core::id::NodeId;
use pangolin_peer::{PeerError, Service};

use crate::{
    config::Timing,
    machine::SnapshotData,
    messages::{Answer, Ask, decode, encode},
    snapshot_stream,
    transport::Transport,
    types::{TypeConfig, Vote},
};

/// Makes a client for each other member.
pub(crate) struct Network {
    pub(crate) node: NodeId,
    pub(crate) peers: Arc<dyn Transport>,
    pub(crate) timing: Timing,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Client {
        Client { node: self.node, target: NodeId(target), peers: self.peers.clone(), timing: self.timing }
    }
}

/// Speaks to one other member.
pub(crate) struct Client {
    node: NodeId,
    target: NodeId,
    peers: Arc<dyn Transport>,
    timing: Timing,
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

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let first = rpc.prev_log_id.is_none();
        // openraft proposes a fraction of the heartbeat interval, which a busy disk exceeds; an answer that is
        // late but arrives still counts for the leader's lease.
        let answer = self.ask(Ask::Append(rpc), RPCTypes::AppendEntries, self.timing.election_min).await?;
        match answer {
            // Nothing comes before the first entry, so nothing can conflict; openraft would not survive it.
            Answer::Append(AppendEntriesResponse::Conflict) if first => Err(self.mismatch()),
            Answer::Append(answer) => Ok(answer),
            _ => Err(self.mismatch()),
        }
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
