//! Getting a connection: TCP with TLS, or a Unix socket.

use std::{error::Error, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::ClientError;

/// Longest that one address may take until it is connected: beyond it the next one is tried.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Most addresses of a host that are tried.
const ADDRESSES_MAX: usize = 8;
/// Where systems keep the certificate authorities that they trust; the first that exists is read.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

pub(super) enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

#[derive(Clone)]
pub(super) struct Tls {
    host: String,
    port: u16,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({}:{})", self.host, self.port)
    }
}

impl Tls {
    pub(super) fn new(host: &str, port: u16, extra_ca: Option<&[u8]>) -> Result<Self, ClientError> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone())
            .map_err(|_| ClientError::Setup(format!("{host:?} is neither a host name nor an IP address")))?;
        let roots = roots(extra_ca)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError::Setup(format!("TLS cannot be set up: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { host, port, name, config: Arc::new(config) })
    }

    /// A connection to `at`, or to the first address of the host that takes one.
    pub(super) async fn connect(&self, at: Option<SocketAddr>) -> Result<Stream, String> {
        let addresses: Vec<SocketAddr> = match at {
            Some(address) => vec![address],
            None => tokio::net::lookup_host((self.host.as_str(), self.port))
                .await
                .map_err(|error| format!("its name does not resolve: {error}"))?
                .take(ADDRESSES_MAX)
                .collect(),
        };
        let mut reasons = Vec::new();
        for address in addresses {
            match tokio::time::timeout(CONNECT_MAX, self.connect_to(address)).await {
                Ok(Ok(stream)) => return Ok(Stream::Tls(Box::new(stream))),
                Ok(Err(error)) => reasons.push(format!("{address}: {}", chain(&error))),
                Err(_) => {
                    reasons.push(format!("{address}: no connection within {} s", CONNECT_MAX.as_secs()))
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("its name has no address".into());
        }
        Err(reasons.join("; "))
    }

    async fn connect_to(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream).await
    }
}

pub(super) async fn unix(path: &Path) -> Result<Stream, String> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Stream::Unix(stream)),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound => "there is no such socket: is pangolind running on this host?".into(),
            io::ErrorKind::PermissionDenied => {
                "you may not open this socket: become root or join the socket's group".into()
            }
            io::ErrorKind::ConnectionRefused => "nobody listens there: is pangolind running?".into(),
            _ => error.to_string(),
        }),
    }
}

/// The certificate authorities that the system trusts; none where it has no such file.
#[must_use]
pub fn system_roots() -> Vec<CertificateDer<'static>> {
    let bundle = SYSTEM_CA_FILES.iter().find_map(|file| std::fs::read(file).ok()).unwrap_or_default();
    CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok).collect()
}

fn roots(extra_ca: Option<&[u8]>) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    // A bundle of the system may hold certificates that rustls does not take: they are left out.
    roots.add_parsable_certificates(system_roots());
    if let Some(pem) = extra_ca {
        let bad = |why: String| ClientError::Setup(format!("the file of certificate authorities {why}"));
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| bad(format!("is not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| bad(format!("has a bad certificate: {error}")))?;
        }
        if roots.len() == before {
            return Err(bad("holds no certificate (-----BEGIN CERTIFICATE-----)".into()));
        }
    }
    if roots.is_empty() {
        return Err(ClientError::Setup(
            "this system has no certificate authorities that could be trusted: give the cluster's with --ca-file"
                .into(),
        ));
    }
    Ok(roots)
}

/// An error with all that lies behind it, for a person.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}
