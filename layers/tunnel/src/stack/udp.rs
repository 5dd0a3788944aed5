//! UDP sessions of the in-process stack: one for each pair of ends, until it has been idle for a while.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};

use super::{Accepted, MAX_UDP_SESSIONS, Stack, UDP_IDLE};
use crate::packet::{self, FlowKey};

/// Datagrams that wait to be read; more are dropped, as any network does.
const QUEUE: usize = 128;

pub(super) struct Session {
    inbound: mpsc::Sender<Bytes>,
    used: Arc<AtomicU64>,
}

impl Stack {
    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.start).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn udp_input(&self, key: FlowKey, payload: &[u8]) {
        let now = self.millis(Instant::now());
        if let Some(session) = self.0.udp.lock().get(&key) {
            session.used.store(now, Ordering::Relaxed);
            let _ = session.inbound.try_send(Bytes::copy_from_slice(payload));
            return;
        }
        if !self.0.ports.read().udp.contains(&key.local.port()) {
            return;
        }
        let Ok(slot) = self.0.accept.try_reserve() else { return };
        let Some(flow) = self.udp_session(key) else { return };
        if let Some(session) = self.0.udp.lock().get(&key) {
            let _ = session.inbound.try_send(Bytes::copy_from_slice(payload));
        }
        slot.send(Accepted::Udp(key, flow));
    }

    /// A new session; none if there is no room or it exists.
    pub(super) fn udp_session(&self, key: FlowKey) -> Option<UdpFlow> {
        let (inbound, queue) = mpsc::channel(QUEUE);
        let used = Arc::new(AtomicU64::new(self.millis(Instant::now())));
        let mut sessions = self.0.udp.lock();
        if self.0.closed.is_cancelled() || sessions.len() >= MAX_UDP_SESSIONS || sessions.contains_key(&key) {
            return None;
        }
        sessions.insert(key, Session { inbound, used: used.clone() });
        Some(UdpFlow { key, stack: self.clone(), queue: Mutex::new(queue), used })
    }

    /// Ends the sessions that have been idle too long at `now`.
    pub(super) fn sweep(&self, now: Instant) {
        let now = self.millis(now);
        let idle = u64::try_from(UDP_IDLE.as_millis()).unwrap_or(u64::MAX);
        self.0
            .udp
            .lock()
            .retain(|_, session| now.saturating_sub(session.used.load(Ordering::Relaxed)) < idle);
    }
}

/// A UDP session. Dropping it ends it.
pub(crate) struct UdpFlow {
    key: FlowKey,
    stack: Stack,
    queue: Mutex<mpsc::Receiver<Bytes>>,
    used: Arc<AtomicU64>,
}

impl UdpFlow {
    pub(crate) fn send(&self, payload: &[u8]) -> io::Result<()> {
        if self.stack.0.closed.is_cancelled() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.used.store(self.stack.millis(Instant::now()), Ordering::Relaxed);
        // A full queue drops it, as any network does.
        self.stack.send(packet::udp(self.key.local, self.key.remote, payload));
        Ok(())
    }

    /// The next datagram, cut to the buffer.
    pub(crate) async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let datagram = self.queue.lock().await.recv().await;
        let datagram = datagram.ok_or_else(|| {
            let closed = self.stack.0.closed.is_cancelled();
            io::Error::from(if closed { io::ErrorKind::NotConnected } else { io::ErrorKind::TimedOut })
        })?;
        let len = datagram.len().min(buffer.len());
        buffer[..len].copy_from_slice(&datagram[..len]);
        Ok(len)
    }
}

impl Drop for UdpFlow {
    fn drop(&mut self) {
        let mut sessions = self.stack.0.udp.lock();
        if sessions.get(&self.key).is_some_and(|session| Arc::ptr_eq(&session.used, &self.used)) {
            sessions.remove(&self.key);
        }
    }
}
