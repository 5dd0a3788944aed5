//! Response rate limiting: forged sources must not turn the node into a weapon against the one who really has the
//! address. One leaky bucket (GCRA) per client network in a table of fixed size; no locks, no allocation.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::IpAddr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Instant,
};

use crate::{RateLimit, network::Network};

/// Buckets: half a megabyte. A flood from more networks than that is not reflection against one of them.
const SLOTS: usize = 1 << 16;
/// Buckets among which one network may sit.
const PROBES: usize = 4;
/// Attempts to write a bucket that other threads write too; whoever loses them all passes.
const ATTEMPTS: usize = 4;
/// One of this many limited answers is sent truncated instead of dropped.
const SLIP: u32 = 2;

/// A bucket: 16 bits to tell networks apart, 48 bits of the time at which the bucket is empty again, in µs since the
/// limiter was made (enough for 8 years).
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// Send it empty and truncated.
    Slip,
    Drop,
}

/// Counts answers per client network.
pub(crate) struct Limiter {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
    start: Instant,
    /// µs of bucket that one answer takes.
    interval: u64,
    /// µs of bucket that may be taken in advance.
    depth: u64,
    slips: AtomicU32,
}

impl Limiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let interval = 1_000_000 / u64::from(limit.per_second.max(1));
        Self {
            slots: std::iter::repeat_with(|| AtomicU64::new(0)).take(SLOTS).collect(),
            hasher: RandomState::new(),
            start: Instant::now(),
            interval,
            depth: interval * u64::from(limit.burst),
            slips: AtomicU32::new(0),
        }
    }

    /// Counts one answer to `client` at `now`.
    pub(crate) fn check(&self, client: IpAddr, now: Instant) -> Verdict {
        // A bucket that was never used must look idle, so the clock does not begin at 0.
        let now = now.duration_since(self.start).as_micros() as u64 + 1;
        let hash = self.hasher.hash_one(Network::of(client));
        let tag = hash >> TIME_BITS;
        for _ in 0..ATTEMPTS {
            let (slot, seen) = self.bucket(hash, tag);
            let empty_at = if seen >> TIME_BITS == tag { seen & TIME_MASK } else { 0 };
            let empty_at = empty_at.max(now);
            if empty_at - now > self.depth {
                let slips = self.slips.fetch_add(1, Ordering::Relaxed).is_multiple_of(SLIP);
                return if slips { Verdict::Slip } else { Verdict::Drop };
            }
            let filled = tag << TIME_BITS | ((empty_at + self.interval) & TIME_MASK);
            if slot.compare_exchange_weak(seen, filled, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Verdict::Send;
            }
        }
        Verdict::Send
    }

    /// The network's bucket, or the one nearest to empty among those it may take.
    fn bucket(&self, hash: u64, tag: u64) -> (&AtomicU64, u64) {
        let first = (hash as usize) % SLOTS;
        let mut best = (&self.slots[first], self.slots[first].load(Ordering::Relaxed));
        for probe in 0..PROBES {
            let slot = &self.slots[(first + probe) % SLOTS];
            let seen = slot.load(Ordering::Relaxed);
            if seen >> TIME_BITS == tag && seen & TIME_MASK != 0 {
                return (slot, seen);
            }
            if seen & TIME_MASK < best.1 & TIME_MASK {
                best = (slot, seen);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_network_gets_its_burst_then_its_rate_and_every_second_refusal_slips() {
        let limiter = Limiter::new(RateLimit { per_second: 10, burst: 4 });
        let (one, two) = ("192.0.2.1".parse().expect("ip"), "192.0.2.77".parse().expect("ip"));
        let t = Instant::now();
        let verdicts: Vec<Verdict> = (0..9).map(|_| limiter.check(one, t)).collect();
        assert_eq!(verdicts[..5], [Verdict::Send; 5]);
        assert_eq!(verdicts[5..], [Verdict::Slip, Verdict::Drop, Verdict::Slip, Verdict::Drop]);
        assert_ne!(limiter.check(two, t), Verdict::Send, "the same /24");
        let other = "198.51.100.1".parse().expect("ip");
        assert_eq!(limiter.check(other, t), Verdict::Send, "another network");
        let later = t + Duration::from_millis(210);
        let sent = (0..9).filter(|_| limiter.check(one, later) == Verdict::Send).count();
        assert_eq!(sent, 2, "a tenth of a second each");
        let rested = t + Duration::from_secs(60);
        assert_eq!((0..9).filter(|_| limiter.check(one, rested) == Verdict::Send).count(), 5);
    }

    #[test]
    fn many_other_networks_do_not_empty_a_busy_bucket() {
        let limiter = Limiter::new(RateLimit { per_second: 1, burst: 100 });
        let victim = "192.0.2.1".parse().expect("ip");
        let t = Instant::now();
        while limiter.check(victim, t) == Verdict::Send {}
        for network in 0..20_000_u32 {
            limiter.check(IpAddr::from((0x0a00_0000 + (network << 8)).to_be_bytes()), t);
        }
        assert_ne!(limiter.check(victim, t), Verdict::Send);
    }
}
