//! A network namespace for a test of this crate: the test's own program, started again inside one.

use std::process::Command;

const INSIDE: &str = "PANGOLIN_TEST_INSIDE_NAMESPACE";

/// Runs the test of this path again in a new network namespace; true = we are inside it.
#[expect(clippy::print_stdout, reason = "a test says what it skips")]
pub(super) fn inside_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        return true;
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for a network namespace");
        return false;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("skipped: there is no /dev/net/tun");
        return false;
    }
    if !Command::new("unshare").args(["--net", "ip", "link"]).output().is_ok_and(|run| run.status.success()) {
        println!("skipped: no network namespace can be made, or unshare or ip is missing");
        return false;
    }
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .arg("--net")
        .arg(program)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    for line in said.lines().filter(|line| line.starts_with("skipped")) {
        println!("{line}");
    }
    assert!(
        said.contains("1 passed"),
        "no test is called {test}: {said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    false
}
