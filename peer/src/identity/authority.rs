//! The cluster's own certificate authority: it signs nodes, and hosts for labs and demos.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use pangolin_core::{
    id::{ClusterId, NodeId},
    name::HostName,
    time::Timestamp,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType, SerialNumber,
};
use zeroize::Zeroizing;

use super::{IdentityError, key::NodeKey, random, spki_digest_of_certificate};

/// The name that every node's certificate carries besides its own: what a joiner asks for.
pub const CLUSTER_NAME: &str = "cluster.internal";

/// How long a node's certificate is valid. Renewed long before: at two thirds.
pub const NODE_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// How long the authority itself is valid: longer than any installation is expected to go without a new one.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86_400);

/// How far certificates are dated back, so that a reader whose clock is late takes them.
const BACKDATE: Duration = Duration::from_secs(3600);

/// Most names in one issued certificate, as public authorities have it.
const NAMES_MAX: usize = 100;

/// The name of a node in its certificate.
#[must_use]
pub fn node_name(cluster: ClusterId, node: NodeId) -> String {
    format!("node-{node}.{cluster}.{CLUSTER_NAME}")
}

/// An opened authority: its certificate and its key. Prints without the key.
pub struct AuthorityKey {
    certificate: Vec<u8>,
    issuer: Issuer<'static, NodeKey>,
    key_pkcs8: Zeroizing<Vec<u8>>,
}

/// A certificate that the authority issued for hosts, with its key.
pub struct IssuedCertificate {
    /// The certificate and the authority's, DER.
    pub chain: Vec<Vec<u8>>,
    /// The private key, PKCS#8.
    pub key_pkcs8: Zeroizing<Vec<u8>>,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
}

impl AuthorityKey {
    /// A new authority, with a key of its own.
    ///
    /// # Errors
    /// No random bytes, or a name that a certificate cannot carry.
    pub fn create(common_name: &str) -> Result<Self, IdentityError> {
        let key = NodeKey::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        let now = SystemTime::now();
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + AUTHORITY_LIFETIME).into();
        let certificate = params.self_signed(&key).map_err(|e| IdentityError::Sign(e.to_string()))?;
        Self::from_parts(certificate.der().to_vec(), &key.to_pkcs8())
    }

    /// The authority that [`AuthorityKey::certificate`] and [`AuthorityKey::key_pkcs8`] come from.
    ///
    /// # Errors
    /// One of them cannot be read, or they do not belong together.
    pub fn from_parts(certificate: Vec<u8>, key_pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let key = NodeKey::from_pkcs8(key_pkcs8)?;
        if spki_digest_of_certificate(&certificate)? != key.spki_digest() {
            return Err(IdentityError::Mismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate.as_slice().into(), key)
            .map_err(|e| IdentityError::Certificate(format!("it is no authority's: {e}")))?;
        Ok(Self { certificate, issuer, key_pkcs8: Zeroizing::new(key_pkcs8.to_vec()) })
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The private key, PKCS#8: a secret, stored only sealed.
    #[must_use]
    pub fn key_pkcs8(&self) -> &[u8] {
        &self.key_pkcs8
    }

    /// Signs a node's request. Only the public key is taken from it; the names are the node's own
    /// ([`node_name`]) and [`CLUSTER_NAME`]. Valid from an hour ago, for a year.
    ///
    /// # Errors
    /// The request cannot be read, or is not signed by its own key.
    pub fn sign_node(
        &self,
        csr_der: &[u8],
        cluster: ClusterId,
        node: NodeId,
        now: SystemTime,
    ) -> Result<Vec<u8>, IdentityError> {
        let mut request = CertificateSigningRequestParams::from_der(&csr_der.into())
            .map_err(|e| IdentityError::Request(e.to_string()))?;
        let mut params = leaf(vec![dns(&node_name(cluster, node))?, dns(CLUSTER_NAME)?])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + NODE_CERTIFICATE_LIFETIME).into();
        request.params = params;
        let certificate = request.signed_by(&self.issuer).map_err(|e| IdentityError::Sign(e.to_string()))?;
        Ok(certificate.der().to_vec())
    }

    /// Issues a server certificate for hosts, wildcards among them, with a fresh key. `lifetime` counts from
    /// `now` and is cut at the authority's own.
    ///
    /// # Errors
    /// No names, more than 100, or no random bytes.
    pub fn issue(
        &self,
        names: &[HostName],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<IssuedCertificate, IdentityError> {
        if names.is_empty() || names.len() > NAMES_MAX {
            return Err(IdentityError::Names { count: names.len(), limit: NAMES_MAX });
        }
        let key = NodeKey::generate()?;
        let mut params = leaf(names.iter().map(|name| dns(name.as_str())).collect::<Result<_, _>>()?)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (not_before, not_after) = (now - BACKDATE, now + lifetime.min(AUTHORITY_LIFETIME));
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(|e| IdentityError::Sign(e.to_string()))?;
        Ok(IssuedCertificate {
            chain: vec![certificate.der().to_vec(), self.certificate.clone()],
            key_pkcs8: key.to_pkcs8(),
            not_before: whole_second(not_before),
            not_after: whole_second(not_after),
        })
    }
}

impl fmt::Debug for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityKey").field("key", self.issuer.key()).finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedCertificate")
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn leaf(names: Vec<SanType>) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    Ok(params)
}

