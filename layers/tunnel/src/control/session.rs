//! One control socket as a state machine: what is known of the connector at the other end, and what it is told.
//! Pure; `socket` feeds it and carries out what it says.
//!
//! Three facts about Newt shape it:
//! - A `connect` makes it rebuild its tunnel and cuts what flows, so it is sent only when asked for, or when the
//!   tunnel has to end elsewhere.
//! - It forgets nothing when its socket breaks. After a reconnect it says its key (`backwardsCompatible`) and the
//!   configuration version that it has; if its tunnel is alive at the right node, neither needs an answer.
//! - It overwrites its configuration version with that of every message, so every message carries it.

use std::collections::BTreeMap;

use pangolin_core::{
    Epoch, NodeId, TargetId, Timestamp,
    observation::{Attachment, TargetHealth},
    plan::{SiteTunnel, TunnelNode},
    record::TunnelKey,
};

use super::{
    config::{SiteConfig, choice, distances, offered},
    messages::{
        BlueprintResult, CHAIN_MAX, ExitNodes, FromConnector, FromNode, HealthStatus, NodeList, NodesWanted,
        Nothing, PingResult, Pong, Refused, Register, parse_key,
    },
};

/// Longest version text that is kept of a connector.
const VERSION_MAX: usize = 64;
/// After so many [`Event::Looked`] in which a Newt did not ask again, it gets without asking what it asked for: it
/// repeats a question every 2 or 3 s, for half a minute, and then waits for good.
const WAIT_LOOKS: u32 = 2;
/// … and when that fails, after one more each time, up to so many: nothing can be committed, and that may last.
const WAIT_LOOKS_MAX: u32 = 4;

/// What the session may look at when something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// The site, as planned; none = it is gone or off.
    pub(super) site: Option<&'a SiteTunnel>,
    /// The nodes that carry tunnels and are up.
    pub(super) nodes: &'a BTreeMap<NodeId, TunnelNode>,
    /// The site's home, or what stands in for it while it does not answer: where the plan has a single-homed
    /// connector's tunnel end.
    pub(super) home: Option<NodeId>,
    /// Where the tunnel of a single-homed connector that asks should end now.
    pub(super) end: Option<NodeId>,
    /// The nodes offered to the site that answer, best first.
    pub(super) usable: &'a [NodeId],
    /// Whether that node has a live tunnel to the site.
    pub(super) carried: bool,
    /// The clock.
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    /// The node that a single-homed connector is to have its tunnel to when it asks.
    fn end(&self) -> Option<(NodeId, &'a TunnelNode)> {
        self.node(self.end?)
    }

    /// A node, if it carries tunnels.
    fn node(&self, id: NodeId) -> Option<(NodeId, &'a TunnelNode)> {
        self.nodes.get(&id).map(|node| (id, node))
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// The connector says something; with the envelope's `configVersion`.
    Received(FromConnector, u64),
    /// The commit that [`Action::Commit`] asked for has ended.
    Committed(Result<(), String>),
    /// The plan may have changed.
    Planned,
    /// The tunnel has to end at this node now, ahead of the plan.
    Moved(NodeId),
    /// Some seconds have gone by.
    Looked,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a few at a time, consumed at once, and mostly the large one")]
pub(super) enum Action {
    /// Say this, with this `configVersion`.
    Send(FromNode, u64),
    /// Have the connector's key committed; takes the place of a commit that is still under way.
    Commit { key: TunnelKey, version: String, multi_homed: bool },
    /// This is known of its tunnel.
    Attachment(Attachment),
    /// Believe this of the site's targets, and of no others.
    Health(BTreeMap<TargetId, TargetHealth>),
    /// The site's connector is leaving.
    Leave,
    /// Close the socket, for this reason.
    Close(&'static str),
}

/// What is known of one connector.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// What it registered as; none before it did.
    identity: Option<Identity>,
    /// It has asked for the nodes, and will register in full.
    will_register: bool,
    /// The version of its program.
    version: String,
    /// A commit is under way.
    pending: Option<Pending>,
    /// It has asked for a tunnel, and was told of none yet.
    waiting: Option<Waiting>,
    /// Where its tunnel ends, as far as it was told here.
    place: Option<Place>,
    /// The targets and checks it has, as far as is known.
    told: Option<Told>,
    /// The nodes it knows, if it is multi-homed and was told.
    nodes: Option<NodeList>,
    /// What it says of its targets.
    health: BTreeMap<TargetId, TargetHealth>,
    /// What is known of its tunnel, as it was told last.
    attachment: Attachment,
    /// How far it is from the nodes, as it has measured.
    distances: BTreeMap<NodeId, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    key: TunnelKey,
    multi_homed: bool,
}

#[derive(Debug)]
struct Pending {
    chain_id: String,
    answer: Answer,
}

/// What became of a question so far.
#[derive(Debug, Default)]
struct Waiting {
    /// How often it was looked at since it was asked, or something was last done about it.
    looks: u32,
    /// How often something was done about it without being asked.
    tries: u32,
}

/// What follows a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// A `connect`.
    Connect,
    /// A `connect`, unless a full registration follows anyway.
    ConnectUnlessAsked,
    /// None.
    Nothing,
}

