//! What keeps a record set from being served as planned.

use std::fmt;

/// Why a record set is not served as planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// No values.
    Empty,
    /// Values of several kinds.
    Kind,
    /// More than one CNAME.
    Aliases,
    /// More than a message carries.
    Size,
    /// A value that DNS cannot express.
    Encoding(String),
    /// Other data beside a CNAME.
    BesideAlias,
    /// A CNAME at the apex, beside SOA and NS.
    ApexAlias,
    /// A delegation of a wildcard.
    WildcardDelegation,
    /// An owner outside its zone.
    Outside,
}

impl Defect {
    /// As an encoder says it.
    pub(crate) fn encoding(error: impl fmt::Display) -> Self {
        Self::Encoding(error.to_string())
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it has no values; answered with SERVFAIL"),
            Self::Kind => f.write_str("it has values of another type; answered with SERVFAIL"),
            Self::Aliases => f.write_str("a name has one alias at most; answered with SERVFAIL"),
            Self::Size => f.write_str("it is larger than a DNS message; answered with SERVFAIL"),
            Self::Encoding(why) => write!(f, "a value has no DNS form ({why}); answered with SERVFAIL"),
            Self::BesideAlias => {
                f.write_str("a CNAME stands there, which allows nothing beside it; left out")
            }
            Self::ApexAlias => f.write_str("a CNAME cannot stand at the apex of a zone; left out"),
            Self::WildcardDelegation => f.write_str("a wildcard cannot be delegated; left out"),
            Self::Outside => f.write_str("its name lies outside the zone; left out"),
        }
    }
}
