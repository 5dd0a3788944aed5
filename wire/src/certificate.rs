//! Certificates, and the issuers that they come from.

use std::fmt;

use pangolin_core::{CertificateId, HostName, Slug, issuance::Phase, issuance::StandingKind};
use serde::{Deserialize, Serialize};

use crate::{Moment, Pagination};

/// A certificate, or one that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Its id; none as long as nothing was done for it.
    pub certificate_id: Option<CertificateId>,
    /// The names that it is good for.
    pub names: Vec<HostName>,
    /// How it stands, in a word.
    pub state: StandingKind,
    /// How it stands, in a sentence: whatever is not well has its reason here.
    pub reason: String,
    /// Who issued it: `internal`, `imported`, or the issuer's name; none as long as there is none.
    pub issuer: Option<String>,
    /// Counts renewals.
    pub generation: Option<u64>,
    /// Start of validity.
    pub not_before: Option<Moment>,
    /// End of validity.
    pub not_after: Option<Moment>,
    /// When it is to be renewed, if nothing is changed.
    pub renew_at: Option<Moment>,
    /// How far the order for the next generation is.
    pub order: Option<OrderStatus>,
    /// Attempts in a row that failed.
    pub failures: u32,
    /// Orders that the issuer took and that were given up.
    pub surplus_orders: u32,
}

/// How far an order is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderStatus {
    /// The issuer's name.
    pub issuer: String,
    /// The generation that it becomes.
    pub generation: u64,
    /// How far it is.
    pub phase: Phase,
    /// Since when.
    pub since: Moment,
    /// Its address at the issuer.
    pub url: Option<String>,
}

/// Answer of `GET /certificates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateList {
    /// The certificates, by their names.
    pub certificates: Vec<Certificate>,
    /// Which part of them.
    pub pagination: Pagination,
}

/// Request of `PUT /certificate`: a certificate of the operator's own. Does not print its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportCertificate {
    /// The chain, leaf first, PEM.
    pub chain: String,
    /// The private key, PKCS #8 in PEM, not encrypted.
    pub key: String,
}

impl fmt::Debug for ImportCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportCertificate").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// Request of `POST /certificate/{certificateId}/revoke`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevokeCertificate {
    /// Why, by number (RFC 5280 §5.3.1): 0 unspecified, 1 key compromise, 3 affiliation changed, 4 superseded, 5
    /// cessation of operation.
    #[serde(default)]
    pub reason: u8,
}

/// A public issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateIssuer {
    /// What operators call it.
    pub name: Slug,
    /// Address of its ACME directory.
    pub directory: String,
    /// Number of certificates that are trusted for its HTTPS besides the system's.
    pub roots: usize,
    /// Where it writes to.
    pub contacts: Vec<String>,
    /// Profile of its certificates.
    pub profile: Option<String>,
    /// The external account that the cluster's account is bound to.
    pub external_account: Option<String>,
    /// Its names in CAA records, where they are given and not those that it tells.
    pub caa: Vec<String>,
    /// The cluster's account there; none as long as it is not registered.
    pub account: Option<String>,
    /// Until when it is left alone.
    pub held_until: Option<Moment>,
    /// What it said.
    pub held_because: Option<String>,
    /// Another key for the account is made, and the issuer is to take it.
    pub key_exchange: bool,
}

/// Answer of `GET /certificate-issuers`, in the order in which they are used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerList {
    /// The issuers; none = the internal issuer makes all certificates.
    pub issuers: Vec<CertificateIssuer>,
    /// Which part of them.
    pub pagination: Pagination,
}

/// How much is asked of an issuer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IssuerRates {
    /// As much as there is to ask.
    #[default]
    Unlimited,
    /// Below the limits of Let's Encrypt.
    Letsencrypt,
    /// Below those of its staging environment.
    LetsencryptStaging,
}

/// Request of `PUT /certificate-issuer`: makes or replaces an issuer. Does not print the key in it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetIssuer {
    /// What operators call it.
    pub name: Slug,
    /// Address of its ACME directory, https.
    pub directory: String,
    /// Certificates to trust for its HTTPS besides the system's, PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots: Option<String>,
    /// Where it writes to: e-mail addresses.
    #[serde(default)]
    pub contacts: Vec<String>,
    /// Profile of its certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Name of the external account to bind the cluster's account to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account: Option<String>,
    /// Its key, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_key: Option<String>,
    /// Its names in CAA records; none = those that it tells.
    #[serde(default)]
    pub caa: Vec<String>,
    /// How much is asked of it.
    #[serde(default)]
    pub rates: IssuerRates,
    /// It is used before all others; otherwise a new one comes last, and falls in for the others.
    #[serde(default)]
    pub first: bool,
}

impl fmt::Debug for SetIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, directory, external_account, rates, .. } = self;
        f.debug_struct("SetIssuer")
            .field("name", name)
            .field("directory", directory)
            .field("external_account", external_account)
            .field("rates", rates)
            .finish_non_exhaustive()
    }
}
