//! The sample backend: a small HTTP server that says who it is.
//!
//! `/` says hello, `/headers` gives back what arrived, `/bytes?N` sends N bytes, `/wait?MS` answers later, and a
//! WebSocket on any path is an echo.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// Header field that names the backend.
pub const NAME_HEADER: &str = "x-backend";
/// Most connections at a time; it is a sample.
const CONNECTIONS_MAX: usize = 1000;
/// Most bytes that `/bytes` sends.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest that `/wait` waits, in milliseconds.
const WAIT_MAX: u64 = 60_000;

/// Serves until the end of the process.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(listen: SocketAddr, name: String) -> Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    announce(listener.local_addr()?);
    accept(listener, name).await
}

async fn accept(listener: TcpListener, name: String) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            continue;
        }
        let name = name.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, name.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            // A client that goes away is no event.
            let _ = connection.await;
        });
    }
}

/// Whoever asked for a free port reads it from here.
#[expect(clippy::print_stdout, reason = "the answer to port 0")]
fn announce(at: SocketAddr) {
    println!("listening on {at}");
}

async fn answer(request: Request<Incoming>, name: String) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = match request.headers().get(header::SEC_WEBSOCKET_KEY) {
        Some(_) => echo(request),
        None => page(&request, &name).await,
    };
    if let Ok(name) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(NAME_HEADER, name);
    }
    Ok(response)
}

async fn page(request: &Request<Incoming>, name: &str) -> Response<Full<Bytes>> {
    let number = || request.uri().query().and_then(|q| q.parse::<u64>().ok()).unwrap_or(0);
    match request.uri().path() {
        "/headers" => {
            let fields = request.headers().iter();
            let fields: Map<String, Value> = fields
                .map(|(k, v)| {
                    (k.to_string(), Value::String(String::from_utf8_lossy(v.as_bytes()).into_owned()))
                })
                .collect();
            text(Value::Object(fields).to_string())
        }
        "/bytes" => {
            let length = usize::try_from(number()).unwrap_or(BYTES_MAX).min(BYTES_MAX);
            Response::new(Full::new(Bytes::from(vec![b'x'; length])))
        }
        "/wait" => {
            tokio::time::sleep(Duration::from_millis(number().min(WAIT_MAX))).await;
            text(format!("hello from {name}, late\n"))
        }
        _ => text(format!("hello from {name}\n")),
    }
}

fn text(body: String) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from(body)))
}

/// Changes to WebSocket and gives back every message.
fn echo(mut request: Request<Incoming>) -> Response<Full<Bytes>> {
    let accept =
        request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(Ok(accept)) = accept.map(|accept| HeaderValue::from_str(&accept)) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    // Ends with the connection, which hyper hands over once the response is out.
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A backend on a port of its own, for as long as the test runs.
    async fn backend() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(accept(listener, "sample".to_owned()));
        at
    }

    async fn get(at: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Word: yes\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn it_says_who_it_is_and_what_arrived() {
        let at = backend().await;
        let hello = get(at, "/").await;
        assert!(hello.contains("x-backend: sample") && hello.ends_with("hello from sample\n"), "{hello}");
        assert!(get(at, "/headers").await.contains(r#""x-word":"yes""#));
        assert!(get(at, "/bytes?1000").await.ends_with(&"x".repeat(1000)));
        assert!(get(at, "/wait?1").await.ends_with("late\n"));
    }

    #[tokio::test]
    async fn a_websocket_is_an_echo() {
        let stream = tokio::net::TcpStream::connect(backend().await).await.expect("connected");
        let (mut socket, _) = tokio_tungstenite::client_async("ws://a/", stream).await.expect("opened");
        socket.send("a word".into()).await.expect("sent");
        let answer = socket.next().await.expect("an answer").expect("a message");
        assert_eq!(answer.into_text().expect("text").as_str(), "a word");
    }
}
