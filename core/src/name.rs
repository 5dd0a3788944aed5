//! Names that people choose: checked when they enter, so that nothing behind this door needs to doubt them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest [`Slug`].
pub const SLUG_MAX: usize = 32;
/// Longest host name in text form without the trailing dot (RFC 1035 §2.3.4).
pub const HOST_NAME_MAX: usize = 253;
/// Longest label of a host name (RFC 1035 §2.3.4).
pub const LABEL_MAX: usize = 63;
/// Longest free-text display name, in bytes.
pub const TITLE_MAX: usize = 128;

/// Why a name is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a {kind} cannot be empty")]
    Empty {
        /// What was to be named.
        kind: &'static str,
    },
    /// Longer than the limit.
    #[error("the {kind} {start:?}… has {length} characters; {limit} are allowed")]
    TooLong {
        /// What was to be named.
        kind: &'static str,
        /// How the name begins.
        start: String,
        /// Its length.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A character that has no place there.
    #[error("the {kind} {name:?} has a character that is not allowed; {rule}")]
    Character {
        /// What was to be named.
        kind: &'static str,
        /// The name.
        name: String,
        /// What is allowed.
        rule: &'static str,
    },
}

fn too_long(kind: &'static str, name: &str, limit: usize) -> NameError {
    NameError::TooLong { kind, start: name.chars().take(20).collect(), length: name.len(), limit }
}

/// A display name: any text without control characters, trimmed, at most [`TITLE_MAX`] bytes.
///
/// # Errors
/// Empty, too long, or with control characters.
pub fn check_title(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.trim().is_empty() {
        return Err(NameError::Empty { kind });
    }
    if text.len() > TITLE_MAX {
        return Err(too_long(kind, text, TITLE_MAX));
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Character {
            kind,
            name: text.escape_debug().to_string(),
            rule: "no control characters",
        });
    }
    Ok(())
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(s: String) -> Result<Self, NameError> {
                s.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    };
}

/// A short name for use in addresses and commands: 1 to 32 characters of `a-z`, `0-9` and `-`, not at the ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(Box<str>);

text_type!(Slug);

impl FromStr for Slug {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        const KIND: &str = "short name";
        if s.is_empty() {
            return Err(NameError::Empty { kind: KIND });
        }
        if s.len() > SLUG_MAX {
            return Err(too_long(KIND, s, SLUG_MAX));
        }
        let inner = s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !inner || s.starts_with('-') || s.ends_with('-') {
            return Err(NameError::Character {
                kind: KIND,
                name: s.escape_debug().to_string(),
                rule: "use a-z, 0-9 and inner hyphens",
            });
        }
        Ok(Self(s.into()))
    }
}

impl Slug {
    /// The nearest short name to a free text: `"My Home Lab!"` becomes `my-home-lab`. Empty if nothing is left.
    #[must_use]
    pub fn from_title(title: &str) -> Option<Self> {
        let mut out = String::new();
        for c in title.chars() {
            if c.is_ascii_alphanumeric() {
                out.push(c.to_ascii_lowercase());
            } else if !out.ends_with('-') && !out.is_empty() {
                out.push('-');
            }
        }
        out.truncate(SLUG_MAX);
        out.trim_end_matches('-').parse().ok()
    }
}

/// A DNS name in lower case without the trailing dot (RFC 1035 §2.3.1, RFC 2181 §11: `_` is let in for service
/// names). The first label may be `*`: a wildcard.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(Box<str>);

text_type!(HostName);

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(s: &str) -> Result<Self, NameError> {
        const KIND: &str = "host name";
        let s = s.strip_suffix('.').unwrap_or(s);
        if s.is_empty() {
            return Err(NameError::Empty { kind: KIND });
        }
        if s.len() > HOST_NAME_MAX {
            return Err(too_long(KIND, s, HOST_NAME_MAX));
        }
        for (position, label) in s.split('.').enumerate() {
            if label.len() > LABEL_MAX {
                return Err(too_long("label of a host name", label, LABEL_MAX));
            }
            let wildcard = position == 0 && label == "*";
            let plain = !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-');
            if !wildcard && !plain {
                return Err(NameError::Character {
                    kind: KIND,
                    name: s.escape_debug().to_string(),
                    rule: "labels are a-z, 0-9, _ and inner hyphens, separated by single dots; write other \
                           alphabets in their xn-- form",
                });
            }
        }
        Ok(Self(s.to_ascii_lowercase().into()))
    }
}

impl HostName {
    /// The name without its first label; none for a single label.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, rest)| Self(rest.into()))
    }

    /// `label` put in front.
    ///
    /// # Errors
    /// The result is not a host name (the label is bad, or the whole too long).
    pub fn child(&self, label: &str) -> Result<Self, NameError> {
        format!("{label}.{self}").parse()
    }

    /// The wildcard one level below this name, `*.name`.
    ///
    /// # Errors
    /// The whole becomes too long.
    pub fn wildcard(&self) -> Result<Self, NameError> {
        self.child("*")
    }

    /// Whether the first label is `*`.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Whether this name is `zone` or lies below it.
    #[must_use]
    pub fn is_within(&self, zone: &Self) -> bool {
        let (name, zone) = (self.as_str(), zone.as_str());
        name == zone || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether this name, a plain one or a wildcard, stands for `host`. A wildcard stands for exactly one label
    /// (RFC 6125 §6.4.3).
    #[must_use]
    pub fn covers(&self, host: &Self) -> bool {
        match self.0.strip_prefix("*.") {
            Some(base) => host.0.split_once('.').is_some_and(|(_, rest)| rest == base),
            None => self == host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(s: &str) -> HostName {
        s.parse().expect("a host name")
    }

    #[test]
    fn host_names_are_folded_and_lose_the_root_dot() {
        assert_eq!(host("App.Example.COM.").as_str(), "app.example.com");
    }

    #[test]
    fn bad_host_names_are_refused_with_the_reason() {
        for bad in ["", ".", "a..b", "-a.b", "a-.b", "a b", "b.*", "ä.de", "a.*.b", "a/b"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?} was taken");
        }
        assert!(matches!("a".repeat(64).parse::<HostName>(), Err(NameError::TooLong { limit: 63, .. })));
        assert!(matches!(
            vec!["a"; 200].join(".").parse::<HostName>(),
            Err(NameError::TooLong { limit: 253, .. })
        ));
    }

    #[test]
    fn a_wildcard_covers_exactly_one_label() {
        assert!(host("*.a.b").covers(&host("x.a.b")));
        assert!(!host("*.a.b").covers(&host("x.y.a.b")));
        assert!(!host("*.a.b").covers(&host("a.b")));
    }

    #[test]
    fn within_means_at_a_label_boundary() {
        assert!(host("x.a.b").is_within(&host("a.b")));
        assert!(host("a.b").is_within(&host("a.b")));
        assert!(!host("xa.b").is_within(&host("a.b")));
    }

    #[test]
    fn a_title_becomes_a_short_name() {
        assert_eq!(Slug::from_title("My Home  Lab!").expect("a slug").as_str(), "my-home-lab");
        assert_eq!(Slug::from_title("!!"), None);
    }
}