#[derive(Debug)]
struct Place {
    node: NodeId,
    details: TunnelNode,
    epoch: Epoch,
}

#[derive(Debug)]
struct Told {
    config: SiteConfig,
    /// The version it had when this session first knew what it has. What is between this and the present version is
    /// on its way to it.
    since: u64,
}

impl Session {
    /// What has to be done when `event` happens.
    pub(super) fn on(&mut self, view: &View<'_>, event: Event) -> Vec<Action> {
        let mut actions = self.follow(view, event);
        let end = self.place.as_ref().filter(|_| !self.multi_homed()).map(|place| place.node);
        let attachment = Attachment { end, distances: self.distances.clone() };
        if attachment != self.attachment {
            self.attachment.clone_from(&attachment);
            actions.push(Action::Attachment(attachment));
        }
        actions
    }

    fn follow(&mut self, view: &View<'_>, event: Event) -> Vec<Action> {
        let Some(site) = view.site else {
            return match event {
                Event::Planned => vec![
                    Action::Send(FromNode::Terminate(Nothing {}), 1),
                    Action::Close("the site is gone or switched off"),
                ],
                _ => Vec::new(),
            };
        };
        match event {
            Event::Received(FromConnector::Ping(_), version) => self.ping(view, site, version),
            Event::Received(FromConnector::NodesWanted(wanted), _) => self.nodes_wanted(view, site, wanted),
            Event::Received(FromConnector::Register(register), _) => self.register(view, site, register),
            Event::Received(FromConnector::HealthStatus(status), _) => self.hear_health(site, &status),
            Event::Received(FromConnector::Blueprint(_), _) => {
                let message = "blueprints are not taken here: publish with pangolinctl or the API".to_owned();
                let refused = FromNode::BlueprintResult(BlueprintResult { success: false, message });
                vec![Action::Send(refused, version_of(site))]
            }
            Event::Received(FromConnector::Disconnecting(_), _) => {
                vec![Action::Leave, Action::Close("the connector is leaving")]
            }
            Event::Received(FromConnector::Distances(told), _) => {
                self.measured(view, &told.ping_results);
                Vec::new()
            }
            Event::Committed(result) => self.committed(view, site, result),
            Event::Planned => self.planned(view, site),
            Event::Moved(node) => self.moved(view, site, node),
            Event::Looked => self.looked(view, site),
        }
    }

    fn ping(&mut self, view: &View<'_>, site: &SiteTunnel, version: u64) -> Vec<Action> {
        let current = version_of(site);
        let pong = FromNode::Pong(Pong { timestamp: rfc3339(view.now) });
        let mut actions = vec![Action::Send(pong, current)];
        let in_step = match &self.told {
            Some(told) => (told.since..=current).contains(&version),
            None => version == current,
        };
        // A connector without configuration has no tunnel; it gets all with its connect.
        if version == 0 {
            return actions;
        }
        if !in_step {
            actions.extend(
                SiteConfig::of(site).sync().into_iter().map(|message| Action::Send(message, current)),
            );
        }
        if !in_step || self.told.is_none() {
            self.told = Some(Told { config: SiteConfig::of(site), since: current });
        }
        actions
    }

    fn nodes_wanted(&mut self, view: &View<'_>, site: &SiteTunnel, wanted: NodesWanted) -> Vec<Action> {
        self.will_register = true;
        self.waiting = Some(Waiting::default());
        let before = self.place.take().map(|place| place.node);
        // A Newt that gets an empty list stops asking, so without a node there is no answer.
        let Some((id, _)) = view.end() else { return Vec::new() };
        if wanted.chain_id.len() > CHAIN_MAX {
            return vec![Action::Close("the chainId is too long")];
        }
        let exit_nodes = choice(id, view.usable, view.nodes, before);
        let nodes = ExitNodes { exit_nodes, chain_id: wanted.chain_id };
        vec![Action::Send(FromNode::ExitNodes(nodes), version_of(site))]
    }

