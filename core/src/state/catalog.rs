//! What commands do to the catalog: everything that operators want.

use imbl::OrdSet;

use crate::{
    command::CatalogChange,
    id::{DomainId, ResourceId, RoleId, SiteId, TargetId, UserId},
    name::{HostName, Slug, TITLE_MAX, check_title},
    outcome::{Object, Refusal},
    record::{
        ApiKey, Digest, Domain, HealthCheck, KeyScope, Method, Org, RecordData, RecordKind, RecordSet,
        Resource, Role, Site, Target, User,
    },
    state::{Applied, ClusterState, nodes::NODES_MAX},
};

/// Name of the role that every organisation is made with.
pub(super) const ADMINISTRATORS: &str = "Admin";
/// First address of a site within the tunnel network: those before it belong to nodes.
pub(super) const SITE_FIRST: u32 = 256;
const _: () = assert!(SITE_FIRST > NODES_MAX);
/// First port that connectors listen on inside the tunnel.
pub(super) const TUNNEL_PORT_FIRST: u16 = 40_000;
/// Most values of a record set.
pub(super) const RECORD_DATA_MAX: usize = 64;
/// Longest TXT value: what fits an answer over TCP with room to spare.
pub(super) const TXT_MAX: usize = 4096;
/// Length of the public half of connector and API key credentials.
pub(super) const CREDENTIAL_ID_LEN: usize = 15;

fn invalid(error: impl ToString) -> Refusal {
    Refusal::Invalid(error.to_string())
}

fn title(kind: &'static str, text: &str) -> Result<String, Refusal> {
    check_title(kind, text).map_err(invalid)?;
    Ok(text.trim().to_owned())
}

pub(super) fn credential_id(id: &str) -> Result<(), Refusal> {
    if id.len() == CREDENTIAL_ID_LEN && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err(Refusal::Invalid(format!("a credential id has {CREDENTIAL_ID_LEN} letters and digits")))
}

fn target_address(host: &str, port: u16) -> Result<(), Refusal> {
    let address = host.parse::<std::net::IpAddr>().is_ok();
    let name = host.parse::<HostName>().is_ok_and(|name| !name.is_wildcard());
    if !address && !name {
        return Err(Refusal::Invalid(format!("{host:?} is neither an IP address nor a host name")));
    }
    if port == 0 {
        return Err(Refusal::Invalid("a target's port lies between 1 and 65535".into()));
    }
    Ok(())
}

fn health_check(check: Option<&HealthCheck>) -> Result<(), Refusal> {
    let Some(check) = check else { return Ok(()) };
    if let Some(path) = &check.path
        && (!path.starts_with('/')
            || path.len() > TITLE_MAX * 8
            || path.chars().any(|c| c.is_control() || c == ' '))
    {
        return Err(Refusal::Invalid(format!(
            "{path:?} is not a path to check: it begins with / and has no blanks"
        )));
    }
    let sane = |n: u32| (1..=86_400).contains(&n);
    if !sane(check.interval) || !sane(check.timeout) || !(1..=100).contains(&check.unhealthy_threshold) {
        return Err(Refusal::Invalid(
            "a health check has an interval and a timeout of 1 to 86400 seconds and a threshold of 1 to 100"
                .into(),
        ));
    }
    Ok(())
}

