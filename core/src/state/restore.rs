//! How an earlier catalog takes the place of the present one, by going forward.
//!
//! A catalog is larger than a command may be, so it is brought in by parts, which lie in the state until the last
//! command exchanges the whole at once. What was revoked or consumed does not come back: API keys and keys for zone
//! transfers stay as they are now, the credentials of a site's connector stay those of now, and a site that was removed
//! comes back without valid ones. A signed zone keeps its key of now, because its parent knows that one. Join tokens,
//! provisioning keys, nodes, leadership, placements and regions of sites that are there, certificates, answered requests
//! and the count of ids are not touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::{
    codec::{self, CodecError},
    id::{DomainId, ResourceId, RoleId, SiteId, TargetId, UserId},
    name::{HostName, Slug},
    outcome::{Object, Refusal},
    record::{Digest, Domain, KeyScope, Org, RecordKind, RecordSet, Resource, Role, Site, Target, User},
    state::{Applied, ClusterState, catalog::SITE_FIRST, naming::Naming},
    traffic::Traffic,
};

/// Most bytes of one part: below the limit of a command.
pub const STAGED_PART_MAX: usize = 192 * 1024;
/// Largest encoded catalog that is taken: some million resources.
pub const CATALOG_MAX: usize = 256 * 1024 * 1024;
/// The digest that no secret has, as far as anybody knows: credentials that let nobody in.
const WORTHLESS: Digest = Digest([0; 32]);

/// What operators want, as far as a restore brings it back. API keys are not in it: they are never brought back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    orgs: OrdMap<Slug, Org>,
    users: OrdMap<UserId, User>,
    roles: OrdMap<RoleId, Role>,
    sites: OrdMap<SiteId, Site>,
    domains: OrdMap<DomainId, Domain>,
    resources: OrdMap<ResourceId, Resource>,
    targets: OrdMap<TargetId, Target>,
    record_sets: OrdMap<(HostName, RecordKind), RecordSet>,
    /// The last one, and left out where there is nothing: a reader takes what is missing at the end for nothing.
    #[serde(skip_serializing_if = "Beside::is_empty")]
    beside: Beside,
}

/// What stands beside the records of a catalog. Grows at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Beside {
    traffic: Traffic,
    naming: Naming,
}

impl Beside {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Catalog {
    /// The encoded form, and its SHA-256.
    ///
    /// # Errors
    /// It is larger than what may be decoded.
    pub fn encode(&self) -> Result<(Vec<u8>, Digest), CodecError> {
        let bytes = codec::encode(self)?;
        if bytes.len() > CATALOG_MAX {
            return Err(CodecError::TooLarge { size: bytes.len(), limit: CATALOG_MAX });
        }
        let digest = Digest(sha2::Sha256::digest(&bytes).into());
        Ok((bytes, digest))
    }

    /// Sites that would come back without valid credentials for their connectors, were this restored into `state`.
    pub fn sites_without_credentials<'a>(
        &'a self,
        state: &'a ClusterState,
    ) -> impl Iterator<Item = &'a Site> {
        self.sites.values().filter(|site| !state.sites.contains_key(&site.id))
    }

    /// Number of resources.
    #[must_use]
    pub fn resources(&self) -> usize {
        self.resources.len()
    }

    /// The highest id given to anything in it.
    fn highest_id(&self) -> u64 {
        let ids = [
            self.users.get_max().map(|(id, _)| id.0),
            self.roles.get_max().map(|(id, _)| id.0),
            self.sites.get_max().map(|(id, _)| id.0),
            self.domains.get_max().map(|(id, _)| id.0),
            self.resources.get_max().map(|(id, _)| id.0),
            self.targets.get_max().map(|(id, _)| id.0),
        ];
        ids.into_iter().flatten().max().unwrap_or(0)
    }
}

/// Parts that have been brought in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staged {
    catalog: Digest,
    parts: Vector<Arc<Vec<u8>>>,
    size: usize,
}

fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal::Invalid(reason.into())
}

