//! The configuration file: versioned TOML, unknown keys refused, parsed once into a total type.
//!
//! Only what a node needs to start stands here; everything else is in the replicated state.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use pangolin_core::Slug;
use pangolin_storage::backup::{BucketConfig, Retention};
use pangolin_tunnel::BackendChoice;
use serde::Deserialize;

use crate::{backup::BackupConfig, local::local_targets::LocalTargets, metrics::MetricsConfig};

/// What is logged unless the file says otherwise: libraries only when someone should look.
const LOG_FILTER: &str = "info,openraft=error,gotatun=warn";
/// Seconds between two looks for log entries that are not archived yet.
const ARCHIVE_SECONDS: u16 = 10;
/// The region of a bucket whose store has none.
const S3_REGION: &str = "us-east-1";
/// Where Debian keeps the certificate authorities that the host trusts (package ca-certificates).
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Most listening addresses of one kind.
const LISTEN_MAX: usize = 16;
/// Longest name of a network interface (Linux `IFNAMSIZ` less the terminating zero).
const INTERFACE_MAX: usize = 15;

/// Why the configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is not TOML, or has unknown keys or wrong types.
    #[error("the configuration {path} is not valid: {message}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A value makes no sense.
    #[error("the configuration {path} is not valid: {key}: {reason}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// Why.
        reason: String,
    },
}

/// The file as written, first version.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct V1 {
    version: u32,
    node: NodeSection,
    #[serde(default)]
    peer: PeerSection,
    #[serde(default)]
    edge: EdgeSection,
    #[serde(default)]
    dns: DnsSection,
    #[serde(default)]
    tunnel: TunnelSection,
    #[serde(default)]
    backup: BackupSection,
    #[serde(default)]
    local_targets: LocalTargetsSection,
    #[serde(default)]
    log: LogSection,
    #[serde(default)]
    metrics: MetricsSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeSection {
    name: String,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default = "default_runtime_dir")]
    runtime_dir: PathBuf,
    public_addresses: Vec<IpAddr>,
    region: Option<Slug>,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/pangolin".into()
}

fn default_runtime_dir() -> PathBuf {
    "/run/pangolin".into()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerSection {
    listen: Option<SocketAddr>,
    advertise: Option<SocketAddr>,
    #[serde(default)]
    timing: TimingChoice,
}

/// How far apart the nodes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimingChoice {
    /// One site: heartbeat 200 ms, election 250 to 500 ms.
    #[default]
    Lan,
    /// Several sites: heartbeat 200 ms, election 1000 to 2000 ms.
    Wan,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeSection {
    https: Option<Vec<SocketAddr>>,
    http: Option<Vec<SocketAddr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DnsSection {
    listen: Option<Vec<SocketAddr>>,
    regions: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TunnelSection {
    listen: Option<SocketAddr>,
    endpoint: Option<String>,
    #[serde(default)]
    backend: BackendName,
    interface: Option<String>,
    mtu: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BackendName {
    #[default]
    Auto,
    Kernel,
    Tun,
    InProcess,
}

impl From<BackendName> for BackendChoice {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Auto => Self::Auto,
            BackendName::Kernel => Self::Kernel,
            BackendName::Tun => Self::Tun,
            BackendName::InProcess => Self::InProcess,
        }
    }
}

/// What this node may reach for local sites.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalTargetsSection {
    #[serde(default)]
    allow: Vec<IpNet>,
    #[serde(default)]
    deny: Vec<IpNet>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupSection {
    enabled: Option<bool>,
    dir: Option<PathBuf>,
    second_dir: Option<PathBuf>,
    s3: Option<S3Section>,
    hourly: Option<u16>,
    daily: Option<u16>,
    archive_seconds: Option<u16>,
}

/// A bucket of an S3-compatible store.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct S3Section {
    endpoint: String,
    bucket: String,
    region: Option<String>,
    prefix: Option<String>,
    key_id: String,
    secret_file: PathBuf,
    ca_file: Option<PathBuf>,
}

impl S3Section {
    fn check(self) -> Result<BucketConfig, (&'static str, String)> {
        if !["https://", "http://"].iter().any(|scheme| self.endpoint.starts_with(scheme)) {
            return Err(("backup.s3.endpoint", format!("{:?} does not begin with https://", self.endpoint)));
        }
        let plain = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_/".contains(c))
        };
        if !plain(&self.bucket) || self.bucket.contains('/') {
            return Err(("backup.s3.bucket", format!("{:?} is not the name of a bucket", self.bucket)));
        }
        let prefix = self.prefix.unwrap_or_default();
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty()
            && (!plain(prefix) || prefix.split('/').any(|part| ["", ".", ".."].contains(&part)))
        {
            return Err((
                "backup.s3.prefix",
                format!("{prefix:?} has other characters than a-z, 0-9, - _ . and /"),
            ));
        }
        Ok(BucketConfig {
            endpoint: self.endpoint,
            bucket: self.bucket,
            region: self.region.unwrap_or_else(|| S3_REGION.to_owned()),
            prefix: prefix.to_owned(),
            key_id: self.key_id,
            secret_file: self.secret_file,
            authorities: self.ca_file.unwrap_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES)),
        })
    }
}

