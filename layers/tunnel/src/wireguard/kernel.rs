//! The kernel's WireGuard, through netlink. The calls block, so they run on the blocking pool.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::Arc,
    time::SystemTime,
};

use base64::Engine;
use defguard_wireguard_rs::{
    InterfaceConfiguration, Kernel, WGApi, WireguardInterfaceApi, error::WireguardInterfaceError, host::Host,
    key::Key, net::IpAddrMask, peer::Peer as KernelPeer,
};
use ipnet::Ipv4Net;
use pangolin_core::record::TunnelKey;
use parking_lot::Mutex;

use super::{Peer, PeerChange, PeerReading, tun::prepare};
use crate::{error::TunnelError, key::SecretKey};

/// An interface of the kernel's WireGuard. Unlike a TUN interface it survives a process that is killed; the next
/// start takes it over and replaces all that it held.
pub(crate) struct KernelDevice {
    name: String,
    api: Arc<Mutex<WGApi<Kernel>>>,
}

impl KernelDevice {
    /// Makes the interface, without an address yet. Fails quickly where the kernel has no WireGuard.
    pub(crate) fn create(name: &str) -> Result<Self, TunnelError> {
        let failed = |error: WireguardInterfaceError| unusable(name, &error);
        let mut api = WGApi::<Kernel>::new(name).map_err(failed)?;
        api.create_interface().map_err(failed)?;
        Ok(Self { name: name.to_owned(), api: Arc::new(Mutex::new(api)) })
    }

    /// Gives the interface its key, port, address and the route to the tunnel network. It listens on every address
    /// of the host: the kernel's WireGuard knows no other way.
    pub(crate) fn configure(
        &self,
        key: &SecretKey,
        port: u16,
        address: Ipv4Addr,
        network: Ipv4Net,
        mtu: u16,
    ) -> Result<(), TunnelError> {
        let config = InterfaceConfiguration {
            name: self.name.clone(),
            prvkey: base64::engine::general_purpose::STANDARD.encode(*key.to_bytes()),
            addresses: vec![IpAddrMask::new(IpAddr::V4(address), network.prefix_len())],
            port,
            peers: Vec::new(),
            mtu: Some(u32::from(mtu)),
            fwmark: None,
        };
        let configured = self.api.lock().configure_interface(&config);
        configured.map_err(|error| unusable(&self.name, &error))?;
        prepare(&self.name);
        Ok(())
    }

    pub(crate) async fn change(&self, change: PeerChange) -> Result<(), TunnelError> {
        self.call(move |api| {
            for key in &change.remove {
                if let Err(error) = api.remove_peer(&Key::new(key.0)) {
                    tracing::debug!(%error, "the peer to be removed was not there");
                }
            }
            for peer in &change.add {
                api.configure_peer(&kernel_peer(peer))?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn read(&self) -> Result<Vec<PeerReading>, TunnelError> {
        let host: Host = self.call(|api| api.read_interface_data()).await?;
        let now = SystemTime::now();
        Ok(host
            .peers
            .into_values()
            .map(|peer| PeerReading {
                key: TunnelKey(peer.public_key.as_array()),
                last_handshake: peer
                    .last_handshake
                    .filter(|at| *at > SystemTime::UNIX_EPOCH)
                    .map(|at| now.duration_since(at).unwrap_or_default()),
                received: peer.rx_bytes,
                sent: peer.tx_bytes,
            })
            .collect())
    }

    pub(crate) async fn close(&self) {
        let name = self.name.clone();
        let api = self.api.clone();
        // A blocking pool that takes no more work means that the process ends.
        let _ = tokio::task::spawn_blocking(move || remove(&api.lock(), &name)).await;
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WGApi<Kernel>) -> Result<T, WireguardInterfaceError> + Send + 'static,
    ) -> Result<T, TunnelError> {
        let api = self.api.clone();
        match tokio::task::spawn_blocking(move || work(&api.lock())).await {
            Ok(result) => result.map_err(|error| TunnelError::Device(error.to_string())),
            Err(_) => Err(TunnelError::Closed),
        }
    }
}

fn unusable(name: &str, error: &WireguardInterfaceError) -> TunnelError {
    TunnelError::Kernel { name: name.to_owned(), reason: error.to_string() }
}

/// Removes the interface. The library also tidies the host's resolver settings and gives up where it finds no tool
/// for that, before it has removed the interface; `ip` does only what is meant.
fn remove(api: &WGApi<Kernel>, name: &str) {
    if api.remove_interface().is_err() {
        let status = Command::new("ip").args(["link", "delete", "dev", name]).status();
        if !status.is_ok_and(|status| status.success()) {
            tracing::warn!(
                interface = name,
                "cannot remove the WireGuard interface; remove it with ip link delete"
            );
        }
    }
}

fn kernel_peer(peer: &Peer) -> KernelPeer {
    let mut kernel_peer = KernelPeer::new(Key::new(peer.key.0));
    kernel_peer.endpoint = peer.endpoint;
    kernel_peer.allowed_ips = vec![IpAddrMask::host(IpAddr::V4(peer.address))];
    kernel_peer
}
