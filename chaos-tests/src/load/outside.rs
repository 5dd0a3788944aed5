//! Visitors and resolvers: every node is asked again and again, over HTTPS for the published page, over DNS for the
//! page's addresses.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Result;
use pangolin_core::{NodeId, Revision};
use pangolin_wire::{Client, Health};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::{
    dns::{self, Kind},
    history::{DnsAnswer, Probe, What},
    prober,
    testbed::{
        bed::{Bed, OUTSIDE_HOST},
        recorder::Recorder,
        roster::{Entry, Roster},
    },
};

/// How often each node is asked for the page, whatever became of the request before: each is a new connection with a
/// whole TLS handshake.
pub const PROBE_EVERY: Duration = Duration::from_millis(200);
/// How often each node's DNS is asked.
const RESOLVE_EVERY: Duration = Duration::from_millis(400);
/// Longest that the questions of one look may take together.
const TOGETHER: Duration = Duration::from_millis(300);
/// How long a node may take to say how far it is.
const HEALTH_PATIENCE: Duration = Duration::from_millis(500);

/// Starts asking.
///
/// # Errors
/// No thread can be started.
pub fn start(bed: &Bed) -> Result<Worker> {
    let (recorder, roster) = (bed.recorder.clone(), bed.roster.clone());
    let (https, host, zone) = (bed.https.clone(), bed.site.host.clone(), bed.cluster.options.zone.clone());
    Worker::start("outside", Some(&bed.network(OUTSIDE_HOST)?), move |stop| async move {
        let mut probes = interval(PROBE_EVERY);
        let mut questions = interval(RESOLVE_EVERY);
        probes.set_missed_tick_behavior(MissedTickBehavior::Skip);
        questions.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = probes.tick() => for (_, node, entry) in roster.members() {
                    let (https, host, recorder) = (https.clone(), host.clone(), recorder.clone());
                    under_way.spawn_local(async move {
                        let sent = recorder.began().elapsed();
                        let probe = prober::probe(&https, entry.https, &host).await;
                        let problem = probe.result.err();
                        recorder.push(What::Probe(Probe { node, sent: micros(sent), problem }));
                    });
                },
                _ = questions.tick() => for (_, node, entry) in roster.members() {
                    let asker = Asker { host: host.clone(), zone: zone.clone(), roster: roster.clone() };
                    let (recorder, stop) = (recorder.clone(), stop.clone());
                    under_way.spawn_local(async move { asker.ask(node, &entry, &recorder, &stop).await });
                },
            }
            while under_way.try_join_next().is_some() {}
        }
        under_way.join_all().await;
    })
}

struct Asker {
    host: String,
    zone: String,
    roster: Roster,
}

impl Asker {
    /// Asks for the addresses between two looks at the serial: the same before and after, it is the one that the
    /// answer follows from. How far the node has applied the log is asked last, because it only grows.
    async fn ask(&self, node: NodeId, entry: &Entry, recorder: &Recorder, stop: &CancellationToken) {
        let began = Instant::now();
        let host = format!("{} A", self.host);
        let zone = format!("{} SOA", self.zone);
        let same = |now: &Entry| now.pid == entry.pid && now.id == Some(node);
        let is_known = || !stop.is_cancelled() && self.roster.entries().iter().any(same);
        let note = |question: &str, code: u8| {
            if code != 0 && is_known() {
                let (question, answers, names) = (question.to_owned(), Vec::new(), BTreeSet::new());
                let (serial, applied) = (0, Revision::default());
                recorder.push(What::DnsAnswer(DnsAnswer {
                    node,
                    question,
                    code,
                    serial,
                    answers,
                    applied,
                    names,
                }));
            }
        };
        let Some(before) = self.serial(entry, |code| note(&zone, code)).await else { return };
        let Ok(answer) = dns::ask(entry.dns, &self.host, Kind::A).await else { return };
        note(&host, answer.code);
        if answer.code != 0 || self.serial(entry, |code| note(&zone, code)).await != Some(before) {
            return;
        }
        let client = Client::unix(&entry.socket);
        let health = timeout(HEALTH_PATIENCE, client.get::<Health>("/health")).await;
        let Ok(Ok(health)) = health else { return };
        // Answers of a process that is no more say nothing of the one that came after it, and answers that are far
        // apart say nothing of each other.
        if began.elapsed() > TOGETHER || !is_known() {
            return;
        }
        recorder.push(What::DnsAnswer(DnsAnswer {
            node,
            question: host,
            code: answer.code,
            serial: before,
            answers: answer.addresses.iter().map(ToString::to_string).collect(),
            applied: health.revision,
            names: answer.addresses.iter().filter_map(|address| self.roster.at(*address)).collect(),
        }));
    }

    async fn serial(&self, entry: &Entry, note: impl Fn(u8)) -> Option<u32> {
        let answer = dns::ask(entry.dns, &self.zone, Kind::Soa).await.ok()?;
        note(answer.code);
        answer.serial
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
