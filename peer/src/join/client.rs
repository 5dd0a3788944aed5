//! The joiner's side.

use std::{io, sync::Arc, time::Duration};

use pangolin_core::record::Digest;
use rustls::{
    DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{
    net::{TcpStream, ToSocketAddrs},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    ANSWER_MAX, Binding, DONE, EXPORTER, JoinTokenText, LATER, REFUSED, REQUEST_MAX, prove, read_block,
    write_block,
};
use crate::{
    identity::{CLUSTER_NAME, spki_digest_of_certificate},
    tls,
};

/// How long the connection may take: a person waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take: longer than the node works on it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// What a verifier says when the chain has nothing to do with the token.
const OTHER_CLUSTER: &str = "no certificate of the authority that the join token names was shown";

/// Why joining does not work.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nothing there.
    #[error("cannot connect to the node: {0}; check the address, and that its port for peers is open")]
    Connect(io::Error),
    /// Not the cluster of the token.
    #[error(
        "the node is not part of the cluster that the join token is for ({0}); nothing was sent to it. Check the \
         address, and that the token is of this cluster"
    )]
    OtherCluster(String),
    /// Too slow.
    #[error("the node has not answered within {0:?}; the request may be repeated")]
    Timeout(Duration),
    /// The connection broke.
    #[error("the connection to the node broke: {0}; the request may be repeated")]
    Broken(io::Error),
    /// The node says no.
    #[error("the node refuses: {0}")]
    Refused(String),
    /// The node cannot say yes or no at the moment; another one may.
    #[error("the node cannot answer now: {0}")]
    Later(String),
    /// Above the limit.
    #[error("the request has {0} bytes, {REQUEST_MAX} are allowed")]
    TooLarge(usize),
    /// Not the protocol.
    #[error("the node answers something that is no answer; is it of another release?")]
    Malformed,
}

/// A connection to a node whose authority has been checked.
pub struct JoinClient {
    stream: TlsStream<TcpStream>,
    token: JoinTokenText,
    binding: Binding,
    authority: Vec<u8>,
}

impl JoinClient {
    /// Connects to a node, and makes sure that it is one of the cluster that the token names.
    ///
    /// # Errors
    /// Nothing answers there, or it is not that cluster.
    pub async fn connect(node: impl ToSocketAddrs, token: &JoinTokenText) -> Result<Self, JoinError> {
        let connected = timeout(CONNECT_TIMEOUT, Self::connect_now(node, token)).await;
        connected.map_err(|_| JoinError::Timeout(CONNECT_TIMEOUT))?
    }

    async fn connect_now(node: impl ToSocketAddrs, token: &JoinTokenText) -> Result<Self, JoinError> {
        let verifier = Pinned { pin: token.authority_pin, provider: tls::provider() };
        let internal = |e: rustls::Error| JoinError::Connect(io::Error::other(e));
        let connector = TlsConnector::from(tls::joiner(Arc::new(verifier)).map_err(internal)?);
        let stream = TcpStream::connect(node).await.map_err(JoinError::Connect)?;
        stream.set_nodelay(true).map_err(JoinError::Connect)?;
        let name = ServerName::try_from(CLUSTER_NAME).map_err(|_| JoinError::Malformed)?;
        let stream = connector.connect(name, stream).await.map_err(untrusted)?;
        let session = stream.get_ref().1;
        let binding = session.export_keying_material([0; 32], EXPORTER, None).map_err(internal)?;
        let chain = session.peer_certificates().unwrap_or_default();
        let authority = find(chain, &token.authority_pin).ok_or(JoinError::Malformed)?.to_vec();
        Ok(Self { stream, token: token.clone(), binding, authority })
    }

    /// The authority's certificate, DER: the one that the token names.
    #[must_use]
    pub fn authority(&self) -> &[u8] {
        &self.authority
    }

    /// Sends a request with a proof that this side knows the token, and waits for the answer.
    ///
    /// # Errors
    /// The node refuses, or the connection breaks. The outcome of a request without an answer is not known: it
    /// may be repeated, also to another node.
    pub async fn request(&mut self, body: &[u8]) -> Result<Vec<u8>, JoinError> {
        if body.len() > REQUEST_MAX {
            return Err(JoinError::TooLarge(body.len()));
        }
        let proof = prove(&self.token.secret, &self.binding, body);
        let exchange = async {
            write_block(&mut self.stream, &[&self.token.id.0, proof.as_ref(), body]).await?;
            read_block(&mut self.stream, ANSWER_MAX + 1).await
        };
        let answer =
            timeout(ANSWER_TIMEOUT, exchange).await.map_err(|_| JoinError::Timeout(ANSWER_TIMEOUT))?;
        let answer = answer.map_err(JoinError::Broken)?;
        let answer = answer.ok_or_else(|| JoinError::Broken(io::ErrorKind::UnexpectedEof.into()))?;
        said(&answer)
    }
}

/// What the block of an answer says.
pub(super) fn said(answer: &[u8]) -> Result<Vec<u8>, JoinError> {
    match answer.split_first() {
        Some((&DONE, body)) => Ok(body.to_vec()),
        Some((&REFUSED, reason)) => Err(JoinError::Refused(printable(reason))),
        Some((&LATER, reason)) => Err(JoinError::Later(printable(reason))),
        _ => Err(JoinError::Malformed),
    }
}

/// A reason that somebody else has written, for a terminal.
fn printable(reason: &[u8]) -> String {
    String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).collect()
}

impl std::fmt::Debug for JoinClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinClient").field("token", &self.token).finish_non_exhaustive()
    }
}

/// A failed handshake is either the network's fault or the wrong cluster.
fn untrusted(error: io::Error) -> JoinError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::General(reason)) if reason == OTHER_CLUSTER => {
            JoinError::OtherCluster(reason.clone())
        }
        Some(rustls::Error::InvalidCertificate(reason)) => JoinError::OtherCluster(reason.to_string()),
        _ => JoinError::Connect(error),
    }
}

fn find<'a, 'b>(chain: &'a [CertificateDer<'b>], pin: &Digest) -> Option<&'a CertificateDer<'b>> {
    chain.iter().find(|certificate| spki_digest_of_certificate(certificate).is_ok_and(|spki| spki == *pin))
}

/// Trusts the authority whose key has the pinned digest, and what it has signed.
#[derive(Debug)]
struct Pinned {
    pin: Digest,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority =
            find(intermediates, &self.pin).ok_or_else(|| rustls::Error::General(OTHER_CLUSTER.to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
