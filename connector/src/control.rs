//! The control channel's loop: through one door after the other, and the conversation on an open socket.
//!
//! Tunnels and targets do not depend on it: what was wanted last stays wanted while the socket is away.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use pangolin_core::{Timestamp, observation::TargetHealth, record::TunnelKey};
use pangolin_tunnel::{
    checks::{Health, Healths},
    control::messages::{
        self, FromConnector, FromNode, HealthStatus, Nothing, Received, Register, TargetStatus, decode,
        decode_gzip, encode, key_text,
    },
};
use rand::seq::SliceRandom as _;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_util::sync::CancellationToken;

use crate::{
    dial::Tls,
    distances::{Distances, is_news, results},
    endpoint::{Door, Endpoint, pause, round},
    now,
    options::Secret,
    sign_in::{Socket, sign_in},
    spread::spread,
    status::{ControlStatus, Status},
    wanted::Wanted,
};

/// When things are said on a socket, and when it counts as dead.
struct Pace {
    /// Between pings of the protocol, with the configuration version.
    ping: Duration,
    /// Between pings of the WebSocket, so that a dead node is noticed soon.
    probe: Duration,
    /// A node that has sent nothing for this long is dead.
    silence: Duration,
    /// Between registrations until one is answered.
    register: Duration,
    /// Before it is looked whether distances are worth telling: new tunnels come up together.
    measure: Duration,
    /// Between two that are told.
    distances: Duration,
}

/// Newt's pace for what Newt does too. A node is dead after two unanswered probes.
const PACE: Pace = Pace {
    ping: Duration::from_secs(30),
    probe: Duration::from_secs(5),
    silence: Duration::from_secs(10),
    register: Duration::from_secs(2),
    measure: Duration::from_secs(5),
    distances: Duration::from_secs(60),
};

/// A node that is in doubt, because a tunnel has died, has this long to answer a probe: a round trip, and then some.
const DOUBT_PATIENCE: Duration = Duration::from_secs(1);
/// Changes of health within this time are told in one message.
const HEALTH_DEBOUNCE: Duration = Duration::from_millis(100);
/// A node that takes nothing for this long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// What the farewell may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// A socket that stood for this long was a success, however it ended.
const STOOD: Duration = Duration::from_secs(10);
/// Connectors whose node goes come to the others spread over this time. Their tunnels to those do not wait for it.
const RECONNECT_SPREAD: Duration = Duration::from_millis(500);

/// The part that keeps the control socket.
pub(crate) struct Control {
    pub(crate) doors: Vec<Door>,
    pub(crate) id: String,
    pub(crate) secret: Secret,
    pub(crate) tls: Tls,
    pub(crate) key: TunnelKey,
    /// Keeps tunnels to several nodes at once, rather than the one that it is told.
    pub(crate) multi_homed: bool,
    pub(crate) wanted: watch::Sender<Wanted>,
    pub(crate) healths: watch::Receiver<Healths>,
    pub(crate) distances: watch::Receiver<Distances>,
    pub(crate) status: watch::Sender<Status>,
    /// Told when a tunnel has died: its node may have been the socket's as well.
    pub(crate) doubt: Arc<Notify>,
}

/// How a conversation ended.
enum End {
    Shutdown,
    Lost(String),
}

