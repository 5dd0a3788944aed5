//! What the node answers about the cluster, and the cluster verbs: the leader is asked, whichever node one comes to.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_api::{ApiFailure, BackupPort, NodePort};
use pangolin_core::{
    Body, Cause, ClusterState, Fence, NodeId, Object, Observations, Refusal, RequestId, Timestamp, TokenId,
    command::UpgradeChange,
    decide::common_level,
    plan::plan,
    record::{JoinToken, NodeRole, Upgrade},
};
use pangolin_peer::{Handler, Peers, Service, identity::Keyring, join::JoinTokenText};
use pangolin_raft::{Cluster, Proposal, RaftStatus};
use pangolin_wire::{
    ApiWrite, ClusterStatus, Code, CreatedToken, JournalEvent, JournalPage, LeaderStatus, Moment, NodeStatus,
    QuorumStatus, RaftPart, SiteStatus, UpgradeNodeStatus, UpgradeStatus,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{journal::Journal, reports::Reports};
use crate::{backup::Backups, clock, leader::Leading, membership::Invitation, seal};

/// How long the leader may take to say how things stand.
const STATUS_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long a change of the membership may take.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that has not heard from the leader for this long has no contact: longer than an election takes with the
/// slower timing.
const CONTACT_LOST: Duration = Duration::from_secs(3);
/// Pause before the (new) leader is asked again.
const RETRY: Duration = Duration::from_millis(100);

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
    /// Seals token secrets.
    pub keyring: Arc<Keyring>,
    /// What only the leader does.
    pub leading: Arc<Leading>,
    /// What happened here.
    pub journal: Journal,
    /// Its backups.
    pub backups: Backups,
    /// Told when this node has left the cluster.
    pub left: watch::Sender<bool>,
}