    fn register(&mut self, view: &View<'_>, site: &SiteTunnel, register: Register) -> Vec<Action> {
        let Some(key) = parse_key(&register.public_key) else {
            return vec![Action::Close("the publicKey is not a WireGuard key: 32 bytes in base64")];
        };
        if register.chain_id.len() > CHAIN_MAX {
            return vec![Action::Close("the chainId is too long")];
        }
        // A Newt that was offered one node has not measured how far it is.
        let results = register.ping_results.as_deref().unwrap_or_default();
        if results.len() > 1 || register.multi_homed {
            self.measured(view, results);
        }
        let identity = Identity { key, multi_homed: register.multi_homed };
        let repeated = self.pending.is_some() && self.identity == Some(identity);
        self.identity = Some(identity);
        cut(&register.newt_version, VERSION_MAX).clone_into(&mut self.version);
        self.waiting = Some(Waiting::default());
        // While its first commit is under way, the plan may know a key that the other nodes do not have yet.
        let under_way = self.pending.as_ref().is_some_and(|pending| pending.answer != Answer::Nothing);
        let known =
            site.key == Some(key) && site.multi_homed == identity.multi_homed && !(repeated && under_way);
        let mut actions = Vec::new();
        // The key of a registration that changes nothing is installed on every node, so the answer waits for nothing:
        // a Newt whose node died gets its tunnel back even while nothing can be committed.
        let answer = match (register.backwards_compatible, known) {
            (false, false) => Answer::Connect,
            (true, false) => Answer::ConnectUnlessAsked,
            (false, true) => {
                actions.extend(self.connect(view, site, register.chain_id.clone()));
                Answer::Nothing
            }
            (true, true) if view.carried => {
                self.place = view.end().map(|end| place(end, site.epoch));
                self.waiting = None;
                Answer::Nothing
            }
            (true, true) => {
                if !self.will_register {
                    actions.extend(self.connect(view, site, register.chain_id.clone()));
                }
                Answer::Nothing
            }
        };
        if repeated && let Some(pending) = &mut self.pending {
            if answer != Answer::Nothing && pending.answer != Answer::Connect {
                pending.answer = answer;
            }
            pending.chain_id = register.chain_id;
            return actions;
        }
        self.pending = Some(Pending { chain_id: register.chain_id, answer });
        actions.push(self.commit(identity));
        actions
    }

    fn commit(&self, Identity { key, multi_homed }: Identity) -> Action {
        Action::Commit { key, version: self.version.clone(), multi_homed }
    }

    fn committed(&mut self, view: &View<'_>, site: &SiteTunnel, result: Result<(), String>) -> Vec<Action> {
        let Some(pending) = self.pending.take() else { return Vec::new() };
        let wanted = match pending.answer {
            Answer::Connect => true,
            Answer::ConnectUnlessAsked => !self.will_register,
            Answer::Nothing => false,
        };
        match result {
            _ if !wanted => Vec::new(),
            Ok(()) => self.connect(view, site, pending.chain_id),
            // A Newt has no message for it. It repeats its registration by itself, and when it does not any more, so
            // does this end.
            Err(_) if !self.multi_homed() => Vec::new(),
            Err(reason) => {
                let refused = Refused { reason, chain_id: pending.chain_id };
                vec![Action::Send(FromNode::Refused(refused), version_of(site))]
            }
        }
    }

    fn planned(&mut self, view: &View<'_>, site: &SiteTunnel) -> Vec<Action> {
        let version = version_of(site);
        let before = self.health.clone();
        let mut actions = self.health_since(site, &before);
        if let Some(pushed) = self.follow_home(view, site) {
            actions.extend(pushed);
            return actions;
        }
        if let Some(told) = &mut self.told {
            let config = SiteConfig::of(site);
            actions.extend(
                told.config.changes(&config).into_iter().map(|message| Action::Send(message, version)),
            );
            told.config = config;
        }
        if let Some(known) = &mut self.nodes {
            let nodes = NodeList { nodes: offered(site, view.nodes) };
            if nodes != *known {
                known.clone_from(&nodes);
                actions.push(Action::Send(FromNode::Nodes(nodes), version));
            }
        }
        actions
    }

    /// Pushes a single-homed connector to its new home, if it has one: placed anew, or the same with another address
    /// or key. Only the connector that the nodes know by its key is pushed; another one that uses the same
    /// credentials would find no peer there.
    fn follow_home(&mut self, view: &View<'_>, site: &SiteTunnel) -> Option<Vec<Action>> {
        if self.multi_homed() || self.identity.map(|identity| identity.key) != site.key {
            return None;
        }
        let (home, _) = view.node(view.home?)?;
        let place = self.place.as_mut()?;
        let moved = site.epoch > place.epoch && home != place.node;
        let changed = view.nodes.get(&place.node).is_some_and(|node| !same_tunnel(node, &place.details));
        place.epoch = place.epoch.max(site.epoch);
        let target = match (moved, changed) {
            (false, false) => return None,
            (true, _) => home,
            (false, true) => place.node,
        };
        Some(self.connect_to(view, site, target, String::new()))
    }

