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
    time::{Instant, MissedTickBehavior, interval, timeout_at},
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
const SWEEP_EVERY: u32 = 50;

/// A probe is sent at least this often, in probe intervals, however much else is answered.
const MEASURE_EVERY: u32 = 10;

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
}

impl ControlConnection {
    /// A connection and its callers' end.
    pub(crate) fn new(node: NodeId) -> (ControlClient, Self) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let client = ControlClient { node, queue: sender, budget: Arc::new(Semaphore::new(BUDGET_KIB)) };
        let probes = Mutex::new(Probes { sent: VecDeque::new(), heard: Instant::now() });
        let (pending, urgent, next_id) = (Mutex::default(), Urgent::default(), AtomicU32::new(1));
        (client, Self { queue, pending, probes, urgent, next_id })
    }

    /// Runs the connection until it breaks or probes stay unanswered; gives the reason. `rtt` receives the
    /// smoothed round-trip time in nanoseconds.
    pub(crate) async fn run(
        &mut self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin,
        rtt: &AtomicU64,
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
            reason = probe(pending, probes, urgent) => reason,
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
    probes.lock().heard = now;
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

/// Sends probes; ends when nothing has been heard for too long.
async fn probe(pending: &Mutex<HashMap<u32, Pending>>, probes: &Mutex<Probes>, urgent: &Urgent) -> String {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut last, mut ticked, mut count) = (Instant::now(), 0_u32, 0_u32);
    loop {
        ticks.tick().await;
        let now = Instant::now();
        let late = (now - last).saturating_sub(2 * PROBE_INTERVAL);
        last = now;
        {
            let mut probes = probes.lock();
            // When this program itself has stood still, the silence of the others says nothing.
            probes.heard += late;
            if now.saturating_duration_since(probes.heard) >= SUSPECT_AFTER {
                return format!("it has not answered probes for {SUSPECT_AFTER:?}");
            }
            // Whoever has just answered something else needs no probe; now and then one is sent all the same,
            // because they measure the round-trip time.
            ticked = ticked.wrapping_add(1);
            if ticked.is_multiple_of(SWEEP_EVERY) {
                pending.lock().retain(|_, call| !call.reply.is_closed());
            }
            if now.saturating_duration_since(probes.heard) < PROBE_INTERVAL
                && !ticked.is_multiple_of(MEASURE_EVERY)
            {
                continue;
            }
            count = count.wrapping_add(1);
            if probes.sent.len() >= PROBES_REMEMBERED {
                probes.sent.pop_front();
            }
            probes.sent.push_back((count, now));
        }
        urgent.set(Kind::Ping, count);
    }
}
