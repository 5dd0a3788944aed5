//! Why a name has the certificate that it has, or none.

use super::{Explanation, Fact, history::History};
use crate::{
    decide::{certificates_wanted, is_due},
    decision::Aspect,
    issuance::{Source, StandingKind, Upkeep, standing},
    name::HostName,
    outcome::Object,
    record::Certificate,
};

/// Everything about the certificate for a name; none if there is none and none is wanted.
pub(super) fn why(history: &History<'_>, name: &HostName) -> Option<Explanation> {
    let mut facts = facts(history, name);
    let looked_after = served(history, name).map(|certificate| certificate.id);
    let looked_after = looked_after.or_else(|| upkeep(history, name).map(|upkeep| upkeep.id));
    if let Some(id) = looked_after {
        facts.extend(history.earlier(&Object::Certificate(id), &facts));
    } else if wanted(history, name).is_none() {
        return None;
    }
    let owner = history.state.owner_of(name).cloned();
    Some(Explanation { about: format!("the certificate for {name}"), owner, facts })
}

/// The certificate that the edge shows for a name: its own before a wildcard, of two the one made later.
fn served<'a>(history: &History<'a>, name: &HostName) -> Option<&'a Certificate> {
    let covering = |c: &&Certificate| c.names.iter().any(|other| other == name || other.covers(name));
    let all = history.state.certificates().values().filter(covering);
    all.max_by_key(|c| (c.names.contains(name), c.id))
}

fn wanted(history: &History<'_>, name: &HostName) -> Option<Vec<HostName>> {
    let covers = |names: &Vec<HostName>| names.iter().any(|other| other == name || other.covers(name));
    certificates_wanted(history.state).into_iter().find(covers)
}

/// What is done for the certificate that is wanted for a name.
fn upkeep<'a>(history: &History<'a>, name: &HostName) -> Option<&'a Upkeep> {
    let names = wanted(history, name)?;
    history.state.issuance().upkeep_of(&names)
}

/// How it stands with names for which something is being done, and the decisions that made it so.
fn under_way(history: &History<'_>, names: &[HostName]) -> Option<Fact> {
    let state = history.state;
    let how = standing(state, names, state.time());
    if how.kind == StandingKind::Valid || state.issuance().issuers.is_empty() {
        return None;
    }
    let object = state.issuance().upkeep_of(names).map(|upkeep| Object::Certificate(upkeep.id));
    let step = |fields: &[&str]| object.as_ref().and_then(|object| history.edit(object, fields));
    let (order, problem) = (step(&["order"]), step(&["problem", "parked", "a new one is wanted now"]));
    let steps = if order.map(|o| o.revision) == problem.map(|p| p.revision) {
        [order, None]
    } else {
        [order, problem]
    };
    Some(history.fact(how.reason, steps))
}

/// The state of the certificate for a name.
pub(super) fn facts(history: &History<'_>, name: &HostName) -> Vec<Fact> {
    let Some(certificate) = served(history, name) else {
        let Some(names) = wanted(history, name) else {
            let text = "no certificate, and none is wanted: the name is not published here";
            return vec![history.fact(text.to_owned(), [])];
        };
        let told: Vec<String> = names.iter().map(ToString::to_string).collect();
        let text = format!("no certificate yet: the leader is to get one for {}", told.join(", "));
        let mut facts = vec![history.fact(text, [])];
        facts.extend(under_way(history, &names));
        return facts;
    };
    let names: Vec<String> = certificate.names.iter().map(ToString::to_string).collect();
    let text = format!(
        "certificate for {} (id {}) of {}, generation {}, good from {} until {}",
        names.join(", "),
        certificate.id,
        source(history, certificate),
        certificate.generation,
        certificate.not_before,
        certificate.not_after,
    );
    let issued = history.last(&Object::Certificate(certificate.id), Aspect::Issuance);
    let mut facts = vec![history.fact(text, [issued])];
    facts.extend(under_way(history, &certificate.names));
    if history.state.issuance().issuers.is_empty() && is_due(certificate, history.state.time()) {
        facts.push(history.fact("its renewal is due: less than a third of its life is left", []));
    }
    facts
}

/// Who issued it.
fn source(history: &History<'_>, certificate: &Certificate) -> String {
    let issuance = history.state.issuance();
    match issuance.sources.get(&certificate.id) {
        None => "the internal issuer".to_owned(),
        Some(Source::Imported) => "an operator, who imported it".to_owned(),
        Some(Source::Issuer(directory)) => format!("the issuer {}", issuance.name_of(directory)),
    }
}