/// What a node asks the leader to do.
#[derive(Debug, Serialize, Deserialize)]
enum Verb {
    Remove { node: NodeId, cause: Cause },
    Transfer { to: Option<NodeId> },
    FinishUpgrade { cause: Cause },
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
enum Done {
    Removed,
    Transferred(NodeId),
    Finished,
    /// The one that was asked leads no more: ask again.
    NotLeader,
    NotFound,
    Refused(String),
}

impl NodeAnswers {
    fn view(&self) -> Option<ClusterStatus> {
        compose(&self.cluster.state(), &self.cluster.status(), &self.reports.snapshot(), clock::steady())
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

    /// Has the leader do something; asks again while leadership moves.
    async fn have_done(&self, verb: &Verb) -> Result<Done, ApiFailure> {
        let deadline = tokio::time::Instant::now() + MEMBERSHIP_TIMEOUT;
        let mut reason = "no leader is known".to_owned();
        while tokio::time::Instant::now() < deadline {
            // The answer to a node that leaves may be lost: from its removal on, nobody talks to it any more.
            if matches!(verb, Verb::Remove { node, .. } if *node == self.node) && self.peers.is_disowned() {
                return Ok(Done::Removed);
            }
            match self.ask_leader(verb).await {
                Ok(Done::NotLeader) => "leadership is moving".clone_into(&mut reason),
                Ok(done) => return Ok(done),
                Err(failure) => reason = failure,
            }
            tokio::time::sleep(RETRY).await;
        }
        Err(ApiFailure::not_appended(reason))
    }

    async fn ask_leader(&self, verb: &Verb) -> Result<Done, String> {
        let leader = self.cluster.leader().ok_or("no leader is known")?;
        if leader == self.node {
            return Ok(self.perform(verb).await);
        }
        let body = serde_json::to_vec(verb).map_err(|error| error.to_string())?;
        let answer = self
            .peers
            .request(leader, Service::Admin, body.into(), MEMBERSHIP_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer).map_err(|error| error.to_string())
    }

    async fn perform(&self, verb: &Verb) -> Done {
        match verb {
            Verb::Remove { node, cause } => self.remove(*node, cause.clone()).await,
            Verb::Transfer { to } => self.transfer(*to).await,
            Verb::FinishUpgrade { cause } => self.finish_upgrade(cause.clone()).await,
        }
    }

    async fn remove(&self, node: NodeId, cause: Cause) -> Done {
        let state = self.cluster.state();
        if !state.nodes().contains_key(&node) {
            return Done::NotFound;
        }
        if state.nodes().len() == 1 {
            return Done::Refused("the last node cannot leave its cluster: stop it instead".into());
        }
        if node == self.node {
            // A leader hands over first; the next one takes it out.
            return match self.cluster.transfer_leadership(None).await {
                Ok(_) => Done::NotLeader,
                Err(error) => Done::Refused(format!("leadership cannot be handed over: {error}")),
            };
        }
        match self.leading.remove(node, cause).await {
            Ok(()) => Done::Removed,
            Err(reason) => Done::Refused(reason),
        }
    }

    async fn transfer(&self, to: Option<NodeId>) -> Done {
        match to {
            Some(to) if to == self.node => Done::Transferred(to),
            Some(to) if !self.cluster.status().voters.contains(&to) => Done::NotFound,
            _ => match self.cluster.transfer_leadership(to).await {
                Ok(to) => Done::Transferred(to),
                Err(error) => Done::Refused(error.to_string()),
            },
        }
    }

    /// Closes the upgrade that is under way, and raises the feature level to what all nodes understand by now.
    async fn finish_upgrade(&self, cause: Cause) -> Done {
        let state = self.cluster.state();
        let level = common_level(&state, &self.reports.snapshot(), clock::steady());
        let missing = state.nodes().values().find(|node| self.reports.look_at(node.id, |_| ()).is_none());
        if let Some(node) = missing {
            return Done::Refused(format!(
                "node {} (id {}) has not reported, so nobody knows what it runs: start it, or take it out of the \
                 cluster with `pangolinctl leave --node {}`",
                node.spec.name, node.id, node.id
            ));
        }
        let mut steps = Vec::new();
        // First: it is refused while some node waits for its turn.
        if state.upgrade().is_some() {
            steps.push(Body::Upgrade(UpgradeChange::Finished));
        }
        if level > state.feature_level() {
            steps.push(Body::FeatureLevelRaised(level));
        }
        for step in steps {
            if let Err(reason) = self.leading.lead(cause.clone(), Fence::None, step).await {
                return Done::Refused(reason);
            }
        }
        Done::Finished
    }

    async fn make_token(
        &self,
        role: NodeRole,
        lifetime: Duration,
        cause: Cause,
        request: RequestId,
    ) -> Result<CreatedToken, ApiFailure> {
        if role == NodeRole::Witness {
            // It would be handed the key-encryption key, which a witness must not hold.
            return Err(ApiFailure::invalid(
                "this version runs no witnesses: let the host join as a data node",
            ));
        }
        let internal = |error: &dyn std::fmt::Display| ApiFailure::internal(error.to_string());
        let state = self.cluster.state();
        let cluster = state.cluster().ok_or_else(|| ApiFailure::from(Refusal::NoCluster))?;
        let pin = pangolin_peer::identity::spki_digest_of_certificate(&cluster.authority.certificate)
            .map_err(|error| internal(&error))?;
        // Derived from the request, so that a repeat of it gets the same token.
        let secret = self.keyring.derive(&format!("join token|{request}"));
        let mut id = TokenId([0; 8]);
        id.0.copy_from_slice(&self.keyring.derive(&format!("join token id|{request}"))[..8]);
        let token = JoinToken {
            id,
            secret: self.keyring.seal(&secret, &seal::token(id)).map_err(|error| internal(&error))?,
            role,
            expires_at: clock::now() + lifetime,
            created_at: Timestamp::default(),
            used: None,
        };
        let proposal = Proposal {
            request: Some(request),
            cause,
            fence: Fence::None,
            body: Body::TokenCreated(Box::new(token)),
        };
        let committed = self.cluster.propose(proposal).await?;
        committed.outcome.into_result()?;
        self.cluster.wait_applied(committed.revision, STATUS_TIMEOUT).await.map_err(|error| {
            ApiFailure::new(Code::NotVisibleYet, format!("the token is made, but {error}"))
        })?;
        let state = self.cluster.state();
        let expires_at = state
            .tokens()
            .get(&id)
            .map(|token| Moment(token.expires_at))
            .ok_or_else(|| ApiFailure::not_found(&Object::Token(id)))?;
        let text = JoinTokenText { authority_pin: pin, id, secret: Zeroizing::new(secret) };
        let token = Some(Invitation::to_text(&text, &plan(&state, self.node).peers));
        Ok(CreatedToken { id, token, expires_at })
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

    fn create_token(
        &self,
        role: NodeRole,
        lifetime: Duration,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<CreatedToken, ApiFailure>> {
        Box::pin(self.make_token(role, lifetime, cause, request))
    }

    fn leave(&self, node: Option<NodeId>, cause: Cause) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(async move {
            let node = node.unwrap_or(self.node);
            match self.have_done(&Verb::Remove { node, cause }).await? {
                Done::Removed => {
                    if node == self.node {
                        self.left.send_replace(true);
                    }
                    Ok(())
                }
                Done::NotFound => Err(ApiFailure::not_found(&Object::Node(node))),
                Done::Refused(reason) => Err(ApiFailure::new(Code::Conflict, reason)),
                Done::Transferred(_) | Done::Finished | Done::NotLeader => {
                    Err(ApiFailure::internal("the leader misunderstood"))
                }
            }
        })
    }

    fn transfer_leader(&self, to: Option<NodeId>) -> BoxFuture<'_, Result<NodeId, ApiFailure>> {
        Box::pin(async move {
            match self.have_done(&Verb::Transfer { to }).await? {
                Done::Transferred(to) => Ok(to),
                Done::NotFound => Err(ApiFailure::new(
                    Code::NotFound,
                    "there is no such voter: `pangolinctl node list` shows them",
                )),
                Done::Refused(reason) => Err(ApiFailure::new(Code::Conflict, reason)),
                Done::Removed | Done::Finished | Done::NotLeader => {
                    Err(ApiFailure::internal("the leader misunderstood"))
                }
            }
        })
    }

    fn finish_upgrade(&self, cause: Cause) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(async move {
            match self.have_done(&Verb::FinishUpgrade { cause }).await? {
                Done::Finished => Ok(()),
                Done::Refused(reason) => Err(ApiFailure::new(Code::Conflict, reason)),
                _ => Err(ApiFailure::internal("the leader misunderstood")),
            }
        })
    }