impl ClusterState {
    /// What operators want, as far as a restore brings it back.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        Catalog {
            orgs: self.orgs.clone(),
            users: self.users.clone(),
            roles: self.roles.clone(),
            sites: self.sites.clone(),
            domains: self.domains.clone(),
            resources: self.resources.clone(),
            targets: self.targets.clone(),
            record_sets: self.record_sets.clone(),
            beside: Beside { traffic: self.traffic.clone(), naming: self.naming() },
        }
    }

    pub(super) fn stage_catalog(&mut self, catalog: Digest, part: u32, bytes: &[u8]) -> Applied {
        if bytes.is_empty() || bytes.len() > STAGED_PART_MAX {
            return Err(invalid(format!("a part of a catalog has 1 to {STAGED_PART_MAX} bytes")));
        }
        if part == 0 {
            self.staged = Some(Staged { catalog, parts: Vector::new(), size: 0 });
        }
        let staged = self.staged.as_mut().filter(|staged| staged.catalog == catalog);
        let staged = staged.ok_or_else(|| invalid("another catalog is being brought in: begin again"))?;
        if staged.parts.len() != part as usize {
            return Err(invalid(format!("part {} is the next one, not {part}", staged.parts.len())));
        }
        staged.size += bytes.len();
        if staged.size > CATALOG_MAX {
            return Err(Refusal::Limit { what: "bytes of a catalog".into(), limit: CATALOG_MAX as u64 });
        }
        staged.parts.push_back(Arc::new(bytes.to_vec()));
        Ok(None)
    }

    pub(super) fn replace_catalog(&mut self, digest: Digest, parts: u32) -> Applied {
        let complete = |staged: &Staged| staged.catalog == digest && staged.parts.len() == parts as usize;
        let staged = self.staged.take().filter(complete);
        let staged =
            staged.ok_or_else(|| invalid("the catalog was not brought in completely: begin again"))?;
        let bytes = staged.parts.iter().fold(Vec::with_capacity(staged.size), |mut all, part| {
            all.extend_from_slice(part);
            all
        });
        if sha2::Sha256::digest(&bytes)[..] != digest.0 {
            return Err(invalid("the catalog that was brought in is not the one announced"));
        }
        let catalog: Catalog = codec::decode_grown(&bytes, CATALOG_MAX)
            .map_err(|error| invalid(format!("the catalog cannot be read: {error}")))?;
        let catalog = self.with_credentials_of_now(catalog)?;
        catalog.check(self)?;

        self.sequence = self.sequence.max(catalog.highest_id());
        let gone: Vec<SiteId> =
            self.sites.keys().filter(|id| !catalog.sites.contains_key(*id)).copied().collect();
        let Catalog { orgs, users, roles, sites, domains, resources, targets, record_sets, beside } = catalog;
        self.api_keys = std::mem::take(&mut self.api_keys)
            .into_iter()
            .filter(|(_, key)| match &key.scope {
                KeyScope::Org(org) => orgs.contains_key(org),
                KeyScope::Cluster => true,
            })
            .collect();
        (self.orgs, self.users, self.roles, self.sites) = (orgs, users, roles, sites);
        (self.domains, self.resources, self.targets) = (domains, resources, targets);
        (self.record_sets, self.traffic) = (record_sets, beside.traffic);
        self.index_anew();
        self.restore_naming(beside.naming);
        self.tidy_dns();
        self.tidy_traffic();
        self.tidy_fabric();
        for site in gone {
            self.forget_site(site);
        }
        Ok(None)
    }

    /// Sites keep the address and the credentials that they have; those that come back get none that anybody knows.
    fn with_credentials_of_now(&self, mut catalog: Catalog) -> Result<Catalog, Refusal> {
        let index = self.revision.index;
        let network = self.settings.as_ref().map(|settings| settings.tunnel_network);
        let mut taken: BTreeSet<_> = self.nodes.values().map(|node| node.tunnel_address).collect();
        taken.extend(
            self.sites.values().filter(|s| catalog.sites.contains_key(&s.id)).map(|site| site.address),
        );
        let usable = |address: std::net::Ipv4Addr| {
            network.is_some_and(|network| {
                let host = u32::from(address).wrapping_sub(u32::from(network.network()));
                network.contains(&address) && host >= SITE_FIRST && address != network.broadcast()
            })
        };
        let mut sites = OrdMap::new();
        for (id, mut site) in std::mem::take(&mut catalog.sites) {
            site.config_version = index;
            match self.sites.get(&id) {
                Some(now) => {
                    site.connector_id.clone_from(&now.connector_id);
                    (site.connector_secret, site.address) = (now.connector_secret, now.address);
                }
                None => {
                    site.connector_secret = WORTHLESS;
                    if !usable(site.address) || taken.contains(&site.address) {
                        site.address = self.free_site_address_but(taken.iter().copied())?;
                    }
                    taken.insert(site.address);
                }
            }
            sites.insert(id, site);
        }
        catalog.sites = sites;
        Ok(catalog)
    }
}

/// Refuses the second of two equal things.
struct Unique<K>(BTreeMap<K, Object>);

impl<K: Ord> Unique<K> {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn take(&mut self, key: K, name: impl ToString, by: Object) -> Result<(), Refusal> {
        match self.0.insert(key, by) {
            Some(other) => Err(Refusal::NameTaken { name: name.to_string(), by: other }),
            None => Ok(()),
        }
    }
}

impl Catalog {
    /// Whether everything in it hangs together, and fits beside the nodes and settings of `state`.
    fn check(&self, state: &ClusterState) -> Result<(), Refusal> {
        self.check_ids()?;
        self.check_people()?;
        self.check_domains(state)?;
        self.check_published(state)?;
        self.check_record_sets()?;
        super::traffic::check(&self.beside.traffic)?;
        self.beside.naming.check()
    }

    fn check_ids(&self) -> Result<(), Refusal> {
        let sound = self.orgs.iter().all(|(id, org)| *id == org.id)
            && self.users.iter().all(|(id, user)| *id == user.id)
            && self.roles.iter().all(|(id, role)| *id == role.id)
            && self.sites.iter().all(|(id, site)| *id == site.id)
            && self.domains.iter().all(|(id, domain)| *id == domain.id)
            && self.resources.iter().all(|(id, resource)| *id == resource.id)
            && self.targets.iter().all(|(id, target)| *id == target.id);
        if sound { Ok(()) } else { Err(invalid("the catalog files a record under another's id")) }
    }

