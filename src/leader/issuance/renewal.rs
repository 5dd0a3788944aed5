//! What issuers say about certificates in force: when to renew them; and what they are told: that one is void.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pangolin_acme::RenewalInfo;
use pangolin_core::{
    Body, Cause, CertificateId, ClusterState, Fence, Timestamp,
    command::Actor,
    issuance::{CertificatesChange, Source, Window, select},
    record::Certificate,
};
use pangolin_peer::identity::inspect_certificate;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Clients, steps::account};
use crate::{keys::Keys, leader::Leading};

/// How often it is looked whether an issuer is to be asked or told something.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// When an issuer is asked again that does not say when (RFC 9773 §4.3).
const ASK_EVERY: Duration = Duration::from_secs(6 * 3600);
/// The soonest that it is asked again, whatever it says.
const ASK_MIN: Duration = Duration::from_secs(60);
/// The latest.
const ASK_MAX: Duration = Duration::from_secs(24 * 3600);
/// Pause after an issuer could not be asked or told.
const RETRY: Duration = Duration::from_secs(60);
/// Most certificates asked about in one look: a new leader asks about all of them, but not at once.
const ASKED_AT_ONCE: usize = 10;

type Asked = BTreeMap<(CertificateId, u64), Instant>;

impl Leading {
    /// Asks issuers when they want certificates renewed.
    pub(super) async fn windows_loop(&self, clients: &Clients) {
        let mut next: Asked = BTreeMap::new();
        loop {
            let state = self.cluster.state();
            let from_issuer = state.issuance().sources.iter().filter_map(|(id, source)| match source {
                Source::Issuer(directory) => Some((state.certificates().get(id)?, directory)),
                Source::Imported => None,
            });
            let now = Instant::now();
            let due: Vec<(&Certificate, &String)> = from_issuer
                .filter(|(c, _)| next.get(&(c.id, c.generation)).is_none_or(|at| *at <= now))
                .take(ASKED_AT_ONCE)
                .collect();
            for (certificate, directory) in due {
                let pause = match self.learn_window(clients, &state, certificate, directory).await {
                    Ok(pause) => pause,
                    Err(reason) => {
                        debug!(certificate = %certificate.id, reason, "the issuer could not be asked when to renew");
                        RETRY
                    }
                };
                next.insert((certificate.id, certificate.generation), Instant::now() + pause);
            }
            next.retain(|(id, generation), _| {
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
    ) -> Result<Duration, String> {
        let Certificate { id, generation, .. } = *certificate;
        let leaf = certificate.chain.first().ok_or("the certificate has no chain")?;
        let read = inspect_certificate(leaf).map_err(|error| error.to_string())?;
        let Some(authority_key) = &read.authority_key else { return Ok(ASK_MAX) };
        let client = clients.get(state, directory).map_err(|error| error.to_string())?;
        let info =
            client.renewal_info(authority_key, &read.serial).await.map_err(|error| error.to_string())?;
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
        let mut next: Asked = BTreeMap::new();
        loop {
            let state = self.cluster.state();
            for ((id, generation), revocation) in &state.issuance().revocations {
                let key = (*id, *generation);
                if next.get(&key).is_some_and(|at| *at > Instant::now()) {
                    continue;
                }
                let told = async {
                    let account = account(&state, &keyring.now(), &revocation.directory)?;
                    let client = clients.get(&state, &revocation.directory).map_err(|e| e.to_string())?;
                    let revoked = client.revoke(&account, &revocation.certificate, revocation.reason).await;
                    revoked.map_err(|error| error.to_string())?;
                    let change = CertificatesChange::Revoked { id: *id, generation: *generation };
                    self.tell(&state, "the issuer has declared it void", change).await
                };
                if let Err(reason) = told.await {
                    warn!(certificate = %id, generation, reason, "a certificate could not be revoked yet");
                    next.insert(key, Instant::now() + RETRY);
                }
            }
            drop(state);
            sleep(LOOK_EVERY).await;
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
