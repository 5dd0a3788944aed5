//! What commands do to the cluster's own records: nodes, tokens, leadership, settings.

use std::{net::SocketAddr, time::Duration};

use imbl::OrdMap;

use crate::{
    command::{Cause, ClusterCreated, NodeAdmitted},
    feature,
    id::{NodeId, Revision, TokenId},
    name::{SLUG_MAX, Slug},
    outcome::{Object, Refusal},
    record::{
        AdminState, Autopilot, Cluster, JoinToken, Leadership, Node, NodeRole, NodeSpec, Settings,
        UpgradeStep, Verdict,
    },
    state::{Applied, ClusterState},
};

/// Most nodes of a cluster: their tunnel addresses are the first block of the tunnel network.
pub(super) const NODES_MAX: u32 = 250;
/// Most join tokens at a time.
pub(super) const TOKENS_MAX: usize = 1000;
/// Most public addresses of one node.
pub(super) const PUBLIC_ADDRESSES_MAX: usize = 16;
/// A node that goes down within this time after it has come up has flapped.
const FLAP_WINDOW: Duration = Duration::from_secs(600);
/// Longest time that a learner may be watched before it votes, ms: ten minutes.
const STABLE_MAX_MS: u32 = 600_000;
/// Least patience with a node that is down, seconds: a restart takes that long.
const PATIENCE_MIN_S: u32 = 5;
/// Names that are tried for a node whose name another one takes over.
const RENAMES_MAX: usize = 16;
/// Shortest prefix host part of the tunnel network: room for the nodes' block and some sites.
const TUNNEL_PREFIX_MAX: u8 = 22;

impl ClusterState {
    pub(super) fn create_cluster(&mut self, created: &ClusterCreated, cause: &Cause) -> Applied {
        if self.cluster.is_some() {
            return Err(Refusal::ClusterExists);
        }
        check_settings(&created.settings)?;
        check_spec(&created.spec)?;
        if created.spec.feature_level < feature::FIRST {
            return Err(Refusal::Invalid("a cluster begins at the feature level of its first node".into()));
        }
        self.feature_level = created.spec.feature_level;
        self.revision = Revision { lineage: 1, index: self.revision.index };
        self.cluster = Some(Cluster {
            id: created.id,
            name: created.name.clone(),
            created_at: self.time,
            authority: created.authority.clone(),
            issuer: created.issuer.clone(),
        });
        self.settings = Some(created.settings.clone());
        self.add_node(created.node, &created.spec, Verdict::Up, cause)?;
        Ok(Some(Object::Cluster))
    }

    pub(super) fn start_leader(&mut self, term: u64, node: NodeId) -> Applied {
        let current = self.leadership.map_or(0, |leadership| leadership.term);
        if term < current {
            return Err(Refusal::StaleTerm { decided: term, current });
        }
        self.leadership = Some(Leadership { term, node, since: self.time });
        Ok(None)
    }

    pub(super) fn create_token(&mut self, token: &JoinToken) -> Applied {
        let now = self.time;
        // Tokens are swept here, where their number could grow.
        let dead: Vec<TokenId> = self.tokens.values().filter(|t| t.expires_at < now).map(|t| t.id).collect();
        for id in dead {
            self.tokens.remove(&id);
        }
        if self.tokens.contains_key(&token.id) {
            return Err(Refusal::Exists(Object::Token(token.id)));
        }
        if self.tokens.len() >= TOKENS_MAX {
            return Err(Refusal::Limit { what: "join tokens".into(), limit: TOKENS_MAX as u64 });
        }
        self.tokens.insert(token.id, JoinToken { used: None, created_at: now, ..token.clone() });
        Ok(Some(Object::Token(token.id)))
    }

    pub(super) fn revoke_token(&mut self, id: TokenId) -> Applied {
        self.tokens.remove(&id).map(|_| None).ok_or(Refusal::NotFound(Object::Token(id)))
    }

    pub(super) fn admit_node(&mut self, admitted: &NodeAdmitted, cause: &Cause) -> Applied {
        let token =
            self.tokens.get(&admitted.token).ok_or(Refusal::NotFound(Object::Token(admitted.token)))?.clone();
        if let Some((csr, node)) = token.used {
            if csr == admitted.csr && self.nodes.contains_key(&node) {
                return Ok(Some(Object::Node(node)));
            }
            return Err(Refusal::TokenUsed(token.id, node));
        }
        if token.expires_at < self.time {
            return Err(Refusal::TokenExpired(token.id));
        }
        check_spec(&admitted.spec)?;
        self.check_level(&admitted.spec)?;
        let known = self.nodes.values().find(|node| node.spec.spki == admitted.spec.spki).cloned();
        if let Some(node) = known {
            return self.welcome_back(&node, token, admitted);
        }
        let id = NodeId(self.revision.index);
        if let Some(old) = token.replaces {
            self.give_up_place(old, id, &admitted.spec.name, cause)?;
        }
        // Nothing is sent to a host that has not been seen at work.
        self.add_node(id, &NodeSpec { role: token.role, ..admitted.spec.clone() }, Verdict::Down, cause)?;
        self.tokens.insert(token.id, JoinToken { used: Some((admitted.csr, id)), ..token });
        Ok(Some(Object::Node(id)))
    }

