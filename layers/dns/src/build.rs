//! From a plan to a store. Runs once per revision, so it may take its time; what it leaves out is never looked for
//! again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use domain::base::iana::Rtype;
use pangolin_core::{
    id::Revision,
    name::{HostName, Slug},
    plan::{DnsPlan, PlannedSet, ZonePlan},
    record::RecordKind,
};

use crate::{
    DnsError,
    defect::Defect,
    name::WireName,
    record::{Set, rtype, wire_name},
    region::Rules,
    sign::Signers,
    store::{Cut, Names, Store, Zone},
};

/// A record set that is not served as planned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    pub(crate) owner: HostName,
    pub(crate) kind: Option<RecordKind>,
    pub(crate) what: String,
}

impl Store {
    /// Builds the answers of a plan. Record sets that cannot be served as planned are left out or answered with
    /// SERVFAIL, and logged by the server.
    ///
    /// # Errors
    /// A zone lies within another, or its SOA record has no DNS form.
    pub fn build(revision: Revision, plan: &DnsPlan, signers: &Signers) -> Result<Self, DnsError> {
        build(revision, plan, signers).map(|(store, _)| store)
    }
}

/// Builds the answers of a plan and tells what is not served as planned.
pub(crate) fn build(
    revision: Revision,
    plan: &DnsPlan,
    signers: &Signers,
) -> Result<(Store, Vec<Complaint>), DnsError> {
    refuse_overlap(plan)?;
    let mut build = Build::default();
    for (index, zone) in plan.zones.iter().enumerate() {
        build.zone(index, zone);
        build.keys(zone, signers);
    }
    build.mark_cuts();
    let store = Store {
        revision: Some(revision),
        zones: zones(plan, signers)?,
        names: Arc::new(build.names),
        rules: Arc::new(Rules::new(&plan.regions)),
    };
    Ok((store, build.complaints))
}

/// The answers of a plan whose record sets are those of `store`: only the SOA records are made anew.
pub(crate) fn rebuild_soa(
    store: &Store,
    revision: Revision,
    plan: &DnsPlan,
    signers: &Signers,
) -> Result<Store, DnsError> {
    Ok(Store {
        revision: Some(revision),
        zones: zones(plan, signers)?,
        names: Arc::clone(&store.names),
        rules: Arc::clone(&store.rules),
    })
}

/// Whether two plans differ in SOA records at most.
pub(crate) fn same_sets(a: &DnsPlan, b: &DnsPlan) -> bool {
    let same = |(a, b): (&ZonePlan, &ZonePlan)| {
        a.apex == b.apex
            && a.key == b.key
            && a.next_key == b.next_key
            && a.sets == b.sets
            && a.regional == b.regional
    };
    a.regions == b.regions && a.zones.len() == b.zones.len() && a.zones.iter().zip(&b.zones).all(same)
}

fn refuse_overlap(plan: &DnsPlan) -> Result<(), DnsError> {
    let mut apexes = HashSet::new();
    for zone in &plan.zones {
        if !apexes.insert(&zone.apex) {
            return Err(DnsError::Overlap { inner: zone.apex.clone(), outer: zone.apex.clone() });
        }
    }
    for zone in &plan.zones {
        let mut above = zone.apex.parent();
        while let Some(name) = above {
            if apexes.contains(&name) {
                return Err(DnsError::Overlap { inner: zone.apex.clone(), outer: name });
            }
            above = name.parent();
        }
    }
    Ok(())
}

fn zones(plan: &DnsPlan, signers: &Signers) -> Result<Vec<Zone>, DnsError> {
    let zone = |zone: &ZonePlan| {
        let apex_len = wire_name(&zone.apex)?.as_slice().len();
        let signer = signers.get(&zone.apex).filter(|_| zone.key.is_some()).cloned();
        Ok(Zone { apex_len, soa: Set::soa(zone)?, negative_soa: Set::negative_soa(zone)?, signer })
    };
    let refuse =
        |zone: &ZonePlan, why: Defect| DnsError::Zone { apex: zone.apex.clone(), why: why.to_string() };
    plan.zones.iter().map(|planned| zone(planned).map_err(|why| refuse(planned, why))).collect()
}

#[derive(Default)]
struct Build {
    names: Names,
    complaints: Vec<Complaint>,
}

impl Build {
    fn zone(&mut self, index: usize, zone: &ZonePlan) {
        let Ok(apex) = wire_name(&zone.apex) else { return };
        self.entry(index, apex.as_slice(), apex.as_slice().len());
        for (owner, sets) in &zone.sets {
            match wire_name(owner) {
                Ok(name) if owner.is_within(&zone.apex) => {
                    let at_apex = *owner == zone.apex;
                    self.entry(index, name.as_slice(), apex.as_slice().len());
                    self.sets(owner, name.as_slice(), at_apex, sets);
                    if let Some(regional) = zone.regional.get(owner) {
                        self.regional(owner, name.as_slice(), regional);
                    }
                }
                Ok(_) => self.complain(owner, None, &Defect::Outside),
                Err(defect) => self.complain(owner, None, &defect),
            }
        }
    }

