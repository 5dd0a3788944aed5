//! The local socket: whoever may open it is the operator of this host.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pangolin_api::{Api, Caller, Credentials};
use pangolin_core::Slug;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

/// Most connections at a time: operators and what they automate, not traffic.
const CONNECTIONS_MAX: usize = 512;
/// Pause after a connection could not be accepted, so that the reason can pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why there is no local socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the local socket {path}: {source}; is another node running with this node.runtime_dir?")]
pub struct SocketError {
    path: PathBuf,
    source: std::io::Error,
}

/// The bound socket.
pub struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The user that this node runs as.
    owner: u32,
    /// The node's name: whoever comes in here is known by it as well.
    node: String,
}

impl LocalSocket {
    /// Opens the socket, for its owner and root only. A stale one, left by a node that was killed, is replaced; one
    /// that somebody answers on is not.
    ///
    /// # Errors
    /// It is in use, or cannot be made.
    pub fn bind(path: PathBuf, node: &Slug) -> Result<Self, SocketError> {
        let open = || -> std::io::Result<(UnixListener, u32)> {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            if std::os::unix::net::UnixStream::connect(&path).is_ok() {
                return Err(std::io::ErrorKind::AddrInUse.into());
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            let owner = std::fs::metadata(&path)?.uid();
            Ok((listener, owner))
        };
        match open() {
            Ok((listener, owner)) => Ok(Self { listener, path, owner, node: node.to_string() }),
            Err(source) => Err(SocketError { path, source }),
        }
    }

    /// Between the moment the socket is there and the moment its mode is set, anybody might have connected: only
    /// root and its owner are let in.
    fn may_enter(&self, stream: &UnixStream) -> Result<(), String> {
        let who = stream.peer_cred().map_err(|error| format!("it does not say who it is: {error}"))?.uid();
        if who == 0 || who == self.owner { Ok(()) } else { Err(format!("uid {who} is not its owner")) }
    }

    /// Who has connected, for the record: the user id on this node.
    fn operator(&self, stream: &UnixStream) -> String {
        let who = stream.peer_cred().map_or_else(|_| "unknown".to_owned(), |who| who.uid().to_string());
        format!("uid {who} on {}", self.node)
    }

    /// Serves the API with operator rights until told to end.
    ///
    /// # Errors
    /// None: connections that cannot be accepted are tried again.
    pub async fn run(self, api: Api, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let connections = TaskTracker::new();
        let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match stream {
                Ok((stream, _)) => stream,
                // Out of file descriptors, as a rule: no reason to end a node that carries traffic.
                Err(error) => {
                    warn!(%error, "cannot accept a connection on the local socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Err(reason) = self.may_enter(&stream) {
                warn!(reason, "a connection to the local socket was refused");
                continue;
            }
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (api, shutdown, operator) = (api.clone(), shutdown.clone(), self.operator(&stream));
            connections.spawn(async move {
                serve(stream, api, operator, shutdown).await;
                drop(place);
            });
        }
        connections.close();
        connections.wait().await;
        // The next start replaces a socket that could not be removed.
        let _ = std::fs::remove_file(&self.path);
        Ok(())
    }
}

async fn serve(stream: UnixStream, api: Api, operator: String, shutdown: CancellationToken) {
    let service = service_fn(move |request| {
        let (api, operator) = (api.clone(), operator.clone());
        async move {
            Ok::<_, std::convert::Infallible>(
                api.call(request, Caller { credentials: Credentials::LocalOperator(operator), remote: None })
                    .await,
            )
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the local socket broke");
    }
}
