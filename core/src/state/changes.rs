//! What differs between two states: what a command has changed, whichever command it was.
//!
//! The maps are persistent, so that only what is not shared between the two states is looked at.

mod dns;
mod fabric;
mod issuance;
mod keyring;
mod traffic;

use imbl::{OrdMap, ordmap::DiffItem};

use crate::{
    command::Body,
    decision::{Aspect, CHANGES_MAX, Change, Edit, NodeName, Subject, VALUE_MAX, What, cut},
    id::{CertificateId, NodeId},
    keyring::KeyringChange,
    name::{HostName, Slug},
    outcome::Object,
    record::{
        ApiKey, Autopilot, Certificate, Connector, Digest, Domain, HealthCheck, JoinToken, KeyScope, Method,
        Node, Org, Placement, RecordKind, RecordSet, RecoveryPublic, Resource, Role, Settings, Site, Target,
        Upgrade, UpgradeNode, UpgradeStep, User,
    },
    state::ClusterState,
};

impl ClusterState {
    /// What leads from this state to a later one, which a command has made.
    pub(super) fn changes_to(&self, after: &Self, body: &Body) -> Changed {
        let found = after.happened(body).into_iter().collect();
        let mut changes = Changes { before: self, after, found: Changed { first: found, more: 0 } };
        // With which key something is sealed concerns nobody.
        if matches!(body, Body::Keyring(change) if matches!(**change, KeyringChange::Rewrapped(_))) {
            return changes.found;
        }
        changes.cluster();
        changes.nodes();
        changes.people();
        changes.sites();
        changes.published();
        changes.dns();
        changes.issuance();
        changes.keyring();
        changes.traffic();
        changes.fabric();
        changes.found
    }

    /// What a command tells of itself, that the records do not show.
    fn happened(&self, body: &Body) -> Option<Change> {
        let what = match body {
            Body::LeadershipHanded { from, to } if from != to => {
                What::Handed { from: self.node_name(*from), to: self.node_name(*to) }
            }
            Body::LineageBegun(begun) => What::LineageBegun { lineage: begun.lineage, from: begun.from },
            Body::CatalogReplaced { from, .. } => What::Restored { from: *from },
            _ => return None,
        };
        let cluster = Subject { object: Object::Cluster, name: String::new(), org: None };
        Some(Change { subject: cluster, what })
    }

    /// A node by the name that it has here, or had when it left.
    pub(crate) fn node_name(&self, id: NodeId) -> NodeName {
        let known = self.nodes.get(&id).map(|node| node.spec.name.to_string());
        let name = known.or_else(|| {
            let left = self.decisions.latest(&Object::Node(id), Aspect::Existence)?;
            left.name_of(id).map(str::to_owned)
        });
        NodeName { id, name: name.unwrap_or_default() }
    }

    /// The organisation that publishes under the domain which holds a name; none for the cluster's own zone.
    pub(crate) fn owner_of(&self, name: &HostName) -> Option<&Slug> {
        let holding = self.domains.values().filter(|domain| name.is_within(&domain.name));
        holding.max_by_key(|domain| domain.name.as_str().len()).map(|domain| &domain.org)
    }
}

/// What a command has changed.
pub(super) struct Changed {
    /// The first changes, as many as a decision tells one by one.
    pub(super) first: Vec<Change>,
    /// How many more there are: a restored catalog may bring a hundred thousand.
    pub(super) more: u32,
}

impl Changed {
    fn is_full(&self) -> bool {
        self.first.len() >= CHANGES_MAX
    }

    fn push(&mut self, change: impl FnOnce() -> Change) {
        match self.is_full() {
            true => self.more = self.more.saturating_add(1),
            false => self.first.push(change()),
        }
    }
}

/// The changes found so far.
struct Changes<'a> {
    before: &'a ClusterState,
    after: &'a ClusterState,
    found: Changed,
}

/// A record that can be the subject of a change.
trait Record: Clone + PartialEq {
    fn subject(&self, state: &ClusterState) -> Subject;

    /// What happened between two forms of it.
    fn changes(&self, after: &Self, states: (&ClusterState, &ClusterState)) -> Vec<What>;
}

/// Collects the values that differ.
#[derive(Default)]
struct Edits(Vec<Edit>);

impl Edits {
    fn value<T: PartialEq>(
        mut self,
        field: &str,
        before: &T,
        after: &T,
        text: impl Fn(&T) -> String,
    ) -> Self {
        if before != after {
            let [before, after] = [before, after].map(|value| cut(&text(value), VALUE_MAX));
            self.0.push(Edit { field: field.to_owned(), before, after });
        }
        self
    }

