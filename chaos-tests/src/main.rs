//! `pangolin-chaos`: the demo and its check, chaos runs, leader kills, and the sample backend.

use std::{net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};
use pangolin_chaos::{
    backend,
    demo::{self, DemoOptions},
    kills::{self, KillOptions},
    leftovers,
    run::{self, RunOptions},
    sim::batch::{SimOptions, simulate},
    verdict::Verdict,
};

mod libc_overrides;

/// Clusters of real processes on this host
#[derive(Debug, Parser)]
#[command(name = "pangolin-chaos", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start three nodes with a site and a backend, and show how to use them
    Demo(DemoOptions),
    /// Let faults loose on a cluster of real processes, and judge it (root). Exit code: 0 true, 1 false, 2 unknown
    Run(RunOptions),
    /// Kill the leader again and again under load, and look for lost writes. Exit code: 0 none, 1 some, 2 unknown
    Kills(KillOptions),
    /// Remove what runs that were killed have left behind: folders, and processes that still write into them
    Clean,
    /// Simulate clusters under faults, one per seed, and judge them: exit status 0 true, 1 false, 2 unknown
    Sim(SimOptions),
    /// Be the sample backend
    Backend {
        /// Where to listen; port 0 takes a free one and prints it
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// What it calls itself
        #[arg(long, default_value = "backend")]
        name: String,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Verb::Sim(options) = &cli.verb {
        return simulate(options).map_or_else(
            |error| {
                complain(&format!("{error:#}"));
                ExitCode::from(2)
            },
            Verdict::exit_code,
        );
    }
    // One thread: children get their death signal when the thread that started them ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let done = runtime.block_on(async {
            match cli.verb {
                Verb::Demo(options) => demo::run(&options).await.map(done_or_not),
                Verb::Backend { listen, name } => {
                    backend::serve(listen, name).await.map(|()| ExitCode::SUCCESS)
                }
                Verb::Run(options) => Ok(run::run(&options).await.unwrap_or_else(undecided).exit_code()),
                Verb::Kills(options) => Ok(kills::run(&options).await.unwrap_or_else(undecided).exit_code()),
                Verb::Clean => clean(),
                Verb::Sim(_) => unreachable!("it has a runtime of its own"),
            }
        });
        // Somebody may still be waited for at the keyboard.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn done_or_not(went_well: bool) -> ExitCode {
    if went_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A run that could not begin has shown nothing.
fn undecided(error: anyhow::Error) -> Verdict {
    complain(&format!("{error:#}"));
    Verdict::Unknown
}

#[expect(clippy::print_stdout, reason = "the answer")]
fn clean() -> anyhow::Result<ExitCode> {
    let cleaned = leftovers::clean()?;
    for pid in &cleaned.processes {
        println!("ended process {pid}");
    }
    for path in &cleaned.folders {
        println!("removed {}", path.display());
    }
    println!("{} folders removed, {} processes ended", cleaned.folders.len(), cleaned.processes.len());
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stderr, reason = "the program's own last word")]
fn complain(message: &str) {
    eprintln!("pangolin-chaos: {message}");
}
