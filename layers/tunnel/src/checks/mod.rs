//! Health checks of targets, as the control channel words them ([`Check`]): one task each, and what is said of all of
//! them. Connectors carry them out for what lies behind them, nodes for what they reach themselves.

mod probe;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use pangolin_core::{
    Timestamp,
    health::{Streak, Thresholds},
    observation::TargetHealth,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet},
};

pub use self::probe::Place;
use self::probe::probe;
use crate::control::{Clock, messages::Check};

/// Newt's default for a check that says no interval.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
/// Newt's default for a check that says no timeout.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Checks under way at once; others wait their turn. Each is a connection; a thousand targets that answer within 200 ms
/// are still checked every second.
const AT_ONCE: usize = 200;
/// Checks that are begun together begin within so long for each of them: 200 in a second.
const STEP: Duration = Duration::from_millis(5);

/// A connection, whatever it is made of.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}
/// A connection behind a pointer.
pub type BoxConnection = Box<dyn Connection>;

/// How places are reached.
pub trait Dial: Clone + Send + Sync + 'static {
    /// Connects to the place that a check leads to, with TLS if it has it. What goes wrong is told for people.
    fn dial<'a>(&'a self, check: &'a Check, place: &'a Place)
    -> BoxFuture<'a, Result<BoxConnection, String>>;
}

/// What is known of one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What is said of it: unknown as long as not enough checks have ended.
    pub verdict: TargetHealth,
    /// When the last check ended.
    pub checked: Timestamp,
    /// How many have.
    pub count: u64,
    /// Why the last one failed; empty if it did not.
    pub error: String,
}

/// What is known of all targets, by the ids of their checks.
pub type Healths = BTreeMap<u64, Health>;

/// Carries out checks.
#[derive(Clone)]
pub struct Checker<D> {
    /// The way to targets.
    pub dial: D,
    /// What tells the time.
    pub clock: Clock,
    /// Who asks: the `User-Agent` of requests.
    pub agent: &'static str,
}

