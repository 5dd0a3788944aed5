//! Our ends of a tunnel as programs: the tunnel layer of a node, and that of a connector with something behind it that
//! takes, gives and repeats.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use pangolin_core::{
    id::{Epoch, NodeId, Revision, SiteId},
    plan::{SiteTunnel, TunnelPlan},
    record::TunnelKey,
};
use pangolin_tunnel::{
    BackendChoice, SecretKey, TunnelConfig, TunnelLayer,
    site::{FlowKind, SiteBackend, SiteNode, SiteTunnels},
};
use tokio_util::sync::CancellationToken;

use super::load;

/// Addresses inside the tunnel.
pub(super) const NODE_INSIDE: Ipv4Addr = Ipv4Addr::new(100, 90, 0, 1);
pub(super) const SITE_INSIDE: Ipv4Addr = Ipv4Addr::new(100, 90, 1, 9);
/// The site, whose tunnel is the only one.
const SITE: SiteId = SiteId(9);

/// Keys that protect nothing.
pub(super) fn node_key() -> SecretKey {
    SecretKey::from_bytes([11; 32])
}

pub(super) fn site_key() -> SecretKey {
    SecretKey::from_bytes([12; 32])
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Side {
    Node,
    Site,
}

#[derive(Debug, Args)]
pub(crate) struct EndOptions {
    #[arg(value_enum)]
    side: Side,
    /// Where the node's WireGuard listens
    #[arg(long)]
    node: SocketAddr,
    #[arg(long)]
    mtu: u16,
    /// TCP in the process of the site's end
    #[arg(long)]
    in_process: bool,
}

/// Runs an end until it is killed.
///
/// # Errors
/// It cannot be opened.
pub(crate) fn run(options: &EndOptions) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        match options.side {
            Side::Node => run_node(options).await,
            Side::Site => run_site(options).await,
        }
    })
}

/// The plan of a node with these sites.
pub(super) fn plan(sites: impl IntoIterator<Item = (SiteId, Ipv4Addr, TunnelKey)>) -> Result<TunnelPlan> {
    let sites = sites.into_iter().map(|(site, address, key)| {
        let tunnel = SiteTunnel {
            site,
            address,
            key: Some(key),
            multi_homed: true,
            offers: Vec::new(),
            epoch: Epoch(1),
            config_version: 1,
            targets: Vec::new(),
        };
        (site, tunnel)
    });
    Ok(TunnelPlan {
        address: Some(NODE_INSIDE),
        network: Some("100.90.0.0/16".parse().context("the network")?),
        sites: sites.collect(),
        nodes: BTreeMap::new(),
    })
}

async fn run_node(options: &EndOptions) -> Result<()> {
    let config = TunnelConfig {
        listen: options.node,
        key: node_key(),
        backend: BackendChoice::Tun,
        interface: "pgb0".into(),
        mtu: options.mtu,
    };
    let plan = plan([(SITE, SITE_INSIDE, site_key().public())])?;
    let network = plan.network.context("the network")?;
    let (layer, task) = TunnelLayer::open(config, NODE_INSIDE, network).await?;
    layer.apply(Revision { lineage: 1, index: 1 }, &plan).await?;
    task.run(CancellationToken::new()).await?;
    Ok(())
}

async fn run_site(options: &EndOptions) -> Result<()> {
    let backend =
        if options.in_process { SiteBackend::InProcess } else { SiteBackend::Tun("/proc/self/exe".into()) };
    let (tunnels, task) = SiteTunnels::open(site_key(), SITE_INSIDE, options.mtu, &backend).await?;
    tunnels.listen(BTreeSet::from([load::PORT]), BTreeSet::new());
    tunnels.set_nodes(vec![SiteNode {
        node: NodeId(1),
        endpoint: options.node,
        key: node_key().public(),
        address: NODE_INSIDE,
    }]);
    tokio::spawn(async move {
        while let Some(flow) = tunnels.accept().await {
            if let FlowKind::Tcp(stream) = flow.kind {
                // A stream that fails is seen at its other end.
                tokio::spawn(async move { drop(load::serve_flow(stream).await) });
            }
        }
    });
    task.run(CancellationToken::new()).await?;
    Ok(())
}
