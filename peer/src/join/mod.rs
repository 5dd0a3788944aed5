//! How somebody who is not a node yet talks to one that is.
//!
//! The joiner holds a [`JoinTokenText`]: the digest of the authority's key, and a secret. It connects to any node
//! ([`JoinClient`]), sends nothing before the node has proven to be of that authority, and then proves with
//! every request that it knows the secret: HMAC-SHA256 over a value that only the two ends of this TLS session
//! know (RFC 8446 §7.5) and the digest of the request. So the secret itself is never on the wire, and a proof is
//! worth nothing on another connection. The node asks its [`JoinDoor`].
//!
//! Not here: what requests and answers say, and what becomes of a token. A request may be repeated, on the same
//! connection or another: the door gives the same answer to the same request.

mod client;
mod door;
mod token;

use std::io;

use aws_lc_rs::hmac;
pub use client::{JoinClient, JoinError};
pub use door::{Declined, JoinDoor};
pub(crate) use door::{WrongProofs, serve};
pub use token::{JoinTokenText, TokenError};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::identity::sha256;

/// Largest body of a request.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Largest body of an answer: certificates, keyring, the members.
pub const ANSWER_MAX: usize = 256 * 1024;

/// Bytes before the body of a request: token id and proof.
const REQUEST_HEAD: usize = 8 + PROOF;

/// Length of a proof.
const PROOF: usize = 32;

/// Label of the exported value.
const EXPORTER: &[u8] = b"EXPORTER-pangolin-join-v1";

/// First byte of an answer.
const DONE: u8 = 0;
const REFUSED: u8 = 1;
/// This node cannot tell now. A joiner that does not know it goes on to the next node all the same.
const LATER: u8 = 2;

/// What both ends of a TLS session know, and nobody else.
type Binding = [u8; 32];

/// The message that a proof signs.
fn proven(binding: &Binding, body: &[u8]) -> [u8; 64] {
    let mut message = [0; 64];
    message[..32].copy_from_slice(binding);
    message[32..].copy_from_slice(&sha256(body).0);
    message
}

fn prove(secret: &[u8; 32], binding: &Binding, body: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &proven(binding, body))
}

/// In constant time.
fn verify(secret: &[u8; 32], binding: &Binding, body: &[u8], proof: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), &proven(binding, body), proof).is_ok()
}

async fn write_block(io: &mut (impl AsyncWrite + Unpin), parts: &[&[u8]]) -> io::Result<()> {
    let block = parts.concat();
    let length = u32::try_from(block.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    io.write_u32(length).await?;
    io.write_all(&block).await?;
    io.flush().await
}

/// Reads a block; none at the end of the connection.
async fn read_block(io: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Option<Vec<u8>>> {
    let length = match io.read_u32().await {
        Ok(length) => usize::try_from(length).unwrap_or(usize::MAX),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > limit {
        let text = format!("a block of {length} bytes, {limit} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut block = vec![0; length];
    io.read_exact(&mut block).await?;
    Ok(Some(block))
}

/// See [`crate::fuzz`]: what comes over a joiner's connection, from either side.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use futures_util::FutureExt as _;

    // All bytes are there: it never waits.
    let mut requests = bytes;
    while let Some(Ok(Some(request))) = read_block(&mut requests, REQUEST_HEAD + REQUEST_MAX).now_or_never() {
        assert!(request.len() <= REQUEST_HEAD + REQUEST_MAX);
        door::fuzz(&request);
        let _ = client::said(&request);
    }
    door::fuzz(bytes);
    let _ = client::said(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_one_secret_one_session_and_one_body() {
        let proof = prove(&[1; 32], &[2; 32], b"body");
        assert!(verify(&[1; 32], &[2; 32], b"body", proof.as_ref()));
        assert!(!verify(&[9; 32], &[2; 32], b"body", proof.as_ref()));
        assert!(!verify(&[1; 32], &[9; 32], b"body", proof.as_ref()));
        assert!(!verify(&[1; 32], &[2; 32], b"other", proof.as_ref()));
        assert!(!verify(&[1; 32], &[2; 32], b"body", &proof.as_ref()[..16]));
    }
}
