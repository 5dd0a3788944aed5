//! Frames of the control lane: messages cut into fragments, so that a large one delays nobody.
//!
//! A frame is a header of 12 bytes (kind, flags, tag, zero, length u32, id u32, big endian) and a body. One frame
//! fills one TLS record. Pure: bytes in, messages out.

use std::collections::{HashMap, VecDeque};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Largest request or answer: far above a batch of log entries, far below what would hurt a small host.
pub const MESSAGE_MAX: usize = 8 * 1024 * 1024;

/// Bytes of a header.
const HEADER: usize = 12;

/// Largest body of one frame: with its header it fills one TLS record (RFC 8446 §5.1).
pub(crate) const FRAGMENT_MAX: usize = 16_384 - HEADER;

/// Most messages of which only a part has arrived. The sender interleaves fewer.
const PARTIAL_MAX: usize = 32;

/// Most messages that are interleaved: enough that no one waits for a large one.
const INTERLEAVE_MAX: usize = 16;

/// Most bytes written at once: fragments of a few messages, and still little for a probe to wait for.
const BATCH: usize = 64 * 1024;

const LAST: u8 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// A part of a request; the tag is the service.
    Request = 1,
    /// A part of an answer; the tag is its status.
    Answer = 2,
    /// A probe.
    Ping = 3,
    /// Its answer, with the same id.
    Pong = 4,
}

/// Bytes that no peer of this version sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame with unknown flags")]
    Flags,
    #[error("a frame of {0} bytes")]
    Length(u32),
    #[error("an empty fragment")]
    Empty,
    #[error("a message above {MESSAGE_MAX} bytes")]
    Message,
    #[error("a fragment that belongs to another message")]
    Mixed,
    #[error("too many unfinished messages")]
    Partial,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) tag: u8,
    pub(crate) last: bool,
    pub(crate) id: u32,
    pub(crate) body: Bytes,
}

impl Frame {
    /// A frame without a body.
    pub(crate) fn signal(kind: Kind, id: u32) -> Self {
        Self { kind, tag: 0, last: true, id, body: Bytes::new() }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        put(out, self.kind, self.tag, self.last, self.id, &self.body);
    }

    /// Takes the next frame off `buffer`; none while it is incomplete.
    pub(crate) fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let mut fields = &header[..];
        let (kind, flags, tag, zero) = (fields.get_u8(), fields.get_u8(), fields.get_u8(), fields.get_u8());
        let (length, id) = (fields.get_u32(), fields.get_u32());
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Answer,
            3 => Kind::Ping,
            4 => Kind::Pong,
            other => return Err(FrameError::Kind(other)),
        };
        if flags & !LAST != 0 || zero != 0 {
            return Err(FrameError::Flags);
        }
        let signal = matches!(kind, Kind::Ping | Kind::Pong);
        let limit = if signal { 0 } else { FRAGMENT_MAX };
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > limit {
            return Err(FrameError::Length(length));
        }
        let last = flags & LAST != 0;
        if size == 0 && !last {
            return Err(FrameError::Empty);
        }
        if buffer.len() < HEADER + size {
            buffer.reserve(HEADER + size - buffer.len());
            return Ok(None);
        }
        buffer.advance(HEADER);
        Ok(Some(Self { kind, tag, last, id, body: buffer.split_to(size).freeze() }))
    }
}

fn put(out: &mut BytesMut, kind: Kind, tag: u8, last: bool, id: u32, body: &[u8]) {
    out.reserve(HEADER + body.len());
    out.put_u8(kind as u8);
    out.put_u8(if last { LAST } else { 0 });
    out.put_u8(tag);
    out.put_u8(0);
    // Bodies are cut to FRAGMENT_MAX before.
    out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.put_u32(id);
    out.put_slice(body);
}

/// A whole request, answer or probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) tag: u8,
    pub(crate) id: u32,
    pub(crate) body: Bytes,
}

/// Puts fragments together.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    partial: HashMap<u32, (Kind, u8, BytesMut)>,
}

impl Assembler {
    /// Takes a frame; gives the message that it completes.
    pub(crate) fn push(&mut self, frame: Frame) -> Result<Option<Message>, FrameError> {
        let Frame { kind, tag, last, id, body } = frame;
        if matches!(kind, Kind::Ping | Kind::Pong) {
            return Ok(Some(Message { kind, tag, id, body }));
        }
        let Some(begun) = self.partial.get_mut(&id) else {
            if last {
                return Ok(Some(Message { kind, tag, id, body }));
            }
            if self.partial.len() >= PARTIAL_MAX {
                return Err(FrameError::Partial);
            }
            self.partial.insert(id, (kind, tag, BytesMut::from(&body[..])));
            return Ok(None);
        };
        if (begun.0, begun.1) != (kind, tag) {
            return Err(FrameError::Mixed);
        }
        if begun.2.len() + body.len() > MESSAGE_MAX {
            return Err(FrameError::Message);
        }
        begun.2.extend_from_slice(&body);
        if !last {
            return Ok(None);
        }
        let whole = self.partial.remove(&id);
        Ok(whole.map(|(kind, tag, body)| Message { kind, tag, id, body: body.freeze() }))
    }
}

