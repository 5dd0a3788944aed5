//! The one-node cluster of these tests answers no DNS, and says so: `tests/dns.rs` has the real one.

use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use pangolin_api::{ApiFailure, DnsPort, NewKey, ZoneRecords};
use pangolin_core::{
    HostName, RequestId,
    record::{RecordData, RecordKind},
    rollover::ParentFound,
};
use pangolin_wire::{Code, DnsReply, ZoneCheck};

pub(crate) struct NoDns;

fn none() -> ApiFailure {
    ApiFailure::new(Code::NotFound, "this node answers no DNS")
}

impl DnsPort for NoDns {
    fn read_value(&self, _: &HostName, _: RecordKind, _: &str) -> Result<RecordData, ApiFailure> {
        Err(none())
    }

    fn read_zone(&self, _: &HostName, _: &str) -> Result<ZoneRecords, ApiFailure> {
        Err(none())
    }

    fn print_zone(&self, _: &HostName) -> Result<String, ApiFailure> {
        Err(none())
    }

    fn ask(&self, _: &str, _: Option<RecordKind>, _: Option<IpAddr>) -> Result<DnsReply, ApiFailure> {
        Err(none())
    }

    fn check(&self, _: HostName, _: Option<SocketAddr>) -> BoxFuture<'_, Result<ZoneCheck, ApiFailure>> {
        Box::pin(async { Err(none()) })
    }

    fn ask_parent(
        &self,
        _: HostName,
        _: Option<SocketAddr>,
    ) -> BoxFuture<'_, Result<ParentFound, ApiFailure>> {
        Box::pin(async { Err(none()) })
    }

    fn new_zone_key(&self, _: &HostName) -> Result<NewKey, ApiFailure> {
        Err(none())
    }

    fn delegation_signer(&self, _: &HostName, _: &[u8]) -> String {
        String::new()
    }

    fn new_transfer_key(&self, _: &HostName, _: RequestId) -> Result<NewKey, ApiFailure> {
        Err(none())
    }
}
