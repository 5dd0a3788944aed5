//! Keys of which the next one is there already: those that sign zones, and those of accounts at issuers.
//!
//! A zone's key is exchanged by double signature (RFC 6781 §4.1.2, §4.1.3): both keys stand in the zone and sign everything,
//! until the parent has the next one's DS record and nobody keeps anything that only the former one vouches for.

use std::time::Duration;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{dns::ZoneKey, name::HostName, record::Sealed, time::Timestamp};

/// Seconds that resolvers are taken to keep a parent's DS records where it was never seen with any: as long as the
/// largest registries allow.
pub const PARENT_TTL: u32 = 86_400;
/// Longest that a parent's own word about it is believed, in seconds.
pub const PARENT_TTL_MAX: u32 = 7 * 86_400;

/// What the parent of a signed zone has, as one of the nodes has asked it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentFound {
    /// Each of its servers has a DS record of the zone's key.
    pub current: bool,
    /// Each of its servers has a DS record of the key that comes next.
    pub next: bool,
    /// One of its servers has a DS record, of whichever key.
    pub any: bool,
    /// Seconds that resolvers may keep the DS records; none where there are none.
    pub ttl: Option<u32>,
}

/// What the parent was found to have last, and since when it is known to have had that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentSeen {
    /// What it has.
    pub found: ParentFound,
    /// Since when, as far as anybody has asked.
    pub since: Timestamp,
    /// Seconds that resolvers may keep what it had before.
    pub keep: u32,
}

impl ParentSeen {
    /// What is known after the parent was asked once more.
    #[must_use]
    pub fn after(before: Option<&Self>, found: ParentFound, now: Timestamp) -> Self {
        let same =
            |a: &ParentFound, b: &ParentFound| (a.current, a.next, a.any) == (b.current, b.next, b.any);
        if let Some(known) = before.filter(|known| same(&known.found, &found)) {
            return Self { found, ..*known };
        }
        let ttls = [before.and_then(|known| known.found.ttl), found.ttl];
        let keep = ttls.into_iter().flatten().max().unwrap_or(PARENT_TTL).min(PARENT_TTL_MAX);
        Self { found, since: now, keep }
    }

    /// When nobody keeps any more what the parent had before.
    #[must_use]
    pub fn settled_at(&self) -> Timestamp {
        self.since + Duration::from_secs(self.keep.into())
    }
}

/// Which key stays when a rollover ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptKey {
    /// The next one: the rollover is finished.
    Next,
    /// The one there was: it is cancelled.
    Current,
}

/// What is known of keys that are being exchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollovers {
    /// The next keys of zones, by apex. They sign beside those that there are.
    pub zone_keys: OrdMap<HostName, ZoneKey>,
    /// What the parents of signed zones have, by apex.
    pub parents: OrdMap<HostName, ParentSeen>,
    /// The next keys of accounts, by the issuer's directory; PKCS #8. The issuer has not been asked to take them yet, or
    /// not answered.
    pub account_keys: OrdMap<String, Sealed>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_at_the_parent_is_waited_out_from_when_it_was_seen() {
        let found = |current, next, ttl| ParentFound { current, next, any: current || next, ttl };
        let at = |seconds: u64| Timestamp(seconds * 1000);
        let mut seen: Option<ParentSeen> = None;
        // when it was asked, what it had; when that is settled
        let cases = [
            (100, found(true, false, Some(600)), 700),
            (200, found(true, false, Some(500)), 700),
            // The former records may have been kept for as long as either said.
            (300, found(true, true, Some(60)), 300 + 500),
            (400, found(false, true, Some(60)), 400 + 60),
            (500, found(false, false, None), 500 + 60),
            (600, found(false, false, None), 500 + 60),
            (700, found(true, false, Some(u32::MAX)), 700 + u64::from(PARENT_TTL_MAX)),
        ];
        for (when, what, settled) in cases {
            let now = ParentSeen::after(seen.as_ref(), what, at(when));
            assert_eq!((now.found, now.settled_at()), (what, at(settled)), "{when}");
            seen = Some(now);
        }
        let never = ParentSeen::after(None, found(false, false, None), at(0));
        assert_eq!(never.settled_at(), at(PARENT_TTL.into()), "a parent that was never seen with any");
    }
}