impl<D: Dial> Checker<D> {
    /// Runs the checks that are wanted, and says in `healths` what comes of them. Whoever watches that is woken when a
    /// verdict changes, not at every check. Ends when nobody can want anything any more.
    pub async fn run<W>(
        self,
        mut wanted: watch::Receiver<W>,
        checks: impl Fn(&W) -> &BTreeMap<u64, Check>,
        healths: watch::Sender<Healths>,
    ) {
        let mut running: BTreeMap<u64, (Check, AbortHandle)> = BTreeMap::new();
        let mut tasks = JoinSet::new();
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let checks = checks(&wanted.borrow_and_update()).clone();
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
            let together = checks.len() - running.len();
            for (id, check) in checks {
                running.entry(id).or_insert_with(|| {
                    let (checker, places, healths) = (self.clone(), Arc::clone(&places), healths.clone());
                    let first = first_pause(together, interval(&check, TargetHealth::Unknown));
                    let own = check.clone();
                    let task = tasks.spawn(async move {
                        tokio::time::sleep(first).await;
                        checker.keep_checking(own, places, healths).await;
                    });
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

    async fn keep_checking(self, check: Check, places: Arc<Semaphore>, healths: watch::Sender<Healths>) {
        let thresholds =
            Thresholds { healthy: check.hc_healthy_threshold, unhealthy: check.hc_unhealthy_threshold };
        let mut streak = Streak::default();
        loop {
            let result = {
                // Whoever waits longest is next: targets that answer late delay others, and silence nobody.
                let Ok(_place) = places.acquire().await else { return };
                probe(&check, &self.dial, self.agent, seconds(check.hc_timeout, TIMEOUT_DEFAULT)).await
            };
            let before = streak.verdict();
            streak.record(result.is_ok(), thresholds);
            let verdict = streak.verdict();
            if verdict != before {
                let (id, host, port) = (check.id, &check.hc_hostname, check.hc_port);
                let error = result.as_ref().err().map(String::as_str).unwrap_or_default();
                tracing::info!(id, host, port, verdict = verdict.name(), error, "target");
            }
            healths.send_if_modified(|healths| {
                let health = healths.entry(check.id).or_default();
                let news = health.verdict != verdict || health.count == 0;
                health.verdict = verdict;
                health.checked = (self.clock)();
                health.count += 1;
                health.error = result.err().unwrap_or_default();
                news
            });
            tokio::time::sleep(interval(&check, verdict)).await;
        }
    }
}

/// The time between checks.
fn interval(check: &Check, verdict: TargetHealth) -> Duration {
    let seconds_given = match verdict {
        TargetHealth::Unhealthy => check.hc_unhealthy_interval,
        TargetHealth::Healthy | TargetHealth::Unknown => check.hc_interval,
    };
    seconds(seconds_given, INTERVAL_DEFAULT)
}

/// Seconds as the protocol has them: 0 means the default.
fn seconds(given: u32, default: Duration) -> Duration {
    if given == 0 { default } else { Duration::from_secs(given.into()) }
}

/// How long one of so many checks that begin together waits, so that they do not all fire at once; the later ones stay
/// as far apart.
fn first_pause(together: usize, interval: Duration) -> Duration {
    let within = STEP.saturating_mul(u32::try_from(together).unwrap_or(u32::MAX)).min(interval);
    within.mul_f64(rand::random())
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Longest wait for anything in a test.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// Nobody gets through until the door opens; counts who waits.
    #[derive(Clone)]
    struct Door {
        open: watch::Receiver<bool>,
        waiting: watch::Sender<usize>,
    }

    impl Dial for Door {
        fn dial<'a>(&'a self, _: &'a Check, _: &'a Place) -> BoxFuture<'a, Result<BoxConnection, String>> {
            Box::pin(async move {
                self.waiting.send_modify(|waiting| *waiting += 1);
                let _ = self.open.clone().wait_for(|open| *open).await;
                self.waiting.send_modify(|waiting| *waiting -= 1);
                Err("nobody is here".to_owned())
            })
        }
    }

    fn checks(count: u64) -> BTreeMap<u64, Check> {
        let check = |id| Check { id, hc_mode: "tcp".into(), hc_timeout: 3600, ..Check::default() };
        (0..count).map(|id| (id, check(id))).collect()
    }

    #[tokio::test]
    async fn only_so_many_checks_are_under_way_and_all_are_made() {
        let (door, open) = watch::channel(false);
        let (waiting, mut are_waiting) = watch::channel(0);
        let checker = Checker { dial: Door { open, waiting }, clock: crate::wall_clock, agent: "test" };
        let (wanted, is_wanted) = watch::channel(checks(300));
        let (healths, mut are_healths) = watch::channel(Healths::new());
        let all: fn(&BTreeMap<u64, Check>) -> &BTreeMap<u64, Check> = |checks| checks;
        let running = tokio::spawn(checker.run(is_wanted, all, healths));
        let full = are_waiting.wait_for(|waiting| *waiting >= AT_ONCE);
        timeout(PATIENCE, full).await.expect("in time").expect("they wait");
        // Long enough for all of them to begin.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(*are_waiting.borrow(), AT_ONCE);
        door.send_replace(true);
        let told = are_healths.wait_for(|healths| {
            healths.len() == 300 && healths.values().all(|health| health.error == "nobody is here")
        });
        drop(timeout(PATIENCE, told).await.expect("in time").expect("all are checked"));
        // What is not wanted any more is forgotten.
        wanted.send_replace(checks(1));
        let told = are_healths.wait_for(|healths| healths.len() == 1);
        drop(timeout(PATIENCE, told).await.expect("in time").expect("the others are forgotten"));
        drop(wanted);
        timeout(PATIENCE, running).await.expect("in time").expect("it ends when nobody can want anything");
    }

    #[test]
    fn few_checks_begin_soon_and_many_within_their_interval() {
        for (together, interval, within) in [(1, 30, 5), (10, 30, 50), (1000, 30, 5000), (1000, 1, 1000)] {
            let pause = first_pause(together, Duration::from_secs(interval));
            assert!(pause <= Duration::from_millis(within), "{together} every {interval} s: {pause:?}");
        }
    }
}
