//! What differs between two states in issuers, accounts and orders.

use imbl::ordmap::DiffItem;

use super::{Changes, Edits, certificate_named};
use crate::{
    decision::{Subject, What},
    issuance::{Account, Hold, Issuance, Issuer, Upkeep, Window},
    outcome::Object,
};

fn cluster() -> Subject {
    Subject { object: Object::Cluster, name: String::new(), org: None }
}

impl Changes<'_> {
    pub(super) fn issuance(&mut self) {
        let (before, after) = (self.before, self.after);
        let (old, new) = (before.issuance(), after.issuance());
        if old == new {
            return;
        }
        self.upkeeps();
        self.settings_of_issuers(old, new);
        if !old.revocations.ptr_eq(&new.revocations) {
            for item in old.revocations.diff(&new.revocations) {
                let (id, was, is) = match item {
                    DiffItem::Add((id, generation), _) => {
                        (*id, String::new(), format!("of generation {generation}"))
                    }
                    DiffItem::Remove((id, generation), _) => {
                        (*id, format!("of generation {generation}"), "done".to_owned())
                    }
                    DiffItem::Update { .. } => continue,
                };
                let names = after.certificates.get(&id).map(|c| c.names.clone()).unwrap_or_default();
                let edits = Edits::default().text("revocation", &was, &is).done();
                if let Some(edits) = edits {
                    self.push(certificate_named(id, &names, after), edits);
                }
            }
        }
    }

    fn upkeeps(&mut self) {
        let (before, after) = (self.before, self.after);
        let (old, new) = (&before.issuance().upkeeps, &after.issuance().upkeeps);
        if old.ptr_eq(new) {
            return;
        }
        for item in old.diff(new) {
            let (is, edits) = match item {
                DiffItem::Add(_, is) => (is, edits(&Upkeep::new(is.id, is.names.clone(), 0), is)),
                DiffItem::Update { old: (_, was), new: (_, is) } => (is, edits(was, is)),
                // It goes with its certificate, whose end is told; what was never issued ends without one.
                DiffItem::Remove(_, was) if !before.certificates.contains_key(&was.id) => {
                    self.push(certificate_named(was.id, &was.names, before), What::Gone);
                    continue;
                }
                DiffItem::Remove(..) => continue,
            };
            if let Some(edits) = edits {
                self.push(certificate_named(is.id, &is.names, after), edits);
            }
        }
    }

    fn settings_of_issuers(&mut self, old: &Issuance, new: &Issuance) {
        let named = |issuers: &[Issuer]| {
            let named = issuers.iter().map(|issuer| format!("{} ({})", issuer.name, issuer.directory));
            named.collect::<Vec<_>>().join(", ")
        };
        let (was, is) = (named(&old.issuers), named(&new.issuers));
        let edits = match (was == is, old.issuers == new.issuers) {
            // What else is known of an issuer is more than a value may hold.
            (true, false) => Edits::default().secret_of("settings of the issuers"),
            _ => Edits::default().text("issuers", &was, &is),
        };
        if let Some(edits) = edits.done() {
            self.push(cluster(), edits);
        }
        self.accounts(old, new);
        for item in old.held.diff(&new.held) {
            let text = |hold: &Hold| format!("until {}: {}", hold.until, hold.detail);
            let (directory, was, is) = match item {
                DiffItem::Add(directory, hold) => (directory, String::new(), text(hold)),
                DiffItem::Update { old: (_, was), new: (directory, is) } => (directory, text(was), text(is)),
                DiffItem::Remove(..) => continue,
            };
            let field = format!("{} is left alone", new.name_of(directory));
            if let Some(edits) = Edits::default().text(&field, &was, &is).done() {
                self.push(cluster(), edits);
            }
        }
    }

    fn accounts(&mut self, old: &Issuance, new: &Issuance) {
        for item in old.accounts.diff(&new.accounts) {
            let text = |account: &Account| match &account.url {
                Some(url) => url.clone(),
                None => "not registered".to_owned(),
            };
            let (directory, was, is) = match item {
                DiffItem::Add(directory, account) => (directory, String::new(), text(account)),
                DiffItem::Update { old: (_, was), new: (directory, is) } => (directory, text(was), text(is)),
                DiffItem::Remove(..) => continue,
            };
            let caa = |issuance: &Issuance| {
                issuance.accounts.get(directory).map(|account| account.caa.join(" ")).unwrap_or_default()
            };
            let field = format!("account at {directory}");
            let edits = Edits::default().text(&field, &was, &is).text("its CAA names", &caa(old), &caa(new));
            if let Some(edits) = edits.done() {
                self.push(cluster(), edits);
            }
        }
    }
}

fn edits(old: &Upkeep, new: &Upkeep) -> Option<What> {
    let order = |upkeep: &Upkeep| match &upkeep.order {
        Some(order) => format!("{} (attempt {})", order.phase.text(), order.attempt),
        None => "none".to_owned(),
    };
    let problem = |upkeep: &Upkeep| {
        upkeep
            .problem
            .as_ref()
            .map(|problem| format!("{}: {}", problem.at, problem.detail))
            .unwrap_or_default()
    };
    let window = |upkeep: &Upkeep| match &upkeep.window {
        Some(Window { start, end, selected, explanation }) => {
            let why = explanation.as_ref().map(|url| format!(", see {url}")).unwrap_or_default();
            format!("{start} to {end}, drawn {selected}{why}")
        }
        None => String::new(),
    };
    Edits::default()
        .text("order", &order(old), &order(new))
        .text("problem", &problem(old), &problem(new))
        .text("failed attempts", &old.failures, &new.failures)
        .text("not before", &old.not_before, &new.not_before)
        .flag("parked", old.parked, new.parked)
        .flag("a new one is wanted now", old.wanted, new.wanted)
        .text("renewal window", &window(old), &window(new))
        .text("next generation", &old.generation, &new.generation)
        .text("orders given up", &old.surplus, &new.surplus)
        .done()
}
