//! Two hosts in network namespaces, and the way between them: how much of it is lost and how long it takes.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use pangolin_chaos::{
    host::Network,
    process,
    testbed::network::{Fabric, Plug, missing, tool},
    wire::{Quality, Wire},
};
use serde::Serialize;

/// Longest that a tool may take.
const TOOL_PATIENCE: Duration = Duration::from_secs(20);
/// Positions of the two hosts.
const NODE: usize = 0;
const SITE: usize = 1;
/// Where a node's WireGuard listens.
pub(super) const WIREGUARD_PORT: u16 = 51_820;

/// How the way between the hosts is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Conditions {
    /// Share of the packets that are lost in each direction.
    pub loss: f64,
    /// What is added to the round trip, in milliseconds.
    pub delay_ms: u64,
}

impl Conditions {
    /// In words.
    pub(super) fn name(self) -> String {
        format!("{} % loss, {} ms", self.loss * 100.0, self.delay_ms)
    }
}

/// The two hosts.
pub(super) struct Lab {
    fabric: Fabric,
    wire: Option<Wire>,
}

impl Lab {
    /// Two hosts with nothing between them but a bridge.
    ///
    /// # Errors
    /// This process is not root, or a tool is missing.
    pub(super) fn new() -> Result<Self> {
        if let Some(missing) = missing() {
            anyhow::bail!("tunnels cannot be measured here: {missing}");
        }
        let fabric = Fabric::new(&["node".to_owned(), "site".to_owned()])?;
        Ok(Self { fabric, wire: None })
    }

    pub(super) fn node(&self) -> &Plug {
        &self.fabric.plugs[NODE]
    }

    pub(super) fn site(&self) -> &Plug {
        &self.fabric.plugs[SITE]
    }

    /// Where the node's WireGuard listens.
    pub(super) fn node_endpoint(&self) -> SocketAddr {
        (self.node().address, WIREGUARD_PORT).into()
    }

    /// Makes the way as it is to be.
    ///
    /// A packet is lost as a whole and alone: where something is lost or delayed, both hosts cut what they send into single
    /// packets before it leaves them, as a network card does at the latest. A delay needs the wire of this program, which
    /// then also loses.
    ///
    /// # Errors
    /// A tool refuses.
    pub(super) fn be(&mut self, conditions: Conditions) -> Result<()> {
        let far = conditions.delay_ms > 0;
        match (far, self.wire.is_some()) {
            (true, false) => self.wire = Some(self.fabric.wire(SITE)?),
            (false, true) => {
                self.wire = None;
                self.fabric.unwire(SITE)?;
            }
            _ => {}
        }
        if let Some(wire) = &self.wire {
            let delay = Duration::from_millis(conditions.delay_ms) / 2;
            wire.be(Quality { delay, loss: conditions.loss, ..Quality::default() });
        }
        let single = far || conditions.loss > 0.0;
        for plug in &self.fabric.plugs {
            let segments = if single { "1" } else { "65535" };
            let mut command = tool("ip");
            command.args(["link", "set", "dev", "eth0", "gso_max_segs", segments]);
            run(&plug.network, command, "")?;
            let mut rules = "add table inet lossy\ndelete table inet lossy\n".to_owned();
            if conditions.loss > 0.0 && !far {
                let one_in = (1.0 / conditions.loss).round();
                rules += &format!(
                    "add table inet lossy\n\
                     add chain inet lossy in {{ type filter hook input priority -200; }}\n\
                     add rule inet lossy in iifname eth0 numgen random mod {one_in} == 0 drop\n"
                );
            }
            let mut command = tool("nft");
            command.args(["-f", "-"]);
            run(&plug.network, command, &rules)?;
        }
        Ok(())
    }
}

/// Runs a tool on a host.
///
/// # Errors
/// It says so.
pub(super) fn run(network: &Network, mut command: Command, input: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    network.enter(&mut command);
    let output = process::run(command, input, TOOL_PATIENCE)?;
    ensure!(output.success, "{name}: {}{}", output.stdout, output.stderr);
    Ok(())
}

/// Runs a batch of `ip` on a host.
///
/// # Errors
/// It says so.
pub(super) fn ip(network: &Network, batch: &str) -> Result<()> {
    let mut command = tool("ip");
    command.args(["-batch", "-"]);
    run(network, command, batch).with_context(|| batch.to_owned())
}
