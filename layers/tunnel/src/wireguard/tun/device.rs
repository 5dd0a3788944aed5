//! Making the interface: the one door of this crate to unsafe code.

#![expect(unsafe_code, reason = "offloads are set by a system call that no crate here has a safe form for")]

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd},
};

use gotatun::tun::tun::{self, Configuration};
use tokio::io::unix::AsyncFd;

/// `TUNSETOFFLOAD` is number 208 of the type `T` (linux/if_tun.h).
mod call {
    nix::ioctl_write_int!(set_offload, b'T', 208);
}

/// Checksums may be left to us, and the segments of TCP over IPv4 (linux/if_tun.h). Datagrams are not merged: what
/// wants to know of single datagrams is what uses them.
const OFFLOADS: u64 = 0x01 | 0x02;

/// Makes an interface that exchanges frames behind a virtio header, up, with this address.
pub(crate) fn make(name: &str, address: Ipv4Addr, mask: Ipv4Addr, mtu: u16) -> io::Result<OwnedFd> {
    let mut config = Configuration::default();
    // The address carries the prefix of the network, which makes the kernel add the route.
    config.tun_name(name).address(address).netmask(mask).mtu(mtu).up();
    config.platform_config(|platform| {
        platform.vnet_hdr(true);
    });
    let device = tun::create(&config).map_err(io_error)?;
    device.set_nonblock()?;
    // SAFETY: the descriptor is that of an open TUN device, and the argument is a number.
    unsafe { call::set_offload(device.as_raw_fd(), OFFLOADS) }?;
    Ok(owned(device.into_raw_fd()))
}

/// Takes a descriptor over that was given up by its owner, or has just been received.
pub(crate) fn owned(descriptor: RawFd) -> OwnedFd {
    // SAFETY: both callers have it from who gave it up, and nobody else closes it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// The device, whose readiness the runtime knows.
pub(super) fn watched(device: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and the same, until it is dropped with what is made of it here.
    Ok(unsafe { AsyncFd::register(device) }?)
}

fn io_error(error: tun::Error) -> io::Error {
    match error {
        tun::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
