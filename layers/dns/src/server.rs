//! The handle and the task: what `src` sees.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use pangolin_core::{id::Revision, name::HostName, plan::DnsPlan, record::Sealed};
use parking_lot::Mutex;
use socket2::Socket;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Context, CookieSecret, DnsConfig, DnsCounters, DnsError, GeoDatabase, Policy, Protocol, Signers, Store,
    Transport, ZoneSigner,
    bind::{Listening, bind_all},
    build::{Complaint, build, rebuild_soa, same_sets},
    counters::Counters,
    limit::Limiter,
    notify, tcp,
    transfer::{TransferKey, TransferKeys, Transfers},
    udp,
};

/// How long TCP connections may take to end at shutdown; they wait for nothing but their own last write.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// What the threads and the handle share.
pub(crate) struct Shared {
    pub(crate) store: ArcSwap<Store>,
    pub(crate) counters: Counters,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) slots: tcp::Slots,
    pub(crate) limits: Limits,
    pub(crate) policy: ArcSwap<Policy>,
    leader_contact: AtomicBool,
    stopping: AtomicBool,
    local: Vec<SocketAddr>,
    applied: Mutex<Applied>,
    /// What secondaries may have; counts on when it has changed.
    pub(crate) transfers: ArcSwap<Transfers>,
    pub(crate) changes: watch::Sender<u64>,
}

/// Limits on TCP.
pub(crate) struct Limits {
    pub(crate) tcp_connections: usize,
    pub(crate) tcp_connections_per_network: usize,
    pub(crate) tcp_queries: usize,
    pub(crate) tcp_idle: Duration,
}

/// The plan that is served, for telling what the next one changes.
#[derive(Default)]
struct Applied {
    plan: Option<Arc<DnsPlan>>,
    /// The plan as it is served: with own addresses last where that is wanted.
    served: Option<Arc<DnsPlan>>,
    last: Last,
    complaints: BTreeSet<Complaint>,
    signers: Signers,
    transfer_keys: BTreeMap<HostName, (Sealed, TransferKey)>,
}

/// Own addresses that are answered last, and for which names.
#[derive(Default, PartialEq, Eq)]
struct Last {
    own: Vec<IpAddr>,
    names: BTreeSet<HostName>,
}

/// Something sealed that the server has to have open.
#[derive(Clone, Copy, Debug)]
pub enum Secret<'a> {
    /// The key that signs a zone, PKCS #8.
    ZoneKey(&'a HostName, &'a Sealed),
    /// A shared secret for transfers, by the key's name.
    TransferKey(&'a HostName, &'a Sealed),
}

/// Opens secrets; an error says why not.
pub type Open<'a> = &'a dyn Fn(Secret<'_>) -> Result<Vec<u8>, String>;

impl Shared {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// The addresses that are answered on.
    pub(crate) fn local(&self) -> &[SocketAddr] {
        &self.local
    }

    pub(crate) fn context<'p>(
        &self,
        policy: &'p Policy,
        now: u32,
        transport: Transport,
        client: IpAddr,
    ) -> Context<'p> {
        let leader_contact = self.leader_contact.load(Ordering::Relaxed);
        Context { policy, client, transport, now, leader_contact }
    }
}

/// The handle: gives the server its answers. Cheap to clone.
#[derive(Clone)]
pub struct DnsServer {
    shared: Arc<Shared>,
}

impl DnsServer {
    /// Takes the addresses by UDP and TCP and starts nothing: [`DnsTask::run`] does. Until the first
    /// [`apply`](Self::apply) every query is answered with SERVFAIL.
    ///
    /// # Errors
    /// A setting that cannot work, or an address that cannot be taken.
    pub fn bind(config: DnsConfig) -> Result<(Self, DnsTask), DnsError> {
        config.check()?;
        let listening = bind_all(&config)?;
        let shared = Arc::new(Shared {
            store: ArcSwap::default(),
            counters: Counters::default(),
            limiter: config.rate_limit.map(Limiter::new),
            slots: tcp::Slots::default(),
            limits: Limits {
                tcp_connections: config.max_tcp_connections,
                tcp_connections_per_network: config.max_tcp_connections_per_network,
                tcp_queries: config.max_tcp_queries,
                tcp_idle: config.tcp_idle,
            },
            policy: ArcSwap::from_pointee(Policy {
                nsid: config.nsid.into_bytes(),
                cookie_secrets: config.cookie_secrets,
                regions: config.regions,
            }),
            leader_contact: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            local: listening.iter().map(|l| l.address).collect(),
            applied: Mutex::default(),
            transfers: ArcSwap::default(),
            changes: watch::Sender::new(0),
        });
        let task = DnsTask { shared: Arc::clone(&shared), listening };
        Ok((Self { shared }, task))
    }

