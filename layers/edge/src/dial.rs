//! What the node gives to the edge: a way to targets, and what it serves itself.

use std::{fmt, io, net::SocketAddr};

use futures_util::future::BoxFuture;
use pangolin_core::{NodeId, plan::RouteTarget};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::body::EdgeBody;

/// A stream of bytes in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Any [`Io`].
pub type BoxedIo = Box<dyn Io>;

/// Datagrams in both directions. Dropping it ends the session.
pub trait Datagrams: Send + Sync + 'static {
    /// Sends one. Like any network, it may lose it.
    ///
    /// Fails with `InvalidInput` for one that is too long for the way, with something else when the way is gone.
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>>;

    /// Waits for the next one and writes it to `buffer`, cut to its length.
    ///
    /// Fails with `TimedOut` when the session has ended for want of traffic, with something else when the way is
    /// gone.
    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>>;
}

/// Any [`Datagrams`].
pub type BoxedDatagrams = Box<dyn Datagrams>;

/// Which way a connection to a target takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// Through this node's own tunnel to the site.
    Local,
    /// Through the tunnel of another node.
    Relay(NodeId),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("the local tunnel"),
            Self::Relay(node) => write!(f, "node {node}"),
        }
    }
}

/// A connection to a target.
pub struct Dialed {
    /// The connection; bytes written arrive at the target.
    pub io: BoxedIo,
    /// Which way it takes.
    pub via: Via,
}

/// Why a target was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct DialError {
    /// The way that failed; none if there is no way at all (no live tunnel anywhere, or every node excluded).
    pub via: Option<Via>,
    /// What went wrong, for people.
    pub reason: String,
    /// The site was reached, and the target refused or did not answer.
    pub by_target: bool,
}

impl DialError {
    /// No tunnel to the site is alive on any node that is not excluded.
    pub fn no_path(reason: impl Into<String>) -> Self {
        Self { via: None, reason: reason.into(), by_target: false }
    }

    /// One way was tried and failed.
    pub fn at(via: Via, reason: impl Into<String>) -> Self {
        Self { via: Some(via), reason: reason.into(), by_target: false }
    }

    /// The way led to the site, but the target refused or did not answer.
    pub fn refused(via: Via, reason: impl Into<String>) -> Self {
        Self { via: Some(via), reason: reason.into(), by_target: true }
    }
}

/// Connects to targets.
pub trait Dialer: Send + Sync + 'static {
    /// Connects to `target`: through the local tunnel if it is alive, else relayed by a node whose tunnel is.
    /// Nodes in `exclude` have just failed for this request and are not used; [`Dialer::own_node`] among them
    /// means that the local tunnel is not used.
    fn dial(&self, target: &RouteTarget, exclude: &[NodeId]) -> BoxFuture<'_, Result<Dialed, DialError>>;

    /// Opens a way for datagrams to `target`, and says which one it is. Each client's are a session of their own.
    fn dial_datagrams(
        &self,
        target: &RouteTarget,
        exclude: &[NodeId],
    ) -> BoxFuture<'_, Result<(BoxedDatagrams, Via), DialError>>;

    /// This node's id, if it has one: how the local tunnel is named in `exclude`.
    fn own_node(&self) -> Option<NodeId> {
        None
    }
}

/// What the control host serves, in process: the API, the dashboard, the connectors' control channel.
pub trait LocalService: Send + Sync + 'static {
    /// Answers a request. Forwarding headers sent by the client are gone, `Host` is set for HTTP/2 as well,
    /// `X-Request-Id` is the edge's. Upgrades go through `hyper::upgrade::on`.
    fn call(
        &self,
        request: http::Request<hyper::body::Incoming>,
        peer: SocketAddr,
    ) -> BoxFuture<'static, http::Response<EdgeBody>>;
}
