//! The doors to the cluster's control channel, and in which order to try them. Pure.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

/// Where the control channel is reached, as configured: `https://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is spoken to with TLS.
    pub tls: bool,
    /// Host name or address, without brackets: the name in its certificate.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// The text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint {0:?} is not of the form https://host[:port]")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// A missing scheme means https. A path is ignored, as Newt does.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || EndpointError(text.to_owned());
        let (tls, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(wrong()),
            None => (true, text),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') || authority.contains(char::is_whitespace) {
            return Err(wrong());
        }
        let (host, port) = split(authority).ok_or_else(wrong)?;
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host: host.to_owned(), port })
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
pub(crate) fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None if rest.is_empty() => None,
        None => return None,
    };
    (!host.is_empty()).then_some((host, port))
}

impl Endpoint {
    /// What goes into the `Host` header: without the scheme's own port.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// One way to the control channel: whom to ask for, and where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Whom: the name for TLS and `Host`.
    pub endpoint: Endpoint,
    /// Where, if it is not the endpoint's own address: `host:port` of a node, learned from the cluster.
    pub address: Option<(String, u16)>,
}

impl Door {
    /// The door that a configured endpoint is. One given by address is asked for as `server_name`, where there is
    /// one: certificates name hosts.
    #[must_use]
    pub fn configured(endpoint: Endpoint, server_name: Option<&str>) -> Self {
        match server_name.filter(|_| endpoint.host.parse::<IpAddr>().is_ok()) {
            Some(name) => {
                let address = Some((endpoint.host.clone(), endpoint.port));
                Self { endpoint: Endpoint { host: name.to_owned(), ..endpoint }, address }
            }
            None => Self { endpoint, address: None },
        }
    }

    /// The same cluster at another place, `host:port`; none if that is not one.
    #[must_use]
    pub fn at(&self, place: &str) -> Option<Self> {
        let (host, port) = split(place)?;
        Some(Self { endpoint: self.endpoint.clone(), address: Some((host.to_owned(), port?)) })
    }

    /// Host and port to connect to.
    #[must_use]
    pub fn place(&self) -> (&str, u16) {
        match &self.address {
            Some((host, port)) => (host, *port),
            None => (&self.endpoint.host, self.endpoint.port),
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some((host, port)) => write!(f, "{} at {host} port {port}", self.endpoint),
            None => self.endpoint.fmt(f),
        }
    }
}

/// The doors in the order to try them: nodes learned from the cluster first, since they need no DNS and the dead one
/// is known; then the configured endpoints. `last` is the endpoint that worked last, and so the name that the nodes
/// answer to; `lost` is where the connection was that has just broken, which comes last. The learned ones are tried in
/// the order given: a caller that shuffles them spreads the connectors over the nodes.
#[must_use]
pub fn round(
    configured: &[Door],
    learned: &[String],
    last: Option<&Endpoint>,
    lost: Option<&Door>,
) -> Vec<Door> {
    let name = last.or(configured.first().map(|door| &door.endpoint));
    let mut doors: Vec<Door> = Vec::new();
    for address in learned {
        let (Some(endpoint), Some((host, Some(port)))) = (name, split(address)) else { continue };
        doors.push(Door { endpoint: endpoint.clone(), address: Some((host.to_owned(), port)) });
    }
    doors.extend(configured.iter().cloned());
    if let Some(lost) = lost
        && let Some(at) = doors.iter().position(|door| door.place() == lost.place())
    {
        let door = doors.remove(at);
        doors.push(door);
    }
    doors
}

/// Shortest pause between attempts.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Longest one. A connector whose cluster is away asks once in 3 s, which costs nobody anything.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How long to wait before the attempt after `failed` ones in a row. `jitter` from 0 to 1 takes away up to half of it,
/// so that connectors that lost the same node do not come back in step.
#[must_use]
pub fn pause(failed: u32, jitter: f64) -> Duration {
    let full = PAUSE_FIRST.saturating_mul(1 << failed.min(8)).min(PAUSE_MAX);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn endpoints_are_read_and_written() {
        let cases = [
            (
                "https://pangolin.example.net",
                true,
                "pangolin.example.net",
                443,
                "https://pangolin.example.net",
            ),
            (
                "pangolin.example.net:8443",
                true,
                "pangolin.example.net",
                8443,
                "https://pangolin.example.net:8443",
            ),
            ("http://127.0.0.1:80/api/v1", false, "127.0.0.1", 80, "http://127.0.0.1"),
            ("https://[2001:db8::1]:444/", true, "2001:db8::1", 444, "https://[2001:db8::1]:444"),
        ];
        for (text, tls, host, port, written) in cases {
            let endpoint = endpoint(text);
            assert_eq!((endpoint.tls, endpoint.host.as_str(), endpoint.port), (tls, host, port), "{text}");
            assert_eq!(endpoint.to_string(), written);
        }
        for text in ["", "https://", "ftp://x", "x:0", "x:http", "user@x", "a b", "[::1", "[::1]x"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn learned_nodes_are_tried_before_configured_endpoints_and_the_lost_one_last() {
        let configured = ["https://a.example.net", "https://b.example.net"]
            .map(|text| Door::configured(endpoint(text), None));
        let learned = ["192.0.2.1:443".to_owned(), "nonsense".to_owned(), "[2001:db8::2]:443".to_owned()];
        let texts = |doors: Vec<Door>| doors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(round(&configured, &[], None, None)),
            ["https://a.example.net", "https://b.example.net"]
        );
        let lost =
            Door { endpoint: configured[1].endpoint.clone(), address: Some(("192.0.2.1".into(), 443)) };
        assert_eq!(
            texts(round(&configured, &learned, Some(&configured[1].endpoint), Some(&lost))),
            [
                "https://b.example.net at 2001:db8::2 port 443",
                "https://a.example.net",
                "https://b.example.net",
                "https://b.example.net at 192.0.2.1 port 443",
            ]
        );
    }

    #[test]
    fn an_endpoint_given_by_address_is_asked_for_by_name() {
        let texts = |text: &str| Door::configured(endpoint(text), Some("control.example.net")).to_string();
        assert_eq!(
            texts("https://192.0.2.1:8443"),
            "https://control.example.net:8443 at 192.0.2.1 port 8443"
        );
        assert_eq!(texts("https://a.example.net"), "https://a.example.net");
    }

    #[test]
    fn pauses_grow_to_three_seconds() {
        let pauses: Vec<u128> = (0..7).map(|failed| pause(failed, 0.0).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3000, 3000, 3000]);
        assert_eq!(pause(0, 1.0).as_millis(), 100);
        assert_eq!(pause(u32::MAX, 0.0), PAUSE_MAX);
    }
}
