//! WireGuard in this process (gotatun), on a TUN interface or on the in-process stack.

use std::{io, net::IpAddr};

use bytes::BytesMut;
use gotatun::{
    device::{Device, DeviceBuilder, Peer as DevicePeer},
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
    x25519::PublicKey,
};
use pangolin_core::record::TunnelKey;
use tokio::sync::{RwLock, mpsc};

use super::{Peer, PeerChange, PeerReading, socket::Bound};
use crate::{error::TunnelError, key::SecretKey, stack::Stack};

/// Packets handed to the device at a time.
const BATCH: usize = 64;

/// A userspace device; none inside = closed.
pub(crate) struct Userspace<Tx: IpSend, Rx: IpRecv>(RwLock<Option<Device<(Bound, Tx, Rx)>>>);

impl<Tx: IpSend, Rx: IpRecv> Userspace<Tx, Rx> {
    pub(crate) async fn start(
        socket: Bound,
        key: &SecretKey,
        ip_tx: Tx,
        ip_rx: Rx,
    ) -> Result<Self, TunnelError> {
        let device = DeviceBuilder::new()
            .with_udp(socket)
            .with_ip_pair(ip_tx, ip_rx)
            .with_private_key(key.secret())
            .build()
            .await
            .map_err(refused)?;
        // A device without peers stays down until it is reconfigured; clearing no peers does just that.
        device.clear_peers().await.map_err(refused)?;
        Ok(Self(RwLock::new(Some(device))))
    }

    pub(crate) async fn change(&self, change: PeerChange) -> Result<(), TunnelError> {
        let device = self.0.read().await;
        let device = device.as_ref().ok_or(TunnelError::Closed)?;
        for key in &change.remove {
            device.remove_peer(&public(*key)).await.map_err(refused)?;
        }
        for peer in change.add {
            device.add_or_update_peer(device_peer(&peer)).await.map_err(refused)?;
        }
        Ok(())
    }

    /// From now on the peer's datagrams go there. Its session stays.
    pub(crate) async fn set_endpoint(&self, peer: Peer) -> Result<(), TunnelError> {
        let device = self.0.read().await;
        let device = device.as_ref().ok_or(TunnelError::Closed)?;
        let key = public(peer.key);
        let changed = device
            .write(async |device| device.modify_peer(&key, |known| known.set_endpoint(peer.endpoint)).await)
            .await;
        changed.map(drop).map_err(refused)
    }

    pub(crate) async fn read(&self) -> Result<Vec<PeerReading>, TunnelError> {
        let device = self.0.read().await;
        let peers = device.as_ref().ok_or(TunnelError::Closed)?.peers().await;
        Ok(peers
            .into_iter()
            .map(|read| PeerReading {
                key: TunnelKey(read.peer.public_key.to_bytes()),
                last_handshake: read.stats.last_handshake,
                received: read.stats.rx_bytes as u64,
                sent: read.stats.tx_bytes as u64,
            })
            .collect())
    }

    pub(crate) async fn close(&self) {
        let device = self.0.write().await.take();
        if let Some(device) = device {
            device.stop().await;
        }
    }
}

fn public(key: TunnelKey) -> PublicKey {
    PublicKey::from(key.0)
}

fn device_peer(peer: &Peer) -> DevicePeer {
    let mut device_peer = DevicePeer::new(public(peer.key)).with_allowed_ip(IpAddr::V4(peer.address).into());
    device_peer.endpoint = peer.endpoint;
    device_peer
}

fn refused(error: gotatun::device::Error) -> TunnelError {
    TunnelError::Device(error.to_string())
}

/// Decrypted packets on their way to the in-process stack.
pub(crate) struct ToStack(pub Stack);

impl IpSend for ToStack {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.0.input(&packet.into_bytes());
        Ok(())
    }
}

/// Packets of the in-process stack on their way to be encrypted.
pub(crate) struct FromStack {
    queue: mpsc::Receiver<BytesMut>,
    batch: Vec<BytesMut>,
    mtu: u16,
}

impl FromStack {
    pub(crate) fn new(queue: mpsc::Receiver<BytesMut>, mtu: u16) -> Self {
        Self { queue, batch: Vec::with_capacity(BATCH), mtu }
    }
}

impl IpRecv for FromStack {
    async fn recv<'a>(
        &'a mut self,
        _: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        if self.queue.recv_many(&mut self.batch, BATCH).await == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(self.batch.drain(..).filter_map(|bytes| Packet::from_bytes(bytes).try_into_ip().ok()))
    }

    fn mtu(&self) -> MtuWatcher {
        MtuWatcher::new(self.mtu)
    }
}
