//! Bodies: what the edge answers with, and what it sends to targets.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Sleep, sleep};

use crate::{connection::Activity, pool::Lease};

/// How much of a request body is kept to be sent once more: small forms and API calls. A larger request that has
/// begun to flow is not repeated.
pub(crate) const REPLAY_MAX: usize = 64 * 1024;

/// What a body may fail with.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response of the edge.
pub struct EdgeBody {
    kind: Kind,
    /// Ends the request for the idle clock of its connection when the body is dropped.
    running: Option<RunningRequest>,
}

enum Kind {
    Full(Option<Bytes>),
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
    Proxied(Proxied),
}

impl EdgeBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self { kind: Kind::Full(None), running: None }
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { kind: Kind::Full((!bytes.is_empty()).then_some(bytes)), running: None }
    }

    /// Any body.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self { kind: Kind::Boxed(body.map_err(Into::into).boxed_unsync()), running: None }
    }

    pub(crate) fn proxied(body: Incoming, lease: Lease) -> Self {
        Self { kind: Kind::Proxied(Proxied { body, lease: Some(lease), ended: false }), running: None }
    }

    pub(crate) fn while_running(mut self, running: RunningRequest) -> Self {
        self.running = Some(running);
        self
    }
}

impl Default for EdgeBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
            Kind::Proxied(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Boxed(body) => body.is_end_stream(),
            Kind::Proxied(proxied) => proxied.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Boxed(body) => body.size_hint(),
            Kind::Proxied(proxied) => proxied.body.size_hint(),
        }
    }
}

/// A target's response body. When it has ended, the connection it came on goes back to its pool.
struct Proxied {
    body: Incoming,
    lease: Option<Lease>,
    ended: bool,
}

impl Body for Proxied {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Err(_))) => {
                if let Some(lease) = self.lease.take() {
                    lease.broken();
                }
            }
            _ => {}
        }
        polled.map_err(Into::into)
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take().filter(|_| self.ended || self.body.is_end_stream()) {
            lease.give_back();
        }
    }
}

/// Counts as a running request of its connection for as long as it lives.
pub(crate) struct RunningRequest(Arc<Activity>);

impl RunningRequest {
    pub(crate) fn begin(activity: &Arc<Activity>) -> Self {
        activity.begin();
        Self(Arc::clone(activity))
    }
}

impl Drop for RunningRequest {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A client's request body, which may not stop for long.
pub(crate) struct ClientBody {
    body: Incoming,
    /// None: it may.
    patience: Option<Duration>,
    /// Runs while the next piece is waited for.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    pub(crate) fn new(body: Incoming, patience: Option<Duration>) -> Self {
        Self { body, patience, waiting: None }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let Some(patience) = this.patience else { return Poll::Pending };
        ready!(this.waiting.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        Poll::Ready(Some(Err("the client has stopped sending".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request to a target.
pub(crate) enum UpstreamBody {
    Empty,
    Once(ClientBody),
    Replay(ReplayReader),
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Once(body) => Pin::new(body).poll_frame(cx),
            Self::Replay(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_end_stream(),
            Self::Replay(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(body) => body.size_hint(),
            Self::Replay(reader) => reader.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// A request body that can be sent again: it flows through without waiting, and what has flowed is kept up to
/// [`REPLAY_MAX`].
pub(crate) struct Replay(Arc<Mutex<Recording<ClientBody>>>);

struct Recording<B> {
    source: B,
    /// What the body said of its length before any of it was read.
    length: Option<u64>,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    kept: usize,
    /// More has flowed than is kept.
    overflowed: bool,
    ended: bool,
    /// Readers made so far: only the newest may read.
    readers: u64,
}

impl Replay {
    pub(crate) fn new(source: ClientBody) -> Self {
        Self(Arc::new(Mutex::new(Recording::new(source))))
    }

    /// Whether a new reader would see the body from its start.
    pub(crate) fn is_whole(&self) -> bool {
        !self.0.lock().overflowed
    }

    /// Reads from the start. Readers made before get an error from now on.
    pub(crate) fn reader(&self) -> ReplayReader {
        let mut recording = self.0.lock();
        recording.readers += 1;
        ReplayReader {
            recording: Arc::clone(&self.0),
            number: recording.readers,
            next: 0,
            length: recording.length,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Recording<B> {
    fn new(source: B) -> Self {
        Self {
            length: source.size_hint().exact(),
            source,
            chunks: Vec::new(),
            trailers: None,
            kept: 0,
            overflowed: false,
            ended: false,
            readers: 0,
        }
    }

    /// The frame number `next` of the body.
    fn poll(&mut self, next: usize, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(chunk) = self.chunks.get(next) {
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if self.ended {
            let trailers = (next == self.chunks.len()).then(|| self.trailers.clone()).flatten();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let polled = Pin::new(&mut self.source).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                    self.ended = true;
                }
            }
            _ => {}
        }
        polled
    }

    fn keep(&mut self, data: &Bytes) {
        if self.overflowed || self.kept + data.len() > REPLAY_MAX {
            self.overflowed = true;
            self.chunks = Vec::new();
        } else {
            self.kept += data.len();
            self.chunks.push(data.clone());
        }
    }
}

pub(crate) struct ReplayReader {
    recording: Arc<Mutex<Recording<ClientBody>>>,
    number: u64,
    /// Frames read, as long as all are kept.
    next: usize,
    length: Option<u64>,
}

impl ReplayReader {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut recording = self.recording.lock();
        if recording.readers != self.number {
            return Poll::Ready(Some(Err("this request is being sent elsewhere".into())));
        }
        let polled = recording.poll(self.next, cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.next = if recording.overflowed { 0 } else { self.next + 1 };
            if let (Some(length), Some(data)) = (self.length.as_mut(), frame.data_ref()) {
                *length = length.saturating_sub(data.len() as u64);
            }
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::{Full, StreamBody};

    use super::*;

    fn read(recording: &mut Recording<impl Body<Data = Bytes> + Unpin>) -> Vec<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = recording.poll(out.len(), &mut cx) {
            out.extend(frame.into_data().ok());
        }
        out
    }

    #[test]
    fn a_small_body_reads_the_same_twice() {
        let chunks = ["one", "two"].map(|s| Ok::<_, BodyError>(Frame::data(Bytes::from(s))));
        let mut recording = Recording::new(StreamBody::new(futures_util::stream::iter(chunks)));
        assert_eq!(read(&mut recording), ["one", "two"]);
        assert_eq!(read(&mut recording), ["one", "two"]);
        assert!(!recording.overflowed);
    }

    #[test]
    fn a_large_body_is_not_kept() {
        let mut recording = Recording::new(Full::new(Bytes::from(vec![0; REPLAY_MAX + 1])));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(recording.poll(0, &mut cx).is_ready());
        assert!(recording.overflowed && recording.chunks.is_empty());
    }
}
