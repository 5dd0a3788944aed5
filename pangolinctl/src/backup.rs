//! `pangolinctl backup`: the backups of the node that is asked.

use std::time::Duration;

use clap::Subcommand;
use pangolin_wire::{
    Backup, BackupKind, BackupList, NewRecoveryKey, RestoreCatalog, RestoredCatalog, VerifiedBackups,
};

use crate::{
    failure::Failure,
    print::{self, cell, or_dash},
    session::Session,
};

/// Reading and writing whole states takes its time.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a backup now, besides those that are made every hour
    Create,
    /// List the backups of the node that is asked
    List,
    /// Decrypt and decode every backup, and replay the archived log from each to the next
    Verify,
    /// Put the catalog of an earlier point in the place of the present one
    ///
    /// Organisations, users, roles, sites, domains, resources, targets and record sets become what they were. What was
    /// revoked or consumed stays so: API keys stay as they are, connectors keep the credentials of now, and those of
    /// sites that had been removed need new ones. Nodes, tokens, certificates and settings are not touched. A backup is
    /// made first, so that this can be undone.
    Restore {
        /// A log index, LINEAGE.INDEX, or a time like 2026-11-21T06:49:05Z [default: the newest backup]
        #[arg(long, value_name = "POINT")]
        at: Option<String>,
        /// Do it: without this nothing is changed
        #[arg(long)]
        yes: bool,
    },
    /// Make a new recovery key, shown once, for when the old one is lost or known to others
    ///
    /// Backups made before still open with the old key only.
    NewKey,
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    let none = serde_json::json!({});
    match verb {
        Verb::Create => session.done(&session.put_patiently("/node/backup", &none, PATIENCE).await?),
        Verb::List => session.show(&session.get("/node/backups").await?, list),
        Verb::Verify => {
            let answer = session.post_patiently("/node/backups/verify", &none, PATIENCE).await?;
            let report: VerifiedBackups = session.parse(&answer)?;
            session.show(&answer, |report: VerifiedBackups| verified(&report, &answer.message))?;
            match report.problems.len() {
                0 => Ok(()),
                count => Err(Failure::new(format!("{count} backups cannot be restored"))
                    .hint("Make a new one with `pangolinctl backup create`; other nodes have their own.")),
            }
        }
        Verb::Restore { yes: false, .. } => {
            Err(Failure::usage("a restore replaces the present catalog").hint("Say so with --yes."))
        }
        Verb::Restore { at, yes: true } => {
            let answer = session.post_patiently("/cluster/restore", &RestoreCatalog { at }, PATIENCE).await?;
            session.show(&answer, |done: RestoredCatalog| restored(&done, &answer.message))
        }
        Verb::NewKey => {
            let answer = session.post_patiently("/cluster/recovery-key", &none, PATIENCE).await?;
            let key: NewRecoveryKey = session.parse(&answer)?;
            if session.is_json() {
                return session.done(&answer);
            }
            print::line(&key.recovery_key)?;
            print::remark("Shown this once: keep it away from the hosts. Older backups need the older key.");
            Ok(())
        }
    }
}

fn list(list: BackupList) -> String {
    let size = |bytes: u64| match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    };
    let from = |backup: &Backup| match backup.kind {
        BackupKind::State => "state".to_owned(),
        BackupKind::Log => format!("log from {}", or_dash(backup.first)),
    };
    let rows = list.backups.iter().map(|backup| {
        [
            cell(&backup.name),
            cell(from(backup)),
            cell(backup.revision),
            cell(print::moment(backup.time)),
            cell(print::moment(backup.made_at)),
            cell(size(backup.size)),
        ]
    });
    let mut text = print::table(["FILE", "HOLDS", "UP TO REVISION", "LOG TIME", "MADE", "SIZE"], rows);
    for problem in &list.problems {
        text.push_str(&format!("\nUNREADABLE  {problem}"));
    }
    let key = list.recovery_key.unwrap_or_else(|| "none yet".to_owned());
    text.push_str(&format!("\n\nRecovery key: {key}"));
    text
}

fn verified(report: &VerifiedBackups, message: &str) -> String {
    let mut text = format!(
        "{message}: {} states, {} segments of the log, {} pairs of states joined by the log",
        report.states, report.segments, report.joined
    );
    for problem in &report.problems {
        text.push_str(&format!("\nPROBLEM  {problem}"));
    }
    text
}

fn restored(done: &RestoredCatalog, message: &str) -> String {
    let mut text = format!("{message}: {} resources", done.resources);
    if let Some(time) = done.time {
        text.push_str(&format!(", as of {}", print::moment(time)));
    }
    if let Some(undo) = done.undo {
        text.push_str(&format!("\nTo undo it: pangolinctl backup restore --at {undo} --yes"));
    }
    if !done.sites_without_credentials.is_empty() {
        text.push_str(&format!(
            "\nThe connectors of these sites need new credentials (pangolinctl site secret): {}",
            done.sites_without_credentials.join(", ")
        ));
    }
    text
}
