//! The side that asks, and probes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use pangolin_core::id::NodeId;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, timeout_at},
};

use super::{Status, Urgent, read_frames, write_frames};
use crate::{
    error::PeerError,
    frame::{Kind, Message},
    link::{PROBE_INTERVAL, SUSPECT_AFTER},
    service::Service,
};

/// Most requests that wait to be written.
const QUEUE: usize = 1024;

/// Most bytes of requests without an answer, in KiB: eight of the largest.
const BUDGET_KIB: usize = 64 * 1024;

/// How many probes are remembered for their round-trip time.
const PROBES_REMEMBERED: usize = 8;

/// How often requests whose callers have gone are forgotten, in probe intervals.
const SWEEP_EVERY: u32 = 25;

/// A probe is sent at least this often, in probe intervals, however much else is answered.
const MEASURE_EVERY: u32 = 5;

/// Whoever has said something within this time needs no probe. Whoever is silent for [`SUSPECT_AFTER`] has had a whole
/// probe interval for an answer.
const HEARD_JUST_NOW: Duration = SUSPECT_AFTER.saturating_sub(PROBE_INTERVAL);

/// Weight of a new round-trip time in the average, as 1/8 (RFC 6298 §2.3).
const RTT_WEIGHT: u64 = 8;

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const WITHDRAWN: u8 = 2;

type Reply = (Status, Bytes);

struct Call {
    service: Service,
    body: Bytes,
    progress: Arc<AtomicU8>,
    reply: oneshot::Sender<Reply>,
    permit: OwnedSemaphorePermit,
}

/// A request that was written and has no answer. Holds its share of the budget.
struct Pending {
    reply: oneshot::Sender<Reply>,
    _permit: OwnedSemaphorePermit,
}

/// The callers' end of a control connection.
#[derive(Clone)]
pub(crate) struct ControlClient {
    node: NodeId,
    queue: mpsc::Sender<Call>,
    budget: Arc<Semaphore>,
}

impl ControlClient {
    /// Sends a request and waits for its answer. `asked` is when the caller began to wait, `reason` says, after
    /// the fact, why the connection broke.
    pub(crate) async fn request(
        &self,
        service: Service,
        body: Bytes,
        asked: Instant,
        limit: Duration,
        reason: impl FnOnce() -> String,
    ) -> Result<Bytes, PeerError> {
        let node = self.node;
        let share = u32::try_from(body.len() / 1024 + 1).unwrap_or(u32::MAX);
        let permit = self
            .budget
            .clone()
            .try_acquire_many_owned(share)
            .map_err(|_| PeerError::Busy { node, limit: "64 MiB of requests without an answer" })?;
        let progress = Arc::new(AtomicU8::new(QUEUED));
        let (reply, answer) = oneshot::channel();
        let call = Call { service, body, progress: progress.clone(), reply, permit };
        match self.queue.try_send(call) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(PeerError::Busy { node, limit: "1024 requests waiting to be sent" });
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Err(PeerError::Unreachable { node, reason: reason() });
            }
        }
        let answer = timeout_at(asked + limit, answer).await;
        if let Ok(Ok((status, body))) = answer {
            return verdict(node, status, body);
        }
        // Either the caller withdraws the request before the writer takes it, or it is on its way.
        let withdrawn =
            progress.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok();
        Err(match answer {
            Err(_) => PeerError::Timeout { node, after: limit, sent: !withdrawn },
            Ok(_) if withdrawn => PeerError::Unreachable { node, reason: reason() },
            Ok(_) => PeerError::Lost { node, reason: reason() },
        })
    }
}

/// What an answer means to the caller.
pub(crate) fn verdict(node: NodeId, status: Status, body: Bytes) -> Result<Bytes, PeerError> {
    let text = |body: Bytes| String::from_utf8_lossy(&body).into_owned();
    match status {
        Status::Done => Ok(body),
        Status::Refused => Err(PeerError::Refused { node, message: text(body) }),
        Status::NotTaken => Err(PeerError::NotTaken { node, message: text(body) }),
    }
}

