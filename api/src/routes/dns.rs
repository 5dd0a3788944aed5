//! DNS: the operator's own records, zones, transfers, regions, and what this node answers.

use std::net::{IpAddr, SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pangolin_core::{
    Body, ClusterState, HostName, ResourceId,
    dns::DnsChange,
    plan::{DnsPlan, ZonePlan, dns_of, served_below},
    record::{self, RecordKind},
};
use pangolin_wire::{
    AddRecord, CreateTransferKey, ImportRecords, ImportedRecords, NewTransferKey, RecordSet, RecordSetList,
    RegionRule, RegionRuleList, RemoveRecord, Secondary, SetAnswers, SetRegion, SetSecondary,
    TransferKeyList, Zone, ZoneFile, ZoneList,
};

use super::Routes;
use crate::{
    answer::Answer,
    call::{Call, Changed},
    failure::ApiFailure,
};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/dns/record", add_record);
    routes.post("/dns/record/remove", remove_record);
    routes.get("/dns/zones", zones);
    routes.get("/dns/zone/{zone}/records", records);
    routes.get("/dns/zone/{zone}/file", file);
    routes.get("/dns/zone/{zone}/check", check);
    routes.post("/dns/zone/{zone}/import", import);
    routes.post("/dns/zone/{zone}/secondary", set_secondary);
    routes.get("/dns/query", query);
    routes.get("/dns/regions", regions);
    routes.post("/dns/region", set_region);
    routes.get("/dns/transfer-keys", transfer_keys);
    routes.put("/dns/transfer-key", create_transfer_key);
    routes.delete("/dns/transfer-key/{name}", remove_transfer_key);
    routes.post("/resource/{resourceId}/answers", set_answers);
}

impl Call {
    /// Refuses those who may not see and change the records of a name: its domain's organisation may, and for names
    /// in no domain the cluster's administrators.
    fn may_publish(&self, name: &HostName) -> Result<(), ApiFailure> {
        let domains = self.state.domains().values().filter(|domain| name.is_within(&domain.name));
        match domains.max_by_key(|domain| domain.name.as_str().len()) {
            Some(domain) if self.view().sees(&domain.org) => Ok(()),
            _ => self.administrator(),
        }
    }

    pub(super) async fn change_dns(&self, change: DnsChange) -> Result<Changed, ApiFailure> {
        self.propose(Body::Dns(Box::new(change))).await
    }

    /// The zone that holds a name.
    fn zone_of(&self, name: &HostName) -> Result<HostName, ApiFailure> {
        served_below(&self.state, name).cloned().ok_or_else(|| {
            ApiFailure::invalid(format!("{name} does not lie in a zone of this cluster"))
                .hint("`pangolinctl dns zones` shows them; `pangolinctl domain create` adds one.")
        })
    }

    /// The zone that the path names, for those who may see it.
    pub(super) fn zone(&self) -> Result<HostName, ApiFailure> {
        let name: HostName = self.parameter("zone")?;
        self.may_publish(&name)?;
        if served_below(&self.state, &name) == Some(&name) {
            return Ok(name);
        }
        Err(ApiFailure::invalid(format!("{name} is no zone of this cluster"))
            .hint("`pangolinctl dns zones` shows them."))
    }

    fn dns_plan(&self) -> DnsPlan {
        // Every node answers the same.
        dns_of(&self.state)
    }
}

fn kind(text: &str) -> Result<RecordKind, ApiFailure> {
    text.parse().map_err(|error| ApiFailure::invalid(format!("kind: {error}")))
}

async fn add_record(call: Call) -> Result<Answer, ApiFailure> {
    let AddRecord { name, kind: word, value, ttl } = call.body()?;
    call.may_publish(&name)?;
    let kind = kind(&word)?;
    let data = call.app.node.dns().read_value(&call.zone_of(&name)?, kind, &value)?;
    let changed = call.change_dns(DnsChange::RecordAdded { name: name.clone(), ttl, data }).await?;
    let set = changed.state.record_sets().get(&(name.clone(), kind));
    let set = set.map(|set| render_set(&name, kind, set));
    Answer::created(changed.revision, format!("{kind} of {name} added"), &set)
}

