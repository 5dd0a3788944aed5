//! Which target gets a request, a connection or a UDP flow. Pure.
//!
//! Asked again with what has failed so far, it gives the targets in the order in which they are to be tried.

use std::{cmp::Ordering, net::IpAddr};

use pangolin_core::{TargetId, observation::TargetHealth, traffic::Share};
use siphasher::sip::SipHasher13;

/// How well a target stands: the worst of what is known of the way to its site and of itself. Best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Its checks pass.
    Healthy,
    /// It has no check, or none has ended.
    Unknown,
    /// Its checks fail, or connections to it do: only where nothing better is left.
    Unhealthy,
    /// No node has a live tunnel to its site.
    Unreachable,
}

impl Standing {
    /// From what is known of the site, of checks, and of the latest connections.
    pub(crate) fn of(reachable: bool, health: TargetHealth, ejected: bool) -> Self {
        match health {
            _ if !reachable => Self::Unreachable,
            TargetHealth::Unhealthy => Self::Unhealthy,
            _ if ejected => Self::Unhealthy,
            TargetHealth::Healthy => Self::Healthy,
            TargetHealth::Unknown => Self::Unknown,
        }
    }
}

/// A target at the moment of a choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: TargetId,
    pub(crate) share: Share,
    pub(crate) standing: Standing,
    /// Requests or connections under way.
    pub(crate) load: usize,
}

/// What decides among targets that stand equally well.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pick {
    /// A number that grows by one with each choice.
    Turn(usize),
    /// The lightest load; the number decides among equals.
    Load(usize),
    /// The same key gets the same target, and a target that goes takes along its own keys only.
    Key(u64),
}

/// The index of the target to try: first those that have not failed yet; of them those that can serve, and of them
/// those of the lowest priority number; of them the healthy ones before the unknown ones. A choice is made whatever
/// the checks say; none only if there is no target.
pub(crate) fn choose(candidates: &[Candidate], failed: &[usize], pick: Pick) -> Option<usize> {
    let rank = |index: usize, candidate: &Candidate| {
        let last_resort = candidate.standing.max(Standing::Unknown);
        (failed.contains(&index), last_resort, candidate.share.priority, candidate.standing)
    };
    let ranked = || candidates.iter().enumerate();
    let best = ranked().map(|(index, candidate)| rank(index, candidate)).min()?;
    let equals = ranked().filter(move |(index, candidate)| rank(*index, candidate) == best);
    match pick {
        Pick::Turn(turn) => by_turn(equals, turn),
        Pick::Load(turn) => {
            let loads: Vec<_> = equals.collect();
            // Compared without a division: a / x < b / y.
            let less = |one: &Candidate, other: &Candidate| {
                (one.load as u64 * u64::from(other.share.weight))
                    .cmp(&(other.load as u64 * u64::from(one.share.weight)))
            };
            let lightest =
                loads.iter().map(|(_, candidate)| *candidate).min_by(|one, other| less(one, other))?;
            by_turn(loads.iter().copied().filter(|(_, candidate)| less(candidate, lightest).is_eq()), turn)
        }
        Pick::Key(key) => {
            let drawn = equals.map(|(index, candidate)| (index, Draw::of(key, candidate)));
            drawn.min_by(|(_, one), (_, other)| one.compare(other)).map(|(index, _)| index)
        }
    }
}

/// Each as often as its weight says within every round of as many turns as all weights together, spread over the
/// round.
fn by_turn<'a>(equals: impl Iterator<Item = (usize, &'a Candidate)> + Clone, turn: usize) -> Option<usize> {
    let weight = |candidate: &Candidate| usize::from(candidate.share.weight.max(1));
    let unit = equals.clone().fold(0, |unit, (_, candidate)| gcd(unit, weight(candidate)));
    let (count, sum) = equals.clone().fold((0, 0), |(n, sum), (_, c)| (n + 1, sum + weight(c) / unit));
    if sum == 0 {
        return None;
    }
    // With equal weights simply one after the other.
    let stride = if count == sum { 1 } else { spread(sum) };
    let mut place = (turn % sum) * stride % sum;
    for (index, candidate) in equals {
        let width = weight(candidate) / unit;
        if place < width {
            return Some(index);
        }
        place -= width;
    }
    None
}

/// A step through a round of `length` places that comes to each once, and leaps far.
fn spread(length: usize) -> usize {
    let golden = length * 618 / 1000;
    (golden.max(1)..=length).find(|step| gcd(*step, length) == 1).unwrap_or(1)
}

fn gcd(one: usize, other: usize) -> usize {
    if one == 0 { other } else { gcd(other % one, one) }
}

