//! Connections to targets: dialed, wrapped in TLS where the target wants it, and ready to speak HTTP.

use std::{sync::Arc, time::Duration};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pangolin_core::{NodeId, plan::RouteTarget, record::Method};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::{
    body::UpstreamBody,
    dial::{BoxedDatagrams, BoxedIo, DialError, Dialed, Dialer, Via},
    pool::Link,
};

/// For the dialer to connect: room for a lost packet, short enough to try another way within the budget.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// For the TLS handshake with a target.
const TLS_TIMEOUT: Duration = Duration::from_secs(3);
/// HTTP/2 connections to targets are asked this often whether they live, while requests run on them.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// … and are given up when they do not answer.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes in flight per HTTP/2 stream and connection to a target: enough for 100 Mbit/s over 80 ms.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What is spoken on a connection to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// gRPC needs HTTP/2; an `https` target is spoken to in it for gRPC only, since WebSockets need HTTP/1.
    pub(crate) fn of(method: Method, grpc: bool) -> Self {
        match method {
            Method::H2c => Self::Http2,
            Method::Https if grpc => Self::Http2,
            _ => Self::Http1,
        }
    }
}

pub(crate) type Sender1 = http1::SendRequest<UpstreamBody>;
pub(crate) type Sender2 = http2::SendRequest<UpstreamBody>;

/// Makes connections to targets.
pub(crate) struct Connector {
    dialer: Arc<dyn Dialer>,
    tls: UpstreamTls,
    tasks: TaskTracker,
}

/// How TLS is spoken with targets.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamTls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl UpstreamTls {
    pub(crate) fn new(provider: &Arc<CryptoProvider>) -> Result<Self, rustls::Error> {
        Ok(Self { http1: tls_config(provider, b"http/1.1")?, http2: tls_config(provider, b"h2")? })
    }
}

impl Connector {
    pub(crate) fn new(dialer: Arc<dyn Dialer>, tls: UpstreamTls, tasks: TaskTracker) -> Self {
        Self { dialer, tls, tasks }
    }

    pub(crate) fn own_node(&self) -> Option<NodeId> {
        self.dialer.own_node()
    }

    /// A stream to the target on which `protocol` may be spoken.
    pub(crate) async fn open(
        &self,
        target: &RouteTarget,
        protocol: Protocol,
        exclude: &[NodeId],
    ) -> Result<Dialed, DialError> {
        let dialed = timeout(DIAL_TIMEOUT, self.dialer.dial(target, exclude)).await.unwrap_or_else(|_| {
            Err(DialError::no_path(format!("no connection within {} s", DIAL_TIMEOUT.as_secs())))
        })?;
        if target.method != Method::Https {
            return Ok(dialed);
        }
        let Dialed { io, via } = dialed;
        let io = self
            .secure(&target.host, protocol, io)
            .await
            .map_err(|reason| DialError::refused(via, reason))?;
        Ok(Dialed { io, via })
    }

    /// A way for datagrams to the target.
    pub(crate) async fn open_datagrams(
        &self,
        target: &RouteTarget,
        exclude: &[NodeId],
    ) -> Result<(BoxedDatagrams, Via), DialError> {
        let dialed = timeout(DIAL_TIMEOUT, self.dialer.dial_datagrams(target, exclude)).await;
        dialed.unwrap_or_else(|_| {
            Err(DialError::no_path(format!("no way for datagrams within {} s", DIAL_TIMEOUT.as_secs())))
        })
    }

    /// Speaks TLS to a target by this name.
    pub(crate) async fn secure(
        &self,
        host: &str,
        protocol: Protocol,
        io: BoxedIo,
    ) -> Result<BoxedIo, String> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host name for TLS"))?;
        let config = match protocol {
            Protocol::Http1 => &self.tls.http1,
            Protocol::Http2 => &self.tls.http2,
        };
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, io);
        match timeout(TLS_TIMEOUT, connecting).await {
            Err(_) => Err(format!("no TLS handshake within {} s", TLS_TIMEOUT.as_secs())),
            Ok(Err(e)) => Err(format!("TLS with the target failed: {e}")),
            Ok(Ok(stream)) => {
                if protocol == Protocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err("the target does not offer HTTP/2, which gRPC needs".into());
                }
                Ok(Box::new(stream))
            }
        }
    }

    /// Begins HTTP/1.1. The connection lives in a task of its own for as long as it is open.
    pub(crate) async fn http1(&self, io: BoxedIo, link: Arc<Link>) -> Result<Sender1, hyper::Error> {
        let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
        self.tasks.spawn(async move {
            // Whoever waits for a response gets the error.
            let _ = connection.with_upgrades().await;
            drop(link);
        });
        Ok(sender)
    }

    /// Begins HTTP/2 with prior knowledge.
    pub(crate) async fn http2(&self, io: BoxedIo, link: Arc<Link>) -> Result<Sender2, hyper::Error> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(io))
            .await?;
        self.tasks.spawn(async move {
            let _ = connection.await;
            drop(link);
        });
        Ok(sender)
    }
}

/// Whether a connection taking `via` uses one of `exclude`.
pub(crate) fn is_excluded(via: Via, exclude: &[NodeId], own: Option<NodeId>) -> bool {
    match via {
        Via::Relay(node) => exclude.contains(&node),
        Via::Local => own.is_some_and(|own| exclude.contains(&own)),
    }
}

fn tls_config(provider: &Arc<CryptoProvider>, protocol: &[u8]) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(Arc::clone(provider))))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// Takes any certificate. Targets lie in private networks, mostly with certificates that no public authority
/// signs; the way there is already authenticated, by the tunnel.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
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
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
