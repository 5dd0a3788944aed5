//! What commands do to the cluster's own records: nodes, tokens, leadership, settings.

use std::{net::SocketAddr, time::Duration};

use crate::{
    command::{Cause, ClusterCreated, NodeAdmitted},
    feature,
    id::{NodeId, Revision, TokenId},
    name::Slug,
    outcome::{Object, Refusal},
    record::{AdminState, Cluster, JoinToken, Leadership, Node, NodeSpec, Settings, Verdict},
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
        let id = NodeId(self.revision.index);
        // Nothing is sent to a host that has not been seen at work.
        self.add_node(id, &NodeSpec { role: token.role, ..admitted.spec.clone() }, Verdict::Down, cause)?;
        self.tokens.insert(token.id, JoinToken { used: Some((admitted.csr, id)), ..token });
        Ok(Some(Object::Node(id)))
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
        match self.resources.values().find(|resource| resource.host == host) {
            Some(other) => Err(Refusal::NameTaken { name: host.to_string(), by: Object::Resource(other.id) }),
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

    fn check_peer_address(&self, id: NodeId, address: SocketAddr) -> Result<(), Refusal> {
        match self.nodes.values().find(|node| node.spec.peer_address == address && node.id != id) {
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

    pub(super) fn set_node_admin(&mut self, id: NodeId, admin: AdminState) -> Applied {
        self.node_mut(id)?.admin = admin;
        Ok(None)
    }

    pub(super) fn judge_node(&mut self, id: NodeId, verdict: Verdict, cause: &Cause) -> Applied {
        let now = self.time;
        let node = self.node_mut(id)?;
        if node.verdict != verdict {
            if verdict == Verdict::Down {
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
        if let Some(other) = self.resources.values().find(|r| r.host == settings.control_host) {
            let name = settings.control_host.to_string();
            return Err(Refusal::NameTaken { name, by: Object::Resource(other.id) });
        }
        self.settings = Some(settings.clone());
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
