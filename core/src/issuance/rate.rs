//! How much is asked of an issuer: less than what it would refuse.
//!
//! Token buckets in their one-number form (GCRA): of each it is known until when it is used up if nothing more is taken.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{id::CertificateId, name::HostName, time::Timestamp};

/// Most buckets that are remembered before those that are full again are forgotten.
const BUCKETS_MAX: usize = 4096;
const HOUR_MS: u64 = 3_600_000;

/// So many at once, and one more each time that an interval has gone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// How many at once, after a rest.
    pub burst: u32,
    /// Milliseconds after which there is one more.
    pub every_ms: u64,
}

/// The rates of an issuer; none = without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Orders of the account.
    pub orders: Option<Rate>,
    /// Orders for names of one zone.
    pub zone: Option<Rate>,
    /// Orders for the very same names.
    pub set: Option<Rate>,
    /// Proofs of one name that failed.
    pub failures: Option<Rate>,
}

impl Rates {
    /// Let's Encrypt's production environment (letsencrypt.org/docs/rate-limits, 2026): 300 orders in 3 hours, 50
    /// certificates of a domain in 7 days, 5 of the same names in 7 days, 5 failures of a name in an hour.
    pub const LETS_ENCRYPT: Self = Self {
        orders: Some(Rate { burst: 300, every_ms: 36_000 }),
        zone: Some(Rate { burst: 50, every_ms: 202 * 60_000 }),
        set: Some(Rate { burst: 5, every_ms: 34 * HOUR_MS }),
        failures: Some(Rate { burst: 5, every_ms: 12 * 60_000 }),
    };
    /// Let's Encrypt's staging environment: 1500 orders in 3 hours, 200 failures in an hour.
    pub const LETS_ENCRYPT_STAGING: Self = Self {
        orders: Some(Rate { burst: 1500, every_ms: 7_200 }),
        zone: None,
        set: None,
        failures: Some(Rate { burst: 200, every_ms: 18_000 }),
    };

    fn of(&self, bucket: &Bucket) -> Option<Rate> {
        match bucket {
            Bucket::Orders => self.orders,
            Bucket::Zone(_) => self.zone,
            Bucket::Set(_) => self.set,
            Bucket::Failures(_) => self.failures,
        }
    }
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Bucket {
    /// Orders of the account.
    Orders,
    /// Orders for names of a zone.
    Zone(HostName),
    /// Orders for the names of a certificate.
    Set(CertificateId),
    /// Failed proofs of a name.
    Failures(HostName),
}

type Spent = OrdMap<(String, Bucket), Timestamp>;

/// When one more may be taken; none = now.
pub(crate) fn free_at(
    spent: &Spent,
    rates: &Rates,
    directory: &str,
    bucket: &Bucket,
    now: Timestamp,
) -> Option<Timestamp> {
    let rate = rates.of(bucket)?;
    let until = *spent.get(&(directory.to_owned(), bucket.clone()))?;
    let room = rate.every_ms.saturating_mul(u64::from(rate.burst.saturating_sub(1)));
    let at = Timestamp(until.0.saturating_sub(room));
    (at > now).then_some(at)
}

/// Takes one.
pub(crate) fn take(spent: &mut Spent, rates: &Rates, directory: &str, bucket: Bucket, now: Timestamp) {
    let Some(rate) = rates.of(&bucket) else { return };
    if spent.len() >= BUCKETS_MAX {
        let live = spent.iter().filter(|(_, until)| **until > now);
        *spent = live.map(|(key, until)| (key.clone(), *until)).collect();
    }
    let until = spent.entry((directory.to_owned(), bucket)).or_default();
    *until = Timestamp((*until).max(now).0.saturating_add(rate.every_ms));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_one_for_each_interval() {
        let rates = Rates { set: Some(Rate { burst: 3, every_ms: 100 }), ..Rates::default() };
        let (mut spent, bucket) = (Spent::default(), Bucket::Set(CertificateId(1)));
        let mut at = |now: u64| {
            let free = free_at(&spent, &rates, "d", &bucket, Timestamp(now)).map(|at| at.0);
            if free.is_none() {
                take(&mut spent, &rates, "d", bucket.clone(), Timestamp(now));
            }
            free
        };
        // now -> when there is one more; none = taken
        let cases = [
            (1000, None),
            (1000, None),
            (1001, None),
            (1001, Some(1100)),
            (1099, Some(1100)),
            (1100, None),
            (1100, Some(1200)),
            (5000, None),
        ];
        for (now, free) in cases {
            assert_eq!(at(now), free, "{now}");
        }
    }

    #[test]
    fn what_has_no_rate_is_not_counted_and_others_are_counted_apart() {
        let mut spent = Spent::default();
        take(&mut spent, &Rates::default(), "d", Bucket::Orders, Timestamp(0));
        assert!(spent.is_empty());
        let rates = Rates { orders: Some(Rate { burst: 1, every_ms: 100 }), ..Rates::default() };
        take(&mut spent, &rates, "d", Bucket::Orders, Timestamp(0));
        let free = |directory: &str| free_at(&spent, &rates, directory, &Bucket::Orders, Timestamp(50));
        assert_eq!((free("d"), free("other")), (Some(Timestamp(100)), None));
    }
}
