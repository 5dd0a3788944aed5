//! unbound, which keeps answers: where the visitor is, asking the nodes for the cluster's zone.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use pangolin_chaos::{process::Process, testbed::network::tool};

use super::{lab::Lab, visitor::cached};

/// How long it may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take until the zone has all nodes: one that has failed before is named again after a while.
const ALL_NAMED: Duration = Duration::from_secs(150);
/// Where it listens, in the visitor's namespace.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// A running unbound. Dropping it ends it.
pub(super) struct Resolver {
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Resolver {
    /// Starts it when the zone names all nodes, and waits until it has the addresses of the published name; gives them
    /// in its order.
    ///
    /// # Errors
    /// It is not installed, or does not answer.
    pub(super) async fn start(lab: &Lab) -> Result<(Self, Vec<SocketAddr>)> {
        let first = &lab.cluster.nodes[0];
        let zone = SocketAddr::new(first.address, first.ports.dns);
        wait_for(lab, zone, lab.cluster.nodes.len(), ALL_NAMED)
            .await
            .context("the zone names too few nodes")?;
        let folder = tempfile::tempdir()?;
        let mut text = format!(
            "server:\n  interface: {ip}\n  port: {port}\n  username: \"\"\n  chroot: \"\"\n  directory: \"{dir}\"\n  \
             pidfile: \"{dir}/pid\"\n  use-syslog: no\n  num-threads: 1\n  do-ip6: no\n  rrset-roundrobin: no\n  \
             local-zone: \"test.\" nodefault\n  module-config: \"iterator\"\n\
             remote-control:\n  control-enable: no\nstub-zone:\n  name: \"{zone}\"\n",
            ip = LISTEN.ip(),
            port = LISTEN.port(),
            dir = folder.path().display(),
            zone = lab.cluster.options.zone,
        );
        for node in &lab.cluster.nodes {
            writeln!(text, "  stub-addr: {}@{}", node.address, node.ports.dns)?;
        }
        let config = folder.path().join("unbound.conf");
        std::fs::write(&config, text)?;
        let mut command: Command = tool("unbound");
        command.args([Path::new("-d"), Path::new("-c"), &config]);
        lab.outside()?.enter(&mut command);
        let process = Process::spawn("unbound", command, &folder.path().join("log"))
            .context("unbound is needed (Debian: apt-get install unbound)")?;
        let addresses = wait_for(lab, LISTEN, 1, PATIENCE)
            .await
            .with_context(|| format!("unbound does not answer\n{}", process.tail()))?;
        Ok((Self { _process: process, _folder: folder }, addresses))
    }

    /// Where it listens, in the visitor's network.
    pub(super) fn address(&self) -> SocketAddr {
        LISTEN
    }
}

/// Asks for the published name until there are so many addresses at least.
async fn wait_for(
    lab: &Lab,
    server: SocketAddr,
    least: usize,
    patience: Duration,
) -> Result<Vec<SocketAddr>> {
    let until = Instant::now() + patience;
    loop {
        let (outside, host) = (lab.outside()?, lab.host().to_owned());
        let asked = outside.within(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(cached(server, &host))
        });
        match asked {
            Ok(addresses) if addresses.len() >= least => return Ok(addresses),
            asked => ensure!(Instant::now() < until, "{server} says {asked:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