impl ClusterState {
    pub(super) fn change_catalog(&mut self, change: &CatalogChange) -> Applied {
        use CatalogChange as C;
        match change {
            C::OrgCreated { id, name } => self.create_org(id, name),
            C::OrgChanged { id, name } => self.change_org(id, name),
            C::OrgRemoved(id) => self.remove_org(id),
            C::UserCreated { id, email, name, administrator } => {
                self.create_user(*id, email, name, *administrator)
            }
            C::UserChanged { id, name, administrator } => self.change_user(*id, name, *administrator),
            C::UserRemoved(id) => {
                let user = self.users.remove(id).ok_or(Refusal::NotFound(Object::User(*id)))?;
                self.index.remove_user(&user);
                Ok(None)
            }
            C::RoleCreated { id, org, name } => self.create_role(*id, org, name, false),
            C::RoleRemoved(id) => self.remove_role(*id),
            C::MembershipSet { user, org, roles } => self.set_membership(*user, org, roles.as_deref()),
            C::ApiKeyCreated { id, name, scope, secret } => self.create_api_key(id, name, scope, *secret),
            C::ApiKeyRemoved(id) => self
                .api_keys
                .remove(id)
                .map(|_| None)
                .ok_or_else(|| Refusal::NotFound(Object::ApiKey(id.clone()))),
            C::SiteCreated { id, org, nice_id, name, connector_id, connector_secret } => {
                self.create_site(*id, org, nice_id.as_ref(), name, connector_id, *connector_secret)
            }
            C::SiteChanged { id, name, enabled } => self.change_site(*id, name, *enabled),
            C::SiteSecretChanged { id, connector_secret } => {
                self.change_site_secret(*id, *connector_secret)?;
                Ok(None)
            }
            C::SiteRemoved(id) => self.remove_site(*id),
            C::DomainCreated { id, org, name } => self.create_domain(*id, org, name),
            C::DomainRemoved(id) => self.remove_domain(*id),
            C::ResourceCreated { id, org, nice_id, name, domain, host } => {
                self.create_resource(*id, org, nice_id.as_ref(), name, *domain, host)
            }
            C::ResourceChanged { id, name, enabled } => self.change_resource(*id, name, *enabled),
            C::ResourceRemoved(id) => self.remove_resource(*id),
            C::TargetCreated { id, resource, site, method, host, port, health_check } => {
                let address = TargetAddress { method: *method, host, port: *port, health_check };
                self.create_target(*id, *resource, *site, &address)
            }
            C::TargetChanged { id, method, host, port, enabled, health_check } => {
                let address = TargetAddress { method: *method, host, port: *port, health_check };
                self.change_target(*id, &address, *enabled)
            }
            C::TargetRemoved(id) => self.remove_target(*id),
            C::RecordSetSet { name, kind, set } => self.set_record_set(name, *kind, set.as_ref()),
        }
    }

    // --- organisations, users, roles, keys ---

    pub(super) fn need_org(&self, id: &Slug) -> Result<(), Refusal> {
        if self.orgs.contains_key(id) { Ok(()) } else { Err(Refusal::NotFound(Object::Org(id.clone()))) }
    }

    fn create_org(&mut self, id: &Slug, name: &str) -> Applied {
        if self.orgs.contains_key(id) {
            return Err(Refusal::Exists(Object::Org(id.clone())));
        }
        let org = Org { id: id.clone(), name: title("name", name)?, created_at: self.time };
        self.orgs.insert(id.clone(), org);
        self.create_role(None, id, ADMINISTRATORS, true)?;
        Ok(Some(Object::Org(id.clone())))
    }

    fn change_org(&mut self, id: &Slug, name: &str) -> Applied {
        let name = title("name", name)?;
        self.orgs.get_mut(id).ok_or_else(|| Refusal::NotFound(Object::Org(id.clone())))?.name = name;
        Ok(None)
    }

