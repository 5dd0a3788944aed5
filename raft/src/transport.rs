//! How nodes reach each other: over [`Peers`], or over the network of the simulator.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use pangolin_core::{id::NodeId, time::Timestamp};
use pangolin_peer::{BoxFuture, Handler, PeerError, PeerStream, Peers, Service};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::serve::Endpoint;

/// A byte stream to another node.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What Raft wants of the network. The identity of whoever asks is proven below it.
pub trait Transport: Send + Sync + 'static {
    /// Asks another node; see [`Peers::request`].
    fn request(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>>;

    /// Opens a stream to another node; see [`Peers::open`].
    fn open(&self, to: NodeId, service: Service) -> BoxFuture<'_, Result<Box<dyn Duplex>, PeerError>>;

    /// Says who answers the requests and streams of a service on this node.
    fn serve(&self, service: Service, endpoint: Endpoint);

    /// Whether a node does not answer.
    fn is_suspect(&self, node: NodeId) -> bool;

    /// How long it takes until a node answers, as far as that was measured; see [`Peers::rtt`].
    fn distance(&self, node: NodeId) -> Option<Duration> {
        let _ = node;
        None
    }

    /// What a node's wall clock says now, as far as it has told; see [`Peers::clock_of`].
    fn clock_of(&self, node: NodeId) -> Option<Timestamp> {
        let _ = node;
        None
    }
}

impl Transport for Peers {
    fn request(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'_, Result<Bytes, PeerError>> {
        Box::pin(Self::request(self, to, service, body, within))
    }

    fn open(&self, to: NodeId, service: Service) -> BoxFuture<'_, Result<Box<dyn Duplex>, PeerError>> {
        Box::pin(async move { Ok(Box::new(Self::open(self, to, service).await?) as Box<dyn Duplex>) })
    }

    fn serve(&self, service: Service, endpoint: Endpoint) {
        Self::serve(self, service, Arc::new(endpoint));
    }

    fn is_suspect(&self, node: NodeId) -> bool {
        Self::is_suspect(self, node)
    }

    fn distance(&self, node: NodeId) -> Option<Duration> {
        self.rtt(node)
    }

    fn clock_of(&self, node: NodeId) -> Option<Timestamp> {
        Self::clock_of(self, node)
    }
}

impl Handler for Endpoint {
    fn request(&self, from: NodeId, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(self.answer(from, body))
    }

    fn stream(&self, from: NodeId, mut stream: PeerStream) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.take(from, &mut stream).await })
    }
}
