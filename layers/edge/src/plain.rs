//! Port 80: sends browsers to HTTPS and answers `GET /ping`.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use crate::{
    body::EdgeBody,
    page,
    request::{Host, Refusal, host_of, path_of},
};

/// The path by which anyone may ask whether a node's edge is there.
pub(crate) const PING: &str = "/ping";

/// Answers a request that came in the clear. `https_port` is where the same address serves HTTPS.
pub(crate) fn answer<B>(request: &Request<B>, https_port: u16, field_limit: usize) -> Response<EdgeBody> {
    if is_ping(request) {
        return pong();
    }
    let location = host_of(request, field_limit).and_then(|host| location(request, &host, https_port));
    match location {
        Err(refusal) => page::refusal(refusal.status(), &refusal.to_string()),
        Ok(location) => {
            let mut response = Response::new(EdgeBody::empty());
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
    }
}

/// Whether it is `GET /ping`.
pub(crate) fn is_ping<B>(request: &Request<B>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) && request.uri().path() == PING
}

/// The answer to a ping.
pub(crate) fn pong() -> Response<EdgeBody> {
    let mut response = Response::new(EdgeBody::full("pong\n"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn location<B>(request: &Request<B>, host: &Host, https_port: u16) -> Result<HeaderValue, Refusal> {
    let name = if host.name.contains(':') { format!("[{}]", host.name) } else { host.name.clone() };
    let port = if https_port == 443 { String::new() } else { format!(":{https_port}") };
    let path = path_of(request.uri());
    let path = if path.as_str().starts_with('/') { path.as_str() } else { "/" };
    HeaderValue::from_str(&format!("https://{name}{port}{path}")).map_err(|_| Refusal::BadTarget)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_keep_host_path_and_query_and_name_the_port() {
        for (host, uri, port, expected) in [
            ("A.example:8080", "/x?y=1", 443, "https://a.example/x?y=1"),
            ("a.example", "http://a.example/", 8443, "https://a.example:8443/"),
            ("[::1]:80", "/", 8443, "https://[::1]:8443/"),
        ] {
            let request = Request::builder().uri(uri).header("host", host).body(()).expect("a request");
            let response = answer(&request, port, 100);
            assert_eq!(response.status(), 308);
            assert_eq!(response.headers()["location"], expected);
        }
    }

    #[test]
    fn pings_need_no_host() {
        let request = Request::builder().uri("/ping").body(()).expect("a request");
        assert_eq!(answer(&request, 443, 100).status(), 200);
        let request = Request::builder().uri("/").body(()).expect("a request");
        assert_eq!(answer(&request, 443, 100).status(), 400);
    }
}
