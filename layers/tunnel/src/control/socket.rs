//! The loop of one control socket: feeds its [`Session`] and carries out what it says.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use pangolin_core::{SiteId, decide::tunnel_end, plan::TunnelPlan, record::Digest};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    Clock, SiteControl,
    attached::{Order, Seat, Why},
    messages::{
        CONNECTOR_MESSAGE_MAX, FromConnector, FromNode, MessageError, NODE_MESSAGE_MAX, Nothing, Received,
        decode, decode_gzip, encode,
    },
    session::{Action, Event, Session, View},
};

/// A connector pings every 30 s. One that was silent for twice that is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often the socket is looked after: credentials, silence, questions that were not answered.
const TICK: Duration = Duration::from_secs(5);
/// Every third tick, a ping makes a half-open socket fail, and the plan is compared in full.
const TICKS_PER_PING: u32 = 3;
/// Frames in a minute. A busy connector with a hundred targets sends some 200 when all its checks start anew.
const FRAMES_PER_MINUTE: u32 = 600;
/// A connector that takes nothing for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the other side has for its half of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// What the other nodes get to install a peer that was just committed: they apply it at the latest with the next
/// heartbeat, 50 ms later. A handshake that comes too early is repeated only after 5 s.
const PEER_SETTLE: Duration = Duration::from_millis(150);

/// Limits for tungstenite.
pub(super) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .max_message_size(Some(CONNECTOR_MESSAGE_MAX))
        .max_frame_size(Some(CONNECTOR_MESSAGE_MAX))
        .max_write_buffer_size(2 * NODE_MESSAGE_MAX)
}

type Commit = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// An open control socket.
pub(super) struct Socket<S> {
    port: Arc<dyn SiteControl>,
    now: Clock,
    site: SiteId,
    credential: Digest,
    seat: Seat,
    orders: mpsc::Receiver<Order>,
    plan: watch::Receiver<Arc<TunnelPlan>>,
    ws: WebSocketStream<S>,
    session: Session,
    commit: Option<Commit>,
    heard: Instant,
    window: (Instant, u32),
}

/// Why the loop ends.
struct End {
    code: CloseCode,
    reason: String,
    /// Whether the closing handshake is worth a try.
    polite: bool,
}

impl End {
    fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), polite: true }
    }

    fn broken(reason: impl Into<String>) -> Self {
        Self { code: CloseCode::Abnormal, reason: reason.into(), polite: false }
    }
}

/// What woke the loop.
enum Wake {
    Frame(Option<Result<Message, WsError>>),
    Plan(bool),
    Committed(Result<(), String>),
    Order(Option<Order>),
    Tick,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(super) fn new(
        port: Arc<dyn SiteControl>,
        now: Clock,
        (site, credential): (SiteId, Digest),
        (seat, orders): (Seat, mpsc::Receiver<Order>),
        ws: WebSocketStream<S>,
    ) -> Self {
        let (plan, start) = (port.plan(), Instant::now());
        let session = Session::default();
        Self {
            port,
            now,
            site,
            credential,
            seat,
            orders,
            plan,
            ws,
            session,
            commit: None,
            heard: start,
            window: (start, 0),
        }
    }

    /// Serves the connector until either side ends it.
    pub(super) async fn run(mut self) {
        self.seat.open();
        tracing::debug!(site = %self.site, "control socket open");
        let end = self.serve().await;
        self.seat.leave();
        tracing::info!(site = %self.site, reason = end.reason, "control socket closed");
        if end.polite {
            self.close(end).await;
        }
    }