    /// A host that was cut off between its admission and its first start asks again, with a new token: it is the node
    /// that it became then. One that has taken part is not: it may have promised what it does not remember.
    fn welcome_back(&mut self, node: &Node, token: JoinToken, admitted: &NodeAdmitted) -> Applied {
        let id = node.id;
        let never_seen = node.verdict == Verdict::Down && node.verdict_at == node.admitted_at;
        if !never_seen || node.spec.name != admitted.spec.name || node.spec.role != token.role {
            return Err(Refusal::Invalid(format!(
                "this host holds the key of node {id} ({}, a {:?} node), which has joined already: remove that node, \
                 empty this host's state directory, and join again",
                node.spec.name, node.spec.role
            )));
        }
        self.change_node(id, &admitted.spec)?;
        self.tokens.insert(token.id, JoinToken { used: Some((admitted.csr, id)), ..token });
        Ok(Some(Object::Node(id)))
    }

    /// A node joins in the place of another: that one is to leave, and its name goes over where it is wanted.
    /// Nothing happens if it is gone already.
    fn give_up_place(&mut self, old: NodeId, to: NodeId, name: &Slug, cause: &Cause) -> Result<(), Refusal> {
        let Some(node) = self.nodes.get(&old).cloned() else { return Ok(()) };
        let mut spec = node.spec;
        if spec.name == *name {
            spec.name = self.other_name(&spec.name, old)?;
        }
        let now = self.time;
        let node = self.node_mut(old)?;
        node.spec = spec;
        node.admin = AdminState::Leaving;
        node.admin_at = now;
        node.admin_cause = cause.clone();
        node.replaced_by = Some(to);
        Ok(())
    }

    /// A free name for a node whose own goes to another: its own with its id behind.
    fn other_name(&self, name: &Slug, id: NodeId) -> Result<Slug, Refusal> {
        let tails = (0..RENAMES_MAX).map(|n| if n == 0 { format!("-{id}") } else { format!("-{id}-{n}") });
        let names = tails.filter_map(|tail| {
            let begin = &name.as_str()[..name.as_str().len().min(SLUG_MAX.saturating_sub(tail.len()))];
            format!("{}{tail}", begin.trim_end_matches('-')).parse::<Slug>().ok()
        });
        let mut free = names.filter(|name| self.check_node_name(name).is_ok());
        free.next().ok_or_else(|| Refusal::NameTaken { name: name.to_string(), by: Object::Node(id) })
    }

    pub(super) fn add_node(
        &mut self,
        id: NodeId,
        spec: &NodeSpec,
        verdict: Verdict,
        cause: &Cause,
    ) -> Result<(), Refusal> {
        if self.nodes.contains_key(&id) {
            return Err(Refusal::Exists(Object::Node(id)));
        }
        self.check_node_name(&spec.name)?;
        self.check_peer_address(id, spec.peer_address)?;
        let taken = self.nodes.values().map(|node| node.tunnel_address);
        let tunnel_address = self
            .free_address(1, NODES_MAX, taken)
            .ok_or(Refusal::Limit { what: "nodes".into(), limit: u64::from(NODES_MAX) })?;
        let node = Node {
            id,
            spec: spec.clone(),
            tunnel_address,
            admin: AdminState::Active,
            admin_at: self.time,
            admin_cause: cause.clone(),
            promoted: false,
            replaced_by: None,
            verdict,
            verdict_at: self.time,
            verdict_cause: cause.clone(),
            admitted_at: self.time,
            level_since: self.time,
            flaps: 0,
        };
        self.nodes.insert(id, node);
        Ok(())
    }

    /// A node's name is free among the nodes, and so is its label in the cluster's zone.
    fn check_node_name(&self, name: &Slug) -> Result<(), Refusal> {
        if let Some(other) = self.nodes.values().find(|node| node.spec.name == *name) {
            return Err(Refusal::NameTaken { name: name.to_string(), by: Object::Node(other.id) });
        }
        let Some(settings) = &self.settings else { return Ok(()) };
        self.check_zone_label(settings, name)
    }

