//! Connections to the cluster and to targets: TCP, and TLS on it.

use std::{io, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// What one address gets to answer before the next one is tried. A host that is there answers within its round trip.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// What a name gets to be resolved.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Where distributions keep the certificates of the public authorities, as one file.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A connection, whatever it is made of.
pub trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}
/// A connection behind a pointer.
pub type BoxConnection = Box<dyn Connection>;

/// The certificates to trust cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file given cannot be read as PEM.
    #[error("{path} cannot be read as certificates in PEM: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A certificate in it is of no use.
    #[error("a certificate in {path} cannot be trusted: {source}")]
    Certificate {
        /// The file.
        path: String,
        /// Why.
        source: rustls::Error,
    },
    /// No TLS with this library.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// How TLS is spoken: with the cluster, and with targets.
#[derive(Clone)]
pub struct Tls {
    verified: TlsConnector,
    unverified: TlsConnector,
}

impl Tls {
    /// Trusts the system's certificates and those in `ca_file`.
    ///
    /// # Errors
    /// [`TrustError`] if `ca_file` has no usable certificates.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, TrustError> {
        Self::trusting(&ca_file.into_iter().collect::<Vec<_>>())
    }

    /// Trusts the system's certificates and those in `files`.
    ///
    /// # Errors
    /// [`TrustError`] if one of them has no usable certificates.
    pub fn trusting<P: AsRef<Path>>(files: &[P]) -> Result<Self, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let chosen = std::env::var("SSL_CERT_FILE").ok();
        let system = chosen.as_deref().into_iter().chain(SYSTEM_ROOTS).find(|path| Path::new(path).exists());
        if let Some(system) = system {
            let (added, ignored) = roots.add_parsable_certificates(certificates(Path::new(system))?);
            tracing::debug!(system, added, ignored, "trusting the system's certificates");
        }
        for path in files.iter().map(AsRef::as_ref) {
            for certificate in certificates(path)? {
                let path = path.display().to_string();
                roots.add(certificate).map_err(|source| TrustError::Certificate { path, source })?;
            }
        }
        let versions = |provider: &Arc<CryptoProvider>| {
            ClientConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions()
        };
        let verified = versions(&provider)?.with_root_certificates(roots).with_no_client_auth();
        let anyone = Arc::new(Anyone(Arc::clone(&provider)));
        let unverified =
            versions(&provider)?.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
        Ok(Self {
            verified: TlsConnector::from(Arc::new(verified)),
            unverified: TlsConnector::from(Arc::new(unverified)),
        })
    }

    /// Speaks TLS to a server that has to prove that it is `name`.
    ///
    /// # Errors
    /// What the handshake says.
    pub async fn verified(&self, stream: TcpStream, name: &str) -> io::Result<BoxConnection> {
        Ok(Box::new(self.verified.connect(server_name(name)?, stream).await?))
    }

    /// Speaks TLS to whoever answers. For health checks, which go over the same network as the traffic and whose
    /// targets mostly have certificates of their own making.
    ///
    /// # Errors
    /// What the handshake says.
    pub async fn unverified(&self, stream: TcpStream, name: &str) -> io::Result<BoxConnection> {
        Ok(Box::new(self.unverified.connect(server_name(name)?, stream).await?))
    }
}

fn server_name(name: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?}: {error}")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let wrong = |reason: String| TrustError::File { path: path.display().to_string(), reason };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(wrong("there is none in it".into())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Resolves and connects, one address after the other.
///
/// # Errors
/// That of the last address, or of the name.
pub async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let addresses = timeout(RESOLVE_TIMEOUT, lookup_host((host, port))).await.map_err(|_| late())??;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.take(ADDRESSES_MAX) {
        match timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await.map_err(|_| late()) {
            Ok(Ok(stream)) => {
                // Without it small messages wait for each other; a kernel that refuses it still carries them.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) | Err(error) => last = error,
        }
    }
    Err(last)
}

/// Accepts any certificate, but checks that the server has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
