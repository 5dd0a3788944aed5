//! UDP sessions on the ports of an interface: one for each port and other end, until it has been idle for a while.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{net::UdpSocket, sync::mpsc};

use crate::stack::{MAX_UDP_SESSIONS, UDP_IDLE};

/// Datagrams that wait to be read; more are dropped, as any network does.
const QUEUE: usize = 128;

/// A port, and who sends to it.
type Ends = (u16, SocketAddr);

struct Session {
    inbound: mpsc::Sender<Bytes>,
    used: Arc<AtomicU64>,
}

/// The sessions of all ports. A cheap handle.
#[derive(Clone)]
pub(super) struct Sessions {
    start: Instant,
    all: Arc<Mutex<HashMap<Ends, Session>>>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), all: Arc::default() }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    /// Hands a datagram that came to a port to its session. Gives the session where it is new and there is room.
    pub(super) fn input(
        &self,
        socket: &Arc<UdpSocket>,
        port: u16,
        from: SocketAddr,
        payload: &[u8],
    ) -> Option<PortDatagrams> {
        let now = self.millis(Instant::now());
        let mut all = self.all.lock();
        if let Some(session) = all.get(&(port, from)) {
            session.used.store(now, Ordering::Relaxed);
            // A full queue drops it, as any network does.
            let _ = session.inbound.try_send(Bytes::copy_from_slice(payload));
            return None;
        }
        if all.len() >= MAX_UDP_SESSIONS {
            return None;
        }
        let (inbound, queue) = mpsc::channel(QUEUE);
        let used = Arc::new(AtomicU64::new(now));
        let _ = inbound.try_send(Bytes::copy_from_slice(payload));
        all.insert((port, from), Session { inbound, used: Arc::clone(&used) });
        Some(PortDatagrams {
            ends: (port, from),
            socket: Arc::clone(socket),
            queue: tokio::sync::Mutex::new(queue),
            used,
            sessions: self.clone(),
        })
    }

    /// Ends the sessions that have been idle too long at `now`.
    pub(super) fn sweep(&self, now: Instant) {
        let now = self.millis(now);
        let idle = u64::try_from(UDP_IDLE.as_millis()).unwrap_or(u64::MAX);
        self.all.lock().retain(|_, session| now.saturating_sub(session.used.load(Ordering::Relaxed)) < idle);
    }

    /// Ends all.
    pub(super) fn clear(&self) {
        self.all.lock().clear();
    }
}

/// A UDP session. Dropping it ends it.
pub(crate) struct PortDatagrams {
    ends: Ends,
    socket: Arc<UdpSocket>,
    queue: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    used: Arc<AtomicU64>,
    sessions: Sessions,
}

impl PortDatagrams {
    pub(crate) async fn send(&self, payload: &[u8]) -> io::Result<()> {
        self.used.store(self.sessions.millis(Instant::now()), Ordering::Relaxed);
        self.socket.send_to(payload, self.ends.1).await.map(drop)
    }

    /// The next datagram, cut to the buffer. `TimedOut` when the session has ended.
    pub(crate) async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.queue.lock().await.recv().await.ok_or(io::ErrorKind::TimedOut)?;
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Ok(length)
    }
}

impl Drop for PortDatagrams {
    fn drop(&mut self) {
        let mut all = self.sessions.all.lock();
        if all.get(&self.ends).is_some_and(|session| Arc::ptr_eq(&session.used, &self.used)) {
            all.remove(&self.ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_session_gets_its_datagrams_answers_and_ends_when_it_is_idle() {
        let bind = async || Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let (port, visitor) = (bind().await, bind().await);
        let from = visitor.local_addr().unwrap();
        let sessions = Sessions::new();
        let session = sessions.input(&port, 7, from, b"one").expect("a new session");
        assert!(sessions.input(&port, 7, from, b"two").is_none(), "it has one");
        let other = sessions.input(&port, 8, from, b"other").expect("of another port");
        let mut buffer = [0; 16];
        for expected in [&b"one"[..], b"two"] {
            let length = session.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], expected);
        }
        session.send(b"answer").await.unwrap();
        assert_eq!(visitor.recv(&mut buffer).await.unwrap(), 6);
        drop(other);
        assert_eq!(sessions.all.lock().len(), 1);
        sessions.sweep(Instant::now());
        assert_eq!(sessions.all.lock().len(), 1, "in use");
        sessions.sweep(Instant::now() + UDP_IDLE + Duration::from_secs(1));
        let ended = session.recv(&mut buffer).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }
}
