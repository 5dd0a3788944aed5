//! Waits that differ from connector to connector, so that many that have seen the same do not act in step. Pure: a
//! connector with the same key always waits as long.

use std::time::Duration;

use pangolin_core::record::TunnelKey;

/// The part of `span` that the connector with this key waits; `what` for, so that it is not early everywhere.
#[must_use]
pub fn spread(key: TunnelKey, what: &str, span: Duration) -> Duration {
    // FNV-1a, whose upper bits are mixed once more: the keys are random, the names of the waits are not.
    let bytes = key.0.iter().copied().chain(what.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let part = f64::from((mixed >> 32) as u32) / f64::from(u32::MAX);
    span.mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(8);

    fn key(number: u8) -> TunnelKey {
        let mut key = [7; 32];
        key[0] = number;
        TunnelKey(key)
    }

    #[test]
    fn many_connectors_are_spread_over_the_whole_span() {
        for what in ["stand-in", "control socket"] {
            let mut eighths = [0; 8];
            for number in 0..=255 {
                let wait = spread(key(number), what, SPAN);
                assert!(wait <= SPAN);
                eighths[usize::try_from(wait.as_secs().min(7)).unwrap()] += 1;
            }
            assert!(eighths.iter().all(|count| (8..=64).contains(count)), "{what}: {eighths:?}");
        }
    }

    #[test]
    fn a_connector_always_waits_as_long_but_not_for_everything() {
        assert_eq!(spread(key(1), "a", SPAN), spread(key(1), "a", SPAN));
        assert_ne!(spread(key(1), "a", SPAN), spread(key(1), "b", SPAN));
        assert_eq!(spread(key(1), "a", Duration::ZERO), Duration::ZERO);
    }
}