    fn moved(&mut self, view: &View<'_>, site: &SiteTunnel, node: NodeId) -> Vec<Action> {
        let there = self.place.as_ref().is_some_and(|place| place.node == node);
        let mine = self.identity.is_some_and(|identity| site.key == Some(identity.key));
        if there || !mine || self.multi_homed() {
            return Vec::new();
        }
        self.connect_to(view, site, node, String::new())
    }

    /// A connector without any measurement says nothing of distances, and what was known stays.
    fn measured(&mut self, view: &View<'_>, results: &[PingResult]) {
        let measured = distances(results, view.nodes);
        if !measured.is_empty() {
            self.distances = measured;
        }
    }

    /// A Newt whose question was not answered in time does not repeat it any more. What it takes at any moment is a
    /// `connect` without a chain.
    fn looked(&mut self, view: &View<'_>, site: &SiteTunnel) -> Vec<Action> {
        let single = self.identity.filter(|identity| !identity.multi_homed);
        let (Some(identity), Some(waiting), None) = (single, &mut self.waiting, &self.pending) else {
            return Vec::new();
        };
        waiting.looks += 1;
        if waiting.looks < WAIT_LOOKS.saturating_add(waiting.tries).min(WAIT_LOOKS_MAX) {
            return Vec::new();
        }
        (waiting.looks, waiting.tries) = (0, waiting.tries.saturating_add(1));
        if site.key == Some(identity.key) && !site.multi_homed {
            return self.connect(view, site, String::new());
        }
        self.pending = Some(Pending { chain_id: String::new(), answer: Answer::Connect });
        vec![self.commit(identity)]
    }

    fn connect(&mut self, view: &View<'_>, site: &SiteTunnel, chain_id: String) -> Vec<Action> {
        let Some((end, _)) = view.end() else { return Vec::new() };
        self.connect_to(view, site, end, chain_id)
    }

    fn connect_to(
        &mut self,
        view: &View<'_>,
        site: &SiteTunnel,
        id: NodeId,
        chain_id: String,
    ) -> Vec<Action> {
        let Some(node) = view.nodes.get(&id) else { return Vec::new() };
        let config = SiteConfig::of(site);
        let nodes = self.multi_homed().then(|| offered(site, view.nodes));
        self.nodes = nodes.clone().map(|nodes| NodeList { nodes });
        let connect = config.connect(site, (id, node), nodes, chain_id);
        let version = version_of(site);
        self.will_register = false;
        self.waiting = None;
        self.place = Some(place((id, node), site.epoch));
        self.told = Some(Told { config, since: version });
        vec![Action::Send(connect, version)]
    }

    /// Takes what a status message says of the site's own targets; nobody may speak for others'. A check that has just
    /// been started again says `unknown`, which changes nothing.
    fn hear_health(&mut self, site: &SiteTunnel, status: &HealthStatus) -> Vec<Action> {
        let before = self.health.clone();
        for target in site.targets.iter().filter(|target| target.health_check.is_some()) {
            let health = match status.targets.get(&target.id.to_string()).map(|said| said.status.as_str()) {
                Some("healthy") => TargetHealth::Healthy,
                Some("unhealthy") => TargetHealth::Unhealthy,
                _ => continue,
            };
            self.health.insert(target.id, health);
        }
        self.health_since(site, &before)
    }

    /// Forgets targets that are not checked any more, and tells if anything differs from `before`.
    fn health_since(&mut self, site: &SiteTunnel, before: &BTreeMap<TargetId, TargetHealth>) -> Vec<Action> {
        self.health.retain(|id, _| {
            site.targets.iter().any(|target| target.id == *id && target.health_check.is_some())
        });
        if self.health == *before { Vec::new() } else { vec![Action::Health(self.health.clone())] }
    }

    fn multi_homed(&self) -> bool {
        self.identity.is_some_and(|identity| identity.multi_homed)
    }
}

fn place((node, details): (NodeId, &TunnelNode), epoch: Epoch) -> Place {
    Place { node, details: details.clone(), epoch }
}

/// Whether a tunnel made with one of them is a tunnel to the other.
fn same_tunnel(a: &TunnelNode, b: &TunnelNode) -> bool {
    (&a.endpoint, a.key, a.address) == (&b.endpoint, b.key, b.address)
}

/// A connector takes 0 for none.
fn version_of(site: &SiteTunnel) -> u64 {
    site.config_version.max(1)
}

/// The longest start of a text with at most `most` bytes.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

fn rfc3339(now: Timestamp) -> String {
    let seconds = i64::try_from(now.0 / 1000).unwrap_or_default();
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
