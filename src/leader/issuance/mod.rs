//! Gets certificates of public issuers: follows the orders in the log, step by step, and keeps what issuers say about
//! renewals and revocations.
//!
//! What is to be done follows from the state alone (`pangolin_core::issuance::tasks`), so that a new leader goes on
//! where the last one ended. All of it is dropped with the term, in the middle of a request if need be.

mod account_keys;
mod problem;
mod published;
mod refusal;
mod registration;
mod renewal;
mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use pangolin_acme::{AcmeClient, AcmeError};
use pangolin_core::{
    ClusterState, HostName,
    issuance::{Step, Task, next_wake, tasks},
};
use parking_lot::Mutex;
use tokio::time::sleep;
use tracing::debug;

use super::{Leading, RETRY};
use crate::keys::Keys;
use steps::Work;

/// Orders that are worked on at the same time: enough that one slow name holds nobody up, few enough for any issuer.
const AT_ONCE: usize = 8;
/// How long changes are gathered before everything is looked at again.
const SETTLE: Duration = Duration::from_millis(50);
/// How often everything is looked at though nothing changed.
const SLOW: Duration = Duration::from_secs(30);
/// How long a client is used before its directory is asked for again.
const CLIENT_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The clients of issuers, by directory.
#[derive(Default)]
pub(super) struct Clients {
    known: Mutex<BTreeMap<String, Known>>,
}

struct Known {
    roots: Vec<Vec<u8>>,
    since: Instant,
    client: Arc<AcmeClient>,
}

impl Clients {
    /// The client of a directory. One that is configured no more is spoken to as far as the system trusts it.
    fn get(&self, state: &ClusterState, directory: &str) -> Result<Arc<AcmeClient>, AcmeError> {
        let roots = state.issuance().issuer(directory).map(|issuer| issuer.roots.clone()).unwrap_or_default();
        let mut known = self.known.lock();
        if let Some(known) = known.get(directory)
            && known.roots == roots
            && known.since.elapsed() < CLIENT_LIFE
        {
            return Ok(known.client.clone());
        }
        let user_agent = format!("pangolin-cluster/{}", crate::VERSION);
        let client = Arc::new(AcmeClient::new(directory, &roots, &user_agent)?);
        let fresh = Known { roots, since: Instant::now(), client: client.clone() };
        known.insert(directory.to_owned(), fresh);
        Ok(client)
    }

    fn forget(&self, directory: &str) {
        self.known.lock().remove(directory);
    }
}

/// What must not be done twice at the same time: a certificate's step, or the registration of an account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Certificate(Vec<HostName>),
    Account(String),
}

fn key(task: &Task) -> Key {
    match &task.step {
        Step::Register { directory } => Key::Account(directory.clone()),
        _ => Key::Certificate(task.names.clone()),
    }
}

impl Leading {
    /// Looks after certificates of public issuers; ends only by being dropped.
    pub(super) async fn issuance_loop(&self, keyring: &Keys) {
        let clients = Clients::default();
        tokio::join!(
            self.orders_loop(keyring, &clients),
            self.windows_loop(&clients),
            self.revocations_loop(keyring, &clients),
            self.account_keys_loop(keyring, &clients),
        );
    }

    async fn orders_loop(&self, keyring: &Keys, clients: &Clients) {
        let mut states = self.cluster.watch();
        let mut running = FuturesUnordered::new();
        // What is under way.
        let mut busy: BTreeSet<Key> = BTreeSet::new();
        // Orders go on while everything else rests.
        let mut rest_until = Instant::now();
        loop {
            let mut pause = rest_until.saturating_duration_since(Instant::now());
            if pause.is_zero() {
                let state = states.borrow_and_update().clone();
                let now = self.cluster.time_of_most();
                for task in tasks(&state, now) {
                    let key = key(&task);
                    if running.len() < AT_ONCE && busy.insert(key.clone()) {
                        let work = Work {
                            leading: self,
                            keyring: keyring.now(),
                            clients,
                            state: state.clone(),
                            task,
                        };
                        running.push(async move { (key, work.run().await) });
                    }
                }
                pause = next_wake(&state, now).map_or(SLOW, |at| at.since(now)).clamp(SETTLE, SLOW);
            }
            tokio::select! {
                Some((key, done)) = running.next(), if !running.is_empty() => {
                    if let Err(reason) = done {
                        debug!(?key, reason, "a step of an order is done again");
                        rest_until = Instant::now() + RETRY;
                    }
                    busy.remove(&key);
                }
                _ = states.changed(), if rest_until <= Instant::now() => rest_until = Instant::now() + SETTLE,
                () = sleep(pause) => {}
            }
        }
    }
}
