//! Sockets of open ports, and the loop that accepts connections.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use pangolin_core::traffic::PortKind;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

use super::{Arrival, carry, datagram::PortSocket, udp};
use crate::{
    counters::bump,
    edge::World,
    error::EdgeError,
    listen::{self, ACCEPT_PAUSE},
};

/// Datagrams that wait in the kernel, bytes: a burst of a few thousand.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Binds a port at every address and serves it once the edge serves. The error says what to do.
pub(super) fn open(
    world: &Arc<World>,
    kind: PortKind,
    addresses: &[IpAddr],
    close: &CancellationToken,
) -> Result<(), String> {
    let text = |error: EdgeError| error.to_string();
    match kind {
        PortKind::Tcp(port) => {
            let bind = |ip: &IpAddr| {
                let address = SocketAddr::new(*ip, port);
                let socket = listen::bind(address)?;
                // Before the edge serves, clients are refused: they go to another node.
                if world.serving.is_cancelled() {
                    listen::listen(address, &socket)?;
                }
                Ok(socket)
            };
            let sockets = addresses.iter().map(bind).collect::<Result<Vec<_>, _>>().map_err(text)?;
            for socket in sockets {
                let (world, close) = (Arc::clone(world), close.clone());
                world.upgraded.clone().spawn(async move {
                    if let Err(error) = accept(&world, kind, socket, &close).await {
                        tracing::warn!(port = %kind, %error, "a port is closed");
                    }
                });
            }
        }
        PortKind::Udp(port) => {
            let bind = |ip: &IpAddr| bind_udp(SocketAddr::new(*ip, port));
            let sockets = addresses.iter().map(bind).collect::<Result<Vec<_>, _>>().map_err(text)?;
            for socket in sockets {
                let (world, close) = (Arc::clone(world), close.clone());
                world.upgraded.clone().spawn(async move { udp::serve(&world, kind, socket, &close).await });
            }
        }
        // It comes in at the HTTPS port.
        PortKind::Tls => {}
    }
    Ok(())
}

fn bind_udp(address: SocketAddr) -> Result<Arc<PortSocket>, EdgeError> {
    let open = || -> io::Result<PortSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // The kernel caps it at net.core.rmem_max.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        PortSocket::new(UdpSocket::from_std(socket.into())?)
    };
    open().map(Arc::new).map_err(|error| listen::problem(address, error))
}

/// Accepts until the port is closed or the edge stops.
async fn accept(
    world: &Arc<World>,
    kind: PortKind,
    socket: Socket,
    close: &CancellationToken,
) -> io::Result<()> {
    tokio::select! {
        () = world.serving.cancelled() => {}
        () = close.cancelled() => return Ok(()),
        () = world.stop.cancelled() => return Ok(()),
    }
    // Once more changes nothing.
    socket.listen(listen::BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        let accepted = tokio::select! {
            biased;
            () = close.cancelled() => return Ok(()),
            () = world.stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                listen::prepare(&stream);
                let port = world.snapshot.load().ports.get(&kind).cloned();
                let places = port
                    .as_ref()
                    .and_then(|port| port.admit(peer.ip()))
                    .zip(world.admission.admit(peer.ip()));
                let Some((port, places)) = port.zip(places) else {
                    bump(&world.counters.refused_connections);
                    continue;
                };
                let arrival = Arrival::new(stream, peer);
                let world = Arc::clone(world);
                world.upgraded.clone().spawn(async move {
                    let _places = places;
                    carry(&world, &port, arrival).await;
                });
            }
            Err(error) if listen::is_gone(&error) => {}
            Err(error) => {
                tracing::warn!(%error, port = %kind, "connections cannot be accepted; is the limit of open files too low?");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
