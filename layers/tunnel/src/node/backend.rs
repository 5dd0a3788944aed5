//! Choosing and making what carries the packets.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use ipnet::Ipv4Net;

use super::{TunnelConfig, dial::Reach, run::ProbePort};
use crate::{
    error::TunnelError,
    stack::Stack,
    wireguard::{self, Device, FromStack, Gate, KernelDevice, ToStack, Userspace},
};

/// What the operator asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best that works: kernel, then TUN, then in-process.
    #[default]
    Auto,
    /// The kernel's WireGuard. It listens on all addresses of the host, whatever address is configured.
    Kernel,
    /// WireGuard in this process on a TUN interface, with the kernel's TCP.
    Tun,
    /// WireGuard and TCP in this process. Needs no privileges.
    InProcess,
}

/// What carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The kernel's WireGuard.
    Kernel,
    /// WireGuard in this process on a TUN interface, with the kernel's TCP.
    Tun,
    /// WireGuard and TCP in this process.
    InProcess,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Tun => "tun",
            Self::InProcess => "in-process",
        })
    }
}

/// A device and the ways to use it.
pub(super) struct Opened {
    pub backend: Backend,
    pub listen: SocketAddr,
    pub device: Device,
    pub reach: Reach,
    pub probes: ProbePort,
}

pub(super) async fn open(
    config: &TunnelConfig,
    address: Ipv4Addr,
    network: Ipv4Net,
) -> Result<Opened, TunnelError> {
    match config.backend {
        BackendChoice::Kernel => open_kernel(config, address, network).await,
        BackendChoice::Tun => open_tun(config, address, network).await,
        BackendChoice::InProcess => open_in_process(config, address).await,
        BackendChoice::Auto => open_best(config, address, network).await,
    }
}

async fn open_best(
    config: &TunnelConfig,
    address: Ipv4Addr,
    network: Ipv4Net,
) -> Result<Opened, TunnelError> {
    // The kernel listens on every address, which is not what someone means who names one.
    let kernel = if config.listen.ip().is_unspecified() {
        match open_kernel(config, address, network).await {
            Err(TunnelError::Kernel { reason, .. }) => reason,
            other => return other.inspect(|opened| announce(opened, "")),
        }
    } else {
        format!("it cannot listen on {} alone", config.listen.ip())
    };
    let why_not_kernel = format!("kernel: {kernel}");
    match open_tun(config, address, network).await {
        Err(TunnelError::Interface { source, .. }) if !is_mistake(&source) => {
            let why = format!("{why_not_kernel}; tun: {source}");
            open_in_process(config, address).await.inspect(|opened| announce(opened, &why))
        }
        other => other.inspect(|opened| announce(opened, &why_not_kernel)),
    }
}

fn announce(opened: &Opened, why_not: &str) {
    tracing::info!(backend = %opened.backend, listen = %opened.listen, why_not, "tunnel backend chosen");
}

/// A wrong or taken interface name is for the operator to mend, not to be passed over.
fn is_mistake(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::InvalidInput)
}

fn bind(config: &TunnelConfig) -> Result<(wireguard::Bound, SocketAddr), TunnelError> {
    let bound = wireguard::bind(config.listen).and_then(|socket| {
        let address = socket.local_address()?;
        Ok((socket, address))
    });
    bound.map_err(|source| TunnelError::Listen { address: config.listen, source })
}

async fn open_kernel(
    config: &TunnelConfig,
    address: Ipv4Addr,
    network: Ipv4Net,
) -> Result<Opened, TunnelError> {
    check_name(&config.interface)?;
    // The kernel binds the port itself; this finds out whether it can, and says so better.
    let (socket, listen) = bind(config)?;
    let device = KernelDevice::create(&config.interface).await?;
    drop(socket);
    device.configure(&config.key, listen.port(), address, network, config.mtu).await?;
    device.fence(address).await;
    let probes = match ProbePort::interface(&config.interface, address) {
        Ok(probes) => probes,
        Err(error) => {
            device.close().await;
            return Err(error);
        }
    };
    Ok(Opened {
        backend: Backend::Kernel,
        listen,
        device: Device::Kernel(device),
        reach: Reach::Interface { name: config.interface.clone(), gate: None },
        probes,
    })
}

async fn open_tun(config: &TunnelConfig, address: Ipv4Addr, network: Ipv4Net) -> Result<Opened, TunnelError> {
    check_name(&config.interface)?;
    let (socket, listen) = bind(config)?;
    let gate = Gate::new(address);
    let (to_tun, from_tun) =
        wireguard::open_tun(&config.interface, address, network, config.mtu, Arc::clone(&gate))?;
    let device = Userspace::start(socket, &config.key, to_tun, from_tun).await?;
    Ok(Opened {
        backend: Backend::Tun,
        listen,
        device: Device::Tun(device),
        reach: Reach::Interface { name: config.interface.clone(), gate: Some(gate) },
        probes: ProbePort::interface(&config.interface, address)?,
    })
}

async fn open_in_process(config: &TunnelConfig, address: Ipv4Addr) -> Result<Opened, TunnelError> {
    let (socket, listen) = bind(config)?;
    let (stack, queues) = Stack::new(address, config.mtu);
    let from_stack = FromStack::new(queues.out, config.mtu);
    let device = Userspace::start(socket, &config.key, ToStack(stack.clone()), from_stack).await?;
    Ok(Opened {
        backend: Backend::InProcess,
        listen,
        device: Device::InProcess(device),
        reach: Reach::Stack(stack.clone()),
        probes: ProbePort::Stack(stack, queues.probes),
    })
}

/// What Linux takes as an interface name.
fn check_name(name: &str) -> Result<(), TunnelError> {
    let fine = (1..16).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
        && name != "."
        && name != "..";
    if fine {
        return Ok(());
    }
    let text = "an interface name has 1 to 15 letters, digits or dashes";
    let source = io::Error::new(io::ErrorKind::InvalidInput, text);
    Err(TunnelError::Interface { name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_those_linux_takes() {
        for name in ["pg0", "wg-pangolin.1", "abcdefghijklmno"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "tün", "abcdefghijklmnop", "pg%d"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