/// What a target draws for a key: weighted rendezvous hashing, where the lowest wins. Every node draws the same, whatever
/// its version, its compiler and its processor: SipHash over bytes that are written down here, and integers from there.
#[derive(Clone, Copy, Debug)]
struct Draw {
    rarity: u64,
    weight: u64,
    target: TargetId,
}

impl Draw {
    fn of(key: u64, candidate: &Candidate) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&key.to_be_bytes());
        bytes[8..].copy_from_slice(&candidate.id.0.to_be_bytes());
        Self {
            rarity: rarity(stable_hash(&bytes)),
            weight: candidate.share.weight.max(1).into(),
            target: candidate.id,
        }
    }

    /// By rarity / weight, without a division.
    fn compare(&self, other: &Self) -> Ordering {
        let by_draw = (self.rarity * other.weight).cmp(&(other.rarity * self.weight));
        by_draw.then(self.target.cmp(&other.target))
    }
}

/// How rare so high a number is: its negative binary logarithm as a share of all numbers, with 32 bits behind the point.
/// Such rarities are spread exponentially, which is what keeps shares to weights. At most 2^38, so that a weight can be
/// multiplied with it.
fn rarity(number: u64) -> u64 {
    let number = number.max(1);
    let zeros = number.leading_zeros();
    // From here on a number between 1 and 2, whose logarithm is found bit by bit by squaring.
    let mut mantissa = number << zeros;
    let mut fraction = 0;
    for _ in 0..32 {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let carry = square >> 64;
        fraction = (fraction << 1) | u64::from(carry != 0);
        mantissa = u64::try_from(square >> u32::from(carry != 0)).unwrap_or(u64::MAX);
    }
    (u64::from(zeros + 1) << 32) - fraction
}

/// SipHash-1-3 with a key of zeros.
fn stable_hash(bytes: &[u8]) -> u64 {
    SipHasher13::new().hash(bytes)
}

