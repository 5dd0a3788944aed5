//! The composition root: the only file that names every part.
//!
//! Everything is bound before anything runs, so that a port in use is told before the node takes part in anything.

mod introduction;
mod settings;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use introduction::{First, introduce};
use pangolin_api::Api;
use pangolin_core::{
    ClusterState, NodeId,
    plan::plan,
    record::{AdminState, NodeRole},
};
use pangolin_dns::DnsServer;
use pangolin_edge::BoundEdge;
use pangolin_peer::{BoundPeers, Peers, Service};
use pangolin_raft::{Cluster, RaftConfig, Timing};
use pangolin_tunnel::{TunnelLayer, control::ControlService};
use pangolin_wire::JournalEvent;
use settings::{check_free, dns_config, edge_config, tunnel_config};
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    backup::Backups,
    clock,
    config::{Config, TimingChoice},
    keys::Keys,
    leader::Leading,
    local::{
        agreement::Watch,
        answers::NodeAnswers,
        checks::{Checks, Findings},
        control::{ControlHost, SitePort},
        dialer::{DatagramRelay, NodeDialer, Relay},
        journal::Journal,
        keyring::{Keeper, KeyringForPeers},
        layers::{Health, Layers, SESSION_TOKENS},
        local_sites::LocalSites,
        moves::Moves,
        reach::Reach,
        regions,
        reports::{Carried, Inbox, Reporter, Reports},
        socket::LocalSocket,
        targets::Targets,
        txt::OwnDns,
        verbs::ForPeers,
        witness::Witness,
        zones::Zones,
    },
    membership::{Door, Renewal, is_interrupted, spec_of},
    metrics::{BoundMetrics, LayerSources, Sources},
    state_dir::{Member, StateDir, StateDirError},
    tasks::Tasks,
};

/// How long a just started node tries to commit what it has to say, before it tries again.
const RETRY: Duration = Duration::from_millis(500);
/// How long the others have to refuse a node before it takes itself for removed: a node that is known on the leader
/// already is known everywhere much sooner.
const REMOVED_AFTER: Duration = Duration::from_secs(5);
/// How long a node that starts waits for what the others know before it lets clients in.
const COMPANY_WAIT: Duration = Duration::from_secs(3);
/// How often it looks meanwhile.
const COMPANY_POLL: Duration = Duration::from_millis(20);
/// Layers that have not come to the end of a round for this long hang: a round begins at the latest every 30 s.
const STALLED: Duration = Duration::from_secs(90);

/// A node that knows who it is and takes part in the cluster, before it carries traffic.
struct Core {
    config: Config,
    node: NodeId,
    cluster: Cluster,
    peers: Peers,
    reports: Reports,
    /// None on a witness.
    keyring: Option<Keys>,
    answers: NodeAnswers,
    left: watch::Receiver<bool>,
    /// When this run began, by the steady clock.
    started: pangolin_core::Timestamp,
    /// For metrics, once there are layers.
    layers: Arc<OnceLock<LayerSources>>,
    /// Told when the node is about to stop.
    stopping: CancellationToken,
}

