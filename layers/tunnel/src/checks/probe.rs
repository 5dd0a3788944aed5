//! One health check: a TCP connection, or an HTTP request on a connection of its own.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{BoxConnection, Dial};
use crate::control::messages::Check;

/// Most redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Longest head of an answer, bytes. The status decides: what comes behind the head is not read.
const HEAD_MAX: usize = 16 * 1024;

/// Checks once.
///
/// # Errors
/// Why the target is not fine, for people.
pub(super) async fn probe(
    check: &Check,
    dial: &impl Dial,
    agent: &'static str,
    limit: Duration,
) -> Result<(), String> {
    let result = async {
        if check.hc_mode == "tcp" {
            let place = Place { tls: false, ..Place::of(check) };
            return dial.dial(check, &place).await.map(drop);
        }
        http(check, dial, agent).await
    };
    timeout(limit, Box::pin(result)).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

async fn http(check: &Check, dial: &impl Dial, agent: &'static str) -> Result<(), String> {
    let mut place = Place::of(check);
    for _ in 0..=REDIRECTS_MAX {
        let stream = dial.dial(check, &place).await?;
        let response = ask(stream, build(check, &place, agent)?).await?;
        let status = response.status();
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        match location {
            Some(location) if check.hc_follow_redirects && is_redirect(status) => {
                let next = place.follow(location);
                place = next.ok_or_else(|| format!("redirected to {location:?}, which is no address"))?;
            }
            _ if fits(status, check.hc_status) => return Ok(()),
            _ => return Err(format!("answered {status}")),
        }
    }
    Err(format!("more than {REDIRECTS_MAX} redirects"))
}

/// Whether a status is as wanted: exactly that one, or any 2xx if none is said.
fn fits(status: StatusCode, wanted: u16) -> bool {
    if wanted == 0 { status.is_success() } else { status.as_u16() == wanted }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// What is asked for, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Place {
    /// The place that a check begins at.
    #[must_use]
    pub fn of(check: &Check) -> Self {
        let tls = check.hc_scheme == "https";
        let port = if check.hc_port == 0 { Self::usual_port(tls) } else { check.hc_port };
        let path = match check.hc_path.as_str() {
            path if path.starts_with('/') => path.to_owned(),
            path => format!("/{path}"),
        };
        Self { tls, host: check.hc_hostname.clone(), port, path }
    }

    fn usual_port(tls: bool) -> u16 {
        if tls { 443 } else { 80 }
    }

    /// Where a redirect leads (RFC 9110, 10.2.2).
    fn follow(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next().unwrap_or_default();
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(Self { path: location.to_owned(), ..self.clone() });
        }
        let absolute = match location.strip_prefix("//") {
            Some(rest) => format!("{}://{rest}", if self.tls { "https" } else { "http" }),
            None if location.contains("://") => location.to_owned(),
            None => {
                let base = self.path.split('?').next().unwrap_or_default();
                let folder = base.rsplit_once('/').map_or("", |(folder, _)| folder);
                return Some(Self { path: format!("{folder}/{location}"), ..self.clone() });
            }
        };
        let uri: Uri = absolute.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Some(Self { tls, host, port: uri.port_u16().unwrap_or_else(|| Self::usual_port(tls)), path })
    }

    /// Whether it is the same server.
    #[must_use]
    pub fn is_at(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port) == (other.tls, &other.host, other.port)
    }

    /// Host and port as in a `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == Self::usual_port(self.tls) { host } else { format!("{host}:{}", self.port) }
    }
}

async fn ask(stream: BoxConnection, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String> {
    let text = |error: hyper::Error| error.to_string();
    let mut client = http1::Builder::new();
    client.max_buf_size(HEAD_MAX);
    let (mut sender, connection) = client.handshake(TokioIo::new(stream)).await.map_err(text)?;
    let (mut connection, mut answer) = (pin!(connection), pin!(sender.send_request(request)));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        _ = &mut connection => answer.await,
    };
    answer.map_err(text)
}

