//! The messages of the control channel: Newt's protocol and the additions for multi-homed connectors.
//!
//! Every message is a JSON object `{"type", "data", "configVersion"}` in a WebSocket text frame, or the same gzipped
//! in a binary frame. Both sides ignore types they do not know. Names and shapes are Newt's and cannot be chosen
//! here, except those that start with `pangolin/`, and `multiHomed` of a registration and `nodes`, `nodeId` and
//! `control` of a `connect`, which a stock Newt neither sends nor looks at.

use std::{collections::BTreeMap, io::Read};

use flate2::read::GzDecoder;
use pangolin_core::record::TunnelKey;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Longest message of a connector in bytes, also after inflating. It reports all its targets in one message of about
/// 600 bytes each, so that this is room for 1700 targets at a site.
pub const CONNECTOR_MESSAGE_MAX: usize = 1 << 20;

/// Longest message of a node in bytes, also after inflating. A connect with as many targets as a site can have, all
/// checked, stays below it.
pub const NODE_MESSAGE_MAX: usize = 16 << 20;

/// Longest chain id. Newt's have 16 hexadecimal digits.
pub const CHAIN_MAX: usize = 128;

/// A message that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// More than [`Says::LONGEST`].
    #[error("the message is longer than {0} bytes")]
    TooLong(usize),
    /// A binary frame that does not inflate.
    #[error("the binary message is not gzip: {0}")]
    Gzip(#[source] std::io::Error),
    /// Not the envelope that every message has.
    #[error("not a message {{\"type\", \"data\", \"configVersion\"}}: {0}")]
    Envelope(#[source] serde_json::Error),
    /// A known type with data that does not fit it.
    #[error("the data of a {kind} message does not fit: {source}")]
    Data {
        /// The message's type.
        kind: String,
        /// What does not fit.
        source: serde_json::Error,
    },
}

/// The `{}` that messages without content carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// What a connector says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum FromConnector {
    /// Still here; the envelope's `configVersion` is the last one it was told.
    #[serde(rename = "newt/ping")]
    Ping(Nothing),
    /// Which nodes are there? Asked by a Newt without a tunnel.
    #[serde(rename = "newt/ping/request")]
    NodesWanted(NodesWanted),
    /// Wants a tunnel, or says its key after a reconnect.
    #[serde(rename = "newt/wg/register")]
    Register(Register),
    /// How its targets are.
    #[serde(rename = "newt/healthcheck/status")]
    HealthStatus(HealthStatus),
    /// A blueprint: what it would publish.
    #[serde(rename = "newt/blueprint/apply")]
    Blueprint(Value),
    /// It is being shut down.
    #[serde(rename = "newt/disconnecting")]
    Disconnecting(Nothing),
    /// How far it is from the nodes, which has changed.
    #[serde(rename = "pangolin/distances")]
    Distances(Distances),
}

/// What a node says to a connector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum FromNode {
    /// Answer to a ping.
    #[serde(rename = "pong")]
    Pong(Pong),
    /// The nodes to choose from.
    #[serde(rename = "newt/ping/exitNodes")]
    ExitNodes(ExitNodes),
    /// Build the tunnel (again), with all that it carries.
    #[serde(rename = "newt/wg/connect")]
    Connect(Connect),
    /// Take the tunnel down: the site is gone, off, or has other credentials.
    #[serde(rename = "newt/wg/terminate")]
    Terminate(Nothing),
    /// Listen for these too.
    #[serde(rename = "newt/tcp/add")]
    TcpAdd(TargetList),
    /// Listen for these no more.
    #[serde(rename = "newt/tcp/remove")]
    TcpRemove(TargetList),
    /// Listen for these too.
    #[serde(rename = "newt/udp/add")]
    UdpAdd(TargetList),
    /// Listen for these no more.
    #[serde(rename = "newt/udp/remove")]
    UdpRemove(TargetList),
    /// Check these too; a check with a known id is replaced.
    #[serde(rename = "newt/healthcheck/add")]
    HealthAdd(CheckList),
    /// Check these no more.
    #[serde(rename = "newt/healthcheck/remove")]
    HealthRemove(CheckIds),
    /// Say how the targets are.
    #[serde(rename = "newt/healthcheck/status/request")]
    HealthWanted(Nothing),
    /// All targets and checks, after a configuration version was missed.
    #[serde(rename = "newt/sync")]
    Sync(Sync),
    /// What became of a blueprint.
    #[serde(rename = "newt/blueprint/results")]
    BlueprintResult(BlueprintResult),
    /// The nodes have changed. For multi-homed connectors only.
    #[serde(rename = "pangolin/nodes")]
    Nodes(NodeList),
    /// The registration did not succeed; it may be repeated. For multi-homed connectors only.
    #[serde(rename = "pangolin/refused")]
    Refused(Refused),
}

