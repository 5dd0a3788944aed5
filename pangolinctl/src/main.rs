//! `pangolinctl`: the operator's command line. One file per noun, thin over `pangolin-wire`.
//!
//! Exit codes: 0 done · 1 refused or failed · 2 not a command · 3 not available (nobody answers, no quorum, or an
//! outcome that is not known).

mod args;
mod autopilot;
mod backup;
mod cert;
mod dns;
mod domain;
mod events;
mod failure;
mod journal;
mod key;
mod keyring;
mod leader;
mod local;
mod names;
mod node;
mod org;
mod port;
mod print;
mod provisioning_key;
mod resource;
mod role;
mod session;
mod site;
mod status;
mod target;
mod token;
mod upgrade;
mod user;
mod why;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use failure::Failure;
use session::Session;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Init(rest) => return local::pangolind("init", rest),
        Command::Join(rest) => return local::pangolind("join", rest),
        Command::Chaos(rest) => return local::chaos(rest),
        Command::Recover(rest) => return local::pangolind("recover", rest),
        Command::Keyring(keyring::Verb::Open(rest)) => return local::pangolind("open-escrow", rest),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "pangolinctl", &mut std::io::stdout());
            return Ok(());
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("this process cannot start: {error}")))?;
    let session = Session::open(&cli.global, cli.command.patience())?;
    runtime.block_on(dispatch(cli.command, &session))
}

async fn dispatch(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Init(_)
        | Command::Join(_)
        | Command::Chaos(_)
        | Command::Recover(_)
        | Command::Completions { .. } => Ok(()),
        Command::Status(args) => status::run(session, &args).await,
        Command::Journal(args) => journal::run(session, &args).await,
        Command::Why(args) => why::run(session, &args).await,
        Command::Events(args) => events::run(session, &args).await,
        Command::Token(verb) => token::run(session, verb).await,
        Command::Backup(verb) => backup::run(session, verb).await,
        Command::Leave { node } => leader::leave(session, node.as_deref()).await,
        Command::Disband { yes } => leader::disband(session, yes).await,
        Command::Autopilot(verb) => autopilot::run(session, verb).await,
        Command::Ca => status::issuer(session).await,
        Command::Leader(verb) => leader::run(session, verb).await,
        Command::Node(verb) => node::run(session, verb).await,
        Command::Upgrade(verb) => upgrade::run(session, verb).await,
        Command::Org(verb) => org::run(session, verb).await,
        Command::User(verb) => user::run(session, verb).await,
        Command::Role(verb) => role::run(session, verb).await,
        Command::Site(verb) => site::run(session, verb).await,
        Command::Dns(verb) => dns::run(session, verb).await,
        Command::Domain(verb) => domain::run(session, verb).await,
        Command::Resource(verb) => resource::run(session, verb).await,
        Command::Target(verb) => target::run(session, verb).await,
        Command::Port(verb) => port::run(session, verb).await,
        Command::Cert(verb) => cert::run(session, verb).await,
        Command::Key(verb) => key::run(session, verb).await,
        Command::ProvisioningKey(verb) => provisioning_key::run(session, verb).await,
        Command::Keyring(verb) => keyring::run(session, verb).await,
    }
}
