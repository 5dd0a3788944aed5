//! Why a name resolves to these addresses, goes to these targets, and has this certificate.

use std::sync::Arc;

use super::{Explanation, Fact, certificate, history::History, node, site};
use crate::{
    decision::Decision,
    dns::AnswerPolicy,
    name::HostName,
    outcome::Object,
    plan::{Serving, addresses_of, nodes_in_order, served_below},
    record::{Node, NodeRole, RecordKind, RecordSet, Resource, Target},
    state::scheme,
    traffic::{Balancing, PortKind, Share},
};

pub(super) fn why(history: &History<'_>, name: &HostName) -> Explanation {
    let state = history.state;
    let about = format!("host {name}");
    let owner = state.owner_of(name).cloned();
    let Some(apex) = served_below(state, name) else {
        let text =
            "not in a zone of this cluster: DNS refuses to answer for it, and the edge does not serve it";
        return Explanation { about, owner, facts: vec![history.fact(text, [])] };
    };
    let control = state.settings().is_some_and(|settings| settings.control_host == *name);
    let resource = resource(history, name);
    let owner = resource.map(|resource| resource.org.clone()).or(owner);
    let mut facts = Vec::new();
    if control {
        facts.push(history.fact(
            "the cluster's control host: the API and the connectors come in here",
            [history.edit(&Object::Cluster, &["control host"]), history.beginning(&Object::Cluster)],
        ));
    } else if let Some(resource) = resource {
        facts.push(published(history, resource, name));
    }
    let records = own_records(history, name);
    let kinds: Vec<RecordKind> = records.iter().map(|(kind, _)| *kind).collect();
    facts.extend(records.into_iter().map(|(_, fact)| fact));
    let enabled = resource.is_some_and(|resource| resource.enabled);
    // A wildcard does not stand for a name that has records of its own (RFC 4592 §2.2.1).
    let stood_for = resource.is_some_and(|resource| resource.host != *name) && !kinds.is_empty();
    if (control || enabled) && !stood_for {
        facts.extend(addresses(history, resource, &kinds));
    }
    if let Some(resource) = resource.filter(|resource| resource.enabled) {
        facts.extend(route(history, resource));
    }
    if !control && !enabled {
        facts.extend(name_server(history, name));
    }
    if facts.is_empty() {
        facts.extend(wildcard_above(history, name));
    }
    if facts.is_empty() {
        let text =
            format!("nothing is published under this name in the zone {apex}: DNS says it does not exist");
        facts.push(history.fact(text, [gone(history, name)]));
    }
    if control || enabled {
        facts.extend(certificate::facts(history, name));
    }
    Explanation { about, owner, facts }
}

/// The resource that answers for a name: its own before a wildcard's.
fn resource<'a>(history: &History<'a>, name: &HostName) -> Option<&'a Resource> {
    let all = || history.state.resources().values();
    all().find(|resource| resource.host == *name).or_else(|| all().find(|r| r.host.covers(name)))
}

fn published(history: &History<'_>, resource: &Resource, name: &HostName) -> Fact {
    let object = Object::Resource(resource.id);
    let by = if resource.host == *name { String::new() } else { format!(", published as {}", resource.host) };
    let state = if resource.enabled { "enabled" } else { "disabled: neither in DNS nor routed" };
    let text =
        format!("resource {} of org {} (id {}){by}, {state}", resource.nice_id, resource.org, resource.id);
    history.fact(text, [history.edit(&object, &["enabled", "host"]), history.beginning(&object)])
}

/// A wildcard stands for all names below it in DNS (RFC 4592), but for one label at the edge, as in certificates.
fn wildcard_above(history: &History<'_>, name: &HostName) -> Option<Fact> {
    let stands = |resource: &&Resource| {
        let base = resource.host.as_str().strip_prefix("*.").and_then(|base| base.parse::<HostName>().ok());
        resource.enabled && base.is_some_and(|base| name.is_within(&base) && *name != base)
    };
    let resource = history.state.resources().values().find(stands)?;
    let text = format!(
        "DNS answers for it as for {}, but the edge does not serve it: a wildcard stands for one label there",
        resource.host
    );
    Some(history.fact(text, [history.beginning(&Object::Resource(resource.id))]))
}

