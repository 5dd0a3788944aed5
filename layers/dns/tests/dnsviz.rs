//! A second opinion on signed zones: DNSViz, which asks as a validator does, from the zone above down, and judges every
//! answer.
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod engine;
mod zone;

use std::{path::Path, process::Command};

use engine::{Ours, is_there};
use pangolin_core::{
    dns::ZoneKey,
    plan::{DnsPlan, ZonePlan},
    record::{RecordData, RecordKind},
};
use pangolin_dns::{delegation_signer, read_value};
use serde_json::Value;
use zone::{a, aaaa, cname, new_key, ns, txt};

/// What is asked for, and how DNSViz is to find it: `answer` or `nodata`, and for which types.
const NAMES: &[(&str, &[(&str, &str)])] = &[
    (
        "z.test",
        &[("SOA", "answer"), ("TXT", "answer"), ("DNSKEY", "answer"), ("A", "nodata"), ("CNAME", "nodata")],
    ),
    ("app.z.test", &[("A", "answer"), ("AAAA", "answer")]),
    ("alias.z.test", &[("A", "answer")]),
    ("x.wild.z.test", &[("A", "answer"), ("AAAA", "nodata")]),
    ("x.y.wild.z.test", &[("A", "answer")]),
    ("x.aliased.z.test", &[("A", "answer")]),
    // A name between others.
    ("ent.z.test", &[("A", "nodata")]),
    // RFC 9824 §3.1: the denial of a name that is not there is that of its data.
    ("nope.z.test", &[("A", "nodata"), ("AAAA", "nodata")]),
    ("x.app.z.test", &[("A", "nodata")]),
];

/// The zone that is judged. DNSViz asks the servers that it names, so that they are ours.
fn judged(key: &ZoneKey) -> DnsPlan {
    let many: Vec<RecordData> = (0..100).map(|n| txt(format!("value number {n:04}").as_bytes())).collect();
    let sets = [
        ("z.test", 3600, vec![ns("n1.z.test")]),
        // More than a datagram carries.
        ("z.test", 300, many),
        ("n1.z.test", 3600, vec![a("127.0.0.1")]),
        ("app.z.test", 30, vec![a("192.0.2.2"), a("192.0.2.1")]),
        ("app.z.test", 30, vec![aaaa("2001:db8::1")]),
        ("alias.z.test", 60, vec![cname("app.z.test")]),
        ("*.wild.z.test", 30, vec![a("192.0.2.7")]),
        ("*.aliased.z.test", 30, vec![cname("app.z.test")]),
        ("deep.ent.z.test", 30, vec![txt(b"deep")]),
    ];
    let zone = ZonePlan { key: Some(key.clone()), ..zone::zone("z.test", 7, &sets) };
    DnsPlan { zones: vec![zone], ..DnsPlan::default() }
}

/// The zone above, signed as well, which has this DS record.
fn above(own: &ZoneKey, signer: &str) -> DnsPlan {
    let value = signer.split_once(" DS ").expect("a DS record").1;
    let signer = read_value(&zone::host("test"), RecordKind::DS, value).expect("a value");
    let sets = [
        ("test", 60, vec![ns("ns.test")]),
        ("ns.test", 60, vec![a("127.0.0.1")]),
        ("z.test", 60, vec![ns("n1.z.test")]),
        ("n1.z.test", 60, vec![a("127.0.0.1")]),
        ("z.test", 600, vec![signer]),
    ];
    let zone = ZonePlan { key: Some(own.clone()), ..zone::zone("test", 1, &sets) };
    DnsPlan { zones: vec![zone], ..DnsPlan::default() }
}

