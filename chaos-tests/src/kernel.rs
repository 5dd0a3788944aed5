//! The system calls of the test bed that no crate here has a safe form for: the one door to unsafe code, besides
//! what children do between fork and exec.

#![expect(unsafe_code, reason = "namespaces, mounts and raw links are reached by system calls alone")]

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    time::Duration,
};

/// Every protocol, in network byte order, as packet sockets want it (packet(7)).
const EVERY_PROTOCOL: u16 = (libc::ETH_P_ALL as u16).to_be();
/// Length of an interface's name with its closing zero (netdevice(7)).
const NAME_SIZE: usize = libc::IFNAMSIZ;
/// `TUNSETIFF` (linux/if_tun.h): the crate has no name for it.
const TUN_SET_INTERFACE: libc::Ioctl = 0x4004_54ca;

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a network namespace. It lives as long as the handle, and the processes and sockets in it.
///
/// # Errors
/// This process may not (it is not root).
pub(crate) fn new_network() -> io::Result<File> {
    let made = std::thread::spawn(|| {
        // SAFETY: takes a number, and changes this thread alone, which ends below.
        checked(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        File::open("/proc/thread-self/ns/net")
    });
    made.join().map_err(|_| io::Error::other("the thread that makes a namespace has panicked"))?
}

/// Puts the calling thread into a network namespace: what it opens from now on is there. Makes one system call and
/// touches no memory, so that it may stand between fork and exec.
///
/// # Errors
/// This process may not.
pub(crate) fn enter_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed.
    checked(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(|_| ())
}

/// Gives the calling thread, and all threads and children that it starts, mounts of their own: what is mounted later
/// is seen by no other process, and is gone with the last of these.
///
/// # Errors
/// This process may not.
pub(crate) fn own_mounts() -> io::Result<()> {
    // SAFETY: takes a number, and changes this thread alone.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let (none, root) = (std::ptr::null(), c"/".as_ptr());
    // SAFETY: the one string ends in a zero; the others are left out, as mount(2) allows for a change of propagation.
    checked(unsafe { libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) })
        .map(|_| ())
}

/// Mounts a file system in memory that holds at most `bytes`.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn mount_memory(at: &Path, bytes: u64) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    let options = CString::new(format!("size={bytes},mode=0700"))?;
    let kind = c"tmpfs".as_ptr();
    // SAFETY: every string ends in a zero and outlives the call.
    checked(unsafe { libc::mount(kind, at.as_ptr(), kind, libc::MS_NOSUID, options.as_ptr().cast()) })
        .map(|_| ())
}

/// Takes a file system away, also while files on it are open.
///
/// # Errors
/// Nothing is mounted there.
pub(crate) fn unmount(at: &Path) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: the string ends in a zero and outlives the call.
    checked(unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) }).map(|_| ())
}

/// Opens a socket in the calling thread's namespace that gets every frame which arrives at an interface, and puts
/// frames on it. Each is preceded by a virtio header, in which the kernel says what of checksums and segmentation it
/// has left to do: given back as it came, frames of any size pass unharmed.
///
/// # Errors
/// There is no such interface, or this process may not.
pub(crate) fn raw_link(interface: &str) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: the string ends in a zero and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let index = i32::try_from(index).ok().filter(|index| *index > 0).ok_or_else(io::Error::last_os_error)?;
    // Protocol 0: nothing arrives before the socket is bound to its interface.
    // SAFETY: takes numbers.
    let fd = checked(unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: it has just been opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20)?;
    // SAFETY: a structure of plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = EVERY_PROTOCOL;
    address.sll_ifindex = index;
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is one of its family, and its length is given.
    checked(unsafe { libc::bind(fd, (&raw const address).cast(), size) })?;
    Ok(socket)
}

fn set(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is a number of the length that is given.
    checked(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) })
        .map(|_| ())
}

/// Makes an interface in the calling thread's namespace whose frames this process reads and writes, each behind a
/// virtio header as in [`raw_link`]. It is gone with the handle.
///
/// # Errors
/// The name is taken, or this process may not.
pub(crate) fn tap(interface: &str) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    if interface.len() >= NAME_SIZE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interface's name is too long"));
    }
    // SAFETY: a structure of plain numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the request is what this call takes, and outlives it.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), TUN_SET_INTERFACE, &raw mut request) })?;
    let fd = OwnedFd::from(device);
    // SAFETY: takes numbers, and a descriptor that is open.
    checked(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(fd)
}

/// Waits until one of these can be read, at most this long, and says which.
///
/// # Errors
/// The kernel was interrupted, or refuses.
pub(crate) fn wait_readable<const N: usize>(
    all: [BorrowedFd<'_>; N],
    patience: Duration,
) -> io::Result<[bool; N]> {
    let mut polled = all.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    // Rounded up: who wakes a little before the time would come back again and again until then.
    let timeout = libc::c_int::try_from(patience.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX);
    // SAFETY: the array is as long as is said, and outlives the call.
    checked(unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) })?;
    Ok(polled.map(|one| one.revents & libc::POLLIN != 0))
}
