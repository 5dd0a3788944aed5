//! The bulk lane: byte streams, multiplexed by yamux over one connection.
//!
//! yamux alone cannot tell the end of a stream from its breaking off: when one side drops a stream whose other
//! direction has ended, the reader sees a clean end. So the bytes travel in chunks with an explicit end
//! ([`PeerStream`]).

mod stream;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use pangolin_core::id::NodeId;
use stream::CHUNK_WIRE;
pub use stream::PeerStream;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use crate::{
    control::{Status, answer, verdict},
    error::PeerError,
    frame::MESSAGE_MAX,
    service::Service,
    shared::Shared,
};

/// Most streams that one node opens to another at a time. yamux ends the whole connection when its own limit is
/// met, so that one is twice as high and never is.
const STREAMS_MAX: usize = 2048;
const STREAMS_YAMUX: usize = 2 * STREAMS_MAX;

/// Most bytes that all streams together may have under way to one reader: 256 KiB for each, and as much again as
/// a few fast ones need over long distances.
const WINDOW_MAX: usize = STREAMS_YAMUX * 256 * 1024 + 256 * 1024 * 1024;

/// Room to put a frame's header and body together before they are encrypted.
const WRITE_BUFFER: usize = 32 * 1024;

/// How long a new stream may take to say what it is for.
const PURPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a stream is for: a byte stream, or one request and its answer.
const STREAM: u8 = 0;
const REQUEST: u8 = 1;

type Opened = oneshot::Sender<yamux::Stream>;

/// The callers' end of a bulk connection.
#[derive(Clone)]
pub(crate) struct BulkClient {
    node: NodeId,
    open: mpsc::Sender<Opened>,
    slots: Arc<Semaphore>,
}

impl BulkClient {
    pub(crate) fn new(node: NodeId) -> (Self, mpsc::Receiver<Opened>) {
        let (open, requests) = mpsc::channel(STREAMS_MAX);
        (Self { node, open, slots: Arc::new(Semaphore::new(STREAMS_MAX)) }, requests)
    }

    /// Opens a byte stream.
    pub(crate) async fn open(&self, service: Service) -> Result<PeerStream, PeerError> {
        self.open_for(service, STREAM).await
    }

    async fn open_for(&self, service: Service, purpose: u8) -> Result<PeerStream, PeerError> {
        let node = self.node;
        let broken = || PeerError::Unreachable { node, reason: "the connection broke".to_owned() };
        let slot = self
            .slots
            .clone()
            .try_acquire_owned()
            .map_err(|_| PeerError::Busy { node, limit: "2048 open streams" })?;
        let (reply, opened) = oneshot::channel();
        self.open.send(reply).await.map_err(|_| broken())?;
        let stream = opened.await.map_err(|_| broken())?;
        let mut stream = PeerStream::new(stream, Some(slot));
        stream.write_all(&[service as u8, purpose]).await.map_err(|_| broken())?;
        Ok(stream)
    }

    /// Sends one request over a stream of its own.
    pub(crate) async fn request(
        &self,
        service: Service,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, PeerError> {
        let node = self.node;
        let mut stream = self.open_for(service, REQUEST).await?;
        let exchange = async {
            stream.write_all(&body).await?;
            stream.shutdown().await?;
            read_message(&mut stream).await
        };
        let lost = |e: io::Error| PeerError::Lost { node, reason: e.to_string() };
        let mut answer = match timeout(limit, exchange).await {
            Ok(answer) => answer.map_err(lost)?,
            Err(_) => return Err(PeerError::Timeout { node, after: limit, sent: true }),
        };
        let tag = (!answer.is_empty()).then(|| answer.split_to(1)[0]);
        let status = tag.and_then(Status::from_tag);
        let status = status.ok_or_else(|| lost(io::Error::other("the answer is malformed")))?;
        verdict(node, status, answer.freeze())
    }
}

/// Runs the dialling side of a bulk connection until it breaks; gives the reason.
pub(crate) async fn run_client(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    requests: mpsc::Receiver<Opened>,
) -> String {
    // Streams come only from the side that dialled; another one is reset.
    drive(stream, yamux::Mode::Client, requests, drop).await
}

/// Runs the answering side of a bulk connection until it breaks; gives the reason.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    from: NodeId,
    stream: impl AsyncRead + AsyncWrite + Unpin,
) -> String {
    let (never, requests) = mpsc::channel(1);
    let reason = drive(stream, yamux::Mode::Server, requests, |stream| {
        let worker = shared.clone();
        shared.spawn(async move { receive(&worker, from, PeerStream::new(stream, None)).await });
    })
    .await;
    drop(never);
    reason
}