/// `newt/ping/request`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodesWanted {
    /// To be echoed.
    pub chain_id: String,
}

/// `newt/wg/register`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Register {
    /// The connector's WireGuard key, base64.
    pub public_key: String,
    /// Version of the program.
    pub newt_version: String,
    /// Only says its key: sent on every connect of the socket, whether it has a tunnel or not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub backwards_compatible: bool,
    /// Keeps tunnels to several nodes at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub multi_homed: bool,
    /// To be echoed.
    pub chain_id: String,
    /// How far the nodes are that it was given to choose from, none or empty where it had no choice; if it is multi-homed,
    /// those that it has tunnels to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_results: Option<Vec<PingResult>>,
}

/// How far a connector is from a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PingResult {
    /// The node's id.
    pub exit_node_id: u64,
    /// Milliseconds there and back, the mean of some tries.
    pub latency_ms: f64,
    /// Why it was not reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `pangolin/distances`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Distances {
    /// As in a registration.
    pub ping_results: Vec<PingResult>,
}

/// `newt/blueprint/results`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlueprintResult {
    /// Whether it was taken.
    pub success: bool,
    /// Why not.
    pub message: String,
}

/// `newt/healthcheck/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthStatus {
    /// By the check's id, which is the target's.
    pub targets: BTreeMap<String, TargetStatus>,
}

/// How one target is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetStatus {
    /// `healthy`, `unhealthy` or `unknown`.
    pub status: String,
    /// When it was last checked (RFC 3339).
    pub last_check: String,
    /// How often it has been checked.
    pub check_count: u64,
    /// Why the last check failed; empty if it did not.
    pub last_error: String,
}

/// `pong`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pong {
    /// The node's clock (RFC 3339).
    pub timestamp: String,
}

/// `newt/ping/exitNodes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExitNodes {
    /// The nodes to choose from.
    pub exit_nodes: Vec<ExitNode>,
    /// Echoed.
    pub chain_id: String,
}

/// A node to choose.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExitNode {
    /// The node's id.
    pub exit_node_id: u64,
    /// Its name.
    pub exit_node_name: String,
    /// Host that Newt measures the distance to, when it is given a choice.
    pub endpoint: String,
    /// Share of the node that is free, 0–1.
    pub weight: f64,
    /// Whether the tunnel ended there before.
    pub was_previously_connected: bool,
}

/// Targets by protocol, each `port on the tunnel address:host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetStrings {
    /// Byte streams.
    pub tcp: Vec<String>,
    /// Datagrams.
    pub udp: Vec<String>,
}

/// `newt/wg/connect`. Newt reads it into the previous one, so that every field is always sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connect {
    /// Where WireGuard datagrams go: `host:port`.
    pub endpoint: String,
    /// Port for hole punching, which is not used here; Newt wants to see one.
    pub relay_port: u16,
    /// The node's WireGuard key, base64.
    pub public_key: String,
    /// The node's address inside the tunnel, without mask.
    #[serde(rename = "serverIP")]
    pub server_ip: String,
    /// The site's address inside the tunnel, without mask.
    #[serde(rename = "tunnelIP")]
    pub tunnel_ip: String,
    /// What to listen for.
    pub targets: TargetStrings,
    /// What to check.
    pub health_check_targets: Vec<Check>,
    /// Not used here; Newt wants to see it.
    pub browser_gateway_targets: Vec<Nothing>,
    /// Further sources let in through the tunnel: none.
    pub remote_exit_node_subnets: Vec<String>,
    /// Echoed, or empty when the message is pushed.
    pub chain_id: String,
    /// The node's id. Of use to a connector of this product that keeps one tunnel.
    pub node_id: u64,
    /// Where the node's control channel is reached, and with it the way over TLS: `host:port`. The same holds.
    pub control: String,
    /// All nodes, best first. Only for multi-homed connectors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<OfferedNode>>,
}

/// A node as a multi-homed connector sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OfferedNode {
    /// Its id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Where WireGuard datagrams go: `host:port`.
    pub endpoint: String,
    /// Its WireGuard key, base64.
    pub public_key: String,
    /// Its address inside the tunnels.
    #[serde(rename = "serverIP")]
    pub server_ip: String,
    /// Where its control channel is reached: `host:port`.
    pub control: String,
}

