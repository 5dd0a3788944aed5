//! What the connector is told at its start: arguments, environment and file made into one total type.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{
    dial::{Tls, TrustError},
    endpoint::{Door, Endpoint, EndpointError},
    key::{SecretFileError, read_secret, stable_key},
    provision::{Credentials, Provisioning},
};
use pangolin_tunnel::{DEFAULT_MTU, SecretKey, site::SiteBackend};

/// Most nodes to have tunnels to, unless said otherwise: the home and two that stand by.
const TUNNELS_DEFAULT: usize = 3;
/// More tunnels than that would only cost the nodes probes.
const TUNNELS_MAX: usize = 16;
/// The running program, also after its file has been replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Connects a private network to a Pangolin cluster. Needs no root.
#[derive(Debug, Parser)]
#[command(name = "pangolin-connector", version)]
pub struct Arguments {
    /// Configuration file (TOML, the names below with underscores)
    #[arg(long, env = "CONFIG_FILE", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    #[command(flatten)]
    site: SiteArguments,
    #[command(flatten)]
    tunnels: TunnelArguments,
    /// What to do instead of running
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Least severe messages to log: error, warn, info, debug, trace, or a filter
    #[arg(long, env = "LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// How messages are written
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// What else the program does. Options stand before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// How the running connector's control socket and tunnels are
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Try every step between here and the cluster, and name the port that is blocked; changes nothing
    Doctor,
    /// Keep the network namespace of the connector that has started this
    #[command(hide = true)]
    ServeNamespace,
}

#[derive(Debug, Args)]
struct SiteArguments {
    /// Id of the site's connector
    #[arg(long, env = "NEWT_ID")]
    id: Option<String>,
    /// Its secret; other users can read arguments, so rather use --secret-file or the environment
    #[arg(long, env = "NEWT_SECRET", hide_env_values = true, conflicts_with = "secret_file")]
    secret: Option<Secret>,
    /// File with the secret, readable by its owner only
    #[arg(long, env = "NEWT_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Key with which the cluster makes a site for this connector at its first start; needs --credentials-file
    #[arg(long, env = "PROVISIONING_KEY", hide_env_values = true, value_name = "KEY")]
    provisioning_key: Option<Secret>,
    /// File where the credentials are kept that come of a provisioning key
    #[arg(long, env = "PANGOLIN_CREDENTIALS_FILE", value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// Display name that the site shall have
    #[arg(long, env = "PANGOLIN_SITE_NAME", value_name = "NAME")]
    site_name: Option<String>,
    /// Where the cluster is reached: https://host[:port]; repeatable, or separated by commas
    #[arg(long, env = "PANGOLIN_ENDPOINT", value_delimiter = ',', value_name = "URL")]
    endpoint: Vec<String>,
    /// Name to ask for at endpoints that are given by address: the cluster's control host
    #[arg(long, env = "PANGOLIN_SERVER_NAME", value_name = "HOST")]
    server_name: Option<String>,
    /// Certificates to trust in addition to the system's (PEM)
    #[arg(long, env = "PANGOLIN_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct TunnelArguments {
    /// Most nodes to keep tunnels to [default: 3]; with 1, the cluster moves the tunnel when its node fails
    #[arg(long, env = "PANGOLIN_TUNNELS", value_name = "N")]
    tunnels: Option<usize>,
    /// File with the WireGuard key, made when it is missing; without it, every start has a new key
    #[arg(long, env = "PANGOLIN_KEY_FILE", value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Largest packet inside the tunnels [default: 1280]
    #[arg(long, env = "MTU", value_name = "BYTES")]
    mtu: Option<u16>,
    /// What carries the packets inside the tunnels [default: auto]
    #[arg(long, env = "PANGOLIN_BACKEND", value_enum, value_name = "BACKEND")]
    backend: Option<BackendName>,
    /// File that exists while a tunnel is alive
    #[arg(long, env = "HEALTH_FILE", value_name = "FILE")]
    health_file: Option<PathBuf>,
    /// File in which a running connector says how it is, for `status` and `doctor`
    #[arg(long, env = "PANGOLIN_STATUS_FILE", value_name = "FILE")]
    status_file: Option<PathBuf>,
}

