//! TUN interfaces, through which large pieces of a TCP stream pass in one system call.
//!
//! The kernel hands over what it has not segmented yet (`IFF_VNET_HDR` and `TUNSETOFFLOAD`, linux/if_tun.h): up to
//! 64 KiB of a stream behind one header, which [`split`] makes into packets that fit the tunnel. In the other direction
//! [`merge`] puts consecutive packets of a stream back together, so that the kernel's TCP handles one instead of fifty.

mod device;
mod frame;
mod merge;
mod split;

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use gotatun::{
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
};
use ipnet::Ipv4Net;
use nix::{errno::Errno, sys::uio::writev, unistd::read};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};

use self::device::watched;
pub(crate) use self::device::{make, owned};
#[cfg(any(test, fuzzing))]
pub(crate) use self::merge::merge_bytes;
use self::{frame::FRAME_HEADER, merge::merge, split::split};
use super::Gate;
use crate::error::TunnelError;

/// Longest frame that the kernel hands over: the longest IP packet behind its header.
const FRAME_MAX: usize = FRAME_HEADER + 65_535;
/// Packets on their way to the kernel: as many as the WireGuard device may have decrypted ahead.
const TO_KERNEL: usize = 1024;
/// Packets that are looked at together for what can be merged: four full pieces of 64 KiB at the usual MTU.
const BATCH: usize = 256;

/// Makes the interface, up, with the node's tunnel address and the route to the tunnel network. It goes away with
/// the process, however that ends. Of what comes out of the tunnels, only what the gate lets pass gets there.
pub(crate) fn open_tun(
    name: &str,
    address: Ipv4Addr,
    network: Ipv4Net,
    mtu: u16,
    gate: Arc<Gate>,
) -> Result<(ToTun, FromTun), TunnelError> {
    let failed = |source| TunnelError::Interface { name: name.to_owned(), source };
    let device = make(name, address, network.netmask(), mtu).map_err(failed)?;
    prepare(name);
    let (to_tun, from_tun) = ends(device, mtu).map_err(failed)?;
    Ok((ToTun { gate: Some(gate), ..to_tun }, from_tun))
}

/// The two ways of an interface that [`make`] has made. They end with the WireGuard device that holds them.
pub(crate) fn ends(device: OwnedFd, mtu: u16) -> io::Result<(ToTun, FromTun)> {
    let device = Arc::new(watched(device)?);
    let (to_kernel, queue) = mpsc::channel(TO_KERNEL);
    tokio::spawn(write_all(Arc::clone(&device), queue));
    let from = FromTun { device, frame: vec![0; FRAME_MAX].into_boxed_slice(), packets: Vec::new(), mtu };
    Ok((ToTun { to_kernel, gate: None }, from))
}

/// Sets what the interface needs beyond its address.
///
/// Several nodes may run on one host, each with an interface that leads to the same network. The route back to a
/// site then names any of them, which strict reverse path filtering takes for a forged source; the loose form (2)
/// is satisfied with any route, and unlike 0 it also overrides a strict `all`. IPv6 is not spoken in the tunnels.
pub(crate) fn prepare(name: &str) {
    let settings = [("ipv4", "rp_filter", "2"), ("ipv6", "disable_ipv6", "1")];
    for (family, setting, value) in settings {
        let path = Path::new("/proc/sys/net").join(family).join("conf").join(name).join(setting);
        if let Err(error) = std::fs::write(&path, value) {
            // A host without IPv6 has no such file; a read-only /proc is common in containers.
            tracing::debug!(path = %path.display(), %error, "setting left as it is");
        }
    }
}

/// Decrypted packets on their way to the kernel.
///
/// They are written by a task of their own: the WireGuard device hands them over one by one, and what waits while one is
/// written can be merged.
pub(crate) struct ToTun {
    to_kernel: mpsc::Sender<Packet>,
    /// None = everything may pass: there is nothing behind it but what the tunnels are for.
    gate: Option<Arc<Gate>>,
}

impl IpSend for ToTun {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let packet = packet.into_bytes();
        if self.gate.as_ref().is_some_and(|gate| !gate.passes(&packet)) {
            return Ok(());
        }
        // As for an interface that was removed: the device then ends.
        self.to_kernel.send(packet).await.map_err(|_| Errno::EBADFD.into())
    }
}

async fn write_all(device: Arc<AsyncFd<OwnedFd>>, mut queue: mpsc::Receiver<Packet>) {
    let mut batch: Vec<Packet> = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        for frame in merge(&mut batch) {
            let slices = frame.slices(&batch);
            let written = device.async_io(Interest::WRITABLE, |device| Ok(writev(device, &slices)?)).await;
            match written {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::EBADFD as i32) => return,
                // What the kernel does not take is lost, as on any network.
                Err(error) => tracing::debug!(%error, "the interface takes no packet"),
            }
        }
        batch.clear();
    }
}

/// Packets of the kernel on their way to be encrypted.
pub(crate) struct FromTun {
    device: Arc<AsyncFd<OwnedFd>>,
    frame: Box<[u8]>,
    packets: Vec<Packet<Ip>>,
    mtu: u16,
}

impl IpRecv for FromTun {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        while self.packets.is_empty() {
            let Self { device, frame, packets, .. } = self;
            let length =
                device.async_io(Interest::READABLE, |device| Ok(read(device.as_fd(), frame)?)).await?;
            split(&mut frame[..length], |header, payload| {
                let mut packet = pool.get();
                let bytes = packet.buf_mut();
                bytes.clear();
                bytes.extend_from_slice(header);
                bytes.extend_from_slice(payload);
                packets.extend(packet.try_into_ip().ok());
            });
        }
        Ok(self.packets.drain(..))
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
    }
}
