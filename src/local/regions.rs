//! The database that tells where clients are: read again when its file is replaced.

use std::{convert::Infallible, sync::Arc, time::Duration};

use pangolin_dns::{DnsServer, RegionsFile};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often the file is looked at: such databases are published weekly.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Runs until told to end.
///
/// # Errors
/// None.
pub async fn follow(
    mut file: RegionsFile,
    dns: DnsServer,
    shutdown: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(LOOK_EVERY) => {}
        }
        // Tens of megabytes are read and checked.
        let looked = spawn_blocking(move || {
            let changed = file.changed();
            (file, changed)
        });
        let Ok((same, changed)) = looked.await else { return Ok(()) };
        file = same;
        match changed {
            Ok(None) => {}
            Ok(Some(database)) => {
                info!(?database, "the database of regions was replaced");
                dns.set_regions(Arc::new(database));
            }
            Err(error) => warn!(%error, "the database of regions stays as it was read before"),
        }
    }
}
