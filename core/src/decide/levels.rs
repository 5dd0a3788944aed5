//! When the cluster's feature level is raised by itself.

use std::time::Duration;

use crate::{
    command::{Actor, Body, Cause, Command, Fence},
    feature::FeatureLevel,
    observation::Observations,
    record::Leadership,
    state::ClusterState,
    time::Timestamp,
};

/// Every node must have understood a level for this long before it is raised to without being asked: until then an
/// operator may go back to the previous version. While a rolling upgrade is open it is never raised by itself.
pub const LEVEL_STABLE: Duration = Duration::from_secs(24 * 3600);

/// The highest level that every node understands: by what it has committed about itself, and, of those that report,
/// by what they run right now.
#[must_use]
pub fn common_level(state: &ClusterState, seen: &Observations, now: Timestamp) -> FeatureLevel {
    let committed = state.nodes().values().map(|node| node.spec.feature_level);
    let running = seen
        .fresh(now)
        .filter(|(id, _)| state.nodes().contains_key(id))
        .map(|(_, report)| report.feature_level);
    committed.chain(running).min().unwrap_or_default()
}

pub(super) fn decide(
    state: &ClusterState,
    seen: &Observations,
    leadership: Leadership,
    now: Timestamp,
) -> Option<Command> {
    let command = |reason: String, body| Command {
        request: None,
        at: now,
        cause: Cause::new(Actor::Leader(leadership.node), reason),
        fence: Fence::Term(leadership.term),
        body,
    };
    #[cfg(pangolin_next)]
    if state.notes() == 0 && state.cluster().is_some() {
        return Some(command("so that upgrades can be tested".to_owned(), Body::Noted));
    }
    let level = common_level(state, seen, now);
    let stable = state.nodes().values().all(|node| now.since(node.level_since) >= LEVEL_STABLE);
    // Those that are down may be running, or about to run, something else than they last said.
    let reported = state.nodes().keys().all(|id| seen.fresh(now).any(|(reporter, _)| reporter == *id));
    (level > state.feature_level() && stable && reported && state.upgrade().is_none()).then(|| {
        let hours = LEVEL_STABLE.as_secs() / 3600;
        let reason = format!("every node has understood feature level {level} for {hours} hours");
        command(reason, Body::FeatureLevelRaised(level))
    })
}
