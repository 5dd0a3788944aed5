//! The answers of one revision, ready to be copied out: looked up by name in wire form, in lower case.
//!
//! Every name between a zone's apex and an owner is in the table, so the first hit on the way up from a name is its
//! closest encloser (RFC 4592 §3.3.1), which also tells the zone.

use std::{collections::HashMap, sync::Arc};

use domain::base::iana::Rtype;
use pangolin_core::id::Revision;

use crate::{
    name::{NAME_MAX, WireName},
    record::Set,
    region::{Place, Rules},
    sign::ZoneSigner,
};

/// The answers of one revision. [`Store::default`] is what there is before the first plan: it answers SERVFAIL.
#[derive(Debug, Default)]
pub struct Store {
    pub(crate) revision: Option<Revision>,
    pub(crate) zones: Vec<Zone>,
    /// Shared with the previous revision when only serials have moved.
    pub(crate) names: Arc<Names>,
    /// Where clients are.
    pub(crate) rules: Arc<Rules>,
}

/// What changes with every revision.
#[derive(Debug)]
pub(crate) struct Zone {
    /// Bytes of the apex in wire form.
    pub(crate) apex_len: usize,
    pub(crate) soa: Set,
    pub(crate) negative_soa: Set,
    /// Signs the zone's answers.
    pub(crate) signer: Option<Arc<ZoneSigner>>,
}

/// What changes only with the record sets.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) by_wire: HashMap<Box<[u8]>, Entry>,
    pub(crate) cuts: Vec<Cut>,
    /// Most labels of a name in the table: nothing longer needs to be looked up.
    pub(crate) labels: usize,
}

/// One name.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Index of its zone.
    pub(crate) zone: usize,
    /// Index of the delegation at or above this name.
    pub(crate) cut: Option<usize>,
    /// Whether `*` exists right below.
    pub(crate) wildcard: bool,
    /// Nothing for an empty non-terminal.
    pub(crate) sets: Vec<Set>,
    /// What clients in a region are answered instead.
    pub(crate) regional: Vec<(Box<str>, Vec<Set>)>,
}

/// A delegation to servers elsewhere.
#[derive(Debug)]
pub(crate) struct Cut {
    /// Its owner.
    pub(crate) owner: Box<[u8]>,
    pub(crate) servers: Set,
    /// DS: the delegated zone's key, as far as it is signed.
    pub(crate) signer: Option<Set>,
}

impl Entry {
    pub(crate) fn set(&self, kind: Rtype) -> Option<&Set> {
        self.sets.iter().find(|set| set.kind == kind)
    }

    /// What a client at this place is answered.
    pub(crate) fn sets_for(&self, place: &Place) -> &[Set] {
        let near = place.regions.iter().find_map(|region| {
            self.regional.iter().find(|(known, _)| **known == **region).map(|(_, sets)| sets)
        });
        near.unwrap_or(&self.sets)
    }
}

/// Where a name leads.
pub(crate) enum Found<'a> {
    /// Into no zone of ours.
    Foreign,
    /// At or below a delegation.
    Delegated(usize, &'a Cut),
    /// To this name, or to the wildcard that stands for it.
    Entry(usize, &'a Entry),
    /// Nowhere: the name does not exist.
    Missing(usize),
}

impl Store {
    /// The revision that the answers follow from; none before the first plan.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.revision
    }

    /// Number of names, empty non-terminals included.
    #[must_use]
    pub fn names(&self) -> usize {
        self.names.by_wire.len()
    }

    pub(crate) fn zone(&self, index: usize) -> &Zone {
        &self.zones[index]
    }

    /// The entry of exactly this name in wire form.
    pub(crate) fn entry(&self, name: &[u8]) -> Option<&Entry> {
        self.names.by_wire.get(name)
    }

    /// Finds where `name` leads (RFC 1034 §4.3.2, RFC 4592 §3.3).
    pub(crate) fn find(&self, name: &WireName) -> Found<'_> {
        let deepest = name.labels().saturating_sub(self.names.labels);
        for skipped in deepest..=name.labels() {
            let suffix = name.suffix(skipped);
            let Some(entry) = self.entry(suffix) else { continue };
            if let Some(cut) = entry.cut {
                return Found::Delegated(entry.zone, &self.names.cuts[cut]);
            }
            if skipped == 0 {
                return Found::Entry(entry.zone, entry);
            }
            let wildcard = entry.wildcard.then(|| self.wildcard(suffix)).flatten();
            return wildcard.map_or(Found::Missing(entry.zone), |found| Found::Entry(entry.zone, found));
        }
        Found::Foreign
    }

    fn wildcard(&self, encloser: &[u8]) -> Option<&Entry> {
        let mut name = [0; NAME_MAX];
        let name = name.get_mut(..encloser.len() + 2)?;
        name[..2].copy_from_slice(b"\x01*");
        name[2..].copy_from_slice(encloser);
        self.entry(name)
    }
}
