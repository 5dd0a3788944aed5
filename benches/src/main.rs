//! `pangolin-bench`: what writes, reads, failover and joining cost, measured from outside, beside etcd.
//!
//! Everything runs on this host: three nodes of each system as processes on loopback, with their data below one
//! temporary directory (`TMPDIR` says on which disk). The last line of each measurement is JSON.

mod etcd;
mod failover;
mod grpc;
mod joining;
mod judge;
mod load;
mod pangolin;
mod processes;
mod raft;
mod sample;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures a cluster on this host
#[derive(Debug, Parser)]
#[command(name = "pangolin-bench", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Linearizable writes and reads, and memory, beside etcd in interleaved rounds
    Raft(raft::Options),
    /// kill -9 of the leader until the next committed write, and planned transfers
    Failover(failover::Options),
    /// From the start of a join until the node votes
    Join(joining::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: children get their death signal when the thread that started them ends. The load of both systems
    // comes from this one thread, so it is the same for both.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let done: Result<bool> = runtime.block_on(async {
            match cli.verb {
                Verb::Raft(options) => raft::run(&options).await,
                Verb::Failover(options) => failover::run(&options).await,
                Verb::Join(options) => joining::run(&options).await,
            }
        });
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
    eprintln!("pangolin-bench: {message}");
}

/// Prints a line of the report.
#[expect(clippy::print_stdout, reason = "the report is what the program is for")]
fn say(line: &str) {
    println!("{line}");
}
