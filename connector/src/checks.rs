//! Health checks of the targets, made from the site.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use pangolin_tunnel::{
    checks::{BoxConnection, Checker, Dial, Healths, Place},
    control::messages::Check,
};
use tokio::sync::watch;

use crate::{
    dial::{Tls, tcp},
    now,
    wanted::Wanted,
};

/// Runs the checks that are wanted, and says in `healths` what comes of them.
pub(crate) async fn run(wanted: watch::Receiver<Wanted>, healths: watch::Sender<Healths>, tls: Tls) {
    let agent = concat!("pangolin-connector/", env!("CARGO_PKG_VERSION"));
    let checker = Checker { dial: FromHere(tls), clock: now, agent };
    let checks: fn(&Wanted) -> &BTreeMap<u64, Check> = |wanted| &wanted.checks;
    checker.run(wanted, checks, healths).await;
}

/// The site's own network.
#[derive(Clone)]
struct FromHere(Tls);

impl Dial for FromHere {
    fn dial<'a>(
        &'a self,
        check: &'a Check,
        place: &'a Place,
    ) -> BoxFuture<'a, Result<BoxConnection, String>> {
        Box::pin(async move {
            let stream = tcp(&place.host, place.port).await.map_err(|error| error.to_string())?;
            if !place.tls {
                return Ok(Box::new(stream) as BoxConnection);
            }
            let name = &check.hc_tls_server_name;
            let name = if name.is_empty() { &place.host } else { name };
            let stream = self.0.unverified(stream, name).await.map_err(|error| error.to_string())?;
            Ok(Box::new(stream) as BoxConnection)
        })
    }
}
