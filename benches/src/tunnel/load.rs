//! Streams through a tunnel, and what is measured of them. The node's end always opens them, as a dialer does.
//!
//! A stream begins with what it is for and at which rate its bytes may come. The far end runs as threads on plain sockets,
//! or as tasks on the streams of our connector's end; it does the same on both.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pangolin_chaos::host::Network;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::sample::Sample;

/// Port of the far end.
pub(super) const PORT: u16 = 7777;
/// Bytes that are read and written at a time.
const BLOCK: usize = 128 * 1024;
/// Length of what a connection says and hears again.
const ECHO: usize = 64;
/// How long the far end may take to be reached at first, and to answer at last.
const PATIENCE: Duration = Duration::from_secs(30);
/// Length of what a stream begins with.
const PREFACE: usize = 9;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    NodeToSite,
    SiteToNode,
}

impl Way {
    pub(super) const ALL: [Self; 2] = [Self::NodeToSite, Self::SiteToNode];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NodeToSite => "node->site",
            Self::SiteToNode => "site->node",
        }
    }
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// The far end counts what comes and says how much it was.
    Sink,
    /// The far end sends until nobody listens.
    Source,
    /// The far end says once what it has heard.
    Echo,
}

fn preface(job: Job, bytes_per_second: u64) -> [u8; PREFACE] {
    let mut bytes = [0; PREFACE];
    bytes[0] = match job {
        Job::Sink => 1,
        Job::Source => 2,
        Job::Echo => 3,
    };
    bytes[1..].copy_from_slice(&bytes_per_second.to_be_bytes());
    bytes
}

fn understood(bytes: &[u8; PREFACE]) -> Option<(Job, u64)> {
    let [kind, rate @ ..] = *bytes;
    let job = match kind {
        1 => Job::Sink,
        2 => Job::Source,
        3 => Job::Echo,
        _ => return None,
    };
    Some((job, u64::from_be_bytes(rate)))
}

/// Keeps a stream at its rate; 0 = as fast as it goes.
struct Pace {
    began: Instant,
    bytes_per_second: u64,
    sent: u64,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { began: Instant::now(), bytes_per_second, sent: 0 }
    }

    /// How long to wait before the next block.
    fn wait(&mut self, sent: usize) -> Duration {
        self.sent += sent as u64;
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let due = Duration::from_secs_f64(self.sent as f64 / self.bytes_per_second as f64);
        due.saturating_sub(self.began.elapsed())
    }

    /// Small blocks where the rate is limited, so that they come evenly.
    fn block(&self) -> usize {
        if self.bytes_per_second == 0 { BLOCK } else { BLOCK / 8 }
    }
}

/// The far end on plain sockets. Its threads end with their streams, and this one with the process.
pub(super) fn serve(network: &Network) -> Result<()> {
    let listener = network.within(|| Ok(TcpListener::bind(("0.0.0.0", PORT))?))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A stream that fails is seen at its other end.
            std::thread::spawn(move || drop(serve_stream(stream)));
        }
    });
    Ok(())
}

fn serve_stream(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0; PREFACE];
    stream.read_exact(&mut first)?;
    let (job, rate) = understood(&first).context("not a stream of ours")?;
    let mut block = vec![0; BLOCK];
    match job {
        Job::Sink => {
            let mut count = 0_u64;
            loop {
                match stream.read(&mut block)? {
                    0 => break,
                    read => count += read as u64,
                }
            }
            stream.write_all(&count.to_be_bytes())?;
        }
        Job::Source => send(&mut stream, rate, |_| true)?,
        Job::Echo => {
            stream.read_exact(&mut block[..ECHO])?;
            stream.write_all(&block[..ECHO])?;
        }
    }
    Ok(())
}

fn send(stream: &mut TcpStream, rate: u64, mut goes_on: impl FnMut(u64) -> bool) -> std::io::Result<()> {
    let mut pace = Pace::new(rate);
    let block = vec![0; pace.block()];
    while goes_on(pace.sent) {
        stream.write_all(&block)?;
        std::thread::sleep(pace.wait(block.len()));
    }
    Ok(())
}

/// The far end on a stream of our own.
pub(super) async fn serve_flow(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<()> {
    let mut first = [0; PREFACE];
    stream.read_exact(&mut first).await?;
    let (job, rate) = understood(&first).context("not a stream of ours")?;
    let mut block = vec![0; BLOCK];
    match job {
        Job::Sink => {
            let mut count = 0_u64;
            loop {
                match stream.read(&mut block).await? {
                    0 => break,
                    read => count += read as u64,
                }
            }
            stream.write_all(&count.to_be_bytes()).await?;
            stream.shutdown().await?;
        }
        Job::Source => {
            let mut pace = Pace::new(rate);
            let block = &block[..pace.block()];
            loop {
                stream.write_all(block).await?;
                let wait = pace.wait(block.len());
                if wait > Duration::ZERO {
                    tokio::time::sleep(wait).await;
                }
            }
        }
        Job::Echo => {
            stream.read_exact(&mut block[..ECHO]).await?;
            stream.write_all(&block[..ECHO]).await?;
            stream.shutdown().await?;
        }
    }
    Ok(())
}

fn open(to: SocketAddr, job: Job, rate: u64) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&preface(job, rate))?;
    Ok(stream)
}

