//! What a target is told of the client: the PROXY protocol.

use std::net::SocketAddr;

use pangolin_core::traffic::ProxyProtocol;
use ppp::{v1, v2};

/// The header for a connection or a datagram from `client` to `server`, an address of this node.
pub(crate) fn header(version: ProxyProtocol, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    match version {
        ProxyProtocol::V1 => {
            let addresses = match (canonical(client), canonical(server)) {
                (SocketAddr::V4(c), SocketAddr::V4(s)) => {
                    v1::Addresses::new_tcp4(*c.ip(), *s.ip(), c.port(), s.port())
                }
                (SocketAddr::V6(c), SocketAddr::V6(s)) => {
                    v1::Addresses::new_tcp6(*c.ip(), *s.ip(), c.port(), s.port())
                }
                _ => v1::Addresses::Unknown,
            };
            addresses.to_string().into_bytes()
        }
        ProxyProtocol::V2 => binary(v2::Protocol::Stream, client, server),
        ProxyProtocol::V2Datagrams => binary(v2::Protocol::Datagram, client, server),
    }
}

fn binary(protocol: v2::Protocol, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let addresses: v2::Addresses = (canonical(client), canonical(server)).into();
    let builder = v2::Builder::with_addresses(v2::Version::Two | v2::Command::Proxy, protocol, addresses);
    // Nothing but addresses is in it, which always fit.
    builder.build().unwrap_or_default()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use ppp::{HeaderResult, PartialResult};

    use super::*;

    #[test]
    fn headers_name_the_client_and_this_node() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (client, server, v1_text, v2_length) in [
            ("192.0.2.1:1000", "198.51.100.1:22", "PROXY TCP4 192.0.2.1 198.51.100.1 1000 22\r\n", 16 + 12),
            (
                "[::ffff:192.0.2.1]:1000",
                "198.51.100.1:22",
                "PROXY TCP4 192.0.2.1 198.51.100.1 1000 22\r\n",
                16 + 12,
            ),
            (
                "[2001:db8::1]:1000",
                "[2001:db8::2]:22",
                "PROXY TCP6 2001:db8::1 2001:db8::2 1000 22\r\n",
                16 + 36,
            ),
        ] {
            let (client, server) = (address(client), address(server));
            let line = header(ProxyProtocol::V1, client, server);
            assert_eq!(String::from_utf8_lossy(&line), v1_text);
            let bytes = header(ProxyProtocol::V2, client, server);
            assert_eq!(bytes.len(), v2_length);
            assert!(HeaderResult::parse(&bytes).is_complete());
            // The same but for one bit, which says that it is of a datagram.
            let mut datagram = header(ProxyProtocol::V2Datagrams, client, server);
            assert_eq!(datagram[13] & 0xf, 2);
            datagram[13] ^= 3;
            assert_eq!(datagram, bytes);
        }
        let mixed = header(ProxyProtocol::V1, address("192.0.2.1:1"), address("[2001:db8::2]:2"));
        assert!(mixed.starts_with(b"PROXY UNKNOWN"));
    }
}
