//! The steps of an order: each looks at the state, does one thing outside, and brings the next fact into the log.

use std::{sync::Arc, time::Duration};

use pangolin_acme::{
    Account, AccountKey, AcmeClient, AcmeError, AuthorizationState, NewOrder, OrderState, Problem, Submitted,
};
use pangolin_core::{
    Body, Cause, ClusterState, Fence, HostName,
    command::Actor,
    decide::order_cause,
    issuance::{CertificatesChange, Challenge, Order, OrderStep, Step, Task, Upkeep},
};
use pangolin_peer::identity::{Keyring, check_chain, inspect_certificate, request_certificate};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{
    Clients,
    problem::{Outlook, Trouble, failed},
    published,
    registration::registered,
};
use crate::{clock, leader::Leading, seal};

/// How long an issuer may take to look at the proofs, or to issue, before it counts as slow: it is asked again later.
const ISSUER_PATIENCE: Duration = Duration::from_secs(180);
/// How often it is asked meanwhile, unless it says something else.
const POLL: Duration = Duration::from_millis(500);
/// Longest pause between two questions, whatever it says.
const POLL_MAX: Duration = Duration::from_secs(30);
/// How far the clock of an issuer may be ahead of ours.
const AHEAD_MAX: Duration = Duration::from_secs(86_400);

/// What one step needs.
pub(super) struct Work<'a> {
    pub(super) leading: &'a Leading,
    pub(super) keyring: Arc<Keyring>,
    pub(super) clients: &'a Clients,
    pub(super) state: Arc<ClusterState>,
    pub(super) task: Task,
}

