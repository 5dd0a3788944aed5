//! The kernel's WireGuard, through netlink.
//!
//! The library's calls block, and none of them has a deadline. A thread of the device's own makes them, one after the
//! other, and whoever asked waits no longer than [`DEADLINE`]. A call that never returns holds up that thread and nothing
//! else, the end of the process included.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
    time::{Duration, SystemTime},
};

use base64::Engine;
use defguard_wireguard_rs::{
    InterfaceConfiguration, Kernel, WGApi, WireguardInterfaceApi, error::WireguardInterfaceError, key::Key,
    net::IpAddrMask, peer::Peer as KernelPeer,
};
use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;
use pangolin_core::record::TunnelKey;
use tokio::{sync::oneshot, time::timeout};

use super::{Peer, PeerChange, PeerReading, fence::Fence, tun::prepare};
use crate::{error::TunnelError, key::SecretKey};

/// Longest that a call may take. Five thousand peers take a second or two; a busy host gets the rest.
const DEADLINE: Duration = Duration::from_secs(10);
/// Calls that wait behind another one; further ones fail at once. They come one a second, and when a plan changes.
const QUEUE: usize = 16;

/// An interface of the kernel's WireGuard. Unlike a TUN interface it survives a process that is killed; the next
/// start takes it over and replaces all that it held.
pub(crate) struct KernelDevice {
    name: String,
    deadline: Duration,
    jobs: SyncSender<Job>,
}

/// What the thread holds.
struct Held {
    api: Box<dyn WireguardInterfaceApi>,
    fence: Option<Fence>,
}

enum Job {
    Call(Box<dyn FnOnce(&mut Held) + Send>),
    /// Removes the interface, and ends.
    End(oneshot::Sender<()>),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Refused(#[from] WireguardInterfaceError),
    #[error("another interface has this name, and WireGuard does not know it")]
    Taken,
    #[error("no answer in time")]
    Late,
    #[error("it does not answer, and {QUEUE} calls wait already")]
    Busy,
    #[error("it has ended")]
    Ended,
}

impl KernelDevice {
    /// Makes the interface, without an address yet. Fails quickly where the kernel has no WireGuard.
    pub(crate) async fn create(name: &str) -> Result<Self, TunnelError> {
        Self::over(name, DEADLINE, |name| WGApi::<Kernel>::new(name)).await
    }

    /// The same over any implementation of the library's interface.
    async fn over<Api: WireguardInterfaceApi + 'static>(
        name: &str,
        deadline: Duration,
        make: impl FnOnce(&str) -> Result<Api, WireguardInterfaceError> + Send + 'static,
    ) -> Result<Self, TunnelError> {
        let (jobs, queue) = sync_channel(QUEUE);
        let (made, told) = oneshot::channel();
        let device = Self { name: name.to_owned(), deadline, jobs };
        let name = name.to_owned();
        let work = move || match make(&name).map_err(Failed::from).and_then(|api| created(&name, api)) {
            Err(error) => drop(made.send(Err(error))),
            Ok(api) => {
                let held = Held { api: Box::new(api), fence: None };
                match made.send(Ok(())) {
                    Ok(()) => serve(&name, held, &queue),
                    // Nobody waits any more, so nobody will use it.
                    Err(_) => remove(&name, held),
                }
            }
        };
        let started = thread::Builder::new().name("wireguard".to_owned()).spawn(work);
        started.map_err(|error| device.unusable(&error))?;
        match timeout(deadline, told).await {
            Ok(Ok(Ok(()))) => Ok(device),
            Ok(Ok(Err(error))) => Err(device.unusable(&error)),
            Ok(Err(_)) => Err(device.unusable(&Failed::Ended)),
            Err(_) => Err(device.unusable(&Failed::Late)),
        }
    }

    /// Gives the interface its key, port, address and the route to the tunnel network. It listens on every address
    /// of the host: the kernel's WireGuard knows no other way. Where that fails, the interface is removed again, so that
    /// its name is free for another backend.
    pub(crate) async fn configure(
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
        let configured = self.call(move |held| held.api.configure_interface(&config)).await;
        if let Err(error) = configured {
            self.close().await;
            return Err(self.unusable(&error));
        }
        prepare(&self.name);
        Ok(())
    }

