//! The simulator as the program runs it: seeds break nothing, and a seed is the same run each time.

use std::process::Command;

use serde_json::Value;

/// Seeds of a plain test run; `PANGOLIN_SIM_SEEDS` asks for more.
const SEEDS: u64 = 200;

fn simulate(args: &[&str]) -> (Option<i32>, Value, String) {
    let out = tempfile::tempdir().expect("tempdir");
    let output = Command::new(env!("CARGO_BIN_EXE_pangolin-chaos"))
        .args(["sim", "--json", "--out"])
        .arg(out.path())
        .args(args)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().last().unwrap_or_default();
    let value = serde_json::from_str(last).unwrap_or(Value::Null);
    (output.status.code(), value, format!("{said}\n{complaint}"))
}

#[test]
fn seeds_break_nothing() {
    let seeds =
        std::env::var("PANGOLIN_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let (status, total, said) = simulate(&["--seeds", &seeds.to_string()]);
    assert_eq!(
        total["broken"],
        Value::Array(vec![]),
        "repeat one with `pangolin-chaos sim --seed N`:\n{said}"
    );
    // Now and then a run does not put everything to the test; most of them do.
    let unknown = total["unknown"].as_array().map_or(usize::MAX, Vec::len) as u64;
    assert!(unknown * 4 <= seeds, "{unknown} of {seeds} seeds show nothing:\n{said}");
    assert!(matches!(status, Some(0 | 2)), "{said}");
    assert_eq!(total["untested"], Value::Array(vec![]), "{said}");
    assert!(total["checked"]["stale-fence"].as_u64() > Some(seeds), "{said}");
    assert!(total["answered"].as_u64() > Some(seeds * 100), "{said}");
}

#[test]
fn a_seed_is_the_same_run_each_time_event_by_event() {
    let (_, total, said) = simulate(&["--seeds", "2", "--from", "1000", "--verify"]);
    assert_eq!(total["unrepeatable"], Value::Array(vec![]), "{said}");
    assert_eq!(total["done"], 2, "{said}");
}

#[test]
fn a_single_seed_says_what_every_invariant_finds() {
    let (status, summary, said) = simulate(&["--seed", "1"]);
    assert_eq!(summary["seed"], 1, "{said}");
    assert!(summary["digest"].as_str().is_some_and(|digest| digest.len() == 64), "{said}");
    assert!(matches!(status, Some(0 | 2)), "{said}");
}
