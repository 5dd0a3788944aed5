//! What commands do to certificates.

use crate::{
    command::CertificateIssued,
    id::CertificateId,
    outcome::{Object, Refusal},
    record::Certificate,
    state::{Applied, ClusterState},
};

/// Most certificates of a cluster.
pub(super) const CERTIFICATES_MAX: usize = 100_000;
/// Most names on a certificate: the largest number that public authorities take.
pub(super) const CERTIFICATE_NAMES_MAX: usize = 100;

impl ClusterState {
    /// A certificate for the same names is replaced by its next generation.
    pub(super) fn issue_certificate(&mut self, issued: &CertificateIssued) -> Applied {
        if issued.chain.is_empty() || issued.names.is_empty() || issued.names.len() > CERTIFICATE_NAMES_MAX {
            return Err(Refusal::Invalid(format!(
                "a certificate has a chain and 1 to {CERTIFICATE_NAMES_MAX} names"
            )));
        }
        let mut names = issued.names.clone();
        names.sort_unstable();
        names.dedup();
        let known = self.certificates.values().find(|c| c.names == names).map(|c| (c.id, c.generation));
        let upkeep = self.issuance.upkeep_of(&names).map(|upkeep| (upkeep.id, upkeep.generation));
        let (id, generation) = match (known, upkeep) {
            (Some((id, generation)), upkeep) => {
                (id, (generation + 1).max(upkeep.map_or(0, |(_, generation)| generation)))
            }
            (None, Some((id, generation))) => (id, generation),
            (None, None) if self.certificates.len() >= CERTIFICATES_MAX => {
                return Err(Refusal::Limit { what: "certificates".into(), limit: CERTIFICATES_MAX as u64 });
            }
            (None, None) => (CertificateId(self.next_number()), 1),
        };
        self.put_certificate(id, generation, &CertificateIssued { names, ..issued.clone() });
        self.issuance.sources.remove(&id);
        if let Some(upkeep) = self.issuance.upkeeps.get_mut(&id) {
            (upkeep.wanted, upkeep.window) = (false, None);
            upkeep.generation = upkeep.generation.max(generation + 1);
        }
        Ok(Some(Object::Certificate(id)))
    }

    /// Puts a certificate in force. Its names are sorted.
    pub(super) fn put_certificate(&mut self, id: CertificateId, generation: u64, issued: &CertificateIssued) {
        let certificate = Certificate {
            id,
            names: issued.names.clone(),
            generation,
            chain: issued.chain.clone(),
            key: issued.key.clone(),
            not_before: issued.not_before,
            not_after: issued.not_after,
            revision: self.revision,
        };
        self.certificates.insert(id, certificate);
    }

    pub(super) fn remove_certificate(&mut self, id: CertificateId) -> Applied {
        let kept_up = self.forget_upkeep(id);
        match self.certificates.remove(&id) {
            None if !kept_up => Err(Refusal::NotFound(Object::Certificate(id))),
            _ => Ok(None),
        }
    }
}
