//! `join`: asks the cluster to let this host in. One-shot: writes the state directory and ends; the node becomes a
//! member that counts when it runs.

use std::{
    net::SocketAddr,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use pangolin_core::{
    NodeId, Slug, Timestamp,
    plan::{PeerPlan, PlannedPeer},
    record::NodeRole,
};
use pangolin_peer::{
    identity::{Keyring, NodeIdentity},
    join::{JoinClient, JoinError},
};
use zeroize::Zeroizing;

use super::{Answer, Ask, CLOCK_TOLERANCE, Invitation, MembershipError, Welcome, check as probes, spec_of};
use crate::{config::Config, state_dir::StateDir};

/// What `join` is told.
#[derive(Debug)]
pub struct JoinOptions {
    /// What `token create` printed.
    pub invitation: Invitation,
}

/// What this host is from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Its id.
    pub node: NodeId,
    /// What it does.
    pub role: NodeRole,
}

/// One line of what `join --check` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was tried.
    pub what: String,
    /// How it went; none = well, or not tried.
    pub problem: Option<String>,
    /// Why it could not be tried; none = it was.
    pub untried: Option<String>,
}

impl Finding {
    fn of(what: String, problem: Option<String>) -> Self {
        let (problem, untried) = probes::outcome(problem);
        Self { what, problem, untried }
    }
}

/// Joins the cluster.
///
/// # Errors
/// The state directory holds a node, no node can be reached, or the cluster says no. Repeating it is safe.
pub async fn join(config: &Config, options: &JoinOptions) -> Result<Joined, MembershipError> {
    let state_dir = StateDir::new(&config.state_dir);
    state_dir.create()?;
    state_dir.need_empty()?;
    let key = state_dir.node_key()?;
    let tunnel_key = state_dir.tunnel_key()?;
    let spec = spec_of(config, key.spki_digest(), tunnel_key.public());
    let ask = Ask::Join { csr: BASE64_STANDARD.encode(key.csr_der()?), spec: Box::new(spec) };
    let Answer::Welcome(welcome) = request(&options.invitation, &ask).await? else {
        return Err(MembershipError::Answer("it is no welcome".into()));
    };
    let (identity, peers, keyring) = unpack(&welcome, key)?;
    let node = identity.node;
    state_dir.store(&identity, &peers, keyring.as_ref(), None)?;
    state_dir.give_to_owner()?;
    Ok(Joined { node, role: welcome.role })
}

/// Tries every port from both sides, with every node, and the clocks; asks whether the cluster would let this host in,
/// and whether its state directory is free. Nothing is written, the token is not used up.
///
/// # Errors
/// No node can be asked.
pub async fn check(config: &Config, options: &JoinOptions) -> Result<Vec<Finding>, MembershipError> {
    let ports = probes::ports(config);
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let responders = probes::Responders::open(&ports, &nonce).await;
    let state_dir = StateDir::new(&config.state_dir);
    let free = state_dir.need_empty().err().map(|error| error.to_string());
    // One that cannot be read is a problem already.
    let key = state_dir.found_key().ok().flatten().map(|key| key.spki_digest());
    let mut findings = vec![Finding::of(format!("no node in {}", config.state_dir.display()), free)];
    findings.extend(
        responders
            .failed
            .iter()
            .map(|(probe, error)| Finding::of(format!("open {probe}"), Some(error.clone()))),
    );
    let mut asked: Vec<probes::Probe> = Vec::new();
    for probe in ports.into_iter().flat_map(|port| port.probes) {
        let failed = responders.failed.iter().any(|(failed, _)| *failed == probe);
        if !failed && !asked.contains(&probe) {
            asked.push(probe);
        }
    }
    let beyond = asked.split_off(asked.len().min(probes::PROBES_MAX));
    findings.extend(beyond.iter().map(|probe| {
        let untried = Some(format!("more than {} ports are not tried", probes::PROBES_MAX));
        Finding { what: format!("{probe}"), problem: None, untried }
    }));

    let ask = Ask::Check {
        probes: asked.clone(),
        nonce,
        name: config.name.clone(),
        peer_address: config.peer_advertise,
        key,
    };
    let before = (SystemTime::now(), Instant::now());
    let answer = request(&options.invitation, &ask).await?;
    let Answer::Checked { now, views, peers, edges, unasked, refusal } = answer else {
        return Err(MembershipError::Answer("it is no report".into()));
    };
    let what = format!("the cluster lets {} in", config.name);
    findings.push(Finding::of(what, refusal));
    let took = before.1.elapsed();
    for view in views {
        findings.push(clock_finding(&view, now, before.0, took));
        for (probe, problem) in asked.iter().zip(view.results) {
            findings.push(Finding::of(format!("from {} to {probe}", view.node), problem));
        }
    }
    for (node, reason) in unasked {
        let problem = format!("{node} could not be asked: {reason}");
        findings.push(Finding::of(format!("from {node} to this host"), Some(problem)));
    }
    findings.extend(outward(peers, edges).await);
    Ok(findings)
}

