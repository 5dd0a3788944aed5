//! Sending datagrams: what goes to one place in pieces of one length leaves in one system call.
//!
//! The kernel cuts such a run into datagrams as late as it can (`UDP_SEGMENT`, udp(7)), mostly behind the last queue, so
//! that it costs about as much as one. Where the way out cannot do that, datagrams are sent one by one from then on.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use gotatun::{
    packet::Packet,
    udp::{UdpSend, socket::UdpSocket},
};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg},
};
use tokio::io::Interest;

/// Most datagrams in a run: what every kernel takes that knows of it (`UDP_MAX_SEGMENTS`, linux/udp.h).
const RUN_MAX: usize = 64;
/// Most bytes in a run: the longest datagram there is, without its headers.
const RUN_BYTES: usize = 65_000;

/// The sending side of a socket.
#[derive(Clone)]
pub(crate) struct Sender {
    socket: UdpSocket,
    /// The kernel, or the way out, does not segment.
    one_by_one: Arc<AtomicBool>,
}

impl Sender {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self { socket, one_by_one: Arc::default() }
    }

    async fn send_run(&self, packets: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let Some((first, to)) = packets.first() else { return Ok(()) };
        let size = u16::try_from(first.len()).map_err(|_| Errno::EMSGSIZE)?;
        let slices: Vec<IoSlice<'_>> = packets.iter().map(|(packet, _)| IoSlice::new(packet)).collect();
        let (socket, to) = (self.socket.socket(), SockaddrStorage::from(*to));
        socket.async_io(Interest::WRITABLE, || send_segmented(socket.as_raw_fd(), &slices, size, &to)).await
    }

    async fn send_singly(&self, packets: &[(Packet, SocketAddr)]) {
        for (packet, to) in packets {
            // What cannot be sent is lost, as on any network; the others may go another way.
            if let Err(error) = self.socket.socket().send_to(packet, to).await {
                tracing::trace!(%to, %error, "a datagram is not sent");
            }
        }
    }
}

fn send_segmented(socket: RawFd, slices: &[IoSlice<'_>], size: u16, to: &SockaddrStorage) -> io::Result<()> {
    let segments = [ControlMessage::UdpGsoSegments(&size)];
    sendmsg(socket, slices, &segments, MsgFlags::MSG_DONTWAIT, Some(to))?;
    Ok(())
}

impl UdpSend for Sender {
    type SendManyBuf = <UdpSocket as UdpSend>::SendManyBuf;

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.socket.send_to(packet, destination).await
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        self.socket.max_number_of_packets_to_send()
    }

    async fn send_many_to(
        &self,
        buffer: &mut Self::SendManyBuf,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let all: Vec<(usize, SocketAddr)> = packets.iter().map(|(packet, to)| (packet.len(), *to)).collect();
        let runs = runs(&all);
        if self.one_by_one.load(Ordering::Relaxed) || runs.iter().all(|length| *length == 1) {
            return self.socket.send_many_to(buffer, packets).await;
        }
        let mut rest = &packets[..];
        for length in runs {
            let (run, behind) = rest.split_at(length);
            rest = behind;
            if length == 1 {
                self.send_singly(run).await;
            } else if let Err(error) = self.send_run(run).await {
                if segments_never(&error) && !self.one_by_one.swap(true, Ordering::Relaxed) {
                    tracing::info!(%error, "WireGuard datagrams leave one by one: they cannot be segmented here");
                }
                self.send_singly(run).await;
            }
        }
        packets.clear();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        UdpSocket::local_addr(&self.socket).map(Some)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_fwmark(mark)
    }
}

/// Whether an error says that it will not do next time either: the interface cannot (`EIO`), or the kernel does not know
/// of it. Others concern one destination, such as a path with a smaller MTU.
fn segments_never(error: &io::Error) -> bool {
    let never = [Errno::EIO, Errno::EOPNOTSUPP, Errno::ENOPROTOOPT].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|errno| never.contains(&errno))
}

/// How many of these datagrams, by length and destination, leave together each time: all have the length of the first
/// but the last, which may be shorter.
fn runs(datagrams: &[(usize, SocketAddr)]) -> Vec<usize> {
    let mut runs = Vec::new();
    let mut rest = datagrams;
    while let Some((first, to)) = rest.first() {
        let mut length = 1;
        while let Some((next, also_to)) = rest.get(length) {
            let fits = length < RUN_MAX && length * first + next <= RUN_BYTES;
            if also_to != to || next > first || !fits {
                break;
            }
            length += 1;
            if next < first {
                break;
            }
        }
        runs.push(length);
        rest = &rest[length..];
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_one_length_and_one_destination_leaves_together() {
        type Case = (&'static str, Vec<(usize, SocketAddr)>, Vec<usize>);
        let to = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let (one, two) = (to(1), to(2));
        let cases: [Case; 7] = [
            ("nothing", vec![], vec![]),
            ("one", vec![(100, one)], vec![1]),
            ("three and a short one", vec![(100, one), (100, one), (100, one), (40, one)], vec![4]),
            ("nothing follows a short one", vec![(100, one), (40, one), (40, one)], vec![2, 1]),
            ("a longer one", vec![(40, one), (100, one), (100, one)], vec![1, 2]),
            ("another destination", vec![(100, one), (100, two), (100, two)], vec![1, 2]),
            ("as many as a run takes", vec![(100, one); 100], vec![64, 36]),
        ];
        for (name, datagrams, expected) in cases {
            assert_eq!(runs(&datagrams), expected, "{name}");
        }
        assert_eq!(runs(&vec![(1312, one); 60]), [49, 11], "as long as a run may be");
    }

    #[tokio::test]
    async fn a_run_arrives_as_the_datagrams_that_it_is() {
        let receiver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let to = receiver.local_addr().unwrap();
        let socket =
            UdpSocket::bind("127.0.0.1:0".parse().unwrap(), gotatun::udp::socket::SockOpt::default());
        let sender = Sender::new(socket.unwrap());
        let sent: Vec<Vec<u8>> =
            (1..=9_u8).map(|number| vec![number; if number == 9 { 10 } else { 1000 }]).collect();
        let mut packets = sent.iter().map(|bytes| (Packet::copy_from(&bytes[..]), to)).collect();
        sender.send_many_to(&mut Default::default(), &mut packets).await.unwrap();
        assert!(packets.is_empty());
        let mut buffer = [0; 2000];
        for expected in sent {
            let length = receiver.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], expected);
        }
    }
}
