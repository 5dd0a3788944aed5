//! DNS over TCP (RFC 7766): pipelined queries, answered in order; hard limits on connections, time and bytes.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Context, Outcome, Transport, answer,
    counters::Tally,
    network::Network,
    request::HEADER,
    server::{Limits, Shared},
    transfer::asks_for_transfer,
    udp::seconds,
};

/// Longest query by TCP; the rest of the 64 KiB is for answers.
const QUERY_MAX: usize = 4096;
/// How long a message may take from its first byte to its last.
const MESSAGE_TIME: Duration = Duration::from_secs(5);
/// How long the client may take to accept a batch of answers.
const WRITE_TIME: Duration = Duration::from_secs(5);
/// Bytes of answers that are collected before they are written.
const OUTPUT_HIGH: usize = 16 << 10;
/// Rest after the system refused to accept (no descriptors, no memory).
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Bytes of the length in front of a message.
const PREFIX: usize = 2;

/// Accepts connections until shutdown.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    connections: TaskTracker,
) {
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                complained = false;
                accept(stream, client, &shared, &shutdown, &connections);
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                if !complained {
                    tracing::warn!(%error, "DNS over TCP cannot accept connections; raise the limit on open files");
                    complained = true;
                }
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Whether the error ends the connection that was to be accepted and says nothing about the listener (accept(2)).
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::ConnectionRefused
            | K::Interrupted
            | K::TimedOut
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::NetworkDown
            | K::PermissionDenied
    )
}

fn accept(
    stream: TcpStream,
    client: SocketAddr,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
    connections: &TaskTracker,
) {
    let mut tally = Tally::default();
    let network = Network::of(client.ip());
    if !shared.slots.take(network, &shared.limits) {
        tally.tcp_refused += 1;
        shared.counters.add(&mut tally);
        return;
    }
    let slot = Slot { network, shared: Arc::clone(shared) };
    shared.counters.tcp_open.fetch_add(1, Ordering::Relaxed);
    tally.tcp_connections += 1;
    shared.counters.add(&mut tally);
    let shutdown = shutdown.clone();
    connections.spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = converse(stream, client.ip(), &slot.shared) => {}
        }
    });
}

/// Connections open now, in all and by network.
#[derive(Default)]
pub(crate) struct Slots(Mutex<(usize, HashMap<Network, usize>)>);

impl Slots {
    fn take(&self, network: Network, limits: &Limits) -> bool {
        let (all, by_network) = &mut *self.0.lock();
        let of_network = by_network.get(&network).copied().unwrap_or(0);
        if *all >= limits.tcp_connections || of_network >= limits.tcp_connections_per_network {
            return false;
        }
        *all += 1;
        by_network.insert(network, of_network + 1);
        true
    }

    fn give_back(&self, network: Network) {
        let (all, by_network) = &mut *self.0.lock();
        *all = all.saturating_sub(1);
        if let Some(count) = by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                by_network.remove(&network);
            }
        }
    }

    fn open(&self) -> usize {
        self.0.lock().0
    }
}

/// A connection's place among the allowed ones, given back when it ends in any way.
struct Slot {
    network: Network,
    shared: Arc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.slots.give_back(self.network);
        self.shared.counters.tcp_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a connection is ended by us.
struct Cut;

/// One client, from its first query to the end.
async fn converse(mut stream: TcpStream, client: IpAddr, shared: &Shared) {
    // Answers are collected here, so that waiting for more to collect in the kernel only costs time.
    let _ = stream.set_nodelay(true);
    let mut conversation =
        Conversation { client, shared, left: shared.limits.tcp_queries, tally: Tally::default() };
    if conversation.run(&mut stream).await.is_err() {
        conversation.tally.tcp_cut += 1;
    }
    shared.counters.add(&mut conversation.tally);
    let _ = timeout(WRITE_TIME, stream.shutdown()).await;
}

struct Conversation<'a> {
    client: IpAddr,
    shared: &'a Shared,
    /// Queries that are still answered.
    left: usize,
    tally: Tally,
}

