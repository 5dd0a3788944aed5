//! Which tunnels are alive. Pure: the time comes in with each call.
//!
//! A tunnel whose other end sends probes (or answers them) is held to that: alive while the last one is younger than
//! [`PROBE_LIFETIME`]. Stock Newt sends none. For it, a tunnel is alive while WireGuard has received data or a
//! handshake within [`QUIET_LIFETIME`]: Newt pings its node inside the tunnel every 15 seconds.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pangolin_core::{observation::Seen, time::Timestamp};

use crate::probe::PROBE_LIFETIME;

/// How long received bytes prove a tunnel alive whose other end does not probe: Newt's ping interval of 15 s, and
/// room for one late ping and for [`COUNTER_INTERVAL`].
pub(crate) const QUIET_LIFETIME: Duration = Duration::from_secs(20);

/// How long bytes may have been on their way, or wait to be counted, after the other end went elsewhere.
const LEAVING: Duration = Duration::from_secs(2);

/// How often the counters of tunnels without probes are read: a Newt that was moved counts as arrived by them. Those of
/// 5,000 peers take some 20 ms.
pub(crate) const COUNTER_INTERVAL: Duration = Duration::from_secs(1);

struct Entry {
    /// Last probe or answer; some = the other end probes.
    probed: Option<Instant>,
    /// Bytes received when the counter was last read.
    received: u64,
    /// When that counter last moved.
    moved: Option<Instant>,
    /// When the other end was said to have gone elsewhere.
    left: Option<Instant>,
    seen: Seen,
}

impl Entry {
    fn alive(&self, now: Instant) -> bool {
        let within = |at: Instant, lifetime| now.saturating_duration_since(at) <= lifetime;
        match self.probed {
            Some(at) => within(at, PROBE_LIFETIME),
            None => self.moved.is_some_and(|at| within(at, QUIET_LIFETIME)),
        }
    }
}

/// The state of all tunnels of one end, by the id of the other end.
pub(crate) struct Liveness<K>(BTreeMap<K, Entry>);

impl<K: Ord + Copy> Liveness<K> {
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Starts to watch a tunnel, which is dead until proven alive.
    pub(crate) fn add(&mut self, id: K, wall: Timestamp) {
        let seen = Seen { alive: false, since: wall };
        self.0.insert(id, Entry { probed: None, received: 0, moved: None, left: None, seen });
    }

    /// Forgets a tunnel.
    pub(crate) fn remove(&mut self, id: K) {
        self.0.remove(&id);
    }

    /// A probe or an answer has come. True if that changes [`Liveness::seen`].
    pub(crate) fn probed(&mut self, id: K, now: Instant, wall: Timestamp) -> bool {
        let Some(entry) = self.0.get_mut(&id) else { return false };
        entry.probed = Some(now);
        let changed = !entry.seen.alive;
        if changed {
            entry.seen = Seen { alive: true, since: wall };
        }
        changed
    }

    /// WireGuard has received `received` bytes from there so far.
    pub(crate) fn counted(&mut self, id: K, received: u64, now: Instant) {
        if let Some(entry) = self.0.get_mut(&id)
            && entry.received != received
        {
            entry.received = received;
            if entry.left.is_none_or(|left| now.saturating_duration_since(left) > LEAVING) {
                (entry.moved, entry.left) = (Some(now), None);
            }
        }
    }

    /// The other end, which does not probe, is said to have gone elsewhere: the tunnel is dead until bytes come that
    /// were not on their way. True if that changes [`Liveness::seen`].
    pub(crate) fn left(&mut self, id: K, now: Instant, wall: Timestamp) -> bool {
        let Some(entry) = self.0.get_mut(&id).filter(|entry| entry.probed.is_none() && entry.seen.alive)
        else {
            return false;
        };
        (entry.moved, entry.left) = (None, Some(now));
        entry.seen = Seen { alive: false, since: wall };
        true
    }

    /// True if some tunnel's other end has never probed, so that its counters are worth reading.
    pub(crate) fn needs_counters(&self) -> bool {
        self.0.values().any(|entry| entry.probed.is_none())
    }

    /// Lets time pass. True if that changes [`Liveness::seen`].
    pub(crate) fn tick(&mut self, now: Instant, wall: Timestamp) -> bool {
        let mut changed = false;
        for entry in self.0.values_mut() {
            let alive = entry.alive(now);
            if alive != entry.seen.alive {
                entry.seen = Seen { alive, since: wall };
                changed = true;
            }
        }
        changed
    }

    /// The first moment after `now` at which [`Liveness::tick`] may find a tunnel dead whose other end probes, unless
    /// it probes again. Never later than a tunnel that comes alive after `now` could die.
    pub(crate) fn next_end(&self, now: Instant) -> Instant {
        // A tunnel is alive to the end of its lifetime, and dead right after.
        let end = |at: Instant| at + PROBE_LIFETIME + Duration::from_millis(1);
        let probed = self.0.values().filter(|entry| entry.seen.alive).filter_map(|entry| entry.probed);
        probed.map(end).filter(|end| *end > now).min().unwrap_or_else(|| end(now))
    }

