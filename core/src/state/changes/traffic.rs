//! What differs in how traffic comes in and is shared.

use imbl::OrdSet;

use super::{Changes, Edits, Record, dns::moved};
use crate::{
    decision::{Subject, What},
    id::NodeId,
    traffic::{PortRules, ProxyProtocol},
};

impl Changes<'_> {
    /// Where a resource or a target is new or gone, what hangs on it is told as well while it exists.
    pub(super) fn traffic(&mut self) {
        let (before, after) = (&self.before.traffic, &self.after.traffic);
        if before == after {
            return;
        }
        let mut found: Vec<(Option<Subject>, Option<What>)> = Vec::new();
        let resource = |id| self.after.resources.get(&id).map(|resource| resource.subject(self.after));
        for change in moved(&before.balancing, &after.balancing) {
            let id = *change.key;
            let edits = Edits::default().text("balancing", &before.balancing(id), &after.balancing(id));
            found.push((resource(id), edits.done()));
        }
        for change in moved(&before.shares, &after.shares) {
            let (id, old, new) = (*change.key, before.share(*change.key), after.share(*change.key));
            let edits = Edits::default().text("weight", &old.weight, &new.weight).text(
                "priority",
                &old.priority,
                &new.priority,
            );
            let subject = self.after.targets.get(&id).map(|target| target.subject(self.after));
            found.push((subject, edits.done()));
        }
        for change in moved(&before.ports, &after.ports) {
            let (id, kind) = *change.key;
            let edits = Edits::default()
                .value(&format!("port {kind}"), &change.old, &change.new, |rules| text(*rules));
            found.push((resource(id), edits.done()));
        }
        for change in moved(&before.local_sites, &after.local_sites) {
            let edits = Edits::default()
                .value("reached by", &change.old, &change.new, |nodes| self.reached_by(*nodes));
            let subject = self.after.sites.get(change.key).map(|site| site.subject(self.after));
            found.push((subject, edits.done()));
        }
        for (subject, what) in found {
            if let Some((subject, what)) = subject.zip(what) {
                self.push(subject, what);
            }
        }
    }
}

impl Changes<'_> {
    fn reached_by(&self, nodes: Option<&OrdSet<NodeId>>) -> String {
        match nodes {
            None => "its connector".to_owned(),
            Some(nodes) if nodes.is_empty() => "every node itself".to_owned(),
            Some(nodes) => {
                let names = nodes.iter().map(|id| self.after.node_name(*id).to_string());
                names.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn text(rules: Option<&PortRules>) -> String {
    let Some(rules) = rules else { return "closed".to_owned() };
    let PortRules { proxy_protocol, allow, deny, connections, per_source, idle } = rules;
    let mut text = format!("open, {connections} connections, {per_source} from one source, idle {idle} s");
    match proxy_protocol {
        Some(ProxyProtocol::V1) => text.push_str(", PROXY v1"),
        Some(ProxyProtocol::V2 | ProxyProtocol::V2Datagrams) => text.push_str(", PROXY v2"),
        None => {}
    }
    for (word, networks) in [("only for", allow), ("not for", deny)] {
        if !networks.is_empty() {
            let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
            text.push_str(&format!(", {word} {}", networks.join(" ")));
        }
    }
    text
}
