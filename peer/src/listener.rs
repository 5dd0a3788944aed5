//! The listener: tells peers from joiners by what they want to speak, and lets in whom it should.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use pangolin_core::{id::NodeId, record::Digest};
use parking_lot::Mutex;
use rustls::server::Acceptor;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{
    bulk,
    control::{self, broken},
    hello::{Hello, Lane, Program, Welcome, encode_answer, read_text, write_text},
    identity::spki_digest_of_certificate,
    join::{self, WrongProofs},
    shared::{Place, Shared},
    socket,
    tls::{ALPN_JOIN, ALPN_PEER, check_name},
};

/// How long a connection may take to prove who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most connections of one address that have not proven anything: several nodes on one host make two each.
const UNPROVEN_PER_ADDRESS: usize = 32;

/// Most of them in all.
const UNPROVEN_MAX: usize = 512;

/// How long to wait when the system has no more sockets to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Longest text that is read for its own sake after a refusal, in time.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Accepts connections for ever.
pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let (entrance, proofs) = (Arc::new(Entrance::default()), Arc::new(WrongProofs::default()));
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the peers' port");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(pass) = entrance.enter(remote.ip()) else {
            tracing::debug!(%remote, "too many connections that have not proven who they are");
            continue;
        };
        let (worker, proofs) = (shared.clone(), proofs.clone());
        shared.spawn(Box::pin(async move {
            if let Err(reason) = serve(&worker, stream, remote, pass, &proofs).await {
                tracing::debug!(%remote, %reason, "a connection to the peers' port has ended");
            }
        }));
    }
}

async fn serve(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
    pass: Pass,
    proofs: &WrongProofs,
) -> Result<(), String> {
    let guest = timeout(HANDSHAKE_TIMEOUT, receive(shared, stream))
        .await
        .map_err(|_| format!("it has not proven who it is within {HANDSHAKE_TIMEOUT:?}"))??;
    let (stream, hello, place) = match guest {
        Guest::Joiner(stream) => {
            return join::serve(stream, remote, shared.door(), proofs).await;
        }
        Guest::Peer(stream, hello, place) => (stream, hello, place),
    };
    drop(pass);
    let from = hello.from.node;
    if let Some(link) = shared.link(from) {
        link.peer_is_here();
    }
    let reason = speak(shared, from, hello.lane, stream, &place).await;
    shared.leave(&place);
    Err(format!("node {from}: {reason}"))
}

async fn speak(
    shared: &Arc<Shared>,
    from: NodeId,
    lane: Lane,
    stream: TlsStream<TcpStream>,
    place: &Place,
) -> String {
    let cut = place.cut.clone();
    let reason = match lane {
        Lane::Control => cut.run_until_cancelled_owned(control::serve(shared, from, stream)).await,
        Lane::Bulk => {
            let serving = serve_traffic(shared.clone(), from, stream);
            let task = shared.tasks.spawn_on(cut.run_until_cancelled_owned(serving), &shared.traffic);
            task.await.unwrap_or_else(|error| Some(error.to_string()))
        }
    };
    reason.unwrap_or_else(|| {
        "it was cut: replaced by a newer one, or the node is no longer a member".to_owned()
    })
}

async fn serve_traffic(shared: Arc<Shared>, from: NodeId, mut stream: TlsStream<TcpStream>) -> String {
    match socket::adopt(stream.get_mut().0) {
        Ok(()) => bulk::serve(&shared, from, stream).await,
        Err(error) => broken(&error),
    }
}

enum Guest {
    Peer(TlsStream<TcpStream>, Hello, Place),
    Joiner(TlsStream<TcpStream>),
}

async fn receive(shared: &Shared, stream: TcpStream) -> Result<Guest, String> {
    let own = shared.credentials().ok_or("this node has no identity")?;
    socket::tune(&stream).map_err(|e| e.to_string())?;
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(|e| e.to_string())?;
    let speaks = |wanted: &[u8]| {
        start.client_hello().alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == wanted))
    };
    if speaks(ALPN_PEER) {
        let stream = start.into_stream(own.for_peers.clone()).await.map_err(|e| e.to_string())?;
        return welcome(shared, stream).await;
    }
    if speaks(ALPN_JOIN) {
        let stream = start.into_stream(own.for_joiners.clone()).await.map_err(|e| e.to_string())?;
        return Ok(Guest::Joiner(stream));
    }
    Err("it speaks neither of the protocols of this port".to_owned())
}

async fn welcome(shared: &Shared, mut stream: TlsStream<TcpStream>) -> Result<Guest, String> {
    let text = read_text(&mut stream).await.map_err(|e| e.to_string())?;
    let hello = Hello::decode(&text).ok_or("its hello is malformed")?;
    let place = prove(&stream, &hello).and_then(|spki| shared.enter(&hello, &spki));
    let answer = match &place {
        Ok(place) => {
            shared.note_clock(hello.from.node, hello.program.clock);
            Ok(Welcome { version: place.version, program: Program::own() })
        }
        Err(reason) => Err(reason.clone()),
    };
    let written = write_text(&mut stream, &encode_answer(&answer)).await;
    match (place, written) {
        (Ok(place), Ok(())) => Ok(Guest::Peer(stream, hello, place)),
        (Ok(place), Err(error)) => {
            shared.leave(&place);
            Err(error.to_string())
        }
        (Err(reason), _) => {
            // Closing with unread bytes would reset the connection before the reason has arrived.
            let _ = timeout(REFUSAL_TIMEOUT, read_text(&mut stream)).await;
            Err(format!("node {} was refused: {reason}", hello.from.node))
        }
    }
}

/// The key with which the other side has proven to be the node that its hello names.
fn prove(stream: &TlsStream<TcpStream>, hello: &Hello) -> Result<Digest, String> {
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().ok_or("no certificate was shown")?;
    check_name(certificate, &hello.from)?;
    spki_digest_of_certificate(certificate).map_err(|e| e.to_string())
}

/// Counts connections that have not proven anything.
#[derive(Debug, Default)]
struct Entrance {
    waiting: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them; dropped when it has, or is gone.
struct Pass {
    entrance: Arc<Entrance>,
    address: IpAddr,
}

impl Entrance {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let mut waiting = self.waiting.lock();
        let all: usize = waiting.values().sum();
        let own = waiting.entry(address).or_default();
        if *own >= UNPROVEN_PER_ADDRESS || all >= UNPROVEN_MAX {
            if *own == 0 {
                waiting.remove(&address);
            }
            return None;
        }
        *own += 1;
        Some(Pass { entrance: self.clone(), address })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut waiting = self.entrance.waiting.lock();
        if let Some(own) = waiting.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                waiting.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_the_room() {
        let entrance = Arc::new(Entrance::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let passes: Vec<Pass> = (0..UNPROVEN_PER_ADDRESS).map(|_| entrance.enter(a).unwrap()).collect();
        assert!(entrance.enter(a).is_none());
        assert!(entrance.enter(b).is_some());
        drop(passes);
        assert!(entrance.enter(a).is_some());
        assert!(entrance.waiting.lock().is_empty(), "nothing is kept of those who have left");
    }
}
