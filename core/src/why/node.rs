//! Why a node is up or down, in service or not.

use super::{Explanation, Fact, history::History};
use crate::{
    decision::Aspect,
    fabric::Capacity,
    id::NodeId,
    outcome::Object,
    plan::Serving,
    record::{AdminState, Node, NodeRole, Verdict},
};

/// Most sites told by name.
const SITES_MAX: usize = 8;

pub(super) fn why(history: &History<'_>, id: NodeId) -> Option<Explanation> {
    let object = Object::Node(id);
    let Some(node) = history.state.nodes().get(&id) else { return gone(history, &object) };
    let mut facts = vec![verdict(history, node), admin(history, node), role(history, node)];
    facts.extend(leadership(history, node));
    facts.push(sites(history, id));
    facts.extend(capacity(history, id));
    let joined = format!("in the cluster since {}", node.admitted_at);
    facts.push(history.fact(joined, [history.beginning(&object)]));
    facts.extend(history.earlier(&object, &facts));
    Some(Explanation { about: format!("node {} (id {id})", node.spec.name), owner: None, facts })
}

fn gone(history: &History<'_>, object: &Object) -> Option<Explanation> {
    let (last, about) = history.last_word_on(object)?;
    let mut facts = vec![history.fact("not in the cluster any more", [Some(last)])];
    facts.extend(history.earlier(object, &facts));
    Some(Explanation { about, owner: None, facts })
}

/// A node's verdict, as a fact of its own or as the reason of another.
pub(super) fn verdict(history: &History<'_>, node: &Node) -> Fact {
    let text = match node.verdict {
        Verdict::Up => format!("up since {}", node.verdict_at),
        Verdict::Down => format!("down since {}", node.verdict_at),
    };
    // With its admission a node is taken as up or down: that decision has no verdict of its own.
    let object = Object::Node(node.id);
    let judged = history.last(&object, Aspect::Verdict).or_else(|| history.beginning(&object));
    history.recorded(text, judged, node.verdict_at, &node.verdict_cause)
}

/// What the operator wants of a node.
pub(super) fn admin(history: &History<'_>, node: &Node) -> Fact {
    let text = match node.admin {
        AdminState::Active => "takes work",
        AdminState::Drained => "gives its work away (drained)",
        AdminState::Leaving => "is to leave the cluster",
    };
    history.fact(text, [history.last(&Object::Node(node.id), Aspect::Admin)])
}

fn role(history: &History<'_>, node: &Node) -> Fact {
    let named = Serving::of(history.state).nodes.iter().any(|other| other.id == node.id);
    let text = match (node.in_service(), node.spec.role) {
        (true, _) => "answered in DNS: it is up and takes work",
        (false, NodeRole::Witness) => "not answered in DNS: a witness only votes",
        (false, NodeRole::Data) if named => {
            "answered in DNS although it is not in service: too few nodes are, and some answer is better than none"
        }
        (false, NodeRole::Data) if node.verdict == Verdict::Down => "not answered in DNS: it is down",
        (false, NodeRole::Data) => "not answered in DNS: it gives its work away",
    };
    history.fact(text, [])
}

fn leadership(history: &History<'_>, node: &Node) -> Option<Fact> {
    let leads = history.state.leadership().filter(|leads| leads.node == node.id)?;
    let decided = history.leadership(node.id, leads.term).into_iter().map(Some);
    Some(history.fact(format!("leads in term {} since {}", leads.term, leads.since), decided))
}

/// How many sites it takes, if that is not as usual.
fn capacity(history: &History<'_>, id: NodeId) -> Option<Fact> {
    let Capacity { weight, sites } = *history.state.fabric().capacities.get(&id)?;
    let most =
        sites.map(|most| format!(", and to at most {most} while others have room")).unwrap_or_default();
    let text = format!("home to sites with weight {weight}{most}");
    Some(history.fact(text, [history.edit(&Object::Node(id), &["weight", "capacity"])]))
}

fn sites(history: &History<'_>, id: NodeId) -> Fact {
    let mut homes = history.state.placements().iter().filter(|(_, placement)| placement.home == id);
    let mut names: Vec<String> = homes
        .by_ref()
        .take(SITES_MAX)
        .filter_map(|(site, _)| history.state.sites().get(site))
        .map(|site| format!("{}/{}", site.org, site.nice_id))
        .collect();
    let more = homes.count();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    let text =
        if names.is_empty() { "home to no site".to_owned() } else { format!("home to {}", names.join(", ")) };
    history.fact(text, [])
}
