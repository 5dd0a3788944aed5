//! Certificates of public authorities: what is configured, what is known, and how far each order is.
//!
//! An *issuer* is an authority that is spoken to by ACME (RFC 8555); without one, the cluster's internal issuer makes
//! the certificates. What the cluster does for a certificate is an *upkeep*; while one is being got, it has an *order*.
//! Every step of an order is in the log before its effect outside, so that any leader can go on where another ended.

mod change;
mod next;
mod rate;
mod retry;
mod standing;
mod turns;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::{
    codec,
    id::{CertificateId, Revision},
    name::{HostName, Slug},
    record::{Digest, Sealed},
    time::Timestamp,
};

pub use change::{CertificatesChange, OrderStep};
pub use next::{Step, Task, account_keys_due, next_wake, renew_at, tasks};
pub(crate) use next::{buckets, proved_name};
pub(crate) use rate::take;
pub use rate::{Bucket, Rate, Rates};
pub use retry::{ASKED_MAX, RETRY_PLAN, retry_at, select};
pub use standing::{Standing, StandingKind, standing};
pub use turns::{again_at, chosen_issuer, may_give_up};

/// Most issuers: one to use, one to fall back to, and their test environments.
pub const ISSUERS_MAX: usize = 8;
/// Longest address of an issuer's resource, in bytes.
pub const URL_MAX: usize = 2048;
/// Longest description of a problem that is kept, in bytes: an issuer chose its length.
pub const DETAIL_MAX: usize = 512;

/// A public authority, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// What operators call it.
    pub name: Slug,
    /// Address of its directory (RFC 8555 §7.1.1), https. An authority has one for each of its environments. What stands
    /// behind a `#` is not asked for: it tells accounts at one directory apart.
    pub directory: String,
    /// Certificates to trust for its HTTPS besides the system's, DER.
    pub roots: Vec<Vec<u8>>,
    /// Where it writes to, as `mailto:` addresses.
    pub contacts: Vec<String>,
    /// Profile of its certificates (draft-ietf-acme-profiles); none = its default.
    pub profile: Option<String>,
    /// The account at the authority that the ACME account is bound to (RFC 8555 §7.3.4).
    pub external: Option<ExternalAccount>,
    /// Names of the authority in CAA records (RFC 8659); empty = those that its directory tells.
    pub caa: Vec<String>,
    /// How much is asked of it.
    pub rates: Rates,
}

impl Issuer {
    /// Tells one version of an issuer from another: SHA-256 of its encoded form.
    #[must_use]
    pub fn digest(&self) -> Digest {
        use sha2::Digest as _;
        // What was decoded, or checked, has an encoding.
        let bytes = codec::encode(self).unwrap_or_default();
        Digest(sha2::Sha256::digest(bytes).into())
    }
}

/// An account that an authority gave by other means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAccount {
    /// Its name.
    pub key_id: String,
    /// The key that proves it.
    pub key: Sealed,
}

/// The cluster's account at a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// PKCS #8 private key.
    pub key: Sealed,
    /// Address of the account; none until the issuer has registered it, and after it has forgotten it.
    pub url: Option<String>,
    /// Names of the authority in CAA records.
    pub caa: Vec<String>,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is decided; nothing has been asked of the issuer.
    Planned,
    /// The certificate's key is in the log: any leader can finish with it.
    KeyReady,
    /// The issuer has taken the order.
    Ordered,
    /// What proves control of the names is to be answered by DNS.
    TxtPublished,
    /// The issuer is told to look, or may be.
    Triggered,
    /// The issuer is told to issue, or may be. No other order of this generation ever is.
    Finalizing,
}

impl Phase {
    /// In words, to go behind "the order is".
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::KeyReady => "ready to be placed: its key is made",
            Self::Ordered => "placed",
            Self::TxtPublished => "waiting for every name server to show its TXT records",
            Self::Triggered => "being validated by the issuer",
            Self::Finalizing => "being issued",
        }
    }
}

/// One name's proof.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Challenge {
    /// The name that is proved, without a wildcard's first label.
    pub name: HostName,
    /// The issuer's authorization.
    pub authorization: String,
    /// The challenge in it.
    pub url: String,
    /// What the TXT record at `_acme-challenge.NAME` says (RFC 8555 §8.4).
    pub value: String,
}