    fn remove_org(&mut self, id: &Slug) -> Applied {
        self.need_org(id)?;
        let this = || Object::Org(id.clone());
        if let Some(site) = self.sites.values().find(|site| site.org == *id) {
            return Err(Refusal::InUse(this(), Object::Site(site.id)));
        }
        if let Some(resource) = self.resources.values().find(|resource| resource.org == *id) {
            return Err(Refusal::InUse(this(), Object::Resource(resource.id)));
        }
        if let Some(domain) = self.domains.values().find(|domain| domain.org == *id) {
            return Err(Refusal::InUse(this(), Object::Domain(domain.id)));
        }
        let scope = KeyScope::Org(id.clone());
        let roles: Vec<RoleId> =
            self.roles.values().filter(|role| role.org == *id).map(|role| role.id).collect();
        for role in roles.iter().filter_map(|id| self.roles.remove(id)) {
            self.index.remove_role(&role);
        }
        self.api_keys = self
            .api_keys
            .iter()
            .filter(|(_, k)| k.scope != scope)
            .map(|(id, k)| (id.clone(), k.clone()))
            .collect();
        let members: Vec<UserId> = self
            .users
            .values()
            .filter(|user| user.memberships.contains_key(id))
            .map(|user| user.id)
            .collect();
        for user in members {
            if let Some(user) = self.users.get_mut(&user) {
                user.memberships.remove(id);
            }
        }
        self.orgs.remove(id);
        self.tidy_fabric();
        Ok(None)
    }

