//! Networks of clients: the unit in which limits are counted, because one client often owns that many addresses.

use std::net::IpAddr;

/// An IPv4 /24 or an IPv6 /56.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network(u64);

impl Network {
    /// The network of a client.
    pub(crate) fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            // No IPv6 network in use begins with zeros, so the two kinds do not meet.
            IpAddr::V4(address) => Self(u64::from(address.to_bits() >> 8)),
            IpAddr::V6(address) => Self((address.to_bits() >> 72) as u64 | 1 << 63),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str) -> Network {
        Network::of(address.parse().expect("an address"))
    }

    #[test]
    fn clients_of_one_slash_24_or_56_are_one_network() {
        assert_eq!(network("192.0.2.1"), network("192.0.2.254"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.9"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:0:a00::1"), network("2001:db8:0:aff::2"));
        assert_ne!(network("2001:db8:0:a00::1"), network("2001:db8:0:b00::1"));
    }
}
