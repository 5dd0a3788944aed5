//! Which targets this node reaches without another one: through its own tunnels, and those of local sites.

use std::{io, time::Duration};

use futures_util::future::BoxFuture;
use pangolin_core::{NodeId, SiteId};
use pangolin_edge::{BoxedDatagrams, BoxedIo, Datagrams, DialError, Via};
use pangolin_tunnel::{DialError as TunnelDialError, TunnelDatagrams, TunnelLayer};

use super::local_sites::LocalSites;

/// How long a connection through a tunnel may take: a live one answers in a round trip.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// What this node reaches.
#[derive(Clone)]
pub struct Reach {
    /// Its own tunnels.
    pub tunnel: TunnelLayer,
    /// Sites that need no tunnel.
    pub local_sites: LocalSites,
}

impl Reach {
    /// Nodes that reach a site by themselves, this one (`me`) included: `tunnels` are those with a live tunnel.
    pub(crate) fn nodes(&self, me: NodeId, site: SiteId, tunnels: Vec<NodeId>) -> (bool, Vec<NodeId>) {
        match self.local_sites.nodes(site) {
            Some(nodes) => (nodes.contains(&me), nodes),
            None => (self.tunnel.seen().borrow().get(&site).is_some_and(|seen| seen.alive), tunnels),
        }
    }

    /// Connects to a port of the site's tunnel address.
    ///
    /// # Errors
    /// No way from here, or the target refuses.
    pub(crate) async fn connect(&self, site: SiteId, port: u16) -> Result<BoxedIo, DialError> {
        if self.local_sites.is_here(site) {
            return Ok(Box::new(self.local_sites.connect(site, port).await?));
        }
        match self.tunnel.dial_tcp(site, port, DIAL_TIMEOUT).await {
            Ok(io) => Ok(Box::new(io)),
            Err(error @ TunnelDialError::Refused { .. }) => {
                Err(DialError::refused(Via::Local, error.to_string()))
            }
            Err(error) => Err(DialError::at(Via::Local, error.to_string())),
        }
    }

    /// Connects as [`Self::connect`] does, to check a target.
    ///
    /// # Errors
    /// No way from here, or the target refuses.
    pub(crate) async fn connect_to_check(&self, site: SiteId, port: u16) -> Result<BoxedIo, DialError> {
        if self.local_sites.is_here(site) {
            return Ok(Box::new(self.local_sites.connect_to_check(site, port).await?));
        }
        self.connect(site, port).await
    }

    /// Opens a session of datagrams with such a port.
    ///
    /// # Errors
    /// No way from here.
    pub(crate) async fn datagrams(&self, site: SiteId, port: u16) -> Result<BoxedDatagrams, DialError> {
        if self.local_sites.is_here(site) {
            return Ok(Box::new(self.local_sites.connect_udp(site, port).await?));
        }
        let datagrams = self.tunnel.dial_udp(site, port).await;
        let datagrams = datagrams.map_err(|error| DialError::at(Via::Local, error.to_string()))?;
        Ok(Box::new(Session(datagrams)))
    }
}

/// Datagrams through a tunnel of this node.
struct Session(TunnelDatagrams);

impl Datagrams for Session {
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.0.send(datagram))
    }

    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(self.0.recv(buffer))
    }
}
