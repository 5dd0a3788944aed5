//! The cluster itself: status, nodes, join tokens, leadership, settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use pangolin_core::{
    ClusterId, FeatureLevel, HostName, NodeId, Revision, SiteId, Slug, TokenId,
    agreement::StateHash,
    record,
    record::{AdminState, NodeRole, UpgradeStep, Verdict},
};
use serde::{Deserialize, Serialize};

use crate::{Moment, Pagination, text};

/// Answer of `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// How far this node has applied the log.
    #[serde(with = "text")]
    pub revision: Revision,
    /// The leader that this node knows of.
    pub leader: Option<NodeId>,
    /// The Raft term that this node is in.
    #[serde(default)]
    pub term: u64,
    /// Whether this node holds itself for the leader of that term.
    #[serde(default)]
    pub leads: bool,
    /// The state of this node at the latest checkpoint: the same on every node that shows the same revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

/// A node's state at one revision, as a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// The revision.
    #[serde(with = "text")]
    pub revision: Revision,
    /// SHA-256 of the encoded state, in hexadecimal.
    pub digest: String,
}

impl From<StateHash> for Checkpoint {
    fn from(hash: StateHash) -> Self {
        let digest = hash.digest.0.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        Self { revision: hash.revision, digest }
    }
}

/// Answer of `GET /cluster/status`: the same from every node, because the leader is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Which cluster this is, in hexadecimal.
    #[serde(with = "text")]
    pub cluster_id: ClusterId,
    /// Its name.
    pub name: Slug,
    /// Its DNS zone.
    pub zone: HostName,
    /// Where the API and the connectors' control channel are reached.
    pub control_host: HostName,
    /// Who leads; none while the nodes elect.
    pub leader: Option<LeaderStatus>,
    /// Who votes, who of them is up, and what the cluster can stand.
    pub quorum: QuorumStatus,
    /// How far the leader has applied the log.
    #[serde(with = "text")]
    pub revision: Revision,
    /// The nodes, by id.
    pub nodes: Vec<NodeStatus>,
    /// The sites, by id.
    pub sites: Vec<SiteStatus>,
    /// The feature level that the cluster is committed to.
    #[serde(default)]
    pub feature_level: FeatureLevel,
    /// The highest one that every node understands: what `upgrade finish` raises it to.
    #[serde(default)]
    pub common_level: FeatureLevel,
    /// The rolling upgrade that is under way.
    #[serde(default)]
    pub upgrade: Option<UpgradeStatus>,
    /// What an operator should know of the membership, in sentences; empty in one node's own view.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Why this is one node's view only; none = the leader's view.
    #[serde(default)]
    pub partial: Option<String>,
}

/// A rolling upgrade under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// When it began.
    pub started_at: Moment,
    /// Who began it, and how.
    pub cause: String,
    /// The nodes are going back to the version that they came from.
    pub rollback: bool,
    /// The feature level at its beginning; once it is raised there is no way back.
    pub feature_level: FeatureLevel,
    /// The nodes that take part, by id.
    pub nodes: Vec<UpgradeNodeStatus>,
}

/// A node in a rolling upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeNodeStatus {
    /// Id.
    pub node_id: NodeId,
    /// The version that it came from.
    pub from_version: String,
    /// How far it is.
    pub step: UpgradeStep,
    /// What the operator wanted of it before.
    pub admin: AdminState,
}

