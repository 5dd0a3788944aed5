//! What the connector is told at its start: arguments, environment and file made into one total type. Newt's names for
//! all three are understood; what of it means nothing here ([`newt`]) is said, and no reason not to start.

mod file;
mod newt;

use std::{fmt, io, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::{
    dial::{Tls, TrustError},
    endpoint::{Door, Endpoint, EndpointError},
    key::{SecretFileError, read_secret, stable_key},
    provision::{Credentials, Provisioning},
};
use pangolin_tunnel::{DEFAULT_MTU, SecretKey, site::SiteBackend};

use self::{file::File, newt::NewtArguments};

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
    /// Configuration file: TOML, the names below with underscores, or Newt's JSON
    #[arg(long, env = "CONFIG_FILE", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    #[command(flatten)]
    site: SiteArguments,
    #[command(flatten)]
    tunnels: TunnelArguments,
    #[command(flatten)]
    newt: NewtArguments,
    /// What to do instead of running
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// Least severe messages to log: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
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
    #[arg(long, visible_alias = "name", env = "PANGOLIN_SITE_NAME", value_name = "NAME")]
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
    /// Newt's name for the same; repeatable
    #[arg(long, hide = true, value_name = "FILE")]
    tls_client_ca: Vec<PathBuf>,
    /// Refused: see [`OptionsError::Unverified`]
    #[arg(
        long,
        env = "SKIP_TLS_VERIFY",
        hide = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    skip_tls_verify: Option<String>,
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
    /// The file is not the JSON that a Newt takes.
    #[error("{path}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The cluster's certificate shall not be verified. Whoever stood between would get the secret.
    #[error(
        "certificates are always verified here, so SKIP_TLS_VERIFY is not obeyed: name the certificates to trust with --ca-file or PANGOLIN_CA_FILE instead (`pangolinctl ca` prints that of a cluster without a public one), and take it away"
    )]
    Unverified,
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
    /// Fills in what is said by further names of the environment. `environment` looks one up.
    #[must_use]
    pub fn with_other_names(mut self, environment: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&str]| {
            names.iter().filter_map(|name| environment(name)).find(|value| !value.is_empty())
        };
        let site = &mut self.site;
        site.id = site.id.take().or_else(|| first(&["SITE_ID"]));
        if site.secret_file.is_none() {
            site.secret = site.secret.take().or_else(|| first(&["SITE_SECRET"]).map(Secret));
        }
        let key = || first(&["NEWT_PROVISIONING_KEY", "SITE_PROVISIONING_KEY"]).map(Secret);
        site.provisioning_key = site.provisioning_key.take().or_else(key);
        site.site_name = site.site_name.take().or_else(|| first(&["NEWT_NAME", "SITE_NAME"]));
        if site.tls_client_ca.is_empty() {
            let files = first(&["TLS_CLIENT_CAS"]).unwrap_or_default();
            site.tls_client_ca =
                files.split(',').map(str::trim).filter(|file| !file.is_empty()).map(PathBuf::from).collect();
        }
        self
    }

    /// The options of a Newt that were given and mean nothing here, each with the reason.
    ///
    /// # Errors
    /// The configuration file cannot be read.
    pub fn without_meaning(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<String>, OptionsError> {
        let file = self.file()?;
        Ok(self.newt.given().chain(newt::in_environment(environment)).chain(file.without_meaning).collect())
    }

    /// Least severe messages to log, in the words of `tracing`.
    ///
    /// # Errors
    /// The configuration file cannot be read.
    pub fn log_level(&self) -> Result<String, OptionsError> {
        let level = match &self.log_level {
            Some(level) => level.clone(),
            None => self.file()?.log_level.unwrap_or_else(|| "info".to_owned()),
        };
        // Newt's names are in capitals, and it has one that is rarer than errors.
        let level = level.to_lowercase();
        Ok(if level == "fatal" { "error".to_owned() } else { level })
    }

    /// The file in which a running connector says how it is, if one was given.
    ///
    /// # Errors
    /// The configuration file cannot be read.
    pub fn status_file(&self) -> Result<Option<PathBuf>, OptionsError> {
        Ok(self.tunnels.status_file.clone().or(self.file()?.status_file))
    }

    /// The provisioning key that has to be exchanged for credentials before [`Arguments::resolve`]; none if there are
    /// credentials, or no key.
    ///
    /// # Errors
    /// [`OptionsError`] if something is missing, wrong, or cannot be read.
    pub fn provisioning(&self) -> Result<Option<Provisioning>, OptionsError> {
        let file = self.file()?;
        let site = &self.site;
        let given = site.id.is_some() || file.id.is_some();
        let Some(key) = site.provisioning_key.clone().or(file.provisioning_key.clone()).filter(|_| !given)
        else {
            return Ok(None);
        };
        let how = "--credentials-file or PANGOLIN_CREDENTIALS_FILE";
        let missing = OptionsError::Missing { what: "a file for the credentials", how };
        let path = site.credentials_file.clone().or(file.credentials_file.clone()).ok_or(missing)?;
        if Credentials::read(&path)?.is_some() {
            return Ok(None);
        }
        let tls = site.tls(&file)?;
        let given = if site.endpoint.is_empty() { file.endpoint.all() } else { site.endpoint.clone() };
        let doors = doors(&given, site.server_name.as_ref().or(file.server_name.as_ref()))?;
        let name = site.site_name.clone().or(file.site_name);
        Ok(Some(Provisioning { key, name, doors, tls, file: path }))
    }

    /// Fills in what the file says and reads what the files hold. Arguments and environment go before the file.
    ///
    /// # Errors
    /// [`OptionsError`] if something is missing, wrong, or cannot be read.
    pub fn resolve(self) -> Result<Options, OptionsError> {
        let file = self.file()?;
        let (site, tunnels) = (self.site, self.tunnels);
        let tls = site.tls(&file)?;
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
            tls,
            tunnels: most,
            key,
            mtu: tunnels.mtu.or(file.mtu).unwrap_or(DEFAULT_MTU),
            backend: tunnels.backend.or(file.backend).unwrap_or_default().into(),
            health_file: tunnels.health_file.or(file.health_file),
            status_file: tunnels.status_file.or(file.status_file),
        })
    }

    fn file(&self) -> Result<File, OptionsError> {
        Ok(self.config_file.as_deref().map(File::read).transpose()?.unwrap_or_default())
    }
}

impl SiteArguments {
    /// How TLS is spoken; with verification, whatever a Newt was told.
    fn tls(&self, file: &File) -> Result<Tls, OptionsError> {
        let skip = self.skip_tls_verify.as_deref().map_or(file.skip_tls_verify, newt::says_something);
        if skip {
            return Err(OptionsError::Unverified);
        }
        let more = if self.tls_client_ca.is_empty() { &file.tls_client_ca } else { &self.tls_client_ca };
        let files: Vec<PathBuf> =
            self.ca_file.as_ref().or(file.ca_file.as_ref()).into_iter().chain(more).cloned().collect();
        Ok(Tls::trusting(&files)?)
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

#[cfg(test)]
mod tests;
