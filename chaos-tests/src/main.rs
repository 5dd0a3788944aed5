//! `pangolin-chaos`: the demo, its check, and the sample backend.

use std::{net::SocketAddr, process::ExitCode};

use clap::{Parser, Subcommand};
use pangolin_chaos::{
    backend,
    demo::{self, DemoOptions},
};

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
    // One thread: children get their death signal when the thread that started them ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let done = runtime.block_on(async {
            match cli.verb {
                Verb::Demo(options) => demo::run(&options).await,
                Verb::Backend { listen, name } => backend::serve(listen, name).await.map(|()| true),
            }
        });
        // Somebody may still be waited for at the keyboard.
        runtime.shutdown_background();
        done
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the program's own last word")]
fn complain(message: &str) {
    eprintln!("pangolin-chaos: {message}");
}
