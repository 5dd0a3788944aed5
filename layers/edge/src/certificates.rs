//! Certificates as served: opened once per generation, found by server name.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arc_swap::ArcSwap;
use pangolin_core::{CertificateId, HostName, plan::PlannedCertificate};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

use crate::{error::EdgeProblem, snapshot::Snapshot};

/// Decrypts the private key of a planned certificate: PKCS #8, DER; else the reason why not.
pub type OpenKey<'a> = dyn Fn(&PlannedCertificate) -> Result<Zeroizing<Vec<u8>>, String> + 'a;

/// A certificate ready to be served.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    id: CertificateId,
    key: Arc<CertifiedKey>,
}

/// The certificates opened so far.
#[derive(Default)]
pub(crate) struct Opened(BTreeMap<CertificateId, OpenedOne>);

struct OpenedOne {
    generation: u64,
    names: Vec<HostName>,
    key: Arc<CertifiedKey>,
}

impl Opened {
    /// Opens what is new, forgets what is gone. A certificate that cannot be served leaves its last good
    /// generation in place.
    pub(crate) fn update(&mut self, planned: &[PlannedCertificate], open: &OpenKey<'_>) -> Vec<EdgeProblem> {
        self.0.retain(|id, _| planned.iter().any(|p| p.id == *id));
        let mut problems = Vec::new();
        for certificate in planned {
            let PlannedCertificate { id, generation, names, .. } = certificate;
            if self.0.get(id).is_some_and(|opened| opened.generation == *generation) {
                continue;
            }
            match certified_key(certificate, open) {
                Ok(key) => {
                    let key = Arc::new(key);
                    self.0.insert(*id, OpenedOne { generation: *generation, names: names.clone(), key });
                }
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }

    /// By name. Where two are good for one name, the one made later is served.
    pub(crate) fn index(&self) -> Certificates {
        let mut index = Certificates::default();
        for (id, OpenedOne { names, key, .. }) in &self.0 {
            for name in names {
                let served = Served { id: *id, key: Arc::clone(key) };
                match name.as_str().strip_prefix("*.") {
                    Some(parent) => index.wildcards.insert(parent.into(), served),
                    None => index.exact.insert(name.as_str().into(), served),
                };
            }
        }
        index
    }
}

fn certified_key(certificate: &PlannedCertificate, open: &OpenKey<'_>) -> Result<CertifiedKey, EdgeProblem> {
    let PlannedCertificate { id, generation, .. } = *certificate;
    let pkcs8 = open(certificate).map_err(|reason| EdgeProblem::KeyNotOpened {
        certificate: id,
        generation,
        reason,
    })?;
    let not_usable = |reason: String| EdgeProblem::NotUsable { certificate: id, generation, reason };
    let key = any_supported_type(&PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice())))
        .map_err(|e| not_usable(format!("the private key is not PKCS #8 of a supported type: {e}")))?;
    let chain = certificate.chain.iter().cloned().map(CertificateDer::from).collect();
    let key = CertifiedKey::new(chain, key);
    key.keys_match().map_err(|e| not_usable(format!("certificate and key do not belong together: {e}")))?;
    Ok(key)
}

/// Certificates by name.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    exact: HashMap<Box<str>, Served>,
    /// By the name after `*.`.
    wildcards: HashMap<Box<str>, Served>,
}

impl Certificates {
    /// The certificate for a lower-case host name: its own, else that of the wildcard one level up.
    pub(crate) fn find(&self, name: &str) -> Option<&Served> {
        self.exact
            .get(name)
            .or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent)))
    }

    /// Whether a connection opened for one name may carry requests for another: it showed the certificate that the
    /// other would have shown (RFC 9110 §7.4, RFC 9113 §9.1.1).
    pub(crate) fn shared_by(&self, one: &str, other: &str) -> bool {
        match (self.find(one), self.find(other)) {
            (Some(one), Some(other)) => one.id == other.id,
            _ => false,
        }
    }
}

