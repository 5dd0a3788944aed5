//! What the API asks of DNS.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
};

use futures_util::future::BoxFuture;
use pangolin_api::{ApiFailure, DnsPort, NewKey, ZoneRecords};
use pangolin_core::{
    ClusterState, HostName, RequestId,
    plan::{ZonePlan, challenge_names, dns_of},
    record::{RecordData, RecordKind},
    rollover::ParentFound,
};
use pangolin_dns::{
    Alias, DnsError, DnsServer, ask_parent, check_zone, delegation_signer, new_zone_key, print_zone,
};
use pangolin_peer::identity::Keyring;
use pangolin_raft::Cluster;
use pangolin_wire::{Code, DnsReply, ZoneCheck};

use crate::{keys::Keys, seal};

/// The zones of this node.
#[derive(Clone)]
pub struct Zones {
    cluster: Cluster,
    /// Seals keys; a witness has none.
    keyring: Option<Keys>,
    /// Set once DNS is served here; a witness serves none.
    server: Arc<OnceLock<DnsServer>>,
}

impl Zones {
    /// Of a node that does not serve them yet.
    #[must_use]
    pub fn new(cluster: Cluster, keyring: Option<Keys>) -> Self {
        Self { cluster, keyring, server: Arc::default() }
    }

    /// DNS is served from here on.
    pub fn serve(&self, server: DnsServer) {
        // A node has one, once.
        let _ = self.server.set(server);
    }

    fn plan(&self, zone: &HostName) -> Result<ZonePlan, ApiFailure> {
        let zones = dns_of(&self.cluster.state()).zones;
        zones
            .into_iter()
            .find(|known| known.apex == *zone)
            .ok_or_else(|| ApiFailure::new(Code::NotFound, format!("{zone} is no zone of this cluster")))
    }

    fn keyring(&self) -> Result<Arc<Keyring>, ApiFailure> {
        self.keyring.as_ref().map(Keys::now).ok_or_else(|| {
            ApiFailure::new(Code::Conflict, "this node is a witness and holds no keys")
                .hint("Ask a data node.")
        })
    }
}

/// How the name of a zone is led here without a delegation: where it is published, and not within the cluster's zone.
fn alias(state: &ClusterState, zone: &HostName) -> Option<Alias> {
    let published = state.resources().values().any(|resource| resource.enabled && resource.host == *zone);
    let target = state.settings()?.control_host.clone();
    let challenge = challenge_names(state, zone).into_iter().nth(1)?;
    (published && !target.is_within(zone)).then_some(Alias { target, challenge })
}

fn invalid(error: &DnsError) -> ApiFailure {
    ApiFailure::invalid(error.to_string())
}

fn internal(error: impl std::fmt::Display) -> ApiFailure {
    ApiFailure::internal(error.to_string())
}

impl DnsPort for Zones {
    fn read_value(&self, zone: &HostName, kind: RecordKind, value: &str) -> Result<RecordData, ApiFailure> {
        pangolin_dns::read_value(zone, kind, value).map_err(|error| invalid(&error))
    }

    fn read_zone(&self, zone: &HostName, text: &str) -> Result<ZoneRecords, ApiFailure> {
        let found = pangolin_dns::read_zone(zone, text).map_err(|error| invalid(&error))?;
        Ok(ZoneRecords { sets: found.sets, skipped: found.skipped })
    }

    fn print_zone(&self, zone: &HostName) -> Result<String, ApiFailure> {
        print_zone(&self.plan(zone)?).map_err(internal)
    }

    fn ask(
        &self,
        name: &str,
        kind: Option<RecordKind>,
        client: Option<IpAddr>,
    ) -> Result<DnsReply, ApiFailure> {
        let server = self.server.get().ok_or_else(|| {
            ApiFailure::new(Code::Conflict, "this node answers no DNS (yet): it is a witness, or is starting")
                .hint("Ask a data node.")
        })?;
        let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let shown = server.inspect(name, kind, client).map_err(|error| invalid(&error))?;
        let [answer, authority, additional] = shown.sections;
        Ok(DnsReply { rcode: shown.rcode, authoritative: shown.authoritative, answer, authority, additional })
    }

    fn check(
        &self,
        zone: HostName,
        parent: Option<SocketAddr>,
    ) -> BoxFuture<'_, Result<ZoneCheck, ApiFailure>> {
        Box::pin(async move {
            let state = self.cluster.state();
            let (plan, zones) = (self.plan(&zone)?, dns_of(&state).zones);
            let alias = alias(&state, &zone);
            let checked = check_zone(&plan, &zones, alias.as_ref(), parent, None).await;
            Ok(ZoneCheck { good: checked.good, bad: checked.bad, enter: checked.enter })
        })
    }

    fn ask_parent(
        &self,
        zone: HostName,
        parent: Option<SocketAddr>,
    ) -> BoxFuture<'_, Result<ParentFound, ApiFailure>> {
        Box::pin(async move {
            let found = ask_parent(&self.plan(&zone)?, parent).await;
            let cannot =
                |why| ApiFailure::new(Code::Conflict, format!("the parent of {zone} cannot be asked: {why}"));
            found.map_err(cannot)
        })
    }

    fn new_zone_key(&self, zone: &HostName) -> Result<NewKey, ApiFailure> {
        let (private, public) = new_zone_key().map_err(internal)?;
        let sealed = self.keyring()?.seal(&private, &seal::zone_key(zone)).map_err(internal)?;
        Ok(NewKey { shown: public, sealed })
    }

    fn delegation_signer(&self, zone: &HostName, public: &[u8]) -> String {
        delegation_signer(zone, public)
    }

    fn new_transfer_key(&self, name: &HostName, request: RequestId) -> Result<NewKey, ApiFailure> {
        let keyring = self.keyring()?;
        // Derived from the request, so that a repeat of it gets the same secret.
        let secret = keyring.derive_one(&format!("transfer key|{request}")).to_vec();
        let sealed = keyring.seal(&secret, &seal::transfer_key(name)).map_err(internal)?;
        Ok(NewKey { shown: secret, sealed })
    }
}
