//! What all tasks of the peers' part share.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use pangolin_core::{id::NodeId, observation::Seen, plan::PeerPlan, record::Digest, time::Timestamp};
use parking_lot::{Mutex, RwLock};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock::steady_now,
    hello::{Hello, Lane, Party, Program, is_newer, judge},
    join::JoinDoor,
    link::Link,
    service::{Handler, Service},
    tls::Credentials,
};

pub(crate) struct Shared {
    /// Where this node listens.
    pub(crate) address: SocketAddr,
    pub(crate) node: NodeId,
    pub(crate) seen: watch::Sender<BTreeMap<NodeId, Seen>>,
    /// Wakes the task that starts links.
    pub(crate) links_changed: Notify,
    /// All connections and handlers; cancelled by [`Shared::stop`].
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// When this part came to life: what happens regularly keeps its time.
    pub(crate) beat: Instant,
    /// Where byte streams are served.
    pub(crate) traffic: Handle,
    credentials: ArcSwapOption<Credentials>,
    membership: Mutex<Membership>,
    links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    handlers: RwLock<[Option<Arc<dyn Handler>>; Service::ALL.len() + 1]>,
    door: RwLock<Option<Arc<dyn JoinDoor>>>,
    /// The wall clocks of others: what they were when they were told, and when that was.
    clocks: Mutex<BTreeMap<NodeId, (Timestamp, Instant)>>,
}

#[derive(Default)]
struct Membership {
    plan: PeerPlan,
    /// The connections that others have made to this node: one per node and lane.
    inbound: HashMap<(NodeId, Lane), Inbound>,
    serial: u64,
}

struct Inbound {
    serial: u64,
    spki: Digest,
    cut: CancellationToken,
}

/// An accepted connection's place among the others; given back with [`Shared::leave`].
pub(crate) struct Place {
    pub(crate) version: u16,
    pub(crate) cut: CancellationToken,
    key: (NodeId, Lane),
    serial: u64,
}

impl Shared {
    pub(crate) fn new(
        address: SocketAddr,
        node: NodeId,
        credentials: Option<Credentials>,
        traffic: Handle,
    ) -> Self {
        Self {
            address,
            node,
            seen: watch::Sender::default(),
            links_changed: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            beat: Instant::now(),
            traffic,
            credentials: ArcSwapOption::new(credentials.map(Arc::new)),
            membership: Mutex::default(),
            links: RwLock::default(),
            handlers: RwLock::default(),
            door: RwLock::default(),
            clocks: Mutex::default(),
        }
    }