/// Finds certificates for handshakes in the snapshot of the moment.
#[derive(Debug)]
pub(crate) struct Resolver(pub(crate) Arc<ArcSwap<Snapshot>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        self.0.load().certificates.find(name).map(|served| Arc::clone(&served.key))
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::record::Sealed;

    use super::*;

    struct Made {
        chain: Vec<u8>,
        key: Vec<u8>,
    }

    fn make(name: &str) -> Made {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Made { chain: made.cert.der().to_vec(), key: made.signing_key.serialize_der() }
    }

    fn planned(id: u64, generation: u64, name: &str, made: &Made) -> PlannedCertificate {
        PlannedCertificate {
            id: CertificateId(id),
            generation,
            names: vec![name.parse().expect("a name")],
            chain: vec![made.chain.clone()],
            key: Sealed { kek: 1, wrapped_key: Vec::new(), content: made.key.clone() },
        }
    }

    fn open(certificate: &PlannedCertificate) -> Result<Zeroizing<Vec<u8>>, String> {
        Ok(certificate.key.content.clone().into())
    }

    fn leaf(index: &Certificates, name: &str) -> Option<Vec<u8>> {
        index.find(name).map(|served| served.key.cert[0].to_vec())
    }

    #[test]
    fn the_own_certificate_comes_before_the_wildcard_and_nothing_else_is_shown() {
        let (wild, own) = (make("*.a.example"), make("x.a.example"));
        let mut opened = Opened::default();
        let plan = [planned(1, 1, "*.a.example", &wild), planned(2, 1, "x.a.example", &own)];
        assert_eq!(opened.update(&plan, &open), []);
        let index = opened.index();
        assert_eq!(leaf(&index, "x.a.example"), Some(own.chain));
        assert_eq!(leaf(&index, "y.a.example"), Some(wild.chain));
        assert_eq!(leaf(&index, "a.example"), None);
        assert_eq!(leaf(&index, "z.y.a.example"), None);
        assert!(index.shared_by("y.a.example", "z.a.example"));
        assert!(!index.shared_by("y.a.example", "x.a.example"));
    }

    #[test]
    fn what_cannot_be_served_is_reported_and_leaves_the_last_good_generation() {
        let (first, other) = (make("a.example"), make("a.example"));
        let mut opened = Opened::default();
        assert_eq!(opened.update(&[planned(1, 1, "a.example", &first)], &open), []);

        let mixed = Made { chain: other.chain.clone(), key: first.key.clone() };
        let problems = opened.update(&[planned(1, 2, "a.example", &mixed)], &open);
        assert!(matches!(problems[..], [EdgeProblem::NotUsable { generation: 2, .. }]), "{problems:?}");
        let garbage = Made { chain: vec![1, 2, 3], key: vec![4, 5] };
        assert_eq!(opened.update(&[planned(1, 2, "a.example", &garbage)], &open).len(), 1);
        let sealed = |_: &PlannedCertificate| Err("no KEK 1 in the keyring".to_owned());
        let problems = opened.update(&[planned(1, 2, "a.example", &other)], &sealed);
        assert!(matches!(problems[..], [EdgeProblem::KeyNotOpened { .. }]), "{problems:?}");
        assert_eq!(leaf(&opened.index(), "a.example"), Some(first.chain));

        assert_eq!(opened.update(&[planned(1, 2, "a.example", &other)], &open), []);
        assert_eq!(leaf(&opened.index(), "a.example"), Some(other.chain));
        opened.update(&[], &open);
        assert_eq!(leaf(&opened.index(), "a.example"), None);
    }

    #[test]
    fn an_unchanged_generation_is_not_opened_again() {
        let made = make("a.example");
        let mut opened = Opened::default();
        opened.update(&[planned(1, 1, "a.example", &made)], &open);
        let never = |_: &PlannedCertificate| panic!("opened again");
        assert_eq!(opened.update(&[planned(1, 1, "a.example", &made)], &never), []);
    }
}