    fn text<T: PartialEq + ToString>(self, field: &str, before: &T, after: &T) -> Self {
        self.value(field, before, after, ToString::to_string)
    }

    fn optional<T: PartialEq + ToString>(self, field: &str, before: &Option<T>, after: &Option<T>) -> Self {
        self.value(field, before, after, |value| value.as_ref().map(ToString::to_string).unwrap_or_default())
    }

    fn flag(self, field: &str, before: bool, after: bool) -> Self {
        self.value(field, &before, &after, |flag| if *flag { "yes" } else { "no" }.to_owned())
    }

    fn secret(self, field: &str, before: Digest, after: Digest) -> Self {
        self.value(field, &before, &after, |_| String::new())
    }

    /// Something changed that is not told value by value.
    fn secret_of(self, field: &str) -> Self {
        self.secret(field, Digest([0; 32]), Digest([1; 32]))
    }

    fn done(self) -> Option<What> {
        (!self.0.is_empty()).then_some(What::Edited(self.0))
    }
}

impl Changes<'_> {
    fn push(&mut self, subject: Subject, what: What) {
        self.found.push(|| Change { subject, what });
    }

    fn records<K: Ord, V: Record>(&mut self, of: impl Fn(&ClusterState) -> &OrdMap<K, V>) {
        let (before, after) = (self.before, self.after);
        let (old, new) = (of(before), of(after));
        if old.ptr_eq(new) {
            return;
        }
        for item in old.diff(new) {
            match item {
                DiffItem::Add(_, record) => {
                    self.found.push(|| Change { subject: record.subject(after), what: What::Made });
                }
                DiffItem::Remove(_, record) => {
                    self.found.push(|| Change { subject: record.subject(before), what: What::Gone });
                }
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    for what in old.changes(new, (before, after)) {
                        self.found.push(|| Change { subject: new.subject(after), what });
                    }
                }
            }
        }
    }

    fn cluster(&mut self) {
        let (before, after) = (self.before, self.after);
        let cluster = || Subject { object: Object::Cluster, name: String::new(), org: None };
        if before.cluster.is_none() && after.cluster.is_some() {
            self.push(cluster(), What::Made);
        }
        if let (Some(old), Some(new)) = (&before.settings, &after.settings)
            && let Some(edits) = settings_edits(old, new)
        {
            self.push(cluster(), edits);
        }
        // The first level is the cluster's from its beginning.
        let level = Edits::default().text("feature level", &before.feature_level, &after.feature_level);
        if let Some(edits) = level.done().filter(|_| before.cluster.is_some()) {
            self.push(cluster(), edits);
        }
        let stage = |upgrade: &Option<Upgrade>| match upgrade {
            None => "none",
            Some(Upgrade { rollback: false, .. }) => "under way",
            Some(Upgrade { rollback: true, .. }) => "being rolled back",
        };
        let (old, new) = (stage(&before.upgrade), stage(&after.upgrade));
        if let Some(edits) = Edits::default().text("upgrade", &old, &new).done() {
            self.push(cluster(), edits);
        }
        if let Some(edits) = autopilot_edits(&before.autopilot, &after.autopilot) {
            self.push(cluster(), edits);
        }
        let key = |state: &ClusterState| state.recovery_key();
        let named = |key: &Option<RecoveryPublic>| {
            key.iter().flat_map(|key| &key.0[..4]).map(|byte| format!("{byte:02x}")).collect()
        };
        if let Some(edits) = Edits::default().value("recovery key", &key(before), &key(after), named).done() {
            self.push(cluster(), edits);
        }
        if let Some(leads) = after.leadership
            && before.leadership.is_none_or(|known| (known.term, known.node) != (leads.term, leads.node))
        {
            let earlier = before.leadership.map(|known| before.node_name(known.node));
            let leader = after.node_name(leads.node);
            self.push(cluster(), What::Leads { term: leads.term, leader, before: earlier });
        }
    }

    fn nodes(&mut self) {
        self.records(|state| &state.nodes);
        let (before, after) = (self.before, self.after);
        if let (Some(old), Some(new)) = (&before.upgrade, &after.upgrade) {
            let step = |node: &UpgradeNode| match node.step {
                UpgradeStep::Waiting => "waiting",
                UpgradeStep::UnderWay => "under way",
                UpgradeStep::Done => "done",
            };
            for (id, node) in &new.nodes {
                let known = old.nodes.get(id).map_or("", step);
                let edits = Edits::default().text("upgrade", &known, &step(node)).done();
                if let (Some(edits), Some(node)) = (edits, after.nodes.get(id)) {
                    self.push(node.subject(after), edits);
                }
            }
        }
        self.records(|state| &state.tokens);
    }

    fn people(&mut self) {
        self.records(|state| &state.orgs);
        self.records(|state| &state.users);
        self.records(|state| &state.roles);
        self.records(|state| &state.api_keys);
    }

    fn sites(&mut self) {
        let (before, after) = (self.before, self.after);
        self.records(|state| &state.sites);
        let of_site = |id| after.sites.get(id).map(|site| site.subject(after));
        if !before.placements.ptr_eq(&after.placements) {
            for item in before.placements.diff(&after.placements) {
                let (id, old, new) = match item {
                    DiffItem::Add(id, new) => (id, None, new),
                    DiffItem::Update { old: (_, old), new: (id, new) } => (id, Some(old), new),
                    // Where a site is gone, so is its placement: no news.
                    DiffItem::Remove(..) => continue,
                };
                if let Some(subject) = of_site(id) {
                    self.push(subject, placed(old, new, after));
                }
            }
        }
        if !before.connectors.ptr_eq(&after.connectors) {
            for item in before.connectors.diff(&after.connectors) {
                let (id, old, new) = match item {
                    DiffItem::Add(id, new) => (id, None, new),
                    DiffItem::Update { old: (_, old), new: (id, new) } => (id, Some(old), new),
                    DiffItem::Remove(..) => continue,
                };
                if let (Some(subject), Some(what)) = (of_site(id), registered(old, new)) {
                    self.push(subject, what);
                }
            }
        }
    }

    fn published(&mut self) {
        let (before, after) = (self.before, self.after);
        self.records(|state| &state.domains);
        self.records(|state| &state.resources);
        self.records(|state| &state.targets);
        if !before.record_sets.ptr_eq(&after.record_sets) {
            for item in before.record_sets.diff(&after.record_sets) {
                let ((name, kind), old, new) = match item {
                    DiffItem::Add(key, new) => (key, None, Some(new)),
                    DiffItem::Update { old: (_, old), new: (key, new) } => (key, Some(old), Some(new)),
                    DiffItem::Remove(key, old) => (key, Some(old), None),
                };
                let org = after.owner_of(name).or_else(|| before.owner_of(name)).cloned();
                let subject = Subject { object: Object::RecordSet(name.clone()), name: String::new(), org };
                self.push(subject, record_set_edit(*kind, old, new));
            }
        }
        if !before.certificates.ptr_eq(&after.certificates) {
            for item in before.certificates.diff(&after.certificates) {
                let (certificate, what) = match item {
                    // Its key is sealed anew: nothing that concerns anybody else.
                    DiffItem::Update { old: (_, old), new: (_, new) } if old.generation == new.generation => {
                        continue;
                    }
                    DiffItem::Add(_, new) | DiffItem::Update { new: (_, new), .. } => {
                        let Certificate { generation, not_after, .. } = *new;
                        (new, What::Issued { generation, not_after })
                    }
                    DiffItem::Remove(_, old) => (old, What::Gone),
                };
                let subject = certificate_subject(certificate, after);
                self.push(subject, what);
            }
        }
    }
}