/// Request of `POST /cluster/upgrade`: one step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase", deny_unknown_fields)]
pub enum UpgradeAction {
    /// Open an upgrade.
    Start,
    /// Turn the upgrade that is open around: the nodes go back.
    Rollback,
    /// A node is going to be taken out of service and its program replaced.
    #[serde(rename_all = "camelCase")]
    Begin {
        /// Which.
        node_id: NodeId,
    },
    /// A node runs the other version and is back in service.
    #[serde(rename_all = "camelCase")]
    Done {
        /// Which.
        node_id: NodeId,
    },
    /// Close the upgrade, and raise the feature level to what all nodes understand: there is no way back then.
    Finish,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaderStatus {
    /// The leader.
    pub node_id: NodeId,
    /// Its name; none if it is not in the state yet.
    pub name: Option<Slug>,
    /// Raft term.
    pub term: u64,
    /// When it took up its duties; none if it has not yet.
    pub since: Option<Moment>,
}

/// How the quorum stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Number of voters.
    pub voters: usize,
    /// How many of them answer.
    pub voters_up: usize,
    /// How many more of them may fail before changes stop.
    pub failure_tolerance: usize,
    /// The same as a sentence, such as `3 of 3 voters up, failure tolerance 1`.
    pub summary: String,
}

impl QuorumStatus {
    /// The status of `up` out of `voters`.
    #[must_use]
    pub fn new(voters: usize, up: usize) -> Self {
        let majority = voters / 2 + 1;
        let failure_tolerance = up.saturating_sub(majority);
        let tail = if voters == 0 {
            "no quorum: this node knows of no voters".to_owned()
        } else if up < majority {
            format!("no quorum: {} more needed for changes, serving goes on", majority - up)
        } else {
            format!("failure tolerance {failure_tolerance}")
        };
        let summary = format!("{up} of {voters} voters up, {tail}");
        Self { voters, voters_up: up, failure_tolerance, summary }
    }
}

/// A node's part in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RaftPart {
    /// Leads.
    Leader,
    /// Votes.
    Voter,
    /// Receives the log and does not vote yet.
    Learner,
    /// Not in the membership: just admitted, or on its way out.
    None,
}

impl RaftPart {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::None => "none",
        }
    }
}

/// One node in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Id.
    pub id: NodeId,
    /// Short name.
    pub name: Slug,
    /// Data or witness.
    pub role: NodeRole,
    /// Its part in Raft.
    pub raft: RaftPart,
    /// The cluster's judgement.
    pub verdict: Verdict,
    /// What the operator wants of it.
    pub admin: AdminState,
    /// Where peers reach it.
    pub address: SocketAddr,
    /// Version of its program.
    pub version: String,
    /// Highest feature level that its program understands.
    #[serde(default)]
    pub feature_level: FeatureLevel,
    /// When its program was started; none if it has not reported lately.
    #[serde(default)]
    pub started_at: Option<Moment>,
    /// Whether its edge and its DNS let clients in; none if it has neither, does not say, or has not reported lately.
    #[serde(default)]
    pub serving: Option<bool>,
    /// How far it has applied the log; none if it has not reported lately.
    #[serde(default, with = "optional_revision")]
    pub applied: Option<Revision>,
    /// How many log entries it is behind the leader; none if it has not reported lately.
    pub lag: Option<u64>,
    /// Nodes that see it alive.
    pub seen_by: Vec<NodeId>,
}

/// One site in the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// Id.
    pub site_id: SiteId,
    /// Owner.
    pub org_id: Slug,
    /// Short name.
    pub nice_id: Slug,
    /// Display name.
    pub name: String,
    /// The node that carries it first; none before it is placed.
    pub home: Option<NodeId>,
    /// Where it goes next, best first.
    pub standbys: Vec<NodeId>,
    /// Nodes with a live tunnel to it.
    pub tunnels: Vec<NodeId>,
    /// The node that holds its control socket.
    pub socket: Option<NodeId>,
    /// Nodes reach its targets by themselves: it needs no tunnel.
    #[serde(default)]
    pub local: bool,
}

