//! Frames between the load generator and a member: a length, the number of the call, what is asked, bytes.
//!
//! Many calls are under way on one connection. Calls that are ready at the same time leave in one write, in both
//! directions, as gRPC does it.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest frame that is taken, in bytes.
const FRAME_MAX: usize = 1024 * 1024;
/// Bytes that are read in one go.
const BUFFER: usize = 64 * 1024;
/// Bytes of a frame behind its length that are always there.
const HEAD: usize = 4 + 1 + 8;

/// What a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The body becomes the value of the key.
    Write,
    /// The value of the key is wanted.
    Read,
    /// The answer to either.
    Done,
    /// It was not done; the body says why.
    Failed,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Write, Self::Read, Self::Done, Self::Failed];
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Number of the call on its connection.
    pub(crate) call: u32,
    pub(crate) kind: Kind,
    pub(crate) key: u64,
    pub(crate) body: Bytes,
}

impl Frame {
    /// Appends the frame's bytes.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        // The bodies are made by this program, and small.
        out.put_u32((HEAD + self.body.len()) as u32);
        out.put_u32(self.call);
        out.put_u8(self.kind as u8);
        out.put_u64(self.key);
        out.put_slice(&self.body);
    }

    /// Takes the first frame, if all of it is there.
    ///
    /// # Errors
    /// The bytes are no frame.
    pub(crate) fn take(bytes: &mut BytesMut) -> io::Result<Option<Self>> {
        let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(HEAD..=FRAME_MAX).contains(&length) {
            return Err(wrong("the length of a frame is out of bounds"));
        }
        if bytes.len() < 4 + length {
            bytes.reserve(4 + length - bytes.len());
            return Ok(None);
        }
        bytes.advance(4);
        let mut frame = bytes.split_to(length).freeze();
        let call = frame.get_u32();
        let kind = usize::from(frame.get_u8());
        let kind = Kind::ALL.get(kind).copied().ok_or_else(|| wrong("a frame is of an unknown kind"))?;
        Ok(Some(Self { call, kind, key: frame.get_u64(), body: frame }))
    }
}

/// Reads what has arrived; returns how much that is, 0 at the end.
///
/// # Errors
/// The connection broke.
pub(crate) async fn receive(
    reader: &mut (impl AsyncRead + Unpin),
    arrived: &mut BytesMut,
) -> io::Result<usize> {
    // Taken frames hold on to their part of the buffer.
    if arrived.capacity() - arrived.len() < BUFFER / 8 {
        arrived.reserve(BUFFER);
    }
    reader.read_buf(arrived).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_whole_or_not_yet() {
        let sent: Vec<Frame> = Kind::ALL
            .into_iter()
            .enumerate()
            .map(|(n, kind)| Frame { call: n as u32, kind, key: 7, body: Bytes::from(vec![1; n * 100]) })
            .collect();
        let mut all = BytesMut::new();
        sent.iter().for_each(|frame| frame.put(&mut all));
        let (mut arrived, mut got) = (BytesMut::new(), Vec::new());
        for byte in all {
            arrived.put_u8(byte);
            got.extend(Frame::take(&mut arrived).expect("valid"));
        }
        assert_eq!(got, sent);
        assert!(Frame::take(&mut BytesMut::from(&[0, 0, 0, 1][..])).is_err());
        assert!(Frame::take(&mut BytesMut::from(&[255; 64][..])).is_err());
    }
}
