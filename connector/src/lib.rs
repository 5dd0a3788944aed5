//! The program at a site: connects a private network to a Pangolin cluster.
//!
//! Parts that only share what is wanted and how the targets are:
//! - `control` keeps a control socket to any node and learns what is wanted ([`wanted`]);
//! - `tunnels` keeps WireGuard tunnels to several nodes at once ([`choice`]) and carries what comes in to the targets;
//! - [`over_tls`] is the way around a network that lets no UDP out;
//! - [`checks`] looks after the targets' health.
//! - [`distances`] says when it is worth telling how far the nodes are.
//!
//! None waits for another: while no node answers the control channel, tunnels, targets and checks go on as they were.
//! The control protocol and the tunnels themselves are `pangolin-tunnel`'s.

mod checks;
pub mod choice;
mod control;
pub mod dial;
pub mod distances;
pub mod doctor;
pub mod endpoint;
mod forward;
pub mod key;
pub mod options;
pub mod over_tls;
pub mod provision;
mod sign_in;
pub mod spread;
pub mod status;
mod tunnels;
pub mod wanted;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use pangolin_core::Timestamp;
use pangolin_tunnel::{TunnelError, checks::Healths};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    control::Control, distances::Distances, options::Options, over_tls::Access, status::Status,
    tunnels::Tunnels, wanted::Wanted,
};

/// The connector cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The tunnels failed.
    #[error("the tunnels: {0}")]
    Tunnels(#[from] TunnelError),
    /// A part ended by itself.
    #[error("the {0} part ended unexpectedly; start the connector again")]
    Ended(&'static str),
}

/// Runs until shut down; then says farewell to the cluster and closes the tunnels.
///
/// # Errors
/// [`ConnectorError`] if a part fails. Whoever runs the program starts it again.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), ConnectorError> {
    let (wanted, is_wanted) = watch::channel(Wanted::default());
    let (healths, are_healths) = watch::channel(Healths::new());
    let (distances, are_distances) = watch::channel(Distances::new());
    let key = options.key.public();
    let (started, doubt) = (now(), Arc::new(Notify::new()));
    let status = watch::Sender::new(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        ..Status::default()
    });
    let access = options.doors.first().map(|door| Access {
        door: door.clone(),
        id: options.id.clone(),
        secret: options.secret.clone(),
        tls: options.tls.clone(),
    });
    let control = Control {
        doors: options.doors,
        id: options.id,
        secret: options.secret,
        tls: options.tls.clone(),
        key,
        multi_homed: options.tunnels > 1,
        wanted,
        healths: are_healths,
        distances: are_distances,
        status: status.clone(),
        doubt: Arc::clone(&doubt),
    };
    let tunnels = Tunnels {
        wanted: is_wanted.clone(),
        key: options.key,
        mtu: options.mtu,
        backend: options.backend,
        most: options.tunnels,
        health_file: options.health_file,
        access: access.map(Arc::new),
        distances,
        doubt,
        status: status.clone(),
    };
    let all = shutdown.child_token();
    let mut parts: JoinSet<(&str, Result<(), TunnelError>)> = JoinSet::new();
    let stop = all.clone();
    parts.spawn(async move {
        control.run(stop).await;
        ("control", Ok(()))
    });
    let stop = all.clone();
    parts.spawn(async move { ("tunnels", tunnels.run(stop).await) });
    let stop = all.clone();
    parts.spawn(async move {
        stop.run_until_cancelled(checks::run(is_wanted, healths, options.tls)).await;
        ("checks", Ok(()))
    });
    if let Some(path) = options.status_file {
        let (stop, status) = (all.clone(), status.subscribe());
        parts.spawn(async move {
            stop.run_until_cancelled(status::keep(path, status)).await;
            ("status", Ok(()))
        });
    }
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        if result.is_ok() {
            result = match ended {
                Ok((_, Err(error))) => Err(error.into()),
                Ok((part, Ok(()))) if !shutdown.is_cancelled() => Err(ConnectorError::Ended(part)),
                Ok((_, Ok(()))) => Ok(()),
                Err(_) => Err(ConnectorError::Ended("panicked")),
            };
        }
        all.cancel();
    }
    result
}

/// The current time by this host's clock.
fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