    fn need_org(&self, id: &Slug) -> Result<(), Refusal> {
        if self.orgs.contains_key(id) { Ok(()) } else { Err(Refusal::NotFound(Object::Org(id.clone()))) }
    }

    fn check_people(&self) -> Result<(), Refusal> {
        let (mut names, mut emails) = (Unique::new(), Unique::new());
        for role in self.roles.values() {
            self.need_org(&role.org)?;
            names.take((&role.org, &role.name), &role.name, Object::Role(role.id))?;
        }
        for user in self.users.values() {
            emails.take(&user.email, &user.email, Object::User(user.id))?;
            for (org, roles) in &user.memberships {
                self.need_org(org)?;
                let foreign = roles.iter().find(|id| self.roles.get(*id).is_none_or(|role| role.org != *org));
                if let Some(role) = foreign {
                    return Err(Refusal::NotFound(Object::Role(*role)));
                }
            }
        }
        Ok(())
    }

    fn check_domains(&self, state: &ClusterState) -> Result<(), Refusal> {
        let mut names: BTreeMap<&HostName, &Domain> = BTreeMap::new();
        for domain in self.domains.values() {
            self.need_org(&domain.org)?;
            if let Some(other) = names.insert(&domain.name, domain) {
                return Err(Refusal::NameTaken {
                    name: domain.name.to_string(),
                    by: Object::Domain(other.id),
                });
            }
            let holds =
                |s: &crate::record::Settings| s.control_host.is_within(&domain.name) && s.zone != domain.name;
            if state.settings.as_ref().is_some_and(holds) {
                return Err(invalid(format!("{} holds the cluster's control host", domain.name)));
            }
        }
        for domain in self.domains.values() {
            let mut above = domain.name.parent();
            while let Some(name) = above {
                if let Some(other) = names.get(&name).filter(|other| other.org != domain.org) {
                    let by = Object::Domain(other.id);
                    return Err(Refusal::NameTaken { name: domain.name.to_string(), by });
                }
                above = name.parent();
            }
        }
        Ok(())
    }

    fn check_published(&self, state: &ClusterState) -> Result<(), Refusal> {
        let (mut hosts, mut nice) = (Unique::new(), Unique::new());
        if let Some(settings) = &state.settings {
            hosts.take(settings.control_host.clone(), &settings.control_host, Object::Cluster)?;
            for node in state.nodes.values() {
                if let Ok(host) = settings.zone.child(node.spec.name.as_str()) {
                    hosts.take(host.clone(), host, Object::Node(node.id))?;
                }
            }
        }
        for resource in self.resources.values() {
            let domain = self.domains.get(&resource.domain).filter(|domain| domain.org == resource.org);
            let domain = domain.ok_or(Refusal::NotFound(Object::Domain(resource.domain)))?;
            if !resource.host.is_within(&domain.name) {
                return Err(invalid(format!("{} does not lie in {}", resource.host, domain.name)));
            }
            let this = Object::Resource(resource.id);
            hosts.take(resource.host.clone(), &resource.host, this.clone())?;
            nice.take((&resource.org, &resource.nice_id), &resource.nice_id, this)?;
        }
        let (mut nice, mut connectors, mut addresses) = (Unique::new(), Unique::new(), Unique::new());
        for site in self.sites.values() {
            self.need_org(&site.org)?;
            let this = Object::Site(site.id);
            nice.take((&site.org, &site.nice_id), &site.nice_id, this.clone())?;
            connectors.take(&site.connector_id, &site.connector_id, this.clone())?;
            addresses.take(site.address, site.address, this)?;
        }
        let mut ports = Unique::new();
        for target in self.targets.values() {
            let resource = self.resources.get(&target.resource);
            let resource = resource.ok_or(Refusal::NotFound(Object::Resource(target.resource)))?;
            if self.sites.get(&target.site).is_none_or(|site| site.org != resource.org) {
                return Err(Refusal::NotFound(Object::Site(target.site)));
            }
            ports.take((target.site, target.tunnel_port), target.tunnel_port, Object::Target(target.id))?;
        }
        Ok(())
    }

    fn check_record_sets(&self) -> Result<(), Refusal> {
        let mut kinds: BTreeMap<&HostName, (usize, bool)> = BTreeMap::new();
        for ((name, kind), set) in &self.record_sets {
            if set.data.is_empty() || set.data.iter().any(|data| data.kind() != *kind) {
                return Err(invalid(format!("the record set at {name} has values of another type, or none")));
            }
            let (count, alias) = kinds.entry(name).or_default();
            *count += 1;
            *alias |= *kind == RecordKind::Cname;
        }
        match kinds.iter().find(|(_, (count, alias))| *alias && *count > 1) {
            Some((name, _)) => Err(invalid(format!("a CNAME stands alone at {name} (RFC 2181 §10.1)"))),
            None => Ok(()),
        }
    }
}