/// Runs a part of DNSViz in a folder; what it prints.
fn dnsviz(folder: &Path, arguments: &[&str]) -> String {
    let ran = Command::new("dnsviz").current_dir(folder).args(arguments).output().expect("a process");
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{arguments:?}: {said}");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// Everything below a value that stands under this name, with the path to it.
fn under<'v>(value: &'v Value, name: &str, path: &str, into: &mut Vec<(String, &'v Value)>) {
    match value {
        Value::Object(fields) => {
            for (field, inner) in fields {
                if field == name {
                    into.push((path.to_owned(), inner));
                }
                under(inner, name, &format!("{path}/{field}"), into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| under(item, name, path, into)),
        _ => {}
    }
}

fn all<'v>(value: &'v Value, name: &str) -> Vec<(String, &'v Value)> {
    let mut found = Vec::new();
    under(value, name, "", &mut found);
    found
}

/// What DNSViz thinks of the judged zone below a zone that names this key as its own. It is not given that zone's key as
/// a trust anchor, because Debian's 0.9.4 fails when it is: the chain is judged from the DNSKEY records of `test` on.
fn judged_with(key: &ZoneKey, named_above: &ZoneKey) -> Value {
    let ours = Ours::start(&judged(key));
    let signer = delegation_signer(&zone::host("z.test"), &named_above.public);
    let parent = Ours::start(&above(&new_key(), &signer));
    let folder = tempfile::tempdir().expect("a folder");
    let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
    std::fs::write(folder.path().join("names"), names.join("\n")).expect("a file");
    let upper = format!("test+:ns.test=127.0.0.1:{}", parent.address().port());
    let lower = format!("z.test:n1.z.test=127.0.0.1:{}", ours.address().port());
    // From the zone above (-a), of these servers alone (-A, -x), also with versions, flags and options of EDNS that
    // nobody knows yet (-E).
    let how = ["-d", "0", "-4", "-A", "-E", "-a", "test", "-x", &upper, "-x", &lower, "-f", "names"];
    dnsviz(folder.path(), &[&["probe"], &how[..], &["-o", "seen"]].concat());
    // Loopback addresses are no fault here (-P).
    let judged = dnsviz(folder.path(), &["grok", "-P", "-r", "seen", "-f", "names"]);
    serde_json::from_str(&judged).expect("JSON")
}

#[test]
fn dnsviz_finds_no_fault_with_a_signed_zone_and_its_denials() {
    if !is_there("dnsviz") {
        return;
    }
    let key = new_key();
    let faults = |seen: &Value| ["errors", "warnings"].iter().any(|grade| !all(seen, grade).is_empty());
    // On a busy machine a question may go unanswered for longer than DNSViz waits: it is asked again then.
    let mut judgement = judged_with(&key, &key);
    for _ in 0..2 {
        if faults(&judgement) {
            judgement = judged_with(&key, &key);
        }
    }
    for grade in ["errors", "warnings"] {
        let found = all(&judgement, grade);
        assert!(found.is_empty(), "{grade}: {found:#?}");
    }
    // Signatures, denials and DS records are valid, the delegation is secure, and names are answered.
    for (path, status) in all(&judgement, "status") {
        let expected = match path.split('/').next_back() {
            Some("delegation") => "SECURE",
            Some("rrsig" | "proof" | "ds") => "VALID",
            _ => "NOERROR",
        };
        assert_eq!(status, expected, "{path}");
    }
    assert_eq!(judgement["z.test."]["delegation"]["status"], "SECURE");
    for (name, expected) in NAMES {
        for (kind, shape) in *expected {
            let query = &judgement[format!("{name}.")]["queries"][format!("{name}./IN/{kind}")];
            let seen = all(&query[shape], "status");
            assert!(!seen.is_empty(), "{name} {kind} is no {shape} that was judged: {query:#}");
        }
    }
}

#[test]
fn dnsviz_finds_the_fault_of_a_zone_whose_key_the_zone_above_does_not_know() {
    if !is_there("dnsviz") {
        return;
    }
    let judgement = judged_with(&new_key(), &new_key());
    assert_eq!(judgement["z.test."]["delegation"]["status"], "BOGUS");
    assert!(!all(&judgement, "errors").is_empty());
}