/// The connection's end: what its task needs. Dropping it fails all requests under way.
pub(crate) struct ControlConnection {
    queue: mpsc::Receiver<Call>,
    pending: Mutex<HashMap<u32, Pending>>,
    probes: Mutex<Probes>,
    urgent: Urgent,
    next_id: AtomicU32,
}

struct Probes {
    sent: VecDeque<(u32, Instant)>,
    heard: Instant,
    /// A probe has been sent since then.
    asked: bool,
}

/// What to do about a peer.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Probe,
    Suspect,
}

/// What to do about a peer that has said nothing for `silence`, and whether a probe of that time is unanswered. `due` is
/// when its round-trip time is to be measured anew.
fn step(silence: Duration, asked: bool, rtt: Duration, due: bool) -> Step {
    if asked && silence >= SUSPECT_AFTER + rtt {
        Step::Suspect
    } else if due || silence >= HEARD_JUST_NOW {
        Step::Probe
    } else {
        Step::Nothing
    }
}

impl ControlConnection {
    /// A connection and its callers' end.
    pub(crate) fn new(node: NodeId) -> (ControlClient, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let client = ControlClient { node, queue: sender, budget: Arc::new(Semaphore::new(BUDGET_KIB)) };
        let probes = Mutex::new(Probes { sent: VecDeque::new(), heard: Instant::now(), asked: false });
        let (pending, urgent, next_id) = (Mutex::default(), Urgent::default(), AtomicU32::new(1));
        (client, Self { queue, pending, probes, urgent, next_id })
    }

    /// Runs the connection until it breaks or probes stay unanswered; gives the reason. `rtt` receives the
    /// smoothed round-trip time in nanoseconds. Connections with the same `beat` probe at the same moments: the
    /// process wakes once for all of them.
    pub(crate) async fn run(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin,
        rtt: &AtomicU64,
        beat: Instant,
    ) -> String {
        let Self { queue, pending, probes, urgent, next_id } = self;
        let (reader, writer) = tokio::io::split(stream);
        // The probe loop notices silence much earlier.
        let idle = SUSPECT_AFTER * 10;
        let read = read_frames(reader, idle, |message| take(message, pending, probes, rtt));
        let write = write_frames(writer, queue, urgent, |call| prepare(call, pending, next_id));
        // What has arrived is read before the silence is judged.
        tokio::select! {
            biased;
            reason = read => reason,
            reason = write => reason,
            reason = probe(pending, probes, urgent, rtt, beat) => reason,
        }
    }
}

fn prepare(call: Call, pending: &Mutex<HashMap<u32, Pending>>, next_id: &AtomicU32) -> Option<Message> {
    let Call { service, body, progress, reply, permit } = call;
    progress.compare_exchange(QUEUED, SENT, Ordering::AcqRel, Ordering::Acquire).ok()?;
    let id = next_id.fetch_add(1, Ordering::Relaxed);
    pending.lock().insert(id, Pending { reply, _permit: permit });
    Some(Message { kind: Kind::Request, tag: service as u8, id, body })
}

fn take(
    message: Message,
    pending: &Mutex<HashMap<u32, Pending>>,
    probes: &Mutex<Probes>,
    rtt: &AtomicU64,
) -> Result<(), String> {
    let now = Instant::now();
    {
        let mut probes = probes.lock();
        (probes.heard, probes.asked) = (now, false);
    }
    match message.kind {
        Kind::Answer => {
            let status = Status::from_tag(message.tag).ok_or("the other side has sent an unknown status")?;
            // Nobody waits for it any more if it is not there.
            if let Some(call) = pending.lock().remove(&message.id) {
                let _ = call.reply.send((status, message.body));
            }
            Ok(())
        }
        Kind::Pong => {
            let mut probes = probes.lock();
            while let Some((id, sent)) = probes.sent.pop_front() {
                if id == message.id {
                    smooth(rtt, now - sent);
                    break;
                }
            }
            Ok(())
        }
        Kind::Request | Kind::Ping => Err("the other side asks where it should answer".to_owned()),
    }
}

