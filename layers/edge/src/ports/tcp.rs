//! One connection from a client to a target.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    Search,
    forward::{Ahead, End, both_ways},
    idle_of, tell,
};
use crate::{
    counters::bump,
    dial::{BoxedIo, DialError, Dialed},
    edge::World,
    pool::TargetPool,
    snapshot::Port,
    upstream::Protocol,
};

/// A connector accepts a connection before its target has, and breaks it again when the target refuses. Where there
/// is another target, the client's bytes wait so long for that: once they are sent, there is no way back. A target
/// that has answered lately is trusted.
const PROBATION: Duration = Duration::from_millis(100);
/// What a target may send meanwhile, bytes: a greeting.
const GREETING: usize = 16 * 1024;

/// A client that has connected.
pub(crate) struct Arrival {
    stream: TcpStream,
    peer: SocketAddr,
    /// What has been read of it.
    ahead: Bytes,
}

impl Arrival {
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        Self { stream, peer, ahead: Bytes::new() }
    }

    /// One of which some bytes have been read, which the target gets first.
    pub(crate) fn with_ahead(stream: TcpStream, peer: SocketAddr, ahead: Bytes) -> Self {
        Self { stream, peer, ahead }
    }
}

/// Carries a connection to a target of the port and back, until it ends, is idle for too long, the port is closed,
/// or the edge ends.
pub(crate) async fn carry(world: &World, port: &Port, arrival: Arrival) {
    let carrying = Box::pin(carry_to_end(world, port, arrival));
    tokio::select! {
        () = carrying => {}
        () = port.gate.close.cancelled() => {}
        () = world.close.cancelled() => {}
    }
}

async fn carry_to_end(world: &World, port: &Port, arrival: Arrival) {
    let Arrival { stream, peer, ahead } = arrival;
    let header = port.rules.proxy_protocol.and_then(|version| {
        let local = stream.local_addr().ok()?;
        Some(tell::header(version, peer, local))
    });
    let Some(reached) = reach(world, port, peer, header.as_deref().unwrap_or_default()).await else {
        // A reset says that nothing was done, where an orderly end would look like an empty answer.
        let _ = stream.set_zero_linger();
        return;
    };
    let Reached { io, greeting, pool } = reached;
    let _running = pool.begin();
    let (end, answered) = both_ways(Ahead::new(ahead, stream), Ahead::new(greeting, io), idle_of(port)).await;
    if let End::Broken(error) = &end {
        tracing::debug!(%peer, target_id = %pool.target.id, %error, "a connection broke");
    }
    match (answered, end) {
        (true, _) => pool.note_answer(),
        (false, End::Broken(_)) => pool.note_failure(),
        (false, End::Done | End::Idle) => {}
    }
}

/// A target on the line.
struct Reached {
    io: BoxedIo,
    /// What it has said already.
    greeting: Bytes,
    pool: Arc<TargetPool>,
}

async fn reach(world: &World, port: &Port, peer: SocketAddr, header: &[u8]) -> Option<Reached> {
    let mut search = Search::new(world, &port.route, peer.ip());
    loop {
        let (index, pool) = search.next()?;
        let opened = world.connector.open(&pool.target, Protocol::Http1, search.exclude()).await;
        let patience = (search.has_choice() && !pool.answered_lately()).then_some(PROBATION);
        let error = match opened {
            Ok(dialed) => {
                let via = dialed.via;
                match settle(dialed, header, patience).await {
                    Ok((io, greeting)) => {
                        bump(&world.counters.path(pool.target.site, via));
                        return Some(Reached { io, greeting, pool: Arc::clone(pool) });
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        bump(&world.counters.upstream_errors);
        if !search.failed(index, &error).await {
            return None;
        }
        bump(&world.counters.retries);
    }
}

/// Tells the target who comes, and waits whether the connection holds.
async fn settle(
    dialed: Dialed,
    header: &[u8],
    patience: Option<Duration>,
) -> Result<(BoxedIo, Bytes), DialError> {
    let Dialed { mut io, via } = dialed;
    let broken =
        |error: std::io::Error| DialError::refused(via, format!("the target broke the connection: {error}"));
    if !header.is_empty() {
        io.write_all(header).await.map_err(broken)?;
        io.flush().await.map_err(broken)?;
    }
    let mut greeting = BytesMut::new();
    if let Some(patience) = patience {
        greeting.reserve(GREETING);
        match timeout(patience, io.read_buf(&mut greeting)).await {
            Ok(Ok(0)) => return Err(DialError::refused(via, "the target ended the connection at once")),
            Ok(Err(error)) => return Err(broken(error)),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    Ok((io, greeting.freeze()))
}