impl Control {
    /// Runs until shut down; then says farewell.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let (mut last, mut lost): (Option<Endpoint>, Option<Door>) = (None, None);
        let mut failed = 0;
        let mut doors = Vec::new().into_iter();
        loop {
            let Some(door) = doors.next() else {
                doors = self.doors(last.as_ref(), lost.as_ref()).into_iter();
                continue;
            };
            let socket = sign_in(&door, &self.tls, &self.id, &self.secret);
            let stood = match shutdown.run_until_cancelled(Box::pin(socket)).await {
                None => return,
                Some(Ok(socket)) => {
                    tracing::info!(%door, "control socket open");
                    let opened = Instant::now();
                    self.say_status(Some(&door), None);
                    let end = Conversation::new(&mut self, socket, &PACE).hold(&shutdown).await;
                    let End::Lost(reason) = end else { return };
                    tracing::warn!(%door, reason, "control socket lost");
                    self.say_status(None, Some(format!("{door}: {reason}")));
                    last = Some(door.endpoint.clone());
                    doors = self.doors(last.as_ref(), Some(&door)).into_iter();
                    lost = Some(door);
                    opened.elapsed() >= STOOD
                }
                Some(Err(error)) => {
                    tracing::warn!(%door, %error, "no control socket");
                    self.say_status(None, Some(format!("{door}: {error}")));
                    false
                }
            };
            let wait = if stood { self.reconnect_wait() } else { pause(failed, rand::random()) };
            if shutdown.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
            failed = if stood { 0 } else { failed.saturating_add(1) };
        }
    }

    /// How long to wait before another node is asked to take over. One that may have lost its only tunnel with the socket
    /// does not wait: through the socket it hears where to go.
    fn reconnect_wait(&self) -> Duration {
        let span = if self.multi_homed { RECONNECT_SPREAD } else { Duration::ZERO };
        spread(self.key, "control socket", span)
    }

    /// Says where the socket goes, or why there is none.
    fn say_status(&self, door: Option<&Door>, problem: Option<String>) {
        self.status.send_modify(|status| {
            let (before, door) = (&status.control, door.map(ToString::to_string));
            let same = before.door == door && before.since != Timestamp(0);
            let since = if same { before.since } else { now() };
            status.control = ControlStatus { door, since, problem };
        });
    }

    fn doors(&self, last: Option<&Endpoint>, lost: Option<&Door>) -> Vec<Door> {
        let mut learned: Vec<String> =
            self.wanted.borrow().nodes.iter().map(|node| node.control.clone()).collect();
        learned.shuffle(&mut rand::rng());
        if self.multi_homed {
            return round(&self.doors, &learned, last, lost);
        }
        // The one node known is where the tunnel ends, and no death shall take both: the last resort.
        let name = last.or(self.doors.first().map(|door| &door.endpoint));
        let mut doors = round(&self.doors, &[], last, lost);
        doors.extend(round(&[], &learned, name, None));
        doors
    }
}

/// What is said on one socket.
struct Conversation<'a> {
    control: &'a mut Control,
    socket: Socket,
    pace: &'a Pace,
    /// Of the last registration; an answer to another one is not for us.
    chain_id: String,
    /// A registration was answered.
    connected: bool,
    /// The configuration version of the last message.
    version: u64,
    heard: Instant,
    /// When a tunnel last died.
    doubted: Option<Instant>,
    /// The distances that the node was told.
    told: Distances,
    /// When they are looked at again.
    measure_at: Instant,
}

impl<'a> Conversation<'a> {
    fn new(control: &'a mut Control, socket: Socket, pace: &'a Pace) -> Self {
        let chain_id = format!("{:016x}", rand::random::<u64>());
        Self {
            control,
            socket,
            pace,
            chain_id,
            connected: false,
            version: 0,
            heard: Instant::now(),
            doubted: None,
            told: Distances::new(),
            measure_at: Instant::now() + pace.measure,
        }
    }

    async fn hold(mut self, shutdown: &CancellationToken) -> End {
        tokio::select! {
            reason = self.talk() => return End::Lost(reason),
            () = shutdown.cancelled() => {}
        }
        let farewell = async {
            if self.say(FromConnector::Disconnecting(Nothing {})).await.is_ok()
                && self.socket.close(None).await.is_ok()
            {
                while self.socket.next().await.is_some_and(|frame| frame.is_ok()) {}
            }
        };
        // If the node does not hear it, it notices by itself.
        let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
        End::Shutdown
    }

    /// Talks until the socket is lost; returns why.
    async fn talk(&mut self) -> String {
        let mut ping = interval(self.pace.ping);
        let mut probe = interval(self.pace.probe);
        let mut register = interval(self.pace.register);
        for timer in [&mut ping, &mut probe, &mut register] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        self.control.healths.mark_changed();
        loop {
            let (connected, deadline, measure_at) = (self.connected, self.deadline(), self.measure_at);
            let doubt = Arc::clone(&self.control.doubt);
            let said = tokio::select! {
                frame = self.socket.next() => self.hear(frame).await,
                _ = ping.tick() => {
                    // Before the answer to the registration, which says everything, a version would only ask for it.
                    self.say(FromConnector::Ping(Nothing {})).await
                }
                _ = probe.tick() => self.send(Message::Ping(Bytes::new())).await,
                () = doubt.notified() => {
                    self.doubted = Some(Instant::now());
                    // The only tunnel is gone: where to go now is asked like at the start.
                    self.connected &= self.control.multi_homed;
                    self.send(Message::Ping(Bytes::new())).await
                }
                () = sleep_until(deadline) => Err("the node does not answer".to_owned()),
                _ = register.tick(), if !connected => self.register().await,
                () = sleep_until(measure_at), if connected => self.tell_distances().await,
                changed = self.control.healths.changed(), if connected => match changed {
                    Ok(()) => {
                        sleep(HEALTH_DEBOUNCE).await;
                        self.tell_health().await
                    }
                    Err(_) => Err("the checks have ended".to_owned()),
                },
            };
            if let Err(reason) = said {
                return reason;
            }
        }
    }

