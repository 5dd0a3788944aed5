//! `pangolind`: a node of the cluster.

use std::{
    io::{BufRead, IsTerminal, Read},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use pangolin_core::{HostName, Slug, record::NodeRole};
use pangolin_node::{
    config::{Config, LogFormat},
    membership::{self, InitOptions, JoinOptions, Joined, RestoreOptions},
    node,
    state_dir::StateDirError,
};
use pangolin_peer::identity::{Keyring, RecoveryKey};
use pangolin_wire::Moment;
use tracing_subscriber::EnvFilter;

/// A change goes through many small allocations on each node: docs/decisions/0020-allocator.md has the figures.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A node of Pangolin Cluster: a tunnelled reverse proxy that is highly available by construction.
#[derive(Debug, Parser)]
#[command(name = "pangolind", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the node until it is told to stop
    Run(ConfigFile),
    /// Make the first node of a new cluster, then start it with `run`
    Init(Init),
    /// Let this host join a cluster, then start it with `run`
    Join(Join),
    /// Make a cluster of this one node again when the others are lost for good; the node must not run
    Recover(Recover),
    /// Open a keyring escrow with the recovery key
    OpenEscrow(OpenEscrow),
    /// Check the configuration and print what it means
    Config(ConfigFile),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// Configuration file
    #[arg(long, short, default_value = "/etc/pangolin/pangolin.toml", env = "PANGOLIN_CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Init {
    #[command(flatten)]
    config: ConfigFile,
    /// Name of the cluster
    #[arg(long, required_unless_present = "restore")]
    cluster: Option<Slug>,
    /// The cluster's own DNS zone, for example lab.example.com
    #[arg(long, required_unless_present = "restore")]
    zone: Option<HostName>,
    /// Where the API and the connectors come in [default: control.ZONE]
    #[arg(long)]
    control_host: Option<HostName>,
    /// Make the cluster again from a backup, when all hosts are lost: a backup file, or a directory of them
    #[arg(long, value_name = "PATH", requires = "recovery_key_file", conflicts_with_all = ["cluster", "zone", "control_host"])]
    restore: Option<PathBuf>,
    /// File with the recovery key that `init` showed when the cluster was made
    #[arg(long, value_name = "FILE", requires = "restore")]
    recovery_key_file: Option<PathBuf>,
    /// Restore this point: a log index, LINEAGE.INDEX, or a time like 2026-11-21T06:49:05Z [default: the newest]
    #[arg(long, value_name = "POINT", requires = "restore")]
    at: Option<String>,
}

#[derive(Debug, Args)]
struct Recover {
    #[command(flatten)]
    config: ConfigFile,
    /// Go on alone: the other nodes are lost for good and must never run again with their old state
    #[arg(long, required = true)]
    force_new_cluster: bool,
}

