//! An HTTPS client that makes a new connection, with a whole TLS handshake, for every request: what a new visitor sees.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Largest body that is read.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Response {
    /// A header field as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client that trusts one authority.
#[derive(Clone, Debug)]
pub struct Https {
    config: Arc<ClientConfig>,
}

impl Https {
    /// A client that trusts the authorities in `pem`.
    ///
    /// # Errors
    /// There is none in it.
    pub fn trusting(pem: &str) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.context("the authority is not PEM")?)?;
        }
        anyhow::ensure!(!roots.is_empty(), "no certificate authority in {pem:?}");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config) })
    }

    /// Asks `at` for `https://HOST/PATH`.
    ///
    /// # Errors
    /// No answer within `patience`, or none that is one.
    pub async fn get(&self, at: SocketAddr, host: &str, path: &str, patience: Duration) -> Result<Response> {
        let request = Request::get(path).header(http::header::HOST, host).body(Empty::<Bytes>::new())?;
        let exchange = async { exchange(self.connect(at, host).await?, request).await };
        timeout(patience, exchange).await.with_context(|| format!("no answer within {patience:?}"))?
    }

    /// Asks for `https://HOST/PATH` on a connection that is there already.
    ///
    /// # Errors
    /// No answer within `patience`, or none that is one.
    pub async fn get_on(
        &self,
        stream: TcpStream,
        host: &str,
        path: &str,
        patience: Duration,
    ) -> Result<Response> {
        let request = Request::get(path).header(http::header::HOST, host).body(Empty::<Bytes>::new())?;
        let exchange = async { exchange(self.secure(stream, host).await?, request).await };
        timeout(patience, exchange).await.with_context(|| format!("no answer within {patience:?}"))?
    }

    /// Asks `at` for several paths of `https://HOST` at the same time, over one HTTP/2 connection. The answers come
    /// in the order of the paths.
    ///
    /// # Errors
    /// The other side does not speak HTTP/2, or not all answers come within `patience`.
    pub async fn get_all_over_http2(
        &self,
        at: SocketAddr,
        host: &str,
        paths: &[&str],
        patience: Duration,
    ) -> Result<Vec<Response>> {
        let exchange = async {
            let mut config = (*self.config).clone();
            config.alpn_protocols = vec![b"h2".to_vec()];
            let stream = Self { config: Arc::new(config) }.connect(at, host).await?;
            anyhow::ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "{at} does not speak HTTP/2");
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            let asks = paths.iter().map(|path| {
                let mut sender = sender.clone();
                async move {
                    let request = Request::get(format!("https://{host}{path}")).body(Empty::<Bytes>::new())?;
                    read(sender.send_request(request).await.context("sending the request")?).await
                }
            });
            // The last sender ends the connection; until then it is driven here.
            tokio::select! {
                biased;
                answers = futures_util::future::try_join_all(asks) => answers,
                ended = connection => Err(anyhow::anyhow!("the connection has ended: {ended:?}")),
            }
        };
        timeout(patience, exchange).await.with_context(|| format!("no answer within {patience:?}"))?
    }

    /// A TLS connection to `at`, with `host` as server name.
    ///
    /// # Errors
    /// No connection, or a certificate that is not trusted.
    pub async fn connect(&self, at: SocketAddr, host: &str) -> Result<TlsStream<TcpStream>> {
        self.secure(TcpStream::connect(at).await.context("connecting")?, host).await
    }

    async fn secure(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>> {
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host.to_owned())?;
        TlsConnector::from(self.config.clone()).connect(name, stream).await.context("TLS handshake")
    }

    /// Opens a WebSocket to `wss://HOST/`, sends a text, and gives back what comes in return.
    ///
    /// # Errors
    /// It cannot be opened, or nothing comes within `patience`.
    pub async fn websocket(
        &self,
        at: SocketAddr,
        host: &str,
        text: &str,
        patience: Duration,
    ) -> Result<String> {
        let exchange = async {
            let stream = self.connect(at, host).await?;
            let (mut socket, _) =
                tokio_tungstenite::client_async(format!("wss://{host}/"), stream).await.context("opening")?;
            socket.send(text.into()).await.context("sending")?;
            let answer = socket.next().await.context("the WebSocket was closed")??;
            socket.close(None).await?;
            Ok(answer.into_text()?.to_string())
        };
        timeout(patience, exchange).await.with_context(|| format!("no answer within {patience:?}"))?
    }
}

async fn exchange(stream: TlsStream<TcpStream>, request: Request<Empty<Bytes>>) -> Result<Response> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("HTTP handshake")?;
    let exchange = async { read(sender.send_request(request).await.context("sending the request")?).await };
    // The connection is driven here and ends with the exchange.
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        response = &mut exchange => response,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Response> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, BODY_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("reading the body: {error}"))?.to_bytes();
    Ok(Response { status: head.status, headers: head.headers, body })
}
