//! The side that answers.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use pangolin_core::id::NodeId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use super::{Status, Urgent, read_frames, write_frames};
use crate::{
    frame::{Kind, MESSAGE_MAX, Message},
    service::Service,
    shared::Shared,
};

/// Most requests of one peer that are worked on at the same time.
const CONCURRENT_MAX: usize = 256;

/// How long nothing may come: the other side probes several times a second.
const IDLE: Duration = Duration::from_secs(5);

/// How long a handler may work on one request: longer than any caller waits.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest error text of a handler: some carry structured errors.
const REASON_MAX: usize = 64 * 1024;

struct Done {
    message: Message,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Answers requests and probes of `from` until the connection breaks; gives the reason.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    from: NodeId,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
) -> String {
    let (reader, writer) = tokio::io::split(stream);
    let urgent = Urgent::default();
    let slots = Arc::new(Semaphore::new(CONCURRENT_MAX));
    // A worker that has an answer always finds room for it; the rest of the room is for "busy".
    let (done, mut queue) = mpsc::channel(2 * CONCURRENT_MAX);
    let read = read_frames(reader, IDLE, |message| match message.kind {
        Kind::Ping => {
            urgent.set(Kind::Pong, message.id);
            Ok(())
        }
        Kind::Request => begin(shared, from, message, &slots, &done),
        Kind::Answer | Kind::Pong => Err("the other side answers what nobody asked".to_owned()),
    });
    let write = write_frames(writer, &mut queue, &urgent, |Done { message, .. }| Some(message));
    tokio::select! {
        biased;
        reason = read => reason,
        reason = write => reason,
    }
}

fn begin(
    shared: &Arc<Shared>,
    from: NodeId,
    request: Message,
    slots: &Arc<Semaphore>,
    done: &mpsc::Sender<Done>,
) -> Result<(), String> {
    let id = request.id;
    let Ok(permit) = slots.clone().try_acquire_owned() else {
        let body = Bytes::from_static(b"256 requests of this node are being worked on; try again");
        let message = Message { kind: Kind::Answer, tag: Status::NotTaken as u8, id, body };
        // Whoever goes on asking without reading the answers is cut off.
        return done
            .try_send(Done { message, _permit: None })
            .map_err(|_| "the other side asks without reading answers".to_owned());
    };
    let (done, worker) = (done.clone(), shared.clone());
    shared.spawn(async move {
        let (status, body) = answer(&worker, from, request.tag, request.body).await;
        let message = Message { kind: Kind::Answer, tag: status as u8, id, body };
        // The connection may be gone by now; then nobody waits.
        let _ = done.send(Done { message, _permit: Some(permit) }).await;
    });
    Ok(())
}

/// Lets the service's handler answer.
pub(crate) async fn answer(shared: &Shared, from: NodeId, service: u8, body: Bytes) -> (Status, Bytes) {
    let Some(service) = Service::from_number(service) else {
        return (Status::NotTaken, Bytes::from_static(b"the service is not known in this version"));
    };
    if !shared.may_ask(from, service) {
        let reason = format!("node {from} is not known here yet: it may bring the log and nothing else");
        return (Status::NotTaken, Bytes::from(reason));
    }
    let Some(handler) = shared.handler(service) else {
        let reason = format!("the service {service:?} is not ready on this node");
        return (Status::NotTaken, Bytes::from(reason));
    };
    // A handler that panics must not leave the other side waiting.
    let answer = AssertUnwindSafe(timeout(HANDLER_TIMEOUT, handler.request(from, body))).catch_unwind();
    let Ok(answer) = answer.await else {
        tracing::error!(
            ?service,
            "the handler of the service has panicked: this is a defect, please report it"
        );
        return (Status::Refused, Bytes::from_static(b"it failed unexpectedly; the outcome is not known"));
    };
    match answer {
        Ok(Ok(body)) if body.len() > MESSAGE_MAX => {
            tracing::warn!(?service, size = body.len(), "an answer is too large to be sent");
            (Status::Refused, Bytes::from_static(b"the answer is too large; ask for less, or for a stream"))
        }
        Ok(Ok(body)) => (Status::Done, body),
        Ok(Err(reason)) => {
            let cut = reason.floor_char_boundary(REASON_MAX.min(reason.len()));
            (Status::Refused, Bytes::copy_from_slice(&reason.as_bytes()[..cut]))
        }
        Err(_) => {
            (Status::Refused, Bytes::from_static(b"it took longer than a minute; the outcome is not known"))
        }
    }
}