    fn backups(&self) -> &dyn BackupPort {
        &self.backups
    }

    fn audit(&self, write: ApiWrite) {
        self.journal.note(JournalEvent::ApiWrite(write));
    }

    fn journal(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<JournalPage, ApiFailure>> {
        self.journal.read(after, limit)
    }
}

/// Answers other nodes that ask this one as their leader.
pub struct ForPeers(pub NodeAnswers);

impl Handler for ForPeers {
    fn request(&self, _from: NodeId, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            if body.is_empty() {
                let view = self.0.view().ok_or("the cluster has not been initialised")?;
                return serde_json::to_vec(&view).map(Bytes::from).map_err(|error| error.to_string());
            }
            let verb: Verb = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
            let done =
                if self.0.cluster.lead().is_some() { self.0.perform(&verb).await } else { Done::NotLeader };
            serde_json::to_vec(&done).map(Bytes::from).map_err(|error| error.to_string())
        })
    }
}

/// Whether the node has heard from the leader of late; the leader itself, from a majority. What a node knows of the
/// leader outlives the contact with it.
pub(super) fn in_contact(raft: &RaftStatus) -> bool {
    let Some(leader) = raft.leader else { return false };
    // A single voter is its own majority, and nobody acknowledges anything to it.
    let alone = leader == raft.node && raft.voters.iter().eq([&raft.node]);
    alone || raft.leader_contact.is_some_and(|ago| ago <= CONTACT_LOST)
}

fn upgrade_status(upgrade: &Upgrade) -> UpgradeStatus {
    UpgradeStatus {
        started_at: Moment(upgrade.started_at),
        cause: upgrade.cause.to_string(),
        rollback: upgrade.rollback,
        feature_level: upgrade.feature_level,
        nodes: upgrade
            .nodes
            .iter()
            .map(|(id, node)| UpgradeNodeStatus {
                node_id: *id,
                from_version: node.from_version.clone(),
                step: node.step,
                admin: node.admin,
            })
            .collect(),
    }
}

