//! Which sites have their control socket at this node, and what their connectors say of their targets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use pangolin_core::{
    NodeId, SiteId, TargetId,
    observation::{Attachment, TargetHealth},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

/// Most sockets of one site. A connector has one; after a break on the way the old one lingers until it is noticed.
/// One more closes the oldest, so that a connector that comes back is never locked out by its own past.
pub(super) const SITE_SOCKETS_MAX: usize = 4;
/// Most sockets at this node. A socket costs some 50 kB, so that they all stay within 200 MB.
pub(super) const SOCKETS_MAX: usize = 4096;
/// Orders to one socket that wait. It takes them at once, unless it is stuck in a write that will end it.
const ORDERS_MAX: usize = 8;

/// How long a farewell is worth telling: every node has heard of it by then, and lets go of the tunnel at once.
pub const FAREWELL_LIFETIME: Duration = Duration::from_secs(10);

/// Told to a socket from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Close, for this reason.
    Close(Why),
    /// Have the tunnel end at this node.
    MoveTo(NodeId),
}

/// Why a socket is closed from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The node stops.
    Draining,
    /// The same site has opened too many others.
    Superseded,
}

/// All sockets of this node.
pub(super) struct Attached {
    sockets: Mutex<Sockets>,
    sites: watch::Sender<BTreeSet<SiteId>>,
    health: watch::Sender<BTreeMap<TargetId, TargetHealth>>,
    attachments: watch::Sender<BTreeMap<SiteId, Attachment>>,
    farewells: watch::Sender<BTreeMap<SiteId, Instant>>,
}

#[derive(Default)]
struct Sockets {
    /// Ordered by age within a site.
    entries: BTreeMap<(SiteId, u64), Entry>,
    last: u64,
    closing: bool,
}

struct Entry {
    orders: mpsc::Sender<Order>,
    open: bool,
    health: BTreeMap<TargetId, TargetHealth>,
    attachment: Attachment,
}

/// Why a socket is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAdmitted {
    #[error("this node has {SOCKETS_MAX} control sockets, which is the most it takes; try another node")]
    Full,
    #[error("this node is draining; try another node")]
    Draining,
}

/// A socket's place among the attached ones. It is given back when dropped.
pub(super) struct Seat {
    attached: Arc<Attached>,
    at: (SiteId, u64),
}

impl Attached {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            sockets: Mutex::default(),
            sites: watch::Sender::default(),
            health: watch::Sender::default(),
            attachments: watch::Sender::default(),
            farewells: watch::Sender::default(),
        })
    }

    pub(super) fn sites(&self) -> watch::Receiver<BTreeSet<SiteId>> {
        self.sites.subscribe()
    }

    pub(super) fn health(&self) -> watch::Receiver<BTreeMap<TargetId, TargetHealth>> {
        self.health.subscribe()
    }

    pub(super) fn attachments(&self) -> watch::Receiver<BTreeMap<SiteId, Attachment>> {
        self.attachments.subscribe()
    }

    pub(super) fn farewells(&self) -> watch::Receiver<BTreeMap<SiteId, Instant>> {
        self.farewells.subscribe()
    }

    /// Takes up a socket of `site`, which counts as attached once [`Seat::open`] is called.
    pub(super) fn admit(
        self: &Arc<Self>,
        site: SiteId,
    ) -> Result<(Seat, mpsc::Receiver<Order>), NotAdmitted> {
        let mut sockets = self.sockets.lock();
        if sockets.closing {
            return Err(NotAdmitted::Draining);
        }
        let own: Vec<(SiteId, u64)> = sockets.of(site).map(|(at, _)| *at).collect();
        if own.len() >= SITE_SOCKETS_MAX {
            // The closed one counts until it is gone; a site that is faster than that has to wait.
            if own.len() >= 2 * SITE_SOCKETS_MAX {
                return Err(NotAdmitted::Full);
            }
            for at in &own[..=own.len() - SITE_SOCKETS_MAX] {
                if let Some(entry) = sockets.entries.get(at) {
                    let _ = entry.orders.try_send(Order::Close(Why::Superseded));
                }
            }
        }
        if sockets.entries.len() >= SOCKETS_MAX {
            return Err(NotAdmitted::Full);
        }
        sockets.last += 1;
        let at = (site, sockets.last);
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        sockets.entries.insert(
            at,
            Entry { orders, open: false, health: BTreeMap::new(), attachment: Attachment::default() },
        );
        Ok((Seat { attached: Arc::clone(self), at }, receiver))
    }

    /// Gives an order to the sockets of a site; whether any takes it.
    pub(super) fn order(&self, site: SiteId, order: Order) -> bool {
        let sockets = self.sockets.lock();
        let taken = sockets.of(site).filter(|(_, entry)| entry.open && entry.orders.try_send(order).is_ok());
        taken.count() > 0
    }

    /// Admits no socket any more and has the present ones closed.
    pub(super) fn drain(&self) {
        let mut sockets = self.sockets.lock();
        sockets.closing = true;
        for entry in sockets.entries.values() {
            let _ = entry.orders.try_send(Order::Close(Why::Draining));
        }
    }

    fn publish(&self, sockets: &Sockets, site: SiteId, targets: impl Iterator<Item = TargetId>) {
        let open = sockets.of(site).any(|(_, entry)| entry.open);
        self.sites.send_if_modified(|sites| if open { sites.insert(site) } else { sites.remove(&site) });
        // Of several sockets the newest knows best.
        let newest =
            sockets.of(site).filter(|(_, entry)| entry.open).map(|(_, entry)| &entry.attachment).last();
        self.attachments.send_if_modified(|all| {
            match newest.filter(|known| **known != Attachment::default()) {
                Some(known) => all.insert(site, known.clone()).as_ref() != Some(known),
                None => all.remove(&site).is_some(),
            }
        });
        self.health.send_if_modified(|health| {
            let mut modified = false;
            for target in targets {
                let best = sockets.of(site).filter_map(|(_, entry)| entry.health.get(&target)).min().copied();
                modified |= match best {
                    Some(best) => health.insert(target, best) != Some(best),
                    None => health.remove(&target).is_some(),
                };
            }
            modified
        });
    }
}