#[derive(Debug, Args)]
struct Join {
    #[command(flatten)]
    config: ConfigFile,
    /// File with what `pangolinctl token create` printed [default: standard input]
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Try every port from both sides, and the clocks; write nothing and keep the token
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct OpenEscrow {
    /// File that `pangolinctl keyring escrow` wrote
    #[arg(long, value_name = "FILE")]
    escrow: PathBuf,
    /// File with the recovery key that `init` showed, or `backup new-key` later
    #[arg(long, value_name = "FILE")]
    recovery_key_file: PathBuf,
    /// Where to write the keyring, for the state directory or the credential of a node; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Exit status of a host that holds no node, or none that may run (`EX_CONFIG` of sysexits.h): the service manager need not try again.
const NO_NODE: u8 = 78;

/// How long what blocks may go on after the node has ended.
const LINGER: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            match error.downcast_ref() {
                Some(StateDirError::Empty(_) | StateDirError::Diverged { .. }) => ExitCode::from(NO_NODE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

#[expect(clippy::print_stderr, reason = "the program's own last word")]
fn complain(message: &str) {
    eprintln!("pangolind: {message}");
}

#[expect(clippy::print_stdout, reason = "answers of one-shot verbs")]
fn say(message: &str) {
    println!("{message}");
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Run(file) => {
            let config = Config::load(&file.config)?;
            start_log(&config)?;
            let (traffic, decisions) = (runtime()?, decisions()?);
            let node = node::run(config, traffic.handle().clone());
            // As a task: whatever wakes the future that a runtime blocks on wakes the driver as well.
            let ended = decisions.block_on(async { tokio::spawn(node).await });
            traffic.shutdown_background();
            // Reading a long log cannot be called off, and nobody waits for it any more.
            decisions.shutdown_timeout(LINGER);
            ended?
        }
        Verb::Init(options) => init(&options),
        Verb::Join(options) => join(&options),
        Verb::Recover(options) => recover(&options),
        Verb::OpenEscrow(options) => open_escrow(&options),
        Verb::Config(file) => {
            say(&format!("{:#?}", Config::load(&file.config)?));
            Ok(())
        }
    }
}

/// One thread for all that wakes many times a second though nothing happens (heartbeats, probes, reports): on
/// several, each wake-up would cost switches between them. Traffic never stands in its way.
fn decisions() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_filter)
        .with_context(|| format!("{}: log.filter is not valid", config.path.display()))?;
    let terminal = std::io::stderr().is_terminal();
    let format = config.log_format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => subscriber.with_ansi(terminal).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}

fn init(options: &Init) -> anyhow::Result<()> {
    let config = Config::load(&options.config.config)?;
    let (cluster, zone) = match (&options.cluster, &options.zone, &options.restore) {
        (_, _, Some(from)) => return restore(&config, options, from),
        (Some(cluster), Some(zone), None) => (cluster.clone(), zone.clone()),
        _ => anyhow::bail!("--cluster and --zone are needed"),
    };
    let wanted = InitOptions { cluster, zone, control_host: options.control_host.clone() };
    let (id, recovery) = membership::init(&config, &wanted)?;
    say(&format!(
        "cluster {} ({id}) is made; this host is its first node, {}.\n\nRecovery key, shown this once:\n\n    {}\n\n\
         Keep it away from the hosts: with it, and only with it, a backup can be restored when all of them are lost.\n\n\
         Next: start the node (systemctl start pangolin, or pangolind run --config {}), then `pangolinctl token \
         create` for each further host.",
        wanted.cluster,
        config.name,
        *recovery.to_text(),
        options.config.config.display()
    ));
    Ok(())
}

fn recovery_key(path: &std::path::Path) -> anyhow::Result<RecoveryKey> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the recovery key file {}", path.display()))?;
    Ok(zeroize::Zeroizing::new(text).trim().parse()?)
}

fn open_escrow(options: &OpenEscrow) -> anyhow::Result<()> {
    let OpenEscrow { escrow, recovery_key_file, out } = options;
    let text =
        std::fs::read_to_string(escrow).with_context(|| format!("cannot read {}", escrow.display()))?;
    let keyring = Keyring::from_escrow(&text, &recovery_key(recovery_key_file)?)?;
    if out.exists() {
        anyhow::bail!("{} exists already: nothing was written", out.display());
    }
    keyring.store(out)?;
    let numbers: Vec<String> = keyring.numbers().map(|number| number.to_string()).collect();
    say(&format!(
        "the keyring with key-encryption keys {} is in {}: as STATE_DIR/keyring, owned by the node's user, it takes the \
         place of a node's own",
        numbers.join(", "),
        out.display()
    ));
    Ok(())
}

fn restore(config: &Config, options: &Init, from: &std::path::Path) -> anyhow::Result<()> {
    let path = options.recovery_key_file.as_ref().context("--recovery-key-file is needed")?;
    let key = recovery_key(path)?;
    let wanted = RestoreOptions { from: from.to_owned(), key, at: options.at.clone() };
    let done = runtime()?.block_on(membership::restore(config, &wanted))?;
    say(&format!(
        "cluster {} is restored as of revision {} ({}), {} resources, from {}.\nThis host is its only node, {} (node \
         {}); its history goes on at revision {}. What happened after {} is lost, including revocations: look through \
         API keys and users.\nNext: start the node (systemctl start pangolin, or pangolind run --config {}), point \
         the delegation at this host if its addresses are new, then `pangolinctl token create` for each further host. \
         Hosts of the lost cluster are refused: they join anew with an empty state directory.",
        done.cluster,
        done.from,
        Moment(done.time),
        done.resources,
        done.files.join(", "),
        config.name,
        done.node,
        done.begins,
        done.from,
        options.config.config.display()
    ));
    Ok(())
}

