//! What differs in DNS beside the record sets.

use imbl::{OrdMap, ordmap::DiffItem};

use super::{Changes, Edits, Record};
use crate::{
    decision::{Subject, What},
    name::HostName,
    outcome::Object,
    rollover::{ParentFound, ParentSeen},
    state::ClusterState,
};

/// What was there under a key, and what is.
pub(super) struct Moved<'a, K, V> {
    pub(super) key: &'a K,
    pub(super) old: Option<&'a V>,
    pub(super) new: Option<&'a V>,
}

pub(super) fn moved<'a, K: Ord, V: PartialEq>(
    old: &'a OrdMap<K, V>,
    new: &'a OrdMap<K, V>,
) -> impl Iterator<Item = Moved<'a, K, V>> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, new) => Moved { key, old: None, new: Some(new) },
        DiffItem::Update { old: (_, old), new: (key, new) } => Moved { key, old: Some(old), new: Some(new) },
        DiffItem::Remove(key, old) => Moved { key, old: Some(old), new: None },
    })
}

fn there<T>(value: Option<&T>) -> bool {
    value.is_some()
}

impl Changes<'_> {
    pub(super) fn dns(&mut self) {
        let (before, after) = (&self.before.dns, &self.after.dns);
        self.rollovers();
        if before == after {
            return;
        }
        let mut found: Vec<(Subject, Option<What>)> = Vec::new();
        for Moved { key, .. } in moved(&before.policies, &after.policies) {
            // Where a resource is gone, so is its policy: no news.
            if let Some(resource) = self.after.resources.get(key) {
                let edits = Edits::default().text("answers", &before.policy(*key), &after.policy(*key));
                found.push((resource.subject(self.after), edits.done()));
            }
        }
        for Moved { key, old, new } in moved(&before.regions, &after.regions) {
            let edits = Edits::default().optional(&format!("region of {key}"), &old.cloned(), &new.cloned());
            found.push((cluster(), edits.done()));
        }
        for Moved { key, old, new } in moved(&before.zone_keys, &after.zone_keys) {
            let edits = Edits::default().flag(&format!("{key} is signed"), there(old), there(new));
            let edits =
                if there(old) && there(new) { edits.secret_of(&format!("key of {key}")) } else { edits };
            found.push((self.zone(key), edits.done()));
        }
        for Moved { key, old, new } in moved(&before.transfer_keys, &after.transfer_keys) {
            let edits = Edits::default().flag(&format!("transfer key {key}"), there(old), there(new));
            found.push((cluster(), edits.done()));
        }
        for Moved { key: (zone, address), old, new } in moved(&before.secondaries, &after.secondaries) {
            let name = format!("key of the secondary {address} of {zone}");
            let edits = Edits::default().optional(&name, &old.cloned(), &new.cloned());
            found.push((self.zone(zone), edits.done()));
        }
        for (subject, what) in found {
            if let Some(what) = what {
                self.push(subject, what);
            }
        }
    }

    fn rollovers(&mut self) {
        let (before, after) = (&self.before.rollovers, &self.after.rollovers);
        let mut found: Vec<(Subject, Option<What>)> = Vec::new();
        for Moved { key, old, new } in moved(&before.zone_keys, &after.zone_keys) {
            let edits = Edits::default().flag(&format!("{key} has a next key"), there(old), there(new));
            found.push((self.zone(key), edits.done()));
        }
        for Moved { key, old, new } in moved(&before.parents, &after.parents) {
            // What is forgotten of a parent is no news.
            let Some(seen) = new else { continue };
            let said = |seen: &ParentSeen| {
                let ParentFound { current, next, any, .. } = seen.found;
                match (current, next, any) {
                    (true, true, _) => "of both keys",
                    (true, false, _) => "of the key",
                    (false, true, _) => "of the next key",
                    (false, false, true) => "not the same everywhere, or of another key",
                    (false, false, false) => "none",
                }
            };
            let was = old.map(said).unwrap_or_default().to_owned();
            let field = format!("DS records of {key} at its parent");
            found.push((self.zone(key), Edits::default().text(&field, &was, &said(seen).to_owned()).done()));
        }
        for Moved { key, old, new } in moved(&before.account_keys, &after.account_keys) {
            let field = format!("account at {key} has a next key");
            found.push((cluster(), Edits::default().flag(&field, there(old), there(new)).done()));
        }
        for (subject, what) in found {
            if let Some(what) = what {
                self.push(subject, what);
            }
        }
    }

    /// The domain that is a zone, or the cluster for its own.
    fn zone(&self, apex: &HostName) -> Subject {
        let of = |state: &ClusterState| {
            let domain = state.domains.values().find(|domain| domain.name == *apex)?;
            Some(domain.subject(state))
        };
        of(self.after).or_else(|| of(self.before)).unwrap_or_else(cluster)
    }
}

fn cluster() -> Subject {
    Subject { object: Object::Cluster, name: String::new(), org: None }
}