/// The decision that took away what was published under a name.
fn gone<'a>(history: &History<'a>, name: &HostName) -> Option<&'a Arc<Decision>> {
    let fits = |object: &Object, known: &str| matches!(object, Object::Resource(_)) && known == name.as_str();
    let object = history.gone(fits)?;
    history.beginning(&object)
}

/// What the operator wrote stands above what the cluster makes.
fn own_records(history: &History<'_>, name: &HostName) -> Vec<(RecordKind, Fact)> {
    let sets = history.state.record_sets().iter().filter(|((owner, _), _)| owner == name);
    sets.map(|((_, kind), RecordSet { ttl, data })| {
        let word = kind.to_string();
        let data: Vec<String> = data.iter().map(ToString::to_string).collect();
        let text = format!("{word} {} (TTL {ttl}): a record set of the operator's own", data.join(", "));
        let decision = history.edit(&Object::RecordSet(name.clone()), &[word.as_str()]);
        (*kind, history.fact(text, [decision]))
    })
    .collect()
}

/// Which nodes are answered, which are left out, and why. Not of the families that the operator answers for.
fn addresses(history: &History<'_>, resource: Option<&Resource>, own: &[RecordKind]) -> Vec<Fact> {
    let state = history.state;
    let serving = Serving::of(state);
    let answered = nodes_in_order(state, resource.map(|resource| resource.id), &serving);
    let ttl = serving.ttl(state.settings().map_or(0, |settings| settings.ttl));
    let mut addresses = addresses_of(&answered);
    addresses
        .retain(|address| !own.contains(&if address.is_ipv4() { RecordKind::A } else { RecordKind::Aaaa }));
    if addresses.is_empty() && own.iter().any(|kind| matches!(kind, RecordKind::A | RecordKind::Aaaa)) {
        return Vec::new();
    }
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let listed = if addresses.is_empty() { "no address".to_owned() } else { addresses.join(", ") };
    let mut facts = Vec::new();
    let named = match (serving.open && !answered.is_empty(), answered.iter().any(|node| node.in_service())) {
        (false, _) => "the nodes that are up and take work",
        (true, false) => "no node is in service, so all are answered",
        (true, true) => "too few nodes are in service, so others are answered as well",
    };
    let text = format!("DNS answers {listed} (TTL {ttl}): {named}");
    facts.push(history.fact(text, []));
    facts.extend(resource.and_then(|resource| policy(history, resource)));
    facts.extend(answered.iter().map(|node| told_of(history, node, "is answered")));
    let left_out = state
        .nodes()
        .values()
        .filter(|node| node.spec.role == NodeRole::Data && !answered.iter().any(|other| other.id == node.id));
    facts.extend(left_out.map(|node| told_of(history, node, "is left out")));
    facts
}

/// How the nodes are chosen and put in order, where it is not as usual.
fn policy(history: &History<'_>, resource: &Resource) -> Option<Fact> {
    let how = match history.state.dns().policy(resource.id) {
        AnswerPolicy::HomeFirst => return None,
        AnswerPolicy::Home => "only the node at which the tunnel ends, while it is in service",
        AnswerPolicy::All => "every node, beginning with another one for each resource",
        AnswerPolicy::Nearest => "to clients in a region with nodes in service, those nodes alone",
    };
    let decision = history.edit(&Object::Resource(resource.id), &["answers"]);
    Some(history.fact(format!("answered by its policy: {how}"), [decision]))
}

fn told_of(history: &History<'_>, node: &Node, answered: &str) -> Fact {
    let addresses: Vec<String> = node.spec.public_addresses.iter().map(ToString::to_string).collect();
    let (verdict, admin) = (node::verdict(history, node), node::admin(history, node));
    let mut steps = verdict.steps;
    steps.extend(admin.steps);
    let text =
        format!("{} ({}) {answered}: {}, {}", node.spec.name, addresses.join(" "), verdict.text, admin.text);
    Fact { text, steps }
}

