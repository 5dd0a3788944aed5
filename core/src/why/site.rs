//! Why a site's tunnel ends where it ends.

use super::{Explanation, Fact, history::History};
use crate::{
    decision::{Aspect, NodeName, in_order},
    id::SiteId,
    outcome::Object,
    record::Site,
};

pub(super) fn why(history: &History<'_>, id: SiteId) -> Option<Explanation> {
    let object = Object::Site(id);
    let Some(site) = history.state.sites().get(&id) else { return gone(history, &object) };
    let mut facts = match local(history, site) {
        Some(local) => vec![local, existence(history, site)],
        None => vec![placement(history, site), connector(history, site), existence(history, site)],
    };
    facts.extend(region(history, site));
    facts.extend(history.earlier(&object, &facts));
    let about = format!("site {}/{} (id {id})", site.org, site.nice_id);
    Some(Explanation { about, owner: Some(site.org.clone()), facts })
}

fn gone(history: &History<'_>, object: &Object) -> Option<Explanation> {
    let (last, about) = history.last_word_on(object)?;
    let owner = last.changes.iter().find(|change| change.subject.object == *object)?.subject.org.clone();
    let mut facts = vec![history.fact("there is no such site any more", [Some(last)])];
    facts.extend(history.earlier(object, &facts));
    Some(Explanation { about, owner, facts })
}

/// That nodes reach its targets by themselves, if they do.
fn local(history: &History<'_>, site: &Site) -> Option<Fact> {
    let nodes = history.state.traffic().local_sites.get(&site.id)?;
    let names: Vec<String> = nodes.iter().map(|id| history.node(*id).to_string()).collect();
    let who = if names.is_empty() { "every node".to_owned() } else { names.join(", ") };
    let text = format!("local: {who} reaches its targets without a tunnel");
    Some(history.fact(text, [history.edit(&Object::Site(site.id), &["reached by"])]))
}

/// Where the tunnel of a site ends, as a fact of its own or as the reason of another.
pub(super) fn placement(history: &History<'_>, site: &Site) -> Fact {
    let object = Object::Site(site.id);
    if let Some(local) = local(history, site) {
        return local;
    }
    let Some(placement) = history.state.placements().get(&site.id) else {
        let text = if site.enabled {
            "no home yet: the leader gives it one as soon as a node is in service"
        } else {
            "no home: it is disabled"
        };
        return history.fact(text, []);
    };
    let standbys: Vec<NodeName> = placement.standbys.iter().map(|id| history.node(*id)).collect();
    let home = in_order(&history.node(placement.home), &standbys);
    let text = format!("home: {home} (epoch {}) since {}", placement.epoch, placement.since);
    history.recorded(text, history.last(&object, Aspect::Placement), placement.since, &placement.cause)
}

fn connector(history: &History<'_>, site: &Site) -> Fact {
    let Some(connector) = history.state.connectors().get(&site.id) else {
        return history.fact("no connector has registered yet", []);
    };
    let tunnels = if connector.multi_homed { "keeps tunnels to several nodes" } else { "keeps one tunnel" };
    let text =
        format!("connector: version {}, {tunnels}, this key since {}", connector.version, connector.since);
    history.fact(text, [history.last(&Object::Site(site.id), Aspect::Connector)])
}

/// Where it lies, if that is said.
fn region(history: &History<'_>, site: &Site) -> Option<Fact> {
    let region = history.state.fabric().regions.get(&site.id)?;
    let text = format!("lies in region {region}: nodes of that region come first");
    Some(history.fact(text, [history.edit(&Object::Site(site.id), &["region"])]))
}

/// That a site exists and whether it is enabled.
pub(super) fn existence(history: &History<'_>, site: &Site) -> Fact {
    let object = Object::Site(site.id);
    let state = if site.enabled { "enabled" } else { "disabled" };
    let text = format!("{state}, made {}", site.created_at);
    history.fact(text, [history.edit(&object, &["enabled"]), history.beginning(&object)])
}
