//! What commands do to orders, and what is known of certificates.
//!
//! Every step of an order is refused unless it is of the attempt that is under way, and follows on the step before it:
//! what a deposed leader, or one that was slow, brings in late changes nothing.

use crate::{
    command::CertificateIssued,
    decision::cut,
    id::{CertificateId, Revision},
    issuance::{
        Bucket, CertificatesChange, Challenge, DETAIL_MAX, Hold, Issuance, Order, OrderStep, Phase, Problem,
        ProblemKind, Revocation, Source, URL_MAX, Upkeep, Window, buckets, proved_name, take,
    },
    name::HostName,
    outcome::{Object, Refusal},
    plan::served_below,
    record::Sealed,
    state::{
        Applied, ClusterState,
        certificates::{CERTIFICATE_NAMES_MAX, CERTIFICATES_MAX},
    },
    time::Timestamp,
};

/// Most certificates in a chain.
const CHAIN_MAX: usize = 10;
/// Largest certificate, signing request or sealed key, in bytes.
pub(super) const DER_MAX: usize = 32 * 1024;
/// Most values of one kind that describe an issuer or an account.
pub(super) const VALUES_MAX: usize = 8;
/// Most revocations at a time.
const REVOCATIONS_MAX: usize = 10_000;

pub(super) fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal::Invalid(reason.into())
}

pub(super) fn check_url(url: &str) -> Result<(), Refusal> {
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic());
    if url.starts_with("https://") && plain && url.len() <= URL_MAX {
        return Ok(());
    }
    let shown = cut(&url.escape_debug().to_string(), 80);
    Err(invalid(format!("{shown} is not an https address of at most {URL_MAX} bytes")))
}

pub(super) fn check_sealed(sealed: &Sealed) -> Result<(), Refusal> {
    if sealed.content.len() <= DER_MAX && sealed.wrapped_key.len() <= DER_MAX {
        return Ok(());
    }
    Err(invalid(format!("a sealed key has at most {DER_MAX} bytes")))
}

pub(super) fn check_texts<'a>(
    what: &str,
    texts: impl ExactSizeIterator<Item = &'a String>,
) -> Result<(), Refusal> {
    let count = texts.len();
    let sound =
        |text: &String| !text.is_empty() && text.len() <= DETAIL_MAX && !text.contains(char::is_control);
    let mut texts = texts;
    if count <= VALUES_MAX && texts.all(sound) {
        return Ok(());
    }
    Err(invalid(format!("at most {VALUES_MAX} {what}, each a text of 1 to {DETAIL_MAX} bytes")))
}

impl ClusterState {
    /// All that is known of public certificates.
    #[must_use]
    pub fn issuance(&self) -> &Issuance {
        &self.issuance
    }

    pub(super) fn change_certificates(&mut self, change: &CertificatesChange) -> Applied {
        match change {
            CertificatesChange::IssuersSet(issuers) => self.set_issuers(issuers.clone()),
            CertificatesChange::IssuerSet { issuer, first, before } => {
                self.set_issuer(issuer, *first, before.as_ref())
            }
            CertificatesChange::IssuerRemoved(name) => self.remove_issuer(name),
            CertificatesChange::NextAccountKeyMade { directory, key } => {
                self.make_next_account_key(directory, key)
            }
            CertificatesChange::AccountKeyChanged { directory } => self.change_account_key(directory),
            CertificatesChange::AccountKeyKept { directory } => {
                self.next_account_key(directory).map(|_| None)
            }
            CertificatesChange::AccountKeyMade { directory, key } => self.make_account(directory, key),
            CertificatesChange::AccountRegistered { directory, url, caa } => {
                self.register_account(directory, url, caa)
            }
            CertificatesChange::AccountLost { directory, url } => self.lose_account(directory, url),
            CertificatesChange::OrderPlanned { names, generation, directory, replaces } => {
                self.plan_order(names, *generation, directory, *replaces)
            }
            CertificatesChange::OrderMoved { id, generation, attempt, step } => {
                self.move_order(*id, *generation, *attempt, step)
            }
            CertificatesChange::RenewalWanted(id) => self.want_renewal(*id),
            CertificatesChange::WindowLearned { id, generation, window } => {
                self.learn_window(*id, *generation, window.as_ref())
            }
            CertificatesChange::Imported(certificate) => self.import_certificate(certificate),
            CertificatesChange::RevocationWanted { id, reason } => self.want_revocation(*id, *reason),
            CertificatesChange::Revoked { id, generation } => {
                let gone = self.issuance.revocations.remove(&(*id, *generation));
                gone.map(|_| None).ok_or(Refusal::NotFound(Object::Certificate(*id)))
            }
        }
    }

