//! The keys that seal: how they stand, rotations, and the keyring for a drawer.

use std::collections::{BTreeMap, BTreeSet};

use pangolin_core::{
    Body, ClusterState, NodeId, Timestamp,
    keyring::{KeyringChange, Standing, standing},
    record::NodeRole,
};
use pangolin_wire::{Code, KeyStatus, KeyUse, KeyringStatus, Moment};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure};

pub(super) fn routes(routes: &mut Routes) {
    routes.get("/cluster/keyring", show);
    routes.post("/cluster/keyring/rotate", rotate);
    routes.post("/cluster/keyring/retire", retire);
    routes.post("/cluster/keyring/escrow", escrow);
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    answer(&call.state)
}

async fn rotate(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    call.app.node.keyring().rotate(call.cause(), call.request()).await?;
    answer(&call.app.cluster.state())
}

/// Without waiting for the time that former keys are kept.
async fn retire(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let keys = call.state.keys();
    let former = keys.active_number().saturating_sub(1);
    if former <= keys.retired && call.state.outcome_of(call.request()).is_none() {
        return Err(ApiFailure::new(Code::Conflict, "there is no former key that is still in use"));
    }
    let changed = call.propose(Body::Keyring(Box::new(KeyringChange::Retired(former)))).await?;
    answer(&changed.state)
}

async fn escrow(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let escrow = call.app.node.keyring().escrow()?;
    let message = format!("the keyring is encrypted to the recovery key {}", escrow.recovery_key);
    Answer::ok(call.state.revision(), message, &escrow)
}

fn answer(state: &ClusterState) -> Result<Answer, ApiFailure> {
    let status = status(state);
    Answer::ok(state.revision(), status.standing.clone(), &status)
}

fn status(state: &ClusterState) -> KeyringStatus {
    let keys = state.keys();
    let mut sealed: BTreeMap<u32, usize> = BTreeMap::new();
    for (_, one) in state.sealed() {
        *sealed.entry(one.kek).or_default() += 1;
    }
    let active = keys.active_number();
    let known: BTreeSet<u32> = (1..=active).chain(keys.next.map(|kek| kek.number)).collect();
    let key = |number: u32| {
        let kek = keys.needed().find(|kek| kek.number == number);
        let used = match number {
            number if number > active => KeyUse::Next,
            number if number == active => KeyUse::Active,
            number if number <= keys.retired => KeyUse::Retired,
            _ => KeyUse::Former,
        };
        let since = kek.map(|kek| Moment(kek.since));
        KeyStatus { number, used, sealed: sealed.get(&number).copied().unwrap_or(0), since }
    };
    let standing = standing(state, state.time());
    let needs = keys.newest().is_some();
    let lacks = |id: &NodeId| needs && !keys.holders.contains(id);
    let data = state.nodes().values().filter(|node| node.spec.role == NodeRole::Data);
    KeyringStatus {
        keys: known.into_iter().rev().map(key).collect(),
        settled: standing == Standing::Settled,
        standing: text(state, &standing),
        missing: data.filter(|node| lacks(&node.id)).map(|node| node.spec.name.to_string()).collect(),
    }
}

fn text(state: &ClusterState, standing: &Standing) -> String {
    let active = state.keys().active_number();
    let names = |ids: &[NodeId]| {
        let name = |id| state.nodes().get(id).map(|node| node.spec.name.to_string());
        ids.iter().filter_map(name).collect::<Vec<_>>().join(", ")
    };
    let at = |until: &Timestamp| Moment(*until).to_string();
    match standing {
        Standing::Settled => format!("key-encryption key {active} seals everything"),
        Standing::Spreading(missing) => format!("the next key has to come to {} first", names(missing)),
        Standing::Ready(number) => format!("every node in service has key-encryption key {number}"),
        Standing::Sealing(left) => {
            format!("{} things are still to be sealed with key-encryption key {active}", left.len())
        }
        Standing::Keeping { until, missing } if missing.is_empty() => {
            format!(
                "key-encryption key {active} seals everything; the former one is kept until {}",
                at(until)
            )
        }
        Standing::Keeping { until, missing } => format!(
            "key-encryption key {active} seals everything; the former one is kept until {} has it, at least until {}",
            names(missing),
            at(until)
        ),
        Standing::Retirable(_) => {
            format!("key-encryption key {active} seals everything; the former one ends now")
        }
    }
}
