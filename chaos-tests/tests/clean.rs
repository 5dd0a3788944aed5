//! What is left of a run whose harness was killed: the kernel takes processes, networks and mounts, `clean` the rest.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long a test bed may take to be built, and its processes to be gone.
const PATIENCE: Duration = Duration::from_secs(120);
/// Somebody who may do nothing (`nobody` on every system).
const NOBODY: u32 = 65_534;

fn chaos() -> PathBuf {
    env!("CARGO_BIN_EXE_pangolin-chaos").into()
}

fn clean(program: &Path, place: &Path, user: Option<u32>) -> Output {
    let mut command = Command::new(program);
    command.arg("clean").env("TMPDIR", place);
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command.output().expect("pangolin-chaos clean")
}

fn said(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error))
}

/// The processes whose output goes to below this folder.
fn writers(folder: &Path) -> BTreeSet<u32> {
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let writes =
        |pid: &u32| std::fs::read_link(format!("/proc/{pid}/fd/1")).is_ok_and(|to| to.starts_with(folder));
    pids.filter(writes).collect()
}

/// Tables and interfaces of this host itself.
fn network() -> String {
    let tables = Command::new("/usr/sbin/nft").args(["list", "tables"]).output().map(|output| said(&output));
    let interfaces = std::fs::read_dir("/sys/class/net").expect("interfaces").flatten();
    let interfaces: BTreeSet<_> = interfaces.map(|entry| entry.file_name()).collect();
    format!("{tables:?} {interfaces:?}")
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[expect(clippy::print_stdout, reason = "a test that cannot run here says so")]
#[test]
fn nothing_is_left_of_a_run_that_was_killed_once_it_is_cleaned_up_after() {
    let possible = Command::new(chaos()).args(["run", "--possible"]).output().expect("pangolin-chaos");
    if !possible.status.success() {
        println!("{}", said(&possible).trim());
        return;
    }
    let place = tempfile::tempdir().expect("a folder");
    let empty = clean(&chaos(), place.path(), None);
    assert!(
        empty.status.success() && said(&empty).contains("0 folders removed, 0 processes ended"),
        "{empty:?}"
    );

    let before = network();
    let mut harness = Command::new(chaos())
        .args(["run", "--faults", "partition-halves", "--seed", "1", "--out"])
        .arg(place.path().join("report"))
        .env("TMPDIR", place.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("pangolin-chaos run");
    let lines = BufReader::new(harness.stdout.take().expect("its output")).lines();
    let told: Vec<String> = lines
        .map(|line| line.expect("a line"))
        .take_while(|line| !line.contains("packets are dropped"))
        .collect();
    let running = writers(place.path());
    assert!(running.len() >= 5, "nodes, connector and backend: {running:?}, {told:?}");
    harness.kill().and_then(|()| harness.wait()).expect("killed");

    until("its processes are gone", || writers(place.path()).is_empty());
    assert_eq!(network(), before, "nothing of it was in the network of this host");
    let mounts = std::fs::read_to_string("/proc/mounts").expect("mounts");
    assert!(!mounts.contains(&place.path().display().to_string()), "{mounts}");

    // Somebody else's is left alone, with a word on what to do.
    let program = place.path().join("pangolin-chaos");
    std::fs::copy(chaos(), &program).expect("a copy that everybody may run");
    std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).expect("opened");
    let refused = clean(&program, place.path(), Some(NOBODY));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(said(&refused).contains("only root can remove: use sudo"), "{refused:?}");

    let cleaned = clean(&program, place.path(), None);
    assert!(cleaned.status.success() && said(&cleaned).contains("1 folders removed"), "{cleaned:?}");
    let left: BTreeSet<_> = std::fs::read_dir(place.path())
        .expect("the folder")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["pangolin-chaos", "report"].map(Into::into).into(), "and nothing else");
    let again = clean(&program, place.path(), None);
    assert!(said(&again).contains("0 folders removed, 0 processes ended"), "{again:?}");
}
