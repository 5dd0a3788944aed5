//! Why a name has the certificate that it has, or none.

use super::{Explanation, Fact, history::History};
use crate::{
    decide::{certificates_wanted, is_due},
    decision::Aspect,
    name::HostName,
    outcome::Object,
    record::Certificate,
};

/// Everything about the certificate for a name; none if there is none and none is wanted.
pub(super) fn why(history: &History<'_>, name: &HostName) -> Option<Explanation> {
    let mut facts = facts(history, name);
    if let Some(certificate) = served(history, name) {
        let object = Object::Certificate(certificate.id);
        facts.extend(history.earlier(&object, &facts));
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

/// The state of the certificate for a name.
pub(super) fn facts(history: &History<'_>, name: &HostName) -> Vec<Fact> {
    let Some(certificate) = served(history, name) else {
        let text = match wanted(history, name) {
            Some(names) => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                format!("no certificate yet: the leader is to get one for {}", names.join(", "))
            }
            None => "no certificate, and none is wanted: the name is not published here".to_owned(),
        };
        return vec![history.fact(text, [])];
    };
    let names: Vec<String> = certificate.names.iter().map(ToString::to_string).collect();
    let text = format!(
        "certificate for {} (id {}), generation {}, good from {} until {}",
        names.join(", "),
        certificate.id,
        certificate.generation,
        certificate.not_before,
        certificate.not_after,
    );
    let issued = history.last(&Object::Certificate(certificate.id), Aspect::Issuance);
    let mut facts = vec![history.fact(text, [issued])];
    if is_due(certificate, history.state.time()) {
        facts.push(history.fact("its renewal is due: less than a third of its life is left", []));
    }
    facts
}
