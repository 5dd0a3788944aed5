//! One TCP flow: a smoltcp interface with one socket, its driver task, and the stream that the program holds.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use smoltcp::{
    iface::{Config, Interface, SocketHandle, SocketSet},
    socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State},
    time::{Duration as StackDuration, Instant as StackInstant},
    wire::{HardwareAddress, IpAddress, IpCidr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::{MAX_TCP_FLOWS, Stack, port::Port};
use crate::packet::FlowKey;

/// Bytes a flow buffers in each direction, and so its window: 50 Mbit/s at a round trip of 20 ms. All flows that may
/// exist at once take 1 GB of it.
pub(super) const BUFFER: usize = 128 * 1024;
/// A flow whose other end acknowledges nothing for so long is dead.
const TIMEOUT: StackDuration = StackDuration::from_secs(60);
/// Idle flows are asked that often whether the other end is still there.
const KEEP_ALIVE: StackDuration = StackDuration::from_secs(25);
/// An acknowledgement is never held back longer; in time-wait, a later deadline is that of the wait.
const ACKNOWLEDGED_BY: StackDuration = StackDuration::from_secs(1);
/// A flow the program has let go may take this long to deliver what it still holds.
const LINGER: StackDuration = StackDuration::from_secs(30);

struct Inner {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// When the driver has to poll.
    due: Option<StackInstant>,
    /// The outgoing queue had no room.
    full: bool,
    /// The connection is over, or only waits out its time.
    ended: bool,
    /// The other end has sent all it had.
    finished: bool,
    /// When a flow that was let go is given up.
    give_up: Option<StackInstant>,
}

impl Inner {
    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

pub(super) struct TcpFlow {
    key: FlowKey,
    stack: Stack,
    inner: Mutex<Inner>,
    /// Wakes the driver when `due` has moved forward.
    changed: Notify,
}

impl TcpFlow {
    /// A flow that waits for the segment which opens it; none if there is no room.
    pub(super) fn accept(stack: &Stack, key: FlowKey) -> Option<FlowStream> {
        Self::start(stack, key, |_, socket| socket.listen(key.local).is_ok())
    }

    /// A flow that connects; none if there is no room or the flow exists.
    pub(super) fn connect(stack: &Stack, key: FlowKey) -> Option<FlowStream> {
        let stream = Self::start(stack, key, |interface, socket| {
            socket.connect(interface.context(), key.remote, key.local).is_ok()
        })?;
        stream.0.poll(&mut stream.0.inner.lock(), None);
        Some(stream)
    }

    fn start(
        stack: &Stack,
        key: FlowKey,
        open: impl FnOnce(&mut Interface, &mut Socket<'static>) -> bool,
    ) -> Option<FlowStream> {
        let mut interface = interface(stack, key);
        let mut socket = Socket::new(SocketBuffer::new(vec![0; BUFFER]), SocketBuffer::new(vec![0; BUFFER]));
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_timeout(Some(TIMEOUT));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        if !open(&mut interface, &mut socket) {
            return None;
        }
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let inner = Inner {
            interface,
            sockets,
            handle,
            due: None,
            full: false,
            ended: false,
            finished: false,
            give_up: None,
        };
        let flow =
            Arc::new(Self { key, stack: stack.clone(), inner: Mutex::new(inner), changed: Notify::new() });
        {
            let mut flows = stack.0.tcp.lock();
            if stack.0.closed.is_cancelled() || flows.len() >= MAX_TCP_FLOWS || flows.contains_key(&key) {
                return None;
            }
            flows.insert(key, flow.clone());
        }
        stack.0.drivers.spawn(flow.clone().drive());
        Some(FlowStream(flow))
    }

    /// Handles a packet of this flow.
    pub(super) fn input(&self, bytes: &[u8]) {
        self.poll(&mut self.inner.lock(), Some(bytes));
    }

    /// Resets the connection.
    pub(super) fn abort(&self) {
        let mut inner = self.inner.lock();
        inner.socket().abort();
        self.poll(&mut inner, None);
    }

    /// Makes room for a new connection between the same ends. True if the program has let this one go, so that only
    /// its last words were under way.
    pub(super) fn yields(&self) -> bool {
        let mut inner = self.inner.lock();
        let yields = inner.give_up.is_some();
        if yields {
            self.end(&mut inner);
        }
        yields
    }

    #[cfg(test)]
    pub(super) fn key(&self) -> FlowKey {
        self.key
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.inner.lock().socket().recv_queue()
    }

    fn poll(&self, inner: &mut Inner, arrived: Option<&[u8]>) {
        let now = self.stack.now();
        if inner.give_up.is_some_and(|at| now >= at) {
            inner.socket().abort();
        }
        let mut port = Port { arrived, out: &self.stack.0.out, mtu: self.stack.0.mtu, full: false };
        inner.interface.poll(now, &mut port, &mut inner.sockets);
        inner.full = port.full;
        let was_due = inner.due;
        let due = inner.interface.poll_at(now, &inner.sockets);
        let over = match inner.socket().state() {
            State::Closed => true,
            // Nothing is left to say, such as the acknowledgement of the other end's last segment.
            State::TimeWait => due.is_none_or(|due| due > now + ACKNOWLEDGED_BY),
            // A socket that was opened and reset before it stood listens again; here it has nothing more to listen for.
            State::Listen => arrived.is_some(),
            _ => false,
        };
        if over {
            self.end(inner);
        } else {
            inner.due = due.into_iter().chain(inner.give_up).min();
        }
        let sooner = inner.due.is_some_and(|due| was_due.is_none_or(|was| due < was));
        if sooner || inner.full {
            self.changed.notify_one();
        }
    }

    /// Takes the flow off the stack. What it has received can still be read.
    fn end(&self, inner: &mut Inner) {
        if std::mem::replace(&mut inner.ended, true) {
            return;
        }
        let mut flows = self.stack.0.tcp.lock();
        if flows.get(&self.key).is_some_and(|flow| std::ptr::eq(Arc::as_ptr(flow), self)) {
            flows.remove(&self.key);
        }
        self.changed.notify_one();
    }

    /// Polls the flow whenever a timer is due or the outgoing queue has room again.
    async fn drive(self: Arc<Self>) {
        loop {
            let (due, full) = {
                let inner = self.inner.lock();
                if inner.ended {
                    return;
                }
                (inner.due, inner.full)
            };
            if full {
                tokio::select! {
                    () = self.stack.0.closed.cancelled() => return,
                    room = self.stack.0.out.reserve() => if room.is_err() { return },
                }
                self.poll(&mut self.inner.lock(), None);
                continue;
            }
            let wait = due.map(|due| Duration::from(due - self.stack.now().min(due)));
            tokio::select! {
                () = self.stack.0.closed.cancelled() => return,
                () = self.changed.notified() => {}
                () = async { tokio::time::sleep(wait.unwrap_or_default()).await }, if wait.is_some() => {
                    self.poll(&mut self.inner.lock(), None);
                }
            }
        }
    }
}

fn interface(stack: &Stack, key: FlowKey) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = rand::random();
    let mut port = Port { arrived: None, out: &stack.0.out, mtu: stack.0.mtu, full: false };
    let mut interface = Interface::new(config, &mut port, stack.now());
    interface.update_ip_addrs(|addresses| {
        // The list is empty and has room for one.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(*key.local.ip()), 32));
    });
    // Everything leaves through the tunnel, so any gateway will do.
    let _ = interface.routes_mut().add_default_ipv4_route(*key.local.ip());
    interface
}

/// A TCP connection through the in-process stack. Dropping it delivers what was written, then closes; with data
/// unread it resets instead, so that the other end stops sending.
pub(crate) struct FlowStream(Arc<TcpFlow>);

impl FlowStream {
    pub(super) fn flow(&self) -> Arc<TcpFlow> {
        self.0.clone()
    }

    /// Waits until the connection stands.
    pub(super) async fn established(&self) -> io::Result<()> {
        std::future::poll_fn(|context| {
            let mut inner = self.0.inner.lock();
            let ended = inner.ended;
            let socket = inner.socket();
            match socket.state() {
                State::SynSent if !ended => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                State::Closed | State::SynSent => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
                _ => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    /// Resets the connection.
    pub(crate) fn reset(self) {
        self.0.abort();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock()
    }
}

impl Drop for FlowStream {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        if inner.ended {
            return;
        }
        let give_up = self.0.stack.now() + LINGER;
        inner.give_up = Some(give_up);
        let socket = inner.socket();
        if socket.can_recv() {
            socket.abort()
        } else {
            socket.close()
        }
        self.0.poll(&mut inner, None);
    }
}

impl AsyncRead for FlowStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        if inner.finished || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let ended = inner.ended;
        let socket = inner.socket();
        if matches!(socket.state(), State::Listen | State::SynReceived | State::SynSent) && !ended {
            socket.register_recv_waker(context.waker());
            return Poll::Pending;
        }
        let queued = socket.recv_queue();
        match socket.recv_slice(buffer.initialize_unfilled()) {
            Ok(0) => {
                socket.register_recv_waker(context.waker());
                Poll::Pending
            }
            Ok(read) => {
                buffer.advance(read);
                // The other end may be waiting for room.
                if queued > BUFFER / 2 && !ended {
                    self.0.poll(&mut inner, None);
                }
                Poll::Ready(Ok(()))
            }
            Err(RecvError::Finished) => {
                inner.finished = true;
                Poll::Ready(Ok(()))
            }
            Err(RecvError::InvalidState) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for FlowStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        let ended = inner.ended;
        let socket = inner.socket();
        let opening = matches!(socket.state(), State::Listen | State::SynReceived | State::SynSent);
        if ended || !(socket.may_send() || opening) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if opening || !socket.can_send() {
            socket.register_send_waker(context.waker());
            return Poll::Pending;
        }
        let written = socket.send_slice(bytes).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe));
        let written = ready!(Poll::Ready(written))?;
        self.0.poll(&mut inner, None);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Sends the end of the stream once what was written has gone. Reading goes on.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        let ended = inner.ended;
        let socket = inner.socket();
        if matches!(socket.state(), State::Listen | State::SynReceived | State::SynSent) && !ended {
            socket.register_send_waker(context.waker());
            return Poll::Pending;
        }
        socket.close();
        self.0.poll(&mut inner, None);
        Poll::Ready(Ok(()))
    }
}
