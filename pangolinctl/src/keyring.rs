//! `pangolinctl keyring`: the keys that seal private keys and secrets.

use std::path::PathBuf;

use clap::Subcommand;
use pangolin_wire::{KeyUse, KeyringEscrow, KeyringStatus};

use crate::{
    args::Rest,
    failure::Failure,
    print::{self, cell, or_dash},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the key-encryption keys, and how far a rotation is
    Show,
    /// Replace the key that seals everything by a new one
    ///
    /// The new key goes to every node; once the nodes in service have it, everything is sealed with it. The former key
    /// is kept for a day, because session tickets are signed with keys derived from it, and until nodes that are away
    /// have come back. After that it opens old backups, and nothing else.
    Rotate,
    /// End the former keys now, without waiting for a day
    ///
    /// Visitors' TLS sessions begin anew then, which costs them a handshake.
    Retire,
    /// Print the keyring, encrypted to the recovery key: for a drawer
    Escrow {
        /// Write it to this file instead
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Open an escrow with the recovery key, on this host and without a cluster (runs `pangolind open-escrow`)
    #[command(disable_help_flag = true)]
    Open(Rest),
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    let none = serde_json::json!({});
    let answer = match verb {
        // Another program does it.
        Verb::Open(_) => return Ok(()),
        Verb::Show => session.get("/cluster/keyring").await?,
        Verb::Rotate => session.post("/cluster/keyring/rotate", &none).await?,
        Verb::Retire => session.post("/cluster/keyring/retire", &none).await?,
        Verb::Escrow { file } => return escrow(session, file).await,
    };
    session.show(&answer, shown)
}

async fn escrow(session: &Session, file: Option<PathBuf>) -> Result<(), Failure> {
    let answer = session.post("/cluster/keyring/escrow", &serde_json::json!({})).await?;
    let found: KeyringEscrow = session.parse(&answer)?;
    match file {
        None if session.is_json() => return session.done(&answer),
        None => print::line(found.escrow.trim_end())?,
        Some(file) => std::fs::write(&file, &found.escrow)
            .map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display())))?,
    }
    print::remark(&format!(
        "Only the recovery key {} opens it: `pangolinctl keyring open --help`. Make another one after each rotation.",
        found.recovery_key
    ));
    Ok(())
}

fn shown(status: KeyringStatus) -> String {
    let used = |used| match used {
        KeyUse::Next => "next",
        KeyUse::Active => "active",
        KeyUse::Former => "former",
        KeyUse::Retired => "retired",
    };
    let rows = status.keys.iter().map(|key| {
        [
            cell(key.number),
            cell(used(key.used)),
            cell(key.sealed),
            cell(or_dash(key.since.map(print::moment))),
        ]
    });
    let mut text = print::table(["KEY", "USE", "SEALED WITH IT", "SINCE"], rows);
    text.push_str(&format!("\n\n{}", status.standing));
    if !status.missing.is_empty() {
        text.push_str(&format!("\nNodes without the newest key: {}", status.missing.join(", ")));
    }
    text
}
