//! How nodes come and go: `init` makes a cluster of one, `join` adds a node, `leave` takes one away.

pub(crate) mod check;
mod door;
mod init;
mod join;
mod recover;
mod renew;
mod restore;

use std::{net::SocketAddr, str::FromStr, time::Duration};

use pangolin_core::{
    ClusterState, Slug, Timestamp,
    record::{AdminState, Digest, Node, NodeRole, NodeSpec, TunnelKey},
};
use pangolin_peer::join::JoinTokenText;
use serde::{Deserialize, Serialize};

pub use door::Door;
pub use init::{InitOptions, init};
pub use join::{JoinOptions, Joined, check, join};
#[cfg(any(test, fuzzing))]
pub(crate) use recover::finish as finish_recovery;
pub(crate) use recover::is_interrupted;
pub use recover::{Recovery, interrupted_recovery, recover, recovery_of};
pub use renew::{Renewal, certify};
pub use restore::{Restoration, RestoreOptions, restore};

use crate::{config::Config, state_dir::StateDirError};

/// Clocks that differ by more than this make certificates and leases unreliable.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(2);

/// Why a node could not come or go.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Keys and certificates.
    #[error("cannot make keys or certificates: {0}")]
    Identity(#[from] pangolin_peer::identity::IdentityError),
    /// The keyring.
    #[error(transparent)]
    Keyring(#[from] pangolin_peer::identity::KeyringError),
    /// The Raft store.
    #[error(transparent)]
    Raft(#[from] pangolin_raft::RaftError),
    /// Backups.
    #[error(transparent)]
    Backup(#[from] crate::backup::BackupError),
    /// A cluster cannot be recovered or restored from what is there.
    #[error("{0}")]
    Recovery(String),
    /// A name is not acceptable.
    #[error("{what}: {reason}")]
    Name {
        /// Which one.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The token cannot be used.
    #[error("the join token cannot be used: {0}")]
    Token(String),
    /// No node answered.
    #[error("no node of the cluster has answered:{}", .0.iter().map(|(a, e)| format!("\n  {a}: {e}")).collect::<String>())]
    NoAnswer(Vec<(SocketAddr, String)>),
    /// The cluster says no.
    #[error("the cluster refused: {0}")]
    Refused(String),
    /// The answer makes no sense.
    #[error("the cluster's answer cannot be read ({0}): are both sides of the same version?")]
    Answer(String),
    /// Ports or clocks are not as they should be.
    #[error("{failed} of {total} checks failed; nothing was written")]
    Check {
        /// How many failed.
        failed: usize,
        /// Out of how many.
        total: usize,
    },
}

/// What a joiner asks. JSON, so that versions that differ can still say why they do not understand each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Ask {
    /// Try to reach me on these addresses, from every node, and say whether I could join; nothing is changed.
    Check {
        /// What to try: each answers with the nonce.
        probes: Vec<check::Probe>,
        /// What is to be answered there.
        nonce: String,
        /// My short name.
        name: Slug,
        /// Where the others will reach me.
        peer_address: SocketAddr,
        /// The key that I have from an earlier attempt: with it I may have been admitted already.
        #[serde(default)]
        key: Option<Digest>,
    },
    /// Let me in.
    Join {
        /// Certificate signing request, DER, base64.
        csr: String,
        /// Who I am.
        spec: Box<NodeSpec>,
    },
}

/// What a joiner is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// How far the joiner was reached.
    Checked {
        /// The answering node's clock.
        now: Timestamp,
        /// How the joiner looks from each node that could be asked.
        views: Vec<check::View>,
        /// Where the joiner should reach the others: name and address.
        peers: Vec<(Slug, SocketAddr)>,
        /// Where the edges of the others are.
        #[serde(default)]
        edges: Vec<(Slug, SocketAddr)>,
        /// The nodes that could not be asked, and why.
        #[serde(default)]
        unasked: Vec<(Slug, String)>,
        /// Why the cluster would not let the joiner in; none = it would.
        refusal: Option<String>,
    },
    /// Welcome.
    Welcome(Box<Welcome>),
}

/// Everything a new node needs.
#[derive(Serialize, Deserialize)]
struct Welcome {
    cluster: String,
    lineage: u64,
    node: u64,
    role: NodeRole,
    authority: String,
    certificate: String,
    /// The cluster's key-encryption keys; none for a witness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyring: Option<String>,
    peers: Vec<WelcomePeer>,
}

impl std::fmt::Debug for Welcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Welcome").field("node", &self.node).finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct WelcomePeer {
    node: u64,
    name: String,
    address: SocketAddr,
    spki: Digest,
}

/// What `token create` prints: the token, and where to go with it.
#[derive(Debug)]
pub struct Invitation {
    /// The token.
    pub token: JoinTokenText,
    /// Peer addresses of nodes that may be asked.
    pub nodes: Vec<SocketAddr>,
}

impl Invitation {
    /// The one string. A witness cannot let anybody in, and one that is leaving may be gone by then.
    #[must_use]
    pub fn to_text(token: &JoinTokenText, state: &ClusterState) -> String {
        let opens = |node: &&Node| node.spec.role == NodeRole::Data && node.admin != AdminState::Leaving;
        let nodes = state.nodes().values().filter(opens);
        let addresses: Vec<String> = nodes.map(|node| node.spec.peer_address.to_string()).collect();
        format!("{token}@{}", addresses.join(","))
    }
}

impl FromStr for Invitation {
    type Err = MembershipError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |reason: String| MembershipError::Token(reason);
        let text = text.trim();
        let (token, nodes) = text.split_once('@').ok_or_else(|| {
            bad("it has no @ADDRESS part: paste the whole string that `token create` printed".into())
        })?;
        let token = token.parse().map_err(|error| bad(format!("{error}")))?;
        let nodes = nodes
            .split(',')
            .map(|address| {
                address.parse().map_err(|_| bad(format!("{address:?} is not an address with a port")))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { token, nodes })
    }
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Ask>(bytes);
    let _ = serde_json::from_slice::<Answer>(bytes);
    recover::fuzz(bytes);
}

/// What this node says of itself.
#[must_use]
pub fn spec_of(config: &Config, spki: Digest, tunnel_key: TunnelKey) -> NodeSpec {
    NodeSpec {
        name: config.name.clone(),
        role: NodeRole::Data,
        peer_address: config.peer_advertise,
        spki,
        public_addresses: config.public_addresses.clone(),
        https_port: config.https.first().map_or(443, SocketAddr::port),
        tunnel_endpoint: config.tunnel_endpoint.clone(),
        tunnel_key,
        region: config.region.clone(),
        version: crate::VERSION.to_owned(),
        feature_level: pangolin_core::feature::NEWEST,
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::{
        Body, Cause, ClusterId, Command, Fence, NodeId, TokenId,
        command::{Actor, ClusterCreated, NodeAdmitted},
        record::{Authority, JoinToken, Sealed, Settings},
    };

    use super::*;

    /// A cluster of two data nodes and a witness.
    fn state() -> ClusterState {
        let spec = |last: u8| NodeSpec {
            name: format!("n{last}").parse().expect("a name"),
            role: NodeRole::Data,
            peer_address: ([192, 0, 2, last], 7420).into(),
            spki: Digest([last; 32]),
            public_addresses: vec![],
            https_port: 443,
            tunnel_endpoint: "192.0.2.1:51820".into(),
            tunnel_key: TunnelKey([last; 32]),
            region: None,
            version: "1".into(),
            feature_level: pangolin_core::feature::NEWEST,
        };
        let sealed = || Sealed { kek: 1, wrapped_key: vec![], content: vec![] };
        let authority = || Authority { certificate: vec![], key: sealed() };
        let created = ClusterCreated {
            id: ClusterId([1; 16]),
            name: "lab".parse().expect("a name"),
            authority: authority(),
            issuer: authority(),
            settings: Settings {
                zone: "lab.example".parse().expect("a zone"),
                control_host: "control.lab.example".parse().expect("a host"),
                tunnel_network: "100.89.0.0/16".parse().expect("a network"),
                ttl: 30,
            },
            node: NodeId(1),
            spec: spec(1),
        };
        let mut bodies = vec![Body::ClusterCreated(Box::new(created))];
        for (last, role) in [(9, NodeRole::Data), (10, NodeRole::Witness)] {
            let token = TokenId([last; 8]);
            bodies.push(Body::TokenCreated(Box::new(JoinToken {
                id: token,
                secret: sealed(),
                role,
                expires_at: Timestamp(10),
                replaces: None,
                created_at: Timestamp(1),
                used: None,
            })));
            let csr = Digest([last; 32]);
            bodies.push(Body::NodeAdmitted(Box::new(NodeAdmitted { token, csr, spec: spec(last) })));
        }
        let mut state = ClusterState::default();
        for (body, index) in bodies.into_iter().zip(1..) {
            let cause = Cause::new(Actor::Node(NodeId(1)), "test");
            state.apply(index, &Command { request: None, at: Timestamp(1), cause, fence: Fence::None, body });
        }
        assert_eq!(state.nodes().len(), 3);
        state
    }

    fn invitation() -> (JoinTokenText, String) {
        let token = JoinTokenText::generate(Digest([1; 32])).expect("a token");
        let text = Invitation::to_text(&token, &state());
        (token, text)
    }

    #[test]
    fn an_invitation_is_read_as_it_was_written_blanks_around_it_do_no_harm() {
        let (token, text) = invitation();
        assert!(text.ends_with("@192.0.2.1:7420,192.0.2.9:7420"), "{text}");
        let read: Invitation = format!("  {text}\n").parse().expect("an invitation");
        assert_eq!(read.token, token);
        assert_eq!(read.nodes.len(), 2);
        let secret = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, &token.secret[..]);
        assert!(text.contains(&secret), "the secret is in the text");
        assert!(!format!("{read:?}").contains(&secret), "but never in what is printed for debugging");
    }

    #[test]
    fn an_invitation_that_was_not_pasted_whole_says_what_is_wrong() {
        let (_, text) = invitation();
        let (token, addresses) = text.split_once('@').expect("two parts");
        for (wrong, word) in [
            (String::new(), "@ADDRESS"),
            (token.to_owned(), "@ADDRESS"),
            (format!("{}@{addresses}", &token[..token.len() - 1]), "join token"),
            (format!("{token}@192.0.2.1"), "192.0.2.1"),
            (format!("{text},"), "not an address"),
            (format!("{token}@"), "not an address"),
        ] {
            let error = wrong.parse::<Invitation>().expect_err("refused").to_string();
            assert!(error.contains(word), "{wrong:?}: {error}");
        }
    }
}