pub(super) fn dns(name: &str) -> Result<SanType, IdentityError> {
    let name = name.try_into().map_err(|e: rcgen::Error| IdentityError::Sign(e.to_string()))?;
    Ok(SanType::DnsName(name))
}

/// 16 random bytes, positive (RFC 5280 §4.1.2.2).
fn serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// A certificate's times have whole seconds.
fn whole_second(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(since.as_secs() * 1000)
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{GeneralName, X509Certificate};

    use super::*;

    fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
        let san = certificate.subject_alternative_name().unwrap().unwrap();
        san.value
            .general_names
            .iter()
            .map(|name| match name {
                GeneralName::DNSName(name) => (*name).to_owned(),
                other => panic!("{other}"),
            })
            .collect()
    }

    #[test]
    fn a_node_gets_its_own_names_and_not_the_ones_it_asks_for() {
        let authority = AuthorityKey::create("Pangolin Cluster test").unwrap();
        let key = NodeKey::generate().unwrap();
        let greedy = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        let csr = greedy.serialize_request(&key).unwrap();
        let cluster = ClusterId([7; 16]);
        let der = authority.sign_node(csr.der(), cluster, NodeId(42), SystemTime::now()).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(
            names(&certificate),
            ["node-42.07070707070707070707070707070707.cluster.internal", "cluster.internal"]
        );
        assert!(!certificate.is_ca());
        assert_eq!(spki_digest_of_certificate(&der).unwrap(), key.spki_digest());
    }

    #[test]
    fn a_damaged_request_is_refused() {
        let authority = AuthorityKey::create("test").unwrap();
        let mut csr = NodeKey::generate().unwrap().csr_der().unwrap();
        *csr.last_mut().unwrap() ^= 1;
        let signed = authority.sign_node(&csr, ClusterId([0; 16]), NodeId(1), SystemTime::now());
        assert!(matches!(signed, Err(IdentityError::Request(_))));
    }

    #[test]
    fn an_authority_is_reopened_only_with_its_own_key() {
        let authority = AuthorityKey::create("test").unwrap();
        let again = AuthorityKey::from_parts(authority.certificate().to_vec(), authority.key_pkcs8());
        assert_eq!(again.unwrap().certificate(), authority.certificate());
        let other = NodeKey::generate().unwrap().to_pkcs8();
        let wrong = AuthorityKey::from_parts(authority.certificate().to_vec(), &other);
        assert!(matches!(wrong, Err(IdentityError::Mismatch)));
    }

    #[test]
    fn hosts_get_a_chain_with_wildcards_and_the_times_it_says() {
        let authority = AuthorityKey::create("test").unwrap();
        let hosts: Vec<HostName> = vec!["example.org".parse().unwrap(), "*.example.org".parse().unwrap()];
        let issued = authority.issue(&hosts, SystemTime::now(), Duration::from_secs(86_400)).unwrap();
        assert_eq!(issued.chain[1], authority.certificate());
        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.chain[0]).unwrap();
        assert_eq!(names(&certificate), ["example.org", "*.example.org"]);
        let until = u64::try_from(certificate.validity().not_after.timestamp()).unwrap();
        assert_eq!(issued.not_after.0, until * 1000);
        NodeKey::from_pkcs8(&issued.key_pkcs8).unwrap();
        assert!(authority.issue(&[], SystemTime::now(), Duration::from_secs(60)).is_err());
    }
}