impl Sockets {
    fn of(&self, site: SiteId) -> impl Iterator<Item = (&(SiteId, u64), &Entry)> {
        self.entries.range((site, 0)..=(site, u64::MAX))
    }
}

impl Seat {
    /// The connector is there.
    pub(super) fn open(&self) {
        let mut sockets = self.attached.sockets.lock();
        if let Some(entry) = sockets.entries.get_mut(&self.at) {
            entry.open = true;
        }
        self.attached.farewells.send_if_modified(|farewells| farewells.remove(&self.at.0).is_some());
        self.attached.publish(&sockets, self.at.0, std::iter::empty());
    }

    /// The connector says that it ends. If the site has no other one here, its tunnel ends as well.
    pub(super) fn farewell(&self) {
        self.leave();
        let sockets = self.attached.sockets.lock();
        if sockets.of(self.at.0).any(|(_, entry)| entry.open) {
            return;
        }
        self.attached.farewells.send_modify(|farewells| {
            farewells.retain(|_, said| said.elapsed() < FAREWELL_LIFETIME);
            farewells.insert(self.at.0, Instant::now());
        });
    }

    /// The connector says this of its targets.
    pub(super) fn health(&self, health: BTreeMap<TargetId, TargetHealth>) {
        let mut sockets = self.attached.sockets.lock();
        let Some(entry) = sockets.entries.get_mut(&self.at) else { return };
        let mut targets: BTreeSet<TargetId> = health.keys().copied().collect();
        targets.extend(std::mem::replace(&mut entry.health, health).into_keys());
        self.attached.publish(&sockets, self.at.0, targets.into_iter());
    }

    /// This is known of the site's tunnel.
    pub(super) fn attachment(&self, attachment: Attachment) {
        let mut sockets = self.attached.sockets.lock();
        let Some(entry) = sockets.entries.get_mut(&self.at) else { return };
        entry.attachment = attachment;
        self.attached.publish(&sockets, self.at.0, std::iter::empty());
    }

    /// The connector is gone, or about to be.
    pub(super) fn leave(&self) {
        let mut sockets = self.attached.sockets.lock();
        let Some(entry) = sockets.entries.get_mut(&self.at) else { return };
        entry.open = false;
        let targets = std::mem::take(&mut entry.health);
        self.attached.publish(&sockets, self.at.0, targets.into_keys());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
        self.attached.sockets.lock().entries.remove(&self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: SiteId = SiteId(4);

    #[test]
    fn a_site_is_attached_while_any_of_its_sockets_is_open() {
        let attached = Attached::new();
        let sites = attached.sites();
        let (first, _orders) = attached.admit(SITE).unwrap();
        assert!(sites.borrow().is_empty(), "a socket that is not open yet does not count");
        first.open();
        let (second, _orders) = attached.admit(SITE).unwrap();
        second.open();
        drop(first);
        assert!(sites.borrow().contains(&SITE));
        second.leave();
        assert!(sites.borrow().is_empty());
    }

    #[test]
    fn a_farewell_is_that_of_the_last_connector_and_void_when_one_comes() {
        let attached = Attached::new();
        let farewells = attached.farewells();
        let (first, _orders) = attached.admit(SITE).unwrap();
        let (second, _orders) = attached.admit(SITE).unwrap();
        first.open();
        second.open();
        first.farewell();
        assert!(farewells.borrow().is_empty(), "another one is there");
        second.farewell();
        assert!(farewells.borrow().contains_key(&SITE));
        let (third, _orders) = attached.admit(SITE).unwrap();
        assert!(farewells.borrow().contains_key(&SITE), "not there yet");
        third.open();
        assert!(farewells.borrow().is_empty());
        drop(third);
        assert!(farewells.borrow().is_empty(), "a socket that breaks says nothing of the tunnel");
    }

    #[test]
    fn the_best_word_on_a_target_counts_and_goes_with_its_socket() {
        let attached = Attached::new();
        let health = attached.health();
        let (first, _orders) = attached.admit(SITE).unwrap();
        let (second, _orders) = attached.admit(SITE).unwrap();
        first.health([(TargetId(1), TargetHealth::Unhealthy)].into());
        second.health([(TargetId(1), TargetHealth::Healthy)].into());
        assert_eq!(health.borrow().get(&TargetId(1)), Some(&TargetHealth::Healthy));
        drop(second);
        assert_eq!(health.borrow().get(&TargetId(1)), Some(&TargetHealth::Unhealthy));
        drop(first);
        assert!(health.borrow().is_empty());
    }

    #[test]
    fn one_socket_too_many_closes_the_oldest() {
        let attached = Attached::new();
        let mut seats: Vec<_> = (0..SITE_SOCKETS_MAX).map(|_| attached.admit(SITE).unwrap()).collect();
        let _newest = attached.admit(SITE).unwrap();
        assert_eq!(seats[0].1.try_recv(), Ok(Order::Close(Why::Superseded)));
        assert!(seats[1].1.try_recv().is_err());
    }

    #[test]
    fn a_draining_node_admits_nobody() {
        let attached = Attached::new();
        let (_seat, mut orders) = attached.admit(SITE).unwrap();
        attached.drain();
        assert_eq!(orders.try_recv(), Ok(Order::Close(Why::Draining)));
        assert_eq!(attached.admit(SITE).err(), Some(NotAdmitted::Draining));
    }
}
