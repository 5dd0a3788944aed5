//! What many sites cost a node: time to add all, memory of each.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::{Result, ensure};
use clap::Args;
use pangolin_core::id::{Revision, SiteId};
use pangolin_tunnel::{BackendChoice, SecretKey, TunnelConfig, TunnelLayer};
use serde::{Deserialize, Serialize};

use super::end::{NODE_INSIDE, node_key, plan};
use crate::{processes::resident_mb, sample::round, say};

#[derive(Debug, Args)]
pub(crate) struct PeerOptions {
    #[arg(long)]
    peers: u32,
}

/// What came out.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Peers {
    pub peers: u32,
    /// From the plan until all are added.
    pub added_seconds: f64,
    /// Memory of each, in KiB.
    pub each_kib: f64,
}

/// Adds the peers to a tunnel layer of this process and says what that took: nothing else grows in between.
///
/// # Errors
/// The layer cannot be opened.
pub(crate) fn run(options: &PeerOptions) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(measure(options.peers))
}

async fn measure(peers: u32) -> Result<()> {
    ensure!((1..60_000).contains(&peers), "1 to 60,000 peers");
    let config = TunnelConfig {
        listen: "127.0.0.1:0".parse()?,
        key: node_key(),
        // Peers are the WireGuard device's, which is the same with an interface.
        backend: BackendChoice::InProcess,
        interface: "pgb0".into(),
        mtu: pangolin_tunnel::DEFAULT_MTU,
    };
    let first = u32::from(NODE_INSIDE) + 256;
    let sites = (0..peers).map(|number| {
        (SiteId(u64::from(number) + 1), Ipv4Addr::from(first + number), SecretKey::generate().public())
    });
    let plan = plan(sites)?;
    let (layer, _task) = TunnelLayer::open(config, NODE_INSIDE, "100.90.0.0/16".parse()?).await?;
    let before = resident_mb(std::process::id())?;
    let began = Instant::now();
    layer.apply(Revision { lineage: 1, index: 1 }, &plan).await?;
    let took = began.elapsed();
    let grown = resident_mb(std::process::id())? - before;
    ensure!(layer.stats().await?.len() == usize::try_from(peers)?, "not all peers are there");
    let figures = Peers {
        peers,
        added_seconds: round(took.as_secs_f64()),
        each_kib: round(grown * 1024.0 / f64::from(peers)),
    };
    say(&serde_json::to_string(&figures)?);
    Ok(())
}
