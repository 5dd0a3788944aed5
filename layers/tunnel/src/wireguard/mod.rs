//! The WireGuard device under a tunnel end, whichever it is, and its peers.

mod admission;
mod fence;
mod kernel;
#[cfg(test)]
mod namespace;
mod send;
mod socket;
pub(crate) mod tun;
mod userspace;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use pangolin_core::record::TunnelKey;

#[cfg(any(test, fuzzing))]
pub(crate) use self::admission::admits;
pub(crate) use self::{
    admission::{Gate, OpenPort},
    kernel::KernelDevice,
    socket::{Bound, Proofs, bind, bind_any},
    tun::{FromTun, ToTun, open_tun},
    userspace::{FromStack, ToStack, Userspace},
};
use crate::error::TunnelError;

/// A WireGuard peer: the other end of one tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub key: TunnelKey,
    /// The only address it may use inside the tunnel.
    pub address: Ipv4Addr,
    /// Where its datagrams go; none = learned when it speaks first.
    pub endpoint: Option<SocketAddr>,
}

/// What to change about the peers, in this order. Peers not named keep their sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PeerChange {
    pub remove: Vec<TunnelKey>,
    pub add: Vec<Peer>,
}

impl PeerChange {
    pub(crate) fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// What a device knows of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerReading {
    pub key: TunnelKey,
    pub last_handshake: Option<Duration>,
    pub received: u64,
    pub sent: u64,
}

/// A WireGuard device.
pub(crate) enum Device {
    Kernel(KernelDevice),
    Tun(Userspace<ToTun, FromTun>),
    InProcess(Userspace<ToStack, FromStack>),
}

impl Device {
    pub(crate) async fn change(&self, change: PeerChange) -> Result<(), TunnelError> {
        if change.is_empty() {
            return Ok(());
        }
        match self {
            Self::Kernel(device) => device.change(change).await,
            Self::Tun(device) => device.change(change).await,
            Self::InProcess(device) => device.change(change).await,
        }
    }

    /// From now on the peer's datagrams go where it says. Its session stays.
    pub(crate) async fn set_endpoint(&self, peer: Peer) -> Result<(), TunnelError> {
        match self {
            // The kernel changes what it knows of a peer that it has.
            Self::Kernel(device) => device.change(PeerChange { remove: Vec::new(), add: vec![peer] }).await,
            Self::Tun(device) => device.set_endpoint(peer).await,
            Self::InProcess(device) => device.set_endpoint(peer).await,
        }
    }

    pub(crate) async fn read(&self) -> Result<Vec<PeerReading>, TunnelError> {
        match self {
            Self::Kernel(device) => device.read().await,
            Self::Tun(device) => device.read().await,
            Self::InProcess(device) => device.read().await,
        }
    }

    /// Stops the device; its socket and its interface go away.
    pub(crate) async fn close(&self) {
        match self {
            Self::Kernel(device) => device.close().await,
            Self::Tun(device) => device.close().await,
            Self::InProcess(device) => device.close().await,
        }
    }
}