/// Runs a node until it is told to stop, leaves the cluster, or a part of it fails.
///
/// Decisions are made on the runtime that this is called on, traffic is carried on `traffic`.
///
/// # Errors
/// What failed, where, and what to do.
pub async fn run(config: Config, traffic: Handle) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tasks = Tasks::new(traffic.clone());

    let state_dir = StateDir::new(&config.state_dir);
    if is_interrupted(&config.state_dir) {
        return Err(StateDirError::Recovering(config.state_dir).into());
    }
    let member = state_dir.load()?;
    let metrics = BoundMetrics::bind(&config.metrics).await?;
    let (socket, bound_edge) = {
        let _on = traffic.enter();
        let socket = LocalSocket::bind(config.socket(), &config.name)?;
        // A witness serves nobody.
        let edge = match member.role {
            NodeRole::Data => Some(BoundEdge::bind(edge_config(&config))?),
            NodeRole::Witness => None,
        };
        (socket, edge)
    };
    if bound_edge.is_some() {
        check_free(&config)?;
    }
    // A long log may take a while to be read: whoever is told to stop meanwhile has not begun anything yet.
    let core = tokio::select! {
        core = start_core(config, member, &mut tasks) => core?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let api = Api::new(core.cluster.clone(), Arc::new(core.answers.clone()));
    let sources = Sources {
        node: core.node,
        cluster: core.cluster.clone(),
        peers: core.peers.clone(),
        started: core.started,
        layers: core.layers.clone(),
    };
    tasks.spawn_traffic("metrics", metrics.run(sources, tasks.shutdown()));
    tasks.spawn_front("local socket", socket.run(api.clone(), tasks.closing()));

    let (cluster, mut left) = (core.cluster.clone(), core.left.clone());
    let mut control = None;
    let outcome = tokio::select! {
        outcome = async {
            let first = tokio::select! {
                first = first_state(&core) => first?,
                ended = tasks.first_end() => return Err(ended.into()),
            };
            match bound_edge.zip(core.keyring.clone()) {
                Some((edge, keyring)) => {
                    control = Some(start_layers(&core, keyring, &first, api, edge, &mut tasks).await?);
                }
                None => start_witness(&core, &mut tasks),
            }
            notify_ready();
            Err::<(), anyhow::Error>(tasks.first_end().await.into())
        } => outcome,
        error = cluster.failed() => Err(error.into()),
        _ = left.wait_for(|left| *left) => {
            info!("this node has left the cluster");
            Ok(())
        }
        _ = terminate.recv() => {
            info!("told to stop");
            Ok(())
        }
        _ = interrupt.recv() => {
            info!("interrupted");
            Ok(())
        }
    };
    // Tasks tell their errors as text; whether this node may come back, its exit status has to say.
    let outcome =
        outcome.map_err(|error| state_dir.check_agreement(core.node).map_or_else(Into::into, |()| error));
    let reason = match &outcome {
        Err(error) => format!("{error:#}"),
        Ok(()) if *core.left.borrow() => "it has left the cluster".to_owned(),
        Ok(()) => "told to stop".to_owned(),
    };
    core.stopping.cancel();
    core.answers.journal.note(JournalEvent::NodeStopped { reason });
    // The cause of the end is logged by the caller; a service manager that is not there needs no telling.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    if let Some(control) = control {
        let control: Arc<ControlService> = control;
        control.close().await;
    }
    cluster.shutdown().await;
    tasks.end().await;
    if *left.borrow() {
        let aside = state_dir.retire()?;
        info!(aside = %aside.display(), "the state of the node that left has been put aside");
    }
    outcome
}