/// A certificate that is being got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Where it was planned: tells this attempt from all others.
    pub attempt: Revision,
    /// The issuer's directory.
    pub directory: String,
    /// When it was planned.
    pub since: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// The issuer is told which certificate this one replaces (RFC 9773 §5).
    pub replaces: bool,
    /// The certificate's private key, PKCS #8.
    pub key: Option<Sealed>,
    /// The signing request, DER.
    pub csr: Vec<u8>,
    /// Its address at the issuer.
    pub url: Option<String>,
    /// When the issuer forgets it.
    pub expires: Option<Timestamp>,
    /// The proofs that the issuer asked for; none for names that it takes as proved.
    pub challenges: Vec<Challenge>,
}

/// Kinds of what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The issuer is not reached, does not answer in time, or has a fault of its own.
    Unreachable,
    /// The issuer wants to be asked less.
    RateLimited,
    /// The issuer has looked, and did not find the proof.
    Unproved,
    /// The issuer will not do it until something is changed.
    Refused,
    /// The issuer does not know the account or the order any more.
    Forgotten,
    /// Not every name server showed the proof in time: the issuer was not told to look.
    NotPublished,
    /// What the issuer sent is not the certificate that was asked for.
    Unusable,
    /// Anything else.
    Other,
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Of what kind.
    pub kind: ProblemKind,
    /// In words; the issuer's own where it said something.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

/// When an issuer wants a certificate renewed (RFC 9773).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From when.
    pub start: Timestamp,
    /// Until when.
    pub end: Timestamp,
    /// The moment in it that was drawn: kept, so that leaders agree.
    pub selected: Timestamp,
    /// Where the issuer says why.
    pub explanation: Option<String>,
}

/// What the cluster does for one certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upkeep {
    /// The certificate's id, also before there is one.
    pub id: CertificateId,
    /// Its names, sorted.
    pub names: Vec<HostName>,
    /// The generation that is got now, or next. It skips the numbers of orders that were finalised for nothing.
    pub generation: u64,
    /// The order under way.
    pub order: Option<Order>,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Nothing is tried before.
    pub not_before: Timestamp,
    /// What went wrong last; none once a certificate was issued.
    pub problem: Option<Problem>,
    /// Nothing is tried until an operator changes something.
    pub parked: bool,
    /// An operator wants a new certificate now.
    pub wanted: bool,
    /// When the issuer wants it renewed.
    pub window: Option<Window>,
    /// Orders that the issuer took and that were given up.
    pub surplus: u32,
}

/// Where the certificate in force comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// An operator brought it.
    Imported,
    /// The issuer with this directory.
    Issuer(String),
}

/// An issuer that is left alone for a while, as it asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Until when.
    pub until: Timestamp,
    /// What it said.
    pub detail: String,
}

/// A certificate that its issuer is to declare void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The issuer's directory.
    pub directory: String,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Why, by number (RFC 5280 §5.3.1).
    pub reason: u8,
}

/// All that is known of public certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuance {
    /// The issuers, in the order of preference; none = the internal issuer makes all certificates.
    pub issuers: Vec<Issuer>,
    /// Accounts by directory. They outlive their issuer's configuration: certificates may have to be revoked.
    pub accounts: OrdMap<String, Account>,
    /// Upkeeps.
    pub upkeeps: OrdMap<CertificateId, Upkeep>,
    /// Where certificates come from that the internal issuer did not make.
    pub sources: OrdMap<CertificateId, Source>,
    /// Directories that are left alone.
    pub held: OrdMap<String, Hold>,
    /// What was asked of each directory of late.
    pub spent: OrdMap<(String, Bucket), Timestamp>,
    /// Revocations that are to be brought about, by certificate and generation.
    pub revocations: OrdMap<(CertificateId, u64), Revocation>,
}

impl Issuance {
    /// The issuer with this directory, if it is configured.
    #[must_use]
    pub fn issuer(&self, directory: &str) -> Option<&Issuer> {
        self.issuers.iter().find(|issuer| issuer.directory == directory)
    }

    /// What operators call the issuer with this directory.
    #[must_use]
    pub fn name_of<'a>(&'a self, directory: &'a str) -> &'a str {
        self.issuer(directory).map_or(directory, |issuer| issuer.name.as_str())
    }

    /// The upkeep of the certificate for exactly these names, which are sorted.
    #[must_use]
    pub fn upkeep_of(&self, names: &[HostName]) -> Option<&Upkeep> {
        self.upkeeps.values().find(|upkeep| upkeep.names == names)
    }
}

impl Upkeep {
    /// One that has done nothing yet.
    #[must_use]
    pub fn new(id: CertificateId, names: Vec<HostName>, generation: u64) -> Self {
        Self {
            id,
            names,
            generation,
            order: None,
            failures: 0,
            not_before: Timestamp::default(),
            problem: None,
            parked: false,
            wanted: false,
            window: None,
            surplus: 0,
        }
    }
}