    /// Serves `plan`, which follows from `revision`, from the next query on; `open` opens the keys in it. A plan that
    /// is not newer than the one served is ignored. Takes milliseconds for thousands of names.
    ///
    /// # Errors
    /// The plan contradicts itself; what was served before stays.
    pub fn apply(&self, revision: Revision, plan: &DnsPlan, open: Open<'_>) -> Result<(), DnsError> {
        let mut applied = self.shared.applied.lock();
        if self.shared.store.load().revision >= Some(revision) {
            return Ok(());
        }
        applied.open_keys(plan, open);
        let plan = Arc::new(plan.clone());
        applied.serve(&self.shared, revision, &plan)?;
        let keys: TransferKeys = applied.transfer_keys.values().map(|(_, key)| key.entry()).collect();
        self.shared.transfers.store(Arc::new(Transfers { plan: Arc::clone(&plan), keys }));
        applied.plan = Some(plan);
        Ok(())
    }

    /// Answers `own` addresses last for these names (none: nowhere). For a node that hears from no leader, and has no
    /// tunnel to the sites behind them.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn put_last(&self, own: Vec<IpAddr>, names: BTreeSet<HostName>) -> Result<(), DnsError> {
        let mut applied = self.shared.applied.lock();
        let last = Last { own, names };
        if applied.last == last {
            return Ok(());
        }
        applied.last = last;
        let revision = self.shared.store.load().revision;
        match (revision, applied.plan.clone()) {
            (Some(revision), Some(plan)) => applied.serve(&self.shared, revision, &plan),
            _ => Ok(()),
        }
    }

    /// The plan that is served; none before the first.
    #[must_use]
    pub fn plan(&self) -> Option<Arc<DnsPlan>> {
        self.shared.applied.lock().plan.clone()
    }

    /// What the server answers `client` to a question by TCP rules, without asking over the network.
    pub(crate) fn ask_itself(&self, message: &[u8], client: IpAddr) -> Vec<u8> {
        let policy = self.shared.policy.load();
        let context = self.shared.context(&policy, udp::seconds(), Transport::Tcp, client);
        let mut reply = Vec::new();
        crate::answer(&self.shared.store.load(), &context, message, &mut reply);
        reply
    }

    /// The revision that is served; none before the first plan.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.shared.store.load().revision
    }

    /// Tells whether the node hears from the leader (at first it is taken to). Without it, `_acme-challenge` names
    /// are answered with SERVFAIL, so that a validator asks another server instead of believing stale data; all else
    /// is answered as before.
    pub fn set_leader_contact(&self, contact: bool) {
        self.shared.leader_contact.store(contact, Ordering::Relaxed);
    }

    /// Makes cookies with the first of these secrets from the next query on, and takes those of all.
    pub fn set_cookie_secrets(&self, secrets: &[CookieSecret]) {
        self.change_policy(|policy| policy.cookie_secrets = secrets.to_vec());
    }

    /// Finds regions in this database from the next query on.
    pub fn set_regions(&self, regions: Arc<GeoDatabase>) {
        self.change_policy(|policy| policy.regions = Some(Arc::clone(&regions)));
    }

    fn change_policy(&self, change: impl Fn(&mut Policy)) {
        self.shared.policy.rcu(|policy| {
            let mut policy = Policy::clone(policy);
            change(&mut policy);
            policy
        });
    }

    /// The addresses, with the ports that were chosen, in the order of the config.
    #[must_use]
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.shared.local
    }

    /// What has been done so far.
    #[must_use]
    pub fn counters(&self) -> DnsCounters {
        self.shared.counters.snapshot()
    }
}