/// Peers, Raft, and what the leader does.
async fn start_core(config: Config, member: Member, tasks: &mut Tasks) -> anyhow::Result<Core> {
    let shutdown = tasks.shutdown();
    let Member { identity, peers: known, role: _, keyring, tunnel_key, bootstrap } = member;
    let node = identity.node;
    let spki = identity.key.spki_digest();

    let (peers, peers_task) = BoundPeers::bind(config.peer_listen).await?.start(identity, tasks.traffic());
    peers.set_plan(known);
    tasks.spawn("peers", peers_task.run(shutdown.clone()));

    let timing = match config.timing {
        TimingChoice::Lan => Timing::lan(),
        TimingChoice::Wan => Timing::wan(),
    };
    let state_dir = StateDir::new(&config.state_dir);
    let keyring = keyring.map(|keyring| Keys::new(keyring, state_dir.keyring_file()));
    state_dir.check_log(node)?;
    state_dir.check_agreement(node)?;
    let cluster =
        Cluster::start(RaftConfig { timing, ..RaftConfig::new(node, &config.state_dir) }, peers.clone())
            .await?;
    state_dir.note_begun()?;
    let state = cluster.state();
    if state.cluster().is_some() {
        peers.set_plan(plan(&state, node).peers);
    }
    if bootstrap.is_some() && !cluster.is_bootstrapped() {
        cluster.bootstrap().await?;
    }

    let reports = Reports::default();
    let (journal, journal_task) = Journal::new(&config.state_dir, node, cluster.watch(), reports.clone());
    tasks.spawn("journal", journal_task.run(shutdown.clone()));
    let first_key = state_dir.recovery()?;
    let backups = Backups::new(config.backup.clone(), node, cluster.clone(), keyring.clone(), first_key);
    tasks.spawn("backups", backups.clone().run(shutdown.clone()));
    tasks.spawn("lineage", notice_lineage(peers.clone(), shutdown.clone()));
    let own_dns = OwnDns::new(&config.dns);
    let leading = Leading::new(
        node,
        cluster.clone(),
        peers.clone(),
        reports.clone(),
        keyring.clone(),
        own_dns.clone(),
        timing,
    );
    let leading = Arc::new(leading);
    let (left_tx, left) = watch::channel(false);
    let stopping = CancellationToken::new();
    let answers = NodeAnswers {
        node,
        cluster: cluster.clone(),
        peers: peers.clone(),
        reports: reports.clone(),
        keyring: keyring.clone(),
        leading: leading.clone(),
        journal,
        backups,
        zones: Zones::new(cluster.clone(), keyring.clone()),
        targets: Targets::default(),
        left: left_tx,
        stopping: stopping.clone(),
    };
    let inbox = Inbox { reports: reports.clone(), peers: peers.clone() };
    peers.serve(Service::Report, Arc::new(inbox));
    peers.serve(Service::Status, Arc::new(ForPeers(answers.clone())));
    peers.serve(Service::Admin, Arc::new(ForPeers(answers.clone())));
    peers.serve(Service::Txt, Arc::new(own_dns));
    if let Some(keyring) = keyring.clone() {
        let handing = KeyringForPeers { cluster: cluster.clone(), keys: keyring.clone() };
        peers.serve(Service::Keyring, Arc::new(handing));
        let (own, keys) = (cluster.clone(), keyring.clone());
        let keeper = Keeper { node, cluster: own, peers: peers.clone(), keys };
        tasks.spawn("keyring", keeper.run(shutdown.clone()));
        peers.admit(Arc::new(Door { cluster: cluster.clone(), keyring, node, answers: answers.clone() }));
    }
    tasks.spawn("leader's duties", leading.run(shutdown.clone()));
    tasks.spawn(
        "removal",
        notice_removal(cluster.clone(), peers.clone(), answers.left.clone(), shutdown.clone()),
    );
    let watch = Watch {
        node,
        cluster: cluster.clone(),
        reports: reports.clone(),
        peers: peers.clone(),
        state_dir: state_dir.clone(),
    };
    tasks.spawn("agreement", watch.run(shutdown.clone()));
    let first = First { created: bootstrap.map(|created| *created), recovery: first_key };
    let renewal = Renewal {
        state_dir,
        cluster: cluster.clone(),
        keyring: keyring.clone(),
        answers: answers.clone(),
        peers: peers.clone(),
    };
    tasks.spawn("own certificate", renewal.run(shutdown.clone()));

    let spec = spec_of(&config, spki, tunnel_key.public());
    tasks.spawn("introduction", introduce(cluster.clone(), node, first, spec, shutdown));
    Ok(Core {
        config,
        node,
        cluster,
        peers,
        reports,
        keyring,
        answers,
        left,
        started: clock::steady(),
        layers: Arc::default(),
        stopping,
    })
}