/// `pangolin/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeList {
    /// All nodes, best first.
    pub nodes: Vec<OfferedNode>,
}

/// `pangolin/refused`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Refused {
    /// Why.
    pub reason: String,
    /// Echoed.
    pub chain_id: String,
}

/// `newt/{tcp,udp}/{add,remove}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetList {
    /// Each `port on the tunnel address:host:port`; a removal looks at the first port only.
    pub targets: Vec<String>,
}

/// `newt/healthcheck/add`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckList {
    /// The checks.
    pub targets: Vec<Check>,
}

/// `newt/healthcheck/remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckIds {
    /// The checks' ids.
    pub ids: Vec<u64>,
}

/// A health check, as Newt names its parts. Times in seconds; 0 and empty mean Newt's own default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Check {
    /// The target's id.
    pub id: u64,
    /// Whether it is done at all.
    pub hc_enabled: bool,
    /// `tcp` = a connection is enough; anything else = HTTP.
    pub hc_mode: String,
    /// `http` or `https`.
    pub hc_scheme: String,
    /// Host as seen from the site.
    pub hc_hostname: String,
    /// Port there.
    pub hc_port: u16,
    /// Path asked for.
    pub hc_path: String,
    /// Method used.
    pub hc_method: String,
    /// Time between checks of a healthy target.
    pub hc_interval: u32,
    /// Time between checks of an unhealthy target.
    pub hc_unhealthy_interval: u32,
    /// Time until a check counts as failed.
    pub hc_timeout: u32,
    /// Headers sent.
    pub hc_headers: BTreeMap<String, String>,
    /// Whether redirects are followed.
    pub hc_follow_redirects: bool,
    /// The status wanted; 0 = any 2xx.
    pub hc_status: u16,
    /// Name for TLS; empty = the host.
    pub hc_tls_server_name: String,
    /// Successes in a row that make a target healthy.
    pub hc_healthy_threshold: u32,
    /// Failures in a row that make a target unhealthy.
    pub hc_unhealthy_threshold: u32,
}

/// `newt/sync`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sync {
    /// What to listen for.
    pub proxy_targets: TargetStrings,
    /// What to check.
    pub health_check_targets: Vec<Check>,
    /// Further sources let in through the tunnel: none.
    pub remote_exit_node_subnets: Vec<String>,
    /// Not used here; Newt wants to see it.
    pub peers: Vec<Nothing>,
    /// Not used here; Newt wants to see it.
    pub client_targets: Vec<Nothing>,
    /// Not used here; Newt wants to see it.
    pub browser_gateway_targets: Vec<Nothing>,
}

/// What one side of the channel may say: the types it has.
pub trait Says: Serialize + DeserializeOwned {
    /// The `type` of every message of this side.
    const KINDS: &'static [&'static str];
    /// Most bytes of a message of this side.
    const LONGEST: usize;
}

impl Says for FromConnector {
    const LONGEST: usize = CONNECTOR_MESSAGE_MAX;
    const KINDS: &'static [&'static str] = &[
        "newt/ping",
        "newt/ping/request",
        "newt/wg/register",
        "newt/healthcheck/status",
        "newt/blueprint/apply",
        "newt/disconnecting",
        "pangolin/distances",
    ];
}

impl Says for FromNode {
    const LONGEST: usize = NODE_MESSAGE_MAX;
    const KINDS: &'static [&'static str] = &[
        "pong",
        "newt/ping/exitNodes",
        "newt/wg/connect",
        "newt/wg/terminate",
        "newt/tcp/add",
        "newt/tcp/remove",
        "newt/udp/add",
        "newt/udp/remove",
        "newt/healthcheck/add",
        "newt/healthcheck/remove",
        "newt/healthcheck/status/request",
        "newt/sync",
        "newt/blueprint/results",
        "pangolin/nodes",
        "pangolin/refused",
    ];
}

