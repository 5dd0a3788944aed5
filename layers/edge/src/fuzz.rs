//! What fuzz targets call: what anybody may send to the edge before a request is believed, and what is said to targets
//! about whoever sent it. Compiled for fuzzing and for tests alone: here every target also runs over random bytes.

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use pangolin_core::traffic::{PortKind, ProxyProtocol};
use ppp::{HeaderResult, PartialResult};

use crate::{
    headers::{clean_request, clean_response, wanted_upgrade},
    hello::Hello,
    ports::proxy_header,
    request::{host_of, path_of},
    sticky,
};

/// Fields that a request may have here.
const FIELDS_MAX: usize = 100;

/// The first message of a TLS client, read for the server name in it.
pub fn client_hello(bytes: &[u8]) {
    let mut stream = bytes;
    let read = pin!(Hello::read(&mut stream));
    // All bytes are there: it never waits.
    match read.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(hello)) => {
            assert!(bytes.starts_with(&hello.bytes), "bytes that nobody sent are handed on");
            let name = hello.name.unwrap_or_default();
            assert_eq!(name, name.to_ascii_lowercase());
        }
        Poll::Ready(None) => {}
        Poll::Pending => panic!("it waits for bytes that are there"),
    }
}

/// A request: its target in the first line, a field in each further one.
pub fn request(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Ok(uri) = Uri::try_from(lines.next().unwrap_or_default()) else { return };
    let mut headers = HeaderMap::new();
    for line in lines.take(2 * FIELDS_MAX) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&line[colon + 1..])) {
            headers.append(name, value);
        }
    }
    let _ = path_of(&uri);
    let mut request = Request::new(());
    (*request.uri_mut(), *request.headers_mut()) = (uri, headers.clone());
    if let Ok(host) = host_of(&request, FIELDS_MAX) {
        assert_eq!(host.name, host.name.to_ascii_lowercase());
        assert!(!host.name.is_empty() && !host.name.contains(['/', '@', ' ']), "{:?}", host.name);
    }
    let _ = sticky::take(&mut headers);
    let upgrade = wanted_upgrade(&headers);
    clean_request(&mut headers, upgrade);
    let trusted = |name: &HeaderName| name.as_str().starts_with("x-forwarded-") || name == "remote-user";
    assert!(!headers.keys().any(trusted), "a client speaks for itself: {headers:?}");
    clean_response(&mut headers, false);
}

/// The header of the PROXY protocol for a client: what is written is what a target reads.
pub fn proxy_headers(bytes: &[u8]) {
    let Some((addresses, rest)) = bytes.split_first_chunk::<32>() else { return };
    let ports = rest.first_chunk::<4>().copied().unwrap_or_default();
    let address = |at: usize, port: usize| {
        let octets: [u8; 16] = addresses[at..at + 16].try_into().unwrap_or_default();
        let ip = match rest.last() {
            Some(last) if last % 2 == 0 => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            _ => IpAddr::from(octets),
        };
        SocketAddr::new(ip, u16::from_be_bytes([ports[port], ports[port + 1]]))
    };
    let (client, server) = (address(0, 0), address(16, 2));
    for version in [ProxyProtocol::V1, ProxyProtocol::V2, ProxyProtocol::V2Datagrams] {
        let header = proxy_header(version, client, server);
        assert!(HeaderResult::parse(&header).is_complete(), "{version:?} from {client} to {server}");
    }
}

/// A port as operators write it.
pub fn port(bytes: &[u8]) {
    let Some(kind) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<PortKind>().ok()) else {
        return;
    };
    assert_eq!(kind.to_string().parse(), Ok(kind));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_target_fail(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            client_hello(&bytes);
            request(&bytes);
            proxy_headers(&bytes);
            port(&bytes);
        }

        #[test]
        fn nothing_that_looks_like_tls_makes_a_target_fail(tail in prop::collection::vec(any::<u8>(), 0..600)) {
            client_hello(&[&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &tail].concat());
        }

        #[test]
        fn nothing_that_looks_like_a_request_makes_a_target_fail(
            target in "(https?://)?[a-z0-9.:/@?*-]{0,20}",
            fields in prop::collection::vec(
                ("(host|cookie|connection|upgrade|te|x-forwarded-[a-z]{1,4}|remote-user|[a-z-]{1,9})", "[ -~]{0,30}"),
                0..8,
            ),
        ) {
            let mut text = target;
            for (name, value) in fields {
                text.push_str(&format!("\n{name}:{value}"));
            }
            request(text.as_bytes());
        }

        #[test]
        fn no_text_makes_a_port_fail(text in "([0-9]{1,6}/(tcp|udp|[a-z]{0,4})|tls|.{0,9})") {
            port(text.as_bytes());
        }
    }
}