async fn drive(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mode: yamux::Mode,
    mut requests: mpsc::Receiver<Opened>,
    mut inbound: impl FnMut(yamux::Stream),
) -> String {
    let mut config = yamux::Config::default();
    config.set_max_connection_receive_window(Some(WINDOW_MAX));
    config.set_max_num_streams(STREAMS_YAMUX);
    config.set_split_send_size(CHUNK_WIRE);
    let io = BufWriter::with_capacity(WRITE_BUFFER, stream).compat();
    let mut connection = yamux::Connection::new(io, config, mode);
    let mut wanted: Option<Opened> = None;
    std::future::poll_fn(|cx| {
        loop {
            if let Some(reply) = wanted.take_if(|reply| !reply.is_closed()) {
                match connection.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        let _ = reply.send(stream);
                        continue;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(error.to_string()),
                    Poll::Pending => wanted = Some(reply),
                }
            } else if let Poll::Ready(next) = requests.poll_recv(cx) {
                match next {
                    Some(reply) => wanted = Some(reply),
                    None => return Poll::Ready("it is no longer used".to_owned()),
                }
                continue;
            }
            match ready!(connection.poll_next_inbound(cx)) {
                Some(Ok(stream)) => inbound(stream),
                Some(Err(error)) => return Poll::Ready(error.to_string()),
                None => return Poll::Ready("the other side has closed the connection".to_owned()),
            }
        }
    })
    .await
}

async fn receive(shared: &Shared, from: NodeId, mut stream: PeerStream) {
    let mut purpose = [0; 2];
    if !matches!(timeout(PURPOSE_TIMEOUT, stream.read_exact(&mut purpose)).await, Ok(Ok(_))) {
        return;
    }
    match purpose {
        [service, REQUEST] => {
            let Ok(body) = read_message(&mut stream).await else { return };
            let (status, body) = answer(shared, from, service, body.freeze()).await;
            // The caller may have gone.
            let _ = async {
                stream.write_all(&[status as u8]).await?;
                stream.write_all(&body).await?;
                stream.shutdown().await
            }
            .await;
        }
        [service, STREAM] => {
            if let Some(handler) = Service::from_number(service).and_then(|service| shared.handler(service)) {
                handler.stream(from, stream).await;
            }
        }
        _ => {}
    }
}

/// Reads a whole message to the stream's end.
async fn read_message(stream: &mut PeerStream) -> io::Result<BytesMut> {
    let mut message = BytesMut::new();
    // One byte for the status.
    let mut limited = stream.take(MESSAGE_MAX as u64 + 2);
    loop {
        message.reserve(WRITE_BUFFER);
        if limited.read_buf(&mut message).await? == 0 {
            break;
        }
    }
    if message.len() > MESSAGE_MAX + 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is above the limit"));
    }
    Ok(message)
}

/// See [`crate::fuzz`]: what another node sends over a bulk connection.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use futures_util::FutureExt as _;

    let mut streams = Vec::new();
    let (never, requests) = mpsc::channel(1);
    let wire = tokio::io::join(bytes, tokio::io::sink());
    // All bytes are there: the connection is at its end at once.
    let ended = drive(wire, yamux::Mode::Server, requests, |stream| streams.push(stream)).now_or_never();
    assert!(ended.is_some(), "the connection waits behind its end");
    drop(never);
    for stream in streams {
        let mut stream = PeerStream::new(stream, None);
        if let Some(Ok(message)) = read_message(&mut stream).now_or_never() {
            assert!(message.len() <= MESSAGE_MAX + 1);
        }
    }
}

/// yamux reports an end, or a zero-length write, where a stream has been cut off.
fn reset() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the stream was reset by the other node, or its connection broke",
    )
}

/// Polls a yamux stream, which speaks the traits of `futures`.
fn poll_raw_read(
    stream: &mut yamux::Stream,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let read = ready!(futures_util::AsyncRead::poll_read(Pin::new(stream), cx, buffer));
    Poll::Ready(match read {
        Ok(0) | Err(_) if !buffer.is_empty() => Err(reset()),
        other => other,
    })
}

fn poll_raw_write(stream: &mut yamux::Stream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    let written = ready!(futures_util::AsyncWrite::poll_write(Pin::new(stream), cx, bytes));
    Poll::Ready(match written {
        Ok(0) | Err(_) if !bytes.is_empty() => Err(reset()),
        other => other,
    })
}