    /// Whether certificates for a name may be had: it lies in a zone that the cluster answers for.
    fn is_ours(&self, name: &HostName) -> bool {
        served_below(self, &proved_name(name)).is_some()
    }

    fn certificate_names(&self, names: &[HostName]) -> Result<Vec<HostName>, Refusal> {
        let mut names = names.to_vec();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() || names.len() > CERTIFICATE_NAMES_MAX {
            return Err(invalid(format!("a certificate has 1 to {CERTIFICATE_NAMES_MAX} names")));
        }
        match names.iter().find(|name| !self.is_ours(name)) {
            None => Ok(names),
            Some(name) => Err(invalid(format!(
                "{name} lies in no domain of this cluster: `pangolinctl domain create` adds one"
            ))),
        }
    }

    /// The upkeep of the certificate for these names, made where there is none.
    fn upkeep_for(&mut self, names: &[HostName]) -> Result<&mut Upkeep, Refusal> {
        let known = self.issuance.upkeep_of(names).map(|upkeep| upkeep.id);
        let id = match known {
            Some(id) => id,
            None => {
                let certificate = self.certificates.values().find(|certificate| certificate.names == names);
                let (id, generation) = match certificate {
                    Some(certificate) => (certificate.id, certificate.generation + 1),
                    None if self.issuance.upkeeps.len() >= CERTIFICATES_MAX => {
                        return Err(Refusal::Limit {
                            what: "certificates".into(),
                            limit: CERTIFICATES_MAX as u64,
                        });
                    }
                    None => (CertificateId(self.next_number()), 1),
                };
                self.issuance.upkeeps.insert(id, Upkeep::new(id, names.to_vec(), generation));
                id
            }
        };
        self.issuance.upkeeps.get_mut(&id).ok_or(Refusal::NotFound(Object::Certificate(id)))
    }

    fn plan_order(
        &mut self,
        names: &[HostName],
        generation: u64,
        directory: &str,
        replaces: bool,
    ) -> Applied {
        let names = self.certificate_names(names)?;
        let issuer = self.issuance.issuer(directory).cloned();
        let issuer =
            issuer.ok_or_else(|| invalid(format!("{directory} is not the directory of an issuer")))?;
        let (attempt, since) = (self.revision, self.time);
        let in_force = self.certificates.values().find(|certificate| certificate.names == names);
        let next = in_force.map_or(1, |certificate| certificate.generation + 1);
        let upkeep = self.upkeep_for(&names)?;
        upkeep.generation = upkeep.generation.max(next);
        // An order moves to another issuer as long as its own cannot have issued it.
        let stays = |order: &&Order| order.directory == directory || order.phase >= Phase::Finalizing;
        if let Some(order) = upkeep.order.as_ref().filter(stays) {
            return Err(Refusal::StaleRevision { decided: attempt, current: order.attempt });
        }
        if upkeep.generation != generation {
            return Err(invalid(format!(
                "generation {generation} was decided on, but {} is the next one",
                upkeep.generation
            )));
        }
        let id = upkeep.id;
        if let Some(order) = upkeep.order.take() {
            upkeep.surplus = upkeep.surplus.saturating_add(u32::from(order.phase >= Phase::Ordered));
            upkeep.not_before = Timestamp::default();
        }
        upkeep.order = Some(Order {
            attempt,
            directory: directory.to_owned(),
            since,
            phase: Phase::Planned,
            replaces,
            key: None,
            csr: Vec::new(),
            url: None,
            expires: None,
            challenges: Vec::new(),
        });
        if !replaces {
            for bucket in buckets(self, Some(id), &names) {
                take(&mut self.issuance.spent, &issuer.rates, directory, bucket, since);
            }
        }
        Ok(Some(Object::Certificate(id)))
    }

