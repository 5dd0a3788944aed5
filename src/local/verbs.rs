//! The cluster verbs: the leader is asked, whichever node one comes to.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use pangolin_api::{ApiFailure, NewToken};
use pangolin_core::{
    Body, Cause, ClusterState, Fence, NodeId, Object, Refusal, RequestId, Revision, Slug, Timestamp, TokenId,
    command::UpgradeChange,
    decide::{check_promotion, check_removal, common_level, willingness},
    record::{AdminState, Digest, JoinToken, Node, NodeRole},
};
use pangolin_peer::{BoxFuture, Handler, Service, join::JoinTokenText};
use pangolin_raft::{Proposal, RaftError};
use pangolin_wire::{Code, CreatedToken, Moment};
use serde::{Deserialize, Serialize};
use tokio::{task::JoinSet, time::Instant};
use tracing::warn;

use super::answers::NodeAnswers;
use crate::{
    clock,
    keys::Keys,
    membership::{
        Invitation, certify,
        check::{self, PROBES_MAX, Probe, View},
    },
    seal,
};

/// How long the leader may take to answer a verb: a transfer of the leadership is the longest.
const VERB_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a verb is tried, or its effect waited for, before the caller is told to ask again: less than a client
/// waits for an answer.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(8);
/// How long this node may take to have what the leader has.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before the (new) leader is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// What a node asks the leader.
#[derive(Debug, Serialize, Deserialize)]
enum Verb {
    /// Could the others do without this node now?
    CheckRemoval(NodeId),
    /// Could this learner vote now?
    CheckPromotion(NodeId),
    /// Hand the leadership over.
    Transfer {
        to: Option<NodeId>,
    },
    FinishUpgrade {
        cause: Cause,
    },
    /// A new certificate for the asker, which holds no keys; any data node gives it. A signing request, DER.
    Certify {
        csr: Vec<u8>,
    },
    /// How does this joiner look from there? Any node tells.
    Probe {
        probes: Vec<Probe>,
        nonce: String,
        remote: IpAddr,
    },
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
enum Done {
    Fine,
    Transferred(NodeId),
    /// It shows in every state from this revision on.
    Finished(Revision),
    /// The certificate, DER.
    Certified(Vec<u8>),
    /// The node's clock, and the outcome of each probe.
    Probed {
        now: Timestamp,
        results: Vec<Option<String>>,
    },
    /// The one that was asked leads no more: ask again.
    NotLeader,
    NotFound,
    Refused(String),
    /// It may work in a moment.
    NotYet(String),
}

impl NodeAnswers {
    /// Asks the leader; asks again while leadership moves.
    async fn have_done(&self, verb: &Verb) -> Result<Done, ApiFailure> {
        let deadline = Instant::now() + MEMBERSHIP_TIMEOUT;
        loop {
            let reason = match self.ask_leader(verb).await {
                Ok(Done::NotLeader) => "leadership is moving".to_owned(),
                Ok(Done::NotYet(reason)) => reason,
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if Instant::now() >= deadline {
                return Err(ApiFailure::not_appended(reason));
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn ask_leader(&self, verb: &Verb) -> Result<Done, String> {
        let leader = self.cluster.leader().ok_or("no leader is known")?;
        if leader == self.node {
            return Ok(self.perform(verb).await);
        }
        let body = serde_json::to_vec(verb).map_err(|error| error.to_string())?;
        let answer = self
            .peers
            .request(leader, Service::Admin, body.into(), VERB_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        serde_json::from_slice(&answer).map_err(|error| error.to_string())
    }

    /// As the leader.
    async fn perform(&self, verb: &Verb) -> Done {
        let (state, voting) = (self.cluster.state(), self.leading.voting());
        let checked = |checked: Result<(), String>| checked.map_or_else(Done::Refused, |()| Done::Fine);
        match verb {
            Verb::CheckRemoval(node) | Verb::CheckPromotion(node) if !state.nodes().contains_key(node) => {
                Done::NotFound
            }
            Verb::CheckRemoval(node) => checked(check_removal(&state, &voting, *node)),
            Verb::CheckPromotion(node) => checked(check_promotion(&state, &voting, *node)),
            Verb::Transfer { to } => self.transfer(&state, *to).await,
            Verb::Certify { .. } | Verb::Probe { .. } => {
                Done::Refused("this is not asked of a leader".to_owned())
            }
            Verb::FinishUpgrade { cause } => self.finish_upgrade(cause.clone()).await,
        }
    }

    /// Asks the data nodes for a new certificate of this node, one after the other.
    ///
    /// # Errors
    /// None of them gave one; the last one's reason.
    pub async fn ask_for_certificate(&self, csr: &[u8]) -> Result<Vec<u8>, String> {
        let state = self.cluster.state();
        let verb =
            serde_json::to_vec(&Verb::Certify { csr: csr.to_vec() }).map_err(|error| error.to_string())?;
        let mut reason = "there is no data node".to_owned();
        for node in state.nodes().values().filter(|node| node.spec.role == NodeRole::Data) {
            let asked = self.peers.request(node.id, Service::Admin, verb.clone().into(), VERB_TIMEOUT).await;
            match asked.map(|answer| serde_json::from_slice(&answer)) {
                Ok(Ok(Done::Certified(certificate))) => return Ok(certificate),
                Ok(Ok(other)) => reason = format!("node {} answers {other:?}", node.id),
                Ok(Err(error)) => reason = error.to_string(),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }

    /// How a joiner looks from every other node, and which of them could not be asked, with the reason. The joiner may
    /// have been admitted already: then its `key` is that of a node.
    pub(crate) async fn views_of_joiner(
        &self,
        probes: &[Probe],
        nonce: &str,
        remote: IpAddr,
        key: Option<Digest>,
    ) -> (Vec<View>, Vec<(Slug, String)>) {
        let verb = Verb::Probe { probes: probes.to_vec(), nonce: nonce.to_owned(), remote };
        let verb = serde_json::to_vec(&verb).map(Bytes::from).map_err(|error| error.to_string());
        let state = self.cluster.state();
        let mut asked = JoinSet::new();
        let other = |node: &&Node| node.id != self.node && Some(node.spec.spki) != key;
        for node in state.nodes().values().filter(other) {
            let (peers, verb, id, name) = (self.peers.clone(), verb.clone(), node.id, node.spec.name.clone());
            asked.spawn(async move {
                let view = async {
                    let answer = peers.request(id, Service::Admin, verb?, VERB_TIMEOUT).await;
                    let answer = answer.map_err(|error| error.to_string())?;
                    let done: Done = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
                    let Done::Probed { now, results } = done else {
                        return Err("it does not try the ports of joiners".to_owned());
                    };
                    let difference = i128::from(now.0) - i128::from(clock::now().0);
                    let ahead_ms = i64::try_from(difference).unwrap_or(i64::MAX);
                    Ok(View { node: name.clone(), ahead_ms, results })
                };
                view.await.map_err(|reason| (name, reason))
            });
        }
        let (mut views, mut unasked) = (Vec::new(), Vec::new());
        for answered in asked.join_all().await {
            match answered {
                Ok(view) => views.push(view),
                Err(missing) => unasked.push(missing),
            }
        }
        views.sort_by(|a, b| a.node.cmp(&b.node));
        unasked.sort();
        (views, unasked)
    }

    fn certificate_for(&self, node: NodeId, csr: &[u8]) -> Done {
        let Some(keyring) = &self.keyring else {
            return Done::Refused("this node holds no keys".to_owned());
        };
        let certified =
            certify(&self.cluster.state(), &keyring.now(), node, csr, std::time::SystemTime::now());
        certified.map_or_else(Done::Refused, Done::Certified)
    }

    async fn transfer(&self, state: &ClusterState, to: Option<NodeId>) -> Done {
        let gladly = |id: NodeId| state.nodes().get(&id).map_or(0, willingness);
        match to {
            Some(to) if to == self.node => return Done::Transferred(to),
            Some(to) if !self.cluster.status().voters.contains(&to) => return Done::NotFound,
            // It would hand the leadership on at once.
            Some(to) if gladly(to) < gladly(self.node) => {
                return Done::Refused(format!(
                    "node {to} is a witness, is drained or is leaving: it leads only while nobody else can"
                ));
            }
            _ => {}
        }
        match self.cluster.transfer_leadership(to).await {
            Ok(to) => Done::Transferred(to),
            Err(_) if self.cluster.lead().is_none() => Done::NotLeader,
            Err(error @ RaftError::Transfer(_)) if self.cluster.status().voters.len() > 1 => {
                Done::NotYet(error.to_string())
            }
            Err(error) => Done::Refused(error.to_string()),
        }
    }

    /// Brings a cluster verb into the log, unless it is there already.
    async fn propose(&self, request: RequestId, cause: Cause, body: Body) -> Result<(), ApiFailure> {
        let known = self.cluster.state().outcome_of(request);
        let outcome = match known {
            Some((_, outcome)) => outcome,
            None => {
                let proposal = Proposal { request: Some(request), cause, fence: Fence::None, body };
                self.cluster.propose(proposal).await?.outcome
            }
        };
        outcome.into_result()?;
        Ok(())
    }

    /// Waits until the leader has brought about what was asked for. It goes on when the caller gives up, whoever
    /// leads then.
    async fn until(
        &self,
        what: &str,
        verb: Option<Verb>,
        come_true: impl Fn(&Self, &ClusterState) -> bool,
    ) -> Result<(), ApiFailure> {
        let deadline = Instant::now() + MEMBERSHIP_TIMEOUT;
        while !come_true(self, &self.cluster.state()) {
            if Instant::now() < deadline {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let reason = match verb {
                Some(verb) => match self.ask_leader(&verb).await {
                    Ok(Done::Refused(reason) | Done::NotYet(reason)) | Err(reason) => format!(": {reason}"),
                    Ok(_) => String::new(),
                },
                None => String::new(),
            };
            let failure =
                ApiFailure::new(Code::NotVisibleYet, format!("{what}, but has not come about yet{reason}"));
            return Err(failure.hint("It goes on by itself; `pangolinctl status` shows how far it is."));
        }
        Ok(())
    }

    /// Takes a node out. From the log on, this is the leader's task: it is done also if the caller goes away, or the
    /// leader does.
    pub(super) async fn remove(
        &self,
        node: NodeId,
        cause: Cause,
        request: RequestId,
    ) -> Result<(), ApiFailure> {
        let state = self.cluster.state();
        let wanted = state.nodes().get(&node).map(|node| node.admin);
        if wanted.is_some_and(|admin| admin != AdminState::Leaving) && !self.peers.is_disowned() {
            if state.outcome_of(request).is_none() {
                self.check(Verb::CheckRemoval(node), node).await?;
            }
            self.propose(request, cause, Body::NodeAdmin { node, admin: AdminState::Leaving }).await?;
        }
        // This node does not see its own end in the log: from there on, nobody talks to it.
        let gone = move |this: &Self, state: &ClusterState| {
            !state.nodes().contains_key(&node) || (node == this.node && this.peers.is_disowned())
        };
        self.until(&format!("node {node} is to leave"), Some(Verb::CheckRemoval(node)), gone).await?;
        if node == self.node {
            self.left.send_replace(true);
        }
        Ok(())
    }

    async fn check(&self, verb: Verb, node: NodeId) -> Result<(), ApiFailure> {
        match self.have_done(&verb).await? {
            Done::Fine => Ok(()),
            Done::NotFound => Err(ApiFailure::not_found(&Object::Node(node))),
            Done::Refused(reason) => Err(ApiFailure::new(Code::Conflict, reason)),
            _ => Err(ApiFailure::internal("the leader misunderstood")),
        }
    }

    pub(super) async fn promote_learner(
        &self,
        node: NodeId,
        cause: Cause,
        request: RequestId,
    ) -> Result<(), ApiFailure> {
        if self.cluster.state().outcome_of(request).is_none() {
            self.check(Verb::CheckPromotion(node), node).await?;
        }
        self.propose(request, cause, Body::NodePromoted(node)).await?;
        let votes = move |this: &Self, _: &ClusterState| this.cluster.status().voters.contains(&node);
        self.until(&format!("node {node} is to vote"), Some(Verb::CheckPromotion(node)), votes).await
    }

    pub(super) async fn disband_to_this(
        &self,
        name: Slug,
        cause: Cause,
        request: RequestId,
    ) -> Result<(), ApiFailure> {
        let state = self.cluster.state();
        let cluster = state.cluster().ok_or_else(|| ApiFailure::from(Refusal::NoCluster))?;
        if cluster.name != name {
            return Err(ApiFailure::new(
                Code::Conflict,
                format!("this is the cluster {}, not {name}: nothing was changed", cluster.name),
            ));
        }
        self.propose(request, cause, Body::Disbanded { survivor: self.node }).await?;
        let alone = |this: &Self, state: &ClusterState| {
            state.nodes().keys().eq([&this.node]) && this.cluster.status().voters.iter().eq([&this.node])
        };
        self.until("the cluster is being taken apart", None, alone).await
    }

    pub(super) async fn hand_on(
        &self,
        to: Option<NodeId>,
        cause: Cause,
        request: RequestId,
    ) -> Result<NodeId, ApiFailure> {
        if self.cluster.state().outcome_of(request).is_some()
            && let Some(leader) = self.cluster.leader()
        {
            return Ok(leader);
        }
        let from = self.cluster.leader();
        match self.have_done(&Verb::Transfer { to }).await? {
            Done::Transferred(to) => {
                let body = Body::LeadershipHanded { from: from.unwrap_or(to), to };
                // It is done: that it cannot be written down must not make it look undone.
                if let Err(failure) = self.propose(request, cause, body).await {
                    warn!(%failure, "the transfer of the leadership is not in the log");
                }
                Ok(to)
            }
            Done::NotFound => Err(ApiFailure::new(
                Code::NotFound,
                "there is no such voter: `pangolinctl status` shows them",
            )),
            Done::Refused(reason) => Err(ApiFailure::new(Code::Conflict, reason)),
            _ => Err(ApiFailure::internal("the leader misunderstood")),
        }
    }

    /// Has the leader close the upgrade, and waits until this node knows of it: the answer tells the level as this node
    /// has it.
    pub(super) async fn end_upgrade(&self, cause: Cause) -> Result<(), ApiFailure> {
        match self.have_done(&Verb::FinishUpgrade { cause }).await? {
            Done::Finished(revision) => {
                self.cluster.wait_applied(revision, MEMBERSHIP_TIMEOUT).await.map_err(|error| {
                    let message = format!("the upgrade is finished, but {error}");
                    ApiFailure::new(Code::NotVisibleYet, message)
                })?;
                Ok(())
            }
            Done::Refused(reason) => Err(ApiFailure::new(Code::Conflict, reason)),
            _ => Err(ApiFailure::internal("the leader misunderstood")),
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
        let mut shown = state.revision();
        for step in steps {
            match self.leading.lead(cause.clone(), Fence::None, step).await {
                Ok(revision) => shown = shown.max(revision),
                Err(reason) => return Done::Refused(reason),
            }
        }
        Done::Finished(shown)
    }

    pub(super) async fn make_token(
        &self,
        wanted: NewToken,
        cause: Cause,
        request: RequestId,
    ) -> Result<CreatedToken, ApiFailure> {
        let NewToken { role, lifetime, replaces } = wanted;
        let keyring = self.keyring.as_ref().map(Keys::now).ok_or_else(|| {
            ApiFailure::new(Code::Conflict, "this node is a witness and holds no keys to make tokens with")
                .hint("Ask a data node.")
        })?;
        let internal = |error: &dyn std::fmt::Display| ApiFailure::internal(error.to_string());
        let state = self.cluster.state();
        let cluster = state.cluster().ok_or_else(|| ApiFailure::from(Refusal::NoCluster))?;
        let pin = pangolin_peer::identity::spki_digest_of_certificate(&cluster.authority.certificate)
            .map_err(|error| internal(&error))?;
        // Derived from the request, so that a repeat of it gets the same token.
        let secret = keyring.derive_one(&format!("join token|{request}"));
        let mut id = TokenId([0; 8]);
        id.0.copy_from_slice(&keyring.derive_one(&format!("join token id|{request}"))[..8]);
        let token = JoinToken {
            id,
            secret: keyring.seal(secret.as_slice(), &seal::token(id)).map_err(|error| internal(&error))?,
            role,
            expires_at: clock::now() + lifetime,
            replaces,
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
        self.cluster.wait_applied(committed.revision, VISIBLE_TIMEOUT).await.map_err(|error| {
            ApiFailure::new(Code::NotVisibleYet, format!("the token is made, but {error}"))
        })?;
        let state = self.cluster.state();
        let expires_at = state
            .tokens()
            .get(&id)
            .map(|token| Moment(token.expires_at))
            .ok_or_else(|| ApiFailure::not_found(&Object::Token(id)))?;
        let text = JoinTokenText { authority_pin: pin, id, secret };
        let token = Some(Invitation::to_text(&text, &state));
        Ok(CreatedToken { id, token, expires_at })
    }
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Verb>(bytes);
    let _ = serde_json::from_slice::<Done>(bytes);
    let _ = serde_json::from_slice::<pangolin_wire::ClusterStatus>(bytes);
}

/// Answers other nodes that ask this one as their leader.
pub struct ForPeers(pub NodeAnswers);

impl Handler for ForPeers {
    fn request(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            if body.is_empty() {
                let view = self.0.view().ok_or("the cluster has not been initialised")?;
                return serde_json::to_vec(&view).map(Bytes::from).map_err(|error| error.to_string());
            }
            let verb: Verb = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
            let done = match &verb {
                Verb::Certify { csr } => self.0.certificate_for(from, csr),
                Verb::Probe { probes, .. } if probes.len() > PROBES_MAX => {
                    Done::Refused(format!("at most {PROBES_MAX} probes"))
                }
                Verb::Probe { probes, nonce, remote } => {
                    let results = check::run(probes, nonce, *remote).await;
                    Done::Probed { now: clock::now(), results }
                }
                _ if self.0.cluster.lead().is_some() => self.0.perform(&verb).await,
                _ => Done::NotLeader,
            };
            serde_json::to_vec(&done).map(Bytes::from).map_err(|error| error.to_string())
        })
    }
}
