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

/// What interfaces segment for their hosts (ethtool(8), `-K`). Merging what comes in is off on these anyway.
const OFFLOADS: [&str; 3] = ["tso", "gso", "tx-udp-segmentation"];
/// The table of the rules that lose packets and count them.
const COUNTED: &str = "lossy";
/// Longest IP packet on Ethernet.
const PACKET_MAX: u64 = 1500;

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
    /// A packet is lost alone, whoever has sent it: where something is lost or delayed, nothing that segments
    /// packets is left to the interfaces, so that what leaves a host is what a network card would put on a wire.
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
        let offloads = if far || conditions.loss > 0.0 { "off" } else { "on" };
        for plug in &self.fabric.plugs {
            let mut command = tool("ethtool");
            command.args(["-K", "eth0"]);
            command.args(OFFLOADS.iter().flat_map(|offload| [*offload, offloads]));
            run(&plug.network, command, "")
                .context("is ethtool installed? (Debian: apt-get install ethtool)")?;
            let mut rules = format!("add table inet {COUNTED}\ndelete table inet {COUNTED}\n");
            if conditions.loss > 0.0 && !far {
                let one_in = (1.0 / conditions.loss).round();
                rules += &format!(
                    "add table inet {COUNTED}\n\
                     add chain inet {COUNTED} in {{ type filter hook input priority -200; }}\n\
                     add rule inet {COUNTED} in iifname eth0 counter\n\
                     add rule inet {COUNTED} in iifname eth0 numgen random mod {one_in} == 0 drop\n"
                );
            }
            let mut command = tool("nft");
            command.args(["-f", "-"]);
            run(&plug.network, command, &rules)?;
        }
        Ok(())
    }

    /// That everything which came to a host under these conditions came in packets of a size that a wire takes, so that
    /// losses have hit all systems alike.
    ///
    /// # Errors
    /// It did not, or a tool refuses.
    pub(super) fn check_packets(&self, conditions: Conditions) -> Result<()> {
        if conditions.loss == 0.0 || conditions.delay_ms > 0 {
            return Ok(());
        }
        for plug in &self.fabric.plugs {
            let mut command = tool("nft");
            command.args(["-j", "list", "table", "inet", COUNTED]);
            plug.network.enter(&mut command);
            let listed = process::run(command, "", TOOL_PATIENCE)?.ok("nft list")?;
            let (packets, bytes) = counted(&listed.stdout).context("the packets were not counted")?;
            ensure!(
                bytes <= packets * PACKET_MAX,
                "{} got {bytes} bytes in {packets} packets: they were not on their own",
                plug.name
            );
        }
        Ok(())
    }
}

/// Packets and bytes of the counter in a table that `nft` has listed as JSON.
fn counted(listed: &str) -> Option<(u64, u64)> {
    let listed: serde_json::Value = serde_json::from_str(listed).ok()?;
    let rules = listed["nftables"].as_array()?.iter();
    let counter = rules
        .filter_map(|item| item["rule"]["expr"].as_array())
        .flatten()
        .find_map(|part| part.get("counter"))?;
    Some((counter["packets"].as_u64()?, counter["bytes"].as_u64()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_a_table_is_read() {
        let listed = r#"{"nftables": [{"metainfo": {"version": "1"}}, {"table": {"family": "inet", "name": "lossy"}},
            {"rule": {"chain": "in", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}},
            {"counter": {"packets": 12, "bytes": 3400}}]}}]}"#;
        assert_eq!(counted(listed), Some((12, 3400)));
        assert_eq!(counted("{}"), None);
    }
}