    fn move_order(
        &mut self,
        id: CertificateId,
        generation: u64,
        attempt: Revision,
        step: &OrderStep,
    ) -> Applied {
        let upkeep = self.issuance.upkeeps.get_mut(&id).ok_or(Refusal::NotFound(Object::Certificate(id)))?;
        let current = upkeep.order.as_ref().map(|order| order.attempt).unwrap_or_default();
        if current != attempt || upkeep.generation != generation {
            return Err(Refusal::StaleRevision { decided: attempt, current });
        }
        let Some(order) = &mut upkeep.order else {
            return Err(Refusal::StaleRevision { decided: attempt, current });
        };
        let after = |phase: Phase| match order.phase == phase {
            true => Ok(()),
            false => Err(invalid(format!("the order is {}", order.phase.text()))),
        };
        match step {
            OrderStep::KeyReady { key, csr } => {
                after(Phase::Planned)?;
                check_sealed(key)?;
                if csr.is_empty() || csr.len() > DER_MAX {
                    return Err(invalid(format!("a signing request has 1 to {DER_MAX} bytes")));
                }
                (order.key, order.csr) = (Some(key.clone()), csr.clone());
                order.phase = Phase::KeyReady;
            }
            OrderStep::Ordered { url, expires, replaces } => {
                after(Phase::KeyReady)?;
                check_url(url)?;
                (order.url, order.expires, order.replaces) = (Some(url.clone()), *expires, *replaces);
                order.phase = Phase::Ordered;
            }
            OrderStep::TxtPublished(challenges) => {
                after(Phase::Ordered)?;
                check_challenges(&upkeep.names, challenges)?;
                order.challenges.clone_from(challenges);
                order.phase = Phase::TxtPublished;
            }
            OrderStep::Triggered => {
                after(Phase::TxtPublished)?;
                order.phase = Phase::Triggered;
            }
            OrderStep::Finalizing => {
                after(Phase::Triggered)?;
                order.phase = Phase::Finalizing;
            }
            OrderStep::Issued { chain, not_before, not_after } => {
                after(Phase::Finalizing)?;
                return self.end_order(id, chain, *not_before, *not_after);
            }
            OrderStep::Failed { problem, again_at, hold_until, give_up, park } => {
                let (again_at, hold) = (*again_at, *hold_until);
                return self.fail_order(id, problem, again_at, hold, *give_up || *park, *park);
            }
        }
        Ok(None)
    }

    fn end_order(
        &mut self,
        id: CertificateId,
        chain: &[Vec<u8>],
        not_before: Timestamp,
        not_after: Timestamp,
    ) -> Applied {
        check_chain(chain)?;
        let upkeep = self.issuance.upkeeps.get_mut(&id).ok_or(Refusal::NotFound(Object::Certificate(id)))?;
        let (names, generation) = (upkeep.names.clone(), upkeep.generation);
        let Some(Order { key: Some(key), directory, .. }) = upkeep.order.take() else {
            return Err(invalid("the order has no key"));
        };
        *upkeep = Upkeep { surplus: upkeep.surplus, ..Upkeep::new(id, names.clone(), generation + 1) };
        let issued = CertificateIssued { names, chain: chain.to_vec(), key, not_before, not_after };
        self.put_certificate(id, generation, &issued);
        self.issuance.sources.insert(id, Source::Issuer(directory));
        Ok(Some(Object::Certificate(id)))
    }

    fn fail_order(
        &mut self,
        id: CertificateId,
        problem: &Problem,
        again_at: Timestamp,
        hold_until: Option<Timestamp>,
        give_up: bool,
        park: bool,
    ) -> Applied {
        let now = self.time;
        let upkeep = self.issuance.upkeeps.get_mut(&id).ok_or(Refusal::NotFound(Object::Certificate(id)))?;
        let Some(order) = upkeep.order.clone() else {
            return Err(Refusal::NotFound(Object::Certificate(id)));
        };
        let detail = cut(&problem.detail, DETAIL_MAX);
        upkeep.failures = upkeep.failures.saturating_add(1);
        upkeep.not_before = again_at;
        upkeep.parked = park;
        upkeep.problem = Some(Problem { kind: problem.kind, detail: detail.clone(), at: now });
        if give_up {
            upkeep.order = None;
            upkeep.surplus = upkeep.surplus.saturating_add(u32::from(order.phase >= Phase::Ordered));
            // The issuer may have issued it all the same: what is got next is another generation.
            upkeep.generation += u64::from(order.phase == Phase::Finalizing);
        }
        if let Some(until) = hold_until {
            let known = self.issuance.held.iter().filter(|(_, hold)| hold.until > now);
            self.issuance.held = known.map(|(at, hold)| (at.clone(), hold.clone())).collect();
            self.issuance.held.insert(order.directory.clone(), Hold { until, detail });
        }
        if problem.kind == ProblemKind::Unproved
            && let Some(issuer) = self.issuance.issuer(&order.directory).cloned()
        {
            for challenge in &order.challenges {
                let bucket = Bucket::Failures(challenge.name.clone());
                take(&mut self.issuance.spent, &issuer.rates, &order.directory, bucket, now);
            }
        }
        Ok(None)
    }