impl Work<'_> {
    /// Does the step; what goes wrong is noted in the log. An error is one that the log could not be told of.
    pub(super) async fn run(self) -> Result<(), String> {
        let done = match &self.task.step {
            Step::StartAfresh => return self.start_afresh().await,
            Step::Plan { directory, replaces } => return self.plan(directory, *replaces).await,
            Step::Register { directory } => self.register(directory).await,
            Step::MakeKey => self.make_key().await,
            Step::Place => self.place().await,
            Step::Publish => self.publish().await,
            Step::Trigger => self.trigger().await,
            Step::Validate => self.validate().await,
            Step::Finalize => self.finalize().await,
        };
        let Err(trouble) = done else { return Ok(()) };
        let (upkeep, order) = self.order()?;
        // Whoever is not reached now may be reached another way in a moment, or have moved.
        self.clients.forget(&order.directory);
        if trouble.is_lost_account()
            && let Some(account) = self.state.issuance().accounts.get(&order.directory)
            && let Some(url) = account.url.clone()
        {
            let change = CertificatesChange::AccountLost { directory: order.directory.clone(), url };
            self.commit("the issuer does not know the account any more", change).await?;
        }
        let now = clock::now();
        let step = failed(&trouble, upkeep, Outlook::of(&self.state, upkeep, now), now)?;
        let OrderStep::Failed { problem, .. } = &step else { return Err("a failure is none".to_owned()) };
        let reason = problem.detail.clone();
        warn!(names = %self.names(), phase = order.phase.text(), reason, "an order has failed for now");
        self.move_order(&reason, step).await
    }

    fn names(&self) -> String {
        self.task.names.iter().map(HostName::as_str).collect::<Vec<_>>().join(", ")
    }

    fn order(&self) -> Result<(&Upkeep, &Order), String> {
        let upkeep = self.task.id.and_then(|id| self.state.issuance().upkeeps.get(&id));
        let upkeep = upkeep.ok_or("the certificate is not looked after any more")?;
        let order = upkeep.order.as_ref().ok_or("there is no order")?;
        Ok((upkeep, order))
    }

    fn here(&self) -> Result<(&Upkeep, &Order), Trouble> {
        self.order().map_err(Trouble::Here)
    }

    async fn commit(&self, reason: &str, change: CertificatesChange) -> Result<(), String> {
        let attempt = self.order().ok().map(|(_, order)| order.attempt);
        let cause = Cause::new(Actor::Leader(self.leading.node), reason).because(attempt);
        self.propose(cause, change).await
    }

    async fn propose(&self, cause: Cause, change: CertificatesChange) -> Result<(), String> {
        let fence = Fence::Term(self.state.leadership().map_or(0, |leadership| leadership.term));
        self.leading.lead(cause, fence, Body::Certificates(Box::new(change))).await.map(drop)
    }

    async fn move_order(&self, reason: &str, step: OrderStep) -> Result<(), String> {
        let (upkeep, order) = self.order()?;
        let (id, generation, attempt) = (upkeep.id, upkeep.generation, order.attempt);
        self.commit(reason, CertificatesChange::OrderMoved { id, generation, attempt, step }).await
    }

    async fn moved(&self, reason: &str, step: OrderStep) -> Result<(), Trouble> {
        info!(names = %self.names(), reason, "an order goes on");
        self.move_order(reason, step).await.map_err(Trouble::Here)
    }

    /// What other issuers refused, or did not do, is nothing to wait for.
    async fn start_afresh(&self) -> Result<(), String> {
        let id = self.task.id.ok_or("the certificate is not looked after")?;
        self.commit("the issuers have changed since the last attempt", CertificatesChange::RenewalWanted(id))
            .await
    }

    async fn plan(&self, directory: &str, replaces: bool) -> Result<(), String> {
        let Task { names, generation, .. } = &self.task;
        info!(names = %self.names(), directory, generation, "planning an order");
        let cause = order_cause(&self.state, names, directory, self.leading.node);
        let change = CertificatesChange::OrderPlanned {
            names: names.clone(),
            generation: *generation,
            directory: directory.to_owned(),
            replaces,
        };
        self.propose(cause, change).await
    }

    fn client(&self, directory: &str) -> Result<Arc<AcmeClient>, Trouble> {
        self.clients.get(&self.state, directory).map_err(Trouble::Acme)
    }

    /// The client of an order's issuer, and the account there.
    fn account(&self, directory: &str) -> Result<(Arc<AcmeClient>, Account), Trouble> {
        let account = account(&self.state, &self.keyring, directory).map_err(Trouble::Here)?;
        Ok((self.client(directory)?, account))
    }

    async fn register(&self, directory: &str) -> Result<(), Trouble> {
        let (reason, change) = registered(&self.state, &self.keyring, self.clients, directory).await?;
        self.commit(reason, change).await.map_err(Trouble::Here)
    }

    async fn make_key(&self) -> Result<(), Trouble> {
        let (upkeep, _) = self.here()?;
        let (names, keyring) = (upkeep.names.clone(), self.keyring.clone());
        let make = move || {
            let request = request_certificate(&names).map_err(|error| error.to_string())?;
            let key = keyring.seal(&request.key_pkcs8, &seal::certificate(&names));
            Ok::<_, String>((key.map_err(|error| error.to_string())?, request.csr))
        };
        // Making keys takes CPU time that the runtime's workers have better uses for.
        let made =
            tokio::task::spawn_blocking(make).await.map_err(|error| Trouble::Here(error.to_string()))?;
        let (key, csr) = made.map_err(Trouble::Here)?;
        self.moved("the key is made", OrderStep::KeyReady { key, csr }).await
    }

    async fn place(&self) -> Result<(), Trouble> {
        let (upkeep, order) = self.here()?;
        let (client, account) = self.account(&order.directory)?;
        let profile =
            self.state.issuance().issuer(&order.directory).and_then(|issuer| issuer.profile.clone());
        let names = upkeep.names.iter().map(ToString::to_string).collect();
        let replaces = if order.replaces { replaced(&self.state, upkeep) } else { None };
        let mut wanted = NewOrder { names, profile, replaces };
        let placed = match client.new_order(&account, &wanted).await {
            // Another order has, and was given up: this one counts like a new certificate.
            Err(AcmeError::Refused(problem)) if problem.is("alreadyReplaced") || problem.status == 409 => {
                debug!(names = %self.names(), %problem, "ordering without naming the certificate before");
                wanted.replaces = None;
                client.new_order(&account, &wanted).await?
            }
            other => other?,
        };
        let step = OrderStep::Ordered {
            url: placed.url,
            expires: placed.expires.map(pangolin_core::Timestamp),
            replaces: wanted.replaces.is_some(),
        };
        self.moved("the issuer has taken the order", step).await
    }

    async fn publish(&self) -> Result<(), Trouble> {
        let (_, order) = self.here()?;
        let (client, account) = self.account(&order.directory)?;
        let placed = client.order(&account, order_url(order)?).await?;
        let mut challenges = Vec::new();
        if let OrderState::Invalid(problem) = placed.state {
            return Err(Trouble::Unproved(problem));
        }
        for url in &placed.authorizations {
            let authorization = client.authorization(&account, url).await?;
            match authorization.state {
                // The issuer remembers an earlier proof.
                AuthorizationState::Valid => continue,
                AuthorizationState::Invalid(problem) => return Err(Trouble::Unproved(problem)),
                AuthorizationState::Pending => {}
            }
            let unusable = |reason: &str| Trouble::Unusable(format!("{}: {reason}", authorization.name));
            let Some((challenge, token)) = &authorization.challenge else {
                return Err(unusable("the issuer takes no proof by DNS"));
            };
            let name: HostName = authorization.name.parse().map_err(|_| unusable("this is no name"))?;
            let value = account.key.txt_value(token);
            challenges.push(Challenge { name, authorization: url.clone(), url: challenge.clone(), value });
        }
        self.moved("the issuer has said what it looks for", OrderStep::TxtPublished(challenges)).await
    }

    async fn trigger(&self) -> Result<(), Trouble> {
        let (_, order) = self.here()?;
        published::everywhere(self.leading, order).await.map_err(Trouble::NotPublished)?;
        let reason = match order.challenges.len() {
            0 => "the issuer takes every name as proved",
            _ => "every name server shows the proofs",
        };
        self.moved(reason, OrderStep::Triggered).await
    }

    async fn validate(&self) -> Result<(), Trouble> {
        let (_, order) = self.here()?;
        let (client, account) = self.account(&order.directory)?;
        for challenge in &order.challenges {
            client.trigger(&account, &challenge.url).await?;
        }
        let url = order_url(order)?;
        let looked = poll(&client, &account, url, |state| *state == OrderState::Pending).await?;
        if let OrderState::Invalid(problem) = looked.state {
            let reason = self.reason_of(&client, &account, &looked.authorizations).await;
            return Err(Trouble::Unproved(reason.unwrap_or(problem)));
        }
        self.moved("the issuer is satisfied", OrderStep::Finalizing).await
    }

    /// Why an order became invalid: what the issuer says of the name that was not proved.
    async fn reason_of(&self, client: &AcmeClient, account: &Account, urls: &[String]) -> Option<Problem> {
        for url in urls {
            let looked = client.authorization(account, url).await.ok()?;
            if let AuthorizationState::Invalid(problem) = looked.state {
                return Some(Problem { detail: format!("{}: {}", looked.name, problem.detail), ..problem });
            }
        }
        None
    }

    async fn finalize(&self) -> Result<(), Trouble> {
        let (upkeep, order) = self.here()?;
        let (client, account) = self.account(&order.directory)?;
        let url = order_url(order)?;
        let mut looked = client.order(&account, url).await?;
        if looked.state == OrderState::Ready {
            looked = client.finalize(&account, &looked, &order.csr).await?;
        }
        if matches!(looked.state, OrderState::Processing | OrderState::Ready) {
            let busy = |state: &OrderState| matches!(state, OrderState::Processing | OrderState::Ready);
            looked = poll(&client, &account, url, busy).await?;
        }
        let certificate = match looked.state {
            OrderState::Valid { certificate } => certificate,
            OrderState::Invalid(problem) => return Err(Trouble::Unproved(problem)),
            other => return Err(Trouble::Unusable(format!("the order was ready, and now it is {other:?}"))),
        };
        let chain = client.certificate(&account, &certificate).await?;
        let step = self.checked(upkeep, order, chain)?;
        self.moved("the certificate is here, and is what was asked for", step).await
    }

    /// Looks at what came before it is served.
    fn checked(&self, upkeep: &Upkeep, order: &Order, chain: Vec<Vec<u8>>) -> Result<OrderStep, Trouble> {
        let sealed = order.key.as_ref().ok_or_else(|| Trouble::Here("the order has no key".to_owned()))?;
        let key = self.keyring.open(sealed, &seal::certificate(&upkeep.names));
        let key = key.map_err(|error| Trouble::Here(error.to_string()))?;
        let now = clock::now();
        let read = check_chain(&chain, &key, now).map_err(|error| Trouble::Unusable(error.to_string()))?;
        if let Some(missing) = upkeep.names.iter().find(|name| !read.names.contains(name)) {
            return Err(Trouble::Unusable(format!("the certificate is not good for {missing}")));
        }
        if read.not_before > now + AHEAD_MAX {
            return Err(Trouble::Unusable(format!("the certificate is not good before {}", read.not_before)));
        }
        Ok(OrderStep::Issued { chain, not_before: read.not_before, not_after: read.not_after })
    }
}

