//! What issuers say about certificates in force: when to renew them; and what they are told: that one is void.

use std::time::Duration;

use pangolin_acme::RenewalInfo;
use pangolin_core::{
    Body, Cause, CertificateId, ClusterState, Fence, Timestamp,
    command::Actor,
    issuance::{CertificatesChange, Revocation, Source, Window, select},
    record::Certificate,
};
use pangolin_peer::identity::{Keyring, inspect_certificate};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{
    Clients,
    refusal::{Refusal, Waits},
    registration::registered,
    steps::account,
};
use crate::{keys::Keys, leader::Leading};

/// How often it is looked whether an issuer is to be asked or told something.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When an issuer is asked again that does not say when (RFC 9773 §4.3).
const ASK_EVERY: Duration = Duration::from_secs(6 * 3600);
/// The soonest that it is asked again, whatever it says.
const ASK_MIN: Duration = Duration::from_secs(60);
/// The latest.
const ASK_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most certificates asked about in one look: a new leader asks about all of them, but not at once.
const ASKED_AT_ONCE: usize = 10;

/// A certificate's generation.
type Matter = (CertificateId, u64);

impl Leading {
    /// Asks issuers when they want certificates renewed.
    pub(super) async fn windows_loop(&self, clients: &Clients) {
        let mut waits: Waits<Matter> = Waits::default();
        loop {
            let (state, now) = (self.cluster.state(), self.cluster.time_of_most());
            let from_issuer = state.issuance().sources.iter().filter_map(|(id, source)| match source {
                Source::Issuer(directory) => Some((state.certificates().get(id)?, directory)),
                Source::Imported => None,
            });
            let due: Vec<(&Certificate, &String)> = from_issuer
                .filter(|(c, directory)| !waits.holds(&state, now, directory, &(c.id, c.generation)))
                .take(ASKED_AT_ONCE)
                .collect();
            for (certificate, directory) in due {
                let matter = (certificate.id, certificate.generation);
                if waits.holds(&state, now, directory, &matter) {
                    continue;
                }
                match self.learn_window(clients, &state, certificate, directory).await {
                    Ok(pause) => waits.again_after(matter, pause),
                    Err(refusal) => {
                        debug!(certificate = %certificate.id, %refusal, "the issuer could not be asked when to renew");
                        clients.forget(directory);
                        waits.failed(directory, matter, &refusal);
                    }
                }
            }
            waits.retain(|(id, generation)| {
                state.certificates().get(id).is_some_and(|known| known.generation == *generation)
            });
            drop(state);
            sleep(LOOK_EVERY).await;
        }
    }

    /// Asks about one certificate. Gives the time until it is to be asked about again.
    async fn learn_window(
        &self,
        clients: &Clients,
        state: &ClusterState,
        certificate: &Certificate,
        directory: &str,
    ) -> Result<Duration, Refusal> {
        let Certificate { id, generation, .. } = *certificate;
        let leaf = certificate.chain.first().ok_or_else(|| "the certificate has no chain".to_owned())?;
        let read = inspect_certificate(leaf).map_err(|error| error.to_string())?;
        let Some(authority_key) = &read.authority_key else { return Ok(ASK_MAX) };
        let info = clients.get(state, directory)?.renewal_info(authority_key, &read.serial).await?;
        let pause = info
            .as_ref()
            .map_or(ASK_MAX, |info| info.retry_after.unwrap_or(ASK_EVERY).clamp(ASK_MIN, ASK_MAX));
        let known = state.issuance().upkeeps.get(&id).and_then(|upkeep| upkeep.window.as_ref());
        let window = info.map(|info| window(id, generation, info));
        if window.as_ref() != known {
            info!(certificate = %id, ?window, "the issuer has said when it wants a certificate renewed");
            let change = CertificatesChange::WindowLearned { id, generation, window };
            self.tell(state, "the issuer was asked when to renew", change).await?;
        }
        Ok(pause)
    }

    /// Tells issuers which certificates are void.
    pub(super) async fn revocations_loop(&self, keyring: &Keys, clients: &Clients) {
        let mut waits: Waits<Matter> = Waits::default();
        loop {
            let (state, now) = (self.cluster.state(), self.cluster.time_of_most());
            for (matter, revocation) in &state.issuance().revocations {
                let directory = &revocation.directory;
                if waits.holds(&state, now, directory, matter) {
                    continue;
                }
                let (id, generation) = *matter;
                if let Err(refusal) = self.revoke(&state, &keyring.now(), clients, *matter, revocation).await
                {
                    warn!(certificate = %id, generation, %refusal, "a certificate could not be revoked yet");
                    clients.forget(directory);
                    waits.failed(directory, *matter, &refusal);
                }
            }
            waits.retain(|matter| state.issuance().revocations.contains_key(matter));
            drop(state);
            sleep(LOOK_EVERY).await;
        }
    }

    /// Brings one revocation a step further. An account that the issuer does not know is registered again first.
    async fn revoke(
        &self,
        state: &ClusterState,
        keyring: &Keyring,
        clients: &Clients,
        (id, generation): Matter,
        revocation: &Revocation,
    ) -> Result<(), Refusal> {
        let directory = &revocation.directory;
        let known = state.issuance().accounts.get(directory);
        if known.is_some_and(|account| account.url.is_none()) {
            let (reason, change) = registered(state, keyring, clients, directory).await?;
            return Ok(self.tell(state, reason, change).await?);
        }
        let account = account(state, keyring, directory)?;
        let client = clients.get(state, directory)?;
        let revoked = client.revoke(&account, &revocation.certificate, revocation.reason).await;
        match revoked.map_err(Refusal::from) {
            Ok(()) => {
                let change = CertificatesChange::Revoked { id, generation };
                Ok(self.tell(state, "the issuer has declared it void", change).await?)
            }
            Err(refusal) if refusal.is_lost_account() => {
                let change =
                    CertificatesChange::AccountLost { directory: directory.clone(), url: account.url };
                Ok(self.tell(state, "the issuer does not know the account any more", change).await?)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Brings what an issuer has said or done into the log.
    pub(super) async fn tell(
        &self,
        state: &ClusterState,
        reason: &str,
        change: CertificatesChange,
    ) -> Result<(), String> {
        let fence = Fence::Term(state.leadership().map_or(0, |leadership| leadership.term));
        let cause = Cause::new(Actor::Leader(self.node), reason);
        self.lead(cause, fence, Body::Certificates(Box::new(change))).await.map(drop)
    }
}

fn window(id: CertificateId, generation: u64, info: RenewalInfo) -> Window {
    let (start, end) = (Timestamp(info.start), Timestamp(info.end));
    Window { start, end, selected: select(id, generation, start, end), explanation: info.explanation }
}
