//! DNS as operators use it: `pangolinctl dns …` on a real cluster, and what its nodes answer then.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).
#![allow(clippy::print_stdout, reason = "a test that is skipped says so, and tells its figures")]

#[allow(dead_code, reason = "each test program uses a part")]
mod hosts;
#[path = "../layers/dns/tests/mmdb/mod.rs"]
mod mmdb;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hosts::{PATIENCE, pangolinctl};
use pangolin_chaos::{
    cluster::{Cluster, Node, Options, START_PATIENCE},
    dns::{self, Kind},
    process::Process,
    site::Site,
};
use pangolin_core::{
    HostName,
    plan::{DnsPlan, PlannedSet, ZonePlan},
    record::{RecordData, RecordKind},
};
use pangolin_dns::{DnsConfig, DnsServer};
use pangolin_node as _;

async fn cluster(nodes: u8) -> Cluster {
    let options = Options::of_nodes(nodes).expect("addresses and ports");
    let cluster = Cluster::start(options).await.expect("a cluster");
    Site::found(&cluster).await.expect("an organisation and a domain");
    cluster
}

/// Runs `pangolinctl dns …` on a node's host; what it prints.
fn ctl(cluster: &Cluster, node: usize, arguments: &[&str]) -> String {
    let all: Vec<&str> = ["dns"].iter().chain(arguments).copied().collect();
    pangolinctl(cluster, node, &all).ok(&all.join(" ")).expect("done").stdout
}