/// The names of [`SiteBackend`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BackendName {
    /// The best that works
    #[default]
    Auto,
    /// The kernel's TCP, in a network namespace of the connector's own; takes a host that lets everybody make one
    Tun,
    /// TCP in the connector itself: works everywhere, and is slow where packets are lost
    InProcess,
}

impl From<BackendName> for SiteBackend {
    fn from(name: BackendName) -> Self {
        match name {
            BackendName::Auto => Self::Auto(OWN_PROGRAM.into()),
            BackendName::Tun => Self::Tun(OWN_PROGRAM.into()),
            BackendName::InProcess => Self::InProcess,
        }
    }
}

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one object a line.
    Json,
}

/// The same from a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: Option<String>,
    secret: Option<Secret>,
    secret_file: Option<PathBuf>,
    provisioning_key: Option<Secret>,
    credentials_file: Option<PathBuf>,
    site_name: Option<String>,
    #[serde(default)]
    endpoint: OneOrMore,
    server_name: Option<String>,
    ca_file: Option<PathBuf>,
    tunnels: Option<usize>,
    key_file: Option<PathBuf>,
    mtu: Option<u16>,
    backend: Option<BackendName>,
    health_file: Option<PathBuf>,
    status_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl OneOrMore {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(text) => text.split(',').map(|text| text.trim().to_owned()).collect(),
            Self::More(texts) => texts,
        }
    }
}

/// A text that is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What was said at the start does not do.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// Something necessary is missing.
    #[error("{what} is missing; give {how}")]
    Missing {
        /// What.
        what: &'static str,
        /// How to give it.
        how: &'static str,
    },
    /// An endpoint is not one.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not as it should be.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// The secret or the key cannot be had.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// The certificates to trust cannot be had.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// `status` needs to know where.
    #[error(
        "nothing says where the running connector's status is; give --status-file or PANGOLIN_STATUS_FILE"
    )]
    NoStatusFile,
    /// A number is out of range.
    #[error("--tunnels {0}: a number from 1 to {TUNNELS_MAX}")]
    Tunnels(usize),
}

/// All that the connector needs to know.
pub struct Options {
    /// Id of the site's connector.
    pub id: String,
    /// Its secret.
    pub secret: Secret,
    /// Where the cluster is reached; at least one.
    pub doors: Vec<Door>,
    /// How TLS is spoken.
    pub tls: Tls,
    /// Most nodes to have tunnels to. With one, the connector speaks the plain protocol and the cluster moves the tunnel.
    pub tunnels: usize,
    /// The WireGuard key.
    pub key: SecretKey,
    /// Largest packet inside the tunnels.
    pub mtu: u16,
    /// What carries the packets inside the tunnels.
    pub backend: SiteBackend,
    /// File that exists while a tunnel is alive.
    pub health_file: Option<PathBuf>,
    /// File in which the connector says how it is.
    pub status_file: Option<PathBuf>,
}

impl Arguments {
    /// The file in which a running connector says how it is, if one was given.
    ///
    /// # Errors
    /// The configuration file cannot be read.
    pub fn status_file(&self) -> Result<Option<PathBuf>, OptionsError> {
        let file = self.config_file.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(self.tunnels.status_file.clone().or(file.status_file))
    }

