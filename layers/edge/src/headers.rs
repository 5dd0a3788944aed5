//! Which header fields pass the edge, in both directions (RFC 9110 §7.6.1, RFC 9113 §8.2).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::dial::Via;

/// The id that the edge gives to each request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The node whose edge answered.
pub(crate) const NODE: HeaderName = HeaderName::from_static("x-pangolin-node");
/// Which way the request took to its target: `local`, or `node N` for a relay.
pub(crate) const VIA: HeaderName = HeaderName::from_static("x-pangolin-via");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Fields that end here whatever `Connection` says. `TE` and `Upgrade` come back when they may pass.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HTTP2_SETTINGS,
];

/// Fields by which targets believe a proxy: only the edge may set them.
const TRUSTED: [&str; 8] = [
    "forwarded",
    "x-real-ip",
    "x-request-id",
    "x-pangolin-node",
    "remote-user",
    "remote-email",
    "remote-name",
    "remote-role",
];
const TRUSTED_PREFIX: &str = "x-forwarded-";

/// The client as told to targets, made once per connection.
#[derive(Clone)]
pub(crate) struct ClientFields {
    address: HeaderValue,
}

impl ClientFields {
    pub(crate) fn new(peer: SocketAddr) -> Self {
        let address: IpAddr = peer.ip().to_canonical();
        let text = address.to_string();
        Self { address: HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown")) }
    }
}

/// The protocol an HTTP/1 client wants to change to, if it may: `Connection` names `upgrade`, and it is not a
/// version of HTTP itself, by which requests would pass unseen.
pub(crate) fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    let named = tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let http = wanted.to_str().map_or(true, |text| {
        text.split(',').any(|p| {
            let p = p.trim().as_bytes();
            p.eq_ignore_ascii_case(b"h2c") || p.get(..5).is_some_and(|s| s.eq_ignore_ascii_case(b"http/"))
        })
    });
    (named && !http).then(|| wanted.clone())
}

/// Takes away what clients may not say and says it for them. `upgrade` is what [`wanted_upgrade`] let through.
pub(crate) fn clean_request(headers: &mut HeaderMap, upgrade: Option<HeaderValue>) {
    let trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    remove_hop_by_hop(headers);
    remove_trusted(headers);
    // The edge has answered it already, by reading the body.
    headers.remove(header::EXPECT);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    join_cookies(headers);
}

/// Says to a target who asks, for which host, under which id.
pub(crate) fn identify(headers: &mut HeaderMap, client: &ClientFields, host: &HeaderValue, id: &HeaderValue) {
    headers.insert(FORWARDED_FOR, client.address.clone());
    headers.insert(REAL_IP, client.address.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(FORWARDED_HOST, host.clone());
    headers.insert(REQUEST_ID, id.clone());
}

/// Takes away what ends at the edge from a target's response. `upgraded`: it is a 101 that was asked for.
pub(crate) fn clean_response(headers: &mut HeaderMap, upgraded: bool) {
    let protocol = headers.get(header::UPGRADE).filter(|_| upgraded).cloned();
    remove_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// The way to a target as the value of [`VIA`].
pub(crate) fn way(via: Via) -> HeaderValue {
    match via {
        Via::Local => HeaderValue::from_static("local"),
        // Digits and a blank are always a value.
        Via::Relay(node) => HeaderValue::from_str(&format!("node {node}"))
            .unwrap_or_else(|_| HeaderValue::from_static("relay")),
    }
}

/// Client-sent copies of the fields by which targets believe a proxy.
pub(crate) fn remove_trusted(headers: &mut HeaderMap) {
    for name in TRUSTED {
        headers.remove(name);
    }
    let others: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with(TRUSTED_PREFIX)).cloned().collect();
    for name in others {
        headers.remove(name);
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // `Host` and `Content-Length` are the message's own: a client cannot have them removed.
    let listed: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| name != header::HOST && name != header::CONTENT_LENGTH)
        .collect();
    for name in &listed {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// HTTP/2 clients may send a cookie per field; HTTP/1 knows one field (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|token| token.split(';').next().unwrap_or_default().trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    fn cleaned(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = map(fields);
        let upgrade = wanted_upgrade(&headers);
        clean_request(&mut headers, upgrade);
        headers
    }

    #[test]
    fn hop_by_hop_fields_end_here_and_so_do_those_that_connection_lists() {
        let headers = cleaned(&[
            ("connection", "keep-alive, X-Secret , host, content-length"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("host", "a.example"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("accept", "*/*"),
        ]);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host"]);
    }

    #[test]
    fn clients_cannot_speak_for_the_proxy() {
        let headers = cleaned(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-anything", "1"),
            ("forwarded", "for=1.2.3.4"),
            ("x-real-ip", "1.2.3.4"),
            ("remote-user", "admin"),
            ("x-request-id", "mine"),
        ]);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn upgrades_pass_when_both_fields_ask_and_http_itself_never_does() {
        for (connection, upgrade, passes) in [
            ("Upgrade", "websocket", true),
            ("keep-alive, upgrade", "websocket", true),
            ("keep-alive", "websocket", false),
            ("upgrade, http2-settings", "h2c", false),
            ("upgrade", "HTTP/2.0", false),
            ("upgrade", "websocket, H2C", false),
        ] {
            let headers = cleaned(&[("connection", connection), ("upgrade", upgrade)]);
            assert_eq!(headers.contains_key("upgrade"), passes, "{connection} / {upgrade}");
            assert_eq!(headers.contains_key("connection"), passes);
        }
    }

    #[test]
    fn te_passes_as_trailers_only() {
        assert_eq!(cleaned(&[("te", "gzip, trailers;q=1")])["te"], "trailers");
        assert!(!cleaned(&[("te", "gzip")]).contains_key("te"));
    }

    #[test]
    fn cookie_fields_become_one() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        clean_request(&mut headers, None);
        assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn a_response_loses_its_connection_fields_unless_it_upgrades() {
        let fields =
            [("connection", "upgrade, x-y"), ("upgrade", "websocket"), ("x-y", "1"), ("trailer", "z")];
        let mut headers = map(&fields);
        clean_response(&mut headers, false);
        assert_eq!(headers, map(&[("trailer", "z")]));
        let mut headers = map(&fields);
        clean_response(&mut headers, true);
        assert_eq!(headers, map(&[("trailer", "z"), ("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    proptest! {
        #[test]
        fn whatever_clients_send_is_cleaned_without_panic(
            values in proptest::collection::vec((0..6_usize, "[ -~]{0,40}"), 0..8)
        ) {
            let names = ["connection", "te", "upgrade", "cookie", "x-forwarded-for", "transfer-encoding"];
            let mut headers = HeaderMap::new();
            for (name, value) in &values {
                headers.append(names[*name], HeaderValue::from_str(value).expect("printable"));
            }
            let upgrade = wanted_upgrade(&headers);
            clean_request(&mut headers, upgrade);
            for name in ["x-forwarded-for", "transfer-encoding"] {
                prop_assert!(!headers.contains_key(name));
            }
            prop_assert!(headers.get("te").is_none_or(|te| te == "trailers"));
            prop_assert!(headers.get("connection").is_none_or(|connection| connection == "upgrade"));
        }
    }
}
