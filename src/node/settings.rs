//! What the configuration means for each layer, and whether its ports are free.

use std::{net::SocketAddr, sync::Arc};

use pangolin_dns::{DnsConfig, RegionsFile};
use pangolin_edge::{EdgeConfig, Limits};
use pangolin_peer::identity::Keyring;
use pangolin_tunnel::TunnelConfig;

use super::Core;
use crate::{config::Config, local::layers::cookie_secrets, state_dir::StateDir};

/// DNS and tunnels are bound only once there is something to serve; that their ports are free is found out now.
pub(super) fn check_free(config: &Config) -> anyhow::Result<()> {
    let udp = |address: &SocketAddr| std::net::UdpSocket::bind(address).map(|_| ());
    for address in &config.dns {
        if let Err(error) = udp(address).and_then(|()| std::net::TcpListener::bind(address).map(|_| ())) {
            anyhow::bail!(
                "cannot listen on {address} for DNS: {error}; stop what listens there (`ss -lntup`; on port 53 often \
                 systemd-resolved), or change dns.listen"
            );
        }
    }
    let address = config.tunnel_listen;
    // A kernel interface outlives a node that was killed, and keeps the port until the tunnels take it over.
    let interface = std::path::Path::new("/sys/class/net").join(&config.tunnel_interface);
    if !interface.exists()
        && let Err(error) = udp(&address)
    {
        anyhow::bail!(
            "cannot listen on {address} for WireGuard: {error}; stop what listens there (`ss -lnup`), or change \
             tunnel.listen"
        );
    }
    Ok(())
}

pub(super) fn edge_config(config: &Config) -> EdgeConfig {
    EdgeConfig {
        https: config.https.clone(),
        http: config.http.clone(),
        node_name: config.name.to_string(),
        limits: Limits::default(),
    }
}

/// What DNS is to do, and the file of regions that it is to be told of when it changes.
pub(super) fn dns_config(core: &Core, keyring: &Keyring) -> anyhow::Result<(DnsConfig, Option<RegionsFile>)> {
    let opened = core.config.dns_regions.as_deref().map(RegionsFile::open).transpose()?;
    let (file, regions) = opened.unzip();
    let config = DnsConfig {
        listen: core.config.dns.clone(),
        nsid: core.config.name.to_string(),
        cookie_secrets: cookie_secrets(keyring),
        regions: regions.map(Arc::new),
        ..DnsConfig::default()
    };
    Ok((config, file))
}

pub(super) fn tunnel_config(config: &Config, state_dir: &StateDir) -> anyhow::Result<TunnelConfig> {
    Ok(TunnelConfig {
        listen: config.tunnel_listen,
        key: state_dir.tunnel_key()?,
        backend: config.tunnel_backend,
        interface: config.tunnel_interface.clone(),
        mtu: config.tunnel_mtu,
    })
}
