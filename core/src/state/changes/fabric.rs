//! What differs in the tunnel fabric beside sites and placements.

use super::{Changes, Edits, Record, dns::moved};
use crate::{
    decision::{Subject, What},
    fabric::ProvisioningKey,
    outcome::Object,
    state::ClusterState,
};

impl Changes<'_> {
    pub(super) fn fabric(&mut self) {
        let (before, after) = (&self.before.fabric, &self.after.fabric);
        if before == after {
            return;
        }
        let mut found: Vec<(Option<Subject>, Option<What>)> = Vec::new();
        // Where a node or a site is gone, so is what was said of it: no news.
        for change in moved(&before.capacities, &after.capacities) {
            let (old, new) = (before.capacity(*change.key), after.capacity(*change.key));
            let edits = Edits::default()
                .text("weight", &old.weight, &new.weight)
                .optional("capacity", &old.sites, &new.sites);
            let subject = self.after.nodes.get(change.key).map(|node| node.subject(self.after));
            found.push((subject, edits.done()));
        }
        for change in moved(&before.regions, &after.regions) {
            let edits = Edits::default().optional("region", &change.old.cloned(), &change.new.cloned());
            let subject = self.after.sites.get(change.key).map(|site| site.subject(self.after));
            found.push((subject, edits.done()));
        }
        for (subject, what) in found {
            if let Some((subject, what)) = subject.zip(what) {
                self.push(subject, what);
            }
        }
        self.records(|state| &state.fabric.provisioning_keys);
    }
}

impl Record for ProvisioningKey {
    fn subject(&self, _: &ClusterState) -> Subject {
        let object = Object::ProvisioningKey(self.id.clone());
        Subject { object, name: self.name.clone(), org: Some(self.org.clone()) }
    }

    fn changes(&self, after: &Self, _: (&ClusterState, &ClusterState)) -> Vec<What> {
        Edits::default().text("used", &self.used, &after.used).done().into_iter().collect()
    }
}
