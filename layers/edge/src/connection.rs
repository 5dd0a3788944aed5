//! The clock of a client connection: what it may wait for, and for how long.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// No byte of a next request has come.
const NOTHING: u64 = u64::MAX;

/// What happens on one client connection, in milliseconds since it was accepted.
pub(crate) struct Activity {
    accepted: Instant,
    running: AtomicU32,
    idle_since: AtomicU64,
    /// When the first byte of the next request head came.
    head_since: AtomicU64,
}

/// What the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Look again then.
    Wait(Duration),
    /// No request for too long: close politely.
    Idle,
    /// A request head that does not end: close.
    SlowHead,
}

impl Activity {
    pub(crate) fn new(accepted: Instant) -> Self {
        let now = u64::try_from(accepted.elapsed().as_millis()).unwrap_or(NOTHING - 1);
        Self {
            accepted,
            running: AtomicU32::new(0),
            idle_since: AtomicU64::new(now),
            head_since: AtomicU64::new(NOTHING),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(NOTHING - 1)
    }

    pub(crate) fn begin(&self) {
        self.running.fetch_add(1, Relaxed);
        self.head_since.store(NOTHING, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.idle_since.store(self.now(), Relaxed);
        self.running.fetch_sub(1, Relaxed);
    }

    fn received(&self) {
        if self.running.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NOTHING {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// `head` is none for HTTP/2, where bytes between requests need not belong to a head.
    pub(crate) fn verdict(&self, idle: Duration, head: Option<Duration>) -> Verdict {
        if self.running.load(Relaxed) > 0 {
            return Verdict::Wait(idle);
        }
        let now = self.now();
        let left = |since: u64, limit: Duration| {
            limit.saturating_sub(Duration::from_millis(now.saturating_sub(since)))
        };
        let head_since = self.head_since.load(Relaxed);
        if let Some(limit) = head.filter(|_| head_since != NOTHING) {
            return match left(head_since, limit) {
                Duration::ZERO => Verdict::SlowHead,
                wait => Verdict::Wait(wait),
            };
        }
        match left(self.idle_since.load(Relaxed), idle) {
            Duration::ZERO => Verdict::Idle,
            // A head may begin at any moment, and its limit is the shorter one.
            wait => Verdict::Wait(head.map_or(wait, |head| wait.min(head))),
        }
    }
}

/// After the last answer, unread bytes of the client are read for so long and so many before the socket is closed.
/// Closing over unread bytes makes the kernel send a reset, which can overtake the answer (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A client stream that tells its [`Activity`] when bytes come, and lingers on close.
pub(crate) struct Watched<T> {
    io: T,
    activity: Arc<Activity>,
    linger: Option<Linger>,
}

/// Our side has said that it is done.
struct Linger {
    until: Pin<Box<Sleep>>,
    bytes: usize,
}

impl<T> Watched<T> {
    pub(crate) fn new(io: T, activity: Arc<Activity>) -> Self {
        Self { io, activity, linger: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.received();
        }
        polled
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let linger = this.linger.get_or_insert_with(|| Linger { until: Box::pin(sleep(LINGER)), bytes: 0 });
        let mut buffer = [0; 4096];
        while linger.bytes < LINGER_BYTES {
            let mut buffer = ReadBuf::new(&mut buffer);
            match Pin::new(&mut this.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => linger.bytes += buffer.filled().len(),
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return linger.until.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);
    const HEAD: Duration = Duration::from_secs(10);

    fn activity(age: u64) -> Activity {
        let accepted = Instant::now().checked_sub(Duration::from_secs(age)).expect("an earlier instant");
        let activity = Activity::new(accepted);
        activity.idle_since.store(0, Relaxed);
        activity
    }

    #[test]
    fn an_unused_connection_is_idle_after_its_time() {
        assert!(matches!(activity(59).verdict(IDLE, Some(HEAD)), Verdict::Wait(_)));
        assert_eq!(activity(61).verdict(IDLE, Some(HEAD)), Verdict::Idle);
    }

    #[test]
    fn a_head_that_does_not_end_is_cut_off_on_http_1_only() {
        let activity = activity(11);
        activity.head_since.store(0, Relaxed);
        assert_eq!(activity.verdict(IDLE, Some(HEAD)), Verdict::SlowHead);
        assert!(matches!(activity.verdict(IDLE, None), Verdict::Wait(_)));
    }

    #[test]
    fn a_running_request_stops_both_clocks() {
        let activity = activity(1000);
        activity.received();
        activity.begin();
        assert_eq!(activity.verdict(IDLE, Some(HEAD)), Verdict::Wait(IDLE));
        activity.end();
        assert!(matches!(activity.verdict(IDLE, Some(HEAD)), Verdict::Wait(_)));
    }
}
