//! What is looked up in the catalog for every change and every plan, so that neither takes longer the more is published.
//! It follows from the records and is not stored.

use std::ops::RangeInclusive;

use imbl::{OrdMap, OrdSet};

use crate::{
    id::{ResourceId, RoleId, SiteId, TargetId, UserId},
    name::{HostName, Slug},
    record::{Resource, Role, Site, Target, TunnelKey, User},
    state::ClusterState,
};

/// Where records are found by what names them besides their id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    emails: OrdMap<String, UserId>,
    roles: OrdMap<(Slug, String), RoleId>,
    sites: OrdMap<(Slug, Slug), SiteId>,
    connectors: OrdMap<String, SiteId>,
    tunnel_keys: OrdMap<TunnelKey, SiteId>,
    hosts: OrdMap<HostName, ResourceId>,
    nice_ids: OrdMap<(Slug, Slug), ResourceId>,
    of_resource: OrdSet<(ResourceId, TargetId)>,
    at_site: OrdSet<(SiteId, TargetId)>,
    ports: OrdSet<(SiteId, u16)>,
}

/// All pairs that begin with a key.
fn of<K: Copy>(key: K) -> RangeInclusive<(K, TargetId)> {
    (key, TargetId(0))..=(key, TargetId(u64::MAX))
}

impl Index {
    fn of(state: &ClusterState) -> Self {
        let mut index = Self::default();
        state.users.values().for_each(|user| index.add_user(user));
        state.roles.values().for_each(|role| index.add_role(role));
        state.sites.values().for_each(|site| index.add_site(site));
        for (site, connector) in &state.connectors {
            index.tunnel_keys.insert(connector.tunnel_key, *site);
        }
        state.resources.values().for_each(|resource| index.add_resource(resource));
        state.targets.values().for_each(|target| index.add_target(target));
        index
    }

    pub(super) fn add_user(&mut self, user: &User) {
        self.emails.insert(user.email.clone(), user.id);
    }

    pub(super) fn remove_user(&mut self, user: &User) {
        self.emails.remove(&user.email);
    }

    pub(super) fn add_role(&mut self, role: &Role) {
        self.roles.insert((role.org.clone(), role.name.clone()), role.id);
    }

    pub(super) fn remove_role(&mut self, role: &Role) {
        self.roles.remove(&(role.org.clone(), role.name.clone()));
    }

    pub(super) fn add_site(&mut self, site: &Site) {
        self.sites.insert((site.org.clone(), site.nice_id.clone()), site.id);
        self.connectors.insert(site.connector_id.clone(), site.id);
    }

    pub(super) fn remove_site(&mut self, site: &Site) {
        self.sites.remove(&(site.org.clone(), site.nice_id.clone()));
        self.connectors.remove(&site.connector_id);
    }

    /// A site's connector has another tunnel key than before, or none any more.
    pub(super) fn move_tunnel_key(
        &mut self,
        site: SiteId,
        before: Option<TunnelKey>,
        now: Option<TunnelKey>,
    ) {
        if let Some(before) = before {
            self.tunnel_keys.remove(&before);
        }
        if let Some(now) = now {
            self.tunnel_keys.insert(now, site);
        }
    }

    pub(super) fn add_resource(&mut self, resource: &Resource) {
        self.hosts.insert(resource.host.clone(), resource.id);
        self.nice_ids.insert((resource.org.clone(), resource.nice_id.clone()), resource.id);
    }

    pub(super) fn remove_resource(&mut self, resource: &Resource) {
        self.hosts.remove(&resource.host);
        self.nice_ids.remove(&(resource.org.clone(), resource.nice_id.clone()));
    }

    pub(super) fn add_target(&mut self, target: &Target) {
        self.of_resource.insert((target.resource, target.id));
        self.at_site.insert((target.site, target.id));
        self.ports.insert((target.site, target.tunnel_port));
    }

    pub(super) fn remove_target(&mut self, target: &Target) {
        self.of_resource.remove(&(target.resource, target.id));
        self.at_site.remove(&(target.site, target.id));
        self.ports.remove(&(target.site, target.tunnel_port));
    }

    /// The user with this e-mail address, in lower case.
    pub(super) fn user_of(&self, email: &str) -> Option<UserId> {
        self.emails.get(email).copied()
    }

    /// The role that an organisation calls so.
    pub(super) fn role_called(&self, org: &Slug, name: &str) -> Option<RoleId> {
        self.roles.get(&(org.clone(), name.to_owned())).copied()
    }

    /// The site that an organisation calls so.
    pub(super) fn site_called(&self, org: &Slug, nice_id: &Slug) -> Option<SiteId> {
        self.sites.get(&(org.clone(), nice_id.clone())).copied()
    }

    /// The site whose connector signs in with this id.
    pub(super) fn site_of_connector(&self, connector_id: &str) -> Option<SiteId> {
        self.connectors.get(connector_id).copied()
    }

    /// The site whose connector has this key.
    pub(super) fn site_of_tunnel_key(&self, key: TunnelKey) -> Option<SiteId> {
        self.tunnel_keys.get(&key).copied()
    }

    /// The resource that is published under exactly this name.
    pub(super) fn at_host(&self, host: &HostName) -> Option<ResourceId> {
        self.hosts.get(host).copied()
    }

    /// The resource that an organisation calls so.
    pub(super) fn called(&self, org: &Slug, nice_id: &Slug) -> Option<ResourceId> {
        self.nice_ids.get(&(org.clone(), nice_id.clone())).copied()
    }

    /// The lowest port from `first` on that no target of a site has.
    pub(super) fn free_port(&self, site: SiteId, first: u16) -> Option<u16> {
        let mut taken = self.ports.range((site, first)..=(site, u16::MAX)).map(|(_, port)| *port).peekable();
        (first..=u16::MAX).find(|port| taken.next_if_eq(port).is_none())
    }
}

impl ClusterState {
    /// The targets of a resource, in order of their ids.
    pub fn targets_of(&self, resource: ResourceId) -> impl Iterator<Item = &Target> {
        self.index.of_resource.range(of(resource)).filter_map(|(_, id)| self.targets.get(id))
    }

    /// The targets behind a site, in order of their ids.
    pub fn targets_at(&self, site: SiteId) -> impl Iterator<Item = &Target> {
        self.index.at_site.range(of(site)).filter_map(|(_, id)| self.targets.get(id))
    }

    /// Finds everything anew.
    pub(super) fn index_anew(&mut self) {
        self.index = Index::of(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_port_fills_gaps_and_ends_with_the_last_one() {
        let port = |port| (SiteId(1), port);
        let mut index = Index {
            ports: [port(7), port(8), (SiteId(2), 9), port(10)].into_iter().collect(),
            ..Index::default()
        };
        assert_eq!(index.free_port(SiteId(1), 7), Some(9));
        assert_eq!(index.free_port(SiteId(2), 9), Some(10));
        assert_eq!(index.free_port(SiteId(3), 7), Some(7));
        index.ports.extend((65_530..=u16::MAX).map(port));
        assert_eq!(index.free_port(SiteId(1), 65_530), None);
    }
}