impl Applied {
    /// Makes the answers of a plan and swaps them in.
    fn serve(&mut self, shared: &Shared, revision: Revision, plan: &Arc<DnsPlan>) -> Result<(), DnsError> {
        let plan = match self.last.names.is_empty() {
            true => Arc::clone(plan),
            false => Arc::new(plan.alone(&self.last.own, &self.last.names)),
        };
        let current = shared.store.load();
        if self.served.as_ref().is_some_and(|served| same_sets(served, &plan)) {
            shared.store.store(Arc::new(rebuild_soa(&current, revision, &plan, &self.signers)?));
        } else {
            let (store, complaints) = build(revision, &plan, &self.signers)?;
            tracing::debug!(%revision, zones = plan.zones.len(), names = store.names(), "DNS answers are new");
            shared.store.store(Arc::new(store));
            self.complain(complaints);
            shared.changes.send_modify(|count| *count += 1);
        }
        self.served = Some(plan);
        Ok(())
    }

    /// Opens the keys of a plan that are not open yet, and forgets those that are not in it.
    fn open_keys(&mut self, plan: &DnsPlan, open: Open<'_>) {
        let mut signers = Signers::new();
        for (zone, key) in plan.zones.iter().filter_map(|zone| Some((zone, zone.key.as_ref()?))) {
            let apex = &zone.apex;
            let known = self.signers.get(apex).filter(|signer| signer.has(zone.keys()));
            let opened = || {
                let private = open(Secret::ZoneKey(apex, &key.private))?;
                let mut signer = ZoneSigner::new(apex, &private, &key.public).map_err(|e| e.to_string())?;
                if let Some(next) = &zone.next_key {
                    let private = open(Secret::ZoneKey(apex, &next.private))?;
                    signer = signer.and(apex, &private, &next.public).map_err(|error| error.to_string())?;
                }
                Ok::<ZoneSigner, String>(signer)
            };
            match known.cloned().map_or_else(|| opened().map(Arc::new), Ok) {
                Ok(signer) => {
                    signers.insert(apex.clone(), signer);
                }
                Err(why) => {
                    tracing::warn!("the zone {apex} is answered unsigned, though it is signed: {why}")
                }
            }
        }
        self.signers = signers;
        self.transfer_keys.retain(|name, (sealed, _)| plan.transfer_keys.get(name) == Some(sealed));
        for (name, sealed) in &plan.transfer_keys {
            if self.transfer_keys.contains_key(name) {
                continue;
            }
            let opened = open(Secret::TransferKey(name, sealed));
            match opened.and_then(|secret| TransferKey::new(name, &secret).map_err(|e| e.to_string())) {
                Ok(key) => {
                    self.transfer_keys.insert(name.clone(), (sealed.clone(), key));
                }
                Err(why) => tracing::warn!("the transfer key {name} cannot be used: {why}"),
            }
        }
    }

    /// Warns of defects that the last plan did not have.
    fn complain(&mut self, complaints: Vec<Complaint>) {
        let complaints: BTreeSet<Complaint> = complaints.into_iter().collect();
        for complaint in complaints.difference(&self.complaints) {
            let Complaint { owner, kind, what } = complaint;
            match kind {
                Some(kind) => tracing::warn!("DNS record set {owner} {kind:?}: {what}"),
                None => tracing::warn!("DNS name {owner}: {what}"),
            }
        }
        self.complaints = complaints;
    }
}

/// The sockets, waiting to be served.
pub struct DnsTask {
    shared: Arc<Shared>,
    listening: Vec<Listening>,
}

/// How a UDP thread ended.
struct ThreadEnd {
    address: SocketAddr,
    reason: Option<String>,
}