impl BackupSection {
    fn check(self, state_dir: &Path) -> Result<BackupConfig, (&'static str, String)> {
        let defaults = Retention::default();
        let seconds = self.archive_seconds.unwrap_or(ARCHIVE_SECONDS);
        if !(1..=3600).contains(&seconds) {
            return Err(("backup.archive_seconds", format!("{seconds} does not lie between 1 and 3600")));
        }
        let dir = self.dir.unwrap_or_else(|| state_dir.join("backups"));
        if self.second_dir.as_ref() == Some(&dir) {
            return Err(("backup.second_dir", "it is the same directory as the first one".into()));
        }
        Ok(BackupConfig {
            enabled: self.enabled.unwrap_or(true),
            dir,
            second_dir: self.second_dir,
            bucket: self.s3.map(S3Section::check).transpose()?,
            retention: Retention {
                hourly: self.hourly.map_or(defaults.hourly, usize::from),
                daily: self.daily.map_or(defaults.daily, usize::from),
                ..defaults
            },
            archive_every: Duration::from_secs(u64::from(seconds)),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogSection {
    format: Option<LogFormat>,
    filter: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetricsSection {
    listen: Option<Vec<SocketAddr>>,
    token_file: Option<PathBuf>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Everything a node needs to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it was read from, for messages.
    pub path: PathBuf,
    /// The node's short name.
    pub name: Slug,
    /// What outlives a restart.
    pub state_dir: PathBuf,
    /// The local socket's place.
    pub runtime_dir: PathBuf,
    /// What DNS answers for this node.
    pub public_addresses: Vec<IpAddr>,
    /// Placement hint.
    pub region: Option<Slug>,
    /// Where peers connect.
    pub peer_listen: SocketAddr,
    /// Where peers are told to connect.
    pub peer_advertise: SocketAddr,
    /// How far apart the nodes are.
    pub timing: TimingChoice,
    /// Where the edge serves HTTPS.
    pub https: Vec<SocketAddr>,
    /// Where the edge redirects from.
    pub http: Vec<SocketAddr>,
    /// Where DNS answers.
    pub dns: Vec<SocketAddr>,
    /// A database in MaxMind's format that tells where clients of DNS are.
    pub dns_regions: Option<PathBuf>,
    /// Where WireGuard datagrams arrive.
    pub tunnel_listen: SocketAddr,
    /// Where connectors send them.
    pub tunnel_endpoint: String,
    /// How tunnels are made.
    pub tunnel_backend: BackendChoice,
    /// The tunnel interface's name.
    pub tunnel_interface: String,
    /// Largest packet inside the tunnels, bytes.
    pub tunnel_mtu: u16,
    /// What it may reach for local sites.
    pub local_targets: LocalTargets,
    /// How backups are made.
    pub backup: BackupConfig,
    /// How log lines are written; none = by whether standard error is a terminal.
    pub log_format: Option<LogFormat>,
    /// Which log lines are written (`tracing` filter syntax).
    pub log_filter: String,
    /// Where metrics are told, and to whom.
    pub metrics: MetricsConfig,
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is for messages.
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let parse = |message: String| ConfigError::Parse { path: path.to_owned(), message };
        let file: V1 = toml::from_str(text).map_err(|error| parse(error.to_string()))?;
        if file.version != 1 {
            return Err(parse(format!("version = {} is not known here; write version = 1", file.version)));
        }
        file.check(path)
    }

    /// The local socket for `pangolinctl`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir.join("pangolin.sock")
    }
}

impl V1 {
    fn check(self, path: &Path) -> Result<Config, ConfigError> {
        let bad = |key, reason: String| ConfigError::Value { path: path.to_owned(), key, reason };
        let name: Slug = self.node.name.parse().map_err(|error| bad("node.name", format!("{error}")))?;
        let Some(first) = self.node.public_addresses.first().copied() else {
            return Err(bad(
                "node.public_addresses",
                "at least one address is needed: DNS answers it".into(),
            ));
        };
        if self.node.public_addresses.iter().any(IpAddr::is_unspecified) {
            return Err(bad(
                "node.public_addresses",
                "an unspecified address cannot be reached by anyone".into(),
            ));
        }
        let on_each = |port| self.node.public_addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let peer_listen = self.peer.listen.unwrap_or_else(|| SocketAddr::new(first, 7420));
        let peer_advertise = self.peer.advertise.unwrap_or_else(|| {
            if peer_listen.ip().is_unspecified() {
                SocketAddr::new(first, peer_listen.port())
            } else {
                peer_listen
            }
        });
        let tunnel_listen = self.tunnel.listen.unwrap_or_else(|| SocketAddr::new(first, 51820));
        let tunnel_endpoint = self.tunnel.endpoint.unwrap_or_else(|| {
            let ip = if tunnel_listen.ip().is_unspecified() { first } else { tunnel_listen.ip() };
            SocketAddr::new(ip, tunnel_listen.port()).to_string()
        });
        if tunnel_endpoint.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(bad("tunnel.endpoint", format!("{tunnel_endpoint:?} is not HOST:PORT")));
        }
        let tunnel_interface = self.tunnel.interface.unwrap_or_else(|| "pangolin0".into());
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if tunnel_interface.is_empty()
            || tunnel_interface.len() > INTERFACE_MAX
            || !tunnel_interface.chars().all(plain)
        {
            let reason = format!("{tunnel_interface:?} is not 1 to {INTERFACE_MAX} letters, digits, - or _");
            return Err(bad("tunnel.interface", reason));
        }
        let tunnel_mtu = self.tunnel.mtu.unwrap_or(1280);
        if !(576..=1420).contains(&tunnel_mtu) {
            return Err(bad("tunnel.mtu", format!("{tunnel_mtu} does not lie between 576 and 1420")));
        }
        let https: Vec<SocketAddr> = self.edge.https.unwrap_or_else(|| on_each(443));
        let http: Vec<SocketAddr> = self.edge.http.unwrap_or_else(|| on_each(80));
        let dns: Vec<SocketAddr> = self.dns.listen.unwrap_or_else(|| on_each(53));
        let metrics = MetricsConfig {
            listen: self.metrics.listen.unwrap_or_default(),
            token_file: self.metrics.token_file,
        };
        metrics.check().map_err(|reason| bad("metrics.listen", reason))?;
        for (key, list) in [
            ("edge.https", &https),
            ("edge.http", &http),
            ("dns.listen", &dns),
            ("metrics.listen", &metrics.listen),
        ] {
            if list.len() > LISTEN_MAX {
                return Err(bad(key, format!("{} addresses; {LISTEN_MAX} are allowed", list.len())));
            }
        }
        if https.is_empty() {
            return Err(bad(
                "edge.https",
                "at least one address is needed: connectors and users come in there".into(),
            ));
        }
        let LocalTargetsSection { allow, deny } = self.local_targets;
        let local_targets = LocalTargets::new(allow, deny).map_err(|reason| bad("local_targets", reason))?;
        let backup = self.backup.check(&self.node.state_dir).map_err(|(key, reason)| bad(key, reason))?;
        Ok(Config {
            path: path.to_owned(),
            backup,
            name,
            state_dir: self.node.state_dir,
            runtime_dir: self.node.runtime_dir,
            public_addresses: self.node.public_addresses,
            region: self.node.region,
            peer_listen,
            peer_advertise,
            timing: self.peer.timing,
            https,
            http,
            dns,
            dns_regions: self.dns.regions,
            tunnel_listen,
            tunnel_endpoint,
            tunnel_backend: self.tunnel.backend.into(),
            tunnel_interface,
            tunnel_mtu,
            local_targets,
            log_format: self.log.format,
            log_filter: self.log.filter.unwrap_or_else(|| LOG_FILTER.into()),
            metrics,
        })
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::name::SLUG_MAX;

    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("pangolin.toml"))
    }

    const LEAST: &str = "version = 1\n[node]\nname = \"n1\"\npublic_addresses = [\"192.0.2.1\"]\n";

    #[test]
    fn a_name_and_an_address_are_enough() {
        let config = parse(LEAST).expect("a configuration");
        assert_eq!(config.peer_advertise, "192.0.2.1:7420".parse().expect("an address"));
        assert_eq!(config.tunnel_endpoint, "192.0.2.1:51820");
        assert_eq!(config.https, ["192.0.2.1:443".parse().expect("an address")]);
    }

    #[test]
    fn unknown_keys_are_refused_with_their_place() {
        let error = parse(&format!("{LEAST}colour = \"red\"\n")).expect_err("refused").to_string();
        assert!(error.contains("colour") && error.contains("line 5"), "{error}");
    }

    fn s3(lines: &str) -> String {
        format!("{LEAST}[backup.s3]\nkey_id = \"k\"\nsecret_file = \"/s\"\n{lines}\n")
    }

    #[test]
    fn values_that_make_no_sense_are_refused_with_their_key() {
        for (text, key) in [
            (LEAST.replace("n1", "N 1"), "node.name"),
            (LEAST.replace("n1", &"n".repeat(SLUG_MAX + 1)), "node.name"),
            (LEAST.replace("\"192.0.2.1\"", ""), "node.public_addresses"),
            (LEAST.replace("192.0.2.1", "0.0.0.0"), "node.public_addresses"),
            (format!("{LEAST}[tunnel]\ninterface = \"a/b\"\n"), "tunnel.interface"),
            (format!("{LEAST}[tunnel]\nendpoint = \"host\"\n"), "tunnel.endpoint"),
            (format!("{LEAST}[edge]\nhttps = []\n"), "edge.https"),
            (format!("{LEAST}[backup]\narchive_seconds = 0\n"), "backup.archive_seconds"),
            (format!("{LEAST}[backup]\ndir = \"/b\"\nsecond_dir = \"/b\"\n"), "backup.second_dir"),
            (s3("endpoint = \"s3.example.com\"\nbucket = \"b\""), "backup.s3.endpoint"),
            (s3("endpoint = \"https://s3.example.com\"\nbucket = \"b/c\""), "backup.s3.bucket"),
            (
                s3("endpoint = \"https://s3.example.com\"\nbucket = \"b\"\nprefix = \"a/../b\""),
                "backup.s3.prefix",
            ),
            (format!("{LEAST}[local_targets]\nallow = [\"10.0.0.1/8\"]\n"), "local_targets"),
            (format!("{LEAST}[metrics]\nlisten = [\"0.0.0.0:9465\"]\n"), "metrics.listen"),
            (LEAST.replace("= 1", "= 2"), "version"),
        ] {
            let error = parse(&text).expect_err("refused").to_string();
            assert!(error.contains(key), "{error} does not name {key}");
        }
    }
}
