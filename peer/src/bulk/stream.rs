//! One byte stream between two nodes.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};

use super::{poll_raw_read, poll_raw_write};

/// Bytes of a chunk's header: its length.
const CHUNK_HEADER: usize = 2;

/// Size of a chunk with its header: with yamux's 12 bytes it fills one TLS record (RFC 8446 §5.1).
pub(super) const CHUNK_WIRE: usize = 16_384 - 12;

/// Most bytes in one chunk.
const CHUNK_MAX: usize = CHUNK_WIRE - CHUNK_HEADER;

/// A byte stream to another node.
///
/// [Shutting it down](tokio::io::AsyncWriteExt::shutdown) ends one direction, the other goes on. Dropping it
/// before both directions have ended resets it: the other side's reads and writes then fail with
/// [`io::ErrorKind::ConnectionReset`], and so do both sides' when the connection breaks or the node becomes
/// suspect. A clean end is therefore always what the writer meant.
///
/// Writes may be held back until [flushed](tokio::io::AsyncWriteExt::flush), as with any buffered writer.
pub struct PeerStream {
    inner: yamux::Stream,
    /// Chunks under way into `inner`.
    out: BytesMut,
    write_ended: bool,
    read: Reading,
    /// The share of the connection's streams, given back when the stream goes.
    _slot: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// In a header of which so many bytes are here.
    Header([u8; CHUNK_HEADER], usize),
    /// In a chunk of which so many bytes are to come.
    Chunk(usize),
    /// After the last chunk.
    Ended,
}

impl PeerStream {
    pub(super) fn new(inner: yamux::Stream, slot: Option<OwnedSemaphorePermit>) -> Self {
        let read = Reading::Header([0; CHUNK_HEADER], 0);
        Self { inner, out: BytesMut::new(), write_ended: false, read, _slot: slot }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(poll_raw_write(&mut self.inner, cx, &self.out))?;
            self.out.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerStream")
            .field("id", &self.inner.id())
            .field("read_ended", &(self.read == Reading::Ended))
            .field("write_ended", &self.write_ended)
            .finish()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match &mut this.read {
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Header(header, got) => {
                    *got += ready!(poll_raw_read(&mut this.inner, cx, &mut header[*got..]))?;
                    if *got == CHUNK_HEADER {
                        this.read = match usize::from(u16::from_be_bytes(*header)) {
                            0 => Reading::Ended,
                            length if length > CHUNK_MAX => {
                                return Poll::Ready(Err(io::Error::new(
                                    io::ErrorKind::InvalidData,
                                    "the other node has sent a chunk above the limit",
                                )));
                            }
                            length => Reading::Chunk(length),
                        };
                    }
                }
                Reading::Chunk(left) => {
                    let room = buf.remaining().min(*left);
                    let read = ready!(poll_raw_read(&mut this.inner, cx, buf.initialize_unfilled_to(room)))?;
                    buf.advance(read);
                    *left -= read;
                    if *left == 0 {
                        this.read = Reading::Header([0; CHUNK_HEADER], 0);
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_drain(cx))?;
        let chunk = &buf[..buf.len().min(CHUNK_MAX)];
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // A chunk is shorter than u16::MAX.
        this.out.put_u16(u16::try_from(chunk.len()).unwrap_or_default());
        this.out.put_slice(chunk);
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(chunk.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.write_ended {
            this.write_ended = true;
            this.out.put_u16(0);
        }
        this.poll_drain(cx)
    }
}
