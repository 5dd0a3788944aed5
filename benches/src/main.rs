//! `pangolin-bench`: what writes, reads, failover, joining, restoring, asking why and DNS answers cost, measured from
//! outside, writes and reads beside etcd, DNS beside NSD, Knot and gdnsd, tunnels beside wireguard-go.
//!
//! Everything runs on this host: three nodes of each system as processes on loopback, with their data below one
//! temporary directory (`TMPDIR` says on which disk). The last line of each measurement is JSON.

mod decisions;
mod dns;
mod etcd;
mod failover;
mod far;
mod group;
mod grpc;
mod joining;
mod judge;
mod load;
mod pangolin;
mod processes;
mod raft;
mod reconnect;
mod restore;
mod sample;
mod storm;
mod traffic;
mod tunnel;
mod why;
mod witness;
mod zones;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tokio::task::LocalSet;

/// That of `pangolind`: members of the bare group run in this program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    /// kill -9 of the leader until the next committed write, planned transfers, and the loss of the node that carries traffic
    Failover(failover::Options),
    /// From the start of a join until the node votes
    Join(joining::Options),
    /// The memory of a witness beside two data nodes
    Witness(witness::Options),
    /// A large state: live restore, recovery of one survivor, the cluster made again from backups
    Restore(restore::Options),
    /// What the decision log costs: answers to `why`, and each change while it is full
    Why,
    /// DNS answers, beside NSD, Knot and gdnsd in interleaved rounds
    Dns(dns::Options),
    /// From a decision until every node answers by it
    Decisions(decisions::Options),
    /// Many names and certificates: how soon a change is served then, and what a node needs for it
    Zones(zones::Options),
    /// What a tunnel carries and costs, beside wireguard-go; needs root
    Tunnel(tunnel::Options),
    /// That a site comes back, after restarts of nodes, losses of its network and changes of its address; needs root
    Reconnect(reconnect::Options),
    /// Thousands of sites that come back at once; needs root
    Storm(storm::Options),
    /// Some of the sites that `storm` has come back
    #[command(hide = true)]
    StormCrowd(storm::crowd::CrowdOptions),
    /// One of several clusters on which `reconnect` runs its cycles
    #[command(hide = true)]
    ReconnectLab(reconnect::LabOptions),
    /// One end of the tunnel that `tunnel` measures
    #[command(hide = true)]
    TunnelEnd(tunnel::end::EndOptions),
    /// The peers that `tunnel` counts
    #[command(hide = true)]
    TunnelPeers(tunnel::peers::PeerOptions),
    /// Keeps the network namespace of a site's end
    #[command(hide = true)]
    ServeNamespace,
    /// The DNS server that `dns` measures
    #[command(hide = true)]
    DnsServer(dns::ServerOptions),
    /// One member of the group that `raft` measures
    #[command(hide = true)]
    Member(group::member::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked for; whether the bounds hold.
fn run(verb: Verb) -> Result<bool> {
    // A member has runtimes of its own.
    if let Verb::Member(options) = &verb {
        return group::member::run(options).map(|()| true);
    }
    if let Verb::DnsServer(options) = &verb {
        return dns::serve(options).map(|()| true);
    }
    // The ends of a tunnel have runtimes of their own as well, and a namespace is made by a process without threads.
    match &verb {
        Verb::TunnelEnd(options) => return tunnel::end::run(options).map(|()| true),
        Verb::TunnelPeers(options) => return tunnel::peers::run(options).map(|()| true),
        Verb::ServeNamespace => {
            pangolin_tunnel::site::serve_namespace()?;
            return Ok(true);
        }
        Verb::Tunnel(options) => return tunnel::run(options),
        Verb::StormCrowd(options) => return storm::crowd::run(options).map(|()| true),
        _ => {}
    }
    // One thread: children get their death signal when the thread that started them ends. The load of all systems
    // comes from this one thread, so it is the same for all.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = LocalSet::new().block_on(&runtime, async {
        match verb {
            Verb::Raft(options) => raft::run(&options).await,
            Verb::Failover(options) => failover::run(&options).await,
            Verb::Join(options) => joining::run(&options).await,
            Verb::Witness(options) => witness::run(&options).await,
            Verb::Restore(options) => restore::run(&options).await,
            Verb::Why => why::run(),
            Verb::Dns(options) => dns::run(&options),
            Verb::Decisions(options) => decisions::run(&options).await,
            Verb::Zones(options) => zones::run(&options).await,
            Verb::Reconnect(options) => reconnect::run(&options).await,
            Verb::Storm(options) => storm::run(&options).await,
            Verb::ReconnectLab(options) => reconnect::run_lab(&options).await.map(|()| true),
            Verb::DnsServer(_)
            | Verb::Member(_)
            | Verb::Tunnel(_)
            | Verb::TunnelEnd(_)
            | Verb::TunnelPeers(_)
            | Verb::StormCrowd(_)
            | Verb::ServeNamespace => Ok(true),
        }
    });
    runtime.shutdown_background();
    done
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
