//! Connections that change their protocol, WebSockets above all: bytes in both directions until one side ends.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::{edge::World, limits::Permit, pool::Lease};

/// Joins the two sides once both have changed over. The client's place and the target's connection count as in use
/// until the end.
pub(crate) fn join(world: &Arc<World>, client: OnUpgrade, target: OnUpgrade, held: (Arc<Permit>, Lease)) {
    let close = world.close.clone();
    let (permit, lease) = held;
    let held = (permit, Arc::clone(&lease.link), lease.pool.begin());
    world.upgraded.spawn(async move {
        let _held = held;
        let (Ok(client), Ok(target)) = tokio::join!(client, target) else { return };
        // HTTP is over on this connection; what remains are the bytes.
        drop(lease);
        let (mut client, mut target) = (TokioIo::new(client), TokioIo::new(target));
        tokio::select! {
            result = copy_bidirectional(&mut client, &mut target) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "upgraded connection broke");
                }
            }
            () = close.cancelled() => {}
        }
    });
}