    /// The provisioning key that has to be exchanged for credentials before [`Arguments::resolve`]; none if there are
    /// credentials, or no key.
    ///
    /// # Errors
    /// [`OptionsError`] if something is missing, wrong, or cannot be read.
    pub fn provisioning(&self) -> Result<Option<Provisioning>, OptionsError> {
        let file = self.config_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let site = &self.site;
        let given = site.id.is_some() || file.id.is_some();
        let Some(key) = site.provisioning_key.clone().or(file.provisioning_key).filter(|_| !given) else {
            return Ok(None);
        };
        let how = "--credentials-file or PANGOLIN_CREDENTIALS_FILE";
        let missing = OptionsError::Missing { what: "a file for the credentials", how };
        let path = site.credentials_file.clone().or(file.credentials_file).ok_or(missing)?;
        if Credentials::read(&path)?.is_some() {
            return Ok(None);
        }
        let given = if site.endpoint.is_empty() { file.endpoint.all() } else { site.endpoint.clone() };
        let doors = doors(&given, site.server_name.as_ref().or(file.server_name.as_ref()))?;
        let tls = Tls::new(site.ca_file.as_ref().or(file.ca_file.as_ref()).map(PathBuf::as_path))?;
        let name = site.site_name.clone().or(file.site_name);
        Ok(Some(Provisioning { key, name, doors, tls, file: path }))
    }

    /// Fills in what the file says and reads what the files hold. Arguments and environment go before the file.
    ///
    /// # Errors
    /// [`OptionsError`] if something is missing, wrong, or cannot be read.
    pub fn resolve(self) -> Result<Options, OptionsError> {
        let file = self.config_file.as_deref().map(read).transpose()?.unwrap_or_default();
        let (site, tunnels) = (self.site, self.tunnels);
        let secret = match (site.secret, site.secret_file) {
            (Some(secret), _) => Some(secret),
            (None, Some(path)) => Some(Secret(read_secret(&path)?)),
            (None, None) => match (file.secret, file.secret_file) {
                (Some(secret), _) => Some(secret),
                (None, path) => path.as_deref().map(read_secret).transpose()?.map(Secret),
            },
        };
        let given = if site.endpoint.is_empty() { file.endpoint.all() } else { site.endpoint };
        let missing = |what, how| OptionsError::Missing { what, how };
        let doors = doors(&given, site.server_name.or(file.server_name).as_ref())?;
        let id = site.id.or(file.id);
        let kept = match site.credentials_file.or(file.credentials_file) {
            Some(path) if id.is_none() => Credentials::read(&path)?,
            _ => None,
        };
        let (id, secret) = match kept {
            Some(Credentials { id, secret }) => (Some(id), Some(secret)),
            None => (id, secret),
        };
        let most = tunnels.tunnels.or(file.tunnels).unwrap_or(TUNNELS_DEFAULT);
        if !(1..=TUNNELS_MAX).contains(&most) {
            return Err(OptionsError::Tunnels(most));
        }
        let key = match tunnels.key_file.or(file.key_file) {
            Some(path) => stable_key(&path)?,
            None => SecretKey::generate(),
        };
        Ok(Options {
            id: id.ok_or(missing("the id", "--id or NEWT_ID"))?,
            secret: secret.ok_or(missing("the secret", "--secret-file or NEWT_SECRET"))?,
            doors,
            tls: Tls::new(site.ca_file.or(file.ca_file).as_deref())?,
            tunnels: most,
            key,
            mtu: tunnels.mtu.or(file.mtu).unwrap_or(DEFAULT_MTU),
            backend: tunnels.backend.or(file.backend).unwrap_or_default().into(),
            health_file: tunnels.health_file.or(file.health_file),
            status_file: tunnels.status_file.or(file.status_file),
        })
    }
}

/// Where the cluster is reached.
fn doors(given: &[String], server_name: Option<&String>) -> Result<Vec<Door>, OptionsError> {
    let endpoints = given.iter().map(|text| text.trim().parse()).collect::<Result<Vec<Endpoint>, _>>()?;
    let configured = |endpoint| Door::configured(endpoint, server_name.map(String::as_str));
    let doors: Vec<Door> = endpoints.into_iter().map(configured).collect();
    if doors.is_empty() {
        let how = "--endpoint or PANGOLIN_ENDPOINT";
        return Err(OptionsError::Missing { what: "the endpoint", how });
    }
    Ok(doors)
}