/// A node as the catalog of the cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Id.
    pub node_id: NodeId,
    /// Short name; also its label in the cluster's zone.
    pub name: Slug,
    /// Data or witness.
    pub role: NodeRole,
    /// What the operator wants of it.
    pub admin: AdminState,
    /// Since when.
    pub admin_at: Moment,
    /// Who wanted it, and why.
    pub admin_cause: String,
    /// The cluster's judgement.
    pub verdict: Verdict,
    /// When the judgement was given.
    pub verdict_at: Moment,
    /// Why.
    pub verdict_cause: String,
    /// Where peers reach it.
    pub peer_address: SocketAddr,
    /// What DNS answers for it.
    pub public_addresses: Vec<IpAddr>,
    /// Port of its edge for HTTPS.
    pub https_port: u16,
    /// Where connectors send WireGuard datagrams.
    pub tunnel_endpoint: String,
    /// Its own address inside the tunnels.
    pub tunnel_address: Ipv4Addr,
    /// Placement hint.
    pub region: Option<Slug>,
    /// Version of its program.
    pub version: String,
    /// When it joined.
    pub admitted_at: Moment,
    /// To how many sites it is home, in proportion to the weights of the other nodes.
    pub weight: u16,
    /// To how many sites it is home while other nodes have room; none = any number.
    pub capacity: Option<u32>,
}

/// Answer of `GET /nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeList {
    /// The nodes, by id.
    pub nodes: Vec<Node>,
    /// Which part of them.
    pub pagination: Pagination,
}

/// Request of `PUT /cluster/token`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateToken {
    /// What the joiner becomes; data if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<NodeRole>,
    /// Seconds until the token is worthless; [`TOKEN_LIFETIME_DEFAULT`] if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
}

/// Request of `PUT /node/{nodeId}/replacement`: a join token for the host that takes the node's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplaceNode {
    /// Seconds until the token is worthless; [`TOKEN_LIFETIME_DEFAULT`] if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime_seconds: Option<u64>,
}

/// Request of `POST /cluster/disband`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Disband {
    /// The cluster's name, as a confirmation.
    pub cluster: Slug,
}

/// How the cluster looks after its voters by itself: answer of `GET` and request of `POST /cluster/autopilot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Autopilot {
    /// Milliseconds that a learner has to be in contact and caught up before it votes.
    pub stable_milliseconds: u32,
    /// Seconds after which a learner takes the place of a voter that is down; null = never.
    pub exchange_after_seconds: Option<u32>,
    /// Seconds after which a node that is down is taken out, if the others stand another failure without it; null =
    /// never.
    pub remove_after_seconds: Option<u32>,
}

impl From<record::Autopilot> for Autopilot {
    fn from(autopilot: record::Autopilot) -> Self {
        Self {
            stable_milliseconds: autopilot.stable_ms,
            exchange_after_seconds: autopilot.exchange_after_s,
            remove_after_seconds: autopilot.remove_after_s,
        }
    }
}

impl From<Autopilot> for record::Autopilot {
    fn from(autopilot: Autopilot) -> Self {
        Self {
            stable_ms: autopilot.stable_milliseconds,
            exchange_after_s: autopilot.exchange_after_seconds,
            remove_after_s: autopilot.remove_after_seconds,
        }
    }
}

/// Seconds that a join token lives if nothing is said.
pub const TOKEN_LIFETIME_DEFAULT: u64 = 3600;
/// Longest life of a join token, in seconds: a week. A permission to join should not lie about.
pub const TOKEN_LIFETIME_MAX: u64 = 7 * 24 * 3600;

/// Answer of `PUT /cluster/token`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedToken {
    /// Its public half.
    #[serde(with = "text", rename = "tokenId")]
    pub id: TokenId,
    /// The whole token, to be given to `pangolinctl join`. Shown this once; none when a repeated request is
    /// answered by a node that does not know it any more.
    pub token: Option<String>,
    /// After this it is worthless.
    pub expires_at: Moment,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A join token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Its public half.
    #[serde(with = "text")]
    pub token_id: TokenId,
    /// What the joiner becomes.
    pub role: NodeRole,
    /// The node whose place the joiner takes.
    pub replaces: Option<NodeId>,
    /// When it was made.
    pub created_at: Moment,
    /// After this it is worthless.
    pub expires_at: Moment,
    /// The node that joined with it.
    pub used_by: Option<NodeId>,
}

/// Answer of `GET /cluster/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// The tokens, newest first.
    pub tokens: Vec<Token>,
    /// Which part of them.
    pub pagination: Pagination,
}