    /// When a node that goes on saying nothing is dead.
    fn deadline(&self) -> Instant {
        match self.doubted {
            Some(doubted) if doubted >= self.heard => doubted + DOUBT_PATIENCE,
            _ => self.heard + self.pace.silence,
        }
    }

    async fn hear(&mut self, frame: Option<Result<Message, WsError>>) -> Result<(), String> {
        let message = match frame {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the node is gone".into()),
        };
        self.heard = Instant::now();
        let received = match &message {
            Message::Text(text) => decode::<FromNode>(text.as_bytes()),
            Message::Binary(bytes) => decode_gzip(bytes),
            Message::Close(Some(frame)) => return Err(format!("closed by the node: {}", frame.reason)),
            Message::Close(None) => return Err("closed by the node".into()),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(()),
        };
        match received {
            Ok(Received::Known(message, version)) => {
                self.version = version;
                self.take(message).await
            }
            Ok(Received::Unknown(kind)) => {
                tracing::debug!(kind, "message ignored");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn take(&mut self, message: FromNode) -> Result<(), String> {
        match &message {
            FromNode::Connect(connect) => {
                if !connect.chain_id.is_empty() && connect.chain_id != self.chain_id {
                    return Ok(());
                }
                self.connected = true;
            }
            FromNode::Refused(refused) => {
                tracing::warn!(reason = refused.reason, "the registration was refused; it is repeated");
            }
            FromNode::Terminate(_) => tracing::warn!("the cluster has taken the tunnels of this site down"),
            FromNode::HealthWanted(_) => return self.tell_health().await,
            _ => {}
        }
        self.control.wanted.send_if_modified(|wanted| {
            let before = wanted.clone();
            for complaint in wanted.take(message) {
                tracing::warn!(complaint, "a message makes no sense in part");
            }
            *wanted != before
        });
        Ok(())
    }

    async fn register(&mut self) -> Result<(), String> {
        self.told.clone_from(&self.control.distances.borrow());
        let register = Register {
            public_key: key_text(self.control.key),
            newt_version: env!("CARGO_PKG_VERSION").into(),
            backwards_compatible: false,
            multi_homed: self.control.multi_homed,
            chain_id: self.chain_id.clone(),
            ping_results: (!self.told.is_empty()).then(|| results(&self.told)),
        };
        self.say(FromConnector::Register(register)).await
    }

    async fn tell_health(&mut self) -> Result<(), String> {
        let targets = statuses(&self.control.healths.borrow_and_update());
        if targets.is_empty() {
            return Ok(());
        }
        self.say(FromConnector::HealthStatus(HealthStatus { targets })).await
    }

    /// Says how far the nodes are, if that is news.
    async fn tell_distances(&mut self) -> Result<(), String> {
        let distances = self.control.distances.borrow().clone();
        if !is_news(&self.told, &distances) {
            self.measure_at = Instant::now() + self.pace.measure;
            return Ok(());
        }
        self.measure_at = Instant::now() + self.pace.distances;
        let ping_results = results(&distances);
        self.told = distances;
        self.say(FromConnector::Distances(messages::Distances { ping_results })).await
    }

    async fn say(&mut self, message: FromConnector) -> Result<(), String> {
        let version = if self.connected { self.version } else { 0 };
        self.send(Message::text(encode(&message, version))).await
    }

    async fn send(&mut self, message: Message) -> Result<(), String> {
        match timeout(WRITE_TIMEOUT, self.socket.send(message)).await {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => Err("the node takes nothing any more".into()),
        }
    }
}

fn statuses(healths: &Healths) -> BTreeMap<String, TargetStatus> {
    let status = |health: &Health| TargetStatus {
        status: health.verdict.name().into(),
        last_check: rfc3339(health.checked),
        check_count: health.count,
        last_error: if health.verdict == TargetHealth::Healthy {
            String::new()
        } else {
            health.error.clone()
        },
    };
    healths.iter().map(|(id, health)| (id.to_string(), status(health))).collect()
}

fn rfc3339(at: Timestamp) -> String {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or_default();
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
