//! What commands do to placements and connectors.

use crate::{
    command::Cause,
    id::{NodeId, SiteId},
    outcome::{Object, Refusal},
    record::{Connector, Placement, TunnelKey},
    state::{Applied, ClusterState},
};

/// Most standbys of a site.
pub(super) const STANDBYS_MAX: usize = 4;
/// Longest version text of a connector.
pub(super) const VERSION_MAX: usize = 64;

impl ClusterState {
    pub(super) fn place_site(
        &mut self,
        site: SiteId,
        home: NodeId,
        standbys: &[NodeId],
        cause: &Cause,
    ) -> Applied {
        if !self.sites.contains_key(&site) {
            return Err(Refusal::NotFound(Object::Site(site)));
        }
        if let Some(unknown) = std::iter::once(&home).chain(standbys).find(|id| !self.nodes.contains_key(*id))
        {
            return Err(Refusal::NotFound(Object::Node(*unknown)));
        }
        if standbys.contains(&home) || standbys.len() > STANDBYS_MAX {
            return Err(Refusal::Invalid(format!("a home and up to {STANDBYS_MAX} other nodes as standbys")));
        }
        let epoch = self.placements.get(&site).map_or(self.epoch_floor, |p| p.epoch).next();
        let (standbys, since) = (standbys.to_vec(), self.time);
        self.placements.insert(site, Placement { home, standbys, epoch, since, cause: cause.clone() });
        Ok(None)
    }

    pub(super) fn register_connector(
        &mut self,
        site: SiteId,
        tunnel_key: TunnelKey,
        version: &str,
        multi_homed: bool,
    ) -> Applied {
        if !self.sites.contains_key(&site) {
            return Err(Refusal::NotFound(Object::Site(site)));
        }
        if version.len() > VERSION_MAX {
            return Err(Refusal::Invalid(format!("a connector's version has at most {VERSION_MAX} bytes")));
        }
        if let Some(other) = self.index.site_of_tunnel_key(tunnel_key).filter(|other| *other != site) {
            let name = "tunnel key".to_owned();
            return Err(Refusal::NameTaken { name, by: Object::Site(other) });
        }
        let before = self.connectors.get(&site).map(|known| known.tunnel_key);
        self.index.move_tunnel_key(site, before, Some(tunnel_key));
        let since = match self.connectors.get(&site) {
            Some(known) if known.tunnel_key == tunnel_key => known.since,
            _ => self.time,
        };
        self.connectors
            .insert(site, Connector { tunnel_key, version: version.to_owned(), multi_homed, since });
        Ok(None)
    }
}