    fn check_zone_label(&self, settings: &Settings, name: &Slug) -> Result<(), Refusal> {
        let Ok(host) = settings.zone.child(name.as_str()) else { return Ok(()) };
        if host == settings.control_host {
            return Err(Refusal::NameTaken { name: host.to_string(), by: Object::Cluster });
        }
        match self.index.at_host(&host) {
            Some(other) => Err(Refusal::NameTaken { name: host.to_string(), by: Object::Resource(other) }),
            None => Ok(()),
        }
    }

    /// A program that does not understand what the cluster is committed to could not read the log.
    fn check_level(&self, spec: &NodeSpec) -> Result<(), Refusal> {
        let (needed, has) = (self.feature_level, spec.feature_level);
        if has >= needed {
            return Ok(());
        }
        Err(Refusal::Invalid(format!(
            "the cluster is at feature level {needed}, version {} of node {} understands up to {has}: install the \
             version that the other nodes run",
            spec.version, spec.name
        )))
    }

    /// A node's address is free; that of one whose place has been taken counts as free.
    fn check_peer_address(&self, id: NodeId, address: SocketAddr) -> Result<(), Refusal> {
        let mut others = self.nodes.values().filter(|node| node.id != id && node.replaced_by.is_none());
        match others.find(|node| node.spec.peer_address == address) {
            Some(other) => Err(Refusal::NameTaken { name: address.to_string(), by: Object::Node(other.id) }),
            None => Ok(()),
        }
    }

    fn node_mut(&mut self, id: NodeId) -> Result<&mut Node, Refusal> {
        self.nodes.get_mut(&id).ok_or(Refusal::NotFound(Object::Node(id)))
    }

    pub(super) fn change_node(&mut self, id: NodeId, spec: &NodeSpec) -> Applied {
        check_spec(spec)?;
        self.check_level(spec)?;
        self.check_peer_address(id, spec.peer_address)?;
        let now = self.time;
        let node = self.node_mut(id)?;
        if node.spec.feature_level != spec.feature_level {
            node.level_since = now;
        }
        // Identity stays with the admission: a node cannot rename itself or take another key or role.
        let NodeSpec { name, role, spki, .. } = node.spec.clone();
        node.spec = NodeSpec { name, role, spki, ..spec.clone() };
        Ok(None)
    }

    pub(super) fn set_node_admin(&mut self, id: NodeId, admin: AdminState, cause: &Cause) -> Applied {
        let now = self.time;
        let node = self.node_mut(id)?;
        let (address, replaced_by) = (node.spec.peer_address, node.replaced_by);
        if admin == AdminState::Leaving {
            self.check_data_without(id)?;
        } else if let Some(by) = replaced_by {
            if self.nodes.contains_key(&by) {
                return Err(Refusal::Invalid(format!("node {by} has taken the place of node {id}")));
            }
            self.check_peer_address(id, address)?;
        }
        let node = self.node_mut(id)?;
        if node.admin != admin {
            node.admin = admin;
            node.admin_at = now;
            node.admin_cause = cause.clone();
        }
        if admin != AdminState::Leaving {
            node.replaced_by = None;
        }
        Ok(None)
    }

    /// Some other data node stays when this one goes: a cluster of witnesses could do nothing.
    fn check_data_without(&self, id: NodeId) -> Result<(), Refusal> {
        let stays = |node: &&Node| {
            node.id != id && node.spec.role == NodeRole::Data && node.admin != AdminState::Leaving
        };
        match self.nodes.values().find(stays) {
            Some(_) => Ok(()),
            None => Err(Refusal::Invalid(format!(
                "node {id} is the last data node that stays: it cannot leave the cluster; stop it instead"
            ))),
        }
    }

    pub(super) fn promote_node(&mut self, id: NodeId) -> Applied {
        let node = self.node_mut(id)?;
        if node.admin == AdminState::Leaving {
            return Err(Refusal::Invalid(format!("node {id} is on its way out of the cluster")));
        }
        node.promoted = true;
        Ok(None)
    }

    pub(super) fn change_autopilot(&mut self, autopilot: Autopilot) -> Applied {
        if autopilot.stable_ms > STABLE_MAX_MS {
            return Err(Refusal::Invalid(format!(
                "a learner is watched for {STABLE_MAX_MS} ms at most before it votes"
            )));
        }
        let short = |patience: Option<u32>| patience.is_some_and(|seconds| seconds < PATIENCE_MIN_S);
        if short(autopilot.exchange_after_s) || short(autopilot.remove_after_s) {
            return Err(Refusal::Invalid(format!(
                "a node that is down is given {PATIENCE_MIN_S} s at least: it may be restarting"
            )));
        }
        self.autopilot = autopilot;
        Ok(None)
    }

