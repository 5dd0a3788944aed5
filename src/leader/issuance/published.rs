//! Whether every name server shows the proofs: an issuer that is told too early finds nothing, and remembers that.

use std::time::Duration;

use pangolin_core::{
    ClusterState, HostName, NodeId,
    issuance::Order,
    plan::challenge_names,
    record::{AdminState, NodeRole, Verdict},
};
use pangolin_peer::Service;
use tokio::time::{Instant, sleep};

use crate::{
    leader::Leading,
    local::txt::{Answered, read_answers},
};

/// How long the name servers may take: a node that died is known to be down well before.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often they are asked.
const POLL: Duration = Duration::from_millis(100);
/// How long one of them may take to ask itself.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// Waits until every name server that lives answers every proof of an order, by UDP and by TCP.
pub(super) async fn everywhere(leading: &Leading, order: &Order) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = leading.cluster.state();
        let wanted = wanted(&state, order);
        let Some(missing) = missing(leading, &state, &wanted).await else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(format!("after {} s {missing}; the issuer was not told to look", PATIENCE.as_secs()));
        }
        sleep(POLL).await;
    }
}

/// What has to be answered, and where.
fn wanted(state: &ClusterState, order: &Order) -> Vec<(HostName, String)> {
    let proofs = order.challenges.iter().flat_map(|challenge| {
        // Of the names at which a proof stands, those that lie in a zone of the cluster are answered.
        let names = challenge_names(state, &challenge.name).into_iter();
        names.map(|name| (name, challenge.value.clone()))
    });
    proofs.collect()
}

/// The name servers that resolvers may ask: those that are down answer nobody, those that leave are not named any more.
fn name_servers(state: &ClusterState) -> impl Iterator<Item = NodeId> {
    let named = |node: &&pangolin_core::record::Node| {
        node.spec.role == NodeRole::Data && node.verdict == Verdict::Up && node.admin != AdminState::Leaving
    };
    state.nodes().values().filter(named).map(|node| node.id)
}

/// What is missing where; none if nothing is.
async fn missing(leading: &Leading, state: &ClusterState, wanted: &[(HostName, String)]) -> Option<String> {
    if wanted.is_empty() {
        return None;
    }
    let mut names: Vec<HostName> = wanted.iter().map(|(name, _)| name.clone()).collect();
    names.dedup();
    let asked = name_servers(state).map(|node| {
        let names = &names;
        async move { (node, ask(leading, node, names).await) }
    });
    for (node, answer) in futures_util::future::join_all(asked).await {
        let name = state.nodes().get(&node).map(|node| node.spec.name.to_string()).unwrap_or_default();
        let answered = match answer {
            Ok(answered) => answered,
            Err(reason) => return Some(format!("the name server on {name} could not be asked: {reason}")),
        };
        for (at, value) in wanted {
            if !answered.get(at).is_some_and(|values| values.contains(value)) {
                return Some(format!("the name server on {name} does not answer the proof at {at}"));
            }
        }
    }
    None
}

async fn ask(leading: &Leading, node: NodeId, names: &[HostName]) -> Result<Answered, String> {
    if node == leading.node {
        return leading.own_dns.answers(names).await;
    }
    let body = serde_json::to_vec(names).map_err(|error| error.to_string())?;
    let answer = leading.peers.request(node, Service::Txt, body.into(), ANSWER_PATIENCE).await;
    let answer = answer.map_err(|error| error.to_string())?;
    read_answers(&answer)
}