fn order_url(order: &Order) -> Result<&str, Trouble> {
    order.url.as_deref().ok_or_else(|| Trouble::Here("the order has no address".to_owned()))
}

/// The account at a directory, opened.
pub(super) fn account(state: &ClusterState, keyring: &Keyring, directory: &str) -> Result<Account, String> {
    let account = state.issuance().accounts.get(directory);
    let account = account.ok_or_else(|| format!("there is no account at {directory}"))?;
    let url = account.url.clone().ok_or_else(|| format!("the account at {directory} is not registered"))?;
    let key = keyring.open(&account.key, &seal::account(directory)).map_err(|error| error.to_string())?;
    let key = AccountKey::from_pkcs8(&key).map_err(|error| error.to_string())?;
    Ok(Account { key, url })
}

/// How the certificate in force is named to its issuer.
fn replaced(state: &ClusterState, upkeep: &Upkeep) -> Option<String> {
    let certificate = state.certificates().get(&upkeep.id)?;
    let read = inspect_certificate(certificate.chain.first()?).ok()?;
    Some(AcmeClient::certificate_id(&read.authority_key?, &read.serial))
}

/// Asks for an order until it is not `busy` any more.
async fn poll(
    client: &AcmeClient,
    account: &Account,
    url: &str,
    busy: impl Fn(&OrderState) -> bool,
) -> Result<Submitted, Trouble> {
    let deadline = Instant::now() + ISSUER_PATIENCE;
    loop {
        let looked = client.order(account, url).await?;
        if !busy(&looked.state) {
            return Ok(looked);
        }
        if Instant::now() >= deadline {
            return Err(Trouble::Slow(format!(
                "the issuer has not come to an end within {} s; it is asked again",
                ISSUER_PATIENCE.as_secs()
            )));
        }
        sleep(looked.retry_after.unwrap_or(POLL).clamp(POLL, POLL_MAX)).await;
    }
}
