//! Heartbeats and the election timer, without the wake-ups of openraft's ticks.
//!
//! openraft ticks five times per heartbeat, all the time, on every node. A leader needs none of these ticks but those
//! that send heartbeats, and a follower that has just heard its leader cannot stand for election for a while: with its
//! ticks off an idle node sleeps twice as long.

use std::{sync::Weak, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::{cluster::Inner, config::Timing};

/// What a node does about time right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
    /// It leads: it sends a heartbeat, and the next one after [`Timing::heartbeat`].
    Heartbeat,
    /// The leader was heard: nothing, for so long.
    Rest(Duration),
    /// The leader has been silent: openraft ticks, and stands for election when its time has come.
    Tick,
}

/// `heard`: how long ago this node took something from a leader. It may stand for election [`Timing::election_max`] (the
/// lease) and at least [`Timing::election_min`] after that; ticks are back well before.
fn pulse(leads: bool, heard: Option<Duration>, timing: &Timing) -> Pulse {
    let silence = timing.election_max + timing.election_min / 2;
    match heard.and_then(|heard| silence.checked_sub(heard)).filter(|left| !left.is_zero()) {
        _ if leads => Pulse::Heartbeat,
        Some(left) => Pulse::Rest(left),
        None => Pulse::Tick,
    }
}

/// Sends this node's heartbeats while it leads, and lets openraft tick while nobody does. Ends with Raft.
pub(crate) async fn beat(inner: Weak<Inner>) {
    let Some(first) = inner.upgrade() else { return };
    let mut server = first.raft.server_metrics();
    drop(first);
    loop {
        let wait = {
            let Some(inner) = inner.upgrade() else { return };
            let leads = server.borrow_and_update().state.is_leader();
            let pulse = pulse(leads, inner.heard(), &inner.timing);
            inner.raft.runtime_config().tick(pulse == Pulse::Tick);
            if pulse == Pulse::Heartbeat && inner.raft.trigger().heartbeat().await.is_err() {
                return;
            }
            match pulse {
                Pulse::Rest(left) => left,
                Pulse::Heartbeat | Pulse::Tick => inner.timing.heartbeat,
            }
        };
        tokio::select! {
            changed = server.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_back_before_a_node_may_stand_for_election() {
        let timing = Timing::lan();
        let ms = Duration::from_millis;
        let cases = [
            ("never heard one", false, None, Pulse::Tick),
            ("just heard it", false, Some(ms(0)), Pulse::Rest(ms(625))),
            ("heard it a heartbeat ago", false, Some(ms(200)), Pulse::Rest(ms(425))),
            ("the time is over", false, Some(ms(625)), Pulse::Tick),
            ("long silent", false, Some(ms(9000)), Pulse::Tick),
            ("leads", true, None, Pulse::Heartbeat),
            ("leads, and followed a moment ago", true, Some(ms(10)), Pulse::Heartbeat),
        ];
        for (who, leads, heard, expected) in cases {
            assert_eq!(pulse(leads, heard, &timing), expected, "{who}");
        }
        for timing in [Timing::lan(), Timing::wan()] {
            let Pulse::Rest(rest) = pulse(false, Some(ms(0)), &timing) else { panic!("it rests") };
            let tick = timing.heartbeat * 13 / 64;
            assert!(rest + 2 * tick < timing.election_max + timing.election_min);
        }
    }
}
