//! What a request is for, and which requests are refused outright (RFC 9112 §3.2, RFC 9113 §8.3.1).

use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header, uri::PathAndQuery};

/// Longest authority: a host name, a colon, a port.
const AUTHORITY_MAX: usize = 253 + 6;

/// For which host a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// As the client wrote it, with the port.
    pub(crate) value: HeaderValue,
    /// In lower case, without port and root dot.
    pub(crate) name: String,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("The request names no host.")]
    NoHost,
    #[error("The request names more than one host.")]
    SeveralHosts,
    #[error("The host in the request is not a host name.")]
    BadHost,
    #[error("The request target is not a path.")]
    BadTarget,
    #[error("This server is not a forward proxy.")]
    Connect,
    #[error("The request has too many header fields.")]
    TooManyFields,
}

impl Refusal {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// The host a request is for. `field_limit` counts header fields, which HTTP/2 itself does not limit.
pub(crate) fn host_of<B>(request: &Request<B>, field_limit: usize) -> Result<Host, Refusal> {
    if *request.method() == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if request.headers().len() > field_limit {
        return Err(Refusal::TooManyFields);
    }
    check_target(request)?;
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Refusal::SeveralHosts);
    }
    let authority = request.uri().authority();
    let value = match (field, authority) {
        (Some(field), Some(authority)) => {
            if !field.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) {
                return Err(Refusal::SeveralHosts);
            }
            field.clone()
        }
        (Some(field), None) => field.clone(),
        (None, Some(authority)) if request.version() == Version::HTTP_2 => {
            HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::BadHost)?
        }
        (None, _) => return Err(Refusal::NoHost),
    };
    let name = host_name(value.as_bytes()).ok_or(Refusal::BadHost)?;
    Ok(Host { value, name })
}

/// HTTP/1: a path, `*` for OPTIONS, or a whole address, which counts as its path. HTTP/2 knows paths only.
fn check_target<B>(request: &Request<B>) -> Result<(), Refusal> {
    let uri = request.uri();
    match uri.path_and_query().map(PathAndQuery::as_str) {
        // `http` reads `example.com:80` as an authority without a scheme: the form of CONNECT.
        _ if uri.authority().is_some() && uri.scheme().is_none() => Err(Refusal::BadTarget),
        Some("*") if *request.method() == Method::OPTIONS => Ok(()),
        Some(path) if path.starts_with('/') => Ok(()),
        // `http://host` without a path, or `http://host?query`.
        None | Some("") => Ok(()),
        Some(path) if path.starts_with('?') => Ok(()),
        Some(_) => Err(Refusal::BadTarget),
    }
}

/// The path to ask a target for.
pub(crate) fn path_of(uri: &Uri) -> PathAndQuery {
    match uri.path_and_query() {
        Some(path) if !path.as_str().is_empty() => path.clone(),
        _ => PathAndQuery::from_static("/"),
    }
}

/// `Example.com.:8443` → `example.com`. None if that is not what a host looks like.
fn host_name(authority: &[u8]) -> Option<String> {
    if authority.len() > AUTHORITY_MAX {
        return None;
    }
    let text = std::str::from_utf8(authority).ok()?;
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (inner, port) = rest.split_once(']')?;
            inner.parse::<std::net::Ipv6Addr>().ok()?;
            (inner, port)
        }
        None => {
            let (name, port) = text.find(':').map_or((text, ""), |at| text.split_at(at));
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if !name.bytes().all(plain) {
                return None;
            }
            (name.strip_suffix('.').unwrap_or(name), port)
        }
    };
    let digits = match port.strip_prefix(':') {
        Some(digits) => digits,
        None if port.is_empty() => "",
        None => return None,
    };
    let good = !name.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    good.then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(version: Version, uri: &str, hosts: &[&str]) -> Result<String, Refusal> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        host_of(&request.body(()).expect("a request"), 100).map(|host| host.name)
    }

    #[test]
    fn the_host_is_named_once_and_well() {
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        let ok = |name: &str| Ok(name.to_owned());
        for (version, uri, hosts, expected) in [
            (h1, "/", &["a.example"][..], ok("a.example")),
            (h1, "/", &["A.Example.:8443"], ok("a.example")),
            (h1, "/", &["[::1]:443"], ok("::1")),
            (h1, "http://a.example/x", &["a.example"], ok("a.example")),
            (h1, "http://a.example", &["A.example"], ok("a.example")),
            (h1, "http://b.example/x", &["a.example"], Err(Refusal::SeveralHosts)),
            (h1, "http://a.example/x", &[], Err(Refusal::NoHost)),
            (h1, "/", &[], Err(Refusal::NoHost)),
            (h1, "/", &["a.example", "b.example"], Err(Refusal::SeveralHosts)),
            (h1, "/", &["a.example", "a.example"], Err(Refusal::SeveralHosts)),
            (h1, "/", &[""], Err(Refusal::BadHost)),
            (h1, "/", &["a b"], Err(Refusal::BadHost)),
            (h1, "/", &["a.example:port"], Err(Refusal::BadHost)),
            (h1, "/", &["user@a.example"], Err(Refusal::BadHost)),
            (h1, "/", &["a.example/x"], Err(Refusal::BadHost)),
            (h1, "a.example:80", &["a.example"], Err(Refusal::BadTarget)),
            (h1, "*", &["a.example"], Err(Refusal::BadTarget)),
            (h2, "https://a.example/x", &[], ok("a.example")),
            (h2, "https://a.example/x", &["b.example"], Err(Refusal::SeveralHosts)),
            (h2, "https://user@a.example/x", &[], Err(Refusal::BadHost)),
            (h2, "/x", &["a.example"], ok("a.example")),
        ] {
            assert_eq!(host(version, uri, hosts), expected, "{version:?} {uri} {hosts:?}");
        }
    }

    #[test]
    fn a_whole_address_counts_as_its_path() {
        for (uri, path) in [("http://a/x?y", "/x?y"), ("http://a", "/"), ("/", "/"), ("*", "*")] {
            assert_eq!(path_of(&uri.parse().expect("a URI")), path);
        }
    }

    proptest! {
        #[test]
        fn no_authority_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(name) = host_name(&bytes) {
                prop_assert!(!name.is_empty() && !name.contains(char::is_uppercase));
            }
        }
    }
}
