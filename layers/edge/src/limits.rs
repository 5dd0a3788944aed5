//! How many clients are let in.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

/// Counts client connections, in total and per address.
#[derive(Debug)]
pub(crate) struct Admission {
    total: usize,
    per_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One admitted connection; given back on drop.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    key: IpAddr,
}

/// What counts as one address: an IPv4 address, or the /64 of an IPv6 address, which is what one customer gets.
pub(crate) fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Permit {
    /// What counts as the client's one address.
    pub(crate) fn source(&self) -> IpAddr {
        self.key
    }
}

impl Admission {
    pub(crate) fn new(total: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { total, per_address, open: Mutex::default() })
    }

    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        self.admit_within(address, self.total, self.per_address)
    }

    /// The same with other limits than its own.
    pub(crate) fn admit_within(
        self: &Arc<Self>,
        address: IpAddr,
        total: usize,
        per_address: usize,
    ) -> Option<Permit> {
        let key = key(address);
        let mut open = self.open.lock();
        if open.total >= total || open.by_address.get(&key).is_some_and(|n| *n >= per_address) {
            return None;
        }
        open.total += 1;
        *open.by_address.entry(key).or_default() += 1;
        Some(Permit { admission: Arc::clone(self), key })
    }

    pub(crate) fn open(&self) -> usize {
        self.open.lock().total
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.admission.open.lock();
        open.total -= 1;
        if let Some(n) = open.by_address.get_mut(&self.key) {
            *n -= 1;
            if *n == 0 {
                open.by_address.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_in_total_and_per_address_and_are_given_back() {
        let admission = Admission::new(3, 2);
        let ip = |s: &str| s.parse::<IpAddr>().expect("an address");
        let first = admission.admit(ip("2001:db8::1"));
        let second = admission.admit(ip("2001:db8::2"));
        assert!(first.is_some() && second.is_some());
        assert!(admission.admit(ip("2001:db8::3")).is_none(), "the same /64");
        let third = admission.admit(ip("192.0.2.1"));
        assert!(third.is_some());
        assert!(admission.admit(ip("192.0.2.2")).is_none(), "the total");
        drop(first);
        assert!(admission.admit(ip("2001:db8::3")).is_some());
        drop((second, third));
        assert_eq!(admission.open(), 0);
        assert!(admission.open.lock().by_address.is_empty());
    }
}
