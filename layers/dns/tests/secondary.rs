//! A real secondary: NSD takes a zone with a key, and is told of changes.
#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

mod engine;
mod zone;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use domain::{
    base::{Message, Rtype, iana::Rcode},
    rdata::{A, Aaaa},
};
use engine::{Engine, Ours, PATIENCE, ask, by_tcp, free_port, is_there, query};
use pangolin_core::{
    plan::{DnsPlan, PlannedSet},
    record::{RecordKind, Sealed},
};

/// 32 bytes, and the same as base64.
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const SECRET_TEXT: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

/// The plan of the other tests, with a secondary; health has taken the second address from `app.z.test`, and the only one
/// of IPv6, and from `v6.z.test` all that it has. The secondary is given all of them.
fn plan(serial: u32, secondary: SocketAddr, address: &str) -> DnsPlan {
    let mut plan = zone::plan(serial);
    let set =
        |addresses: &[&str]| PlannedSet { ttl: 30, data: addresses.iter().map(|a| zone::a(a)).collect() };
    let app = zone::host("app.z.test");
    let z = &mut plan.zones[0];
    z.sets.insert(app.clone(), BTreeMap::from([(RecordKind::A, set(&[address]))]));
    let v6 = |address| (RecordKind::Aaaa, PlannedSet { ttl: 30, data: vec![zone::aaaa(address)] });
    let of_app = BTreeMap::from([(RecordKind::A, set(&[address, "192.0.2.99"])), v6("2001:db8::99")]);
    let of_v6 = BTreeMap::from([v6("2001:db8::6")]);
    z.fail_open = BTreeMap::from([(app, of_app), (zone::host("v6.z.test"), of_v6)]);
    z.secondaries = vec![(secondary, zone::host("transfer.key"))];
    let sealed = Sealed { kek: 0, wrapped_key: Vec::new(), content: SECRET.to_vec() };
    plan.transfer_keys = BTreeMap::from([(zone::host("transfer.key"), sealed)]);
    plan
}

fn addresses(reply: &Message<Vec<u8>>) -> Vec<String> {
    let records = reply.answer().expect("a section").limit_to::<A>();
    records.map(|record| record.expect("a record").data().addr().to_string()).collect()
}

/// Waits until the secondary serves these addresses: it may be busy with a new copy of the zone, too.
fn follows(nsd: &Engine, app: &impl Fn() -> Vec<String>, expected: [&str; 2]) {
    let start = Instant::now();
    while app() != expected {
        assert!(start.elapsed() < PATIENCE, "it does not follow: {:?}\n{}", app(), nsd.log());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_secondary_with_the_key_takes_the_zone_and_follows_it() {
    if !is_there("nsd") {
        return;
    }
    let port = free_port();
    let secondary = SocketAddr::from(([127, 0, 0, 1], port));
    let ours = Ours::start(&plan(7, secondary, "192.0.2.1"));
    let rest = format!(
        "key:\n  name: transfer.key\n  algorithm: hmac-sha256\n  secret: \"{SECRET_TEXT}\"\n\
         zone:\n  name: z.test\n  zonefile: z.test.zone\n  request-xfr: AXFR 127.0.0.1@{} transfer.key\n  \
         allow-notify: 127.0.0.1 transfer.key\n",
        ours.address().port()
    );
    let mut nsd = Engine::nsd(port, &rest, &[]);
    nsd.wait("z.test", Rtype::SOA);
    let app = || addresses(&ask(nsd.address, &query("app.z.test", Rtype::A, false, 3)));
    // What does not follow health.
    follows(&nsd, &app, ["192.0.2.1", "192.0.2.99"]);
    for (name, address) in [("app.z.test", "2001:db8::99"), ("v6.z.test", "2001:db8::6")] {
        let reply = ask(nsd.address, &query(name, Rtype::AAAA, false, 6));
        let found = reply.answer().expect("a section").limit_to::<Aaaa>();
        let found: Vec<String> = found.map(|r| r.expect("a record").data().addr().to_string()).collect();
        assert_eq!(found, [address], "{name}: a kind that nothing in service has");
    }
    let many = by_tcp(nsd.address, &query("many.z.test", Rtype::TXT, false, 4)).expect("a reply");
    assert_eq!(many.header_counts().ancount(), 100);

    ours.serve(8, &plan(8, secondary, "192.0.2.2"));
    follows(&nsd, &app, ["192.0.2.2", "192.0.2.99"]);
}

#[test]
fn nobody_takes_a_zone_without_its_key() {
    let ours = Ours::start(&plan(7, SocketAddr::from(([127, 0, 0, 1], 9)), "192.0.2.1"));
    let reply = by_tcp(ours.address(), &query("z.test", Rtype::AXFR, false, 5)).expect("a reply");
    assert_eq!(reply.header().rcode(), Rcode::REFUSED);
    let dig = |arguments: &[&str]| {
        let output = std::process::Command::new("dig")
            .args(["@127.0.0.1", "-p", &ours.address().port().to_string(), "+time=5", "+tries=1"])
            .args(arguments)
            .output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).ok()
    };
    let key = |name: &str| format!("hmac-sha256:{name}:{SECRET_TEXT}");
    let Some(whole) = dig(&["-y", &key("transfer.key"), "z.test", "AXFR"]) else {
        println!("skipped: dig is not installed");
        return;
    };
    assert_eq!(whole.matches("SOA\tn1.z.test.").count(), 2, "{whole}");
    for address in ["192.0.2.99", "2001:db8::99", "2001:db8::6"] {
        assert!(whole.contains(address), "{address}: {whole}");
    }
    let soa = dig(&["-y", &key("transfer.key"), "z.test", "SOA"]).expect("dig");
    assert!(soa.contains("NOERROR") && soa.contains("TSIG") && !soa.contains("verify"), "{soa}");
    for (name, zone) in [("other.key", "z.test"), ("transfer.key", "y.test")] {
        let refused = dig(&["-y", &key(name), zone, "AXFR"]).expect("dig");
        assert!(!refused.contains("SOA\t"), "{name} {zone}: {refused}");
    }
    let wrong = "hmac-sha256:transfer.key:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let refused = dig(&["-y", wrong, "z.test", "AXFR"]).expect("dig");
    assert!(!refused.contains("SOA\t"), "{refused}");
}
