//! Carries flows that come in through the tunnels to their targets.

use std::{io, net::Ipv4Addr, net::Ipv6Addr, net::SocketAddr, sync::Arc, time::Duration};

use pangolin_tunnel::{
    TunnelDatagrams, TunnelStream,
    site::{FlowKind, SiteFlow},
};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpStream, UdpSocket, lookup_host},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::wanted::{Target, Wanted};

/// Most flows at once. One has two sockets' worth of buffers, so that they all stay within some 600 MB.
const FLOWS_MAX: usize = 4096;
/// What a target gets to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Buffer for each direction of a connection.
const BUFFER: usize = 64 << 10;
/// Longest datagram there is.
const DATAGRAM_MAX: usize = 65_535;

/// The flows that are being carried.
pub(crate) struct Flows {
    tasks: TaskTracker,
    free: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Flows {
    /// None yet; `stop` ends them all.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self { tasks: TaskTracker::new(), free: Arc::new(Semaphore::new(FLOWS_MAX)), stop }
    }

    /// Carries a flow to the target that its port stands for. It goes on when that is not wanted any more.
    pub(crate) fn carry(&self, flow: SiteFlow, wanted: &Wanted) {
        let SiteFlow { from, port, kind } = flow;
        let targets = match kind {
            FlowKind::Tcp(_) => &wanted.tcp,
            FlowKind::Udp(_) => &wanted.udp,
        };
        let target = targets.get(&port).cloned();
        let permit = Arc::clone(&self.free).try_acquire_owned();
        let (target, permit) = match (target, permit) {
            (Some(target), Ok(permit)) => (target, permit),
            (target, _) => {
                // Either the target was removed a moment ago, or there are too many flows.
                let full = target.is_some();
                tracing::warn!(%from, port, full, "flow refused");
                if let FlowKind::Tcp(stream) = kind {
                    stream.reset();
                }
                return;
            }
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            let carried = stop.run_until_cancelled(Box::pin(async {
                match kind {
                    FlowKind::Tcp(stream) => carry_stream(stream, &target).await,
                    FlowKind::Udp(flow) => carry_datagrams(&flow, &target).await,
                }
            }));
            if let Some(Err(error)) = carried.await {
                tracing::debug!(%from, port, host = target.host, %error, "flow ended");
            }
        });
    }

    /// Waits until all have ended.
    pub(crate) async fn end(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn carry_stream(mut stream: TunnelStream, target: &Target) -> io::Result<()> {
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((target.host.as_str(), target.port))).await;
    let mut connection = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(connection) => connection,
        Err(error) => {
            // The node learns at once that there is nobody, and can try another target.
            stream.reset();
            return Err(error);
        }
    };
    // Without it small messages wait for each other; a kernel that refuses it still carries them.
    let _ = connection.set_nodelay(true);
    match copy_bidirectional_with_sizes(&mut stream, &mut connection, BUFFER, BUFFER).await {
        Ok(_) => Ok(()),
        Err(error) => {
            stream.reset();
            let _ = connection.set_zero_linger();
            Err(error)
        }
    }
}

async fn carry_datagrams(flow: &TunnelDatagrams, target: &Target) -> io::Result<()> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let addresses = timeout(CONNECT_TIMEOUT, lookup_host((target.host.as_str(), target.port)));
    let address = addresses.await.map_err(|_| late())??.next();
    let address =
        address.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    let (mut inward, mut outward) = (vec![0; DATAGRAM_MAX], vec![0; DATAGRAM_MAX]);
    loop {
        tokio::select! {
            length = flow.recv(&mut inward) => {
                let length = match length {
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
                    Err(error) => return Err(error),
                };
                // What the target does not take is lost, as datagrams are.
                let _ = socket.send(&inward[..length]).await;
            }
            length = socket.recv(&mut outward) => match length {
                Ok(length) => drop(flow.send(&outward[..length]).await),
                // The target's port is closed for now; the session goes on, as it would without a tunnel.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            },
        }
    }
}