/// What dig prints; none where it is not installed.
fn dig(server: SocketAddr, arguments: &[&str]) -> Option<String> {
    let output = Command::new("dig")
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string(), "+time=5", "+tries=2"])
        .args(arguments)
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn records_of_the_operator_are_answered_by_every_node() {
    let cluster = cluster(3).await;
    ctl(&cluster, 1, &["record", "add", "mail.demo.test", "A", "192.0.2.25", "--ttl", "60"]);
    ctl(&cluster, 1, &["record", "add", "mail.demo.test", "A", "192.0.2.26"]);
    ctl(&cluster, 2, &["record", "add", "demo.test", "MX", "10", "mail"]);
    ctl(&cluster, 0, &["record", "add", "demo.test", "TXT", "\"v=spf1 mx -all\""]);
    ctl(&cluster, 0, &["record", "add", "silent.demo.test", "MX", "0", "."]);
    ctl(&cluster, 0, &["record", "add", "_imap._tcp.demo.test", "SRV", "0", "0", "0", "."]);
    ctl(&cluster, 0, &["record", "add", "demo.test", "CAA", "0", "issue", "\"ca.test; policy=ev\""]);
    let more = pangolinctl(&cluster, 0, &["dns", "record", "add", "silent.demo.test", "MX", "10", "mail"]);
    assert!(more.stderr.contains("stands alone"), "{}", more.stderr);
    let listed = ctl(&cluster, 0, &["record", "list", "demo.test"]);
    // Columns are as wide as what stands in them.
    let listed = listed.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in ["mail.demo.test 60 A", "10 mail.demo.test.", "\"v=spf1 mx -all\""] {
        assert!(listed.contains(line), "{line}:\n{listed}");
    }
    for node in &cluster.nodes {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = dns::ask(node.dns(), "mail.demo.test", Kind::A).await.expect("an answer");
            if answer.addresses.len() == 2 {
                break;
            }
            assert!(Instant::now() < end, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    ctl(&cluster, 0, &["record", "remove", "mail.demo.test", "A", "192.0.2.26"]);
    let again = pangolinctl(&cluster, 0, &["dns", "record", "remove", "mail.demo.test", "A", "192.0.2.26"]);
    assert!(again.stderr.contains("has no such A record"), "{}", again.stderr);
    let asked = ctl(&cluster, 0, &["query", "mail.demo.test", "A"]);
    assert!(asked.contains("NOERROR, authoritative") && asked.contains("192.0.2.25"), "{asked}");
    assert!(!asked.contains("192.0.2.26"), "{asked}");
    let dumped = ctl(&cluster, 0, &["dump", "demo.test"]);
    for line in ["IN SOA n1.demo.test.", "demo.test. 300 IN MX 10 mail.demo.test.", "n3.demo.test. 3600 IN A"]
    {
        assert!(dumped.contains(line), "{line}:\n{dumped}");
    }
    for (arguments, expected) in [
        (["+short", "demo.test", "CAA"], "0 issue \"ca.test; policy=ev\"\n"),
        (["+short", "silent.demo.test", "MX"], "0 .\n"),
        (["+short", "_imap._tcp.demo.test", "SRV"], "0 0 0 .\n"),
    ] {
        let end = Instant::now() + PATIENCE;
        while let Some(shown) = dig(cluster.nodes[0].dns(), &arguments).filter(|shown| shown != expected) {
            assert!(Instant::now() < end, "{arguments:?}: {shown}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let why = pangolinctl(&cluster, 0, &["why", "mail.demo.test"]).stdout;
    assert!(why.contains("a record set of the operator's own"), "{why}");
    let refused = pangolinctl(&cluster, 0, &["dns", "record", "add", "www.else.test", "A", "192.0.2.1"]);
    assert!(refused.stderr.contains("does not lie in a zone"), "{}", refused.stderr);
}

#[tokio::test]
async fn what_is_published_has_a_service_binding_and_nothing_else_has() {
    let cluster = cluster(3).await;
    let ctl = |words: &[&str]| pangolinctl(&cluster, 0, words).ok(&words.join(" ")).expect("done").stdout;
    ctl(&["domain", "create", "shop.test"]);
    for name in ["app.demo.test", "*.apps.demo.test", "shop.test"] {
        ctl(&["resource", "create", name]);
    }
    let at = cluster.nodes[2].dns();
    if dig(at, &["demo.test", "SOA"]).is_none() {
        println!("skipped: dig is not installed");
        return;
    }
    let short = |name: &str, kind: &str| dig(at, &["+short", name, kind]).expect("dig");
    let port = cluster.nodes[0].https().port();
    for name in ["control.demo.test", "app.demo.test", "any.apps.demo.test", "shop.test"] {
        let end = Instant::now() + PATIENCE;
        loop {
            // Addresses may change between two questions, until all nodes are up.
            let addresses: Vec<String> = short(name, "A").lines().map(str::to_owned).collect();
            let expected = format!("1 . alpn=\"h2,http/1.1\" port={port} ipv4hint={}\n", addresses.join(","));
            let shown = short(name, "HTTPS");
            if !addresses.is_empty() && shown == expected {
                break;
            }
            assert!(Instant::now() < end, "{name}: {shown} {expected}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    for (name, status) in
        [("n1.demo.test", "NOERROR"), ("demo.test", "NOERROR"), ("nothing.demo.test", "NXDOMAIN")]
    {
        let shown = dig(at, &[name, "HTTPS"]).expect("dig");
        assert!(shown.contains(&format!("status: {status},")) && shown.contains("ANSWER: 0,"), "{shown}");
    }
}

/// Waits until a node answers clients in 172.16.0.0/12 with this node's address alone; false where dig is not installed.
async fn leads(asked: &Node, to: &Node) -> bool {
    let end = Instant::now() + REGIONS_WITHIN;
    let words = ["+short", "+subnet=172.17.1.0/24", "near.demo.test", "A"];
    loop {
        let Some(shown) = dig(asked.dns(), &words) else { return false };
        if shown == format!("{}\n", to.address) {
            return true;
        }
        assert!(Instant::now() < end, "{} answers {shown} instead of {}", asked.name, to.address);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A database is looked at once a minute.
const REGIONS_WITHIN: Duration = Duration::from_secs(60 + PATIENCE.as_secs());

#[tokio::test]
async fn a_database_of_regions_that_is_replaced_counts_without_a_restart() {
    let mut cluster = Cluster::prepare(Options::of_nodes(3).expect("addresses and ports")).expect("prepared");
    let file = |node: &Node| cluster.dir().join(format!("{}.mmdb", node.name));
    let of = |country| {
        mmdb::database(&[(
            [172, 16, 0, 0],
            12,
            [("country", "iso_code", country), ("continent", "code", "EU")],
        )])
    };
    for (node, region) in cluster.nodes.iter().zip(["de", "fr", "us"]) {
        let text = std::fs::read_to_string(node.config()).expect("read");
        let text = text.replace("[node]\n", &format!("[node]\nregion = \"{region}\"\n"));
        let regions = format!("[dns]\nregions = \"{}\"\n", file(node).display());
        std::fs::write(node.config(), text.replace("[dns]\n", &regions)).expect("written");
        std::fs::write(file(node), of("DE")).expect("written");
    }
    let files: Vec<_> = cluster.nodes.iter().map(file).collect();
    cluster.init().await.expect("it runs");
    for node in [1, 2] {
        cluster.join(node).await.expect("joined");
    }
    cluster.healthy(START_PATIENCE).await.expect("healthy");
    Site::found(&cluster).await.expect("an organisation and a domain");
    pangolinctl(&cluster, 0, &["resource", "create", "near.demo.test"]).ok("create").expect("done");
    ctl(&cluster, 0, &["answers", "near.demo.test", "nearest"]);
    let [german, french, third] = &cluster.nodes[..] else { panic!("three nodes") };
    for node in &cluster.nodes {
        if !leads(node, german).await {
            println!("skipped: dig is not installed");
            return;
        }
    }
    // As it is replaced by those who fetch it; by something else; and not at all yet.
    let next = cluster.dir().join("next.mmdb");
    std::fs::write(&next, of("FR")).expect("written");
    std::fs::rename(&next, &files[0]).expect("replaced");
    std::fs::write(&files[1], "a page that says that there is nothing here").expect("written");
    std::fs::remove_file(&files[2]).expect("removed");
    leads(german, french).await;
    let end = Instant::now() + REGIONS_WITHIN;
    let warned = "the database of regions stays as it was read before";
    while !std::fs::read_to_string(french.log()).expect("a log").contains(warned) {
        assert!(Instant::now() < end, "{} does not warn", french.name);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for node in [french, third] {
        leads(node, german).await;
    }
}

/// Waits until the first node answers a name with one address.
async fn served(cluster: &Cluster, name: &str) {
    let end = Instant::now() + PATIENCE;
    while dns::ask(cluster.nodes[0].dns(), name, Kind::A).await.expect("an answer").addresses.len() != 1 {
        assert!(Instant::now() < end, "{name} is not served");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_large_zone_file_is_brought_in_and_served() {
    let cluster = cluster(1).await;
    let mut text = String::from("$TTL 300\n@ IN SOA ns.old. hostmaster 1 2 3 4 5\n  IN NS ns.old.\n");
    for n in 0..10_000 {
        text.push_str(&format!("host-{n} IN A 192.0.2.{}\n", n % 250));
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("zone");
    std::fs::write(&file, &text).expect("a file");
    let said = ctl(&cluster, 0, &["record", "import", "demo.test", file.to_str().expect("a plain path")]);
    assert!(said.contains("brought into demo.test"), "{said}");
    served(&cluster, "host-9999.demo.test").await;
    // One more change, with all of that in the zone.
    let began = Instant::now();
    ctl(&cluster, 0, &["record", "add", "late.demo.test", "A", "192.0.2.1"]);
    served(&cluster, "late.demo.test").await;
    println!("a change in a zone of 10,000 names was served after {:.2} s", began.elapsed().as_secs_f32());
    let zones = ctl(&cluster, 0, &["zones"]);
    assert!(zones.contains("demo.test"), "{zones}");
}

#[tokio::test]
async fn a_zone_is_signed_with_a_key_that_every_node_has() {
    let cluster = cluster(3).await;
    let signer = ctl(&cluster, 1, &["dnssec", "enable", "demo.test"]);
    assert!(signer.starts_with("demo.test. 3600 IN DS ") && signer.contains(" 13 2 "), "{signer}");
    assert_eq!(ctl(&cluster, 2, &["dnssec", "show", "demo.test"]), signer);
    let again = pangolinctl(&cluster, 0, &["dns", "dnssec", "enable", "demo.test"]);
    assert!(again.stderr.contains("signed already"), "{}", again.stderr);
    let Some(_) = dig(cluster.nodes[0].dns(), &["demo.test", "SOA"]) else {
        println!("skipped: dig is not installed");
        return;
    };
    let mut keys = Vec::new();
    for node in &cluster.nodes {
        let end = Instant::now() + PATIENCE;
        let key = loop {
            let key = dig(node.dns(), &["+short", "demo.test", "DNSKEY"]).expect("dig");
            if !key.is_empty() {
                break key;
            }
            assert!(Instant::now() < end, "{} does not sign", node.name);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        keys.push(key);
        let signed = dig(node.dns(), &["+dnssec", "control.demo.test", "A"]).expect("dig");
        assert!(signed.contains("RRSIG\tA 13 3"), "{signed}");
        let denied = dig(node.dns(), &["+dnssec", "nothing.demo.test", "A"]).expect("dig");
        assert!(denied.contains("NSEC\t\\000.nothing.demo.test. RRSIG NSEC TYPE128"), "{denied}");
    }
    keys.dedup();
    assert_eq!(keys.len(), 1);
    ctl(&cluster, 0, &["dnssec", "disable", "demo.test", "--ds-removed"]);
}

/// The zone above `demo.test`, with these DS records of it.
fn parent(serial: u32, signers: &[String]) -> DnsPlan {
    let host = |name: &str| name.parse::<HostName>().expect("a host name");
    let set = |data: Vec<RecordData>| PlannedSet { ttl: 600, data };
    let mut of_child = BTreeMap::from([(RecordKind::Ns, set(vec![RecordData::Ns(host("n1.demo.test"))]))]);
    let value = |line: &String| {
        let value = line.trim().split_once(" DS ").expect("a DS record").1;
        pangolin_dns::read_value(&host("test"), RecordKind::DS, value).expect("a value")
    };
    if !signers.is_empty() {
        of_child.insert(RecordKind::DS, set(signers.iter().map(value).collect()));
    }
    let of_own = BTreeMap::from([(RecordKind::Ns, set(vec![RecordData::Ns(host("ns.test"))]))]);
    let zone = ZonePlan {
        apex: host("test"),
        primary: host("ns.test"),
        contact: host("hostmaster.test"),
        serial,
        negative_ttl: 30,
        sets: BTreeMap::from([(host("test"), of_own), (host("demo.test"), of_child)]),
        regional: BTreeMap::new(),
        fail_open: BTreeMap::new(),
        key: None,
        secondaries: Vec::new(),
        next_key: None,
    };
    DnsPlan { zones: vec![zone], ..DnsPlan::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_exchanged_and_a_zone_unsigned_as_the_parent_allows() {
    let cluster = cluster(1).await;
    let listen = vec![SocketAddr::new(cluster.nodes[0].address, 0)];
    let config = DnsConfig { listen, udp_threads: 1, rate_limit: None, ..DnsConfig::default() };
    let (above, task) = DnsServer::bind(config).expect("a free address");
    let shutdown = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(task.run(shutdown.clone()));
    let mut revision = pangolin_core::Revision { lineage: 1, index: 0 };
    let mut entered = |signers: &[String]| {
        revision.index += 1;
        let plan = parent(revision.index as u32, signers);
        above.apply(revision, &plan, &|_| Err("there are no keys".to_owned())).expect("a plan");
    };
    let at = above.local_addrs()[0].to_string();
    // The parent answers on another thread while pangolinctl is waited for.
    let refused = |verb: &[&str], says: &str| {
        let all = [&["dns", "dnssec"][..], verb, &["demo.test", "--server", &at][..]].concat();
        let said = pangolinctl(&cluster, 0, &all);
        assert!(!said.success && said.stderr.contains(says), "{verb:?}: {says}: {said:?}");
    };
    let first = ctl(&cluster, 0, &["dnssec", "enable", "demo.test"]);
    let next = ctl(&cluster, 0, &["dnssec", "rollover", "start", "demo.test"]);
    assert!(next.starts_with("demo.test. 3600 IN DS ") && next != first, "{next}");
    assert_eq!(ctl(&cluster, 0, &["dnssec", "show", "demo.test"]), format!("{first}{next}"));
    let dumped = ctl(&cluster, 0, &["dump", "demo.test"]);
    assert_eq!(dumped.matches(" IN DNSKEY 257 3 13 ").count(), 2, "{dumped}");

    entered(std::slice::from_ref(&first));
    refused(&["rollover", "finish"], "has no DS record of the next key");
    entered(&[first.clone(), next.clone()]);
    refused(&["rollover", "finish"], "may keep what was there before until");
    refused(&["disable"], "remove it there");
    ctl(&cluster, 0, &["dnssec", "rollover", "finish", "demo.test", "--ds-entered"]);
    assert_eq!(ctl(&cluster, 0, &["dnssec", "show", "demo.test"]), next);

    ctl(&cluster, 0, &["dnssec", "rollover", "start", "demo.test"]);
    entered(&[]);
    refused(&["rollover", "cancel"], "has no DS record of the key that is to stay");
    ctl(&cluster, 0, &["dnssec", "rollover", "cancel", "demo.test", "--ds-kept"]);
    assert_eq!(ctl(&cluster, 0, &["dnssec", "show", "demo.test"]), next);
    refused(&["disable"], "may keep what was there before until");
    let events = pangolinctl(&cluster, 0, &["events"]).stdout;
    assert!(events.contains("DS records of demo.test at its parent"), "{events}");
    ctl(&cluster, 0, &["dnssec", "disable", "demo.test", "--ds-removed"]);
    let own = cluster.nodes[0].dns().to_string();
    let signed = pangolinctl(&cluster, 0, &["dns", "dnssec", "disable", "demo.test", "--server", &own]);
    assert!(!signed.success, "{signed:?}");
    shutdown.cancel();
    task.await.expect("no panic").expect("it ends");
}

#[tokio::test]
async fn a_check_says_what_the_parent_has_to_have() {
    let cluster = cluster(1).await;
    // The node itself in the place of a parent: it names the zone's servers.
    let parent = cluster.nodes[0].dns().to_string();
    let checked = pangolinctl(&cluster, 0, &["dns", "check", "demo.test", "--server", &parent]);
    let text = &checked.stdout;
    assert!(text.contains("says what the zone says"), "{text}{}", checked.stderr);
    assert!(text.contains("demo.test. 3600 IN NS n1.demo.test."), "{text}");
    let glue = format!("n1.demo.test. 3600 IN A {}", cluster.nodes[0].address);
    assert!(text.contains(&glue), "{text}");
}

#[tokio::test]
async fn a_decision_is_answered_by_all_nodes_and_a_node_alone_goes_on() {
    let mut cluster = cluster(3).await;
    let site = Site::publish(&cluster, "lab", "hello", None).await.expect("a site");
    let mut slowest = Duration::ZERO;
    for round in 0..40 {
        let policy = if round % 2 == 0 { "all" } else { "home" };
        let expected = if round % 2 == 0 { 3 } else { 1 };
        ctl(&cluster, round % 3, &["answers", &site.host, policy]);
        let began = Instant::now();
        for node in &cluster.nodes {
            while dns::ask(node.dns(), &site.host, Kind::A).await.expect("an answer").addresses.len()
                != expected
            {
                assert!(began.elapsed() < PATIENCE, "{} does not follow", node.name);
            }
        }
        slowest = slowest.max(began.elapsed());
    }
    // `scripts/bench-decisions.sh` measures it.
    println!("40 decisions: the slowest was answered everywhere after {:.3} s", slowest.as_secs_f32());
    // A node alone answers from the last state, and says of challenges that it cannot know.
    ctl(&cluster, 0, &["record", "add", "_acme-challenge.demo.test", "TXT", "token"]);
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let alone = cluster.nodes[0].dns();
    let end = Instant::now() + START_PATIENCE;
    loop {
        let hello = dns::ask(alone, &site.host, Kind::A).await.expect("an answer");
        assert_eq!(hello.code, 0, "{hello:?}");
        let challenge = dns::ask(alone, "_acme-challenge.demo.test", Kind::Txt).await.expect("an answer");
        if challenge.code == 2 {
            break;
        }
        assert!(Instant::now() < end, "{challenge:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What the name servers of the cluster have answered, by response code.
#[derive(Clone, Default)]
struct Codes(Arc<Mutex<BTreeMap<(String, String), u64>>>);

impl Codes {
    fn note(&self, who: &str, code: impl ToString) {
        let mut codes = self.0.lock().expect("not poisoned");
        *codes.entry((who.to_owned(), code.to_string())).or_default() += 1;
    }

    fn of(&self, who: &str) -> BTreeMap<String, u64> {
        let codes = self.0.lock().expect("not poisoned");
        codes.iter().filter(|((known, _), _)| known == who).map(|((_, code), n)| (code.clone(), *n)).collect()
    }
}

/// Asks one node until the task is dropped. That nobody answers is no wrong answer: the node may be dead.
async fn ask_on(codes: Codes, name: String, server: SocketAddr, resource: String) {
    let data = [
        (resource.as_str(), Kind::A),
        ("shown.demo.test", Kind::Txt),
        ("control.demo.test", Kind::A),
        ("demo.test", Kind::Ns),
    ];
    loop {
        for (host, kind) in data {
            if let Ok(answer) = dns::ask(server, host, kind).await {
                codes.note(&name, answer.code);
                if answer.code == 0 && answer.answers == 0 {
                    codes.note(&name, format!("nothing for {host} {kind:?}"));
                }
            }
        }
        if let Ok(answer) = dns::ask(server, "control.demo.test", Kind::Txt).await {
            codes.note(&name, answer.code);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a node answers with data.
async fn shows(server: SocketAddr, host: &str, kind: Kind) {
    let end = Instant::now() + PATIENCE;
    while !dns::ask(server, host, kind).await.is_ok_and(|answer| answer.code == 0 && answer.answers > 0) {
        assert!(Instant::now() < end, "{server} does not answer {host} {kind:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How long a node is left without the others.
const ISOLATION: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_node_without_the_others_answers_all_the_while_and_leaves_challenges_to_them() {
    let mut cluster = cluster(3).await;
    let site = Site::publish(&cluster, "lab", "hello", None).await.expect("a site");
    ctl(&cluster, 0, &["record", "add", "_acme-challenge.demo.test", "TXT", "token"]);
    let alone = cluster.nodes[0].dns();
    shows(alone, &site.host, Kind::A).await;
    shows(alone, "_acme-challenge.demo.test", Kind::Txt).await;
    for node in &mut cluster.nodes[1..] {
        node.process().expect("it runs").freeze();
    }
    let began = Instant::now();
    let (mut asked, mut unknown_since, mut challenges) = (0, None, 0);
    while began.elapsed() < ISOLATION {
        for (host, kind) in
            [(site.host.as_str(), Kind::A), ("control.demo.test", Kind::A), ("demo.test", Kind::Ns)]
        {
            let answer = dns::ask(alone, host, kind).await.expect("an answer");
            let at = began.elapsed();
            assert!(answer.code == 0 && answer.answers > 0, "{host} {kind:?} after {at:?}: {answer:?}");
            asked += 1;
        }
        let challenge = dns::ask(alone, "_acme-challenge.demo.test", Kind::Txt).await.expect("an answer");
        match (challenge.code, unknown_since) {
            // It does not know yet that it is alone.
            (0, None) => {}
            (2, _) => {
                unknown_since.get_or_insert(began.elapsed());
                challenges += 1;
            }
            (code, since) => panic!("code {code} for a challenge, alone since {since:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let since = unknown_since.expect("it says that it does not know of challenges");
    println!("{asked} answers in {ISOLATION:?} alone; {challenges} challenges SERVFAIL, from {since:?} on");
    for node in &mut cluster.nodes[1..] {
        node.process().expect("it runs").thaw();
    }
    cluster.healthy(START_PATIENCE).await.expect("healthy");
    shows(alone, "_acme-challenge.demo.test", Kind::Txt).await;
}

/// A resolver that keeps nothing, so that every question goes to the nodes; none where it is not installed.
fn unbound(cluster: &Cluster) -> Option<(Process, SocketAddr)> {
    let folder = cluster.dir().join("unbound");
    std::fs::create_dir_all(&folder).expect("a folder");
    // An address of this test's own: nobody else takes the port meanwhile.
    let taken = std::net::UdpSocket::bind((cluster.nodes[0].address, 0)).expect("a port");
    let address = taken.local_addr().expect("an address");
    drop(taken);
    let servers: String = cluster
        .nodes
        .iter()
        .map(|node| format!("  stub-addr: {}@{}\n", node.dns().ip(), node.dns().port()))
        .collect();
    let dir = folder.display();
    let text = format!(
        "server:\n  interface: {}\n  port: {}\n  username: \"\"\n  chroot: \"\"\n  directory: \"{dir}\"\n  \
         pidfile: \"{dir}/pid\"\n  use-syslog: no\n  num-threads: 1\n  do-not-query-localhost: no\n  \
         local-zone: \"test.\" nodefault\n  do-ip6: no\n  module-config: \"iterator\"\n  cache-max-ttl: 0\n  \
         cache-max-negative-ttl: 0\nremote-control:\n  control-enable: no\nstub-zone:\n  name: \"demo.test\"\n{servers}",
        address.ip(),
        address.port()
    );
    let conf = folder.join("unbound.conf");
    std::fs::write(&conf, text).expect("written");
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("unbound");
    command.env("PATH", path).args(["-d", "-c"]).arg(conf);
    Some((Process::spawn("unbound", command, &folder.join("log")).ok()?, address))
}

/// Asks the resolver until the task is dropped.
async fn resolve_on(codes: Codes, resolver: SocketAddr) {
    loop {
        let asked = tokio::task::spawn_blocking(move || dig(resolver, &["control.demo.test", "A"])).await;
        let Ok(Some(text)) = asked else { return };
        if let Some((_, rest)) = text.split_once("status: ") {
            codes.note("unbound", rest.split(',').next().unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn names_are_answered_well_while_each_node_in_turn_is_killed_and_comes_back() {
    let mut cluster = cluster(3).await;
    let site = Site::publish(&cluster, "lab", "hello", None).await.expect("a site");
    ctl(&cluster, 0, &["record", "add", "shown.demo.test", "TXT", "shown"]);
    for node in &cluster.nodes {
        shows(node.dns(), &site.host, Kind::A).await;
        shows(node.dns(), "shown.demo.test", Kind::Txt).await;
    }
    let codes = Codes::default();
    let mut asking = tokio::task::JoinSet::new();
    for node in &cluster.nodes {
        asking.spawn(ask_on(codes.clone(), node.name.clone(), node.dns(), site.host.clone()));
    }
    let resolver = unbound(&cluster);
    if let Some((_, address)) = &resolver {
        // What it says before it is up is no answer of the nodes.
        let end = Instant::now() + PATIENCE;
        let up = |text: String| text.contains("status: NOERROR");
        while !dig(*address, &["control.demo.test", "A"]).is_none_or(up) {
            assert!(Instant::now() < end, "the resolver does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        asking.spawn(resolve_on(codes.clone(), *address));
    } else {
        println!("without a resolver in front: unbound is not installed");
    }
    for node in 0..3 {
        cluster.nodes[node].kill();
        // Long enough for an election and for the verdict, where there is one to come.
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.nodes[node].start_ready().await.expect("it comes back");
        cluster.healthy(START_PATIENCE).await.expect("healthy");
    }
    let before: Vec<u64> = cluster.nodes.iter().map(|node| codes.of(&node.name).values().sum()).collect();
    let end = Instant::now() + PATIENCE;
    let sum = |name: &str| codes.of(name).values().sum::<u64>();
    while cluster.nodes.iter().zip(&before).any(|(node, before)| sum(&node.name) <= *before) {
        assert!(Instant::now() < end, "every node answers again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(asking);
    for node in &cluster.nodes {
        let codes = codes.of(&node.name);
        assert!(codes.keys().eq(["0"]), "{}: {codes:?}", node.name);
    }
    if resolver.is_some() {
        let codes = codes.of("unbound");
        println!("answers by way of unbound: {codes:?}");
        assert!(codes.keys().all(|code| code == "NOERROR"), "{codes:?}");
    }
}
