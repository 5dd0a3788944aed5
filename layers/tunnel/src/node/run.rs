//! The node's loop: answers probes and watches which tunnels are alive.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    TunnelLayer,
    dial::{Reach, udp_socket},
};
use crate::{
    error::TunnelError,
    liveness::COUNTER_INTERVAL,
    probe::{PROBE_PORT, Probe},
    stack::Stack,
    wall_clock,
};

/// How often the interface is looked for.
const INTERFACE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after an error of the probe socket, so that a lasting one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// Where probes arrive.
pub(super) enum ProbePort {
    Socket(UdpSocket),
    Stack(Stack, mpsc::Receiver<(SocketAddrV4, Bytes)>),
}

impl ProbePort {
    pub(super) fn interface(name: &str, address: Ipv4Addr) -> Result<Self, TunnelError> {
        let bound = udp_socket(name).and_then(|socket| {
            socket.bind(&SocketAddr::from((address, PROBE_PORT)).into())?;
            UdpSocket::from_std(socket.into())
        });
        let listen = SocketAddr::from((address, PROBE_PORT));
        bound.map(Self::Socket).map_err(|source| TunnelError::Listen { address: listen, source })
    }

    /// The next probe.
    async fn next(&mut self) -> io::Result<(SocketAddrV4, Option<Probe>)> {
        match self {
            Self::Socket(socket) => {
                let mut buffer = [0; 64];
                let (len, from) = socket.recv_from(&mut buffer).await?;
                match from {
                    SocketAddr::V4(from) => Ok((from, Probe::decode(&buffer[..len]))),
                    SocketAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
                }
            }
            Self::Stack(_, queue) => {
                let (from, payload) = queue.recv().await.ok_or(io::ErrorKind::BrokenPipe)?;
                Ok((from, Probe::decode(&payload)))
            }
        }
    }

    /// Sends an answer. One that is lost is made up for by the next.
    fn answer(&self, to: SocketAddrV4, answer: Probe) {
        match self {
            Self::Socket(socket) => drop(socket.try_send_to(&answer.encode(), SocketAddr::V4(to))),
            Self::Stack(stack, _) => drop(stack.send_udp(PROBE_PORT, to, &answer.encode())),
        }
    }
}

/// The work behind a [`TunnelLayer`].
pub struct TunnelTask {
    pub(super) layer: TunnelLayer,
    pub(super) probes: ProbePort,
}

impl TunnelTask {
    /// Runs until shut down; then all connections end, and socket and interface are gone.
    ///
    /// # Errors
    /// Someone has removed the interface.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), TunnelError> {
        let layer = self.layer.clone();
        let sessions = async {
            match &layer.0.reach {
                Reach::Stack(stack) => stack.run(&shutdown).await,
                Reach::Interface { .. } => shutdown.cancelled().await,
            }
        };
        let ended = tokio::select! {
            () = sessions => Ok(()),
            ended = layer.watch() => ended,
            () = layer.answer_probes(&mut self.probes) => Ok(()),
        };
        if let Reach::Stack(stack) = &layer.0.reach {
            stack.close().await;
        }
        layer.0.device.close().await;
        ended
    }
}

impl TunnelLayer {
    async fn answer_probes(&self, probes: &mut ProbePort) {
        loop {
            match probes.next().await {
                Ok((from, Some(Probe::Ask(sequence)))) => {
                    if self.probed(*from.ip()) {
                        probes.answer(from, Probe::Answer(sequence));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot receive tunnel probes, trying again");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// Notes a probe; false if no site has this address.
    fn probed(&self, from: Ipv4Addr) -> bool {
        let mut state = self.0.state.lock();
        let Some(site) = state.by_address.get(&from).copied() else { return false };
        if state.liveness.probed(site, Instant::now(), wall_clock()) {
            tracing::info!(%site, "tunnel is alive");
            self.0.seen.send_replace(state.liveness.seen());
        }
        true
    }

    async fn watch(&self) -> Result<(), TunnelError> {
        let every = |period| {
            let mut interval = interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        };
        let (mut count, mut check) = (every(COUNTER_INTERVAL), every(INTERFACE_INTERVAL));
        loop {
            let next_end = self.0.state.lock().liveness.next_end(Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(next_end.into()) => self.look(),
                _ = count.tick() => {
                    self.count().await?;
                    self.look();
                }
                _ = check.tick() => self.check_interface()?,
            }
        }
    }

    fn look(&self) {
        let mut state = self.0.state.lock();
        if state.liveness.tick(Instant::now(), wall_clock()) {
            let seen = state.liveness.seen();
            let alive = seen.values().filter(|seen| seen.alive).count();
            tracing::info!(alive, of = seen.len(), "the set of live tunnels has changed");
            self.0.seen.send_replace(seen);
        }
    }

    /// Reads WireGuard's counters for the sites that do not probe.
    async fn count(&self) -> Result<(), TunnelError> {
        if !self.0.state.lock().liveness.needs_counters() {
            return Ok(());
        }
        let readings = self.0.device.read().await?;
        let now = Instant::now();
        let mut state = self.0.state.lock();
        let by_key = state.sites_by_key();
        for reading in readings {
            if let Some(site) = by_key.get(&reading.key) {
                state.liveness.counted(*site, reading.received, now);
            }
        }
        Ok(())
    }

    fn check_interface(&self) -> Result<(), TunnelError> {
        match &self.0.reach {
            Reach::Interface { name, .. } if nix::net::if_::if_nametoindex(name.as_str()).is_err() => {
                Err(TunnelError::InterfaceGone { name: name.clone() })
            }
            _ => Ok(()),
        }
    }
}