fn autopilot_edits(before: &Autopilot, after: &Autopilot) -> Option<What> {
    let millis = |value: &u32| format!("{value} ms");
    let seconds =
        |value: &Option<u32>| value.map_or_else(|| "never".to_owned(), |value| format!("{value} s"));
    Edits::default()
        .value("a learner votes after", &before.stable_ms, &after.stable_ms, millis)
        .value(
            "a voter that is down is replaced after",
            &before.exchange_after_s,
            &after.exchange_after_s,
            seconds,
        )
        .value("a node that is down is removed after", &before.remove_after_s, &after.remove_after_s, seconds)
        .done()
}

fn settings_edits(before: &Settings, after: &Settings) -> Option<What> {
    let Settings { zone, control_host, tunnel_network, ttl } = before;
    Edits::default()
        .text("zone", zone, &after.zone)
        .text("control host", control_host, &after.control_host)
        .text("tunnel network", tunnel_network, &after.tunnel_network)
        .text("TTL", ttl, &after.ttl)
        .done()
}

fn placed(old: Option<&Placement>, new: &Placement, after: &ClusterState) -> What {
    What::Placed {
        home: after.node_name(new.home),
        from: old.map(|old| after.node_name(old.home)),
        standbys: new.standbys.iter().map(|id| after.node_name(*id)).collect(),
        epoch: new.epoch,
    }
}

