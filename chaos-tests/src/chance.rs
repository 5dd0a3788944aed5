//! Chance that can be repeated: numbers that follow from a seed alone.

use std::time::Duration;

/// A generator of numbers that look random (SplitMix64: Steele, Lea, Flood, *Fast Splittable Pseudorandom Number
/// Generators*, 2014). Good enough to choose faults by; nothing secret is made of it.
#[derive(Clone, Debug)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The same numbers for the same seed, on every machine and in every version.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = end.max(1) as u64;
        usize::try_from(self.number() % end).unwrap_or(0)
    }

    /// A number from 0 up to, but not including, 1.
    pub fn share(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let bits = (self.number() >> 11) as f64;
        bits / (1u64 << 53) as f64
    }

    /// Whether something happens that happens in this share of the cases.
    pub fn happens(&mut self, share: f64) -> bool {
        self.share() < share
    }

    /// A time between half of this and one and a half times this.
    pub fn about(&mut self, time: Duration) -> Duration {
        time.mul_f64(0.5 + self.share())
    }

    /// One of them; none of nothing.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// Puts them into some order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_numbers() {
        let mut chance = Chance::new(0);
        // The reference implementation's first numbers for seed 0.
        assert_eq!(chance.number(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(chance.number(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn everything_stays_within_its_bounds() {
        let mut chance = Chance::new(3);
        let ten = Duration::from_secs(10);
        for _ in 0..1000 {
            assert!(chance.below(3) < 3 && (0.0..1.0).contains(&chance.share()));
            assert!((ten / 2..ten * 3 / 2).contains(&chance.about(ten)));
        }
        assert_eq!((chance.below(0), chance.one_of::<u8>(&[])), (0, None));
        let mut order = [1, 2, 3, 4, 5];
        chance.shuffle(&mut order);
        order.sort_unstable();
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }
}