async fn remove_record(call: Call) -> Result<Answer, ApiFailure> {
    let RemoveRecord { name, kind: word, value } = call.body()?;
    call.may_publish(&name)?;
    let kind = kind(&word)?;
    let zone = call.zone_of(&name)?;
    let data = value.map(|value| call.app.node.dns().read_value(&zone, kind, &value)).transpose()?;
    let changed = call.change_dns(DnsChange::RecordRemoved { name: name.clone(), kind, data }).await?;
    Ok(Answer::done(changed.revision, format!("{kind} of {name} removed")))
}

async fn records(call: Call) -> Result<Answer, ApiFailure> {
    let zone = call.zone()?;
    let sets = call.state.record_sets().iter().filter(|((name, _), _)| name.is_within(&zone));
    let (record_sets, pagination) =
        call.page(sets.map(|((name, kind), set)| render_set(name, *kind, set)))?;
    let list = RecordSetList { record_sets, pagination };
    Answer::ok(call.state.revision(), format!("records of {zone}"), &list)
}

async fn zones(call: Call) -> Result<Answer, ApiFailure> {
    let plan = call.dns_plan();
    let seen = plan.zones.iter().filter(|zone| call.may_publish(&zone.apex).is_ok());
    let (zones, pagination) = call.page(seen.map(|zone| render(&call, zone)))?;
    Answer::ok(call.state.revision(), "zones", &ZoneList { zones, pagination })
}

async fn file(call: Call) -> Result<Answer, ApiFailure> {
    let zone = call.zone()?;
    let text = call.app.node.dns().print_zone(&zone)?;
    Answer::ok(call.state.revision(), format!("zone {zone}"), &ZoneFile { text })
}

async fn check(call: Call) -> Result<Answer, ApiFailure> {
    let zone = call.zone()?;
    let [server] = call.query(["server"])?;
    let server: Option<SocketAddr> = parse("server", server)?;
    // This node asks whom it is told to ask.
    if server.is_some() {
        call.administrator()?;
    }
    let checked = call.app.node.dns().check(zone.clone(), server).await?;
    let message = match checked.bad.len() {
        0 => format!("{zone} is delegated as it should be"),
        count => format!("{count} things are wrong with {zone}"),
    };
    Answer::ok(call.state.revision(), message, &checked)
}

async fn import(call: Call) -> Result<Answer, ApiFailure> {
    let ImportRecords { text, replace } = call.body()?;
    let zone = call.zone()?;
    let found = call.app.node.dns().read_zone(&zone, &text)?;
    for (name, _) in &found.sets {
        call.may_publish(name)?;
    }
    let record_sets = found.sets.len();
    let change = DnsChange::RecordsImported { zone: zone.clone(), replace, sets: found.sets };
    let changed = call.change_dns(change).await?;
    let imported = ImportedRecords { record_sets, skipped: found.skipped };
    Answer::ok(changed.revision, format!("{record_sets} record sets brought into {zone}"), &imported)
}

async fn set_secondary(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let SetSecondary { address, key } = call.body()?;
    let zone: HostName = call.parameter("zone")?;
    let message = match &key {
        Some(key) => format!("{address} may transfer {zone} with the key {key}"),
        None => format!("{address} is no secondary of {zone} any more"),
    };
    let changed = call.change_dns(DnsChange::SecondarySet { zone, address, key }).await?;
    Ok(Answer::done(changed.revision, message))
}

async fn query(call: Call) -> Result<Answer, ApiFailure> {
    let [name, word, client] = call.query(["name", "kind", "client"])?;
    let name = name.ok_or_else(|| ApiFailure::invalid("the name is missing in the query"))?;
    let host: HostName = name.parse().map_err(|error| ApiFailure::invalid(format!("name: {error}")))?;
    call.may_publish(&host)?;
    let kind = word.as_deref().map(kind).transpose()?;
    let client: Option<IpAddr> = parse("client", client)?;
    let reply = call.app.node.dns().ask(&name, kind, client)?;
    Answer::ok(call.state.revision(), format!("what this node answers for {name}"), &reply)
}

