//! The node as the API sees it: what it answers, and whom it asks.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_api::{ApiFailure, BackupPort, CertificatePort, DnsPort, KeyringPort, NewToken, NodePort};
use pangolin_core::{Cause, ClusterState, NodeId, RequestId, Slug, decide::remarks, record::Target};
use pangolin_peer::{Peers, Service};
use pangolin_raft::Cluster;
use pangolin_wire::{ApiWrite, ClusterStatus, Code, CreatedToken, JournalEvent, JournalPage, TargetState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    journal::Journal,
    reports::Reports,
    status::{closed_ports, compose, in_contact},
    targets::Targets,
    zones::Zones,
};
use crate::{backup::Backups, clock, keys::Keys, leader::Leading};

/// How long the leader may take to say how things stand.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1000);

/// The node as the API sees it.
#[derive(Clone)]
pub struct NodeAnswers {
    /// This node.
    pub node: NodeId,
    /// The cluster.
    pub cluster: Cluster,
    /// The way to the leader.
    pub peers: Peers,
    /// What is seen.
    pub reports: Reports,
    /// Seals token secrets; a witness has none.
    pub keyring: Option<Keys>,
    /// What only the leader does.
    pub leading: Arc<Leading>,
    /// What happened here.
    pub journal: Journal,
    /// Its backups.
    pub backups: Backups,
    /// Its DNS.
    pub zones: Zones,
    /// How targets stand.
    pub targets: Targets,
    /// Told when this node has left the cluster.
    pub left: watch::Sender<bool>,
    /// Told when this node is about to stop.
    pub stopping: CancellationToken,
}

impl NodeAnswers {
    /// How the cluster stands, as this node knows it.
    pub(super) fn view(&self) -> Option<ClusterStatus> {
        let (state, raft) = (self.cluster.state(), self.cluster.status());
        let mut remarks = if raft.leader == Some(self.node) {
            let voting = self.leading.voting();
            let mut remarks = remarks(&state, &voting);
            remarks.extend(self.leading.timing_advice(&state, &voting));
            remarks
        } else {
            Vec::new()
        };
        let (seen, now) = (self.reports.snapshot(), clock::steady());
        remarks.extend(closed_ports(&state, &seen, now));
        compose(&state, &raft, &seen, now, remarks)
    }

    async fn leaders_view(&self) -> Result<ClusterStatus, String> {
        let leader = self.cluster.leader().ok_or("no leader is known")?;
        if leader == self.node {
            if !in_contact(&self.cluster.status()) {
                return Err(
                    "this node led, but a majority of the voters does not answer it any more".to_owned()
                );
            }
            return self.view().ok_or_else(|| "the cluster has not been initialised".to_owned());
        }
        let answer = self
            .peers
            .request(leader, Service::Status, Bytes::new(), STATUS_TIMEOUT)
            .await
            .map_err(|error| format!("the leader, node {leader}, could not be asked: {error}"))?;
        serde_json::from_slice(&answer)
            .map_err(|error| format!("the leader's answer cannot be read: {error}"))
    }
}

impl NodePort for NodeAnswers {
    fn status(&self) -> BoxFuture<'_, Result<ClusterStatus, ApiFailure>> {
        Box::pin(async move {
            match self.leaders_view().await {
                Ok(status) => Ok(status),
                Err(reason) => self
                    .view()
                    .map(|view| ClusterStatus { partial: Some(reason.clone()), ..view })
                    .ok_or_else(|| {
                        ApiFailure::new(Code::Behind, format!("this node has no state yet: {reason}"))
                    }),
            }
        })
    }

    fn takes_writes(&self) -> bool {
        self.keyring.is_some()
    }

    fn create_token(
        &self,
        wanted: NewToken,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<CreatedToken, ApiFailure>> {
        Box::pin(self.make_token(wanted, cause, request))
    }

    fn leave(
        &self,
        node: Option<NodeId>,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(self.remove(node.unwrap_or(self.node), cause, request))
    }

    fn promote(
        &self,
        node: NodeId,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(self.promote_learner(node, cause, request))
    }

    fn disband(
        &self,
        cluster: Slug,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(self.disband_to_this(cluster, cause, request))
    }

    fn transfer_leader(
        &self,
        to: Option<NodeId>,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<NodeId, ApiFailure>> {
        Box::pin(self.hand_on(to, cause, request))
    }

    fn finish_upgrade(&self, cause: Cause) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(self.end_upgrade(cause))
    }

    fn backups(&self) -> &dyn BackupPort {
        &self.backups
    }

    fn dns(&self) -> &dyn DnsPort {
        &self.zones
    }

    fn keyring(&self) -> &dyn KeyringPort {
        self
    }

    fn certificates(&self) -> &dyn CertificatePort {
        self
    }

    fn target_state(&self, state: &ClusterState, target: &Target) -> Option<TargetState> {
        self.targets.state(state, target)
    }

    fn stopping(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.stopping.cancelled())
    }

    fn audit(&self, write: ApiWrite) {
        self.journal.note(JournalEvent::ApiWrite(write));
    }

    fn journal(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<JournalPage, ApiFailure>> {
        self.journal.read(after, limit)
    }
}