/// How the cluster stands, as one node knows it; none before the cluster is made.
fn compose(
    state: &ClusterState,
    raft: &RaftStatus,
    seen: &Observations,
    now: Timestamp,
) -> Option<ClusterStatus> {
    let (cluster, settings) = (state.cluster()?, state.settings()?);
    let nodes: Vec<NodeStatus> = state
        .nodes()
        .values()
        .map(|node| {
            let report = seen.fresh(now).find(|(id, _)| *id == node.id).map(|(_, report)| report);
            let part = match node.id {
                id if raft.leader == Some(id) => RaftPart::Leader,
                id if raft.voters.contains(&id) => RaftPart::Voter,
                id if raft.learners.contains(&id) => RaftPart::Learner,
                _ => RaftPart::None,
            };
            NodeStatus {
                id: node.id,
                name: node.spec.name.clone(),
                role: node.spec.role,
                raft: part,
                verdict: node.verdict,
                admin: node.admin,
                address: node.spec.peer_address,
                version: report.map_or_else(|| node.spec.version.clone(), |report| report.version.clone()),
                feature_level: report.map_or(node.spec.feature_level, |report| report.feature_level),
                started_at: report.map(|report| Moment(report.started)),
                applied: report.map(|report| report.applied),
                lag: report.map(|report| raft.committed.unwrap_or(0).saturating_sub(report.applied.index)),
                seen_by: seen
                    .fresh(now)
                    .filter(|(_, report)| report.peers.get(&node.id).is_some_and(|seen| seen.alive))
                    .map(|(id, _)| id)
                    .collect(),
            }
        })
        .collect();
    let answers = |id: &NodeId| {
        *id == raft.node || nodes.iter().any(|node| node.id == *id && node.seen_by.contains(&raft.node))
    };
    let up = raft.voters.iter().filter(|id| answers(id)).count();
    Some(ClusterStatus {
        cluster_id: cluster.id,
        name: cluster.name.clone(),
        zone: settings.zone.clone(),
        control_host: settings.control_host.clone(),
        leader: raft.leader.map(|id| LeaderStatus {
            node_id: id,
            name: state.nodes().get(&id).map(|node| node.spec.name.clone()),
            term: raft.term,
            since: state
                .leadership()
                .filter(|leadership| leadership.node == id && leadership.term == raft.term)
                .map(|leadership| Moment(leadership.since)),
        }),
        quorum: QuorumStatus::new(raft.voters.len(), up),
        revision: state.revision(),
        sites: state
            .sites()
            .values()
            .map(|site| {
                let placement = state.placements().get(&site.id);
                SiteStatus {
                    site_id: site.id,
                    org_id: site.org.clone(),
                    nice_id: site.nice_id.clone(),
                    name: site.name.clone(),
                    home: placement.map(|placement| placement.home),
                    standbys: placement.map(|placement| placement.standbys.clone()).unwrap_or_default(),
                    tunnels: seen.tunnels_to(site.id, now).collect(),
                    socket: seen.fresh(now).find(|(_, r)| r.sockets.contains(&site.id)).map(|(id, _)| id),
                }
            })
            .collect(),
        nodes,
        feature_level: state.feature_level(),
        common_level: common_level(state, seen, now),
        upgrade: state.upgrade().map(upgrade_status),
        partial: None,
    })
}

#[cfg(test)]
mod tests {
    use pangolin_raft::ServerState;

    use super::*;

    fn raft(leader: Option<u64>, voters: &[u64], contact: Option<Duration>) -> RaftStatus {
        RaftStatus {
            node: NodeId(1),
            state: ServerState::Follower,
            term: 3,
            leader: leader.map(NodeId),
            last_log: None,
            committed: Some(20),
            applied: None,
            snapshot: None,
            voters: voters.iter().copied().map(NodeId).collect(),
            learners: [].into(),
            progress: [].into(),
            leader_contact: contact,
        }
    }

    #[test]
    fn a_node_is_in_contact_only_while_it_hears_from_the_leader_whatever_it_remembers() {
        let (now, late) = (Some(Duration::ZERO), Some(CONTACT_LOST + Duration::from_millis(1)));
        for (what, raft, contact) in [
            ("no leader is known", raft(None, &[1, 2, 3], now), false),
            ("a follower that hears the leader", raft(Some(2), &[1, 2, 3], now), true),
            ("a follower that was cut off", raft(Some(2), &[1, 2, 3], late), false),
            ("a follower that never heard it", raft(Some(2), &[1, 2, 3], None), false),
            ("a leader that hears a majority", raft(Some(1), &[1, 2, 3], now), true),
            ("a leader that was cut off", raft(Some(1), &[1, 2, 3], late), false),
            ("the only voter, whom nobody acknowledges", raft(Some(1), &[1], None), true),
            ("a learner cut off from the only voter", raft(Some(2), &[2], late), false),
        ] {
            assert_eq!(in_contact(&raft), contact, "{what}");
        }
    }

    #[test]
    fn before_the_cluster_is_made_there_is_no_status() {
        let status = compose(
            &ClusterState::default(),
            &raft(None, &[], None),
            &Observations::default(),
            clock::steady(),
        );
        assert!(status.is_none());
    }
}
