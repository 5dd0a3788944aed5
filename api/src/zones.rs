//! What the API needs of the node for DNS: what only the DNS layer can read and write, and keys.

use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use pangolin_core::{
    HostName,
    record::{RecordData, RecordKind, RecordSet, Sealed},
    rollover::ParentFound,
};
use pangolin_wire::{DnsReply, ZoneCheck};

use crate::failure::ApiFailure;

/// What a zone file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneRecords {
    /// Record sets, in the order of the file.
    pub sets: Vec<(HostName, RecordSet)>,
    /// What is left out, in words.
    pub skipped: Vec<String>,
}

/// A new key: what everybody may see of it, and the rest sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Public half of a zone's key; the secret itself of a transfer key, which is shown once.
    pub shown: Vec<u8>,
    /// What only nodes open.
    pub sealed: Sealed,
}

/// The DNS of the node that is asked.
pub trait DnsPort: Send + Sync {
    /// Reads a value as people write it.
    fn read_value(&self, zone: &HostName, kind: RecordKind, value: &str) -> Result<RecordData, ApiFailure>;

    /// Reads a zone file.
    fn read_zone(&self, zone: &HostName, text: &str) -> Result<ZoneRecords, ApiFailure>;

    /// A zone as it is served, in the form of a zone file.
    fn print_zone(&self, zone: &HostName) -> Result<String, ApiFailure>;

    /// What this node answers.
    fn ask(
        &self,
        name: &str,
        kind: Option<RecordKind>,
        client: Option<IpAddr>,
    ) -> Result<DnsReply, ApiFailure>;

    /// Compares a zone with what its parent says, and asks each of its servers.
    fn check(
        &self,
        zone: HostName,
        parent: Option<SocketAddr>,
    ) -> BoxFuture<'_, Result<ZoneCheck, ApiFailure>>;

    /// What the parent of a signed zone has: those of its servers that are found, or the one that is named.
    fn ask_parent(
        &self,
        zone: HostName,
        parent: Option<SocketAddr>,
    ) -> BoxFuture<'_, Result<ParentFound, ApiFailure>>;

    /// Makes a key that signs a zone.
    fn new_zone_key(&self, zone: &HostName) -> Result<NewKey, ApiFailure>;

    /// The DS record for the parent of a zone that is signed with the key of this public half.
    fn delegation_signer(&self, zone: &HostName, public: &[u8]) -> String;

    /// Makes a shared secret for transfers; a repeat of the request makes the same one.
    fn new_transfer_key(
        &self,
        name: &HostName,
        request: pangolin_core::RequestId,
    ) -> Result<NewKey, ApiFailure>;
}