fn registered(old: Option<&Connector>, new: &Connector) -> Option<What> {
    let Connector { tunnel_key, version, multi_homed, since: _ } = new;
    match old {
        Some(old) if old.tunnel_key == *tunnel_key => Edits::default()
            .text("version of the connector", &old.version, version)
            .flag("tunnels to several nodes", old.multi_homed, *multi_homed)
            .done(),
        _ => Some(What::Registered {
            version: version.clone(),
            multi_homed: *multi_homed,
            first: old.is_none(),
        }),
    }
}

fn record_set_edit(kind: RecordKind, old: Option<&RecordSet>, new: Option<&RecordSet>) -> What {
    let text = |set: Option<&RecordSet>| {
        set.map(|set| {
            let data: Vec<String> = set.data.iter().map(ToString::to_string).collect();
            cut(&format!("{} (TTL {})", data.join(", "), set.ttl), VALUE_MAX)
        })
        .unwrap_or_default()
    };
    let field = kind.to_string();
    What::Edited(vec![Edit { field, before: text(old), after: text(new) }])
}

fn certificate_subject(certificate: &Certificate, state: &ClusterState) -> Subject {
    certificate_named(certificate.id, &certificate.names, state)
}

fn certificate_named(id: CertificateId, names: &[HostName], state: &ClusterState) -> Subject {
    let org = names.iter().find_map(|name| state.owner_of(name)).cloned();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    Subject { object: Object::Certificate(id), name: names.join(", "), org }
}

impl Record for Node {
    fn subject(&self, _: &ClusterState) -> Subject {
        Subject { object: Object::Node(self.id), name: self.spec.name.to_string(), org: None }
    }

    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        let (old, new) = (&self.spec, &after.spec);
        let addresses = |addresses: &Vec<std::net::IpAddr>| {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let judged = (self.verdict != after.verdict).then_some(What::Judged(after.verdict));
        let wanted = (self.admin != after.admin).then_some(What::Wanted(after.admin));
        let edited = Edits::default()
            .text("name", &old.name, &new.name)
            .text("peer address", &old.peer_address, &new.peer_address)
            .secret("certificate key", old.spki, new.spki)
            .value("public addresses", &old.public_addresses, &new.public_addresses, addresses)
            .text("HTTPS port", &old.https_port, &new.https_port)
            .text("tunnel endpoint", &old.tunnel_endpoint, &new.tunnel_endpoint)
            .secret("tunnel key", Digest(old.tunnel_key.0), Digest(new.tunnel_key.0))
            .optional("region", &old.region, &new.region)
            .text("version", &old.version, &new.version)
            .text("highest feature level", &old.feature_level, &new.feature_level)
            .flag("votes by an operator's wish", self.promoted, after.promoted)
            .optional("replaced by", &self.replaced_by, &after.replaced_by)
            .done();
        judged.into_iter().chain(wanted).chain(edited).collect()
    }
}

impl Record for JoinToken {
    fn subject(&self, _: &ClusterState) -> Subject {
        Subject { object: Object::Token(self.id), name: String::new(), org: None }
    }

    fn changes(&self, after: &Self, (_, state): (&ClusterState, &ClusterState)) -> Vec<What> {
        // The same id with another content is another token.
        let another = (Self { used: after.used, ..self.clone() } != *after).then_some(What::Made);
        let used = after.used.filter(|_| self.used.is_none());
        another.into_iter().chain(used.map(|(_, node)| What::Used(state.node_name(node)))).collect()
    }
}

impl Record for Org {
    fn subject(&self, _: &ClusterState) -> Subject {
        Subject { object: Object::Org(self.id.clone()), name: self.name.clone(), org: Some(self.id.clone()) }
    }

    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        Edits::default().text("name", &self.name, &after.name).done().into_iter().collect()
    }
}

impl Record for User {
    fn subject(&self, _: &ClusterState) -> Subject {
        Subject { object: Object::User(self.id), name: self.email.clone(), org: None }
    }