fn echo(to: SocketAddr) -> Result<()> {
    let mut stream = open(to, Job::Echo, 0)?;
    stream.write_all(&[7; ECHO])?;
    let mut heard = [0; ECHO];
    stream.read_exact(&mut heard)?;
    // Resets it, so that thousands of them leave no ports behind that wait.
    let socket = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &socket)?;
    Ok(())
}

/// Waits until the far end answers.
///
/// # Errors
/// It does not.
pub(super) fn reached(network: &Network, to: SocketAddr) -> Result<()> {
    network.within(move || {
        let until = Instant::now() + PATIENCE;
        loop {
            match echo(to) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= until => {
                    return Err(error.context(format!("{to} does not answer")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    })
}

/// Sends for a while, and gives the bytes that arrived and the time that they took.
///
/// # Errors
/// A stream fails.
pub(super) fn transfer(
    network: &Network,
    to: SocketAddr,
    way: Way,
    streams: usize,
    span: Duration,
    bytes_per_second: u64,
) -> Result<(u64, Duration)> {
    let rate = bytes_per_second / streams as u64;
    let began = Instant::now();
    let threads: Vec<JoinHandle<Result<u64>>> = (0..streams)
        .map(|_| network.spawn("load", move || one_stream(to, way, began + span, rate)))
        .collect::<Result<_>>()?;
    let mut bytes = 0;
    for thread in threads {
        match thread.join() {
            Ok(count) => bytes += count?,
            Err(_) => bail!("a thread of the load has panicked"),
        }
    }
    Ok((bytes, began.elapsed()))
}

fn one_stream(to: SocketAddr, way: Way, until: Instant, rate: u64) -> Result<u64> {
    match way {
        Way::NodeToSite => {
            let mut stream = open(to, Job::Sink, 0)?;
            send(&mut stream, rate, |_| Instant::now() < until)?;
            stream.shutdown(Shutdown::Write)?;
            let mut count = [0; 8];
            stream.read_exact(&mut count)?;
            Ok(u64::from_be_bytes(count))
        }
        Way::SiteToNode => {
            let mut stream = open(to, Job::Source, rate)?;
            let mut block = vec![0; BLOCK];
            let mut count = 0;
            while Instant::now() < until {
                let read = stream.read(&mut block)?;
                ensure!(read > 0, "the far end has ended the stream");
                count += read as u64;
            }
            Ok(count)
        }
    }
}

/// Opens connections one after the other, many at a time, each for one small question.
///
/// # Errors
/// A connection fails.
pub(super) fn connections(
    network: &Network,
    to: SocketAddr,
    at_a_time: usize,
    span: Duration,
) -> Result<Sample> {
    let began = Instant::now();
    let failed = Arc::new(AtomicBool::new(false));
    let threads: Vec<JoinHandle<Result<Vec<u64>>>> = (0..at_a_time)
        .map(|_| {
            let failed = Arc::clone(&failed);
            network.spawn("connections", move || {
                let mut micros = Vec::new();
                while began.elapsed() < span && !failed.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    echo(to).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                    micros.push(u64::try_from(asked.elapsed().as_micros())?);
                }
                Ok(micros)
            })
        })
        .collect::<Result<_>>()?;
    let mut micros = Vec::new();
    for thread in threads {
        match thread.join() {
            Ok(more) => micros.extend(more?),
            Err(_) => bail!("a thread of the load has panicked"),
        }
    }
    Ok(Sample::new(micros, Duration::ZERO, began.elapsed(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_survives_its_bytes() {
        for job in [Job::Sink, Job::Source, Job::Echo] {
            assert_eq!(understood(&preface(job, 25_000_000)), Some((job, 25_000_000)));
        }
        assert_eq!(understood(&[9; PREFACE]), None);
    }

    #[test]
    fn both_far_ends_do_what_a_stream_asks_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for (index, stream) in listener.incoming().flatten().enumerate() {
                if index % 2 == 0 {
                    drop(serve_stream(stream));
                } else {
                    runtime.block_on(async {
                        stream.set_nonblocking(true).unwrap();
                        drop(serve_flow(tokio::net::TcpStream::from_std(stream).unwrap()).await);
                    });
                }
            }
        });
        for _ in 0..2 {
            echo(to).unwrap();
        }
        for way in [Way::NodeToSite, Way::NodeToSite, Way::SiteToNode, Way::SiteToNode] {
            let until = Instant::now() + Duration::from_millis(100);
            assert!(one_stream(to, way, until, 10_000_000).unwrap() > 0, "{way:?}");
        }
    }
}
