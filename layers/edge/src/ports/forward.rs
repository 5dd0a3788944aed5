//! Bytes in both directions, until both sides have ended or nothing has come for too long.

use std::{
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    time::sleep,
};

/// Buffer for each direction of a connection.
const BUFFER: usize = 64 << 10;

/// A stream of which some bytes have been read already.
#[derive(Debug)]
pub(crate) struct Ahead<S> {
    ahead: Bytes,
    inner: S,
}

impl<S> Ahead<S> {
    pub(crate) fn new(ahead: Bytes, inner: S) -> Self {
        Self { ahead, inner }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        let length = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead[..length]);
        this.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// When the last byte came from either side, in milliseconds, and whether the target has sent any.
#[derive(Debug)]
struct Clock {
    start: Instant,
    last: AtomicU64,
    answered: AtomicBool,
}

impl Clock {
    fn heard(&self, is_target: bool) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Relaxed);
        if is_target {
            self.answered.store(true, Relaxed);
        }
    }
}

/// Notes when bytes come.
struct Heard<'a, S> {
    inner: S,
    clock: &'a Clock,
    is_target: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(context, buffer);
        if polled.is_ready() && buffer.filled().len() > before {
            this.clock.heard(this.is_target);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<'_, S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// Both sides had said all.
    Done,
    /// Nothing came for the allowed time.
    Idle,
    Broken(io::Error),
}

/// Carries bytes until the end; says also whether the target has sent any.
pub(super) async fn both_ways(
    client: impl AsyncRead + AsyncWrite + Unpin,
    target: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
) -> (End, bool) {
    let clock = Clock { start: Instant::now(), last: AtomicU64::new(0), answered: AtomicBool::new(false) };
    let mut client = Heard { inner: client, clock: &clock, is_target: false };
    let mut target = Heard { inner: target, clock: &clock, is_target: true };
    let answered = || clock.answered.load(Relaxed);
    let mut copying = pin!(copy_bidirectional_with_sizes(&mut client, &mut target, BUFFER, BUFFER));
    loop {
        let heard = Duration::from_millis(clock.last.load(Relaxed));
        let silent = clock.start.elapsed().saturating_sub(heard);
        let Some(wait) = idle.checked_sub(silent).filter(|wait| !wait.is_zero()) else {
            return (End::Idle, answered());
        };
        tokio::select! {
            ended = copying.as_mut() => {
                return (ended.map_or_else(End::Broken, |_| End::Done), answered());
            }
            () = sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_read_ahead_come_first() {
        let (near, mut far) = duplex(64);
        far.write_all(b" world").await.expect("written");
        drop(far);
        let mut text = String::new();
        Ahead::new(Bytes::from_static(b"hello"), near).read_to_string(&mut text).await.expect("read");
        assert_eq!(text, "hello world");
    }

    #[tokio::test]
    async fn a_connection_ends_when_both_sides_have_and_not_before() {
        let ((client, mut outside), (target, mut inside)) = (duplex(64), duplex(64));
        let carrying = tokio::spawn(both_ways(client, target, Duration::from_secs(60)));
        outside.write_all(b"question").await.expect("written");
        outside.shutdown().await.expect("half closed");
        let mut question = String::new();
        inside.read_to_string(&mut question).await.expect("read");
        inside.write_all(b"answer").await.expect("written");
        drop(inside);
        let mut answer = String::new();
        outside.read_to_string(&mut answer).await.expect("read");
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        assert!(matches!(carrying.await.expect("ended"), (End::Done, true)));
    }

    #[tokio::test]
    async fn a_silent_connection_is_ended() {
        let ((client, _outside), (target, _inside)) = (duplex(64), duplex(64));
        assert!(matches!(both_ways(client, target, Duration::from_millis(50)).await, (End::Idle, false)));
    }
}
