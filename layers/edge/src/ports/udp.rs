//! Datagrams: each client address is a flow, for each of ours that it asks, which stays with its target until nothing has
//! come for a while.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pangolin_core::traffic::{PortKind, PortRules};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Search,
    datagram::{Ends, PortSocket},
    idle_of, tell,
};
use crate::{
    counters::bump,
    dial::{BoxedDatagrams, Via},
    edge::World,
    limits::Permit,
    listen::ACCEPT_PAUSE,
    pool::TargetPool,
    snapshot::Port,
};

/// Datagrams of a client that wait while its target is dialed or slow; more are dropped, as any network does.
const QUEUE: usize = 64;
/// Longest datagram there is.
const DATAGRAM_MAX: usize = 65_535;
/// A flow that the target has not answered is kept no longer: whoever makes up addresses gets no answers.
const UNANSWERED: Duration = Duration::from_secs(15);

/// Before another way is looked for.
const LOST_PAUSE: Duration = Duration::from_millis(100);

type Flows = Arc<Mutex<HashMap<Ends, mpsc::Sender<Bytes>>>>;

/// Takes datagrams until the port is closed or the edge stops.
pub(super) async fn serve(
    world: &Arc<World>,
    kind: PortKind,
    socket: Arc<PortSocket>,
    close: &CancellationToken,
) {
    tokio::select! {
        () = world.serving.cancelled() => {}
        () = close.cancelled() => return,
        () = world.stop.cancelled() => return,
    }
    let flows = Flows::default();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let received = tokio::select! {
            biased;
            () = close.cancelled() => return,
            // Answers that are under way still pass.
            () = world.stop.cancelled() => return,
            received = socket.receive(&mut buffer) => received,
        };
        match received {
            Ok((length, ends)) => {
                take(world, kind, &socket, &flows, ends, Bytes::copy_from_slice(&buffer[..length]));
            }
            // An earlier answer did not arrive: no concern of this one.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::warn!(%error, port = %kind, "datagrams cannot be received");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Hands a datagram to the flow of its client, which it begins if there is none.
fn take(
    world: &Arc<World>,
    kind: PortKind,
    socket: &Arc<PortSocket>,
    flows: &Flows,
    ends: Ends,
    datagram: Bytes,
) {
    let mut all = flows.lock();
    let datagram = match all.get(&ends).map(|flow| flow.try_send(datagram.clone())) {
        Some(Ok(()) | Err(mpsc::error::TrySendError::Full(_))) => return,
        Some(Err(mpsc::error::TrySendError::Closed(datagram))) => datagram,
        None => datagram,
    };
    let port = world.snapshot.load().ports.get(&kind).cloned();
    let Some((port, place)) = port.and_then(|port| port.admit(ends.client.ip()).map(|place| (port, place)))
    else {
        bump(&world.counters.refused_connections);
        return;
    };
    let (sender, queue) = mpsc::channel(QUEUE);
    // There is room for the first one.
    let _ = sender.try_send(datagram);
    all.insert(ends, sender);
    drop(all);
    let flow = Flow {
        world: Arc::clone(world),
        told: told(&port.rules, kind, ends),
        port,
        ends,
        socket: Arc::clone(socket),
        queue,
        _place: place,
    };
    let flows = Arc::clone(flows);
    world.upgraded.spawn(async move {
        let ends = flow.ends;
        let (stop, close) = (flow.world.close.clone(), flow.port.gate.close.clone());
        tokio::select! {
            () = Box::pin(flow.run()) => {}
            () = close.cancelled() => {}
            () = stop.cancelled() => {}
        }
        let mut all = flows.lock();
        if all.get(&ends).is_some_and(mpsc::Sender::is_closed) {
            all.remove(&ends);
        }
    });
}

/// The datagrams between one client and its target.
struct Flow {
    world: Arc<World>,
    port: Arc<Port>,
    ends: Ends,
    socket: Arc<PortSocket>,
    /// What the target is told of the client with each datagram: one that is lost takes nothing along that the next one
    /// needs, and targets keep nothing of flows. So expect it those that read it (dnsdist, BIND, unbound, go-mmproxy).
    told: Vec<u8>,
    queue: mpsc::Receiver<Bytes>,
    _place: Permit,
}

/// The header in front of each datagram of a flow; empty where none is wanted.
fn told(rules: &PortRules, kind: PortKind, ends: Ends) -> Vec<u8> {
    match (rules.proxy_protocol, kind) {
        (Some(version), PortKind::Udp(port)) => tell::header(version, ends.client, ends.server(port)),
        _ => Vec::new(),
    }
}

/// Why a flow does not go on as it was.
enum End {
    /// Nothing came for the allowed time.
    Idle,
    /// The way to the target was lost, or broke: another one is looked for.
    Lost,
}

impl Flow {
    async fn run(mut self) {
        while let Some((io, via, pool)) = self.reach().await {
            let _running = pool.begin();
            match self.carry(&*io, via, &pool).await {
                End::Idle => return,
                End::Lost => tokio::time::sleep(LOST_PAUSE).await,
            }
        }
    }

    async fn reach(&self) -> Option<(BoxedDatagrams, Via, Arc<TargetPool>)> {
        let mut search = Search::new(&self.world, &self.port.route, self.ends.client.ip());
        loop {
            let (index, pool) = search.next()?;
            match self.world.connector.open_datagrams(&pool.target, search.exclude()).await {
                Ok((io, via)) => {
                    bump(&self.world.counters.path(pool.target.site, via));
                    return Some((io, via, Arc::clone(pool)));
                }
                Err(error) => {
                    bump(&self.world.counters.upstream_errors);
                    if !search.failed(index, &error).await {
                        return None;
                    }
                }
            }
        }
    }

    async fn carry(&mut self, io: &dyn crate::dial::Datagrams, via: Via, pool: &TargetPool) -> End {
        let mut lost = pool.lost();
        let mut buffer = vec![0; DATAGRAM_MAX];
        let mut outgoing = self.told.clone();
        let idle = idle_of(&self.port);
        let mut deadline = Instant::now() + idle.min(UNANSWERED);
        let mut answered = false;
        loop {
            tokio::select! {
                datagram = self.queue.recv() => {
                    let Some(datagram) = datagram else { return End::Idle };
                    if answered {
                        deadline = Instant::now() + idle;
                    }
                    // One that is too long for the tunnel is lost, as on any network.
                    let datagram = if self.told.is_empty() {
                        &datagram[..]
                    } else {
                        outgoing.truncate(self.told.len());
                        outgoing.extend_from_slice(&datagram);
                        &outgoing[..]
                    };
                    if let Err(error) = io.send(datagram).await {
                        tracing::debug!(client = %self.ends.client, %error, "a datagram is lost");
                        if error.kind() != std::io::ErrorKind::InvalidInput {
                            return End::Lost;
                        }
                    }
                }
                received = io.receive(&mut buffer) => match received {
                    Ok(length) => {
                        if !answered {
                            answered = true;
                            pool.note_success();
                        }
                        deadline = Instant::now() + idle;
                        // The client may be gone: then the flow ends by itself.
                        let _ = self.socket.answer(&buffer[..length], self.ends).await;
                    }
                    // The session has ended at the other end for want of traffic.
                    Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return End::Idle,
                    Err(_) => return End::Lost,
                },
                () = sleep_until(deadline.into()) => return End::Idle,
                Ok(()) = lost.changed() => {
                    if *lost.borrow_and_update() == via {
                        return End::Lost;
                    }
                }
            }
        }
    }
}
