//! Identifiers: every kind of id is a type of its own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! numeric_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    )*};
}

numeric_id! {
    /// A host in the group: the log index of the entry that admitted it, hence never reused. The first node,
    /// admitted by `init` itself, is 1.
    NodeId;
    /// A private network.
    SiteId;
    /// A person who may sign in.
    UserId;
    /// A named set of grants within an organisation.
    RoleId;
    /// A DNS domain under which resources are published.
    DomainId;
    /// What people reach by name.
    ResourceId;
    /// An address behind a site.
    TargetId;
    /// A certificate together with its private key.
    CertificateId;
    /// Fence number of a site's placement: it grows with every move.
    Epoch;
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A place in the history of the cluster: the log index within one lineage. A lineage begins with `init` and is
/// bumped by a forced recovery, so that a revision of an abandoned history always sorts before the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision {
    /// Number of the history.
    pub lineage: u64,
    /// Log index within it.
    pub index: u64,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.lineage, self.index)
    }
}

/// The text is not `LINEAGE.INDEX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a revision is written LINEAGE.INDEX, for example 1.912")]
pub struct RevisionError;

impl FromStr for Revision {
    type Err = RevisionError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (lineage, index) = s.split_once('.').ok_or(RevisionError)?;
        Ok(Self {
            lineage: lineage.parse().map_err(|_| RevisionError)?,
            index: index.parse().map_err(|_| RevisionError)?,
        })
    }
}

macro_rules! hex_id {
    ($($(#[$doc:meta])* $name:ident($len:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = hex::FromHexError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(s, &mut bytes)?;
                Ok(Self(bytes))
            }
        }
    )*};
}

hex_id! {
    /// A cluster, from `init` to the end of its days.
    ClusterId(16);
    /// The public half of a join token.
    TokenId(8);
    /// Whoever sends requests: one run of a program, or one request id of the REST API.
    ClientId(16);
}

/// Names one request for ever, so that a repeat is answered from the state and not done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Who asks.
    pub client: ClientId,
    /// The client's own count.
    pub serial: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.client, self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_survives_its_text_form() {
        let revision = Revision { lineage: 2, index: 912 };
        assert_eq!(revision.to_string().parse(), Ok(revision));
        assert_eq!("912".parse::<Revision>(), Err(RevisionError));
    }

    #[test]
    fn a_later_lineage_sorts_after_every_index_of_an_earlier_one() {
        assert!(Revision { lineage: 2, index: 1 } > Revision { lineage: 1, index: 9_999 });
    }
}
