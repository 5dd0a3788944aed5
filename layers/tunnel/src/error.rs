//! What can go wrong with tunnels.

use std::{io, net::SocketAddr};

use pangolin_core::id::{Revision, SiteId};

/// The tunnel layer could not be opened, brought in line, or kept running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The UDP socket could not be bound.
    #[error("cannot listen for WireGuard on udp {address}: {source}; {}", listen_advice(.source))]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The network interface could not be made.
    #[error("cannot make the network interface {name:?}: {source}; {}", interface_advice(.source))]
    Interface {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel has no WireGuard, or does not let us use it.
    #[error(
        "cannot use the kernel's WireGuard for the interface {name:?}: {reason}; use the backend tun or auto"
    )]
    Kernel {
        /// Name of the interface.
        name: String,
        /// What failed.
        reason: String,
    },
    /// The interface was removed by someone else.
    #[error("the network interface {name:?} is gone; start the node again to have it back")]
    InterfaceGone {
        /// Its name.
        name: String,
    },
    /// The network namespace for the kernel's TCP cannot be made.
    #[error(
        "cannot make a network namespace for the tunnels: {0}; use the backend in-process, which needs none, or auto"
    )]
    Namespace(io::Error),
    /// The process that keeps the namespace was ended by someone else.
    #[error("the process that keeps the tunnels' network namespace is gone; start the connector again")]
    NamespaceGone,
    /// The WireGuard device refused a change.
    #[error("the WireGuard device refused a change: {0}")]
    Device(String),
    /// The layer has been shut down.
    #[error("the tunnel layer has been shut down")]
    Closed,
    /// A plan older than the one in effect.
    #[error("the plan of revision {given} is older than {applied}, which is in effect")]
    OldRevision {
        /// Revision of the plan given.
        given: Revision,
        /// Revision in effect.
        applied: Revision,
    },
    /// The plan says another address than the one the layer was opened with. Addresses are fixed at join.
    #[error(
        "the plan gives this node the tunnel address {planned}, but it runs with {opened}; start the node again"
    )]
    OtherAddress {
        /// Address in the plan.
        planned: std::net::Ipv4Addr,
        /// Address the layer was opened with.
        opened: std::net::Ipv4Addr,
    },
    /// The MTU is out of range.
    #[error("a tunnel MTU of {0} is out of range; use 576 to 1420 (1280 fits everywhere)")]
    Mtu(u16),
}

fn listen_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "another program has this port, give the node another one",
        io::ErrorKind::AddrNotAvailable => "this host does not have that address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges",
        _ => "check the address",
    }
}

fn interface_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "it takes CAP_NET_ADMIN, or the backend in-process, which needs no rights"
        }
        io::ErrorKind::ResourceBusy => "another program has it, give this node another interface name",
        io::ErrorKind::NotFound => {
            "/dev/net/tun is missing, load the module tun or use the backend in-process"
        }
        _ => "use the backend in-process to do without",
    }
}

/// A connection into a site could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The plan in effect has no such site.
    #[error("site {0} is unknown or disabled here")]
    UnknownSite(SiteId),
    /// The site has no live tunnel to this node.
    #[error("site {0} has no live tunnel to this node")]
    NotConnected(SiteId),
    /// The connector does not listen there.
    #[error("site {site} refuses connections to tunnel port {port}")]
    Refused {
        /// The site.
        site: SiteId,
        /// Port on its tunnel address.
        port: u16,
    },
    /// No answer in time.
    #[error("site {site} did not answer on tunnel port {port} in time")]
    TimedOut {
        /// The site.
        site: SiteId,
        /// Port on its tunnel address.
        port: u16,
    },
    /// This node has as many connections into sites as it may.
    #[error("this node has no room for another connection into a site")]
    Exhausted,
    /// The layer has been shut down.
    #[error("the tunnel layer has been shut down")]
    Closed,
    /// Anything else the system says.
    #[error("cannot connect to site {site}, tunnel port {port}: {source}")]
    Io {
        /// The site.
        site: SiteId,
        /// Port on its tunnel address.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}
