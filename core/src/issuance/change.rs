//! What happens to certificates, as facts in the log.

use serde::{Deserialize, Serialize};

use super::{Challenge, Issuer, Problem, Window};
use crate::{
    command::CertificateIssued,
    id::{CertificateId, Revision},
    name::{HostName, Slug},
    record::{Digest, Sealed},
    time::Timestamp,
};

/// See [`Body::Certificates`](crate::Body::Certificates). Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CertificatesChange {
    /// These are the issuers, in the order of preference: all of them at once, whatever there was before.
    IssuersSet(Vec<Issuer>),
    /// The key of an account was made; the issuer has not been asked yet.
    AccountKeyMade {
        /// The issuer's directory.
        directory: String,
        /// PKCS #8 private key.
        key: Sealed,
    },
    /// The issuer has registered the account.
    AccountRegistered {
        /// The issuer's directory.
        directory: String,
        /// Address of the account.
        url: String,
        /// Names of the authority in CAA records.
        caa: Vec<String>,
    },
    /// The issuer does not know the account any more.
    AccountLost {
        /// The issuer's directory.
        directory: String,
        /// Address that the account had.
        url: String,
    },
    /// A certificate is to be got.
    OrderPlanned {
        /// Its names.
        names: Vec<HostName>,
        /// The generation that it becomes.
        generation: u64,
        /// The issuer's directory.
        directory: String,
        /// The issuer is to be told which certificate this one replaces.
        replaces: bool,
    },
    /// An order goes on.
    OrderMoved {
        /// The certificate.
        id: CertificateId,
        /// The generation that it becomes.
        generation: u64,
        /// The attempt.
        attempt: Revision,
        /// How.
        step: OrderStep,
    },
    /// An operator wants a new certificate now.
    RenewalWanted(CertificateId),
    /// The issuer has said when it wants a certificate renewed; none = it says nothing any more.
    WindowLearned {
        /// The certificate.
        id: CertificateId,
        /// The generation in force.
        generation: u64,
        /// When.
        window: Option<Window>,
    },
    /// An operator brought a certificate.
    Imported(CertificateIssued),
    /// An operator wants the certificate in force to be declared void, and a new one.
    RevocationWanted {
        /// The certificate.
        id: CertificateId,
        /// Why, by number (RFC 5280 §5.3.1).
        reason: u8,
    },
    /// The issuer has declared a certificate void.
    Revoked {
        /// The certificate.
        id: CertificateId,
        /// Its generation.
        generation: u64,
    },
    /// An issuer is added, or changed in its place.
    IssuerSet {
        /// The issuer.
        issuer: Box<Issuer>,
        /// It is used before all others; otherwise a new one comes last.
        first: bool,
        /// What it was when this was decided ([`Issuer::digest`]); none = it was not there. Refused if it has changed.
        before: Option<Digest>,
    },
    /// An issuer is gone.
    IssuerRemoved(Slug),
    /// An operator wants another key for the account at an issuer: it is made, and the issuer is to take it.
    NextAccountKeyMade {
        /// The issuer's directory.
        directory: String,
        /// PKCS #8 private key.
        key: Sealed,
    },
    /// The issuer has taken the next key of the account (RFC 8555 §7.3.5): the former one is worthless.
    AccountKeyChanged {
        /// The issuer's directory.
        directory: String,
    },
    /// The issuer refuses the next key of the account: the one there was stays.
    AccountKeyKept {
        /// The issuer's directory.
        directory: String,
    },
}

/// How an order goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderStep {
    /// The certificate's key is made.
    KeyReady {
        /// PKCS #8 private key.
        key: Sealed,
        /// The signing request, DER.
        csr: Vec<u8>,
    },
    /// The issuer has taken it.
    Ordered {
        /// Its address.
        url: String,
        /// When the issuer forgets it.
        expires: Option<Timestamp>,
        /// The issuer took note of the certificate that this one replaces.
        replaces: bool,
    },
    /// DNS is to answer these.
    TxtPublished(Vec<Challenge>),
    /// All name servers answer them: the issuer is told to look.
    Triggered,
    /// The issuer is satisfied: it is told to issue.
    Finalizing,
    /// The certificate is here, and is what was asked for.
    Issued {
        /// Chain, leaf first, DER.
        chain: Vec<Vec<u8>>,
        /// Start of validity.
        not_before: Timestamp,
        /// End of validity.
        not_after: Timestamp,
    },
    /// Something went wrong.
    Failed {
        /// What.
        problem: Problem,
        /// Nothing is tried for this certificate before.
        again_at: Timestamp,
        /// The issuer is left alone until then, for all certificates.
        hold_until: Option<Timestamp>,
        /// The order is given up; otherwise it goes on from where it is.
        give_up: bool,
        /// Nothing is tried until an operator changes something.
        park: bool,
    },
}
