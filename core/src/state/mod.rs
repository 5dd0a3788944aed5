//! All commands applied so far.
//!
//! Architecture invariant: `apply` never fails and never panics. Whatever a command asks, the answer is an
//! [`Outcome`], and it is the same on every node. The maps are persistent, so that a snapshot is a cheap clone.

mod catalog;
mod certificates;
mod changes;
mod decisions;
mod dns;
mod encoding;
mod fabric;
mod index;
mod issuance;
mod issuers;
mod keyring;
mod lineage;
mod naming;
mod nodes;
mod requests;
mod restore;
mod rollover;
mod sites;
mod traffic;
mod upgrade;

use std::net::Ipv4Addr;

pub(crate) use changes::scheme;
pub use decisions::{Decisions, PER_KIND_MAX, PER_TOPIC_MAX, RECENT_MAX};
use imbl::OrdMap;
use index::Index;
pub use lineage::begin_index;
pub use requests::{REQUEST_LIFETIME, REQUESTS_MAX};
pub use restore::{CATALOG_MAX, Catalog, STAGED_PART_MAX};

use crate::{
    codec::CodecError,
    command::{Body, Command, Fence},
    dns::Dns,
    fabric::Fabric,
    feature::FeatureLevel,
    id::{
        CertificateId, DomainId, Epoch, NodeId, RequestId, ResourceId, Revision, RoleId, SiteId, TargetId,
        TokenId, UserId,
    },
    issuance::Issuance,
    keyring::Keys,
    name::{HostName, Slug},
    outcome::{Outcome, Refusal},
    record::{
        ApiKey, Autopilot, Certificate, Cluster, Connector, Digest, Domain, JoinToken, Leadership, Node, Org,
        Placement, RecordKind, RecordSet, RecoveryPublic, Resource, Role, Settings, Site, Target, Upgrade,
        User,
    },
    rollover::Rollovers,
    time::Timestamp,
    traffic::Traffic,
};
use requests::Requests;
use restore::Staged;

/// The state of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    revision: Revision,
    time: Timestamp,
    sequence: u64,
    cluster: Option<Cluster>,
    settings: Option<Settings>,
    leadership: Option<Leadership>,
    nodes: OrdMap<NodeId, Node>,
    tokens: OrdMap<TokenId, JoinToken>,
    orgs: OrdMap<Slug, Org>,
    users: OrdMap<UserId, User>,
    roles: OrdMap<RoleId, Role>,
    api_keys: OrdMap<String, ApiKey>,
    sites: OrdMap<SiteId, Site>,
    domains: OrdMap<DomainId, Domain>,
    resources: OrdMap<ResourceId, Resource>,
    targets: OrdMap<TargetId, Target>,
    record_sets: OrdMap<(HostName, RecordKind), RecordSet>,
    placements: OrdMap<SiteId, Placement>,
    connectors: OrdMap<SiteId, Connector>,
    certificates: OrdMap<CertificateId, Certificate>,
    requests: Requests,
    feature_level: FeatureLevel,
    upgrade: Option<Upgrade>,
    recovery: Option<RecoveryPublic>,
    /// The highest epoch of sites that are gone: one that comes back from a backup begins above it.
    epoch_floor: Epoch,
    staged: Option<Staged>,
    autopilot: Autopilot,
    decisions: Decisions,
    dns: Dns,
    issuance: Issuance,
    keys: Keys,
    traffic: Traffic,
    rollovers: Rollovers,
    fabric: Fabric,
    /// Follows from the records.
    index: Index,
    /// What the version that is made for tests of upgrades adds to this one.
    #[cfg(pangolin_next)]
    notes: u64,
}

macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> &$type {
            &self.$name
        }
    )*};
}

impl ClusterState {
    readers! {
        /// The nodes.
        nodes: OrdMap<NodeId, Node>;
        /// Join tokens, used ones as long as they would have lived.
        tokens: OrdMap<TokenId, JoinToken>;
        /// Organisations.
        orgs: OrdMap<Slug, Org>;
        /// Users.
        users: OrdMap<UserId, User>;
        /// Roles.
        roles: OrdMap<RoleId, Role>;
        /// API keys by their public half.
        api_keys: OrdMap<String, ApiKey>;
        /// Sites.
        sites: OrdMap<SiteId, Site>;
        /// Domains.
        domains: OrdMap<DomainId, Domain>;
        /// Resources.
        resources: OrdMap<ResourceId, Resource>;
        /// Targets.
        targets: OrdMap<TargetId, Target>;
        /// Record sets of the operator's own.
        record_sets: OrdMap<(HostName, RecordKind), RecordSet>;
        /// Where sites' tunnels end.
        placements: OrdMap<SiteId, Placement>;
        /// The connectors that last registered.
        connectors: OrdMap<SiteId, Connector>;
        /// Certificates.
        certificates: OrdMap<CertificateId, Certificate>;
        /// What is kept about DNS beside the record sets.
        dns: Dns;
        /// What is kept about traffic beside resources and targets.
        traffic: Traffic;
        /// What is kept about the tunnel fabric beside sites and placements.
        fabric: Fabric;
    }

