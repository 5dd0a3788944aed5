//! Questions by UDP from one thread: as many at a time as the window has, or so many a second.

use std::{
    io::{ErrorKind, IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use super::zone;
use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Datagrams for one call of the system.
const BATCH: usize = 64;
/// An answer that is this late is lost.
const LOST: Duration = Duration::from_millis(200);
/// Longest reply.
const REPLY: usize = 1500;
/// Ids that are told apart: an answer belongs to the latest question with its id.
const IDS: usize = 1 << 16;

/// What came of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ran {
    pub(crate) answers: u64,
    pub(crate) lost: u64,
    /// Replies with an error code, or without the response bit.
    pub(crate) wrong: u64,
    pub(crate) took: Duration,
    pub(crate) p99_us: f64,
}

struct Generator<'a> {
    socket: UdpSocket,
    questions: &'a [Vec<u8>],
    next: usize,
    /// When the question with each id was sent; none = no question is under way.
    sent: Vec<Option<Instant>>,
    under_way: usize,
    waited: Vec<u32>,
    out: Vec<Vec<u8>>,
    input: Vec<[u8; REPLY]>,
    out_headers: MultiHeaders<SockaddrIn>,
    in_headers: MultiHeaders<SockaddrIn>,
    ran: Ran,
}

impl<'a> Generator<'a> {
    fn new(server: SocketAddr, questions: &'a [Vec<u8>]) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("a port")?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            questions,
            next: 0,
            sent: vec![None; IDS],
            under_way: 0,
            waited: Vec::new(),
            out: vec![Vec::new(); BATCH],
            input: vec![[0; REPLY]; BATCH],
            out_headers: MultiHeaders::preallocate(BATCH, None),
            in_headers: MultiHeaders::preallocate(BATCH, None),
            ran: Ran::default(),
        })
    }

    /// Sends so many questions, a batch at most.
    fn send(&mut self, count: usize) -> Result<()> {
        let count = count.min(BATCH);
        let now = Instant::now();
        for out in &mut self.out[..count] {
            let id = self.next % IDS;
            if self.sent[id].replace(now).is_some() {
                self.ran.lost += 1;
                self.under_way -= 1;
            }
            out.clear();
            out.extend_from_slice(&self.questions[self.next % self.questions.len()]);
            out[..2].copy_from_slice(&(id as u16).to_be_bytes());
            self.next += 1;
        }
        self.under_way += count;
        let slices: Vec<[IoSlice<'_>; 1]> = self.out[..count].iter().map(|out| [IoSlice::new(out)]).collect();
        let addresses = vec![None::<SockaddrIn>; count];
        let mut done = 0;
        while done < count {
            let fd = self.socket.as_raw_fd();
            let flags = MsgFlags::empty();
            match sendmmsg(fd, &mut self.out_headers, slices[done..].iter(), &addresses[done..], [], flags) {
                Ok(sent) => done += sent.count(),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(error) => bail!("questions cannot be sent: {error}"),
            }
        }
        Ok(())
    }

    /// Takes the answers that are there.
    fn receive(&mut self) -> Result<usize> {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.input.iter_mut().map(|input| [IoSliceMut::new(input)]).collect();
        let fd = self.socket.as_raw_fd();
        let taken = match recvmmsg(fd, &mut self.in_headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)
        {
            Ok(messages) => messages.map(|message| message.bytes).collect::<Vec<usize>>(),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(0),
            Err(error) => bail!("answers cannot be received: {error}"),
        };
        let now = Instant::now();
        for (input, length) in self.input.iter().zip(&taken) {
            let id = usize::from(u16::from_be_bytes([input[0], input[1]]));
            let Some(sent) = self.sent[id].take() else { continue };
            self.under_way -= 1;
            self.ran.answers += 1;
            // QR is set, and the code says NOERROR or NXDOMAIN.
            let sound = *length >= 12 && input[2] & 0x80 != 0 && matches!(input[3] & 0x0f, 0 | 3);
            self.ran.wrong += u64::from(!sound);
            self.waited.push(u32::try_from((now - sent).as_micros()).unwrap_or(u32::MAX));
        }
        Ok(taken.len())
    }

    /// Gives up on questions that were sent long ago.
    fn give_up(&mut self) {
        let now = Instant::now();
        for sent in &mut self.sent {
            if sent.is_some_and(|sent| now - sent > LOST) {
                *sent = None;
                self.under_way -= 1;
                self.ran.lost += 1;
            }
        }
    }

    fn end(mut self, began: Instant) -> Ran {
        self.ran.took = began.elapsed();
        self.waited.sort_unstable();
        let at = self.waited.len() * 99 / 100;
        self.ran.p99_us = self.waited.get(at).map_or(f64::NAN, |waited| f64::from(*waited));
        self.ran
    }
}

/// Asks until the server answers; the questions again, with the server's cookie if it gives one.
pub(crate) fn warm(server: SocketAddr, questions: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let end = Instant::now() + Duration::from_secs(60);
    let mut reply = [0; REPLY];
    while Instant::now() < end {
        match socket.send(&questions[0]).and_then(|_| socket.recv(&mut reply)) {
            // BADCOOKIE is an answer as well: it brings the cookie.
            Ok(length) if length >= 12 && matches!(reply[3] & 0x0f, 0 | 7) => {
                return Ok(zone::with_cookie(questions, &reply[..length]));
            }
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) => {
                return Err(error.into());
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    bail!("{server} does not answer")
}

/// As fast as it goes, with so many questions under way.
pub(crate) fn closed(
    server: SocketAddr,
    questions: &[Vec<u8>],
    window: usize,
    span: Duration,
) -> Result<Ran> {
    let mut generator = Generator::new(server, questions)?;
    let began = Instant::now();
    let mut heard = began;
    while began.elapsed() < span {
        if generator.under_way < window {
            generator.send(window - generator.under_way)?;
        }
        if generator.receive()? > 0 {
            heard = Instant::now();
        } else if heard.elapsed() > LOST {
            generator.give_up();
            heard = Instant::now();
        }
    }
    Ok(generator.end(began))
}

/// So many questions a second, whatever comes back.
pub(crate) fn paced(server: SocketAddr, questions: &[Vec<u8>], rate: u32, span: Duration) -> Result<Ran> {
    let mut generator = Generator::new(server, questions)?;
    let began = Instant::now();
    let mut sent = 0_u64;
    while began.elapsed() < span {
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        if due > sent {
            let count = (due - sent).min(BATCH as u64);
            generator.send(count as usize)?;
            sent += count;
        }
        generator.receive()?;
    }
    std::thread::sleep(Duration::from_millis(50));
    while generator.receive()? > 0 {}
    generator.ran.lost += generator.under_way as u64;
    Ok(generator.end(began))
}
