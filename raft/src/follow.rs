//! Follows Raft's own word about who leads, for those who ask and those who wait.

use std::{sync::Weak, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;

use crate::cluster::Inner;

/// What follows from a look at Raft's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// The term in which this node leads with a majority behind it.
    term: Option<u64>,
    /// When to look again though nothing has changed; none: only then.
    again: Option<Duration>,
}

/// `led` is the term that this node certainly leads in, and for how long that is certain; `claims` says that some of
/// the metrics, which are not published at one moment, take it for the leader.
fn look(led: Option<(u64, Duration)>, claims: bool, heartbeat: Duration) -> Look {
    match led {
        // A leader that loses its majority, or gets it back, hears nothing: only the clock tells.
        Some((term, left)) => Look { term: Some(term), again: Some(left) },
        // Also when the metrics that tell of the leadership are a moment behind those that woke whoever looks: they
        // wake nobody when they follow.
        None => Look { term: None, again: claims.then_some(heartbeat / 2) },
    }
}

/// Keeps `known_leader` and `leadership` up to date.
pub(crate) async fn follow(inner: Weak<Inner>) {
    let Some(first) = inner.upgrade() else { return };
    // Not the metrics that change with every heartbeat: an idle node should sleep.
    let mut server = first.raft.server_metrics();
    drop(first);
    loop {
        let look_again = {
            let Some(inner) = inner.upgrade() else { return };
            server.borrow_and_update();
            let leader = inner.leader();
            inner.known_leader.send_if_modified(|known| std::mem::replace(known, leader) != leader);
            let (led, claims) =
                (inner.led_term(), leader == Some(inner.node) || inner.raft.as_leader().is_ok());
            if led.is_some() {
                inner.step_down_with_a_wrong_clock();
            }
            let look = look(led, claims, inner.timing.heartbeat);
            inner.leadership.send_if_modified(|known| std::mem::replace(known, look.term) != look.term);
            look.again
        };
        let lapse = async {
            match look_again {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = server.changed() => if changed.is_err() {
                if let Some(inner) = inner.upgrade() {
                    inner.known_leader.send_replace(None);
                    inner.leadership.send_replace(None);
                }
                return;
            },
            () = lapse => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_lead_looks_again_and_nobody_else() {
        let (beat, left) = (Duration::from_millis(100), Duration::from_millis(420));
        let cases = [
            ("a follower", None, false, Look { term: None, again: None }),
            ("a leader", Some((7, left)), true, Look { term: Some(7), again: Some(left) }),
            (
                "a leader that is not known as one yet",
                Some((7, left)),
                false,
                Look { term: Some(7), again: Some(left) },
            ),
            ("one that has lost its majority", None, true, Look { term: None, again: Some(beat / 2) }),
            (
                "elected, but the metrics are a moment late",
                None,
                true,
                Look { term: None, again: Some(beat / 2) },
            ),
        ];
        for (who, led, claims, expected) in cases {
            assert_eq!(look(led, claims, beat), expected, "{who}");
        }
    }
}
