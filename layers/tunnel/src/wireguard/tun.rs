//! TUN interfaces.

use std::{fs, io, net::Ipv4Addr, path::Path};

use gotatun::tun::{
    tun::{self, Configuration},
    tun_async_device::TunDevice,
};
use ipnet::Ipv4Net;

use crate::error::TunnelError;

/// Makes the interface, up, with the node's tunnel address and the route to the tunnel network. It goes away with
/// the process, however that ends.
pub(crate) fn open_tun(
    name: &str,
    address: Ipv4Addr,
    network: Ipv4Net,
    mtu: u16,
) -> Result<TunDevice, TunnelError> {
    let failed = |source| TunnelError::Interface { name: name.to_owned(), source };
    let mut config = Configuration::default();
    // The address carries the prefix of the network, which makes the kernel add the route.
    config.tun_name(name).address(address).netmask(network.netmask()).mtu(mtu).up();
    let device = tun::create_as_async(&config).map_err(|error| failed(io_error(error)))?;
    let device = TunDevice::from_tun_device(device).map_err(|error| failed(io::Error::other(error)))?;
    prepare(name);
    Ok(device)
}

fn io_error(error: tun::Error) -> io::Error {
    match error {
        tun::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}

/// Sets what the interface needs beyond its address.
///
/// Several nodes may run on one host, each with an interface that leads to the same network. The route back to a
/// site then names any of them, which strict reverse path filtering takes for a forged source; the loose form (2)
/// is satisfied with any route, and unlike 0 it also overrides a strict `all`. IPv6 is not spoken in the tunnels.
pub(crate) fn prepare(name: &str) {
    let settings = [("ipv4", "rp_filter", "2"), ("ipv6", "disable_ipv6", "1")];
    for (family, setting, value) in settings {
        let path = Path::new("/proc/sys/net").join(family).join("conf").join(name).join(setting);
        if let Err(error) = fs::write(&path, value) {
            // A host without IPv6 has no such file; a read-only /proc is common in containers.
            tracing::debug!(path = %path.display(), %error, "setting left as it is");
        }
    }
}
