//! The local socket: whoever may open it is the operator of this host.

use std::{os::unix::fs::PermissionsExt, path::PathBuf};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pangolin_api::{Api, Caller, Credentials};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

/// Most connections at a time: operators and scripts, not traffic.
const CONNECTIONS_MAX: usize = 64;

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
}

impl LocalSocket {
    /// Opens the socket, for its owner and root only. A stale one, left by a node that was killed, is replaced; one
    /// that somebody answers on is not.
    ///
    /// # Errors
    /// It is in use, or cannot be made.
    pub fn bind(path: PathBuf) -> Result<Self, SocketError> {
        let open = || -> std::io::Result<UnixListener> {
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
            Ok(listener)
        };
        match open() {
            Ok(listener) => Ok(Self { listener, path }),
            Err(source) => Err(SocketError { path, source }),
        }
    }

    /// Serves the API with operator rights until told to end.
    ///
    /// # Errors
    /// The listener broke.
    pub async fn run(self, api: Api, shutdown: CancellationToken) -> Result<(), std::io::Error> {
        let connections = TaskTracker::new();
        let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted?.0,
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (api, shutdown) = (api.clone(), shutdown.clone());
            connections.spawn(async move {
                serve(stream, api, shutdown).await;
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

async fn serve(stream: UnixStream, api: Api, shutdown: CancellationToken) {
    let operator =
        stream.peer_cred().map_or_else(|_| "unknown".to_owned(), |who| format!("uid {}", who.uid()));
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
