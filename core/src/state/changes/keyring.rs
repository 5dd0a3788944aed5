//! What differs between two states in the key-encryption keys.

use super::{Changes, Edits};
use crate::{decision::Subject, keyring::Kek, outcome::Object};

impl Changes<'_> {
    pub(super) fn keyring(&mut self) {
        let (old, new) = (&self.before.keys, &self.after.keys);
        let number = |kek: Option<Kek>| kek.map(|kek| kek.number);
        let retired = |number: u32| (number > 0).then_some(number);
        let edits = Edits::default()
            .text("key-encryption key that seals", &old.active_number(), &new.active_number())
            .optional("key-encryption key that is fetched", &number(old.next), &number(new.next))
            .optional("retired key-encryption keys, up to", &retired(old.retired), &retired(new.retired));
        if let Some(edits) = edits.done() {
            self.push(Subject { object: Object::Cluster, name: String::new(), org: None }, edits);
        }
    }
}