async fn regions(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let rules = call.state.dns().regions.iter();
    let rules = rules.map(|(network, region)| RegionRule { network: *network, region: region.clone() });
    let (rules, pagination) = call.page(rules)?;
    Answer::ok(call.state.revision(), "where clients are", &RegionRuleList { rules, pagination })
}

async fn set_region(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let SetRegion { network, region } = call.body()?;
    let message = match &region {
        Some(region) => format!("clients in {network} are in the region {region}"),
        None => format!("nothing is said about clients in {network} any more"),
    };
    let changed = call.change_dns(DnsChange::RegionSet { network, region }).await?;
    Ok(Answer::done(changed.revision, message))
}

async fn transfer_keys(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let (keys, pagination) = call.page(call.state.dns().transfer_keys.keys().cloned())?;
    Answer::ok(call.state.revision(), "keys for transfers", &TransferKeyList { keys, pagination })
}

async fn create_transfer_key(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let CreateTransferKey { name } = call.body()?;
    let key = call.app.node.dns().new_transfer_key(&name, call.request())?;
    let change = DnsChange::TransferKeySet { name: name.clone(), secret: Some(key.sealed) };
    let changed = call.change_dns(change).await?;
    let message = format!("key {name} created: its secret is shown this once");
    let secret = STANDARD.encode(key.shown);
    let shown = NewTransferKey { name, algorithm: "hmac-sha256".to_owned(), secret };
    Answer::created(changed.revision, message, &shown)
}

async fn remove_transfer_key(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let name: HostName = call.parameter("name")?;
    let changed = call.change_dns(DnsChange::TransferKeySet { name: name.clone(), secret: None }).await?;
    Ok(Answer::done(changed.revision, format!("key {name} deleted")))
}

async fn set_answers(call: Call) -> Result<Answer, ApiFailure> {
    let (resource, SetAnswers { policy }): (ResourceId, _) = (call.parameter("resourceId")?, call.body()?);
    let host = call.view().resource(resource)?.host.clone();
    let changed = call.change_dns(DnsChange::PolicySet { resource, policy }).await?;
    Ok(Answer::done(changed.revision, format!("{host} is answered by the policy {policy}")))
}

pub(super) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    what: &str,
    text: Option<String>,
) -> Result<Option<T>, ApiFailure> {
    let read = |text: String| {
        text.parse().map_err(|error| ApiFailure::invalid(format!("{what} is {text:?} in the query: {error}")))
    };
    text.map(read).transpose()
}

fn render_set(name: &HostName, kind: RecordKind, set: &record::RecordSet) -> RecordSet {
    let values = set.data.iter().map(ToString::to_string).collect();
    RecordSet { name: name.clone(), kind: kind.to_string(), ttl: set.ttl, values }
}

/// A zone, as it is in a state.
pub(super) fn render_zone(call: &Call, state: &ClusterState, apex: &HostName) -> Option<Zone> {
    let zone = dns_of(state).zones.into_iter().find(|known| known.apex == *apex);
    zone.map(|zone| render(call, &zone))
}

fn render(call: &Call, zone: &ZonePlan) -> Zone {
    let domain = call.state.domains().values().find(|domain| domain.name == zone.apex);
    let mut signers = zone.keys().map(|key| call.app.node.dns().delegation_signer(&zone.apex, &key.public));
    let secondaries = zone.secondaries.iter();
    Zone {
        zone: zone.apex.clone(),
        org_id: domain.map(|domain| domain.org.clone()),
        serial: zone.serial,
        names: zone.sets.len(),
        delegation_signer: signers.next(),
        secondaries: secondaries
            .map(|(address, key)| Secondary { address: *address, key: key.clone() })
            .collect(),
        next_delegation_signer: signers.next(),
    }
}