    fn create_user(&mut self, id: Option<UserId>, email: &str, name: &str, administrator: bool) -> Applied {
        let email = title("e-mail address", email)?.to_lowercase();
        if !email.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty()) {
            return Err(Refusal::Invalid(format!("{email:?} is not an e-mail address")));
        }
        if let Some(other) = self.index.user_of(&email) {
            return Err(Refusal::NameTaken { name: email, by: Object::User(other) });
        }
        let name = title("name", name)?;
        let id = UserId(self.number(id.map(|id| id.0), |s| &s.users, UserId, |n| Object::User(UserId(n)))?);
        let (memberships, created_at) = (imbl::OrdMap::new(), self.time);
        let user = User { id, email, name, administrator, memberships, created_at };
        self.index.add_user(&user);
        self.users.insert(id, user);
        Ok(Some(Object::User(id)))
    }

    fn change_user(&mut self, id: UserId, name: &str, administrator: bool) -> Applied {
        let name = title("name", name)?;
        let user = self.users.get_mut(&id).ok_or(Refusal::NotFound(Object::User(id)))?;
        user.name = name;
        user.administrator = administrator;
        Ok(None)
    }

    fn create_role(&mut self, id: Option<RoleId>, org: &Slug, name: &str, administrators: bool) -> Applied {
        self.need_org(org)?;
        let name = title("name", name)?;
        if let Some(other) = self.index.role_called(org, &name) {
            return Err(Refusal::NameTaken { name, by: Object::Role(other) });
        }
        let id = RoleId(self.number(id.map(|id| id.0), |s| &s.roles, RoleId, |n| Object::Role(RoleId(n)))?);
        let role = Role { id, org: org.clone(), name, administrators };
        self.index.add_role(&role);
        self.roles.insert(id, role);
        Ok(Some(Object::Role(id)))
    }

    fn remove_role(&mut self, id: RoleId) -> Applied {
        let role = self.roles.get(&id).ok_or(Refusal::NotFound(Object::Role(id)))?;
        if role.administrators {
            return Err(Refusal::Invalid("the administrators' role of an organisation stays".into()));
        }
        let holders: Vec<UserId> = self
            .users
            .values()
            .filter(|user| user.memberships.values().any(|roles| roles.contains(&id)))
            .map(|user| user.id)
            .collect();
        for holder in holders {
            if let Some(user) = self.users.get_mut(&holder) {
                let kept =
                    user.memberships.iter().map(|(org, roles)| (org.clone(), roles.without(&id))).collect();
                user.memberships = kept;
            }
        }
        if let Some(role) = self.roles.remove(&id) {
            self.index.remove_role(&role);
        }
        Ok(None)
    }

    fn set_membership(&mut self, user: UserId, org: &Slug, roles: Option<&[RoleId]>) -> Applied {
        self.need_org(org)?;
        for id in roles.unwrap_or_default() {
            if self.roles.get(id).is_none_or(|role| role.org != *org) {
                return Err(Refusal::NotFound(Object::Role(*id)));
            }
        }
        let record = self.users.get_mut(&user).ok_or(Refusal::NotFound(Object::User(user)))?;
        match roles {
            Some(roles) => {
                record.memberships.insert(org.clone(), roles.iter().copied().collect::<OrdSet<_>>())
            }
            None => record.memberships.remove(org),
        };
        Ok(None)
    }

    fn create_api_key(&mut self, id: &str, name: &str, scope: &KeyScope, secret: Digest) -> Applied {
        credential_id(id)?;
        let name = title("name", name)?;
        if let KeyScope::Org(org) = scope {
            self.need_org(org)?;
        }
        if self.api_keys.contains_key(id) {
            return Err(Refusal::Exists(Object::ApiKey(id.to_owned())));
        }
        let key = ApiKey { id: id.to_owned(), name, scope: scope.clone(), secret, created_at: self.time };
        self.api_keys.insert(id.to_owned(), key);
        Ok(Some(Object::ApiKey(id.to_owned())))
    }

    // --- sites ---

    fn site_mut(&mut self, id: SiteId) -> Result<&mut Site, Refusal> {
        self.sites.get_mut(&id).ok_or(Refusal::NotFound(Object::Site(id)))
    }

    /// A free short name: the given one, or one made from the display name with a number behind it where needed.
    fn nice_id(
        given: Option<&Slug>,
        name: &str,
        taken: impl Fn(&Slug) -> Option<Object>,
    ) -> Result<Slug, Refusal> {
        if let Some(given) = given {
            return match taken(given) {
                Some(by) => Err(Refusal::NameTaken { name: given.to_string(), by }),
                None => Ok(given.clone()),
            };
        }
        let base = Slug::from_title(name).map_or_else(|| "unnamed".to_owned(), String::from);
        let stem: String = base.chars().take(crate::name::SLUG_MAX - 6).collect();
        let candidates = std::iter::once(base).chain((2..100_000).map(|n| format!("{stem}-{n}")));
        candidates.filter_map(|text| text.parse().ok()).find(|slug| taken(slug).is_none()).ok_or_else(|| {
            Refusal::Invalid(format!("no short name is left that resembles {name:?}: give one"))
        })
    }

    pub(super) fn create_site(
        &mut self,
        id: Option<SiteId>,
        org: &Slug,
        nice_id: Option<&Slug>,
        name: &str,
        connector_id: &str,
        connector_secret: Digest,
    ) -> Applied {
        self.need_org(org)?;
        credential_id(connector_id)?;
        let name = title("name", name)?;
        let nice_id =
            Self::nice_id(nice_id, &name, |slug| self.index.site_called(org, slug).map(Object::Site))?;
        if let Some(other) = self.site_of_connector(connector_id) {
            return Err(Refusal::NameTaken { name: connector_id.to_owned(), by: Object::Site(other.id) });
        }
        let address = self.free_site_address()?;
        let id = SiteId(self.number(id.map(|id| id.0), |s| &s.sites, SiteId, |n| Object::Site(SiteId(n)))?);
        let site = Site {
            id,
            org: org.clone(),
            nice_id,
            name,
            connector_id: connector_id.to_owned(),
            connector_secret,
            address,
            enabled: true,
            config_version: self.revision.index,
            created_at: self.time,
        };
        self.index.add_site(&site);
        self.sites.insert(id, site);
        Ok(Some(Object::Site(id)))
    }

    fn free_site_address(&self) -> Result<std::net::Ipv4Addr, Refusal> {
        self.free_site_address_but(self.sites.values().map(|site| site.address))
    }

    /// An address for a site that is none of `taken`.
    pub(super) fn free_site_address_but(
        &self,
        taken: impl Iterator<Item = std::net::Ipv4Addr>,
    ) -> Result<std::net::Ipv4Addr, Refusal> {
        let size =
            self.settings.as_ref().map_or(0, |s| 1u64 << (32 - u32::from(s.tunnel_network.prefix_len())));
        // The first 256 addresses belong to nodes, the last is the network's broadcast address.
        let (first, last) = (SITE_FIRST, u32::try_from(size.saturating_sub(2)).unwrap_or(u32::MAX));
        self.free_address(first, last, taken)
            .ok_or(Refusal::Limit { what: "sites".into(), limit: u64::from(last.saturating_sub(first)) + 1 })
    }

    pub(super) fn change_site_secret(&mut self, id: SiteId, secret: Digest) -> Result<(), Refusal> {
        self.site_mut(id)?.connector_secret = secret;
        Ok(())
    }

    fn change_site(&mut self, id: SiteId, name: &str, enabled: bool) -> Applied {
        let name = title("name", name)?;
        let index = self.revision.index;
        let site = self.site_mut(id)?;
        site.name = name;
        site.enabled = enabled;
        site.config_version = index;
        Ok(None)
    }

    fn remove_site(&mut self, id: SiteId) -> Applied {
        if let Some(target) = self.targets_at(id).next() {
            return Err(Refusal::InUse(Object::Site(id), Object::Target(target.id)));
        }
        let site = self.sites.remove(&id).ok_or(Refusal::NotFound(Object::Site(id)))?;
        self.index.remove_site(&site);
        self.traffic.local_sites.remove(&id);
        self.fabric.regions.remove(&id);
        self.forget_site(id);
        Ok(None)
    }

    /// Drops what Raft knows of a site that is gone. Its epochs are never used again.
    pub(super) fn forget_site(&mut self, id: SiteId) {
        if let Some(placement) = self.placements.remove(&id) {
            self.epoch_floor = self.epoch_floor.max(placement.epoch);
        }
        if let Some(connector) = self.connectors.remove(&id) {
            self.index.move_tunnel_key(id, Some(connector.tunnel_key), None);
        }
    }

    /// Notes that the connector of a site has something new to know.
    fn touch_site(&mut self, id: SiteId) {
        let index = self.revision.index;
        if let Some(site) = self.sites.get_mut(&id) {
            site.config_version = index;
        }
    }

    // --- domains, resources, targets ---

    fn create_domain(&mut self, id: Option<DomainId>, org: &Slug, name: &HostName) -> Applied {
        self.need_org(org)?;
        if name.is_wildcard() || name.parent().is_none() {
            return Err(Refusal::Invalid(format!("{name} is not a domain to publish under")));
        }
        let clash = self.domains.values().find(|other| {
            other.name == *name
                || (other.org != *org && (other.name.is_within(name) || name.is_within(&other.name)))
        });
        if let Some(other) = clash {
            return Err(Refusal::NameTaken { name: name.to_string(), by: Object::Domain(other.id) });
        }
        if self.settings.as_ref().is_some_and(|s| s.control_host.is_within(name) && s.zone != *name) {
            return Err(Refusal::Invalid(format!("{name} holds the cluster's control host")));
        }
        let id = DomainId(self.number(
            id.map(|id| id.0),
            |s| &s.domains,
            DomainId,
            |n| Object::Domain(DomainId(n)),
        )?);
        self.domains.insert(id, Domain { id, org: org.clone(), name: name.clone(), created_at: self.time });
        Ok(Some(Object::Domain(id)))
    }

    fn remove_domain(&mut self, id: DomainId) -> Applied {
        if let Some(resource) = self.resources.values().find(|resource| resource.domain == id) {
            return Err(Refusal::InUse(Object::Domain(id), Object::Resource(resource.id)));
        }
        self.domains.remove(&id).ok_or(Refusal::NotFound(Object::Domain(id)))?;
        self.tidy_dns();
        Ok(None)
    }

    fn create_resource(
        &mut self,
        id: Option<ResourceId>,
        org: &Slug,
        nice_id: Option<&Slug>,
        name: &str,
        domain: DomainId,
        host: &HostName,
    ) -> Applied {
        self.need_org(org)?;
        let name = title("name", name)?;
        let owned = self.domains.get(&domain).filter(|d| d.org == *org);
        let owned = owned.ok_or(Refusal::NotFound(Object::Domain(domain)))?;
        if !host.is_within(&owned.name) {
            return Err(Refusal::Invalid(format!("{host} does not lie in the domain {}", owned.name)));
        }
        self.check_host(host)?;
        let nice_id =
            Self::nice_id(nice_id, &name, |slug| self.index.called(org, slug).map(Object::Resource))?;
        let object = |n| Object::Resource(ResourceId(n));
        let id = ResourceId(self.number(id.map(|id| id.0), |s| &s.resources, ResourceId, object)?);
        let resource = Resource {
            id,
            org: org.clone(),
            nice_id,
            name,
            domain,
            host: host.clone(),
            enabled: true,
            created_at: self.time,
        };
        self.index.add_resource(&resource);
        self.resources.insert(id, resource);
        Ok(Some(Object::Resource(id)))
    }

    fn check_host(&self, host: &HostName) -> Result<(), Refusal> {
        if let Some(other) = self.index.at_host(host) {
            return Err(Refusal::NameTaken { name: host.to_string(), by: Object::Resource(other) });
        }
        if self.settings.as_ref().is_some_and(|s| s.control_host == *host) {
            return Err(Refusal::NameTaken { name: host.to_string(), by: Object::Cluster });
        }
        let node = self.nodes.values().find(|node| {
            self.settings.as_ref().and_then(|s| s.zone.child(node.spec.name.as_str()).ok()).as_ref()
                == Some(host)
        });
        match node {
            Some(node) => Err(Refusal::NameTaken { name: host.to_string(), by: Object::Node(node.id) }),
            None => Ok(()),
        }
    }

    fn change_resource(&mut self, id: ResourceId, name: &str, enabled: bool) -> Applied {
        let name = title("name", name)?;
        let resource = self.resources.get_mut(&id).ok_or(Refusal::NotFound(Object::Resource(id)))?;
        resource.name = name;
        resource.enabled = enabled;
        Ok(None)
    }

    fn remove_resource(&mut self, id: ResourceId) -> Applied {
        let resource = self.resources.remove(&id).ok_or(Refusal::NotFound(Object::Resource(id)))?;
        self.index.remove_resource(&resource);
        let targets: Vec<TargetId> = self.targets_of(id).map(|target| target.id).collect();
        for target in targets {
            self.remove_target(target)?;
        }
        self.dns.policies.remove(&id);
        self.forget_traffic_of(id);
        Ok(None)
    }

    fn create_target(
        &mut self,
        id: Option<TargetId>,
        resource: ResourceId,
        site: SiteId,
        address: &TargetAddress<'_>,
    ) -> Applied {
        address.check()?;
        let owner = &self.resources.get(&resource).ok_or(Refusal::NotFound(Object::Resource(resource)))?.org;
        if self.sites.get(&site).is_none_or(|site| site.org != *owner) {
            return Err(Refusal::NotFound(Object::Site(site)));
        }
        let tunnel_port = self.index.free_port(site, TUNNEL_PORT_FIRST).ok_or_else(|| Refusal::Limit {
            what: format!("targets at site {site}"),
            limit: u64::from(u16::MAX - TUNNEL_PORT_FIRST) + 1,
        })?;
        let id = TargetId(self.number(
            id.map(|id| id.0),
            |s| &s.targets,
            TargetId,
            |n| Object::Target(TargetId(n)),
        )?);
        let target = Target {
            id,
            resource,
            site,
            method: address.method,
            host: address.host.to_owned(),
            port: address.port,
            tunnel_port,
            enabled: true,
            health_check: address.health_check.clone(),
        };
        self.index.add_target(&target);
        self.targets.insert(id, target);
        self.touch_site(site);
        Ok(Some(Object::Target(id)))
    }

    fn change_target(&mut self, id: TargetId, address: &TargetAddress<'_>, enabled: bool) -> Applied {
        address.check()?;
        let target = self.targets.get_mut(&id).ok_or(Refusal::NotFound(Object::Target(id)))?;
        target.method = address.method;
        address.host.clone_into(&mut target.host);
        target.port = address.port;
        target.enabled = enabled;
        target.health_check.clone_from(address.health_check);
        let site = target.site;
        self.touch_site(site);
        Ok(None)
    }

    fn remove_target(&mut self, id: TargetId) -> Applied {
        let target = self.targets.remove(&id).ok_or(Refusal::NotFound(Object::Target(id)))?;
        self.index.remove_target(&target);
        self.traffic.shares.remove(&id);
        self.touch_site(target.site);
        Ok(None)
    }

    // --- DNS ---

    pub(super) fn set_record_set(
        &mut self,
        name: &HostName,
        kind: RecordKind,
        set: Option<&RecordSet>,
    ) -> Applied {
        let Some(set) = set else {
            let removed = self.record_sets.remove(&(name.clone(), kind));
            return removed.map(|_| None).ok_or_else(|| Refusal::NotFound(Object::RecordSet(name.clone())));
        };
        let served = self.settings.as_ref().is_some_and(|s| name.is_within(&s.zone))
            || self.domains.values().any(|domain| name.is_within(&domain.name));
        if !served {
            return Err(Refusal::Invalid(format!("{name} does not lie in a zone of this cluster")));
        }
        check_record_set(kind, set)?;
        // Kinds are in order, so this looks at the name's own sets only.
        let of_name = (name.clone(), RecordKind::A)..=(name.clone(), RecordKind::Other(u16::MAX));
        let alias_beside_others = self.record_sets.range(of_name).any(|((_, other), _)| {
            *other != kind && (kind == RecordKind::Cname || *other == RecordKind::Cname)
        });
        if alias_beside_others || (kind == RecordKind::Cname && set.data.len() != 1) {
            return Err(Refusal::Invalid(format!("a CNAME stands alone at {name} (RFC 2181 §10.1)")));
        }
        self.record_sets.insert((name.clone(), kind), set.clone());
        Ok(Some(Object::RecordSet(name.clone())))
    }
}