impl Conversation<'_> {
    /// Returns when the client is done, or the connection is broken, or it must be cut.
    async fn run(&mut self, stream: &mut TcpStream) -> Result<(), Cut> {
        let mut input = BytesMut::new();
        let mut output = Vec::new();
        loop {
            let end = self.answer(&mut input, &mut output);
            if !output.is_empty() {
                match timeout(WRITE_TIME, stream.write_all(&output)).await {
                    Ok(Ok(())) => output.clear(),
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => return Err(Cut),
                }
                // A big answer is rare; its memory is not kept for the rest of the connection.
                output.shrink_to(OUTPUT_HIGH);
            }
            match end {
                End::Cut => return Err(Cut),
                End::Flush => {}
                End::Read => {
                    if !read(stream, &mut input, self.idle()).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Answers the whole messages in `input` until there is none, or enough to write.
    fn answer(&mut self, input: &mut BytesMut, output: &mut Vec<u8>) -> End {
        let store = self.shared.store.load();
        let policy = self.shared.policy.load();
        let context = self.shared.context(&policy, seconds(), Transport::Tcp, self.client);
        let mut reply = Vec::new();
        let end = loop {
            let Some(length) = input.first_chunk::<PREFIX>().map(|p| usize::from(u16::from_be_bytes(*p)))
            else {
                break End::Read;
            };
            if !(HEADER..=QUERY_MAX).contains(&length) || self.left == 0 {
                break End::Cut;
            }
            if input.len() < PREFIX + length {
                break End::Read;
            }
            self.left -= 1;
            self.tally.tcp_queries += 1;
            let message = &input[PREFIX..PREFIX + length];
            if let Some(messages) = self.transfer(&context, message) {
                for message in messages {
                    append(output, &message);
                }
                input.advance(PREFIX + length);
                break End::Flush;
            }
            let signed = self.shared.transfers.load().answer_signed(&store, &context, message, &mut reply);
            let outcome = signed.unwrap_or_else(|| answer(&store, &context, message, &mut reply));
            input.advance(PREFIX + length);
            match outcome {
                // A reply: the client is no client.
                Outcome::Dropped => {
                    self.tally.dropped += 1;
                    break End::Cut;
                }
                Outcome::Answered(answered) => {
                    self.tally.answered(&answered);
                    append(output, &reply);
                }
            }
            if output.len() >= OUTPUT_HIGH {
                break End::Flush;
            }
        };
        self.shared.counters.add(&mut self.tally);
        if self.left == 0 { End::Cut } else { end }
    }

    /// The messages of a transfer, if that is what is asked for.
    fn transfer(&self, context: &Context<'_>, message: &[u8]) -> Option<Vec<Vec<u8>>> {
        if !asks_for_transfer(message) {
            return None;
        }
        self.shared.transfers.load().answer_transfer(context, message)
    }

    fn idle(&self) -> Duration {
        let limits = &self.shared.limits;
        let crowded = self.shared.slots.open() > limits.tcp_connections / 2;
        if crowded { limits.tcp_idle / 5 } else { limits.tcp_idle }
    }
}

/// Puts a message behind the others, with its length in front. A message has 65535 bytes at most.
fn append(output: &mut Vec<u8>, message: &[u8]) {
    output.extend_from_slice(&(message.len() as u16).to_be_bytes());
    output.extend_from_slice(message);
}

/// Why answering stopped.
enum End {
    /// The next message is not there yet.
    Read,
    /// There is enough to write.
    Flush,
    /// The connection has to end.
    Cut,
}

/// Reads until `input` has another whole message or its length; false if the client is gone.
async fn read(stream: &mut TcpStream, input: &mut BytesMut, idle: Duration) -> Result<bool, Cut> {
    let deadline = |begun: bool| Instant::now() + if begun { MESSAGE_TIME } else { idle };
    let mut begun = !input.is_empty();
    let mut until = deadline(begun);
    loop {
        input.reserve(PREFIX + QUERY_MAX - input.len().min(QUERY_MAX));
        match timeout_at(until, stream.read_buf(input)).await {
            Err(_) => return Err(Cut),
            Ok(Err(_)) => return Ok(false),
            // The end in the middle of a message is no use to anybody.
            Ok(Ok(0)) => return Ok(false),
            Ok(Ok(_)) => {}
        }
        if !begun {
            begun = true;
            until = deadline(true);
        }
        // A bad length is judged by the caller, before the rest of it comes.
        let wanted = input.first_chunk::<PREFIX>().map(|p| usize::from(u16::from_be_bytes(*p)));
        if wanted.is_some_and(|n| input.len() >= PREFIX + n || !(HEADER..=QUERY_MAX).contains(&n)) {
            return Ok(true);
        }
    }
}
