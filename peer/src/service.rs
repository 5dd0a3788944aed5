//! What nodes ask of each other, and who answers.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_core::id::NodeId;

use crate::bulk::PeerStream;

/// To whom within a node a request or stream goes. The numbers are on the wire: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Service {
    /// Raft's small RPCs.
    Raft = 1,
    /// Raft snapshots.
    Snapshot = 2,
    /// Commands forwarded to the leader.
    Propose = 3,
    /// Observations and bus messages.
    Report = 4,
    /// Traffic relayed to a node with the tunnel.
    Relay = 5,
    /// Questions about a node's state.
    Status = 6,
    /// Requests of operators, forwarded.
    Admin = 7,
    /// What a node's DNS answers to the proofs of names.
    Txt = 8,
    /// Datagrams relayed to a node with the tunnel.
    Datagrams = 9,
    /// Key-encryption keys that a node lacks.
    Keyring = 10,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Raft,
        Self::Snapshot,
        Self::Propose,
        Self::Report,
        Self::Relay,
        Self::Status,
        Self::Admin,
        Self::Txt,
        Self::Datagrams,
        Self::Keyring,
    ];

    /// The service with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|service| *service as u8 == number)
    }

    /// Whether a node may ask for it that is not known here because it joined later: it is how this node gets to know
    /// it.
    pub(crate) fn brings_the_log(self) -> bool {
        matches!(self, Self::Raft | Self::Snapshot)
    }

    /// Whether its requests are large and can wait: they travel on the bulk lane.
    pub(crate) fn is_bulk(self) -> bool {
        matches!(self, Self::Snapshot | Self::Relay | Self::Datagrams)
    }
}

/// Answers the requests of one [`Service`]. Each call runs in a task of its own.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request of `from`, whose identity is proven. An error is shown to the caller as
    /// [`PeerError::Refused`](crate::PeerError::Refused).
    fn request(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>>;

    /// Takes a stream of `from`. Returning without [shutting it down](tokio::io::AsyncWriteExt::shutdown) resets
    /// it; so does the default.
    fn stream(&self, from: NodeId, stream: PeerStream) -> BoxFuture<'_, ()> {
        let _ = from;
        drop(stream);
        Box::pin(async {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_the_wire_stay_what_they_are() {
        let numbers: Vec<u8> = Service::ALL.into_iter().map(|service| service as u8).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert!(Service::ALL.into_iter().all(|s| Service::from_number(s as u8) == Some(s)));
        assert_eq!(Service::from_number(0), None);
    }
}
