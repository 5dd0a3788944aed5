//! The command line: what is common to all verbs, and the list of nouns.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use pangolin_core::Slug;

use crate::{
    autopilot, backup, cert, dns, domain, events, journal, key, keyring, leader, node, org, port,
    provisioning_key, resource, role, site, status, target, token, upgrade, user, why,
};

#[derive(Debug, Parser)]
#[command(
    name = "pangolinctl",
    version,
    about = "Operates a Pangolin cluster",
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Global {
    /// API to talk to, https://HOST[:PORT]; without it the local socket is used
    #[arg(long, global = true, env = "PANGOLIN_ENDPOINT", value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// File with the API key ID.SECRET (or set PANGOLIN_KEY)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// File with certificate authorities to trust besides the system's, PEM
    #[arg(long, global = true, env = "PANGOLIN_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Local socket of pangolind [default: /run/pangolin/pangolin.sock, or PANGOLIN_SOCKET]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Form of the output
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table, value_name = "FORM")]
    pub(crate) output: Output,
    /// How long to repeat a request that is not answered in the end, for example 500ms, 10s, 2m [default: 10s; 60s
    /// where nodes come and go]
    #[arg(long, global = true, value_parser = duration, value_name = "TIME")]
    pub(crate) timeout: Option<Duration>,
    /// Organisation that sites, domains, resources, roles are looked for in; needed where there are several
    #[arg(long, global = true, env = "PANGOLIN_ORG", value_name = "ORG")]
    pub(crate) org: Option<Slug>,
}

/// Forms of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// The data of the API's answer, as it is.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the cluster: leader, quorum, nodes, sites
    Status(status::Status),
    /// Show what happened on and around one node, and why
    Journal(journal::Journal),
    /// Say why a name, site, certificate or node is as it is: the decisions behind it
    Why(why::Why),
    /// Show what was decided in the cluster, by whom and why
    Events(events::Events),
    /// Make a new cluster with this host as its first node (runs `pangolind init`)
    #[command(disable_help_flag = true)]
    Init(Rest),
    /// Let this host join a cluster (runs `pangolind join`)
    #[command(disable_help_flag = true)]
    Join(Rest),
    /// Let faults loose on a cluster of real processes, and judge it (runs `pangolin-chaos`)
    #[command(disable_help_flag = true)]
    Chaos(Rest),
    /// Make a cluster of this one node again when the others are lost for good (runs `pangolind recover`)
    #[command(disable_help_flag = true)]
    Recover(Rest),
    /// Print the certificate to trust for what the cluster's internal issuer signs (PEM)
    Ca,
    /// Take a node out of the cluster for good
    Leave {
        /// Id or name of the node; this host's if not given
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Take the cluster apart: all nodes leave it but the one that is asked
    Disband {
        /// Name of the cluster, as a confirmation
        #[arg(long, value_name = "CLUSTER")]
        yes: Slug,
    },
    /// How the cluster looks after its voters by itself
    #[command(subcommand)]
    Autopilot(autopilot::Verb),
    /// Permissions to join the cluster
    #[command(subcommand)]
    Token(token::Verb),
    /// Backups, and restoring them
    #[command(subcommand)]
    Backup(backup::Verb),
    /// Leadership among the nodes
    #[command(subcommand)]
    Leader(leader::Verb),
    /// Hosts of the cluster
    #[command(subcommand)]
    Node(node::Verb),
    /// Another version on every node, one after the other
    #[command(subcommand)]
    Upgrade(upgrade::Verb),
    /// Organisations
    #[command(subcommand)]
    Org(org::Verb),
    /// Users and their roles
    #[command(subcommand)]
    User(user::Verb),
    /// Roles of an organisation
    #[command(subcommand)]
    Role(role::Verb),
    /// Private networks with a connector
    #[command(subcommand)]
    Site(site::Verb),
    /// DNS: zones, records, signing, what is answered
    #[command(subcommand)]
    Dns(dns::Verb),
    /// DNS domains to publish under
    #[command(subcommand)]
    Domain(domain::Verb),
    /// What people reach by name
    #[command(subcommand)]
    Resource(resource::Verb),
    /// Addresses behind sites that resources lead to
    #[command(subcommand)]
    Target(target::Verb),
    /// Ports of nodes that lead to resources: TCP, UDP, and TLS that is passed on
    #[command(subcommand)]
    Port(port::Verb),
    /// Certificates, and the issuers that they come from
    #[command(subcommand)]
    Cert(cert::Verb),
    /// API keys
    #[command(subcommand)]
    Key(key::Verb),
    /// Keys with which connectors make their own sites
    #[command(subcommand)]
    ProvisioningKey(provisioning_key::Verb),
    /// The keys that seal private keys and secrets
    #[command(subcommand)]
    Keyring(keyring::Verb),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// How long a request of this command is repeated if nobody says how long.
    pub(crate) fn patience(&self) -> Duration {
        let slow = matches!(
            self,
            Self::Leave { .. }
                | Self::Disband { .. }
                | Self::Node(node::Verb::Remove { .. } | node::Verb::Promote { .. })
        );
        Duration::from_secs(if slow { 60 } else { 10 })
    }
}

/// Arguments that are handed on as they are.
#[derive(Debug, Args)]
pub(crate) struct Rest {
    /// Arguments of the program that is run: see `pangolinctl init --help`, `join --help`, `chaos --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) args: Vec<std::ffi::OsString>,
}

/// A time such as `500ms`, `90` (seconds), `10s`, `5m`, `1h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is not a time: write 10s, 5m, 1h or 7d"))?;
    let factor = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(format!("{unit:?} is not a unit of time: use ms, s, m, h or d")),
    };
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(|| format!("{text} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_unit() {
        let cases =
            [("500ms", 500), ("10s", 10_000), ("90", 90_000), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)];
        for (text, millis) in cases {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "1w", "-1s", "1.5h", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad:?} was taken");
        }
    }
}
