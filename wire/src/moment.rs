//! Points in time as they travel: RFC 3339, UTC, milliseconds.

use std::{fmt, str::FromStr};

use pangolin_core::Timestamp;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A point in time, written like `2026-11-21T06:49:05.123Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(pub Timestamp);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write it like 2026-11-21T06:49:05Z")]
pub struct MomentError(String);

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(s: &str) -> Result<Self, MomentError> {
        let error = || MomentError(s.chars().take(40).collect());
        let time = OffsetDateTime::parse(s, &Rfc3339).map_err(|_| error())?;
        let millis = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| error())?;
        Ok(Self(Timestamp(millis)))
    }
}

impl TryFrom<String> for Moment {
    type Error = MomentError;

    fn try_from(s: String) -> Result<Self, MomentError> {
        s.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        moment.to_string()
    }
}

impl From<Timestamp> for Moment {
    fn from(at: Timestamp) -> Self {
        Self(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_its_text_form() {
        let moment = Moment(Timestamp(1_795_243_745_123));
        assert_eq!(moment.to_string(), "2026-11-21T06:49:05.123Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for bad in ["", "yesterday", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z"] {
            assert!(bad.parse::<Moment>().is_err(), "{bad:?} was taken");
        }
        assert_eq!(Moment(Timestamp(u64::MAX)).to_string(), "9999-12-31T23:59:59.999Z");
    }
}
