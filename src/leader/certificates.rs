//! The internal certificate issuer: for labs and the demo, and as long as no public one is set up.

use std::time::{Duration, UNIX_EPOCH};

use pangolin_core::{ClusterState, HostName, Timestamp, command::CertificateIssued};
use pangolin_peer::identity::{AuthorityKey, Keyring};

use crate::seal;

/// How long an internal certificate lives.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);

/// Issues a certificate for `names` that is good from `now` on, its key sealed.
pub(super) async fn issue(
    state: &ClusterState,
    keyring: std::sync::Arc<Keyring>,
    names: Vec<HostName>,
    now: Timestamp,
) -> Result<CertificateIssued, String> {
    let issuer = state.cluster().ok_or("there is no cluster yet")?.issuer.clone();
    let make = move || {
        let key = keyring.open(&issuer.key, seal::ISSUER).map_err(|error| error.to_string())?;
        let issuer = AuthorityKey::from_parts(issuer.certificate, &key).map_err(|error| error.to_string())?;
        let now = UNIX_EPOCH + Duration::from_millis(now.0);
        let issued = issuer.issue(&names, now, LIFETIME).map_err(|error| error.to_string())?;
        let key =
            keyring.seal(&issued.key_pkcs8, &seal::certificate(&names)).map_err(|error| error.to_string())?;
        Ok(CertificateIssued {
            names,
            chain: issued.chain,
            key,
            not_before: issued.not_before,
            not_after: issued.not_after,
        })
    };
    // Making keys takes CPU time that the runtime's workers have better uses for.
    tokio::task::spawn_blocking(make).await.map_err(|error| error.to_string())?
}
