//! Listening sockets and the loops that accept from them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};

use crate::{counters::bump, edge::World, error::EdgeError, limits::Permit, service};

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 1024;
/// After an accept that failed for want of something (file descriptors, memory), before the next.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A client that says nothing is asked after so long whether it lives, and is given up after three silent answers.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_RETRIES: u32 = 3;

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scheme {
    Https,
    /// Redirects to this port.
    Http {
        https_port: u16,
    },
}

/// Binds an address, so that one that cannot be had is told early. Until [`listen`], clients are refused: they go to
/// another node instead of waiting for this one.
pub(crate) fn bind(address: SocketAddr) -> Result<Socket, EdgeError> {
    open(address).map_err(|error| problem(address, error))
}

/// Lets clients in; they wait until [`accept`] runs.
pub(crate) fn listen(address: SocketAddr, socket: &Socket) -> Result<(), EdgeError> {
    socket.listen(BACKLOG).map_err(|error| problem(address, error))
}

pub(crate) fn problem(address: SocketAddr, source: io::Error) -> EdgeError {
    match source.kind() {
        io::ErrorKind::AddrInUse => EdgeError::InUse { address },
        io::ErrorKind::PermissionDenied => EdgeError::Denied { address },
        io::ErrorKind::AddrNotAvailable => EdgeError::NoSuchAddress { address },
        _ => EdgeError::Listen { address, source },
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the process before, in TIME_WAIT, do not keep the address.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::] and 0.0.0.0 are two listeners.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts until the edge stops.
pub(crate) async fn accept(world: Arc<World>, listener: Socket, scheme: Scheme) -> Result<(), io::Error> {
    let listener = TcpListener::from_std(listener.into())?;
    loop {
        let accepted = tokio::select! {
            biased;
            () = world.stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(&world, stream, peer, scheme),
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "the edge cannot accept connections; is the limit of open files too low?");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The client has gone away before it was accepted.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

fn admit(world: &Arc<World>, stream: TcpStream, peer: SocketAddr, scheme: Scheme) {
    let Some(permit) = world.admission.admit(peer.ip()) else {
        bump(&world.counters.refused_connections);
        return;
    };
    prepare(&stream);
    let close = world.close.clone();
    let serving = serve(Arc::clone(world), stream, peer, scheme, permit);
    world.connections.spawn(async move {
        tokio::select! {
            () = serving => {}
            () = close.cancelled() => {}
        }
    });
}

async fn serve(world: Arc<World>, stream: TcpStream, peer: SocketAddr, scheme: Scheme, permit: Permit) {
    match scheme {
        Scheme::Https => Box::pin(service::serve_tls(world, stream, peer, permit)).await,
        Scheme::Http { https_port } => service::serve_plain(world, stream, https_port, permit).await,
    }
}

/// Small answers leave at once; clients that have vanished are noticed. Failures do not matter.
pub(crate) fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
