//! Open ports: TCP, UDP, and TLS passed on as it is.
//!
//! A listener belongs to a port number and finds in the snapshot whose it is at the moment; a gate belongs to a
//! resource's port and holds its connections. So a change of one resource ends no connection of another, and the
//! resource that takes over a number does not take over its connections.

mod datagram;
mod forward;
mod listener;
mod tcp;
mod tell;
mod udp;

#[cfg(any(test, fuzzing))]
pub(crate) use tell::header as proxy_header;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use forward::Ahead;
use pangolin_core::{ResourceId, plan::EdgePlan, traffic::PortKind};
use parking_lot::Mutex;
pub(crate) use tcp::{Arrival, carry};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    balance::{Pick, key_of},
    edge::World,
    limits::{self, Admission, Permit},
    pool::TargetPool,
    snapshot::{Port, Route},
    tries::{Failure, Next, Tries},
};

/// What lets clients in to a resource's port, and what its connections end with.
#[derive(Debug)]
pub(crate) struct Gate {
    admission: Arc<Admission>,
    pub(crate) close: CancellationToken,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        // The limits stand in the rules of the port, which may change.
        Arc::new(Self { admission: Admission::new(0, 0), close: CancellationToken::new() })
    }
}

impl Port {
    /// A place for a client, if the rules let it in and there is one left.
    pub(crate) fn admit(&self, client: IpAddr) -> Option<Permit> {
        if !self.rules.admits(client) {
            return None;
        }
        let limit = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        self.gate.admission.admit_within(client, limit(self.rules.connections), limit(self.rules.per_source))
    }
}

/// The gates of all ports: they outlive snapshots.
pub(crate) type Gates = BTreeMap<(PortKind, ResourceId), Arc<Gate>>;

/// What is open, and what could not be opened.
pub(crate) struct OpenPorts {
    /// Where the node serves HTTPS, it opens ports as well.
    addresses: Vec<IpAddr>,
    gates: Gates,
    listeners: BTreeMap<PortKind, CancellationToken>,
    problems: watch::Sender<BTreeMap<PortKind, String>>,
}

impl OpenPorts {
    pub(crate) fn new(https: impl Iterator<Item = SocketAddr>) -> Mutex<Self> {
        let mut addresses: Vec<IpAddr> = https.map(|address| address.ip()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Mutex::new(Self {
            addresses,
            gates: Gates::new(),
            listeners: BTreeMap::new(),
            problems: watch::Sender::new(BTreeMap::new()),
        })
    }

    pub(crate) fn problems(&self) -> watch::Receiver<BTreeMap<PortKind, String>> {
        self.problems.subscribe()
    }

    /// Gates for the ports of a plan. Those that are not in it any more end their connections.
    pub(crate) fn gates(&mut self, plan: &EdgePlan) -> &Gates {
        let mut old = std::mem::take(&mut self.gates);
        for port in &plan.ports {
            let key = (port.kind, port.route.resource);
            self.gates.insert(key, old.remove(&key).unwrap_or_else(Gate::new));
        }
        for gate in old.into_values() {
            gate.close.cancel();
        }
        &self.gates
    }

    /// Opens the ports of the snapshot in effect that are not open, and closes those that are not in it.
    pub(crate) fn bring_in_line(&mut self, world: &Arc<World>) {
        let snapshot = world.snapshot.load();
        self.listeners.retain(|kind, close| {
            let wanted = snapshot.ports.contains_key(kind);
            if !wanted {
                close.cancel();
            }
            wanted
        });
        let mut problems = BTreeMap::new();
        for kind in snapshot.ports.keys().copied() {
            if self.listeners.contains_key(&kind) {
                continue;
            }
            let close = CancellationToken::new();
            match listener::open(world, kind, &self.addresses, &close) {
                Ok(()) => drop(self.listeners.insert(kind, close)),
                Err(error) => drop(problems.insert(kind, error)),
            }
        }
        self.problems.send_if_modified(|known| {
            for (kind, problem) in problems.iter().filter(|(kind, problem)| known.get(*kind) != Some(*problem)) {
                tracing::warn!(port = %kind, problem, "a port cannot be opened; it is tried again every second");
            }
            let changed = *known != problems;
            *known = problems;
            changed
        });
    }

    /// Whether a port is to be tried again.
    pub(crate) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }
}

/// The target for a client, and the ways that have failed so far.
pub(super) struct Search<'a> {
    world: &'a World,
    route: &'a Route,
    pick: Pick,
    tries: Tries,
}

impl<'a> Search<'a> {
    pub(super) fn new(world: &'a World, route: &'a Route, client: IpAddr) -> Self {
        // Nobody has a cookie here.
        let pick = route.pick(|| key_of(limits::key(client)));
        Self { world, route, pick, tries: Tries::default() }
    }

    /// The target to try next, by index.
    pub(super) fn next(&self) -> Option<(usize, &'a Arc<TargetPool>)> {
        let index = self.route.choose(&self.tries.failed, self.pick)?;
        Some((index, &self.route.targets[index]))
    }

    pub(super) fn exclude(&self) -> &[pangolin_core::NodeId] {
        &self.tries.exclude
    }

    /// Whether there is another target than this one.
    pub(super) fn has_choice(&self) -> bool {
        self.route.targets.len() > 1
    }

    /// Takes note of a failure, and waits as long as is useful. False = nothing is left to be tried.
    pub(super) async fn failed(&mut self, index: usize, error: &crate::dial::DialError) -> bool {
        let pool = &self.route.targets[index];
        tracing::debug!(target_id = %pool.target.id, resource = %self.route.resource, %error, "no connection");
        let now = Instant::now();
        let next = match error.via {
            Some(_) if error.by_target => {
                pool.note_failure();
                self.tries.target_failed(now, index)
            }
            Some(via) => {
                let failure = Failure { target: index, via, reused: false };
                self.tries.way_failed(now, failure, self.world.connector.own_node())
            }
            None => self.tries.no_path(now, index, self.route.targets.len(), pool.unreachable_for()),
        };
        match next {
            Next::GiveUp => return false,
            Next::Again => {}
            Next::After(pause) => sleep(pause).await,
        }
        true
    }
}

/// The allowed time without a byte.
pub(super) fn idle_of(port: &Port) -> Duration {
    Duration::from_secs(u64::from(port.rules.idle))
}
