//! When something is tried again, and when a certificate is renewed within its window: the same for every leader,
//! different for every certificate.

use std::time::Duration;

use sha2::Digest as _;

use crate::{id::CertificateId, time::Timestamp};

const MINUTE: Duration = Duration::from_secs(60);

/// After which time an attempt that failed is repeated: the first, the second … and all further ones
/// (letsencrypt.org/docs/integration-guide).
pub const RETRY_PLAN: [Duration; 4] =
    [MINUTE, Duration::from_secs(600), Duration::from_secs(6000), Duration::from_secs(86_400)];
/// An issuer that wants to be left alone for longer than this is asked again all the same.
pub const ASKED_MAX: Duration = Duration::from_secs(7 * 86_400);

/// A number that follows from these, evenly spread below `limit`; 0 where there is no room.
fn spread(id: CertificateId, what: &[u64], limit: u64) -> u64 {
    let mut hash = sha2::Sha256::new();
    hash.update(id.0.to_le_bytes());
    for number in what {
        hash.update(number.to_le_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let drawn = digest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    // The high half of the product: as even as the hash.
    u64::try_from((u128::from(drawn) * u128::from(limit)) >> 64).unwrap_or(0)
}

/// When an attempt is repeated of which `failures` in a row have failed, the last one at `now`: by the plan, a fifth
/// earlier or later, and not before the issuer wants to be asked.
#[must_use]
pub fn retry_at(id: CertificateId, failures: u32, now: Timestamp, asked: Option<Timestamp>) -> Timestamp {
    let position = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let planned = RETRY_PLAN[position.min(RETRY_PLAN.len() - 1)];
    let millis = u64::try_from(planned.as_millis()).unwrap_or(u64::MAX);
    let fifth = millis / 5;
    let planned =
        now + Duration::from_millis(millis - fifth + spread(id, &[u64::from(failures), now.0], 2 * fifth));
    let asked = asked.map(|asked| asked.min(now + ASKED_MAX));
    planned.max(asked.unwrap_or_default())
}

/// A moment within a window, drawn for this generation of a certificate (RFC 9773 §4.2).
#[must_use]
pub fn select(id: CertificateId, generation: u64, start: Timestamp, end: Timestamp) -> Timestamp {
    let width = end.0.saturating_sub(start.0);
    Timestamp(start.0.saturating_add(spread(id, &[generation, start.0, end.0], width)))
}

/// How much earlier than at its latest moment a certificate is renewed: up to `room`.
pub(super) fn earlier(id: CertificateId, generation: u64, room: Duration) -> Duration {
    let room = u64::try_from(room.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(spread(id, &[generation], room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_after_a_minute_ten_a_hundred_and_then_daily_give_or_take_a_fifth() {
        let now = Timestamp(1_000_000);
        // failures, what the issuer asks for, earliest, latest; in seconds from now
        let cases = [
            (1, None, 48, 72),
            (2, None, 480, 720),
            (3, None, 4800, 7200),
            (4, None, 69_120, 103_680),
            (400, None, 69_120, 103_680),
            (0, None, 48, 72),
            (1, Some(3600), 3600, 3600),
            (1, Some(10), 48, 72),
            (1, Some(400 * 86_400), 7 * 86_400, 7 * 86_400),
        ];
        for (failures, asked, earliest, latest) in cases {
            let asked = asked.map(|seconds| now + Duration::from_secs(seconds));
            for id in 1..20 {
                let at = retry_at(CertificateId(id), failures, now, asked).since(now).as_millis();
                assert!((earliest * 1000..=latest * 1000).contains(&at), "{failures} {asked:?}: {at}");
            }
        }
        let at = |id| retry_at(CertificateId(id), 1, now, None);
        assert_eq!(at(1), at(1), "every leader says the same");
        assert_ne!(at(1), at(2), "not all certificates at once");
    }

    #[test]
    fn the_moment_of_a_renewal_lies_in_its_window_and_stays() {
        let (start, end) = (Timestamp(1000), Timestamp(9000));
        let drawn: Vec<u64> = (1..100).map(|id| select(CertificateId(id), 1, start, end).0).collect();
        assert!(drawn.iter().all(|at| (1000..9000).contains(at)));
        assert!(drawn.iter().any(|at| *at < 3000) && drawn.iter().any(|at| *at > 7000), "{drawn:?}");
        assert_eq!(select(CertificateId(5), 1, start, end).0, drawn[4]);
        assert_eq!(select(CertificateId(5), 1, end, start), end, "a window that ends before it begins");
    }
}