    /// Puts a fence around the interface: from it, only what the node with this address has asked for gets in. Where it
    /// cannot be had, that is said, and the tunnels work without.
    pub(crate) async fn fence(&self, own: Ipv4Addr) {
        let name = self.name.clone();
        let raised = self.call(move |held| {
            let raised = Fence::raise(&name, own);
            Ok(raised.map(|fence| held.fence = Some(fence)))
        });
        let why = match raised.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            interface = self.name,
            why,
            "sites may reach what listens on all addresses of this host, and beyond it where it forwards: their \
             packets cannot be filtered; install nftables, or use the backend tun"
        );
    }

    pub(crate) async fn change(&self, change: PeerChange) -> Result<(), TunnelError> {
        let changed = self.call(move |held| {
            for key in &change.remove {
                if let Err(error) = held.api.remove_peer(&Key::new(key.0)) {
                    tracing::debug!(%error, "the peer to be removed was not there");
                }
            }
            change.add.iter().try_for_each(|peer| held.api.configure_peer(&kernel_peer(peer)))
        });
        changed.await.map_err(TunnelError::from)
    }

    pub(crate) async fn read(&self) -> Result<Vec<PeerReading>, TunnelError> {
        let host = self.call(|held| held.api.read_interface_data()).await?;
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

    /// Removes the interface and its fence.
    pub(crate) async fn close(&self) {
        let (ended, told) = oneshot::channel();
        let asked = self.jobs.try_send(Job::End(ended)).is_ok();
        if asked && timeout(self.deadline, told).await.is_err() {
            tracing::warn!(
                interface = self.name,
                "the WireGuard interface may be left behind: {}",
                Failed::Late
            );
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Held) -> Result<T, WireguardInterfaceError> + Send + 'static,
    ) -> Result<T, Failed> {
        let (done, answer) = oneshot::channel();
        let job = move |held: &mut Held| {
            // What nobody waits for any more is tried again by whoever asked.
            if !done.is_closed() {
                drop(done.send(work(held)));
            }
        };
        match self.jobs.try_send(Job::Call(Box::new(job))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(Failed::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(Failed::Ended),
        }
        match timeout(self.deadline, answer).await {
            Ok(Ok(result)) => Ok(result?),
            Ok(Err(_)) => Err(Failed::Ended),
            Err(_) => Err(Failed::Late),
        }
    }

    fn unusable(&self, reason: &impl ToString) -> TunnelError {
        TunnelError::Kernel { name: self.name.clone(), reason: reason.to_string() }
    }
}

impl From<Failed> for TunnelError {
    fn from(error: Failed) -> Self {
        match error {
            Failed::Ended => Self::Closed,
            error => Self::Device(error.to_string()),
        }
    }
}

/// Makes the interface. The library takes one over that is there, whatever it is, and would then take its addresses away.
fn created<Api: WireguardInterfaceApi>(name: &str, mut api: Api) -> Result<Api, Failed> {
    let existed = if_nametoindex(name).is_ok();
    api.create_interface()?;
    if existed && api.read_interface_data().is_err() {
        return Err(Failed::Taken);
    }
    Ok(api)
}

fn serve(name: &str, mut held: Held, queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Call(call) => call(&mut held),
            Job::End(ended) => {
                remove(name, held);
                // Whoever asked may have stopped waiting.
                let _ = ended.send(());
                return;
            }
        }
    }
}

/// Removes the interface. The library also tidies the host's resolver settings and gives up where it finds no tool
/// for that, before it has removed the interface; `ip` does only what is meant.
fn remove(name: &str, held: Held) {
    if let Some(Err(error)) = held.fence.map(Fence::lower) {
        tracing::debug!(interface = name, %error, "the rules for the interface are left behind");
    }
    if held.api.remove_interface().is_err() {
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

#[cfg(test)]
mod tests;