    /// All nodes but one are to leave, and nobody joins any more.
    pub(super) fn disband(&mut self, survivor: NodeId, cause: &Cause) -> Applied {
        if self.node_mut(survivor)?.spec.role == NodeRole::Witness {
            return Err(Refusal::Invalid(format!(
                "node {survivor} is a witness: a cluster cannot live on it alone"
            )));
        }
        self.set_node_admin(survivor, AdminState::Active, cause)?;
        self.node_mut(survivor)?.promoted = true;
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|id| *id != survivor).collect();
        for id in others {
            self.set_node_admin(id, AdminState::Leaving, cause)?;
        }
        self.tokens = OrdMap::new();
        Ok(None)
    }

    pub(super) fn note_handover(&self, to: NodeId) -> Applied {
        self.nodes.get(&to).map(|_| None).ok_or(Refusal::NotFound(Object::Node(to)))
    }

    pub(super) fn judge_node(&mut self, id: NodeId, verdict: Verdict, cause: &Cause) -> Applied {
        let now = self.time;
        let upgrading = self
            .upgrade
            .as_ref()
            .and_then(|upgrade| upgrade.nodes.get(&id))
            .is_some_and(|node| node.step == UpgradeStep::UnderWay);
        let node = self.node_mut(id)?;
        if node.verdict != verdict {
            // Somebody restarts it on purpose: that says nothing of how well it holds out.
            let planned = upgrading || node.admin != AdminState::Active;
            if verdict == Verdict::Down && !planned {
                let soon = now.since(node.verdict_at) < FLAP_WINDOW;
                // Before its first verdict it was not up: being admitted is no flap.
                node.flaps =
                    if soon && node.verdict_at > node.admitted_at { node.flaps.saturating_add(1) } else { 0 };
            }
            node.verdict = verdict;
            node.verdict_at = now;
            node.verdict_cause = cause.clone();
        }
        Ok(None)
    }

    pub(super) fn remove_node(&mut self, id: NodeId) -> Applied {
        if self.nodes.len() == 1 && self.nodes.contains_key(&id) {
            return Err(Refusal::Invalid("the last node of a cluster cannot leave it".into()));
        }
        if self.nodes.contains_key(&id) {
            self.check_data_without(id)?;
        }
        self.keys.holders.remove(&id);
        self.fabric.capacities.remove(&id);
        self.nodes.remove(&id).map(|_| None).ok_or(Refusal::NotFound(Object::Node(id)))
    }

    pub(super) fn change_settings(&mut self, settings: &Settings) -> Applied {
        check_settings(settings)?;
        if self.settings.as_ref().is_some_and(|current| current.tunnel_network != settings.tunnel_network) {
            return Err(Refusal::Invalid("the tunnel network is fixed when the cluster is made".into()));
        }
        for node in self.nodes.values() {
            self.check_zone_label(settings, &node.spec.name)?;
        }
        if let Some(other) = self.index.at_host(&settings.control_host) {
            let name = settings.control_host.to_string();
            return Err(Refusal::NameTaken { name, by: Object::Resource(other) });
        }
        self.settings = Some(settings.clone());
        self.tidy_dns();
        Ok(None)
    }
}

fn check_settings(settings: &Settings) -> Result<(), Refusal> {
    if settings.tunnel_network.prefix_len() > TUNNEL_PREFIX_MAX {
        return Err(Refusal::Invalid(format!(
            "the tunnel network {} is too small: /{TUNNEL_PREFIX_MAX} or larger is needed",
            settings.tunnel_network
        )));
    }
    if !settings.control_host.is_within(&settings.zone) || settings.control_host == settings.zone {
        return Err(Refusal::Invalid(format!(
            "the control host {} does not lie below the zone {}",
            settings.control_host, settings.zone
        )));
    }
    if settings.zone.is_wildcard() || settings.control_host.is_wildcard() {
        return Err(Refusal::Invalid("zone and control host cannot be wildcards".into()));
    }
    Ok(())
}

fn check_spec(spec: &NodeSpec) -> Result<(), Refusal> {
    if spec.public_addresses.len() > PUBLIC_ADDRESSES_MAX {
        let limit = PUBLIC_ADDRESSES_MAX as u64;
        return Err(Refusal::Limit { what: "public addresses of a node".into(), limit });
    }
    for (what, text) in [("tunnel endpoint", &spec.tunnel_endpoint), ("version", &spec.version)] {
        crate::name::check_title(what, text).map_err(|error| Refusal::Invalid(error.to_string()))?;
    }
    Ok(())
}
