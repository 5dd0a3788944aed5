//! The first message of a TLS client, read without answering it (RFC 8446 §4.1.2).

use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Largest first message with the records around it, bytes: post-quantum keys take some 2 KiB, and nothing else in it
/// is long.
const HELLO_MAX: usize = 32 * 1024;

/// What a client says first.
#[derive(Debug)]
pub(crate) struct Hello {
    /// All that has been read, for whoever takes the connection over.
    pub(crate) bytes: Bytes,
    /// The server name in lower case, if it names one.
    pub(crate) name: Option<String>,
}

impl Hello {
    /// Reads up to the end of the first message. None if it is not TLS, too long, or the client goes away.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Self> {
        let mut acceptor = Acceptor::default();
        let mut bytes = BytesMut::with_capacity(2048);
        loop {
            let before = bytes.len();
            if before >= HELLO_MAX || stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
            let mut fresh = &bytes[before..];
            while !fresh.is_empty() {
                if acceptor.read_tls(&mut fresh).ok()? == 0 {
                    return None;
                }
            }
            if let Some(accepted) = acceptor.accept().ok()? {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Some(Self { bytes: bytes.freeze(), name });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// What a client of this house says first.
    fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("written");
        bytes
    }

    #[tokio::test]
    async fn the_name_is_read_however_the_bytes_arrive() {
        let sent = hello("Wiki.Example.org");
        for piece in [1, 7, 100, sent.len()] {
            let (mut near, mut far) = tokio::io::duplex(piece);
            let bytes = sent.clone();
            let sending = tokio::spawn(async move {
                far.write_all(&bytes).await.expect("written");
                far
            });
            let read = Hello::read(&mut near).await.expect("a hello");
            assert_eq!(read.name.as_deref(), Some("wiki.example.org"));
            assert_eq!(read.bytes, sent);
            sending.await.expect("sent");
        }
    }

    #[tokio::test]
    async fn what_is_not_tls_is_no_hello() {
        let endless = [22, 3, 1, 0xff].repeat(HELLO_MAX);
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"", &[22, 3, 1], &endless] {
            let mut bytes = bytes;
            assert!(Hello::read(&mut bytes).await.is_none());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), tls in any::<bool>()) {
            if tls {
                bytes.splice(0..0, [22, 3, 1, 2, 0, 1, 0, 1, 252]);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async { Hello::read(&mut &bytes[..]).await });
        }
    }
}
