//! A snapshot on its way to another node: header, bytes, and back the receiver's vote. Each part is bounded, and
//! so is the time in which nothing moves.

use std::{io, time::Duration};

use bytes::Bytes;
use pangolin_core::id::NodeId;
use pangolin_peer::Service;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use crate::{
    messages::{SnapshotAnswer, SnapshotHeader, decode, encode},
    transport::Transport,
    types::{META_MAX, SnapshotMeta, Vote, encode_meta},
};

/// Largest snapshot that is taken: far above a catalogue of any size, below what would exhaust a small host.
pub(crate) const SNAPSHOT_MAX: u64 = 256 * 1024 * 1024;
/// Header and answer.
const FRAME_MAX: usize = META_MAX + 1024;
const PIECE: usize = 64 * 1024;
/// Without any progress for so long, the other side is given up.
const STALL: Duration = Duration::from_secs(10);
/// Writing a large snapshot to a slow disk may take so long.
const INSTALL: Duration = Duration::from_secs(60);

/// Sends a snapshot; returns the receiver's vote.
pub(crate) async fn send(
    peers: &dyn Transport,
    target: NodeId,
    vote: Vote,
    meta: &SnapshotMeta,
    data: &Bytes,
) -> io::Result<Vote> {
    let header = SnapshotHeader { vote, meta: encode_meta(meta)?, size: data.len() as u64 };
    let mut stream =
        moving(async { peers.open(target, Service::Snapshot).await.map_err(io::Error::other) }).await?;
    write_frame(&mut stream, &header).await?;
    for piece in data.chunks(PIECE) {
        moving(stream.write_all(piece)).await?;
    }
    moving(stream.shutdown()).await?;
    let answer: SnapshotAnswer = timeout(INSTALL, read_frame(&mut stream)).await??;
    answer.map_err(io::Error::other)
}

/// Receives what [`send`] sends, up to the answer.
pub(crate) async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(SnapshotHeader, Bytes)> {
    let header: SnapshotHeader = moving(read_frame(stream)).await?;
    if header.size > SNAPSHOT_MAX {
        let size = header.size;
        return Err(io::Error::other(format!("a snapshot of {size} bytes, {SNAPSHOT_MAX} are taken")));
    }
    let mut data = Vec::new();
    let mut rest = usize::try_from(header.size).map_err(io::Error::other)?;
    while rest > 0 {
        // Memory grows with what has arrived, not with what was announced.
        let begin = data.len();
        data.resize(begin + rest.min(PIECE), 0);
        moving(stream.read_exact(&mut data[begin..])).await?;
        rest -= data.len() - begin;
    }
    // Both directions end in order, or the answer is lost with the stream.
    if moving(stream.read(&mut [0])).await? > 0 {
        return Err(io::Error::other("bytes behind the snapshot"));
    }
    Ok((header, data.into()))
}

pub(crate) async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    answer: &SnapshotAnswer,
) -> io::Result<()> {
    write_frame(stream, answer).await?;
    moving(stream.shutdown()).await
}

async fn moving<T>(action: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(STALL, action).await?
}

async fn write_frame<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    let bytes = encode(value).map_err(io::Error::other)?;
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    moving(stream.write_u32(len)).await?;
    moving(stream.write_all(&bytes)).await?;
    moving(stream.flush()).await
}

async fn read_frame<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let len = stream.read_u32().await? as usize;
    if len > FRAME_MAX {
        return Err(io::Error::other(format!("a frame of {len} bytes, {FRAME_MAX} are taken")));
    }
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).await?;
    decode(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(size: u64) -> SnapshotHeader {
        SnapshotHeader { vote: Vote::new_committed(1, 2), meta: vec![1, 2, 3], size }
    }

    #[tokio::test]
    async fn a_snapshot_arrives_as_it_was_sent() {
        let (mut here, mut there) = tokio::io::duplex(1000);
        let data = vec![7; 3 * PIECE + 5];
        let sent = data.clone();
        let sender = tokio::spawn(async move {
            write_frame(&mut here, &header(sent.len() as u64)).await.expect("written");
            here.write_all(&sent).await.expect("written");
            here.shutdown().await.expect("shut down");
        });
        let (header, received) = receive(&mut there).await.expect("received");
        assert_eq!((header.meta, received), (vec![1, 2, 3], Bytes::from(data)));
        sender.await.expect("sent");
    }

    #[tokio::test]
    async fn a_snapshot_that_is_cut_off_or_too_large_is_refused() {
        let mut cut = Vec::new();
        write_frame(&mut cut, &header(1000)).await.expect("written");
        cut.extend([0; 10]);
        assert!(receive(&mut cut.as_slice()).await.is_err());
        let mut large = Vec::new();
        write_frame(&mut large, &header(SNAPSHOT_MAX + 1)).await.expect("written");
        assert!(receive(&mut large.as_slice()).await.is_err());
        assert!(receive(&mut [255; 100].as_slice()).await.is_err());
    }
}