    fn want_renewal(&mut self, id: CertificateId) -> Applied {
        if self.issuance.sources.get(&id) == Some(&Source::Imported) {
            return Err(invalid(
                "this certificate was imported: import its successor with `pangolinctl cert import`",
            ));
        }
        let names = match (self.issuance.upkeeps.get(&id), self.certificates.get(&id)) {
            (Some(upkeep), _) => upkeep.names.clone(),
            (None, Some(certificate)) => certificate.names.clone(),
            (None, None) => return Err(Refusal::NotFound(Object::Certificate(id))),
        };
        let upkeep = self.upkeep_for(&names)?;
        upkeep.wanted = true;
        upkeep.parked = false;
        upkeep.failures = 0;
        upkeep.not_before = Timestamp::default();
        Ok(Some(Object::Certificate(id)))
    }

    fn learn_window(&mut self, id: CertificateId, generation: u64, window: Option<&Window>) -> Applied {
        let not_found = Refusal::NotFound(Object::Certificate(id));
        let certificate = self.certificates.get(&id).filter(|known| known.generation == generation);
        let names = certificate.ok_or(not_found)?.names.clone();
        if let Some(Window { start, end, selected, explanation }) = window {
            if start > end || selected < start || selected > end {
                return Err(invalid("the moment of a renewal lies in its window"));
            }
            check_texts("explanations", explanation.iter())?;
        }
        self.upkeep_for(&names)?.window = window.cloned();
        Ok(None)
    }

    fn import_certificate(&mut self, certificate: &CertificateIssued) -> Applied {
        check_chain(&certificate.chain)?;
        check_sealed(&certificate.key)?;
        let names = self.certificate_names(&certificate.names)?;
        let made = self.issue_certificate(&CertificateIssued { names, ..certificate.clone() })?;
        if let Some(Object::Certificate(id)) = &made {
            self.issuance.sources.insert(*id, Source::Imported);
            self.issuance.upkeeps.remove(id);
        }
        Ok(made)
    }

    fn want_revocation(&mut self, id: CertificateId, reason: u8) -> Applied {
        let certificate = self.certificates.get(&id).ok_or(Refusal::NotFound(Object::Certificate(id)))?;
        let Some(Source::Issuer(directory)) = self.issuance.sources.get(&id) else {
            return Err(invalid("only what a public issuer has issued can be revoked there"));
        };
        // RFC 5280 §5.3.1; 7 is not used.
        if reason > 10 || reason == 7 {
            return Err(invalid("a reason for a revocation is a number from 0 to 10, without 7"));
        }
        if self.issuance.revocations.len() >= REVOCATIONS_MAX {
            return Err(Refusal::Limit { what: "revocations".into(), limit: REVOCATIONS_MAX as u64 });
        }
        let leaf = certificate.chain.first().cloned().unwrap_or_default();
        let revocation = Revocation { directory: directory.clone(), certificate: leaf, reason };
        self.issuance.revocations.insert((id, certificate.generation), revocation);
        self.want_renewal(id)
    }

    /// Forgets all that is known of a certificate besides itself. Whether there was anything.
    pub(super) fn forget_upkeep(&mut self, id: CertificateId) -> bool {
        self.issuance.sources.remove(&id);
        self.issuance.upkeeps.remove(&id).is_some()
    }
}

fn check_chain(chain: &[Vec<u8>]) -> Result<(), Refusal> {
    let sound = |der: &Vec<u8>| !der.is_empty() && der.len() <= DER_MAX;
    if !chain.is_empty() && chain.len() <= CHAIN_MAX && chain.iter().all(sound) {
        return Ok(());
    }
    Err(invalid(format!("a chain has 1 to {CHAIN_MAX} certificates of at most {DER_MAX} bytes")))
}

fn check_challenges(names: &[HostName], challenges: &[Challenge]) -> Result<(), Refusal> {
    for challenge in challenges {
        check_url(&challenge.authorization)?;
        check_url(&challenge.url)?;
        let value = &challenge.value;
        if value.is_empty() || value.len() > 255 || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("the proof of a name is a text of 1 to 255 bytes"));
        }
        if !names.iter().any(|name| proved_name(name) == challenge.name) {
            return Err(invalid(format!("{} is not among the names of the order", challenge.name)));
        }
    }
    if challenges.len() > names.len() {
        return Err(invalid("there are more proofs than names"));
    }
    Ok(())
}
