//! Asks again and again, and says afterwards how long nobody answered.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::https::Https;

/// How often a new request is sent, whatever became of those before.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// A request that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Header field of answers: which way the edge took to the target.
pub const VIA_HEADER: &str = "x-pangolin-via";

/// One request.
#[derive(Clone, Debug)]
pub struct Probe {
    /// When it was sent.
    pub sent: Instant,
    /// How long it took to answer or fail.
    pub took: Duration,
    /// Which way it went, as the edge says; or what went wrong.
    pub result: Result<Option<String>, String>,
}

/// A request every [`INTERVAL`], each on a new connection, through one node.
#[derive(Debug)]
pub struct Prober {
    probes: Arc<Mutex<Vec<Probe>>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Prober {
    /// Begins to ask `at` for `https://HOST/`.
    #[must_use]
    pub fn start(https: Https, at: SocketAddr, host: &str) -> Self {
        let probes = Arc::<Mutex<Vec<Probe>>>::default();
        let stop = CancellationToken::new();
        let task = tokio::spawn(ask(https, at, host.to_owned(), Arc::clone(&probes), stop.clone()));
        Self { probes, stop, task: Some(task) }
    }

    /// What is known so far.
    #[must_use]
    pub fn so_far(&self) -> Vec<Probe> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops asking, waits for the answers that are still out, and gives all.
    pub async fn stop(mut self) -> Vec<Probe> {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // It cannot have been aborted, and it does not panic.
            let _ = task.await;
        }
        self.so_far()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn ask(
    https: Https,
    at: SocketAddr,
    host: String,
    probes: Arc<Mutex<Vec<Probe>>>,
    stop: CancellationToken,
) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut out = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let (https, host, probes) = (https.clone(), host.clone(), Arc::clone(&probes));
        out.spawn(async move {
            let probe = probe(&https, at, &host).await;
            probes.lock().unwrap_or_else(PoisonError::into_inner).push(probe);
        });
        while out.try_join_next().is_some() {}
    }
    while out.join_next().await.is_some() {}
}

/// One request.
pub async fn probe(https: &Https, at: SocketAddr, host: &str) -> Probe {
    let sent = Instant::now();
    let result = match https.get(at, host, "/", PATIENCE).await {
        Ok(response) if response.status.is_success() => Ok(response.header(VIA_HEADER).map(str::to_owned)),
        Ok(response) => Err(format!("status {}", response.status.as_u16())),
        Err(error) => Err(format!("{error:#}")),
    };
    Probe { sent, took: sent.elapsed(), result }
}

/// What a series of probes says.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// The longest time between two good answers, in milliseconds, and before the first one.
    pub longest_gap_ms: u64,
    /// Requests without a good answer.
    pub failed: usize,
    /// All requests.
    pub total: usize,
    /// The slowest good answer, in milliseconds.
    pub slowest_ms: u64,
}

/// The figures of probes.
#[must_use]
pub fn figures(probes: &[Probe]) -> Figures {
    let good = probes.iter().filter(|probe| probe.result.is_ok());
    let mut answered: Vec<Instant> = good.clone().map(|probe| probe.sent + probe.took).collect();
    answered.sort_unstable();
    // From the first request on, so that a series that begins with silence does not hide it.
    let began = probes.iter().map(|probe| probe.sent).min();
    let ended = probes.iter().map(|probe| probe.sent).max();
    let marks: Vec<Instant> = began.into_iter().chain(answered.iter().copied()).collect();
    let between = marks.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max();
    let at_the_end = match (marks.last(), ended) {
        (Some(last), Some(ended)) => ended.saturating_duration_since(*last),
        _ => Duration::ZERO,
    };
    Figures {
        longest_gap_ms: millis(between.unwrap_or_default().max(at_the_end)),
        failed: probes.iter().filter(|probe| probe.result.is_err()).count(),
        total: probes.len(),
        slowest_ms: millis(good.map(|probe| probe.took).max().unwrap_or_default()),
    }
}

/// Whole milliseconds, rounded up: a gap of 1000.2 ms is longer than one of 1000.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(began: Instant, probes: &[(u64, u64, bool)]) -> Vec<Probe> {
        let ms = Duration::from_millis;
        let probe = |(sent, took, good): &(u64, u64, bool)| Probe {
            sent: began + ms(*sent),
            took: ms(*took),
            result: if *good { Ok(None) } else { Err("status 502".to_owned()) },
        };
        probes.iter().map(probe).collect()
    }

    #[test]
    fn a_gap_lies_between_good_answers() {
        let began = Instant::now();
        let probes = series(began, &[(0, 10, true), (50, 700, true), (100, 5, false), (800, 10, true)]);
        let expected = Figures { longest_gap_ms: 740, failed: 1, total: 4, slowest_ms: 700 };
        assert_eq!(figures(&probes), expected);
    }

    #[test]
    fn silence_at_either_end_counts() {
        let began = Instant::now();
        let late = series(began, &[(0, 2, false), (300, 10, true), (350, 10, true)]);
        assert_eq!(figures(&late).longest_gap_ms, 310);
        let lost = series(began, &[(0, 10, true), (50, 2000, false), (900, 2000, false)]);
        assert_eq!(figures(&lost).longest_gap_ms, 890);
        assert_eq!(figures(&[]), Figures::default());
    }
}
