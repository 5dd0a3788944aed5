//! The control lane: requests, answers and probes over one connection.
//!
//! Both directions of a connection run in one task: a side that writes goes on reading, and no locks are
//! contended. Probes overtake everything else.

mod client;
mod server;

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::BytesMut;
pub(crate) use client::{ControlClient, ControlConnection, next_beat, verdict};
pub(crate) use server::{answer, serve};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Notify, mpsc},
    time::timeout,
};

use crate::frame::{Assembler, Frame, Kind, Message, Outbox};

/// How long the other side may leave a batch unread before the connection is given up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for one read: a full TLS record and the rest of the one before.
const READ_ROOM: usize = 32 * 1024;

/// A probe, or the answer to one, that waits to be sent before all else. A later one replaces it.
#[derive(Debug, Default)]
struct Urgent {
    /// Kind and id of the frame; 0 for none.
    frame: AtomicU64,
    wake: Notify,
}

impl Urgent {
    fn set(&self, kind: Kind, id: u32) {
        self.frame.store((kind as u64) << 32 | u64::from(id), Ordering::Release);
        self.wake.notify_one();
    }

    fn take(&self) -> Option<Frame> {
        let frame = self.frame.swap(0, Ordering::Acquire);
        let kind = match frame >> 32 {
            3 => Kind::Ping,
            4 => Kind::Pong,
            _ => return None,
        };
        u32::try_from(frame & u64::from(u32::MAX)).ok().map(|id| Frame::signal(kind, id))
    }
}

/// Writes what comes from `queue`, as far as `prepare` makes a message of it. Ends with the reason why it cannot
/// go on.
async fn write_frames<T>(
    mut writer: impl AsyncWrite + Unpin,
    queue: &mut mpsc::Receiver<T>,
    urgent: &Urgent,
    mut prepare: impl FnMut(T) -> Option<Message>,
) -> String {
    let (mut outbox, mut batch) = (Outbox::default(), BytesMut::new());
    loop {
        while outbox.has_room() {
            match queue.try_recv() {
                Ok(item) => prepare(item).into_iter().for_each(|message| outbox.push(message)),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return "it is no longer used".to_owned(),
            }
        }
        if let Some(frame) = urgent.take() {
            frame.encode(&mut batch);
        }
        outbox.fill(&mut batch);
        if batch.is_empty() {
            tokio::select! {
                biased;
                () = urgent.wake.notified() => {}
                item = queue.recv() => match item {
                    Some(item) => prepare(item).into_iter().for_each(|message| outbox.push(message)),
                    None => return "it is no longer used".to_owned(),
                },
            }
            continue;
        }
        let written = timeout(WRITE_TIMEOUT, async {
            writer.write_all(&batch).await?;
            writer.flush().await
        });
        match written.await {
            Ok(Ok(())) => batch.clear(),
            Ok(Err(error)) => return broken(&error),
            Err(_) => return format!("the other side has read nothing for {WRITE_TIMEOUT:?}"),
        }
    }
}

/// Reads messages and hands them to `take`, until `take`, the bytes or the connection are at fault, or nothing
/// comes for `idle`. Ends with the reason.
async fn read_frames(
    mut reader: impl AsyncRead + Unpin,
    idle: Duration,
    mut take: impl FnMut(Message) -> Result<(), String>,
) -> String {
    let (mut assembler, mut buffer) = (Assembler::default(), BytesMut::new());
    loop {
        buffer.reserve(READ_ROOM);
        match timeout(idle, reader.read_buf(&mut buffer)).await {
            Ok(Ok(0)) => return "the other side has closed the connection".to_owned(),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return broken(&error),
            Err(_) => return format!("nothing has come for {idle:?}"),
        }
        loop {
            let frame = match Frame::decode(&mut buffer) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return format!("the other side has sent {error}"),
            };
            let taken = match assembler.push(frame) {
                Ok(Some(message)) => take(message),
                Ok(None) => Ok(()),
                Err(error) => Err(format!("the other side has sent {error}")),
            };
            if let Err(reason) = taken {
                return reason;
            }
        }
    }
}

/// What an error of a connection means to an operator.
pub(crate) fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the connection was reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "the other side has closed the connection".to_owned(),
        io::ErrorKind::ConnectionRefused => "the connection was refused: nothing listens there".to_owned(),
        _ => error.to_string(),
    }
}

/// How an answer ends: the tag of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    /// The handler's answer.
    Done = 0,
    /// The handler's error.
    Refused = 1,
    /// No handler has seen the request.
    NotTaken = 2,
}

impl Status {
    pub(crate) fn from_tag(tag: u8) -> Option<Self> {
        [Self::Done, Self::Refused, Self::NotTaken].into_iter().find(|status| *status as u8 == tag)
    }
}
