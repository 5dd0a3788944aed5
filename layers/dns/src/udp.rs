//! The UDP loop: one thread, one socket, many datagrams per system call.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg},
};
use socket2::Socket;

use crate::{
    Answered, Context, Outcome, Transport, answer, counters::Tally, limit::Verdict, reply::slip,
    server::Shared,
};

/// Datagrams per system call: beyond this the calls are no longer what costs.
const BATCH: usize = 32;
/// Longest query by UDP; real ones stay far below. Longer datagrams are dropped.
const QUERY_MAX: usize = 4096;
/// Receive errors in a row after which the socket is given up.
const ERRORS_MAX: u32 = 100;
/// Rest after a receive error, so that a lasting one does not take the core.
const ERROR_REST: Duration = Duration::from_millis(10);

type Headers = MultiHeaders<SockaddrStorage>;

/// Answers what comes in on `socket` until shutdown.
pub(crate) fn serve(socket: &Socket, shared: &Shared) -> Result<(), Errno> {
    let mut batch = Batch::new();
    let mut errors = 0;
    while !shared.is_stopping() {
        match batch.receive(socket, shared) {
            Ok(received) => {
                errors = 0;
                batch.answer(received, shared);
                batch.send(socket);
                shared.counters.add(&mut batch.tally);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                errors += 1;
                if errors >= ERRORS_MAX {
                    return Err(error);
                }
                thread::sleep(ERROR_REST);
            }
        }
    }
    Ok(())
}

/// A datagram that was received.
#[derive(Clone, Copy)]
struct Received {
    length: usize,
    from: Option<SockaddrStorage>,
    whole: bool,
}

struct Batch {
    queries: Vec<[u8; QUERY_MAX]>,
    received: [Received; BATCH],
    in_headers: Headers,
    replies: Vec<Vec<u8>>,
    to: Vec<Option<SockaddrStorage>>,
    out_headers: Headers,
    tally: Tally,
}

impl Batch {
    fn new() -> Self {
        Self {
            queries: vec![[0; QUERY_MAX]; BATCH],
            received: [Received { length: 0, from: None, whole: false }; BATCH],
            in_headers: Headers::preallocate(BATCH, None),
            replies: vec![Vec::new(); BATCH],
            to: Vec::with_capacity(BATCH),
            out_headers: Headers::preallocate(BATCH, None),
            tally: Tally::default(),
        }
    }

    /// Waits for the first datagram and takes those that are there with it.
    fn receive(&mut self, socket: &Socket, shared: &Shared) -> Result<usize, Errno> {
        let mut slices: Vec<_> = self.queries.iter_mut().map(|query| [IoSliceMut::new(query)]).collect();
        let results = recvmmsg(
            socket.as_raw_fd(),
            &mut self.in_headers,
            slices.iter_mut(),
            MsgFlags::MSG_WAITFORONE,
            None,
        )?;
        if shared.is_stopping() {
            // A socket that is shut down yields empty messages from nobody.
            return Ok(0);
        }
        let mut count = 0;
        for (slot, message) in self.received.iter_mut().zip(results) {
            *slot = Received {
                length: message.bytes,
                from: message.address,
                whole: !message.flags.contains(MsgFlags::MSG_TRUNC),
            };
            count += 1;
        }
        Ok(count)
    }

    /// Puts the replies that are due, in order, at the front of `replies` and their receivers into `to`.
    fn answer(&mut self, received: usize, shared: &Shared) {
        self.to.clear();
        self.tally.udp_queries += received as u64;
        let store = shared.store.load();
        let transfers = shared.transfers.load();
        let now = Instant::now();
        let policy = shared.policy.load();
        let mut context =
            shared.context(&policy, seconds(), Transport::Udp, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        for (query, received) in self.queries.iter().zip(&self.received[..received]) {
            let sender =
                received.from.filter(|_| received.whole).and_then(|from| Some((from, address(&from)?)));
            let Some((from, client)) = sender else {
                self.tally.dropped += 1;
                continue;
            };
            context.client = client;
            let reply = &mut self.replies[self.to.len()];
            let query = &query[..received.length];
            let signed = transfers.answer_signed(&store, &context, query, reply);
            match signed.unwrap_or_else(|| answer(&store, &context, query, reply)) {
                Outcome::Dropped => self.tally.dropped += 1,
                Outcome::Answered(answered) => {
                    self.tally.answered(&answered);
                    if within_limit(shared, &context, &answered, now, reply, &mut self.tally) {
                        self.to.push(Some(from));
                    }
                }
            }
        }
    }

    /// Sends the replies. One that the system refuses (no route, a firewall) is given up, the others go on. When the
    /// send queue stays full, all are given up: clients ask again, and the queue needs rest.
    fn send(&mut self, socket: &Socket) {
        let mut sent = 0;
        while sent < self.to.len() {
            let due = sent..self.to.len();
            let slices: Vec<_> = self.replies[due.clone()].iter().map(|r| [IoSlice::new(r)]).collect();
            let result = sendmmsg(
                socket.as_raw_fd(),
                &mut self.out_headers,
                slices.iter(),
                &self.to[due],
                [],
                MsgFlags::empty(),
            );
            match result.map(Iterator::count) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.tally.send_failures += (self.to.len() - sent) as u64;
                    return;
                }
                Ok(0) | Err(_) => {
                    self.tally.send_failures += 1;
                    sent += 1;
                }
                Ok(count) => sent += count,
            }
        }
    }
}

/// Whether the reply is to be sent; beyond the limit it may have been cut down.
fn within_limit(
    shared: &Shared,
    context: &Context<'_>,
    answered: &Answered,
    now: Instant,
    reply: &mut Vec<u8>,
    tally: &mut Tally,
) -> bool {
    let verdict = match &shared.limiter {
        Some(limiter) if !answered.cookie_valid => limiter.check(context.client, now),
        _ => Verdict::Send,
    };
    match verdict {
        Verdict::Send => {}
        Verdict::Slip => {
            slip(reply, answered.question_end);
            tally.slipped += 1;
        }
        Verdict::Drop => tally.limited += 1,
    }
    verdict != Verdict::Drop
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = from.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    from.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

/// Seconds since 1970, folded to 32 bits as RFC 9018 wants them.
pub(crate) fn seconds() -> u32 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs() as u32)
}