/// A received message.
#[derive(Clone, Debug, PartialEq)]
pub enum Received<M> {
    /// One that is understood, with the envelope's `configVersion`; 0 if it had none.
    Known(M, u64),
    /// Of a type that is not known here: to be ignored.
    Unknown(String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outgoing<'a, M> {
    #[serde(flatten)]
    message: &'a M,
    #[serde(skip_serializing_if = "is_zero")]
    config_version: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(version: &u64) -> bool {
    *version == 0
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    config_version: Value,
}

/// The text of a message. A `config_version` of 0 is left out.
#[must_use]
pub fn encode<M: Says>(message: &M, config_version: u64) -> String {
    // Strings, numbers and lists of them always have a JSON form.
    serde_json::to_string(&Outgoing { message, config_version }).unwrap_or_default()
}

/// Reads the content of a text frame.
///
/// # Errors
/// [`MessageError`] if it is too long, is not an envelope, or its data does not fit its type.
pub fn decode<M: Says>(text: &[u8]) -> Result<Received<M>, MessageError> {
    if text.len() > M::LONGEST {
        return Err(MessageError::TooLong(M::LONGEST));
    }
    let incoming: Incoming = serde_json::from_slice(text).map_err(MessageError::Envelope)?;
    if !M::KINDS.contains(&incoming.kind.as_str()) {
        return Ok(Received::Unknown(incoming.kind));
    }
    let data = match incoming.data {
        Value::Null => Value::Object(serde_json::Map::new()),
        data => data,
    };
    let tagged = serde_json::json!({ "type": incoming.kind, "data": data });
    let message = serde_json::from_value(tagged)
        .map_err(|source| MessageError::Data { kind: incoming.kind, source })?;
    Ok(Received::Known(message, incoming.config_version.as_u64().unwrap_or(0)))
}

/// Reads the content of a binary frame.
///
/// # Errors
/// [`MessageError`] if it does not inflate to at most [`Says::LONGEST`] bytes, and as [`decode`].
pub fn decode_gzip<M: Says>(bytes: &[u8]) -> Result<Received<M>, MessageError> {
    let mut text = Vec::new();
    GzDecoder::new(bytes).take(M::LONGEST as u64 + 1).read_to_end(&mut text).map_err(MessageError::Gzip)?;
    decode(&text)
}

/// The text form of a WireGuard key.
#[must_use]
pub fn key_text(key: TunnelKey) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(key.0)
}

/// Reads the text form of a WireGuard key: 32 bytes in base64.
#[must_use]
pub fn parse_key(text: &str) -> Option<TunnelKey> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    bytes.try_into().ok().map(TunnelKey)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn known(text: &str) -> (FromConnector, u64) {
        match decode(text.as_bytes()).unwrap() {
            Received::Known(message, version) => (message, version),
            Received::Unknown(kind) => panic!("{kind} is not known"),
        }
    }

