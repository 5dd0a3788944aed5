//! Three nodes far from each other: hosts of their own in network namespaces, with wires between them that take their time.

use std::time::Duration;

use anyhow::{Result, bail};
use pangolin_chaos::{
    cluster::{Backend, Cluster, Options, START_PATIENCE, Timing},
    ports::Ports,
    testbed::network::{Fabric, missing},
    wire::{Quality, Wire},
};

/// The ports that the documentation names: every host has them for itself.
const PORTS: Ports = Ports { https: 443, http: 80, dns: 53, peers: 7420, tunnel: 51820 };
const NODES: usize = 3;

/// The nodes, and the ways between them. Dropped in order: programs before their network.
pub(crate) struct Far {
    pub(crate) cluster: Cluster,
    /// None where the nodes are on one host.
    _ways: Option<(Vec<Wire>, Fabric)>,
}

/// Starts three nodes. Whatever one sends arrives `distance` later at the others; clients ask from where the nodes are.
///
/// # Errors
/// Some step fails; any distance needs root.
pub(crate) async fn start(timing: Timing, distance: Duration) -> Result<Far> {
    if distance.is_zero() {
        let options = Options { timing, ..crate::pangolin::options(NODES as u8)? };
        return Ok(Far { cluster: Cluster::start(options).await?, _ways: None });
    }
    if let Some(missing) = missing() {
        bail!("nodes cannot be put far from each other here: {missing}");
    }
    let names: Vec<String> = (1..=NODES).map(|number| format!("n{number}")).collect();
    let fabric = Fabric::new(&names)?;
    let mut cluster = Cluster::prepare(Options {
        addresses: fabric.plugs.iter().map(|plug| plug.address).collect(),
        ports: PORTS,
        zone: "bench.test".to_owned(),
        backend: Backend::InProcess,
        log: Some("warn".to_owned()),
        timing,
    })?;
    for node in &mut cluster.nodes {
        node.host.network = Some(fabric.plug(&node.name)?.network.clone());
    }
    cluster.init().await?;
    for position in 1..NODES {
        cluster.join(position).await?;
    }
    cluster.healthy(START_PATIENCE).await?;
    // A frame passes the wires of both hosts.
    let quality = Quality { delay: distance / 2, ..Quality::default() };
    let mut wires = Vec::new();
    for plug in 0..NODES {
        let wire = fabric.wire(plug)?;
        wire.be(quality);
        wires.push(wire);
    }
    cluster.healthy(START_PATIENCE).await?;
    Ok(Far { cluster, _ways: Some((wires, fabric)) })
}