/// Where requests go, and where the tunnels that they go through end.
fn route(history: &History<'_>, resource: &Resource) -> Vec<Fact> {
    let state = history.state;
    let targets: Vec<&Target> = state.targets_of(resource.id).collect();
    let mut facts: Vec<Fact> = targets.iter().map(|target| told_of_target(history, target)).collect();
    if targets.is_empty() {
        facts.push(history.fact("requests go nowhere: it has no target", []));
    }
    facts.extend(balancing(history, resource));
    facts.extend(ports(history, resource));
    let mut sites: Vec<_> = targets.iter().filter_map(|target| state.sites().get(&target.site)).collect();
    sites.sort_by_key(|site| site.id);
    sites.dedup_by_key(|site| site.id);
    for site in sites {
        let Fact { text, steps } = site::placement(history, site);
        facts.push(Fact { text: format!("site {}/{}: {text}", site.org, site.nice_id), steps });
    }
    facts
}

/// How its targets are chosen, where it is not in turn.
fn balancing(history: &History<'_>, resource: &Resource) -> Option<Fact> {
    let how = match history.state.traffic().balancing(resource.id) {
        Balancing::RoundRobin => return None,
        Balancing::LeastConnections => "the one with the least under way",
        Balancing::Cookie => "the same one for each browser, by a cookie",
        Balancing::Address => "the same one for each client address",
    };
    let decision = history.edit(&Object::Resource(resource.id), &["balancing"]);
    Some(history.fact(format!("of targets that are equally well, it goes to {how}"), [decision]))
}

/// The ports that lead to it.
fn ports(history: &History<'_>, resource: &Resource) -> Vec<Fact> {
    let ports = history.state.traffic().ports_of(resource.id);
    ports
        .map(|(kind, _)| {
            let text = match kind {
                PortKind::Tcp(_) => format!("{kind} of every node leads to its targets of method tcp"),
                PortKind::Udp(_) => format!("{kind} of every node leads to its targets of method udp"),
                PortKind::Tls => {
                    "TLS for its name goes to its targets of method tcp without being decrypted".to_owned()
                }
            };
            let field = format!("port {kind}");
            history.fact(text, [history.edit(&Object::Resource(resource.id), &[field.as_str()])])
        })
        .collect()
}

fn told_of_target(history: &History<'_>, target: &Target) -> Fact {
    let object = Object::Target(target.id);
    let site = history.state.sites().get(&target.site);
    let behind = site.map_or_else(String::new, |site| format!(" behind site {}/{}", site.org, site.nice_id));
    let address = format!("{}://{}:{}{behind}", scheme(target.method), target.host, target.port);
    let off = site.filter(|site| !site.enabled);
    let share = match history.state.traffic().share(target.id) {
        Share { weight: 1, priority: 0 } => String::new(),
        Share { weight, priority: 0 } => format!(", weight {weight}"),
        Share { weight, priority } => format!(", weight {weight}, a backup of priority {priority}"),
    };
    let text = match (target.enabled, off) {
        (false, _) => format!("target {address} (id {}) gets no requests: it is disabled", target.id),
        (true, Some(_)) => {
            format!("target {address} (id {}) gets no requests: its site is disabled", target.id)
        }
        (true, None) => format!("requests go to target {address} (id {}{share})", target.id),
    };
    let edited = history.edit(&object, &["enabled", "host", "port", "method", "weight", "priority"]);
    let site_edited = off.and_then(|site| history.edit(&Object::Site(site.id), &["enabled"]));
    history.fact(text, [site_edited, edited, history.beginning(&object)])
}

/// A node's own name in the cluster's zone, which does not follow health.
fn name_server(history: &History<'_>, name: &HostName) -> Option<Fact> {
    let state = history.state;
    let zone = &state.settings()?.zone;
    let of_name = |node: &&Node| zone.child(node.spec.name.as_str()).is_ok_and(|host| host == *name);
    let node = state.nodes().values().find(of_name)?;
    let addresses: Vec<String> = node.spec.public_addresses.iter().map(ToString::to_string).collect();
    let text = format!(
        "DNS answers {}: the name server on node {} (id {}), whatever its health",
        addresses.join(", "),
        node.spec.name,
        node.id
    );
    let object = Object::Node(node.id);
    Some(history.fact(text, [history.edit(&object, &["public addresses"]), history.beginning(&object)]))
}