    /// How far the log has been applied.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Time as the log tells it.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// What `init` fixed; none before.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The cluster's settings; none before `init`.
    #[must_use]
    pub fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// How the cluster looks after its voters by itself.
    #[must_use]
    pub fn autopilot(&self) -> Autopilot {
        self.autopilot
    }

    /// The feature level that the cluster is committed to; zero before `init`.
    #[must_use]
    pub fn feature_level(&self) -> FeatureLevel {
        self.feature_level
    }

    /// The rolling upgrade that was begun and not finished.
    #[must_use]
    pub fn upgrade(&self) -> Option<&Upgrade> {
        self.upgrade.as_ref()
    }

    /// How often it was noted what the next version can do.
    #[cfg(pangolin_next)]
    #[must_use]
    pub fn notes(&self) -> u64 {
        self.notes
    }

    /// The leader that last took up its duties.
    #[must_use]
    pub fn leadership(&self) -> Option<Leadership> {
        self.leadership
    }

    /// The recovery key that backups are encrypted to; none before the first node has told it.
    #[must_use]
    pub fn recovery_key(&self) -> Option<RecoveryPublic> {
        self.recovery
    }

    /// What has been decided, and why.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Number of remembered requests.
    #[must_use]
    pub fn remembered_requests(&self) -> usize {
        self.requests.len()
    }

    /// The outcome of a request that has been applied.
    #[must_use]
    pub fn outcome_of(&self, request: RequestId) -> Option<(Revision, Outcome)> {
        self.requests.recall(request)
    }

    /// The site whose connector signs in with this id.
    #[must_use]
    pub fn site_of_connector(&self, connector_id: &str) -> Option<&Site> {
        self.index.site_of_connector(connector_id).and_then(|id| self.sites.get(&id))
    }