    /// Whether this tunnel is alive.
    pub(crate) fn is_alive(&self, id: K) -> bool {
        self.0.get(&id).is_some_and(|entry| entry.seen.alive)
    }

    /// How all tunnels look.
    pub(crate) fn seen(&self) -> BTreeMap<K, Seen> {
        self.0.iter().map(|(id, entry)| (*id, entry.seen)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to one tunnel, and whether it is alive afterwards.
    enum Step {
        Probe(u64),
        Leave(u64),
        Count(u64, u64),
        Tick(u64),
    }
    use Step::{Count, Leave, Probe, Tick};

    fn after(steps: &[Step]) -> bool {
        let start = Instant::now();
        let at = |ms| (start + Duration::from_millis(ms), Timestamp(ms));
        let mut liveness = Liveness::new();
        liveness.add(1, Timestamp(0));
        for step in steps {
            match *step {
                Probe(ms) => {
                    liveness.probed(1, at(ms).0, at(ms).1);
                }
                Leave(ms) => {
                    liveness.left(1, at(ms).0, at(ms).1);
                }
                Count(ms, bytes) => liveness.counted(1, bytes, at(ms).0),
                Tick(ms) => {
                    liveness.tick(at(ms).0, at(ms).1);
                }
            }
        }
        liveness.is_alive(1)
    }

    #[test]
    fn a_tunnel_is_alive_while_it_is_proven_so() {
        let cases: &[(&str, &[Step], bool)] = &[
            ("nothing heard", &[Tick(100)], false),
            ("a probe, at once", &[Probe(10)], true),
            ("the last moment of a probe", &[Probe(10), Tick(1010)], true),
            ("after it", &[Probe(10), Tick(1011)], false),
            ("back again", &[Probe(10), Tick(1500), Probe(1600)], true),
            ("counters do not save an end that probes", &[Probe(10), Count(1500, 9), Tick(1600)], false),
            ("no probes, but bytes", &[Count(10, 9), Tick(20)], true),
            (
                "no probes, a counter that stands still",
                &[Count(10, 9), Count(15_000, 9), Tick(20_011)],
                false,
            ),
            ("no probes, a counter that moves", &[Count(10, 9), Count(15_000, 10), Tick(30_000)], true),
            ("a counter of nothing", &[Count(10, 0), Tick(20)], false),
            ("no probes, and gone elsewhere", &[Count(10, 9), Tick(20), Leave(30)], false),
            (
                "gone elsewhere, with bytes on their way",
                &[Count(10, 9), Tick(20), Leave(30), Count(1000, 10), Tick(1001)],
                false,
            ),
            (
                "said to be gone, but sends on",
                &[Count(10, 9), Tick(20), Leave(30), Count(5000, 10), Tick(5001)],
                true,
            ),
            ("an end that probes does not leave", &[Probe(10), Leave(20), Tick(30)], true),
        ];
        for (name, steps, alive) in cases {
            assert_eq!(after(steps), *alive, "{name}");
        }
    }

    #[test]
    fn a_change_is_told_once_and_dated() {
        let start = Instant::now();
        let mut liveness = Liveness::new();
        liveness.add(7, Timestamp(1));
        assert!(liveness.probed(7, start, Timestamp(2)));
        assert!(!liveness.probed(7, start, Timestamp(3)));
        assert!(!liveness.tick(start, Timestamp(4)));
        assert_eq!(liveness.seen()[&7], Seen { alive: true, since: Timestamp(2) });
        assert!(liveness.tick(start + Duration::from_secs(2), Timestamp(5)));
        assert_eq!(liveness.seen()[&7], Seen { alive: false, since: Timestamp(5) });
    }

    #[test]
    fn a_tunnel_is_looked_at_when_it_may_have_died() {
        let start = Instant::now();
        let (lifetime, wall) = (PROBE_LIFETIME + Duration::from_millis(1), Timestamp(0));
        let mut liveness = Liveness::new();
        assert_eq!(liveness.next_end(start), start + lifetime, "one that comes alive now");
        for (id, ms) in [(1, 100), (2, 200)] {
            liveness.add(id, wall);
            liveness.probed(id, start + Duration::from_millis(ms), wall);
        }
        let end = start + Duration::from_millis(100) + lifetime;
        assert_eq!(liveness.next_end(start + Duration::from_millis(300)), end);
        assert!(liveness.tick(end, wall), "the first is dead");
        assert_eq!(liveness.next_end(end), start + Duration::from_millis(200) + lifetime);
    }
}
