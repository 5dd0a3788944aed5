//! Folders of clusters, and of those whose harness was killed before it could remove them. Namespaces, mounts and
//! processes need no such care: they are gone with the harness, whatever ended it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
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

/// Removes what killed harnesses have left in the folder for temporary files, and says what that was.
///
/// # Errors
/// Something cannot be removed.
pub fn clean() -> Result<Vec<PathBuf>> {
    clean_within(&std::env::temp_dir())
}

fn clean_within(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !entry.file_type()?.is_dir() {
            continue;
        }
        let path = entry.path();
        let Ok(owner) = std::fs::read_to_string(path.join(OWNER)) else { continue };
        if lives(owner.trim()) == Some(false) {
            std::fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
            removed.push(path);
        }
    }
    removed.sort();
    Ok(removed)
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
        assert_eq!(clean_within(place.path()).expect("cleaned"), [stale]);
        assert!(kept.iter().all(|path| path.is_dir()));
    }
}
