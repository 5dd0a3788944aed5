//! The report of a run, for people.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::{Figures, Profile};
use crate::{
    history::{Fault, History, What},
    invariants,
    verdict::{Judgement, Verdict},
};

/// Writes the report as Markdown.
pub(super) fn write(
    profile: Profile,
    history: &History,
    judgement: &Judgement,
    figures: &Figures,
    problems: &[String],
    took: Duration,
) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_into(&mut text, profile, history, judgement, figures, problems, took);
    text
}

fn write_into(
    out: &mut String,
    profile: Profile,
    history: &History,
    judgement: &Judgement,
    figures: &Figures,
    problems: &[String],
    took: Duration,
) -> std::fmt::Result {
    writeln!(out, "# Chaos run: {}\n", judgement.verdict)?;
    let meaning = match judgement.verdict {
        Verdict::True => "Every invariant holds, and each was put to the test.",
        Verdict::False => "At least one invariant is broken: see below, and `history.jsonl` for the proof.",
        Verdict::Unknown => "Nothing is known to be broken, but the run does not show that all is well.",
    };
    writeln!(out, "{meaning}\n")?;
    writeln!(
        out,
        "Profile {}, seed {}, {} s. Real `pangolind` processes, one network namespace each, with a connector, a \
         backend, clients of the API, visitors and resolvers. The same faults in the same order:\n\n    sudo {}\n",
        profile.name(),
        history.header.seed,
        took.as_secs(),
        history.header.command
    )?;
    if !problems.is_empty() {
        writeln!(out, "## What could not be done\n")?;
        for problem in problems {
            writeln!(out, "- {}", problem.replace('\n', "\n  "))?;
        }
        writeln!(out)?;
    }
    findings(out, judgement)?;
    numbers(out, figures)?;
    faults(out, history)?;
    let notes = history.events.iter().filter_map(|event| match &event.what {
        What::Note { text } => Some((event.at, text.as_str())),
        What::Wrong { text, .. } => Some((event.at, text.as_str())),
        _ => None,
    });
    writeln!(out, "## Notes\n")?;
    for (at, text) in notes {
        writeln!(out, "- {} {}", clock(at), text.lines().next().unwrap_or_default())?;
    }
    writeln!(out, "\n![timeline](timeline.svg)\n\nThe nodes' own words are in `logs/`.")
}

fn findings(out: &mut String, judgement: &Judgement) -> std::fmt::Result {
    writeln!(out, "## What was checked\n\n| | invariant | says | checked | |\n|---|---|---|---:|---|")?;
    for (name, finding) in &judgement.findings {
        let says = invariants::ALL.iter().find(|one| one.name == name).map_or("", |one| one.says);
        let detail = finding.detail.replace('|', "\\|");
        // Nothing checked, nothing expected: neither good nor bad.
        let tested = finding.checked > 0 || finding.verdict != Verdict::True;
        let verdict = if tested { finding.verdict.to_string() } else { "not tested".to_owned() };
        writeln!(out, "| {verdict} | {name} | {says} | {} | {detail} |", finding.checked)?;
    }
    writeln!(out)
}

fn numbers(out: &mut String, figures: &Figures) -> std::fmt::Result {
    let Figures { operations, acknowledged_writes, refused, unknown, .. } = figures;
    writeln!(out, "## Figures\n\n| | |\n|---|---:|")?;
    for (name, value) in [
        ("operations of clients", operations.to_string()),
        ("acknowledged writes", acknowledged_writes.to_string()),
        ("refused operations", refused.to_string()),
        ("operations of unknown outcome", unknown.to_string()),
        ("acknowledged write, p50", format!("{} ms", figures.write_p50_ms)),
        ("acknowledged write, p99 (faults included)", format!("{} ms", figures.write_p99_ms)),
        ("faults that took effect", figures.faults.to_string()),
        ("terms with a leader", figures.terms.to_string()),
        ("requests of visitors", figures.probes.to_string()),
        ("of these without a page (nodes hit by faults included)", figures.probes_failed.to_string()),
        ("longest silence of a node that no fault had hit", format!("{} ms", figures.longest_gap_ms)),
        ("DNS answers looked at", figures.dns_answers.to_string()),
        ("most memory of a node", format!("{} MiB", figures.memory_max_mib)),
        ("most open files and sockets of a node", figures.descriptors_max.to_string()),
        ("waiting for a processor that was noted (a busy machine)", format!("{} ms", figures.late_ms)),
    ] {
        writeln!(out, "| {name} | {value} |")?;
    }
    writeln!(out)
}

fn faults(out: &mut String, history: &History) -> std::fmt::Result {
    let mut ends = BTreeMap::new();
    for event in &history.events {
        if let What::FaultEnded { fault } = event.what {
            ends.insert(fault, event.at);
        }
    }
    writeln!(out, "## Faults\n\n| in effect | for | fault | |\n|---|---:|---|---|")?;
    for event in &history.events {
        let What::FaultStarted(Fault { fault, kind, detail, .. }) = &event.what else { continue };
        let lasted = ends.get(fault).map_or("to the end".to_owned(), |end| {
            let tenths = (end - event.at) / 100_000;
            format!("{}.{} s", tenths / 10, tenths % 10)
        });
        writeln!(out, "| {} | {lasted} | {kind} | {detail} |", clock(event.at))?;
    }
    writeln!(out)
}

/// A moment of the run as minutes and seconds.
fn clock(at: u64) -> String {
    let tenths = at / 100_000;
    format!("{:02}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}