    fn changes(
        &self,
        after: &Self,
        (before_state, after_state): (&ClusterState, &ClusterState),
    ) -> Vec<What> {
        let memberships = |user: &Self, state: &ClusterState| {
            let memberships = user.memberships.iter().map(|(org, roles)| {
                let roles = roles.iter().filter_map(|id| state.roles.get(id)).map(|role| role.name.as_str());
                format!("{org} ({})", roles.collect::<Vec<_>>().join(", "))
            });
            memberships.collect::<Vec<_>>().join(", ")
        };
        let (old, new) = (memberships(self, before_state), memberships(after, after_state));
        Edits::default()
            .text("name", &self.name, &after.name)
            .flag("administrator", self.administrator, after.administrator)
            .text("memberships", &old, &new)
            .done()
            .into_iter()
            .collect()
    }
}

impl Record for Role {
    fn subject(&self, _: &ClusterState) -> Subject {
        let name = format!("{}/{}", self.org, self.name);
        Subject { object: Object::Role(self.id), name, org: Some(self.org.clone()) }
    }

    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        Edits::default().text("name", &self.name, &after.name).done().into_iter().collect()
    }
}

impl Record for ApiKey {
    fn subject(&self, _: &ClusterState) -> Subject {
        let org = match &self.scope {
            KeyScope::Cluster => None,
            KeyScope::Org(org) => Some(org.clone()),
        };
        Subject { object: Object::ApiKey(self.id.clone()), name: self.name.clone(), org }
    }

    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        Edits::default().text("name", &self.name, &after.name).done().into_iter().collect()
    }
}

impl Record for Site {
    fn subject(&self, _: &ClusterState) -> Subject {
        let name = format!("{}/{}", self.org, self.nice_id);
        Subject { object: Object::Site(self.id), name, org: Some(self.org.clone()) }
    }

    /// The count of its connector's configurations is no news: it follows from other changes.
    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        Edits::default()
            .text("name", &self.name, &after.name)
            .flag("enabled", self.enabled, after.enabled)
            .text("connector id", &self.connector_id, &after.connector_id)
            .secret("credentials of the connector", self.connector_secret, after.connector_secret)
            .text("address", &self.address, &after.address)
            .done()
            .into_iter()
            .collect()
    }
}

impl Record for Domain {
    fn subject(&self, _: &ClusterState) -> Subject {
        let org = Some(self.org.clone());
        Subject { object: Object::Domain(self.id), name: self.name.to_string(), org }
    }

    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        Edits::default().text("name", &self.name, &after.name).done().into_iter().collect()
    }
}

impl Record for Resource {
    fn subject(&self, _: &ClusterState) -> Subject {
        let org = Some(self.org.clone());
        Subject { object: Object::Resource(self.id), name: self.host.to_string(), org }
    }

    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        Edits::default()
            .text("name", &self.name, &after.name)
            .text("host", &self.host, &after.host)
            .flag("enabled", self.enabled, after.enabled)
            .done()
            .into_iter()
            .collect()
    }
}

/// How a method is written in an address.
pub(crate) fn scheme(method: Method) -> &'static str {
    match method {
        Method::Http => "http",
        Method::Https => "https",
        Method::H2c => "h2c",
        Method::Tcp => "tcp",
        Method::Udp => "udp",
    }
}

impl Record for Target {
    fn subject(&self, state: &ClusterState) -> Subject {
        let resource = state.resources.get(&self.resource);
        let site = state.sites.get(&self.site);
        let mut name = format!("{}://{}:{}", scheme(self.method), self.host, self.port);
        if let Some(site) = site {
            name.push_str(&format!(" behind {}/{}", site.org, site.nice_id));
        }
        if let Some(resource) = resource {
            name.push_str(&format!(" for {}", resource.host));
        }
        let org = resource.map(|resource| &resource.org).or(site.map(|site| &site.org)).cloned();
        Subject { object: Object::Target(self.id), name, org }
    }

    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        let check = |check: &Option<HealthCheck>| {
            let Some(check) = check else { return "none".to_owned() };
            let path = check.path.as_deref().unwrap_or("a connection");
            format!(
                "{path} every {} s, {} s each, {} times",
                check.interval, check.timeout, check.unhealthy_threshold
            )
        };
        Edits::default()
            .value("method", &self.method, &after.method, |method| scheme(*method).to_owned())
            .text("host", &self.host, &after.host)
            .text("port", &self.port, &after.port)
            .flag("enabled", self.enabled, after.enabled)
            .value("health check", &self.health_check, &after.health_check, check)
            .done()
            .into_iter()
            .collect()
    }
}
