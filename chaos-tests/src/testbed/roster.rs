//! Who is who: what threads that ask nodes need to know of them, while nodes come and go.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use pangolin_core::{NodeId, Revision};

/// A host of the test bed that is, or was, or may become a node.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Where its edge serves HTTPS.
    pub https: SocketAddr,
    /// Where it answers DNS.
    pub dns: SocketAddr,
    /// Its local socket.
    pub socket: PathBuf,
    /// Its id, while it is a member.
    pub id: Option<NodeId>,
    /// Its process, while it runs.
    pub pid: Option<u32>,
}

/// All hosts, and the newest revision that anybody was answered. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    entries: Arc<Mutex<Vec<Entry>>>,
    newest: Arc<Mutex<Option<Revision>>>,
}

impl Roster {
    /// Of these hosts.
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> Self {
        Self { entries: Arc::new(Mutex::new(entries)), newest: Arc::default() }
    }

    /// The hosts as they stand, in their order.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that are members.
    #[must_use]
    pub fn members(&self) -> Vec<(usize, NodeId, Entry)> {
        let entries = self.entries().into_iter().enumerate();
        entries.filter_map(|(position, entry)| Some((position, entry.id?, entry))).collect()
    }

    /// The member with one of these addresses.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Option<NodeId> {
        self.entries().into_iter().find(|entry| entry.address == address)?.id
    }

    /// Changes what is known of a host.
    pub fn change(&self, position: usize, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(position) {
            change(entry);
        }
    }

    /// Somebody was answered from this revision.
    pub fn saw(&self, revision: Revision) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = (*newest).max(Some(revision));
    }

    /// The newest that anybody was answered from.
    #[must_use]
    pub fn newest(&self) -> Option<Revision> {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