/// Whether a record set can be one of the operator's own.
fn check_record_set(kind: RecordKind, set: &RecordSet) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::Invalid(why));
    if !kind.is_for_operators() {
        return refuse(format!(
            "{kind} records cannot be set: the cluster makes them, or does not serve them"
        ));
    }
    if set.data.is_empty() || set.data.len() > RECORD_DATA_MAX || set.data.iter().any(|d| d.kind() != kind) {
        return refuse(format!("a record set has 1 to {RECORD_DATA_MAX} values of its own type"));
    }
    if set.data.iter().any(|data| matches!(data, RecordData::Txt(text) if text.len() > TXT_MAX)) {
        return refuse(format!("a TXT value has at most {TXT_MAX} bytes"));
    }
    if set.data.iter().any(|data| matches!(data, RecordData::Other(_, bytes) if bytes.len() > TXT_MAX)) {
        return refuse(format!("a {kind} value has at most {TXT_MAX} bytes"));
    }
    if set.data.len() > 1 && set.data.contains(&RecordData::NullMx) {
        return refuse("an MX record that says that no mail is taken stands alone (RFC 7505 §3)".to_owned());
    }
    Ok(())
}

/// Where a target is and how it is spoken to and checked.
struct TargetAddress<'a> {
    method: Method,
    host: &'a str,
    port: u16,
    health_check: &'a Option<HealthCheck>,
}

impl TargetAddress<'_> {
    fn check(&self) -> Result<(), Refusal> {
        target_address(self.host, self.port)?;
        health_check(self.health_check.as_ref())
    }
}
