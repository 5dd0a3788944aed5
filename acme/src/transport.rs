//! One exchange over HTTPS.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use pangolin_wire::client::chain;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::AcmeError;

/// Longest that an exchange may take: authorities answer some requests only when they have looked at other hosts.
const EXCHANGE_MAX: Duration = Duration::from_secs(30);
/// Longest that a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Most addresses of a host that are tried.
const ADDRESSES_MAX: usize = 8;
/// Largest answer, in bytes: a chain of ten certificates stays far below.
const ANSWER_MAX: usize = 512 * 1024;

/// What came back.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// When the authority wants to be asked again (RFC 9110 §10.2.3).
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        retry_after(self.header(header::RETRY_AFTER.as_str())?, SystemTime::now())
    }
}

/// Seconds, or a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = time::PrimitiveDateTime::parse(text.trim(), &date).ok()?.assume_utc();
    Some(Duration::try_from(at - OffsetDateTime::from(now)).unwrap_or_default())
}

pub(crate) struct Transport {
    tls: Arc<ClientConfig>,
    user_agent: String,
}

impl Transport {
    /// Trusts what the system trusts, and these.
    pub(crate) fn new(roots: &[Vec<u8>], user_agent: String) -> Result<Self, AcmeError> {
        let setup = |reason: String| AcmeError::Setup(reason);
        let mut trusted = RootCertStore::empty();
        trusted.add_parsable_certificates(pangolin_wire::client::system_roots());
        for root in roots {
            trusted
                .add(CertificateDer::from(root.clone()))
                .map_err(|error| setup(format!("a certificate to trust cannot be used: {error}")))?;
        }
        if trusted.is_empty() {
            return Err(setup(
                "this system trusts no certificate authority: install ca-certificates, or give the issuer's root".into(),
            ));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| setup(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), user_agent })
    }

    /// Sends a request and reads the whole answer; every status is one.
    pub(crate) async fn exchange(
        &self,
        method: Method,
        url: &str,
        body: Option<String>,
    ) -> Result<Response, AcmeError> {
        let uri: Uri =
            url.parse().map_err(|error| AcmeError::Setup(format!("{url:?} is no address: {error}")))?;
        let host = uri.host().unwrap_or_default().to_owned();
        if uri.scheme_str() != Some("https") || host.is_empty() {
            return Err(AcmeError::Setup(format!("{url:?} is not an https address")));
        }
        let unreachable = |reason: String| AcmeError::Unreachable { host: host.clone(), reason };
        // The handshake alone takes many kilobytes, which every future around it would have room for.
        let exchange = Box::pin(self.speak(method, &uri, body));
        match tokio::time::timeout(EXCHANGE_MAX, exchange).await {
            Ok(result) => result.map_err(unreachable),
            Err(_) => Err(unreachable(format!("no answer within {} s", EXCHANGE_MAX.as_secs()))),
        }
    }

    async fn speak(&self, method: Method, uri: &Uri, body: Option<String>) -> Result<Response, String> {
        let authority = uri.authority().ok_or("the address names no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = self.connect(&host, authority.port_u16().unwrap_or(443)).await?;
        let mut request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(header::HOST, authority.as_str())
            .header(header::USER_AGENT, &self.user_agent);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/jose+json");
        }
        let request =
            request.body(Full::new(Bytes::from(body.unwrap_or_default()))).map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| chain(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|error| chain(&*error))?;
            Ok(Response { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        };
        // The connection is driven here and ends with the exchange: no task is left behind.
        tokio::pin!(connection, exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            ended = &mut connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(chain(&error)),
            },
        }
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host"))?;
        let addresses = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| format!("its name does not resolve: {error}"))?;
        let mut reasons = Vec::new();
        for address in addresses.take(ADDRESSES_MAX) {
            let connecting = async {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                TlsConnector::from(Arc::clone(&self.tls)).connect(name.clone(), stream).await
            };
            match tokio::time::timeout(CONNECT_MAX, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => reasons.push(format!("{address}: {}", chain(&error))),
                Err(_) => {
                    reasons.push(format!("{address}: no connection within {} s", CONNECT_MAX.as_secs()))
                }
            }
        }
        Err(if reasons.is_empty() { "its name has no address".to_owned() } else { reasons.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_ask_again_is_a_number_of_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-3", None),
            ("99999999999999", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
