//! `pangolind`: a node of the cluster.

use std::{
    io::{IsTerminal, Read},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use pangolin_core::{HostName, Slug};
use pangolin_node::{
    config::{Config, LogFormat},
    membership::{self, InitOptions, JoinOptions},
    node,
    state_dir::StateDirError,
};
use tracing_subscriber::EnvFilter;

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
    #[arg(long)]
    cluster: Slug,
    /// The cluster's own DNS zone, for example lab.example.com
    #[arg(long)]
    zone: HostName,
    /// Where the API and the connectors come in [default: control.ZONE]
    #[arg(long)]
    control_host: Option<HostName>,
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

/// Exit status of a host that holds no node, or none that may run (`EX_CONFIG` of sysexits.h): the service manager need not try again.
const NO_NODE: u8 = 78;

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
            let traffic = runtime()?;
            let node = node::run(config, traffic.handle().clone());
            // As a task: whatever wakes the future that a runtime blocks on wakes the driver as well.
            let outcome = decisions()?.block_on(async { tokio::spawn(node).await })?;
            traffic.shutdown_background();
            outcome
        }
        Verb::Init(options) => init(&options),
        Verb::Join(options) => join(&options),
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
    let wanted = InitOptions {
        cluster: options.cluster.clone(),
        zone: options.zone.clone(),
        control_host: options.control_host.clone(),
    };
    let cluster = membership::init(&config, &wanted)?;
    say(&format!(
        "cluster {} ({cluster}) is made; this host is its first node, {}.\nNext: start the node (systemctl start \
         pangolin, or pangolind run --config {}), then `pangolinctl token create` for each further host.",
        options.cluster,
        config.name,
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
    let node = runtime()?.block_on(membership::join(&config, &wanted))?;
    say(&format!(
        "this host is node {node}, {}.\nNext: start the node (systemctl start pangolin, or pangolind run --config \
         {}).",
        config.name,
        options.config.config.display()
    ));
    Ok(())
}

fn check(config: &Config, options: &JoinOptions) -> anyhow::Result<()> {
    let findings = runtime()?.block_on(membership::check(config, options))?;
    for finding in &findings {
        match &finding.problem {
            None => say(&format!("ok      {}", finding.what)),
            Some(problem) => say(&format!("FAILED  {}: {problem}", finding.what)),
        }
    }
    let failed = findings.iter().filter(|finding| finding.problem.is_some()).count();
    if failed > 0 {
        return Err(membership::MembershipError::Check { failed, total: findings.len() }.into());
    }
    say("everything is ready to join; nothing was written");
    Ok(())
}
