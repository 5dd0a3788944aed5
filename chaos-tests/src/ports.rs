//! Ports for several nodes on one host: each has an address of its own in 127.0.0.0/8, all have the same ports.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU8, Ordering},
};

use anyhow::{Result, bail};

/// The ports that nodes listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Edge, TCP.
    pub https: u16,
    /// Edge, TCP: redirect and ping.
    pub http: u16,
    /// DNS, UDP and TCP.
    pub dns: u16,
    /// Peers, TCP.
    pub peers: u16,
    /// WireGuard, UDP.
    pub tunnel: u16,
}

impl Ports {
    /// What the documentation names, above the privileged ports.
    pub const USUAL: Self = Self { https: 8443, http: 8080, dns: 5353, peers: 7420, tunnel: 51820 };

    /// Five ports in a row.
    #[must_use]
    pub fn from_base(base: u16) -> Self {
        Self { https: base, http: base + 1, dns: base + 2, peers: base + 3, tunnel: base + 4 }
    }

    fn tcp(&self) -> [u16; 4] {
        [self.https, self.http, self.dns, self.peers]
    }

    fn udp(&self) -> [u16; 2] {
        [self.dns, self.tunnel]
    }

    /// Which of them somebody else has, on any of these addresses.
    #[must_use]
    pub fn taken(&self, addresses: &[IpAddr]) -> Option<SocketAddr> {
        for address in addresses {
            for port in self.tcp() {
                let at = SocketAddr::new(*address, port);
                if TcpListener::bind(at).is_err() {
                    return Some(at);
                }
            }
            for port in self.udp() {
                let at = SocketAddr::new(*address, port);
                if UdpSocket::bind(at).is_err() {
                    return Some(at);
                }
            }
        }
        None
    }

    /// Five free ports on all of these addresses. They lie below the range from which the kernel takes ports for
    /// outgoing connections (32768 and up on Linux), so that none is lost between the look and the use.
    ///
    /// # Errors
    /// There are none.
    pub fn free(addresses: &[IpAddr]) -> Result<Self> {
        // Where to begin differs from run to run, so that tests beside each other seldom try the same ports.
        let start = u16::try_from(std::process::id() % 1000).unwrap_or(0) * 10;
        for step in 0..1000u16 {
            let ports = Self::from_base(12_000 + (start + step * 10) % 20_000);
            if ports.taken(addresses).is_none() {
                return Ok(ports);
            }
        }
        bail!("no five free ports in a row on {addresses:?}")
    }
}

/// The demo's addresses: 127.0.0.11 and up.
#[must_use]
pub fn demo_addresses(nodes: u8) -> Vec<IpAddr> {
    (0..nodes).map(|n| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11 + n))).collect()
}

/// Addresses that no other cluster of this process has; other processes get others by their process id.
#[must_use]
pub fn own_addresses(nodes: u8) -> Vec<IpAddr> {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let cluster = NEXT.fetch_add(1, Ordering::Relaxed);
    let [high, low] = u16::try_from(std::process::id() % 60_000).unwrap_or(1).to_be_bytes();
    // 127.0 is where people and the demo are.
    let address = |n: u8| Ipv4Addr::new(127, 1 + high, low, cluster.wrapping_mul(8).wrapping_add(n));
    (1..=nodes).map(|n| IpAddr::V4(address(n))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_has_is_named() {
        let addresses = own_addresses(2);
        let ports = Ports::free(&addresses).expect("free ports");
        let here = TcpListener::bind((addresses[1], ports.http)).expect("bound");
        assert_eq!(ports.taken(&addresses), Some(here.local_addr().expect("an address")));
        drop(here);
        let _udp = UdpSocket::bind((addresses[0], ports.tunnel)).expect("bound");
        assert_eq!(ports.taken(&addresses), Some(SocketAddr::new(addresses[0], ports.tunnel)));
    }

    #[test]
    fn clusters_of_one_process_have_addresses_of_their_own() {
        let (one, two) = (own_addresses(3), own_addresses(3));
        assert!(one.iter().all(|a| a.is_loopback() && !two.contains(a)));
    }
}