/// Request of `POST /cluster/leave`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Leave {
    /// Which node goes; none = the one that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
}

/// Request of `POST /cluster/leader/transfer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransferLeader {
    /// Who shall lead; none = the voter that is furthest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
}

/// Answer of `POST /cluster/leader/transfer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferredLeader {
    /// Who leads now.
    pub node_id: NodeId,
}

/// Request of `POST /node/{nodeId}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpdateNode {
    /// What is wanted of it.
    pub admin: AdminState,
}

/// Answer of `GET /cluster/settings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The cluster's DNS zone.
    pub zone: HostName,
    /// Where the API and the connectors' control channel are reached.
    pub control_host: HostName,
    /// Addresses inside the tunnels.
    pub tunnel_network: Ipv4Net,
    /// Seconds that resolvers may keep an address that follows health.
    pub ttl: u32,
}

/// Answer of `GET /cluster/issuer`: the authority behind the certificates that the cluster makes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// Its certificate, PEM (RFC 7468).
    pub pem: String,
}

impl Issuer {
    /// From the certificate in DER.
    #[must_use]
    pub fn new(certificate: &[u8]) -> Self {
        use base64::{Engine as _, prelude::BASE64_STANDARD};
        use std::fmt::Write as _;
        let text = BASE64_STANDARD.encode(certificate);
        let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
        for line in text.as_bytes().chunks(64) {
            // Writing to a string does not fail, and base64 is ASCII.
            let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        Self { pem }
    }
}

pub(crate) mod optional_revision {
    use pangolin_core::Revision;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &Option<Revision>, to: S) -> Result<S::Ok, S::Error> {
        value.map(|revision| revision.to_string()).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Revision>, D::Error> {
        Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quorum_says_what_it_can_stand() {
        let cases = [
            (3, 3, "3 of 3 voters up, failure tolerance 1"),
            (3, 2, "2 of 3 voters up, failure tolerance 0"),
            (3, 1, "1 of 3 voters up, no quorum: 1 more needed for changes, serving goes on"),
            (1, 1, "1 of 1 voters up, failure tolerance 0"),
            (5, 4, "4 of 5 voters up, failure tolerance 1"),
            (0, 0, "0 of 0 voters up, no quorum: this node knows of no voters"),
        ];
        for (voters, up, expected) in cases {
            assert_eq!(QuorumStatus::new(voters, up).summary, expected);
        }
    }

    #[test]
    fn a_status_survives_json() {
        let status = ClusterStatus {
            cluster_id: ClusterId([7; 16]),
            name: "lab".parse().expect("a short name"),
            zone: "lab.example.com".parse().expect("a zone"),
            control_host: "pangolin.lab.example.com".parse().expect("a host"),
            leader: None,
            quorum: QuorumStatus::new(1, 1),
            revision: Revision { lineage: 1, index: 12 },
            nodes: vec![NodeStatus {
                id: NodeId(1),
                name: "n1".parse().expect("a short name"),
                role: NodeRole::Data,
                raft: RaftPart::Leader,
                verdict: Verdict::Up,
                admin: AdminState::Active,
                address: "127.0.0.11:7420".parse().expect("an address"),
                version: "0.1.0".into(),
                feature_level: FeatureLevel(1),
                started_at: None,
                serving: None,
                applied: Some(Revision { lineage: 1, index: 12 }),
                lag: Some(0),
                seen_by: vec![NodeId(2)],
            }],
            sites: vec![],
            feature_level: FeatureLevel(1),
            common_level: FeatureLevel(1),
            upgrade: None,
            remarks: vec![],
            partial: None,
        };
        let text = serde_json::to_string(&status).expect("JSON");
        assert!(text.contains(r#""applied":"1.12""#) && text.contains(r#""seenBy":[2]"#), "{text}");
        assert_eq!(serde_json::from_str::<ClusterStatus>(&text).expect("a status"), status);
    }
}
