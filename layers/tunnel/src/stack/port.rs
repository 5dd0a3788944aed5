//! How a flow's smoltcp interface meets the stack: one arriving packet at a time, and the queue of leaving ones.

use bytes::BytesMut;
use smoltcp::{
    phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};
use tokio::sync::mpsc;

/// The device of one poll.
pub(super) struct Port<'a> {
    /// The packet that arrived, if this poll is about one.
    pub arrived: Option<&'a [u8]>,
    pub out: &'a mpsc::Sender<BytesMut>,
    pub mtu: u16,
    /// Set when something could not leave for lack of room.
    pub full: bool,
}

pub(super) struct Arrived<'a>(&'a [u8]);

impl RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Leaving<'a> {
    out: &'a mpsc::Sender<BytesMut>,
    full: &'a mut bool,
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = BytesMut::zeroed(len);
        let result = f(&mut packet);
        // Only the reply to an arriving packet can find the queue full here; TCP makes up for one lost.
        *self.full |= self.out.try_send(packet).is_err();
        result
    }
}

impl<'p> Device for Port<'p> {
    type RxToken<'a>
        = Arrived<'p>
    where
        Self: 'a;
    type TxToken<'a>
        = Leaving<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let arrived = self.arrived.take()?;
        Some((Arrived(arrived), Leaving { out: self.out, full: &mut self.full }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        if self.out.capacity() == 0 {
            self.full = true;
            return None;
        }
        Some(Leaving { out: self.out, full: &mut self.full })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(self.mtu);
        // WireGuard authenticates what arrives.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}
