//! Through a door: a session token, and a WebSocket opened with it.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pangolin_tunnel::control::{
    DATAGRAM_MAX, DATAGRAMS_PATH, PROVISION_PATH, SOCKET_PATH, TOKEN_PATH, messages::NODE_MESSAGE_MAX,
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error as WsError, client::IntoClientRequest as _, handshake::client::Request as WsRequest,
        protocol::WebSocketConfig,
    },
};

use crate::{
    dial::{BoxConnection, Tls, tcp},
    endpoint::Door,
    options::Secret,
};

/// What a node gets for each of connection, token and socket. One that is well answers within a few round trips.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer with a token.
const ANSWER_MAX: usize = 64 << 10;

/// An open WebSocket to a node.
pub(crate) type Socket = WebSocketStream<BoxConnection>;

/// No WebSocket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignInError {
    #[error("{step}: {source}")]
    Connection { step: &'static str, source: io::Error },
    #[error("{0}: no answer in time")]
    Late(&'static str),
    #[error("sign-in: {0}")]
    Http(#[from] hyper::Error),
    #[error("the sign-in was refused with {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the answer to the sign-in is not one: {0}")]
    Answer(String),
    #[error("the WebSocket was not opened: {0}")]
    Socket(#[source] Box<WsError>),
}

#[derive(Deserialize)]
struct Answer<T> {
    data: Option<T>,
    #[serde(default)]
    success: bool,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewCredentials {
    newt_id: String,
    secret: Secret,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

/// Signs in through `door` and opens the control socket.
///
/// # Errors
/// [`SignInError`] at the first step that fails.
pub(crate) async fn sign_in(
    door: &Door,
    tls: &Tls,
    id: &str,
    secret: &Secret,
) -> Result<Socket, SignInError> {
    open(door, tls, (id, secret), SOCKET_PATH, NODE_MESSAGE_MAX).await
}

/// Signs in through `door` and opens a WebSocket for WireGuard's datagrams.
///
/// # Errors
/// [`SignInError`] at the first step that fails.
pub(crate) async fn open_datagrams(
    door: &Door,
    tls: &Tls,
    id: &str,
    secret: &Secret,
) -> Result<Socket, SignInError> {
    open(door, tls, (id, secret), DATAGRAMS_PATH, DATAGRAM_MAX).await
}

/// Signs in through `door`, and no more: nothing of the site changes by it.
///
/// # Errors
/// [`SignInError`] at the first step that fails.
pub(crate) async fn try_sign_in(
    door: &Door,
    tls: &Tls,
    id: &str,
    secret: &Secret,
) -> Result<(), SignInError> {
    within("sign-in", token(connect(door, tls).await?, door, id, secret)).await?.map(drop)
}

/// Has a site made through `door` for a provisioning key; its id and secret.
///
/// # Errors
/// [`SignInError`] at the first step that fails.
pub(crate) async fn provision(
    door: &Door,
    tls: &Tls,
    key: &Secret,
    name: Option<&str>,
) -> Result<(String, Secret), SignInError> {
    let body = serde_json::json!({ "provisioningKey": key.expose(), "name": name });
    let asked = async { post(connect(door, tls).await?, door, PROVISION_PATH, body.to_string()).await };
    let (status, answer) = within("provisioning", asked).await??;
    let NewCredentials { newt_id, secret } = read_answer(status, &answer, StatusCode::CREATED)?;
    Ok((newt_id, secret))
}

/// Opens a WebSocket with a fresh token.
async fn open(
    door: &Door,
    tls: &Tls,
    (id, secret): (&str, &Secret),
    path: &str,
    longest: usize,
) -> Result<Socket, SignInError> {
    let token = within("sign-in", token(connect(door, tls).await?, door, id, secret)).await??;
    let request = socket_request(door, path, &token)?;
    // What is written goes out at once.
    let config = WebSocketConfig::default()
        .write_buffer_size(0)
        .max_message_size(Some(longest))
        .max_frame_size(Some(longest));
    let opened = client_async_with_config(request, connect(door, tls).await?, Some(config));
    let (socket, _) =
        within("socket", opened).await?.map_err(|error| SignInError::Socket(Box::new(error)))?;
    Ok(socket)
}

async fn within<T>(step: &'static str, future: impl Future<Output = T>) -> Result<T, SignInError> {
    timeout(STEP_TIMEOUT, Box::pin(future)).await.map_err(|_| SignInError::Late(step))
}

async fn connect(door: &Door, tls: &Tls) -> Result<BoxConnection, SignInError> {
    let (host, port) = door.place();
    let stream =
        tcp(host, port).await.map_err(|source| SignInError::Connection { step: "connection", source })?;
    if !door.endpoint.tls {
        return Ok(Box::new(stream));
    }
    // The certificate has to be that of the configured name, wherever the connection goes.
    let secured = within("TLS", tls.verified(stream, &door.endpoint.host)).await?;
    secured.map_err(|source| SignInError::Connection { step: "TLS", source })
}

async fn token(
    connection: BoxConnection,
    door: &Door,
    id: &str,
    secret: &Secret,
) -> Result<String, SignInError> {
    let body = serde_json::json!({ "newtId": id, "secret": secret.expose() }).to_string();
    let (status, answer) = post(connection, door, TOKEN_PATH, body).await?;
    let Token { token } = read_answer(status, &answer, StatusCode::OK)?;
    if token.is_empty() { Err(SignInError::Answer("the token is empty".into())) } else { Ok(token) }
}

async fn post(
    connection: BoxConnection,
    door: &Door,
    path: &str,
    body: String,
) -> Result<(StatusCode, Bytes), SignInError> {
    let request = Request::post(path)
        .header(header::HOST, door.endpoint.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("pangolin-connector/", env!("CARGO_PKG_VERSION")))
        .header("x-csrf-token", "x-csrf-protection")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| SignInError::Answer(error.to_string()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|error| SignInError::Answer(error.to_string()))?.to_bytes();
        Ok((status, body))
    };
    // The connection ends when the exchange has: nothing else holds it.
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

fn read_answer<T: DeserializeOwned>(
    status: StatusCode,
    body: &[u8],
    good: StatusCode,
) -> Result<T, SignInError> {
    let answer: Result<Answer<T>, _> = serde_json::from_slice(body);
    match answer {
        Ok(Answer { data: Some(data), success: true, .. }) if status == good => Ok(data),
        Ok(Answer { message, .. }) => Err(SignInError::Refused { status, message }),
        Err(_) if status != good => Err(SignInError::Refused { status, message: "without a reason".into() }),
        Err(error) => Err(SignInError::Answer(error.to_string())),
    }
}

fn socket_request(door: &Door, path: &str, token: &str) -> Result<WsRequest, SignInError> {
    let scheme = if door.endpoint.tls { "wss" } else { "ws" };
    let authority = door.endpoint.authority();
    format!("{scheme}://{authority}{path}?clientType=newt&token={token}")
        .into_client_request()
        .map_err(|error| SignInError::Socket(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_protocol_has_them() {
        let good = br#"{"data":{"token":"t0k3n","serverVersion":"1"},"success":true,"status":200}"#;
        let read_answer = |status, body: &[u8]| read_answer::<Token>(status, body, StatusCode::OK);
        assert_eq!(read_answer(StatusCode::OK, good).unwrap().token, "t0k3n");
        assert!(read_answer(StatusCode::CREATED, good).is_err(), "only 200 is a success");
        let refused = br#"{"data":null,"success":false,"error":true,"message":"Secret is incorrect"}"#;
        let error = read_answer(StatusCode::BAD_REQUEST, refused).map(drop).unwrap_err().to_string();
        assert!(error.contains("400") && error.contains("Secret is incorrect"), "{error}");
        let page = read_answer(StatusCode::BAD_GATEWAY, b"<html>").map(drop).unwrap_err().to_string();
        assert!(page.contains("502"), "{page}");
        assert!(matches!(read_answer(StatusCode::OK, b"<html>"), Err(SignInError::Answer(_))));
    }
}