    /// Puts a name and all names between it and the apex into the table.
    fn entry(&mut self, zone: usize, name: &[u8], apex_len: usize) {
        let Some(wire) = WireName::read(name) else { return };
        self.names.labels = self.names.labels.max(wire.labels());
        for skipped in 0..=wire.labels() {
            let suffix = wire.suffix(skipped);
            let known = self.names.by_wire.contains_key(suffix);
            let entry = self.names.by_wire.entry(suffix.into()).or_default();
            entry.zone = zone;
            if skipped == 1 && wire.first_label() == b"*" {
                entry.wildcard = true;
            }
            // A known name has its ancestors already, but the parent of a wildcard must still learn of it.
            if suffix.len() == apex_len || (known && skipped > 0) {
                break;
            }
        }
    }

    fn sets(
        &mut self,
        owner: &HostName,
        name: &[u8],
        at_apex: bool,
        sets: &BTreeMap<RecordKind, PlannedSet>,
    ) {
        let alias = sets.contains_key(&RecordKind::Cname) && !at_apex;
        let delegated = sets.contains_key(&RecordKind::Ns) && !at_apex && !owner.is_wildcard();
        let mut signer = None;
        for (kind, planned) in sets {
            let kind = *kind;
            let delegation = kind == RecordKind::Ns && !at_apex;
            let left_out = match kind {
                RecordKind::Cname if at_apex => Some(Defect::ApexAlias),
                RecordKind::Cname => None,
                _ if alias => Some(Defect::BesideAlias),
                _ if delegation && owner.is_wildcard() => Some(Defect::WildcardDelegation),
                _ => None,
            };
            if let Some(defect) = left_out {
                self.complain(owner, Some(kind), &defect);
                continue;
            }
            let set = Set::new(kind, planned).unwrap_or_else(|defect| {
                self.complain(owner, Some(kind), &defect);
                Set::broken(kind)
            });
            if delegation {
                self.names.cuts.push(Cut { owner: name.into(), servers: set, signer: None });
            } else if delegated && kind == RecordKind::DS {
                signer = Some(set);
            } else if let Some(entry) = self.names.by_wire.get_mut(name) {
                entry.sets.push(set);
            }
        }
        if let Some(cut) = self.names.cuts.last_mut().filter(|_| delegated) {
            cut.signer = signer;
        }
    }

    /// What stands at the apex of a signed zone.
    fn keys(&mut self, zone: &ZonePlan, signers: &Signers) {
        let signer = signers.get(&zone.apex).filter(|_| zone.key.is_some());
        let Some((signer, apex)) = signer.zip(wire_name(&zone.apex).ok()) else { return };
        if let Some(entry) = self.names.by_wire.get_mut(apex.as_slice()) {
            for sets in entry.regional.iter_mut().map(|(_, sets)| sets).chain([&mut entry.sets]) {
                sets.extend(signer.apex_sets());
            }
        }
    }

    /// For each region all sets of the name: those of the region, and the others as they are everywhere.
    fn regional(
        &mut self,
        owner: &HostName,
        name: &[u8],
        regional: &BTreeMap<Slug, BTreeMap<RecordKind, PlannedSet>>,
    ) {
        let varying: HashSet<Rtype> =
            regional.values().flat_map(BTreeMap::keys).map(|kind| rtype(*kind)).collect();
        let mut variants = Vec::new();
        for (region, sets) in regional {
            let mut variant: Vec<Set> = Vec::new();
            for (kind, planned) in sets {
                match Set::new(*kind, planned) {
                    Ok(set) => variant.push(set),
                    Err(defect) => self.complain(owner, Some(*kind), &defect),
                }
            }
            if let Some(entry) = self.names.by_wire.get(name) {
                variant.extend(entry.sets.iter().filter(|set| !varying.contains(&set.kind)).cloned());
            }
            variants.push((region.as_str().into(), variant));
        }
        if let Some(entry) = self.names.by_wire.get_mut(name) {
            entry.regional = variants;
        }
    }

    /// Marks what lies at or below a delegation. Where delegations are nested, the outer one hides the inner one.
    fn mark_cuts(&mut self) {
        let Names { by_wire, cuts, .. } = &mut self.names;
        if cuts.is_empty() {
            return;
        }
        let by_owner: HashMap<&[u8], usize> =
            cuts.iter().enumerate().map(|(index, cut)| (&*cut.owner, index)).collect();
        for (name, entry) in by_wire.iter_mut() {
            let Some(name) = WireName::read(name) else { continue };
            entry.cut =
                (0..=name.labels()).rev().find_map(|skipped| by_owner.get(name.suffix(skipped)).copied());
        }
    }

    fn complain(&mut self, owner: &HostName, kind: Option<RecordKind>, defect: &Defect) {
        self.complaints.push(Complaint { owner: owner.clone(), kind, what: defect.to_string() });
    }
}
