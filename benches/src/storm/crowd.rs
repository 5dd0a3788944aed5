//! Many sites in one process: whole connectors, each with an id, a key, a control socket and a WireGuard socket of its own.
//! What flows through their tunnels is probes.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use pangolin_connector::{
    dial::Tls,
    endpoint::{Door, Endpoint},
    options::{Options, Secret},
};
use pangolin_tunnel::{DEFAULT_MTU, SecretKey, site::SiteBackend};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Between the starts of two connectors: what is measured is how they come back, not how they begin.
const START_EVERY: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub(crate) struct CrowdOptions {
    /// The sites' credentials
    #[arg(long)]
    sites: PathBuf,
    /// Where the nodes' edges are
    #[arg(long, value_delimiter = ',')]
    endpoint: Vec<Endpoint>,
    #[arg(long)]
    server_name: String,
    #[arg(long)]
    ca_file: PathBuf,
    #[arg(long)]
    tunnels: usize,
}

/// What a connector signs in with.
#[derive(Serialize, Deserialize)]
pub(super) struct Credentials {
    pub id: String,
    pub secret: String,
}

/// Runs the connectors until it is killed.
///
/// # Errors
/// One of them ends.
pub(crate) fn run(options: &CrowdOptions) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let sites: Vec<Credentials> = serde_json::from_slice(&std::fs::read(&options.sites)?)?;
        let tls = Tls::new(Some(&options.ca_file))?;
        let door = |endpoint: &Endpoint| Door::configured(endpoint.clone(), Some(&options.server_name));
        let doors: Vec<Door> = options.endpoint.iter().map(door).collect();
        let mut connectors = JoinSet::new();
        for (number, site) in sites.into_iter().enumerate() {
            let mut doors = doors.clone();
            // Each begins at another node.
            doors.rotate_left(number % options.endpoint.len());
            let connector = Options {
                id: site.id,
                secret: Secret::from(site.secret),
                doors,
                tls: tls.clone(),
                tunnels: options.tunnels,
                key: SecretKey::generate(),
                mtu: DEFAULT_MTU,
                backend: SiteBackend::InProcess,
                health_file: None,
                status_file: None,
            };
            connectors.spawn(pangolin_connector::run(connector, CancellationToken::new()));
            tokio::time::sleep(START_EVERY).await;
        }
        connectors.join_next().await.context("there are no sites")???;
        anyhow::bail!("a connector has ended")
    })
}