/// Tries what this host has to reach, all at once.
async fn outward(peers: Vec<(Slug, SocketAddr)>, edges: Vec<(Slug, SocketAddr)>) -> Vec<Finding> {
    let ports =
        peers.into_iter().map(|peer| ("peers", peer)).chain(edges.into_iter().map(|edge| ("https", edge)));
    let tried = ports.map(|(port, (name, address))| async move {
        let problem = probes::reaches(address).await;
        Finding::of(format!("from here to {name}, {port} {address}/tcp"), problem)
    });
    futures_util::future::join_all(tried).await
}

/// The other clock was read at some moment of the exchange: only what lies outside it counts as a difference.
fn clock_finding(
    view: &probes::View,
    answerer: Timestamp,
    asked_at: SystemTime,
    took: std::time::Duration,
) -> Finding {
    let theirs = Timestamp(answerer.0.saturating_add_signed(view.ahead_ms));
    let asked_at = Timestamp(asked_at.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64));
    let ahead = theirs.since(asked_at + took);
    let behind = asked_at.since(theirs);
    let off = ahead.max(behind);
    let problem = (off > CLOCK_TOLERANCE).then(|| {
        let side = if ahead > behind { "behind" } else { "ahead of" };
        format!(
            "this host's clock is {:.1} s {side} that of {}: start a time service (NTP)",
            off.as_secs_f32(),
            view.node
        )
    });
    Finding::of(format!("this clock agrees with that of {}", view.node), problem)
}

/// Asks the nodes of the invitation.
async fn request(invitation: &Invitation, ask: &Ask) -> Result<Answer, MembershipError> {
    let unreadable = |error: serde_json::Error| MembershipError::Answer(error.to_string());
    let body = serde_json::to_vec(ask).map_err(unreadable)?;
    let bytes = in_turn(&invitation.nodes, async |address| {
        JoinClient::connect(address, &invitation.token).await?.request(&body).await.map(Zeroizing::new)
    })
    .await?;
    serde_json::from_slice(&bytes).map_err(unreadable)
}

/// Asks the nodes in turn until one answers. A refusal is final: the others would say the same. One that cannot tell now
/// has not answered.
async fn in_turn<T>(
    nodes: &[SocketAddr],
    ask: impl AsyncFn(SocketAddr) -> Result<T, JoinError>,
) -> Result<T, MembershipError> {
    let mut failures = Vec::new();
    for address in nodes {
        match ask(*address).await {
            Ok(answer) => return Ok(answer),
            Err(JoinError::Refused(reason)) => return Err(MembershipError::Refused(reason)),
            Err(error) => failures.push((*address, error.to_string())),
        }
    }
    Err(MembershipError::NoAnswer(failures))
}

