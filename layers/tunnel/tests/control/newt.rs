//! A Newt, as far as the wire shows it.

use std::{io::Write as _, net::SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Error, Message, protocol::CloseFrame},
};

use crate::node::{PATIENCE, Server};

/// The base64 form of 32 bytes of 1.
pub(crate) const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

/// Sends a request as Newt does and returns the head and the body of the answer, after the server has closed.
pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> (String, Value) {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: pangolin.example.net\r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nContent-Type: application/json\r\nX-CSRF-Token: x-csrf-protection\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

pub(crate) async fn get_token(server: &Server, id: &str, secret: &str) -> (String, Value) {
    let body = json!({ "newtId": id, "secret": secret }).to_string();
    post(server.address, "/api/v1/auth/newt/get-token", &body).await
}

/// An open control socket.
pub(crate) struct Newt {
    pub(crate) ws: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Newt {
    /// Opens a socket with a token; the status of the answer if it is refused.
    pub(crate) async fn open(address: SocketAddr, token: &str) -> Result<Self, u16> {
        let url = format!("ws://{address}/api/v1/ws?clientType=newt&token={token}");
        match timeout(PATIENCE, connect_async(url)).await.expect("an answer") {
            Ok((ws, _)) => Ok(Self { ws }),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Signs in and opens a socket.
    pub(crate) async fn sign_in(
        server: &Server,
        (_, id, secret): (pangolin_core::SiteId, &str, &str),
    ) -> Self {
        let (_, answer) = get_token(server, id, secret).await;
        let token = answer["data"]["token"].as_str().expect("a token");
        Self::open(server.address, token).await.expect("a socket")
    }

    /// Sends a message as Newt does.
    pub(crate) async fn say(&mut self, kind: &str, data: Value) {
        let message = format!("{}\n", json!({ "type": kind, "data": data }));
        self.ws.send(Message::text(message)).await.unwrap();
    }

    pub(crate) async fn ping(&mut self, version: u64) {
        let message = json!({ "type": "newt/ping", "data": {}, "configVersion": version });
        self.ws.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Sends it gzipped, in a binary frame.
    pub(crate) async fn say_gzipped(&mut self, kind: &str, data: Value) {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(json!({ "type": kind, "data": data }).to_string().as_bytes()).unwrap();
        self.ws.send(Message::binary(gzip.finish().unwrap())).await.unwrap();
    }

    /// Registers in full.
    pub(crate) async fn register(&mut self, chain: &str) {
        let data = json!({ "publicKey": KEY, "newtVersion": "1.13.0", "chainId": chain,
            "pingResults": [{ "exitNodeId": 1, "latencyMs": 0, "weight": 1 }] });
        self.say("newt/wg/register", data).await;
    }

    /// The next message.
    pub(crate) async fn hears(&mut self) -> Value {
        loop {
            let frame = timeout(PATIENCE, self.ws.next()).await.expect("a message");
            match frame.expect("the socket is open").expect("a frame") {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next message, which must be of this type; its data and version.
    pub(crate) async fn hears_a(&mut self, kind: &str) -> (Value, u64) {
        let message = self.hears().await;
        assert_eq!(message["type"], kind, "{message}");
        (message["data"].clone(), message["configVersion"].as_u64().unwrap_or(0))
    }

    /// Messages up to the end, which is this.
    pub(crate) async fn is_closed(&mut self) -> CloseFrame {
        loop {
            match timeout(PATIENCE, self.ws.next()).await.expect("the end").expect("a closing handshake") {
                Ok(Message::Close(frame)) => return frame.expect("a reason"),
                Ok(_) => {}
                Err(error) => panic!("cut without a word: {error}"),
            }
        }
    }

    /// A ping that is answered: everything said before has been dealt with.
    pub(crate) async fn is_served(&mut self) {
        self.ping(0).await;
        while self.hears().await["type"] != "pong" {}
    }
}