fn recover(options: &Recover) -> anyhow::Result<()> {
    let config = Config::load(&options.config.config)?;
    if let Some(aside) = membership::interrupted_recovery(&config)? {
        say(&format!(
            "the recovery that was interrupted is finished; the old state is in {}",
            aside.display()
        ));
        return Ok(());
    }
    let runtime = runtime()?;
    let recovery = runtime.block_on(membership::recovery_of(&config))?;
    let others = match recovery.others.is_empty() {
        true => "no other node".to_owned(),
        false => recovery.others.join(", "),
    };
    say(&format!(
        "Cluster {}, node {} ({}).\n\
         This node has the log up to revision {}, written at {} (log time); it knows entries to be committed up to \
         index {}.\n\
         Kept: everything in that log, also what this node does not know to be committed.\n\
         Lost: what was acknowledged after that and reached only: {others}.\n\
         They will be taken out of the cluster and refused for ever; none of them may run with its old state again.\n\
         If a majority of the voters can still be started, start it instead.\n\n\
         Type the name of the cluster to go on:",
        recovery.cluster,
        recovery.name,
        recovery.node,
        recovery.last,
        Moment(recovery.time),
        recovery.committed,
    ));
    let mut typed = String::new();
    std::io::stdin().lock().take(256).read_line(&mut typed).context("cannot read the confirmation")?;
    if typed.trim() != recovery.cluster {
        anyhow::bail!("the name of the cluster was not typed: nothing was changed");
    }
    let (begins, aside) = runtime.block_on(membership::recover(&config, recovery))?;
    say(&format!(
        "this node is a cluster of its own; its history goes on at revision {begins}. The old state is in {}.\nNext: \
         start the node (systemctl start pangolin, or pangolind run --config {}), then `pangolinctl token create` for \
         each further host, with an empty state directory there.",
        aside.display(),
        options.config.config.display()
    ));
    Ok(())
}

fn join(options: &Join) -> anyhow::Result<()> {
    let config = Config::load(&options.config.config)?;
    let text = match &options.token_file {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the token file {}", path.display()))?,
        None => {
            let mut text = String::new();
            std::io::stdin().take(16 * 1024).read_to_string(&mut text).context("cannot read the token")?;
            text
        }
    };
    let wanted = JoinOptions { invitation: text.parse()? };
    if options.check {
        return check(&config, &wanted);
    }
    let Joined { node, role } = runtime()?.block_on(membership::join(&config, &wanted))?;
    let role = match role {
        NodeRole::Data => "",
        NodeRole::Witness => " It is a witness: it votes, and does nothing else.",
    };
    say(&format!(
        "this host is node {node}, {}.{role}\nNext: start the node (systemctl start pangolin, or pangolind run --config \
         {}).",
        config.name,
        options.config.config.display()
    ));
    Ok(())
}

fn check(config: &Config, options: &JoinOptions) -> anyhow::Result<()> {
    let findings = runtime()?.block_on(membership::check(config, options))?;
    for finding in &findings {
        match (&finding.problem, &finding.untried) {
            (Some(problem), _) => say(&format!("FAILED  {}: {problem}", finding.what)),
            (None, Some(why)) => say(&format!("-       {}: {why}", finding.what)),
            (None, None) => say(&format!("ok      {}", finding.what)),
        }
    }
    let failed = findings.iter().filter(|finding| finding.problem.is_some()).count();
    if failed > 0 {
        return Err(membership::MembershipError::Check { failed, total: findings.len() }.into());
    }
    match findings.iter().filter(|finding| finding.untried.is_some()).count() {
        0 => say("everything is ready to join; nothing was written"),
        untried => {
            say(&format!("ready to join, but {untried} ports could not be tried; nothing was written"))
        }
    }
    Ok(())
}
