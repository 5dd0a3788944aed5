//! Health checks of the targets: one task each, and what is said of all of them.

mod probe;
mod verdict;

use std::{collections::BTreeMap, time::Duration};

use pangolin_core::Timestamp;
use pangolin_tunnel::control::messages::Check;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
};

pub use self::verdict::Verdict;
use self::{
    probe::{probe, seconds},
    verdict::Streak,
};
use crate::{dial::Tls, now, wanted::Wanted};

/// Newt's default for a check that says none.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);

/// What is known of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What is said of it.
    pub verdict: Verdict,
    /// When the last check ended.
    pub checked: Timestamp,
    /// How many have.
    pub count: u64,
    /// Why the last one failed; empty if it did not.
    pub error: String,
}

/// What is known of all targets, by the ids of their checks.
pub type Healths = BTreeMap<u64, Health>;

/// Runs the checks that are wanted, and says in `healths` what comes of them. Whoever watches that is woken when a
/// verdict changes, not at every check. Ends when nobody can want anything any more.
pub(crate) async fn run(mut wanted: watch::Receiver<Wanted>, healths: watch::Sender<Healths>, tls: Tls) {
    let mut running: BTreeMap<u64, (Check, AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let checks = wanted.borrow_and_update().checks.clone();
        running.retain(|id, (check, task)| {
            let stays = checks.get(id) == Some(check);
            if !stays {
                task.abort();
            }
            stays
        });
        healths.send_if_modified(|healths| {
            let before = healths.len();
            healths.retain(|id, _| checks.contains_key(id));
            healths.len() != before
        });
        for (id, check) in checks {
            running.entry(id).or_insert_with(|| {
                let task = tasks.spawn(keep_checking(check.clone(), healths.clone(), tls.clone()));
                (check, task)
            });
        }
        // Tasks end only when they are aborted; their results are collected so that they do not pile up.
        while tasks.try_join_next().is_some() {}
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

async fn keep_checking(check: Check, healths: watch::Sender<Healths>, tls: Tls) {
    let mut streak = Streak::default();
    loop {
        let result = probe(&check, &tls).await;
        let before = streak.verdict;
        streak.record(result.is_ok(), &check);
        if streak.verdict != before {
            let (id, host, port) = (check.id, &check.hc_hostname, check.hc_port);
            let error = result.as_ref().err().map(String::as_str).unwrap_or_default();
            tracing::info!(id, host, port, verdict = streak.verdict.name(), error, "target");
        }
        healths.send_if_modified(|healths| {
            let health = healths.entry(check.id).or_default();
            let news = health.verdict != streak.verdict || health.count == 0;
            health.verdict = streak.verdict;
            health.checked = now();
            health.count += 1;
            health.error = result.err().unwrap_or_default();
            news
        });
        let interval = match streak.verdict {
            Verdict::Unhealthy => check.hc_unhealthy_interval,
            Verdict::Healthy | Verdict::Unknown => check.hc_interval,
        };
        tokio::time::sleep(seconds(interval, INTERVAL_DEFAULT)).await;
    }
}
