//! A network namespace for the tunnels, made without privileges by a process of its own.
//!
//! Whoever makes a user namespace may do in it what takes privileges outside: make network interfaces, for one. A process
//! with threads cannot make one, so a second process does (user_namespaces(7)): it makes both namespaces and a TUN
//! interface in them, and hands its descriptor over; and later sockets, which belong to the namespace in which they were
//! made, whoever uses them. No packet passes through that process.
//!
//! Both speak in datagrams over a pair of connected sockets: a request is a byte and its arguments, an answer is a zero
//! byte with a descriptor, or a text that says why there is none.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::{
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
            sendmsg, setsockopt, socketpair, sockopt,
        },
        time::TimeVal,
    },
};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use crate::wireguard::tun;

/// Argument with which the program is started that calls [`serve_namespace`].
pub const NAMESPACE_ARGUMENT: &str = "serve-namespace";

/// Name of the interface; there is no other one in the namespace, so that it is nobody else's.
const INTERFACE: &str = "tunnels";
/// Wide enough for the network of every cluster: private networks are no wider. Nothing else is reached from there.
const MASK: Ipv4Addr = Ipv4Addr::new(255, 0, 0, 0);
/// Longest message: an answer that says why not.
const MESSAGE_MAX: usize = 512;
/// Seconds that an answer may take. It takes a millisecond; a host that is busy gets the rest.
const PATIENCE: i64 = 10;
/// Connections that wait to be accepted; the kernel refuses more.
const BACKLOG: i32 = 1024;

const OPEN: u8 = 1;
const LISTEN_TCP: u8 = 2;
const BIND_UDP: u8 = 3;

/// The process that keeps the namespace. It ends with this handle.
pub(super) struct Namespace {
    channel: Mutex<OwnedFd>,
    keeper: Mutex<Child>,
}

impl Namespace {
    /// Starts the program, which makes the namespace and the interface with this address. Blocks for some milliseconds.
    ///
    /// # Errors
    /// The program cannot be started, or says that it may not.
    pub(super) fn open(program: &Path, address: Ipv4Addr, mtu: u16) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::new(PATIENCE, 0))?;
        let mut command = Command::new(program);
        // It needs nothing of what this process was told, least of all its secret.
        command.arg(NAMESPACE_ARGUMENT).env_clear().stdin(Stdio::from(theirs)).stdout(Stdio::null());
        let keeper = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start {}: {error}", program.display()))
        })?;
        // It has to be gone here, so that the end of the process is the end of the channel.
        drop(command);
        let namespace = Self { channel: Mutex::new(ours), keeper: Mutex::new(keeper) };
        let [a, b, c, d] = address.octets();
        let [high, low] = mtu.to_be_bytes();
        let interface = namespace.ask(&[OPEN, a, b, c, d, high, low])?;
        Ok((namespace, interface))
    }

    /// A listening socket at the tunnel address. Blocks for a moment.
    ///
    /// # Errors
    /// The port cannot be had, or the process is gone.
    pub(super) fn listen_tcp(&self, port: u16) -> io::Result<std::net::TcpListener> {
        let [high, low] = port.to_be_bytes();
        Ok(self.ask(&[LISTEN_TCP, high, low])?.into())
    }

    /// A socket for datagrams at the tunnel address. Blocks for a moment.
    ///
    /// # Errors
    /// The port cannot be had, or the process is gone.
    pub(super) fn bind_udp(&self, port: u16) -> io::Result<std::net::UdpSocket> {
        let [high, low] = port.to_be_bytes();
        Ok(self.ask(&[BIND_UDP, high, low])?.into())
    }

    /// Whether the process has ended: then no further port can be opened.
    pub(super) fn is_gone(&self) -> bool {
        !matches!(self.keeper.lock().try_wait(), Ok(None))
    }

    fn ask(&self, request: &[u8]) -> io::Result<OwnedFd> {
        let channel = self.channel.lock();
        send(channel.as_fd(), request, None)?;
        let mut answer = [0; MESSAGE_MAX];
        match receive(channel.as_fd(), &mut answer)? {
            (_, Some(descriptor)) => Ok(descriptor),
            (0, None) => {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "the process that makes it has ended"))
            }
            (length, None) => Err(io::Error::other(String::from_utf8_lossy(&answer[..length]).into_owned())),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut();
        // It may have ended by itself.
        let _ = keeper.kill();
        let _ = keeper.wait();
    }
}

/// What the program does that is started with [`NAMESPACE_ARGUMENT`], until whoever started it is gone. The process has
/// to have no threads yet.
///
/// # Errors
/// Standard input is no channel of a connector.
pub fn serve_namespace() -> io::Result<()> {
    let channel = io::stdin().as_fd().try_clone_to_owned()?;
    let mut request = [0; MESSAGE_MAX];
    let mut address = Ipv4Addr::UNSPECIFIED;
    loop {
        let (length, _) = receive(channel.as_fd(), &mut request)?;
        let made = match request[..length] {
            [] => return Ok(()),
            [OPEN, a, b, c, d, high, low] => {
                address = Ipv4Addr::new(a, b, c, d);
                open(address, u16::from_be_bytes([high, low]))
            }
            [LISTEN_TCP, high, low] => {
                socket(Type::STREAM, Protocol::TCP, address, u16::from_be_bytes([high, low]))
            }
            [BIND_UDP, high, low] => {
                socket(Type::DGRAM, Protocol::UDP, address, u16::from_be_bytes([high, low]))
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        };
        match made {
            Ok(descriptor) => send(channel.as_fd(), &[0], Some(descriptor.as_fd()))?,
            Err(error) => {
                let text = error.to_string();
                send(channel.as_fd(), &text.as_bytes()[..text.len().min(MESSAGE_MAX)], None)?;
            }
        }
    }
}

fn open(address: Ipv4Addr, mtu: u16) -> io::Result<OwnedFd> {
    let told = |what: &str, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
    // The device is opened for the namespace that its user is in then, so it only has to be there.
    File::open("/dev/net/tun").map_err(|error| told("/dev/net/tun cannot be opened", error))?;
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|error| told("no user namespace may be made here", error.into()))?;
    let interface = tun::make(INTERFACE, address, MASK, mtu)
        .map_err(|error| told("no interface can be made in the user namespace", error))?;
    tun::prepare(INTERFACE);
    Ok(interface)
}

fn socket(kind: Type, protocol: Protocol, address: Ipv4Addr, port: u16) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        // A port that was open a moment ago may have connections that end.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&SocketAddr::from((address, port)).into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

fn send(channel: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let descriptors: Vec<_> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// The length of the next message, and the descriptor that came with it; length 0 = the other end is gone.
fn receive(channel: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = cmsg_space!(std::os::fd::RawFd);
    let mut slices = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = loop {
        match recvmsg::<()>(channel.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok((0, None)),
            received => break received?,
        }
    };
    let mut descriptor = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(given) = message {
            for received in given {
                descriptor = Some(tun::owned(received));
            }
        }
    }
    Ok((received.bytes, descriptor))
}