    #[test]
    fn messages_of_a_newt_are_understood() {
        let ping = "{\"type\":\"newt/ping\",\"data\":{},\"configVersion\":8}\n";
        assert_eq!(known(ping), (FromConnector::Ping(Nothing {}), 8));
        assert_eq!(known(r#"{"type":"newt/ping"}"#).1, 0);
        assert_eq!(
            known(r#"{"type":"newt/ping/request","data":{"noCloud":false,"chainId":"825f955e1b986e56"}}"#).0,
            FromConnector::NodesWanted(NodesWanted { chain_id: "825f955e1b986e56".into() })
        );
        let register = r#"{"type":"newt/wg/register","data":{"publicKey":"a2V5","pingResults":[{"exitNodeId":2,
            "latencyMs":11,"weight":0.8,"exitNodeName":"fra1","endpoint":"n2.example.net",
            "wasPreviouslyConnected":false}],"newtVersion":"1.13.0","chainId":"624b"}}"#;
        let expected = Register {
            public_key: "a2V5".into(),
            newt_version: "1.13.0".into(),
            chain_id: "624b".into(),
            ping_results: Some(vec![PingResult { exit_node_id: 2, latency_ms: 11.0, error: None }]),
            ..Register::default()
        };
        assert_eq!(known(register).0, FromConnector::Register(expected));
        let health = r#"{"type":"newt/healthcheck/status","data":{"targets":{"7":{"status":"healthy",
            "lastCheck":"2026-11-21T01:43:45Z","checkCount":1,"lastError":"","config":{"id":7}}}}}"#;
        let FromConnector::HealthStatus(status) = known(health).0 else { panic!("not a status") };
        assert_eq!(status.targets["7"].status, "healthy");
    }

    #[test]
    fn a_connect_has_the_names_that_newt_reads() {
        let text = encode(&FromNode::Connect(Connect::default()), 5);
        for name in [
            "endpoint",
            "relayPort",
            "publicKey",
            "serverIP",
            "tunnelIP",
            "targets",
            "healthCheckTargets",
            "browserGatewayTargets",
            "remoteExitNodeSubnets",
            "chainId",
            "configVersion",
        ] {
            assert!(text.contains(&format!("\"{name}\":")), "{name} is missing in {text}");
        }
        assert!(!text.contains("nodes"), "a stock Newt is not told of other nodes");
        let check = encode(&FromNode::HealthAdd(CheckList { targets: vec![Check::default()] }), 5);
        assert!(check.contains("\"hcTlsServerName\":\"\"") && check.contains("\"hcFollowRedirects\":false"));
    }

    #[test]
    fn every_message_survives_its_text_form_and_is_listed_as_known() {
        let all = [
            FromNode::Pong(Pong { timestamp: "2026-11-21T01:00:00Z".into() }),
            FromNode::ExitNodes(ExitNodes::default()),
            FromNode::Connect(Connect { nodes: Some(vec![OfferedNode::default()]), ..Connect::default() }),
            FromNode::Terminate(Nothing {}),
            FromNode::TcpAdd(TargetList { targets: vec!["40001:10.0.0.5:80".into()] }),
            FromNode::TcpRemove(TargetList::default()),
            FromNode::UdpAdd(TargetList::default()),
            FromNode::UdpRemove(TargetList::default()),
            FromNode::HealthAdd(CheckList::default()),
            FromNode::HealthRemove(CheckIds { ids: vec![7] }),
            FromNode::HealthWanted(Nothing {}),
            FromNode::Sync(Sync::default()),
            FromNode::BlueprintResult(BlueprintResult::default()),
            FromNode::Nodes(NodeList::default()),
            FromNode::Refused(Refused::default()),
        ];
        assert_eq!(all.len(), FromNode::KINDS.len());
        for message in all {
            let text = encode(&message, 9);
            assert_eq!(decode(text.as_bytes()).unwrap(), Received::Known(message.clone(), 9), "{text}");
            assert_eq!(decode_gzip(&gzip(text.as_bytes())).unwrap(), Received::Known(message, 9));
        }
    }

    #[test]
    fn unknown_types_are_told_apart_from_malformed_messages() {
        let unknown = decode::<FromConnector>(br#"{"type":"newt/receive-bandwidth","data":[1]}"#);
        assert_eq!(unknown.unwrap(), Received::Unknown("newt/receive-bandwidth".into()));
        assert!(matches!(decode::<FromConnector>(b"hello"), Err(MessageError::Envelope(_))));
        assert!(matches!(decode::<FromConnector>(b"{}"), Err(MessageError::Envelope(_))));
        let wrong = decode::<FromConnector>(br#"{"type":"newt/wg/register","data":{"publicKey":4}}"#);
        assert!(matches!(wrong, Err(MessageError::Data { .. })));
    }

    #[test]
    fn a_small_frame_that_inflates_without_end_is_refused() {
        let bomb = gzip(&vec![b' '; 64 * CONNECTOR_MESSAGE_MAX]);
        assert!(bomb.len() < CONNECTOR_MESSAGE_MAX);
        assert!(matches!(decode_gzip::<FromConnector>(&bomb), Err(MessageError::TooLong(_))));
        assert!(matches!(decode_gzip::<FromConnector>(b"plain"), Err(MessageError::Gzip(_))));
    }

    #[test]
    fn keys_survive_their_text_form() {
        let key = TunnelKey([7; 32]);
        assert_eq!(parse_key(&key_text(key)), Some(key));
        assert_eq!(parse_key("AAAA"), None);
        assert_eq!(parse_key("no base64"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode::<FromConnector>(&bytes);
            let _ = decode_gzip::<FromConnector>(&bytes);
            let _ = decode_gzip::<FromNode>(&gzip(&bytes));
        }

        #[test]
        fn no_data_makes_the_parser_panic(
            kind in proptest::sample::select(FromConnector::KINDS.to_vec()),
            data in r#"(\{("(publicKey|chainId|targets|status)":("[a-z]*"|[0-9]{1,30}|null|\{"7":\{\}\}))?\}|\[\]|null|"x")"#,
            version in r"(-?[0-9]{1,25}|null|[0-9]e[0-9]{1,3})",
        ) {
            let text = format!(r#"{{"type":"{kind}","data":{data},"configVersion":{version}}}"#);
            let _ = decode::<FromConnector>(text.as_bytes());
            let _ = decode::<FromNode>(text.as_bytes());
        }
    }
}