fn build(check: &Check, place: &Place, agent: &'static str) -> Result<Request<Empty<Bytes>>, String> {
    let method = if check.hc_method.is_empty() { "GET" } else { &check.hc_method };
    let mut request = Request::builder()
        .method(method)
        .uri(&place.path)
        .header(header::HOST, place.authority())
        .header(header::USER_AGENT, agent)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    for (name, value) in &check.hc_headers {
        let wrong = || format!("the header {name:?} of the check is not one");
        let name: HeaderName = name.parse().map_err(|_| wrong())?;
        request.headers_mut().insert(name, HeaderValue::from_str(value).map_err(|_| wrong())?);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::future::BoxFuture;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Connects to where the place says.
    #[derive(Clone)]
    struct Plain;

    impl Dial for Plain {
        fn dial<'a>(&'a self, _: &'a Check, at: &'a Place) -> BoxFuture<'a, Result<BoxConnection, String>> {
            Box::pin(async move {
                let stream = TcpStream::connect((at.host.as_str(), at.port)).await;
                stream.map(|stream| Box::new(stream) as _).map_err(|error| error.to_string())
            })
        }
    }

    /// Checks once as a test asks for it.
    async fn once(check: &Check) -> Result<(), String> {
        probe(check, &Plain, "test", super::super::seconds(check.hc_timeout, Duration::from_secs(5))).await
    }

    fn check(port: u16) -> Check {
        Check {
            id: 7,
            hc_enabled: true,
            hc_mode: "http".into(),
            hc_hostname: "127.0.0.1".into(),
            hc_port: port,
            hc_path: "/health".into(),
            hc_timeout: 2,
            hc_follow_redirects: true,
            ..Check::default()
        }
    }

    /// A server that answers by path, and the head of the last request.
    async fn server() -> (u16, tokio::sync::watch::Receiver<String>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (heads, last) = tokio::sync::watch::channel(String::new());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                let length = stream.read(&mut buffer).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let answer = match head.split(' ').nth(1).unwrap_or_default() {
                    "/health" => "204 No Content\r\n\r\n",
                    "/moved" => "302 Found\r\nLocation: health\r\nContent-Length: 0\r\n\r\n",
                    "/round" => "302 Found\r\nLocation: /round\r\nContent-Length: 0\r\n\r\n",
                    "/endless" => {
                        // More than any head may be long, and no end of it.
                        let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
                        while stream.write_all(line.as_bytes()).await.is_ok() {}
                        continue;
                    }
                    "/silent" => {
                        tokio::time::sleep(Duration::from_secs(30)).await;
                        continue;
                    }
                    _ => "503 Service Unavailable\r\nContent-Length: 5\r\n\r\nsorry",
                };
                let _ = stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await;
                heads.send_replace(head);
            }
        });
        (port, last, task)
    }

    #[tokio::test]
    async fn answers_are_judged_by_status_redirect_and_time() {
        struct Case {
            what: &'static str,
            change: fn(&mut Check),
            error: Option<&'static str>,
        }
        let cases = [
            Case { what: "2xx", change: |_| (), error: None },
            Case {
                what: "another status",
                change: |check| check.hc_path = "sick".into(),
                error: Some("503"),
            },
            Case {
                what: "the status wanted",
                change: |check| (check.hc_path, check.hc_status) = ("/sick".into(), 503),
                error: None,
            },
            Case { what: "not the one wanted", change: |check| check.hc_status = 200, error: Some("204") },
            Case { what: "a redirect", change: |check| check.hc_path = "/moved".into(), error: None },
            Case {
                what: "a redirect not followed",
                change: |check| (check.hc_path, check.hc_follow_redirects) = ("/moved".into(), false),
                error: Some("302"),
            },
            Case {
                what: "redirects in a circle",
                change: |check| check.hc_path = "/round".into(),
                error: Some("more than 5 redirects"),
            },
            Case {
                what: "a head without an end",
                change: |check| check.hc_path = "/endless".into(),
                error: Some("too large"),
            },
            Case {
                what: "no answer",
                change: |check| (check.hc_path, check.hc_timeout) = ("/silent".into(), 1),
                error: Some("no answer within 1s"),
            },
        ];
        for case in cases {
            let (port, _, task) = server().await;
            let mut check = check(port);
            (case.change)(&mut check);
            match (once(&check).await, case.error) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => assert!(error.contains(expected), "{}: {error}", case.what),
                other => panic!("{}: {other:?}", case.what),
            }
            task.abort();
        }
    }

    #[tokio::test]
    async fn the_request_has_the_headers_of_the_check() {
        let (port, last, task) = server().await;
        let headers = BTreeMap::from([("Host".to_owned(), "app.local".to_owned())]);
        let check = Check { hc_headers: headers, hc_method: "HEAD".into(), ..check(port) };
        once(&check).await.unwrap();
        let head = last.borrow().to_ascii_lowercase();
        assert!(
            head.starts_with("head /health http/1.1\r\n") && head.contains("host: app.local\r\n"),
            "{head}"
        );
        task.abort();
    }

    #[tokio::test]
    async fn a_connection_is_enough_where_nothing_else_is_asked() {
        let (port, _, task) = server().await;
        let check = Check { hc_mode: "tcp".into(), ..check(port) };
        assert_eq!(once(&check).await, Ok(()));
        task.abort();
        let _ = task.await;
        assert!(once(&check).await.unwrap_err().contains("refused"));
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let place = Place { tls: false, host: "a".into(), port: 8080, path: "/x/y?z".into() };
        let at = |tls, host: &str, port, path: &str| {
            Some(Place { tls, host: host.into(), port, path: path.into() })
        };
        for (location, expected) in [
            ("/login?next=1#top", at(false, "a", 8080, "/login?next=1")),
            ("login", at(false, "a", 8080, "/x/login")),
            ("https://b.example/q", at(true, "b.example", 443, "/q")),
            ("//c:81", at(false, "c", 81, "/")),
            ("http://[::1]:82/", at(false, "::1", 82, "/")),
            ("ftp://d/", None),
        ] {
            assert_eq!(place.follow(location), expected, "{location}");
        }
    }
}
