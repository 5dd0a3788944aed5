//! Unary gRPC calls over HTTP/2 without TLS: as much of the protocol as a load generator needs
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>), so that both systems are asked by the same HTTP
//! library from the same thread.

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// A connection that carries many calls at the same time; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Channel {
    sender: http2::SendRequest<Full<Bytes>>,
    authority: String,
}

impl Channel {
    pub(crate) async fn connect(authority: &str) -> Result<Self> {
        let stream =
            TcpStream::connect(authority).await.with_context(|| format!("connecting to {authority}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends when the last clone of the sender is dropped.
        tokio::spawn(connection);
        Ok(Self { sender, authority: authority.to_owned() })
    }

    /// Calls `/SERVICE/METHOD` with an encoded message; gives the encoded answer.
    pub(crate) async fn call(&mut self, method: &str, message: &[u8]) -> Result<Bytes> {
        let mut body = BytesMut::with_capacity(message.len() + 5);
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len())?);
        body.put_slice(message);
        let request = Request::post(format!("http://{}{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(body.freeze()))?;
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        ensure!(head.status == StatusCode::OK, "{method}: HTTP status {}", head.status);
        let body = body.collect().await?;
        if let Some(trailers) = body.trailers() {
            check(method, trailers)?;
        } else {
            check(method, &head.headers)?;
        }
        let bytes = body.to_bytes();
        ensure!(bytes.len() >= 5, "{method}: the answer has no message");
        Ok(bytes.slice(5..))
    }
}

fn check(method: &str, headers: &HeaderMap) -> Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        status => bail!("{method}: gRPC status {status}: {}", text("grpc-message")),
    }
}

/// Adds a field of type `bytes` to a message (wire type 2).
pub(crate) fn put_bytes(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 2);
    let mut left = value.len();
    while left >= 0x80 {
        message.push(left as u8 | 0x80);
        left >>= 7;
    }
    message.push(left as u8);
    message.extend_from_slice(value);
}

/// The number in `field` of a message, 0 where it is not there.
pub(crate) fn number_in(message: &[u8], field: u64) -> Option<u64> {
    fields(message)?.into_iter().find(|(number, _, _)| *number == field).map_or(Some(0), |(_, n, _)| Some(n))
}

/// The bytes in `field` of a message.
pub(crate) fn bytes_in(message: &[u8], field: u64) -> Option<&[u8]> {
    fields(message)?.into_iter().find(|(number, _, _)| *number == field).map(|(_, _, bytes)| bytes)
}

fn fields(mut message: &[u8]) -> Option<Vec<(u64, u64, &[u8])>> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let (number, bytes) = match key & 7 {
            0 => (varint(&mut message)?, &[][..]),
            2 => {
                let len = usize::try_from(varint(&mut message)?).ok()?;
                let (bytes, rest) = message.split_at_checked(len)?;
                message = rest;
                (0, bytes)
            }
            _ => return None,
        };
        fields.push((key >> 3, number, bytes));
    }
    Some(fields)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut inner = Vec::new();
        put_bytes(&mut inner, 2, &[7; 300]);
        inner.extend([8 << 3, 0xac, 0x02]);
        assert_eq!(bytes_in(&inner, 2), Some(&[7; 300][..]));
        assert_eq!((number_in(&inner, 8), number_in(&inner, 9)), (Some(300), Some(0)));
        assert_eq!(number_in(&[0x0a, 0x05], 1), None, "cut off");
    }
}