/// The key of a client address, or of the network that counts as one.
pub(crate) fn key_of(source: IpAddr) -> u64 {
    match source {
        IpAddr::V4(v4) => stable_hash(&v4.octets()),
        IpAddr::V6(v6) => stable_hash(&v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use Standing::{Healthy, Unhealthy, Unknown, Unreachable};

    use super::*;

    /// Targets by weight, priority and standing.
    fn targets(list: &[(u16, u8, Standing)]) -> Vec<Candidate> {
        let target = |(&(weight, priority, standing), id)| Candidate {
            id: TargetId(id),
            share: Share { weight, priority },
            standing,
            load: 0,
        };
        list.iter().zip(1..).map(target).collect()
    }

    fn turns(list: &[(u16, u8, Standing)], failed: &[usize], count: usize) -> Vec<usize> {
        (0..count).filter_map(|turn| choose(&targets(list), failed, Pick::Turn(turn))).collect()
    }

    #[test]
    fn the_worst_of_site_checks_and_connections_counts() {
        use TargetHealth as H;
        for (reachable, health, ejected, standing) in [
            (true, H::Healthy, false, Healthy),
            (true, H::Unknown, false, Unknown),
            (true, H::Healthy, true, Unhealthy),
            (true, H::Unknown, true, Unhealthy),
            (true, H::Unhealthy, false, Unhealthy),
            (false, H::Healthy, false, Unreachable),
        ] {
            assert_eq!(Standing::of(reachable, health, ejected), standing);
        }
    }

    #[test]
    fn targets_take_turns_within_the_best_standing() {
        let plain = |standing| (1, 0, standing);
        for (standings, failed, expected) in [
            (&[Healthy, Healthy][..], &[][..], &[0, 1, 0, 1][..]),
            (&[Unknown, Healthy], &[], &[1, 1, 1, 1]),
            (&[Unhealthy, Unknown, Unknown], &[], &[1, 2, 1, 2]),
            (&[Unhealthy, Unhealthy], &[], &[0, 1, 0, 1]),
            (&[Unreachable, Unhealthy], &[], &[1, 1, 1, 1]),
            (&[Unreachable, Unreachable], &[], &[0, 1, 0, 1]),
            (&[Healthy, Unhealthy], &[0], &[1, 1, 1, 1]),
            (&[Healthy, Unhealthy], &[0, 1], &[0, 0, 0, 0]),
            (&[], &[], &[]),
        ] {
            let list: Vec<_> = standings.iter().map(|standing| plain(*standing)).collect();
            assert_eq!(turns(&list, failed, 4), expected, "{standings:?} without {failed:?}");
        }
    }

    #[test]
    fn a_backup_serves_while_nothing_before_it_can() {
        for (list, failed, expected) in [
            (&[(1, 0, Healthy), (1, 1, Healthy)][..], &[][..], 0),
            // An unchecked target is no reason to go to the backup.
            (&[(1, 0, Unknown), (1, 1, Healthy)], &[], 0),
            (&[(1, 0, Unhealthy), (1, 1, Unknown)], &[], 1),
            (&[(1, 0, Unreachable), (1, 1, Unhealthy)], &[], 1),
            (&[(1, 0, Unhealthy), (1, 1, Unhealthy)], &[], 0),
            (&[(1, 0, Healthy), (1, 1, Healthy)], &[0], 1),
            (&[(1, 2, Healthy), (1, 1, Healthy), (1, 0, Unhealthy)], &[], 1),
        ] {
            assert_eq!(choose(&targets(list), failed, Pick::Turn(7)), Some(expected), "{list:?}");
        }
    }

    #[test]
    fn weights_are_kept_in_every_round_and_spread_over_it() {
        let list = [(3, 0, Healthy), (1, 0, Healthy), (1, 0, Unhealthy)];
        for round in 0..5 {
            let turns: Vec<usize> = turns(&list, &[], 4 * (round + 1)).split_off(4 * round);
            assert_eq!(turns.iter().filter(|index| **index == 0).count(), 3, "{turns:?}");
            assert_eq!(turns.iter().filter(|index| **index == 1).count(), 1, "{turns:?}");
        }
        let halves = turns(&[(20, 0, Healthy), (30, 0, Healthy)], &[], 5);
        assert_eq!(halves.iter().filter(|index| **index == 0).count(), 2, "{halves:?}");
        assert_ne!(&halves[..2], [0, 0], "{halves:?}");
    }

    #[test]
    fn the_lightest_load_by_weight_is_chosen_and_equals_take_turns() {
        let mut list = targets(&[(1, 0, Healthy), (4, 0, Healthy), (1, 0, Healthy)]);
        for (loads, expected) in [
            ([0, 0, 0], [0, 1]),
            ([1, 3, 1], [1, 1]),
            ([1, 5, 2], [0, 0]),
            ([1, 4, 1], [0, 1]),
            ([2, 9, 1], [2, 2]),
        ] {
            for (candidate, load) in list.iter_mut().zip(loads) {
                candidate.load = load;
            }
            let chosen: Vec<_> = (0..100).filter_map(|turn| choose(&list, &[], Pick::Load(turn))).collect();
            for index in expected {
                assert!(chosen.contains(&index), "{loads:?}: {chosen:?}");
            }
            if expected[0] == expected[1] {
                assert!(chosen.iter().all(|index| *index == expected[0]), "{loads:?}: {chosen:?}");
            }
        }
    }

    #[test]
    fn keys_stay_with_their_target_and_a_target_that_goes_takes_only_its_own_along() {
        let mut list = targets(&[(1, 0, Healthy), (1, 0, Healthy), (2, 0, Healthy)]);
        let chosen = |list: &[Candidate]| -> Vec<Option<usize>> {
            let key = |number: u32| key_of(IpAddr::from(number.to_be_bytes()));
            (0..4000).map(|number| choose(list, &[], Pick::Key(key(number)))).collect()
        };
        let before = chosen(&list);
        assert_eq!(before, chosen(&list));
        for (index, share) in [(0, 1000), (1, 1000), (2, 2000)] {
            let count = before.iter().filter(|at| **at == Some(index)).count();
            assert!(count.abs_diff(share) < share / 5, "{count} of 4000 keys for target {index}");
        }
        list[1].standing = Unhealthy;
        for (before, after) in before.iter().zip(chosen(&list)) {
            assert!(*before == Some(1) || *before == after);
            assert_ne!(after, Some(1));
        }
    }

    #[test]
    fn what_every_version_of_every_node_draws_is_written_down() {
        for (address, key) in [("192.0.2.1", 0x123e_ee94_2ebc_1bf2), ("2001:db8::", 0xd1b3_627a_9fcf_9fe0)] {
            assert_eq!(key_of(address.parse().expect("an address")), key, "{address}");
        }
        for (number, expected) in
            [(u64::MAX, 1), (1 << 63, 1 << 32), (3 << 62, 1_782_572_487), (1, 64 << 32), (0, 64 << 32)]
        {
            assert_eq!(rarity(number), expected, "{number:#x}");
        }
        let list = targets(&[(1, 0, Healthy), (1, 0, Healthy), (2, 0, Healthy), (5, 0, Healthy)]);
        let chosen: Vec<_> = (0..24).filter_map(|key| choose(&list, &[], Pick::Key(key))).collect();
        assert_eq!(chosen, [3, 3, 3, 2, 3, 2, 2, 2, 2, 0, 3, 2, 3, 3, 2, 2, 2, 0, 2, 3, 2, 3, 0, 1]);
    }
}
