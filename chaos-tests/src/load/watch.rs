//! Looks at every node: who leads, how far it is, where it takes the site's home to be, and what it takes of the host. And at the host: how long threads that
//! could run had to wait for a processor says how busy it is, and so how much silence is nobody's fault.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use http::Method;
use pangolin_core::NodeId;
use pangolin_wire::{Answer, Checkpoint, Client, Health, Site};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use uuid::Uuid;

use super::Worker;
use crate::{
    history::{Observed, Role, Usage, What},
    testbed::{bed::Bed, recorder::Recorder, roster::Entry},
};

/// How often each node is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a node may take to say how it is.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// How often its use of the host is noted.
const USAGE_EVERY: Duration = Duration::from_secs(5);
/// How often the harness looks whether it comes to run in time.
const NAP: Duration = Duration::from_millis(20);
/// Lateness of the harness that is noted.
const LATE: Duration = Duration::from_millis(100);
/// How often one looks how long the nodes' threads have waited for a processor.
const WAITED_EVERY: Duration = Duration::from_secs(1);
/// Waiting of one node's threads in that time, taken together, that is noted.
const WAITED: Duration = Duration::from_secs(1);
/// What part of it counts as lateness: a node has many threads, and few of them are waited for.
const WAITED_PART: u32 = 40;

/// Starts looking.
///
/// # Errors
/// No thread can be started.
pub fn start(bed: &Bed) -> Result<Worker> {
    let (recorder, roster, site) = (bed.recorder.clone(), bed.roster.clone(), bed.site.id);
    Worker::start("watch", None, move |stop| async move {
        let mut looks = interval(LOOK_EVERY);
        let mut usages = interval(USAGE_EVERY);
        let mut waits = interval(WAITED_EVERY);
        let mut waited = BTreeMap::new();
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        usages.set_missed_tick_behavior(MissedTickBehavior::Skip);
        waits.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut under_way = JoinSet::new();
        loop {
            let napped = Instant::now();
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(NAP) => {
                    note_late(&recorder, napped.elapsed().saturating_sub(NAP), LATE);
                }
                _ = waits.tick() => {
                    let now: BTreeMap<u32, Duration> = roster
                        .members()
                        .into_iter()
                        .filter_map(|(_, _, entry)| Some((entry.pid?, waiting(entry.pid?))))
                        .collect();
                    // A process that has just begun has no time before.
                    let since = |(pid, now): (&u32, &Duration)| now.saturating_sub(*waited.get(pid).unwrap_or(now));
                    note_late(&recorder, now.iter().map(since).max().unwrap_or_default() / WAITED_PART, WAITED / WAITED_PART);
                    waited = now;
                }
                _ = looks.tick() => for (_, node, entry) in roster.members() {
                    if entry.pid.is_none() {
                        continue;
                    }
                    let (recorder, roster) = (recorder.clone(), roster.clone());
                    under_way.spawn_local(async move {
                        let client = Client::unix(&entry.socket);
                        let Ok(Ok(health)) = timeout(LOOK_PATIENCE, client.get::<Health>("/health")).await
                        else {
                            return;
                        };
                        // What a process said before it ended is not noted as if the next one had said it.
                        if !roster.entries().iter().any(|now| now.pid == entry.pid && now.id == Some(node)) {
                            return;
                        }
                        note_health(&recorder, node, health);
                        let path = format!("/site/{site}");
                        let shown = client.send(Method::GET, &path, None, Uuid::new_v4());
                        if let Ok(Ok(answer)) = timeout(LOOK_PATIENCE, shown).await {
                            note_home(&recorder, node, &answer);
                        }
                    });
                },
                _ = usages.tick() => for (_, node, entry) in roster.members() {
                    note_usage(&recorder, node, &entry);
                },
            }
            while under_way.try_join_next().is_some() {}
        }
        under_way.join_all().await;
    })
}

/// Notes who leads, how far the node is, and the state that it had at its latest checkpoint.
fn note_health(recorder: &Recorder, node: NodeId, health: Health) {
    let role = if health.leads { Role::Leader } else { Role::Other };
    let (term, applied) = (health.term, health.revision);
    recorder.push(What::Observed(Observed { node, role, term, applied, state: None }));
    if let Some(Checkpoint { revision: applied, digest }) = health.checkpoint {
        recorder.push(What::Observed(Observed { node, role, term, applied, state: Some(digest) }));
    }
}

/// Notes where a node takes the home of the site to be, by its own state.
fn note_home(recorder: &Recorder, node: NodeId, answer: &Answer) {
    let Ok(Site { site_id: site, home, epoch, .. }) = answer.parse("") else { return };
    if let (Some(revision), Some(home), Some(epoch)) = (answer.revision, home, epoch) {
        recorder.push(What::Placement { node, revision, site, epoch, home });
    }
}

fn note_late(recorder: &Recorder, late: Duration, least: Duration) {
    if late >= least {
        recorder.push(What::Late { micros: u64::try_from(late.as_micros()).unwrap_or(u64::MAX) });
    }
}

/// How long the threads of a process have waited for a processor so far, taken together (proc(5), `schedstat`: the
/// second number, in nanoseconds).
fn waiting(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let waits = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waits.sum())
}

/// Notes what the process of a node takes of the host.
fn note_usage(recorder: &Recorder, node: NodeId, entry: &Entry) {
    let Some(pid) = entry.pid else { return };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    if let (Some(memory), Ok(descriptors)) = (resident(&status), descriptors) {
        recorder.push(What::Usage(Usage { node, process: pid, memory, descriptors }));
    }
}

/// Resident memory in bytes (proc_pid_status(5)).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn resident_memory_is_read_from_the_status() {
        let status = "Name:\tpangolind\nVmPeak:\t  500 kB\nVmRSS:\t   1234 kB\nThreads:\t3\n";
        assert_eq!(super::resident(status), Some(1234 * 1024));
        assert_eq!(super::resident("Name:\tx\n"), None);
    }
}
