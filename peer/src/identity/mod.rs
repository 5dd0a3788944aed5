//! Who a node is: keys, certificates, the cluster's authority, and the keyring that seals secrets.
//!
//! `init` creates an authority and a keyring; a joiner creates a [`NodeKey`] and gets the rest in the answer to
//! its request. Where these are kept, and what a join request says, is the business of the node itself.

mod authority;
mod chain;
mod escrow;
mod keeping;
mod key;
mod keyring;
pub mod private_file;
mod recovery;

pub use authority::{AuthorityKey, CLUSTER_NAME, IssuedCertificate, NODE_CERTIFICATE_LIFETIME, node_name};
pub use chain::{
    CertificateRequest, Inspected, check_chain, inspect_certificate, pem_certificates, pem_private_key,
    request_certificate,
};
#[cfg(any(test, fuzzing))]
pub(crate) use escrow::text_of as escrow_of;
pub(crate) use key::sha256;
pub use key::{NodeKey, expiry_of_certificate, spki_digest_of_certificate};
pub use keyring::{Keyring, KeyringError};
use pangolin_core::id::{ClusterId, NodeId};
pub use recovery::{Escrow, Locked, RecoveryKey, RecoveryKeyError, fingerprint};

/// All that a node needs to speak to its peers.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The cluster's lineage when the node was admitted. A later one of the plan takes precedence.
    pub lineage: u64,
    /// Its id.
    pub node: NodeId,
    /// The authority's certificate, DER.
    pub authority: Vec<u8>,
    /// Its own certificate, DER, signed by that authority.
    pub certificate: Vec<u8>,
    /// The certificate's key.
    pub key: NodeKey,
}

/// What is wrong with a key, a certificate or a request for one.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No entropy.
    #[error("the system gives no random bytes")]
    Random,
    /// Not a key.
    #[error("the private key cannot be read: an unencrypted PKCS#8 document with a P-256 key is expected")]
    Key,
    /// Not a key in PEM.
    #[error(
        "there is no private key that can be read: an unencrypted PKCS #8 one in PEM is expected (-----BEGIN PRIVATE KEY-----)"
    )]
    Pem,
    /// Not a certificate, or not one for this use.
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
    /// Key and certificate are not a pair.
    #[error("the private key does not belong to the certificate; restore the two together")]
    Mismatch,
    /// Not a signing request.
    #[error("the certificate signing request is refused: {0}")]
    Request(String),
    /// No names, or too many.
    #[error("a certificate carries 1 to {limit} names, {count} are asked for")]
    Names {
        /// How many were asked for.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// Signing failed.
    #[error("cannot sign the certificate: {0}")]
    Sign(String),
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IdentityError::Random)?;
    Ok(bytes)
}
