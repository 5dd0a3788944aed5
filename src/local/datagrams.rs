//! Datagrams to targets: through the local tunnel if it is alive, else in frames on a stream to a node whose tunnel is.
//!
//! A frame is the datagram's length, two bytes in network byte order, and the datagram. A stream delivers everything in
//! order and waits for whoever is slow; datagrams are rather lost than late, so that what does not fit into a short queue
//! is dropped.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_core::SiteId;
use pangolin_edge::Datagrams;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    sync::{Mutex, mpsc},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

/// Longest datagram that is relayed: none that is longer fits a tunnel.
pub(crate) const DATAGRAM_MAX: usize = 1420;
/// Datagrams of one session that wait for the stream: a burst, and a few milliseconds of a fast sender.
const QUEUE: usize = 64;
/// A session without datagrams in either direction for this long has ended, as at the connector.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(90);

/// Where the datagrams of a session go: the first bytes of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DatagramHeader {
    pub(crate) site: SiteId,
    pub(crate) port: u16,
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let mut stream = bytes;
    if let Ok(runtime) = runtime {
        runtime.block_on(async {
            while let Ok(Some(datagram)) = read_frame(&mut stream).await {
                assert!(datagram.len() <= DATAGRAM_MAX);
            }
        });
    }
}

/// A session of datagrams on a stream to a node that has accepted it. Dropping it ends it.
pub(crate) struct Relayed {
    out: mpsc::Sender<Bytes>,
    incoming: Mutex<mpsc::Receiver<Bytes>>,
    /// Reads and writes the stream.
    _pump: AbortOnDropHandle<()>,
}

impl Relayed {
    pub(crate) fn on<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (out, mut to_stream) = mpsc::channel::<Bytes>(QUEUE);
        let (from_stream, incoming) = mpsc::channel(QUEUE);
        let pump = tokio::spawn(async move {
            let (mut reader, mut writer) = split(stream);
            let write = async {
                while let Some(datagram) = to_stream.recv().await {
                    write_frame(&mut writer, &datagram).await?;
                }
                Ok::<(), io::Error>(())
            };
            let read = async {
                while let Some(datagram) = read_frame(&mut reader).await? {
                    // A reader that does not keep up loses some, as it would on any network.
                    let _ = from_stream.try_send(datagram);
                }
                Ok::<(), io::Error>(())
            };
            tokio::select! {
                _ = write => {}
                _ = read => {}
            }
        });
        Self { out, incoming: Mutex::new(incoming), _pump: AbortOnDropHandle::new(pump) }
    }

    fn try_send(&self, datagram: &[u8]) -> io::Result<()> {
        if datagram.len() > DATAGRAM_MAX {
            let text = format!("a datagram of {} bytes; {DATAGRAM_MAX} are allowed", datagram.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        match self.out.try_send(Bytes::copy_from_slice(datagram)) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Datagrams for Relayed {
    /// Never waits: a tunnel elsewhere may take less than [`DATAGRAM_MAX`]; it then drops what is longer.
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async { self.try_send(datagram) })
    }

    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(async move {
            let datagram = self.incoming.lock().await.recv().await.ok_or(io::ErrorKind::UnexpectedEof)?;
            let length = datagram.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram[..length]);
            Ok(length)
        })
    }
}

/// Carries a relayed session at the node with the tunnel, until either side ends it or it has been idle for too long.
///
/// # Errors
/// What ended it, other than its end.
pub(crate) async fn carry(stream: impl AsyncRead + AsyncWrite, target: &dyn Datagrams) -> io::Result<()> {
    let (mut reader, mut writer) = split(stream);
    let (busy, mut quiet) = tokio::sync::watch::channel(());
    let to_target = async {
        while let Some(datagram) = read_frame(&mut reader).await? {
            busy.send_replace(());
            // One that is too long for this tunnel, or finds no room, is lost like any other.
            let _ = target.send(&datagram).await;
        }
        Ok::<(), io::Error>(())
    };
    let from_target = async {
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            let length = target.receive(&mut buffer).await?;
            busy.send_replace(());
            write_frame(&mut writer, &buffer[..length]).await?;
        }
    };
    let idle = async { while timeout(IDLE_MAX, quiet.changed()).await.is_ok() {} };
    tokio::select! {
        ended = to_target => ended,
        ended = from_target => ended,
        () = idle => Ok(()),
    }
}

async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), datagram: &[u8]) -> io::Result<()> {
    let length = u16::try_from(datagram.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut frame = Vec::with_capacity(2 + datagram.len());
    frame.extend(length.to_be_bytes());
    frame.extend_from_slice(datagram);
    writer.write_all(&frame).await?;
    writer.flush().await
}

/// The next datagram; none at the end of the stream.
async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut length = [0; 2];
    match reader.read(&mut length[..1]).await? {
        0 => return Ok(None),
        _ => drop(reader.read_exact(&mut length[1..]).await?),
    }
    let length = usize::from(u16::from_be_bytes(length));
    if length > DATAGRAM_MAX {
        let text = format!("a frame of {length} bytes; {DATAGRAM_MAX} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut datagram = vec![0; length];
    reader.read_exact(&mut datagram).await?;
    Ok(Some(datagram.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn datagrams_arrive_whole_and_apart_in_both_directions() {
        let (near, mut far) = tokio::io::duplex(64 << 10);
        let session = Relayed::on(near);
        for datagram in [&b"one"[..], b"", &[7; DATAGRAM_MAX]] {
            session.send(datagram).await.unwrap();
            let arrived = timeout(PATIENCE, read_frame(&mut far)).await.unwrap().unwrap().unwrap();
            assert_eq!(arrived, datagram);
            write_frame(&mut far, &arrived).await.unwrap();
            let mut buffer = [0; DATAGRAM_MAX];
            let length = timeout(PATIENCE, session.receive(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..length], datagram);
        }
        let error = session.send(&[0; DATAGRAM_MAX + 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_sender_never_waits_for_a_stream_that_is_stuck() {
        let (near, far) = tokio::io::duplex(10);
        let session = Relayed::on(near);
        for _ in 0..10 * QUEUE {
            timeout(PATIENCE, session.send(b"into the void")).await.expect("it does not wait").unwrap();
        }
        drop(far);
        let mut buffer = [0; 10];
        let ended = timeout(PATIENCE, session.receive(&mut buffer)).await.expect("it ends").unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_frame_above_the_limit_ends_the_session() {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let session = Relayed::on(near);
        far.write_all(&u16::try_from(DATAGRAM_MAX + 1).unwrap().to_be_bytes()).await.unwrap();
        let mut buffer = [0; 10];
        let ended = timeout(PATIENCE, session.receive(&mut buffer)).await.expect("it ends").unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }
}
