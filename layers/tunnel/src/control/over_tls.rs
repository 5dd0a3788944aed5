//! WireGuard datagrams in a WebSocket, for sites whose network lets no UDP out: each binary frame is a datagram, which is
//! handed to this node's own WireGuard from a loopback socket, as if the site had sent it. WireGuard itself says who it
//! is from; whoever has no key that it knows is not answered.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UdpSocket,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WsError, Message, protocol::WebSocketConfig},
};

/// Longest datagram either way: an Ethernet frame's worth, which is more than a tunnel's packets with WireGuard's header.
pub const DATAGRAM_MAX: usize = 1500;
/// Most WebSockets with datagrams at this node. Each has a socket and some 20 kB.
const CARRIERS_MAX: usize = 2048;
/// A connector probes through its tunnel four times a second: one that says nothing for this long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// A connector that takes nothing for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits for tungstenite. What is written waits for nothing but the connection.
pub(super) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(64 << 10)
        .max_message_size(Some(DATAGRAM_MAX))
        .max_frame_size(Some(DATAGRAM_MAX))
}

/// How many there are; a place is given back when its [`Carrier`] is dropped.
#[derive(Clone, Default)]
pub(super) struct Carriers(Arc<AtomicUsize>);

/// A place among the carriers.
pub(super) struct Carrier(Arc<AtomicUsize>);

impl Carriers {
    /// A place; none when all are taken.
    pub(super) fn admit(&self) -> Option<Carrier> {
        use std::sync::atomic::Ordering::Relaxed;
        let room = |taken: usize| (taken < CARRIERS_MAX).then_some(taken + 1);
        self.0.fetch_update(Relaxed, Relaxed, room).ok().map(|_| Carrier(Arc::clone(&self.0)))
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Carries datagrams between a WebSocket and WireGuard at `to`, until either side ends it.
///
/// # Errors
/// Why it has ended.
pub(super) async fn carry<S>(mut ws: WebSocketStream<S>, to: SocketAddr) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let socket = local_socket(to).await.map_err(|error| format!("no way to WireGuard: {error}"))?;
    let mut heard = Instant::now();
    let mut buffer = [0; DATAGRAM_MAX];
    loop {
        tokio::select! {
            frame = ws.next() => match frame {
                Some(Ok(Message::Binary(datagram))) => {
                    heard = Instant::now();
                    // One that is refused is lost, as it might have been on its way. Not `try_send`: that loses the first
                    // one, a handshake, as long as it is not known that the socket takes any.
                    let _ = socket.send(&datagram).await;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => heard = Instant::now(),
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => return Err("only binary frames are datagrams".to_owned()),
                Some(Err(WsError::ConnectionClosed)) => return Ok(()),
                Some(Err(error)) => return Err(error.to_string()),
            },
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => {
                    let frame = Message::Binary(Bytes::copy_from_slice(&buffer[..length]));
                    match timeout(WRITE_TIMEOUT, ws.send(frame)).await {
                        Ok(sent) => sent.map_err(|error| error.to_string())?,
                        Err(_) => return Err("the connector takes nothing any more".to_owned()),
                    }
                }
                // WireGuard is being opened or closed.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.to_string()),
            },
            () = sleep_until(heard + SILENCE_MAX) => return Err("the connector has been silent".to_owned()),
        }
    }
}

/// A socket from which WireGuard at `to` can be reached on this host.
async fn local_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let to = match (to, to.ip().is_unspecified()) {
        (SocketAddr::V4(_), true) => SocketAddr::from((Ipv4Addr::LOCALHOST, to.port())),
        (SocketAddr::V6(_), true) => SocketAddr::from((Ipv6Addr::LOCALHOST, to.port())),
        _ => to,
    };
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A WebSocket whose other end is carried to a socket that stands for WireGuard.
    async fn carried()
    -> (WebSocketStream<tokio::io::DuplexStream>, UdpSocket, tokio::task::JoinHandle<Result<(), String>>)
    {
        let wireguard = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = wireguard.local_addr().unwrap();
        let (near, far) = tokio::io::duplex(64 << 10);
        let far = WebSocketStream::from_raw_socket(far, Role::Server, Some(limits())).await;
        let task = tokio::spawn(carry(far, to));
        (WebSocketStream::from_raw_socket(near, Role::Client, None).await, wireguard, task)
    }

    #[tokio::test]
    async fn frames_become_datagrams_and_datagrams_frames() {
        let (mut ws, wireguard, task) = carried().await;
        ws.send(Message::binary(vec![4; DATAGRAM_MAX])).await.unwrap();
        let mut buffer = [0; 2 * DATAGRAM_MAX];
        let (length, from) = timeout(PATIENCE, wireguard.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(buffer[..length], [4; DATAGRAM_MAX]);
        wireguard.send_to(b"an answer", from).await.unwrap();
        let frame = timeout(PATIENCE, ws.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame, Message::binary(&b"an answer"[..]));
        ws.close(None).await.unwrap();
        timeout(PATIENCE, task).await.expect("it ends").unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_is_no_datagram_ends_it() {
        let (mut ws, _wireguard, task) = carried().await;
        ws.send(Message::text("hello")).await.unwrap();
        timeout(PATIENCE, task).await.expect("it ends").unwrap().unwrap_err();
        let (mut ws, _wireguard, task) = carried().await;
        ws.send(Message::binary(vec![4; DATAGRAM_MAX + 1])).await.unwrap();
        timeout(PATIENCE, task).await.expect("it ends").unwrap().unwrap_err();
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let carriers = Carriers::default();
        let all: Vec<Carrier> = (0..CARRIERS_MAX).map_while(|_| carriers.admit()).collect();
        assert_eq!(all.len(), CARRIERS_MAX);
        assert!(carriers.admit().is_none());
        drop(all);
        assert!(carriers.admit().is_some());
    }
}
