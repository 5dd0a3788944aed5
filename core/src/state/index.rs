//! What is looked up in the catalog for every change and every plan, so that neither takes longer the more is published.
//! It follows from the records and is not stored.

use std::ops::RangeInclusive;

use imbl::{OrdMap, OrdSet};

use crate::{
    id::{ResourceId, SiteId, TargetId},
    name::{HostName, Slug},
    record::{Resource, Target},
    state::ClusterState,
};

/// Where resources and targets are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
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
    /// The index of these records.
    pub(super) fn of<'a>(
        resources: impl Iterator<Item = &'a Resource>,
        targets: impl Iterator<Item = &'a Target>,
    ) -> Self {
        let mut index = Self::default();
        resources.for_each(|resource| index.add_resource(resource));
        targets.for_each(|target| index.add_target(target));
        index
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
        self.index = Index::of(self.resources.values(), self.targets.values());
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