    async fn serve(&mut self) -> End {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks: u32 = 0;
        loop {
            let wake = tokio::select! {
                frame = self.ws.next() => Wake::Frame(frame),
                changed = self.plan.changed() => Wake::Plan(changed.is_ok()),
                result = finished(&mut self.commit) => Wake::Committed(result),
                order = self.orders.recv() => Wake::Order(order),
                _ = tick.tick() => Wake::Tick,
            };
            let step = match wake {
                Wake::Frame(frame) => self.frame(frame).await,
                Wake::Plan(true) => self.planned().await,
                Wake::Plan(false) => Err(End::new(CloseCode::Away, "the node stops")),
                Wake::Committed(result) => {
                    self.commit = None;
                    self.step(Event::Committed(result)).await
                }
                Wake::Order(Some(Order::MoveTo(node))) => self.step(Event::Moved(node)).await,
                Wake::Order(Some(Order::Close(Why::Draining))) => {
                    Err(End::new(CloseCode::Away, "this node is draining; another one takes over"))
                }
                Wake::Order(Some(Order::Close(Why::Superseded))) => {
                    Err(End::new(CloseCode::Policy, "the site has opened newer sockets"))
                }
                Wake::Order(None) => Err(End::new(CloseCode::Away, "the node stops")),
                Wake::Tick => {
                    ticks = ticks.wrapping_add(1);
                    self.tick(ticks).await
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn frame(&mut self, frame: Option<Result<Message, WsError>>) -> Result<(), End> {
        let message = match frame {
            Some(Ok(message)) => message,
            Some(Err(WsError::Capacity(error))) => return Err(End::new(CloseCode::Size, error.to_string())),
            Some(Err(error @ (WsError::Protocol(_) | WsError::Utf8(_)))) => {
                return Err(End::new(CloseCode::Protocol, error.to_string()));
            }
            Some(Err(error)) => return Err(End::broken(error.to_string())),
            None => return Err(End::broken("the connector is gone")),
        };
        self.heard = Instant::now();
        self.count()?;
        let received = match &message {
            Message::Text(text) => decode::<FromConnector>(text.as_bytes()),
            Message::Binary(bytes) => decode_gzip(bytes),
            Message::Close(_) => return Err(End::broken("closed by the connector")),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(()),
        };
        match received {
            Ok(Received::Known(message, version)) => self.step(Event::Received(message, version)).await,
            Ok(Received::Unknown(kind)) => {
                tracing::trace!(site = %self.site, kind, "message ignored");
                Ok(())
            }
            Err(error @ MessageError::TooLong(_)) => Err(End::new(CloseCode::Size, error.to_string())),
            Err(error) => Err(End::new(CloseCode::Policy, error.to_string())),
        }
    }

    fn count(&mut self) -> Result<(), End> {
        let (start, frames) = &mut self.window;
        if start.elapsed() > Duration::from_secs(60) {
            (*start, *frames) = (Instant::now(), 0);
        }
        *frames += 1;
        if *frames > FRAMES_PER_MINUTE {
            let reason = format!("more than {FRAMES_PER_MINUTE} messages in a minute");
            return Err(End::new(CloseCode::Policy, reason));
        }
        Ok(())
    }

    async fn tick(&mut self, ticks: u32) -> Result<(), End> {
        if self.heard.elapsed() > SILENCE_MAX {
            return Err(End::broken("the connector has been silent for a minute"));
        }
        if ticks.is_multiple_of(TICKS_PER_PING) {
            self.send(Message::Ping(bytes::Bytes::new())).await?;
            self.planned().await?;
        } else {
            self.check_credential().await?;
        }
        self.step(Event::Looked).await
    }

    async fn planned(&mut self) -> Result<(), End> {
        self.check_credential().await?;
        self.step(Event::Planned).await
    }

    /// A connector whose secret is not the present one any more has to go.
    async fn check_credential(&mut self) -> Result<(), End> {
        match self.port.credential(self.site) {
            Some(credential) if credential != self.credential => {
                self.send(Message::text(encode(&FromNode::Terminate(Nothing {}), 1))).await?;
                Err(End::new(CloseCode::Policy, "the site's secret has changed"))
            }
            // A site that is gone is a matter of the plan.
            _ => Ok(()),
        }
    }

    async fn step(&mut self, event: Event) -> Result<(), End> {
        let plan = Arc::clone(&self.plan.borrow_and_update());
        let site = plan.sites.get(&self.site);
        let offers = site.map_or(&[][..], |site| &site.offers);
        let suspect = |node| self.port.suspect(node);
        let end = tunnel_end(offers, suspect, |node| self.port.carried(self.site, node));
        let home = tunnel_end(offers, suspect, |_| false);
        let usable: Vec<_> = offers.iter().copied().filter(|node| !suspect(*node)).collect();
        let view = View {
            site,
            nodes: &plan.nodes,
            home,
            end,
            usable: &usable,
            carried: end.is_some_and(|end| self.port.carried(self.site, end)),
            now: (self.now)(),
        };
        for action in self.session.on(&view, event) {
            match action {
                Action::Send(message, version) => self.send(Message::text(encode(&message, version))).await?,
                Action::Commit { key, version, multi_homed } => {
                    let (port, site) = (Arc::clone(&self.port), self.site);
                    let alone = end.is_none_or(|end| end == port.node() && !multi_homed);
                    self.commit = Some(Box::pin(async move {
                        let result = port.register(site, key, version, multi_homed).await;
                        if let Err(error) = &result {
                            tracing::warn!(%site, reason = error.reason, "a connector's key was not committed");
                        } else if !alone {
                            sleep(PEER_SETTLE).await;
                        }
                        result.map_err(|error| error.reason)
                    }));
                }
                Action::Health(health) => self.seat.health(health),
                Action::Attachment(attachment) => self.seat.attachment(attachment),
                Action::Leave => self.seat.farewell(),
                Action::Close(reason) => return Err(End::new(CloseCode::Policy, reason)),
            }
        }
        Ok(())
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        match timeout(WRITE_TIMEOUT, self.ws.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::broken(error.to_string())),
            Err(_) => Err(End::broken("the connector takes nothing any more")),
        }
    }

    /// Says why, and waits for the other side's half of the closing handshake.
    async fn close(&mut self, end: End) {
        // A close frame has room for 123 bytes of reason (RFC 6455, 5.5).
        let length = (0..=end.reason.len().min(123)).rev().find(|at| end.reason.is_char_boundary(*at));
        let reason = end.reason.get(..length.unwrap_or(0)).unwrap_or_default();
        let frame = CloseFrame { code: end.code, reason: reason.into() };
        let farewell = async {
            self.ws.close(Some(frame)).await?;
            while self.ws.next().await.is_some_and(|frame| frame.is_ok()) {}
            Ok::<(), WsError>(())
        };
        // If it does not come to that, dropping the socket closes it as well.
        let _ = timeout(CLOSE_TIMEOUT, farewell).await;
    }
}

async fn finished(commit: &mut Option<Commit>) -> Result<(), String> {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}