/// Messages on their way out; each gives a fragment in turn.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<Message>,
}

impl Outbox {
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < INTERLEAVE_MAX
    }

    pub(crate) fn push(&mut self, message: Message) {
        self.waiting.push_back(message);
    }

    /// Encodes fragments until `out` is a batch, or nothing is left.
    pub(crate) fn fill(&mut self, out: &mut BytesMut) {
        while out.len() < BATCH {
            let Some(mut message) = self.waiting.pop_front() else { return };
            let fragment = message.body.split_to(message.body.len().min(FRAGMENT_MAX));
            let last = message.body.is_empty();
            put(out, message.kind, message.tag, last, message.id, &fragment);
            if !last {
                self.waiting.push_back(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(id: u32, size: usize) -> Message {
        Message { kind: Kind::Request, tag: 1, id, body: Bytes::from(vec![id as u8; size]) }
    }

    fn read_all(bytes: &mut BytesMut, assembler: &mut Assembler) -> Result<Vec<Message>, FrameError> {
        let mut messages = Vec::new();
        while let Some(frame) = Frame::decode(bytes)? {
            messages.extend(assembler.push(frame)?);
        }
        Ok(messages)
    }

    #[test]
    fn a_small_message_overtakes_a_large_one() {
        let (mut outbox, mut bytes) = (Outbox::default(), BytesMut::new());
        outbox.push(request(1, 3 * FRAGMENT_MAX));
        outbox.push(request(2, 10));
        outbox.fill(&mut bytes);
        let messages = read_all(&mut bytes, &mut Assembler::default()).unwrap();
        assert_eq!(messages, [request(2, 10), request(1, 3 * FRAGMENT_MAX)]);
    }

    #[test]
    fn a_batch_is_bounded_so_that_a_probe_gets_in_between() {
        let (mut outbox, mut bytes) = (Outbox::default(), BytesMut::new());
        outbox.push(request(1, MESSAGE_MAX));
        outbox.fill(&mut bytes);
        assert!(bytes.len() < BATCH + FRAGMENT_MAX + HEADER, "{}", bytes.len());
    }

    #[test]
    fn messages_above_the_limit_and_too_many_unfinished_ones_are_refused() {
        let fragment = |id, tag| Frame {
            kind: Kind::Request,
            tag,
            last: false,
            id,
            body: Bytes::from(vec![0; FRAGMENT_MAX]),
        };
        let mut assembler = Assembler::default();
        let result = (0..).find_map(|_| assembler.push(fragment(1, 1)).err());
        assert_eq!(result, Some(FrameError::Message));

        let mut assembler = Assembler::default();
        let result = (0..).find_map(|id| assembler.push(fragment(id, 1)).err());
        assert_eq!(result, Some(FrameError::Partial));

        let mut assembler = Assembler::default();
        assembler.push(fragment(1, 1)).unwrap();
        assert_eq!(assembler.push(fragment(1, 2)), Err(FrameError::Mixed));
    }

    #[test]
    fn bad_headers_are_named() {
        let header = |kind: u8, flags: u8, length: u32| {
            let mut bytes = BytesMut::new();
            bytes.put_slice(&[kind, flags, 1, 0]);
            bytes.put_u32(length);
            bytes.put_u32(7);
            Frame::decode(&mut bytes)
        };
        assert_eq!(header(9, 1, 0), Err(FrameError::Kind(9)));
        assert_eq!(header(1, 2, 0), Err(FrameError::Flags));
        assert_eq!(header(1, 1, 16_384), Err(FrameError::Length(16_384)));
        assert_eq!(header(3, 1, 1), Err(FrameError::Length(1)));
        assert_eq!(header(1, 0, 0), Err(FrameError::Empty));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic_and_never_build_up(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let _ = read_all(&mut buffer, &mut Assembler::default());
            prop_assert!(buffer.len() <= bytes.len());
        }

        #[test]
        fn messages_survive_any_cut_of_the_bytes(
            sizes in prop::collection::vec(0usize..60_000, 1..8),
            cut in 1usize..5000,
        ) {
            let sent: Vec<Message> = (0u32..).zip(&sizes).map(|(id, size)| request(id, *size)).collect();
            let (mut outbox, mut bytes) = (Outbox::default(), BytesMut::new());
            sent.iter().cloned().for_each(|message| outbox.push(message));
            let (mut assembler, mut received, mut buffer) = (Assembler::default(), Vec::new(), BytesMut::new());
            loop {
                outbox.fill(&mut bytes);
                if bytes.is_empty() {
                    break;
                }
                while !bytes.is_empty() {
                    buffer.extend_from_slice(&bytes.split_to(cut.min(bytes.len())));
                    received.extend(read_all(&mut buffer, &mut assembler).unwrap());
                }
            }
            received.sort_by_key(|message| message.id);
            prop_assert_eq!(received, sent);
        }
    }
}