fn unpack(
    welcome: &Welcome,
    key: pangolin_peer::identity::NodeKey,
) -> Result<(NodeIdentity, PeerPlan, Option<Keyring>), MembershipError> {
    let bad = |error: &dyn std::fmt::Display| MembershipError::Answer(error.to_string());
    let base64 = |text: &str| BASE64_STANDARD.decode(text).map_err(|error| bad(&error));
    let cluster = welcome.cluster.parse().map_err(|error| bad(&error))?;
    let keyring = match (&welcome.keyring, welcome.role) {
        (Some(keyring), NodeRole::Data) => Some(Keyring::from_bytes(&Zeroizing::new(base64(keyring)?))?),
        (None, NodeRole::Witness) => None,
        (_, role) => return Err(bad(&format!("its keyring does not go with the role {role:?}"))),
    };
    let nodes = welcome
        .peers
        .iter()
        .map(|peer| {
            let planned = PlannedPeer { name: peer.name.clone(), address: peer.address, spki: peer.spki };
            (NodeId(peer.node), planned)
        })
        .collect();
    let identity = NodeIdentity {
        cluster,
        lineage: welcome.lineage,
        node: NodeId(welcome.node),
        authority: base64(&welcome.authority)?,
        certificate: base64(&welcome.certificate)?,
        key,
    };
    let peers = PeerPlan {
        cluster: Some(cluster),
        lineage: welcome.lineage,
        known_until: welcome.node,
        nodes,
        ..PeerPlan::default()
    };
    Ok((identity, peers, keyring))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn nodes_are_asked_in_turn_until_one_says_yes_or_no() {
        const YES: &str = "yes";
        const NO: &str = "no";
        const LATER: &str = "later";
        const GONE: &str = "gone";
        for (nodes, asked, end) in [
            (&[YES, NO][..], 1, "Ok(())"),
            (&[NO, YES], 1, "Refused(\"full\")"),
            (&[LATER, YES], 2, "Ok(())"),
            (&[LATER, NO], 2, "Refused(\"full\")"),
            (&[GONE, LATER, YES], 3, "Ok(())"),
            (&[LATER, GONE], 2, "behind"),
            (&[], 0, "NoAnswer([])"),
        ] {
            let addresses: Vec<SocketAddr> =
                (0..nodes.len()).map(|port| ([127, 0, 0, 1], port as u16).into()).collect();
            let count = std::cell::Cell::new(0);
            let answered = in_turn(&addresses, async |address| {
                count.set(count.get() + 1);
                match nodes[usize::from(address.port())] {
                    YES => Ok(()),
                    NO => Err(JoinError::Refused("full".into())),
                    LATER => Err(JoinError::Later("behind".into())),
                    _ => Err(JoinError::Malformed),
                }
            });
            let told = format!("{:?}", answered.now_or_never().expect("nothing to wait for"));
            assert!(told.contains(end), "{nodes:?}: {told}");
            assert_eq!(count.get(), asked, "{nodes:?}");
        }
    }

    #[test]
    fn a_clock_within_the_exchange_agrees_and_one_far_off_is_named_with_its_side() {
        let asked = UNIX_EPOCH + Duration::from_secs(1000);
        let took = Duration::from_secs(1);
        let view = |ahead_ms| probes::View { node: "n1".parse().expect("a name"), ahead_ms, results: vec![] };
        let problem =
            |answerer, ahead_ms| clock_finding(&view(ahead_ms), Timestamp(answerer), asked, took).problem;
        assert_eq!(problem(1_000_500, 0), None);
        assert_eq!(problem(998_500, 0), None);
        assert!(problem(1_000_500, -10_000).expect("another node's clock counts as well").contains("n1"));
        let ahead = problem(990_000, 0).expect("a problem");
        assert!(ahead.contains("10.0 s ahead of"), "{ahead}");
        let behind = problem(1_011_000, 0).expect("a problem");
        assert!(behind.contains("10.0 s behind"), "{behind}");
    }
}
