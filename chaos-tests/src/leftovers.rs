//! Folders of clusters, and of those whose harness was killed before it could remove them. Namespaces, with all that is in
//! them, and mounts need no such care: they are gone with the harness and its children, whatever ended it, and the kernel
//! ends the children. Should one of them live on all the same, it is known by its output, which goes into the folder.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tempfile::TempDir;

const PREFIX: &str = "pangolin-";
/// Says in a folder whose it is: process id and start time of the harness.
const OWNER: &str = "owner";

/// A folder for one cluster.
///
/// # Errors
/// It cannot be made.
pub(crate) fn folder() -> Result<TempDir> {
    let dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    let own = std::process::id();
    let began = start_time(own).context("this process has no start time")?;
    std::fs::write(dir.path().join(OWNER), format!("{own} {began}\n"))?;
    Ok(dir)
}

/// What killed harnesses had left, and is gone now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Folders that were removed.
    pub folders: Vec<PathBuf>,
    /// Processes that were ended.
    pub processes: Vec<i32>,
}

/// Removes what killed harnesses have left in the folder for temporary files, and says what that was.
///
/// # Errors
/// Something cannot be removed; everything else has been.
pub fn clean() -> Result<Cleaned> {
    clean_within(&std::env::temp_dir())
}

fn clean_within(folder: &Path) -> Result<Cleaned> {
    let (mut cleaned, mut kept) = (Cleaned::default(), Vec::new());
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        let owner = match std::fs::read_to_string(path.join(OWNER)) {
            Ok(owner) => owner,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                kept.push(format!("{}: {error}", path.display()));
                continue;
            }
            // It is none of ours.
            Err(_) => continue,
        };
        if lives(owner.trim()) != Some(false) {
            continue;
        }
        cleaned.processes.extend(end_writers(&path));
        match std::fs::remove_dir_all(&path) {
            Ok(()) => cleaned.folders.push(path),
            Err(error) => kept.push(format!("{}: {error}", path.display())),
        }
    }
    cleaned.folders.sort();
    if kept.is_empty() {
        return Ok(cleaned);
    }
    let advice = if geteuid().is_root() { "" } else { "; what root has left only root can remove: use sudo" };
    bail!("not removed: {}{advice}", kept.join(", "))
}

/// Ends the processes whose output goes into a folder whose harness is no more.
fn end_writers(folder: &Path) -> Vec<i32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let writes = |pid: &i32| {
        let output = std::fs::read_link(format!("/proc/{pid}/fd/1"));
        output.is_ok_and(|output| output.starts_with(folder))
    };
    // One that is gone by now needs no signal.
    pids.filter(writes).filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok()).collect()
}

/// Whether an owner still runs; none if it is not to be understood.
fn lives(owner: &str) -> Option<bool> {
    let (pid, began) = owner.split_once(' ')?;
    let (pid, began): (u32, u64) = (pid.parse().ok()?, began.parse().ok()?);
    Some(start_time(pid) == Some(began))
}

/// When a process began, in ticks since the system did (proc_pid_stat(5), field 22): tells it from a later one with
/// the same id.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; field 3 comes after it.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, process::Command};

    use super::*;

    #[test]
    fn only_folders_of_harnesses_that_are_no_more_are_removed() {
        let place = tempfile::tempdir().expect("a folder");
        let make = |name: &str, owner: Option<String>| {
            let path = place.path().join(name);
            std::fs::create_dir(&path).expect("made");
            if let Some(owner) = owner {
                std::fs::write(path.join(OWNER), owner).expect("written");
            }
            path
        };
        let own = std::process::id();
        let began = start_time(own).expect("a start time");
        let kept = [
            make("pangolin-ours", Some(format!("{own} {began}\n"))),
            make("pangolin-of-others", None),
            make("pangolin-strange", Some("x".to_owned())),
            make("elsewhere", Some("1 0".to_owned())),
        ];
        let stale = make("pangolin-killed", Some(format!("{own} {}\n", began + 1)));
        let sleeper = |log: &Path| {
            let log = File::create(log).expect("a log");
            Command::new("sleep").arg("60").stdout(log).spawn().expect("started")
        };
        let (mut left, mut other) = (sleeper(&stale.join("log")), sleeper(&kept[0].join("log")));
        let cleaned = clean_within(place.path()).expect("cleaned");
        let left_pid = i32::try_from(left.id()).expect("a process id");
        assert_eq!(cleaned, Cleaned { folders: vec![stale], processes: vec![left_pid] });
        assert!(!left.wait().expect("it has ended").success());
        assert!(other.try_wait().expect("a look").is_none(), "it is none of those");
        assert!(kept.iter().all(|path| path.is_dir()));
        other.kill().and_then(|()| other.wait()).expect("ended");
        assert_eq!(clean_within(place.path()).expect("nothing to do"), Cleaned::default());
    }
}
