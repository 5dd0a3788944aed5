//! The systemd units, judged by systemd itself.

#![expect(clippy::print_stdout, reason = "a test says what it skips")]

use std::{path::Path, process::Command};

const UNITS: [&str; 2] = ["pangolin.service", "pangolin-connector.service"];

/// What `systemd-analyze verify` says of these units; none where it is not installed.
fn said_of(units: &[(&str, String)]) -> Option<String> {
    let dir = tempfile::tempdir().expect("a directory");
    let files = units.iter().map(|(name, text)| {
        let file = dir.path().join(name);
        std::fs::write(&file, text).expect("written");
        file
    });
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(files).output().ok()?;
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    // It also looks at units of the host that these refer to.
    let ours = |line: &&str| units.iter().any(|(name, _)| line.contains(name));
    let said: Vec<&str> = said.lines().filter(ours).collect();
    Some(if said.is_empty() && !output.status.success() {
        output.status.to_string()
    } else {
        said.join("\n")
    })
}

/// A unit, whose program is one that this host has.
fn unit(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd").join(name);
    let text = std::fs::read_to_string(&file).expect("the unit");
    let here = std::env::current_exe().expect("this program");
    let command = format!("ExecStart={}", here.display());
    let text: Vec<String> = text
        .lines()
        .map(|line| match line.strip_prefix("ExecStart=/usr/bin/") {
            Some(rest) => [&command, rest.trim_start_matches(|letter: char| letter != ' ')].concat(),
            None => line.to_owned(),
        })
        .collect();
    let text = text.join("\n");
    assert!(text.contains(&command), "{name} starts nothing in /usr/bin");
    text
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let units = UNITS.map(|name| (name, unit(name)));
    let Some(said) = said_of(&units) else {
        println!("skipped: systemd-analyze is not installed (Debian package systemd)");
        return;
    };
    assert_eq!(said, "");
    // It does look: at a setting that there is not, and at a value that cannot be.
    for (wrong, reason) in [("RestartSex=1", "RestartSex"), ("WatchdogSec=soon", "soon")] {
        let worse = units[0].1.replace("RestartSec=1", wrong);
        let said = said_of(&[(UNITS[0], worse)]).expect("it was there a moment ago");
        assert!(said.contains(reason), "{wrong}: {said}");
    }
}