/// Stops the threads however the task ends, by return or by being dropped.
struct StopOnDrop {
    shared: Arc<Shared>,
    sockets: Vec<Arc<Socket>>,
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for socket in &self.sockets {
            // Wakes the thread that waits in it. Linux calls the socket "not connected" and does it all the same.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl DnsTask {
    /// Answers until `shutdown`, then ends all threads and connections.
    ///
    /// # Errors
    /// A thread could not be started, or one ended by an error or a panic.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), DnsError> {
        // Dropping the task must end the connections as well.
        let shutdown = shutdown.child_token();
        let _end_connections = shutdown.clone().drop_guard();
        let connections = TaskTracker::new();
        let mut listeners = JoinSet::new();
        let (ends, mut ended) = mpsc::unbounded_channel();
        let mut stop = StopOnDrop { shared: Arc::clone(&self.shared), sockets: Vec::new() };

        for Listening { address, udp, tcp } in self.listening {
            for (number, socket) in udp.into_iter().enumerate() {
                let socket = Arc::new(socket);
                stop.sockets.push(Arc::clone(&socket));
                start_thread(number, address, socket, Arc::clone(&self.shared), ends.clone())?;
            }
            let listener = TcpListener::from_std(tcp).map_err(|error| DnsError::Ended {
                address,
                protocol: Protocol::Tcp,
                reason: error.to_string(),
            })?;
            let shared = Arc::clone(&self.shared);
            let serving = tcp::serve(listener, shared, shutdown.clone(), connections.clone());
            listeners.spawn(async move {
                serving.await;
                address
            });
        }
        drop(ends);
        let notifying = notify::run(Arc::clone(&self.shared), shutdown.clone());
        connections.spawn(notifying);
        tracing::info!(addresses = ?self.shared.local, "DNS is answering");

        let mut result = tokio::select! {
            // Listeners return at shutdown, which must not look like their fault.
            biased;
            () = shutdown.cancelled() => Ok(()),
            end = ended.recv() => Err(unexpected(end)),
            Some(end) = listeners.join_next() => Err(DnsError::Ended {
                address: end.as_ref().copied().unwrap_or(self.shared.local[0]),
                protocol: Protocol::Tcp,
                reason: end.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string()),
            }),
        };
        shutdown.cancel();
        drop(stop);
        connections.close();
        listeners.shutdown().await;
        let _ = timeout(DRAIN_TIME, connections.wait()).await;
        // The channel closes when the last thread is gone.
        while let Some(end) = ended.recv().await {
            if result.is_ok() && end.reason.is_some() {
                result = Err(unexpected(Some(end)));
            }
        }
        result
    }
}

fn unexpected(end: Option<ThreadEnd>) -> DnsError {
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    let end = end.unwrap_or(ThreadEnd { address: unspecified, reason: None });
    DnsError::Ended {
        address: end.address,
        protocol: Protocol::Udp,
        reason: end.reason.unwrap_or_else(|| "a thread returned".to_owned()),
    }
}

fn start_thread(
    number: usize,
    address: SocketAddr,
    socket: Arc<Socket>,
    shared: Arc<Shared>,
    ends: mpsc::UnboundedSender<ThreadEnd>,
) -> Result<(), DnsError> {
    // Linux shows 15 bytes of it.
    let name = format!("dns-udp-{number}");
    let body = move || {
        let served = catch_unwind(AssertUnwindSafe(|| udp::serve(&socket, &shared)));
        let reason = match served {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("receiving failed: {error}")),
            Err(panic) => Some(format!("panic: {}", panic_text(&*panic))),
        };
        drop(socket);
        // Nobody listens any more if the task was dropped.
        let _ = ends.send(ThreadEnd { address, reason });
    };
    let started = thread::Builder::new().name(name.clone()).spawn(body);
    started.map(drop).map_err(|source| DnsError::Thread { name, source })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_dies_ends_the_task_with_its_reason() {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let config = DnsConfig { listen, udp_threads: 1, ..DnsConfig::default() };
        let (_server, mut task) = DnsServer::bind(config).expect("a free address");
        // Nothing can be received on a stream that is connected to nobody.
        let deaf = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        task.listening[0].udp.push(deaf);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let ended = runtime.block_on(task.run(CancellationToken::new())).expect_err("an error");
        assert!(ended.to_string().contains("receiving failed"), "{ended}");
    }
}