    /// The whole state in encoded form: equal states have equal bytes.
    ///
    /// # Errors
    /// It is larger than what may be decoded.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        encoding::encode(self)
    }

    /// A state from its encoded form.
    ///
    /// # Errors
    /// The bytes are not one, or one of a feature level that this program does not understand.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        encoding::decode(bytes)
    }

    /// SHA-256 of the encoded form: what nodes compare at equal index.
    ///
    /// # Errors
    /// As for [`Self::encode`].
    pub fn digest(&self) -> Result<Digest, CodecError> {
        use sha2::Digest as _;
        Ok(Digest(sha2::Sha256::digest(self.encode()?).into()))
    }

    /// Notes that the log has been applied up to `index`, where that entry is no command (a blank one, or a change
    /// of Raft's membership).
    pub fn advance(&mut self, index: u64) {
        let lineage = self.revision.lineage.max(1);
        self.revision = self.revision.max(Revision { lineage, index });
    }

    /// Applies the command at `index` of the log.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        self.advance(index);
        self.time = self.time.max(command.at);
        if let Some(request) = command.request {
            if let Some((_, outcome)) = self.requests.recall(request) {
                return outcome;
            }
            if self.requests.has_forgotten(request) {
                return Outcome::Refused(Refusal::Forgotten { serial: request.serial });
            }
        }
        // The change is made on a (cheap) copy, so that a refusal leaves nothing half done.
        let mut next = self.clone();
        let outcome = Outcome::from(self.check(command.fence).and_then(|()| next.change(command)));
        if matches!(outcome, Outcome::Done(_)) {
            next.note_decision(command, self.changes_to(&next, &command.body));
            *self = next;
        }
        if let Some(request) = command.request {
            self.requests.remember(request, self.time, self.revision, outcome.clone());
        }
        outcome
    }

    fn check(&self, fence: Fence) -> Result<(), Refusal> {
        #[cfg(planted)]
        if crate::planted::is(crate::planted::Bug::UnfencedEffect) {
            return Ok(());
        }
        let current = self.leadership.map_or(0, |leadership| leadership.term);
        match fence {
            Fence::Term(decided) | Fence::Placement { term: decided, .. } if decided != current => {
                Err(Refusal::StaleTerm { decided, current })
            }
            Fence::Placement { site, epoch: decided, .. } => {
                let current = self.placements.get(&site).map(|p| p.epoch).unwrap_or_default();
                if decided == current { Ok(()) } else { Err(Refusal::StaleEpoch { site, decided, current }) }
            }
            Fence::None | Fence::Term(_) => Ok(()),
        }
    }

    fn change(&mut self, command: &Command) -> Applied {
        if !matches!(command.body, Body::ClusterCreated(_) | Body::LeaderStarted { .. })
            && self.cluster.is_none()
        {
            return Err(Refusal::NoCluster);
        }
        match &command.body {
            Body::ClusterCreated(created) => self.create_cluster(created, &command.cause),
            Body::LeaderStarted { term, node } => self.start_leader(*term, *node),
            Body::TokenCreated(token) => self.create_token(token),
            Body::TokenRevoked(id) => self.revoke_token(*id),
            Body::NodeAdmitted(admitted) => self.admit_node(admitted, &command.cause),
            Body::NodeChanged { node, spec } => self.change_node(*node, spec),
            Body::NodeAdmin { node, admin } => self.set_node_admin(*node, *admin, &command.cause),
            Body::NodeVerdict { node, verdict } => self.judge_node(*node, *verdict, &command.cause),
            Body::NodeRemoved(node) => self.remove_node(*node),
            Body::SitePlaced { site, home, standbys } => {
                self.place_site(*site, *home, standbys, &command.cause)
            }
            Body::ConnectorRegistered { site, tunnel_key, version, multi_homed } => {
                self.register_connector(*site, *tunnel_key, version, *multi_homed)
            }
            Body::CertificateIssued(issued) => self.issue_certificate(issued),
            Body::SettingsChanged(settings) => self.change_settings(settings),
            Body::Catalog(change) => self.change_catalog(change),
            Body::FeatureLevelRaised(level) => self.raise_feature_level(*level),
            Body::Upgrade(change) => self.change_upgrade(change, &command.cause),
            Body::RecoveryKeyChanged(key) => {
                self.recovery = Some(*key);
                Ok(None)
            }
            Body::CatalogStaged { catalog, part, bytes } => self.stage_catalog(*catalog, *part, bytes),
            Body::CatalogReplaced { catalog, parts, .. } => self.replace_catalog(*catalog, *parts),
            Body::LineageBegun(begun) => self.begin_lineage(begun, &command.cause),
            Body::NodePromoted(node) => self.promote_node(*node),
            Body::AutopilotChanged(autopilot) => self.change_autopilot(*autopilot),
            Body::Disbanded { survivor } => self.disband(*survivor, &command.cause),
            Body::LeadershipHanded { to, .. } => self.note_handover(*to),
            Body::CertificateRemoved(id) => self.remove_certificate(*id),
            Body::Dns(change) => self.change_dns(change),
            Body::Certificates(change) => self.change_certificates(change),
            Body::Keyring(change) => self.change_keyring(change),
            Body::Traffic(change) => self.change_traffic(change),
            Body::Fabric(change) => self.change_fabric(change),
            #[cfg(pangolin_next)]
            Body::Noted => {
                self.notes += 1;
                Ok(None)
            }
        }
    }

    /// The next number for an object without an id of its own.
    fn next_number(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// A given number that is free, or the next one.
    fn number<K: Ord + Clone, V: Clone>(
        &mut self,
        given: Option<u64>,
        taken: impl Fn(&Self) -> &OrdMap<K, V>,
        key: impl Fn(u64) -> K,
        object: impl Fn(u64) -> crate::outcome::Object,
    ) -> Result<u64, Refusal> {
        let Some(number) = given else { return Ok(self.next_number()) };
        if taken(self).contains_key(&key(number)) {
            return Err(Refusal::Exists(object(number)));
        }
        self.sequence = self.sequence.max(number);
        Ok(number)
    }

    /// The lowest free address of the tunnel network between two host numbers, both included.
    fn free_address(&self, first: u32, last: u32, taken: impl Iterator<Item = Ipv4Addr>) -> Option<Ipv4Addr> {
        let base = u32::from(self.settings.as_ref()?.tunnel_network.network());
        let taken: std::collections::BTreeSet<u32> = taken.map(|a| u32::from(a).wrapping_sub(base)).collect();
        (first..=last).find(|n| !taken.contains(n)).map(|n| Ipv4Addr::from(base.wrapping_add(n)))
    }
}

/// What a command made, or why it changed nothing.
type Applied = Result<Option<crate::outcome::Object>, Refusal>;