fn smooth(average: &AtomicU64, sample: Duration) {
    let sample = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX).max(1);
    let before = average.load(Ordering::Relaxed);
    let after = if before == 0 { sample } else { before - before / RTT_WEIGHT + sample / RTT_WEIGHT };
    average.store(after, Ordering::Relaxed);
}

/// The first moment after `now` that is a whole number of periods away from `beat`.
pub(crate) fn next_beat(beat: Instant, now: Instant, period: Duration) -> Instant {
    let passed = now.saturating_duration_since(beat).as_nanos() / period.as_nanos().max(1);
    beat + period * u32::try_from(passed + 1).unwrap_or(u32::MAX)
}

/// Sends probes; ends when nothing has been heard for too long.
async fn probe(
    pending: &Mutex<HashMap<u32, Pending>>,
    probes: &Mutex<Probes>,
    urgent: &Urgent,
    rtt: &AtomicU64,
    beat: Instant,
) -> String {
    let mut ticks = interval_at(next_beat(beat, Instant::now(), PROBE_INTERVAL), PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut last, mut ticked, mut count) = (Instant::now(), 0_u32, 0_u32);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let late = (now - last).saturating_sub(PROBE_INTERVAL);
        last = now;
        ticked = ticked.wrapping_add(1);
        if ticked.is_multiple_of(SWEEP_EVERY) {
            pending.lock().retain(|_, call| !call.reply.is_closed());
        }
        {
            let mut probes = probes.lock();
            // When this program itself has stood still, the silence of the others says nothing.
            probes.heard += late;
            let silence = now.saturating_duration_since(probes.heard);
            let rtt = Duration::from_nanos(rtt.load(Ordering::Relaxed));
            match step(silence, probes.asked, rtt, ticked.is_multiple_of(MEASURE_EVERY)) {
                Step::Suspect => return format!("it has not answered probes for {silence:?}"),
                Step::Nothing => continue,
                Step::Probe => {}
            }
            count = count.wrapping_add(1);
            if probes.sent.len() >= PROBES_REMEMBERED {
                probes.sent.pop_front();
            }
            probes.sent.push_back((count, now));
            probes.asked = true;
        }
        urgent.set(Kind::Ping, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_suspect_when_it_leaves_a_probe_unanswered() {
        let cases = [
            // Silence in ms, asked, round-trip time in ms, due.
            (0, false, 1, false, Step::Nothing),
            (99, false, 1, false, Step::Nothing),
            (10, false, 1, true, Step::Probe),
            (100, false, 1, false, Step::Probe),
            (299, true, 0, false, Step::Probe),
            (300, true, 0, false, Step::Suspect),
            (300, true, 1, false, Step::Probe),
            (499, true, 200, false, Step::Probe),
            (500, true, 200, true, Step::Suspect),
            // Nobody has asked it yet: this program itself was slow.
            (5000, false, 1, false, Step::Probe),
        ];
        for (silence, asked, rtt, due, expected) in cases {
            let ms = Duration::from_millis;
            let got = step(ms(silence), asked, ms(rtt), due);
            assert_eq!(got, expected, "{silence} ms, asked {asked}, rtt {rtt} ms, due {due}");
        }
    }

    #[test]
    fn a_dead_peer_is_suspect_within_half_a_second() {
        // The peer dies so many ms after a beat, having been heard that long after it.
        for died in 0..200_u64 {
            let (mut asked, mut beat) = (false, 0);
            let noticed = loop {
                beat += 200;
                match step(Duration::from_millis(beat - died), asked, Duration::ZERO, false) {
                    Step::Suspect => break beat - died,
                    Step::Probe => asked = true,
                    Step::Nothing => {}
                }
            };
            assert!((300..=500).contains(&noticed), "died at {died} ms, noticed after {noticed} ms");
        }
    }

    #[tokio::test]
    async fn all_connections_probe_at_the_same_moments() {
        let beat = Instant::now();
        for (now, next) in [(0, 200), (1, 200), (199, 200), (200, 400), (12_345, 12_400)] {
            let at = |ms| beat + Duration::from_millis(ms);
            assert_eq!(next_beat(beat, at(now), PROBE_INTERVAL), at(next), "after {now} ms");
        }
    }
}
