//! How nodes come and go: `init` makes a cluster of one, `join` adds a node, `leave` takes one away.

mod check;
mod door;
mod init;
mod join;
mod recover;
mod renew;
mod restore;

use std::{net::SocketAddr, str::FromStr, time::Duration};

use pangolin_core::{
    Timestamp,
    plan::PeerPlan,
    record::{Digest, NodeRole, NodeSpec, TunnelKey},
};
use pangolin_peer::join::JoinTokenText;
use serde::{Deserialize, Serialize};

pub use door::Door;
pub use init::{InitOptions, init};
pub use join::{JoinOptions, check, join};
pub(crate) use recover::is_interrupted;
pub use recover::{Recovery, interrupted_recovery, recover, recovery_of};
pub use renew::Renewal;
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
    #[error("no node of the cluster could be asked:{}", .0.iter().map(|(a, e)| format!("\n  {a}: {e}")).collect::<String>())]
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
    /// Try to reach me on these addresses; nothing is changed.
    Check {
        /// What to try: each answers with the nonce.
        probes: Vec<check::Probe>,
        /// What is to be answered there.
        nonce: String,
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
        /// Outcome of each probe, in the order asked; none = reached.
        results: Vec<Option<String>>,
        /// Where the joiner should reach the others.
        peers: Vec<SocketAddr>,
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
    authority: String,
    certificate: String,
    keyring: String,
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
    /// The one string.
    #[must_use]
    pub fn to_text(token: &JoinTokenText, peers: &PeerPlan) -> String {
        let addresses: Vec<String> = peers.nodes.values().map(|peer| peer.address.to_string()).collect();
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
    use pangolin_core::{NodeId, plan::PlannedPeer};

    use super::*;

    fn invitation() -> (JoinTokenText, String) {
        let token = JoinTokenText::generate(Digest([1; 32])).expect("a token");
        let peer = |last: u8| PlannedPeer {
            name: format!("n{last}"),
            address: ([192, 0, 2, last], 7420).into(),
            spki: Digest([last; 32]),
        };
        let nodes = [(NodeId(1), peer(1)), (NodeId(9), peer(9))].into();
        let text = Invitation::to_text(
            &token,
            &PeerPlan { cluster: None, lineage: 1, nodes, ..PeerPlan::default() },
        );
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
