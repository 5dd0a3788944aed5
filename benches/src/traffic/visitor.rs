//! Who asks all the while: every 50 ms, each time on a new connection with a whole TLS handshake.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use pangolin_chaos::{
    dns::{self, Kind},
    host::Network,
    https::{Https, Response},
    load::Worker,
    prober::{INTERVAL, PATIENCE, Probe, VIA_HEADER},
};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// How long an address gets to take a connection before the next one is tried as well (RFC 8305 §5 recommends this).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How the visitor comes to an address.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// Always through this node.
    Entry(SocketAddr),
    /// Through the first of these that takes connections, and then on through that one, as a browser does.
    First(Vec<SocketAddr>),
    /// Through the first address that this resolver has and that takes a connection, as a program does that resolves
    /// the name for each connection.
    Resolver(SocketAddr),
}

/// Asks until it is stopped.
pub(crate) struct Visitor {
    probes: Arc<Mutex<Vec<Probe>>>,
    worker: Worker,
}

struct Asker {
    https: Https,
    way: Way,
    host: String,
    /// Which of the addresses took the last connection.
    current: AtomicUsize,
}

impl Visitor {
    /// Begins to ask for `https://HOST/` from a network.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(network: &Network, https: Https, way: Way, host: &str) -> Result<Self> {
        let probes = Arc::<Mutex<Vec<Probe>>>::default();
        let (noted, host) = (Arc::clone(&probes), host.to_owned());
        let worker = Worker::start("visitor", Some(network), move |stop| async move {
            let asker = Rc::new(Asker { https, way, host, current: AtomicUsize::new(0) });
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut out = JoinSet::new();
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                let (asker, noted) = (Rc::clone(&asker), Arc::clone(&noted));
                out.spawn_local(async move {
                    let probe = asker.probe().await;
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(probe);
                });
                while out.try_join_next().is_some() {}
            }
            out.join_all().await;
        })?;
        Ok(Self { probes, worker })
    }

    /// What is known so far.
    pub(crate) fn so_far(&self) -> Vec<Probe> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops asking, waits for the answers that are still out, and gives all.
    ///
    /// # Errors
    /// The thread has failed.
    pub(crate) fn stop(self) -> Result<Vec<Probe>> {
        self.worker.stop()?;
        Ok(std::mem::take(&mut self.probes.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Asker {
    async fn probe(&self) -> Probe {
        let sent = Instant::now();
        let result = match timeout(PATIENCE, self.ask()).await {
            Ok(Ok(response)) if response.status.is_success() => {
                Ok(response.header(VIA_HEADER).map(str::to_owned))
            }
            Ok(Ok(response)) => Err(format!("status {}", response.status.as_u16())),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        Probe { sent, took: sent.elapsed(), result }
    }

    async fn ask(&self) -> Result<Response> {
        let (addresses, first) = match &self.way {
            Way::Entry(at) => return self.https.get(*at, &self.host, "/", PATIENCE).await,
            Way::First(addresses) => (addresses.clone(), self.current.load(Ordering::Relaxed)),
            Way::Resolver(resolver) => (cached(*resolver, &self.host).await?, 0),
        };
        for step in 0..addresses.len() {
            let index = (first + step) % addresses.len();
            let Ok(Ok(stream)) = timeout(ATTEMPT_DELAY, TcpStream::connect(addresses[index])).await else {
                continue;
            };
            self.current.store(index, Ordering::Relaxed);
            return self.https.get_on(stream, &self.host, "/", PATIENCE).await;
        }
        bail!("none of {addresses:?} takes a connection")
    }
}

/// What a resolver has for the name, in its order.
///
/// # Errors
/// It has nothing.
pub(super) async fn cached(resolver: SocketAddr, host: &str) -> Result<Vec<SocketAddr>> {
    let answer = dns::resolve(resolver, host, Kind::A).await.context("asking the resolver")?;
    ensure!(answer.code == 0 && !answer.addresses.is_empty(), "the resolver has no address: {answer:?}");
    let address = |ip: &IpAddr| SocketAddr::new(*ip, 443);
    Ok(answer.addresses.iter().map(address).collect())
}