fn read(path: &Path) -> Result<File, OptionsError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| OptionsError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text)
        .map_err(|source| OptionsError::Parse { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn resolve(arguments: &[&str]) -> Result<Options, OptionsError> {
        let arguments = ["pangolin-connector"].iter().chain(arguments);
        Arguments::try_parse_from(arguments).unwrap().resolve()
    }

    #[test]
    fn the_names_of_newt_are_understood() {
        let arguments =
            ["--id", "k3v", "--secret", "s3cret", "--endpoint", "https://a.example,https://b.example:8443"];
        let options = resolve(&arguments).unwrap();
        assert_eq!((options.id.as_str(), options.secret.expose()), ("k3v", "s3cret"));
        assert_eq!(options.doors[1].to_string(), "https://b.example:8443");
        assert_eq!((options.tunnels, options.mtu), (3, 1280));
        assert_eq!(options.backend, SiteBackend::Auto(OWN_PROGRAM.into()));
        assert_eq!(format!("{:?}", options.secret), "Secret(…)");
    }

    #[test]
    fn the_file_fills_in_what_arguments_leave_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("secret"), "from the file\n").unwrap();
        fs::set_permissions(path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        let text = format!(
            "id = 'file'\nsecret_file = '{}'\nendpoint = ['a.example', 'b.example']\ntunnels = 2\nbackend = 'in-process'\nkey_file = '{}'\n",
            path("secret"),
            path("key")
        );
        fs::write(path("config"), text).unwrap();
        let arguments = ["--config-file", &path("config"), "--id", "argument"];
        let options = resolve(&arguments).unwrap();
        assert_eq!((options.id.as_str(), options.secret.expose()), ("argument", "from the file"));
        assert_eq!((options.doors.len(), options.tunnels), (2, 2));
        assert_eq!(options.backend, SiteBackend::InProcess);
        assert_eq!(resolve(&arguments).unwrap().key.public(), options.key.public());
    }

    #[test]
    fn a_provisioning_key_is_exchanged_once_and_its_credentials_are_used_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("credentials").display().to_string();
        let parse = |arguments: &[&str]| {
            Arguments::try_parse_from(["pangolin-connector"].iter().chain(arguments)).unwrap()
        };
        let all = [
            "--provisioning-key",
            "spk.secret",
            "--credentials-file",
            &kept,
            "--endpoint",
            "https://a.example",
        ];
        assert!(parse(&all).provisioning().unwrap().is_some());
        assert!(parse(&[&all[..], &["--id", "k3v"]].concat()).provisioning().unwrap().is_none());
        let error = parse(&[&all[..2], &all[4..]].concat()).provisioning().err().unwrap().to_string();
        assert!(error.contains("--credentials-file"), "{error}");
        fs::write(&kept, r#"{"id":"k3v","secret":"s3cret"}"#).unwrap();
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(parse(&all).provisioning().unwrap().is_none());
        let options = parse(&all).resolve().unwrap();
        assert_eq!((options.id.as_str(), options.secret.expose()), ("k3v", "s3cret"));
        fs::write(&kept, "{}").unwrap();
        assert!(parse(&all).provisioning().is_err());
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config").display().to_string();
        fs::write(&config, "secrets = 'x'").unwrap();
        let all = ["--id", "k3v", "--secret", "s", "--endpoint", "a.example"];
        let cases: [(&[&str], &str); 6] = [
            (&all[..4], "endpoint is missing"),
            (&all[2..], "id is missing"),
            (&["--id", "k3v", "--endpoint", "a.example"], "--secret-file"),
            (&["--id", "k3v", "--secret", "s", "--endpoint", "ftp://a"], "not of the form"),
            (&["--config-file", &config], "unknown field"),
            (&["--id", "k", "--secret", "s", "--endpoint", "a", "--tunnels", "0"], "1 to 16"),
        ];
        for (arguments, expected) in cases {
            let error = resolve(arguments).err().expect(expected).to_string();
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }
}