    /// Runs something until it ends or this node stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        self.credentials.load_full()
    }

    pub(crate) fn set_credentials(&self, credentials: Credentials) {
        self.credentials.store(Some(Arc::new(credentials)));
    }

    pub(crate) fn handler(&self, service: Service) -> Option<Arc<dyn Handler>> {
        self.handlers.read()[service as usize].clone()
    }

    pub(crate) fn set_handler(&self, service: Service, handler: Arc<dyn Handler>) {
        self.handlers.write()[service as usize] = Some(handler);
    }

    pub(crate) fn door(&self) -> Option<Arc<dyn JoinDoor>> {
        self.door.read().clone()
    }

    pub(crate) fn set_door(&self, door: Arc<dyn JoinDoor>) {
        *self.door.write() = Some(door);
    }

    pub(crate) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.links.read().get(&node).cloned()
    }

    /// Whether a node may ask for a service: one that is not in the plan, because it joined later, only brings the
    /// log.
    pub(crate) fn may_ask(&self, node: NodeId, service: Service) -> bool {
        service.brings_the_log() || self.links.read().contains_key(&node)
    }

    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.links.read().values().cloned().collect()
    }

    /// Notes what another node's wall clock says now. The way it took is shorter than what clocks may differ by.
    pub(crate) fn note_clock(&self, node: NodeId, clock: Timestamp) {
        self.clocks.lock().insert(node, (clock, Instant::now()));
    }

    /// What another node's wall clock says now, as far as it has told; this node's own may have been set since.
    pub(crate) fn clock_of(&self, node: NodeId) -> Option<Timestamp> {
        self.clocks.lock().get(&node).map(|(clock, told)| *clock + told.elapsed())
    }

    /// Whether a node's program can take part in what the cluster is committed to.
    pub(crate) fn check_program(&self, program: Program, node: NodeId) -> Result<(), String> {
        program.check(&self.membership.lock().plan, node)
    }

    /// Who this node is, with the lineage it lives in now.
    pub(crate) fn me(&self) -> Option<Party> {
        let lineage = self.membership.lock().plan.lineage;
        self.credentials().map(|own| with_lineage(&own.party, lineage))
    }

    /// Takes a new membership: cuts whoever is no longer in it, starts links to whoever is new.
    pub(crate) fn set_plan(&self, plan: PeerPlan) {
        let mut membership = self.membership.lock();
        let moved = plan.lineage != membership.plan.lineage;
        membership.inbound.retain(|(node, _), inbound| {
            let known = plan.nodes.get(node).map(|peer| peer.spki == inbound.spki);
            let stays = !moved && known.unwrap_or_else(|| is_newer(&plan, *node));
            if !stays {
                inbound.cut.cancel();
            }
            stays
        });
        let mut gone = Vec::new();
        {
            let mut links = self.links.write();
            links.retain(|node, link| {
                let stays = !moved && plan.nodes.get(node).is_some_and(|peer| link.is_for(peer));
                if !stays {
                    link.cancel();
                    gone.push(*node);
                }
                stays
            });
            for (node, peer) in plan.nodes.iter().filter(|(node, _)| **node != self.node) {
                links.entry(*node).or_insert_with(|| Arc::new(Link::new(*node, peer)));
            }
        }
        self.clocks.lock().retain(|node, _| plan.nodes.contains_key(node));
        // After the links are cancelled: a cancelled link writes nothing any more.
        self.seen.send_if_modified(|seen| {
            let before = seen.len();
            seen.retain(|node, _| !gone.contains(node));
            seen.len() != before
        });
        membership.plan = plan;
        self.links_changed.notify_one();
    }

    /// Notes how a peer looks, unless its link has been cancelled.
    pub(crate) fn mark(&self, link: &Link, alive: bool) {
        self.seen.send_if_modified(|seen| {
            let same = seen.get(&link.node).is_some_and(|before| before.alive == alive);
            if same || link.is_cancelled() {
                return false;
            }
            seen.insert(link.node, Seen { alive, since: steady_now() });
            true
        });
    }

    /// Lets an authenticated connection in, or says why not. An older one of the same node and lane is cut: its
    /// other end has given it up.
    pub(crate) fn enter(&self, hello: &Hello, spki: &Digest) -> Result<Place, String> {
        let own = self.credentials().ok_or("this node has no identity")?;
        let mut membership = self.membership.lock();
        let me = with_lineage(&own.party, membership.plan.lineage);
        let version = judge(&me, &membership.plan, hello, spki)?;
        membership.serial += 1;
        let (serial, cut) = (membership.serial, self.stop.child_token());
        let key = (hello.from.node, hello.lane);
        let inbound = Inbound { serial, spki: *spki, cut: cut.clone() };
        if let Some(older) = membership.inbound.insert(key, inbound) {
            older.cut.cancel();
        }
        Ok(Place { version, cut, key, serial })
    }

    /// Gives an accepted connection's place back.
    pub(crate) fn leave(&self, place: &Place) {
        let mut membership = self.membership.lock();
        if membership.inbound.get(&place.key).is_some_and(|inbound| inbound.serial == place.serial) {
            membership.inbound.remove(&place.key);
        }
    }
}

fn with_lineage(own: &Party, planned: u64) -> Party {
    Party { lineage: own.lineage.max(planned), ..*own }
}