/// Ends a node that has been removed while it could not be told, or by another node: it would answer for the cluster
/// from a state that no longer moves.
async fn notice_removal(
    cluster: Cluster,
    peers: Peers,
    left: watch::Sender<bool>,
    shutdown: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let mut since = None;
    loop {
        if peers.is_disowned() {
            let since = *since.get_or_insert_with(Instant::now);
            // One that knows that it is to leave needs no second thought.
            let own = cluster.state().nodes().get(&peers.node()).map(|node| node.admin);
            if own == Some(AdminState::Leaving) || since.elapsed() >= REMOVED_AFTER {
                warn!("the other nodes say that this one has been removed from the cluster");
                left.send_replace(true);
            }
        } else {
            since = None;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Ends a node of an abandoned history: another one has been made the beginning of a new one without it. What it would
/// answer is no longer the cluster's word, and its state must not be mixed with the new one.
async fn notice_lineage(peers: Peers, shutdown: CancellationToken) -> anyhow::Result<()> {
    loop {
        if let Some(reason) = peers.superseded() {
            anyhow::bail!("{reason}");
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// What a witness runs in place of the layers: it knows the members, and reports whom it sees.
fn start_witness(core: &Core, tasks: &mut Tasks) {
    let shutdown = tasks.shutdown();
    let (reached_tx, reached) = watch::channel(Default::default());
    let witness = Witness {
        node: core.node,
        cluster: core.cluster.clone(),
        peers: core.peers.clone(),
        reports: core.reports.clone(),
        reached: reached_tx,
    };
    tasks.spawn("members", witness.run(shutdown.clone()));
    let reporter = Reporter {
        reports: core.reports.clone(),
        peers: core.peers.clone(),
        cluster: core.cluster.clone(),
        carried: Carried::nothing(),
        started: core.started,
        stopping: core.stopping.clone(),
    };
    tasks.spawn("reports", reporter.run(shutdown.clone()));
    tasks.spawn("watchdog", watchdog(reached, shutdown));
    info!(node = %core.node, name = %core.config.name, "ready, as a witness");
}

/// DNS, tunnels, edge: everything that carries traffic. Needs the first state.
async fn start_layers(
    core: &Core,
    keyring: Keys,
    first: &ClusterState,
    api: Api,
    edge: BoundEdge,
    tasks: &mut Tasks,
) -> anyhow::Result<Arc<ControlService>> {
    let shutdown = tasks.shutdown();
    let first_plan = plan(first, core.node);
    let (address, network) = first_plan
        .tunnel
        .address
        .zip(first_plan.tunnel.network)
        .ok_or_else(|| anyhow::anyhow!("the state knows no tunnel address for node {}", core.node))?;

    let state_dir = StateDir::new(&core.config.state_dir);
    let traffic = tasks.traffic().clone();
    let opening = TunnelLayer::open(tunnel_config(&core.config, &state_dir)?, address, network);
    let (tunnel, tunnel_task) = traffic.spawn(opening).await??;
    tasks.spawn_traffic("tunnels", tunnel_task.run(shutdown.clone()));
    let (config, regions) = dns_config(core, &keyring.now())?;
    let (dns, dns_task) = {
        let _on = traffic.enter();
        DnsServer::bind(config)?
    };
    if let Some(file) = regions {
        tasks.spawn("regions", regions::follow(file, dns.clone(), shutdown.clone()));
    }

    core.answers.zones.serve(dns.clone());

    let (tunnel_plan, tunnel_plans) = watch::channel(Arc::default());
    let edge_plan = Arc::new(ArcSwap::default());
    let port = SitePort {
        cluster: core.cluster.clone(),
        node: core.node,
        plan: tunnel_plans.clone(),
        reports: core.reports.clone(),
        peers: core.peers.clone(),
        wireguard: tunnel.listen_address(),
    };
    // `Health` looks after it from here on.
    let token_key = keyring.now().derive_one(SESSION_TOKENS);
    let control = Arc::new(ControlService::new(Arc::new(port), *token_key, clock::now));
    let local_sites = LocalSites {
        node: core.node,
        plan: edge_plan.clone(),
        policy: Arc::new(core.config.local_targets.clone()),
    };
    let reach = Reach { tunnel: tunnel.clone(), local_sites };
    let dialer = NodeDialer {
        node: core.node,
        reach: reach.clone(),
        peers: core.peers.clone(),
        reports: core.reports.clone(),
        plan: edge_plan.clone(),
    };
    let host = ControlHost { control: control.clone(), api };
    let (edge, edge_task) = edge.start(Arc::new(dialer), Arc::new(host));
    let findings = Findings::default();
    core.answers.targets.serve(edge.clone(), findings.clone());
    core.peers.serve(Service::Relay, Arc::new(Relay(reach.clone())));
    core.peers.serve(Service::Datagrams, Arc::new(DatagramRelay(reach.clone())));

    let (reached_tx, mut reached) = watch::channel(Default::default());
    let layers = Layers {
        node: core.node,
        cluster: core.cluster.clone(),
        peers: core.peers.clone(),
        keyring: keyring.clone(),
        reports: core.reports.clone(),
        dns: dns.clone(),
        tunnel: tunnel.clone(),
        edge: edge.clone(),
        tunnel_plan,
        edge_plan: edge_plan.clone(),
        reached: reached_tx,
    };
    // Bringing a layer in line starts what carries its traffic.
    tasks.spawn_traffic("layers", layers.run(shutdown.clone()));
    // Nobody is answered before the first plan stands, and it is known which nodes have tunnels to the sites.
    reached.wait_for(|revision| *revision >= first.revision()).await?;
    let (serving, let_in) = watch::channel(Some(false));
    // The others may be waiting for this node in the same way.
    let reporter = Reporter {
        reports: core.reports.clone(),
        peers: core.peers.clone(),
        cluster: core.cluster.clone(),
        carried: Carried {
            tunnels: tunnel.seen(),
            sockets: control.attached(),
            targets: control.target_health(),
            found: findings.told(),
            closed_ports: edge.port_problems(),
            attachments: control.attachments(),
            farewells: control.farewells(),
            serving: let_in,
        },
        started: core.started,
        stopping: core.stopping.clone(),
    };
    tasks.spawn("reports", reporter.run(shutdown.clone()));
    if tokio::time::timeout(COMPANY_WAIT, company(core)).await.is_err() {
        info!("letting clients in, though some nodes have not said yet which tunnels they have");
    }
    tasks.spawn_front("edge", edge_task.run(tasks.closing()));
    tasks.spawn_front("dns", dns_task.run(tasks.closing()));
    serving.send_replace(Some(true));
    // A node has them once.
    let _ = core.layers.set(LayerSources {
        dns: dns.clone(),
        edge: edge.clone(),
        tunnel: tunnel.clone(),
        keys: keyring.clone(),
    });
    let checks = Checks {
        node: core.node,
        reach,
        edge: edge.clone(),
        edge_plan,
        tunnel_plan: tunnel_plans.clone(),
        reached: reached.clone(),
        reports: core.reports.clone(),
        connectors: control.target_health(),
        findings: findings.clone(),
    };
    tasks.spawn_traffic("checks", checks.run(shutdown.clone()));
    let health = Health {
        node: core.node,
        reports: core.reports.clone(),
        peers: core.peers.clone(),
        tunnel: tunnel.clone(),
        edge,
        dns,
        cluster: core.cluster.clone(),
        control: control.clone(),
        keyring,
        found: findings.told(),
    };
    tasks.spawn("health", health.run(shutdown.clone()));
    let moves = Moves {
        node: core.node,
        control: control.clone(),
        plan: tunnel_plans,
        cluster: core.cluster.clone(),
        peers: core.peers.clone(),
        reports: core.reports.clone(),
    };
    tasks.spawn("moves", moves.run(shutdown.clone()));
    tasks.spawn("watchdog", watchdog(reached, shutdown));
    info!(node = %core.node, name = %core.config.name, revision = %first.revision(), "ready");
    Ok(control)
}

/// Waits until every other node has said what it sees, or is known not to answer.
async fn company(core: &Core) {
    let known = |node: NodeId| core.reports.look_at(node, |_| ()).is_some() || core.peers.is_suspect(node);
    loop {
        let state = core.cluster.state();
        let mut others = state.nodes().values().filter(|node| node.id != core.node);
        if others.all(|node| node.spec.role == NodeRole::Witness || known(node.id)) {
            return;
        }
        tokio::time::sleep(COMPANY_POLL).await;
    }
}

/// Waits until this node is in the state: at once after a restart, a moment after `init`, and after `join` once the
/// leader has found this node.
async fn first_state(core: &Core) -> anyhow::Result<Arc<ClusterState>> {
    let mut states = core.cluster.watch();
    let mut told = Instant::now();
    loop {
        let state = states.borrow_and_update().clone();
        if let Some(known) = state.nodes().get(&core.node) {
            if known.spec.name != core.config.name {
                warn!(
                    configured = %core.config.name, name = %known.spec.name,
                    "node.name cannot be changed after a node has joined: it keeps its name"
                );
            }
            return Ok(state);
        }
        if told.elapsed() > Duration::from_secs(5) {
            told = Instant::now();
            warn!(
                "still waiting for the first state: is a majority of the nodes running, and do they reach this one?"
            );
        }
        match tokio::time::timeout(Duration::from_secs(1), states.changed()).await {
            Ok(changed) => changed?,
            // Admitted nodes introduce themselves to nobody: the leader comes to them.
            Err(_) => continue,
        }
    }
}

/// Feeds the service manager's watchdog as long as the layers keep up with the state.
async fn watchdog(
    mut reached: watch::Receiver<pangolin_core::Revision>,
    shutdown: CancellationToken,
) -> Result<(), std::convert::Infallible> {
    let Some(interval) = sd_notify::watchdog_enabled() else {
        shutdown.cancelled().await;
        return Ok(());
    };
    let mut progress = Instant::now();
    loop {
        if reached.has_changed().unwrap_or(false) {
            progress = Instant::now();
        }
        let revision = *reached.borrow_and_update();
        if progress.elapsed() < STALLED {
            let status = format!("revision {revision}");
            let states = [sd_notify::NotifyState::Watchdog, sd_notify::NotifyState::Status(&status)];
            // A service manager that went away has nothing to restart.
            let _ = sd_notify::notify(&states);
        } else {
            warn!(%revision, "the layers hang: the service manager will restart this node");
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(interval / 3) => {}
        }
    }
}

fn notify_ready() {
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}
