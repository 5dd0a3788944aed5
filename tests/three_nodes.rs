//! The house as its users see it: three real node processes, a connector and a backend, over real sockets.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::Method;
use pangolin_chaos::{
    cluster::{Cluster, Options, START_PATIENCE},
    dns::{self, Kind},
    prober::{self, Prober},
    site::Site,
};
use pangolin_node as _;
use pangolin_wire::{
    Client, ClientError, ClusterStatus, Code, EventPage, JournalPage, OrgList, TransferLeader,
    TransferredLeader,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use uuid::Uuid;

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// Within this time a write that cannot be done has to be refused.
const REFUSAL_MAX: Duration = Duration::from_secs(2);

/// Three nodes keep a small machine busy, and one that is too busy holds elections: one story at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn three_nodes() -> Cluster {
    let options = Options::of_a_test().expect("addresses and ports");
    Cluster::start(options).await.expect("a cluster of three nodes")
}

/// A cluster whose site has tunnels to `tunnels` nodes (none = all), served everywhere.
async fn with_site(tunnels: Option<usize>) -> (Cluster, Site, pangolin_chaos::https::Https) {
    let cluster = three_nodes().await;
    Site::found(&cluster).await.expect("an organisation and a domain");
    let mut site = Site::publish(&cluster, "lab", "hello", tunnels).await.expect("a site");
    site.settled(&cluster, START_PATIENCE).await.expect("tunnels");
    let https = cluster.https_client().await.expect("the authority");
    for position in 0..cluster.nodes.len() {
        site.served_by(&cluster, &https, position).await.expect("served");
    }
    (cluster, site, https)
}

/// Waits until `condition` gives something.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn make_leader(cluster: &Cluster, position: usize) {
    let status = cluster.status().await.expect("a status");
    let name = cluster.nodes[position].name.as_str();
    let id = status.nodes.iter().find(|node| node.name.as_str() == name).expect("in the status").id;
    if status.leader.is_some_and(|leader| leader.node_id == id) {
        return;
    }
    let client = cluster.nodes[position].client().with_deadline(PATIENCE);
    let to = TransferLeader { to: Some(id) };
    let moved: TransferredLeader = client.post("/cluster/leader/transfer", &to).await.expect("transferred");
    assert_eq!(moved.node_id, id);
    cluster.healthy(PATIENCE).await.expect("healthy");
}

fn no_panic_in(cluster: &Cluster) {
    for node in &cluster.nodes {
        let log = std::fs::read_to_string(node.log()).unwrap_or_default();
        let panicked: Vec<&str> = log.lines().filter(|line| line.contains("panicked at")).collect();
        assert!(panicked.is_empty(), "{}: {panicked:?}", node.name);
    }
}

#[tokio::test]
async fn a_site_is_served_through_every_node_and_goes_on_while_one_dies() {
    let _turn = TURN.lock().await;
    let (mut cluster, site, https) = with_site(None).await;

    for node in &cluster.nodes {
        let page = https.get(node.https(), &site.host, "/", PATIENCE).await.expect("a page");
        assert_eq!(page.header("x-backend"), Some("hello"), "through {}", node.name);
        let large = https.get(node.https(), &site.host, "/bytes?3000000", PATIENCE).await.expect("bytes");
        assert_eq!(large.body.len(), 3_000_000, "through {}", node.name);
        let echo = https.websocket(node.https(), &site.host, "a word", PATIENCE).await.expect("an echo");
        assert_eq!(echo, "a word");
        let fields = https.get(node.https(), &site.host, "/headers", PATIENCE).await.expect("headers").text();
        let fields: BTreeMap<String, Value> = serde_json::from_str(&fields).expect("JSON");
        assert_eq!(fields.get("x-forwarded-proto"), Some(&json!("https")));
        assert_eq!(fields.get("x-forwarded-host"), Some(&json!(site.host)));
    }
    names_are_answered(&cluster, &site).await;
    plain_http_redirects(&cluster.nodes[0].http(), &site.host).await;

    // One node dies. The others serve, and their DNS names it no more.
    cluster.nodes[1].kill();
    let probers: Vec<Prober> =
        [0, 2].map(|n| Prober::start(https.clone(), cluster.nodes[n].https(), &site.host)).into();
    let dead = cluster.nodes[1].address;
    for survivor in [0, 2] {
        let at = cluster.nodes[survivor].dns();
        until("the dead node is named by DNS no more", || async {
            let answer = dns::ask(at, &site.host, Kind::A).await.ok()?;
            (!answer.addresses.contains(&dead) && answer.addresses.len() == 2).then_some(())
        })
        .await;
    }
    for prober in probers {
        let figures = prober::figures(&prober.stop().await);
        assert!(figures.longest_gap_ms <= 1500, "{figures:?}");
    }

    // It comes back, and serves again.
    cluster.nodes[1].start_ready().await.expect("back");
    cluster.healthy(PATIENCE).await.expect("healthy");
    site.served_by(&cluster, &https, 1).await.expect("served");
    the_journals_tell_it(&cluster).await;
    no_panic_in(&cluster);
}

/// The second node was killed: it says so itself, and so do the others.
async fn the_journals_tell_it(cluster: &Cluster) {
    let of_others: &[_] = &[") does not answer this node", ") is down (leader", ") is up (leader"];
    for (position, start, expected) in
        [(0, "node n2 (id", of_others), (1, "this node started", &["left no last word"])]
    {
        let client = cluster.nodes[position].client();
        let end = Instant::now() + PATIENCE;
        loop {
            let page: JournalPage = client.get("/node/journal").await.expect("a journal");
            let told = page.entries.iter().map(|line| {
                let why = line.why.as_deref().unwrap_or_default();
                format!("{} ({why})\n", line.what)
            });
            let told: Vec<String> = told.filter(|line| line.starts_with(start)).collect();
            if expected.iter().all(|text| told.iter().any(|line| line.contains(text))) {
                break;
            }
            assert!(Instant::now() < end, "{expected:?} is not all in the journal: {told:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What a node answers to `pangolinctl ARGUMENTS`.
fn pangolinctl(cluster: &Cluster, position: usize, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(&cluster.programs.pangolinctl);
    command.arg("--socket").arg(cluster.nodes[position].socket()).args(arguments);
    let ended = pangolin_chaos::process::run(command, "", START_PATIENCE).expect("pangolinctl");
    ended.ok("pangolinctl").expect("an answer").stdout
}

#[tokio::test]
async fn every_survivor_says_in_the_same_words_why_a_site_has_moved() {
    let _turn = TURN.lock().await;
    let (mut cluster, site, _https) = with_site(None).await;
    let status = cluster.status().await.expect("a status");
    let home = status.sites[0].home.expect("a home");
    let name = status.nodes.iter().find(|node| node.id == home).expect("in the status").name.to_string();
    let carrying = cluster.nodes.iter().position(|node| node.name == name).expect("one of the three");
    let survivors: Vec<usize> = (0..3).filter(|position| *position != carrying).collect();
    let before = cluster.nodes[survivors[0]].client();
    let since = before.get::<EventPage>("/events").await.expect("events").next;

    cluster.nodes[carrying].kill();
    let down = format!("node {name} (id {home}) is down");
    let moves = format!("moves from {name} to ");
    until("the move is explained by the death, alike on both survivors", || async {
        let told = survivors.iter().map(|survivor| pangolinctl(&cluster, *survivor, &["why", "demo/lab"]));
        let told: Vec<String> = told.collect();
        let fact = told[0].split("\n\n").find(|fact| fact.starts_with("home: "))?;
        let chain = fact.contains(&moves) && fact.contains(&down) && fact.find(&moves) < fact.find(&down);
        (told[0] == told[1] && chain && fact.contains("because ")).then_some(())
    })
    .await;
    for subject in [site.host.as_str(), name.as_str()] {
        let told: Vec<String> =
            survivors.iter().map(|survivor| pangolinctl(&cluster, *survivor, &["why", subject])).collect();
        assert_eq!(told[0], told[1]);
        assert!(told[0].contains(&down), "{}", told[0]);
    }
    // Read on from before, at either survivor: the same events, none twice.
    let since = since.to_string();
    let read = |survivor: usize| pangolinctl(&cluster, survivor, &["events", "--since", &since, "--json"]);
    until("both survivors tell the same events", || async {
        let told: Vec<String> = survivors.iter().map(|survivor| read(*survivor)).collect();
        (told[0] == told[1] && told[0].matches(&down).count() == 1).then_some(())
    })
    .await;
    no_panic_in(&cluster);
}

async fn names_are_answered(cluster: &Cluster, site: &Site) {
    let mut all: Vec<_> = cluster.nodes.iter().map(|node| node.address).collect();
    all.sort();
    for node in &cluster.nodes {
        for answer in [
            dns::ask(node.dns(), &site.host, Kind::A).await,
            dns::ask_tcp(node.dns(), &site.host, Kind::A).await,
        ] {
            let mut answer = answer.expect("an answer");
            answer.addresses.sort();
            assert_eq!(
                (answer.code, answer.authoritative, &answer.addresses),
                (0, true, &all),
                "{}",
                node.name
            );
        }
        let zone = &cluster.options.zone;
        let servers = dns::ask(node.dns(), zone, Kind::Ns).await.expect("NS");
        assert_eq!((servers.code, servers.answers), (0, 3));
        let authority = dns::ask(node.dns(), zone, Kind::Soa).await.expect("SOA");
        assert_eq!((authority.code, authority.answers), (0, 1));
        let nothing = dns::ask(node.dns(), &site.host, Kind::Aaaa).await.expect("no data");
        assert_eq!((nothing.code, nothing.answers), (0, 0));
        let nobody = dns::ask(node.dns(), &format!("nobody.{zone}"), Kind::A).await.expect("no such name");
        assert_eq!((nobody.code, nobody.answers), (3, 0));
        let foreign = dns::ask(node.dns(), "example.com", Kind::A).await.expect("refused");
        assert_eq!((foreign.code, foreign.answers), (5, 0));
    }
}

async fn plain_http_redirects(at: &SocketAddr, host: &str) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (path, expected) in [("/ping", "200"), ("/some/page?x=1", "308")] {
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let status = answer.split(' ').nth(1).unwrap_or_default();
        let accepted = status == expected || (expected == "308" && matches!(status, "301" | "302" | "307"));
        assert!(accepted, "{path}: {answer}");
        if expected == "308" {
            assert!(answer.contains(&format!("https://{host}")), "{answer}");
        }
    }
}

#[tokio::test]
async fn every_acknowledged_write_outlives_the_kill_of_all_nodes_at_once() {
    let _turn = TURN.lock().await;
    let (mut cluster, site, https) = with_site(None).await;

    // Writers through every node, each waiting for its answer before the next write.
    let mut writers = JoinSet::new();
    for node in &cluster.nodes {
        for writer in 0..2 {
            let (socket, name) = (node.socket(), node.name.clone());
            writers.spawn(async move {
                let client = Client::unix(socket);
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let id = format!("{name}-{writer}-{number}");
                    let body = json!({ "orgId": id, "name": "written" });
                    let request = Uuid::new_v4();
                    match client.send(Method::PUT, "/org", Some(body), request).await {
                        Ok(_) => acknowledged.push((id, request)),
                        Err(ClientError::Unreachable { .. }) if number > 0 => break,
                        Err(error) if error.is_passing() => {}
                        Err(error) => panic!("{id}: {error}"),
                    }
                }
                acknowledged
            });
        }
    }
    sleep(Duration::from_secs(2)).await;
    for node in &mut cluster.nodes {
        node.process().expect("it runs").signal(nix::sys::signal::Signal::SIGKILL);
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    let acknowledged: Vec<_> = writers.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() >= 20, "only {} writes were acknowledged", acknowledged.len());

    for node in &mut cluster.nodes {
        node.start().expect("started");
    }
    cluster.healthy(START_PATIENCE).await.expect("healthy again");
    for node in &cluster.nodes {
        let kept = all_orgs(&node.client()).await;
        for (id, _) in &acknowledged {
            assert!(kept.contains(id), "{id} was acknowledged, but is gone from {}", node.name);
        }
    }
    // What was acknowledged once is not done twice.
    let (id, request) = acknowledged.last().expect("one").clone();
    let again = json!({ "orgId": id, "name": "written" });
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    client.send(Method::PUT, "/org", Some(again), request).await.expect("the first answer");
    for position in 0..cluster.nodes.len() {
        site.served_by(&cluster, &https, position).await.expect("served again");
    }
    no_panic_in(&cluster);
}

async fn all_orgs(client: &Client) -> std::collections::BTreeSet<String> {
    let mut all = std::collections::BTreeSet::new();
    loop {
        let page: OrgList =
            client.get(&format!("/orgs?limit=1000&offset={}", all.len())).await.expect("organisations");
        if page.orgs.is_empty() {
            return all;
        }
        all.extend(page.orgs.into_iter().map(|org| org.org_id.to_string()));
    }
}

#[tokio::test]
async fn a_node_cut_off_from_the_others_goes_on_serving_and_says_that_it_cannot_write() {
    let _turn = TURN.lock().await;
    let (mut cluster, site, https) = with_site(None).await;

    // Once as the leader that lost its followers, once as a follower that lost its leader.
    for leader in [0, 1] {
        make_leader(&cluster, leader).await;
        for other in [1, 2] {
            cluster.nodes[other].process().expect("it runs").freeze();
        }
        sleep(Duration::from_millis(1500)).await;
        let alone = &cluster.nodes[0];

        for _ in 0..10 {
            let probe = prober::probe(&https, alone.https(), &site.host).await;
            assert!(probe.result.is_ok(), "{probe:?}");
        }
        let answer = dns::ask(alone.dns(), &site.host, Kind::A).await.expect("an answer");
        assert_eq!(answer.code, 0);
        assert!(!answer.addresses.is_empty(), "it names somebody");

        let request = Uuid::new_v4();
        let body = json!({ "orgId": format!("alone-{leader}"), "name": "alone" });
        let asked = Instant::now();
        let refused = alone.client().send(Method::PUT, "/org", Some(body.clone()), request).await;
        let took = asked.elapsed();
        let Err(ClientError::Refused(failure)) = refused else { panic!("{refused:?}") };
        assert!(took <= REFUSAL_MAX, "refused after {took:?}");
        let codes = [(503, Code::NotAppended), (504, Code::OutcomeUnknown)];
        assert!(codes.contains(&(failure.status, failure.code)), "{failure:?}");
        assert!(!failure.message.is_empty());

        let status: ClusterStatus = alone.client().get("/cluster/status").await.expect("its own view");
        assert!(status.partial.is_some() || status.quorum.failure_tolerance == 0, "{status:?}");

        for other in [1, 2] {
            cluster.nodes[other].process().expect("it runs").thaw();
        }
        cluster.healthy(PATIENCE).await.expect("healthy again");
        // The same request, repeated, comes to its end whatever became of it before.
        let client = cluster.nodes[0].client().with_deadline(PATIENCE);
        client.send(Method::PUT, "/org", Some(body), request).await.expect("done once");
    }
    no_panic_in(&cluster);
}

#[tokio::test]
async fn nodes_come_and_go_and_every_node_tells_the_same() {
    let _turn = TURN.lock().await;
    let mut cluster = three_nodes().await;

    let views = |cluster: &Cluster| {
        let clients: Vec<Client> = cluster.nodes.iter().filter(|n| n.runs()).map(|n| n.client()).collect();
        async move {
            let mut views = Vec::new();
            for client in clients {
                let status: ClusterStatus = client.get("/cluster/status").await.expect("a status");
                views.push((
                    status.leader.map(|l| (l.node_id, l.term)),
                    status.quorum.voters,
                    status.nodes.len(),
                ));
            }
            views
        }
    };
    let seen = views(&cluster).await;
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
    assert_eq!((seen[0].1, seen[0].2), (3, 3));

    // A write through one node is read through any other.
    let writer = cluster.nodes[2].client().with_deadline(PATIENCE);
    let created = writer
        .send(Method::PUT, "/org", Some(json!({ "orgId": "acme", "name": "Acme" })), Uuid::new_v4())
        .await;
    created.expect("created");
    let revision = writer.revision().expect("a revision");
    until("the write is read through another node", || async {
        let reader = cluster.nodes[0].client();
        let answer: Value = reader.get("/org/acme").await.ok()?;
        (answer["name"] == "Acme" && reader.revision() >= Some(revision)).then_some(())
    })
    .await;

    // A node leaves for good: its process ends, its state is put aside, the others go on.
    let mut leave = std::process::Command::new(&cluster.programs.pangolinctl);
    leave.arg("--socket").arg(cluster.nodes[2].socket()).arg("leave");
    pangolin_chaos::process::run(leave, "", START_PATIENCE).expect("pangolinctl").ok("leave").expect("left");
    until("the node is gone from the status", || async {
        let status: ClusterStatus = cluster.nodes[0].client().get("/cluster/status").await.ok()?;
        (status.nodes.len() == 2 && status.quorum.voters <= 2).then_some(())
    })
    .await;
    let ended = cluster.nodes[2].process().expect("it ran").wait(PATIENCE).expect("it has ended");
    assert!(ended.success(), "it ended with {ended}");
    cluster.nodes[2].kill();
    no_panic_in(&cluster);
}

#[tokio::test]
async fn a_planned_stop_hands_leadership_over_and_disturbs_nobody() {
    let _turn = TURN.lock().await;
    let (mut cluster, site, https) = with_site(None).await;
    make_leader(&cluster, 1).await;
    let prober = Prober::start(https.clone(), cluster.nodes[0].https(), &site.host);
    sleep(Duration::from_millis(500)).await;
    let status = cluster.nodes[1].terminate(START_PATIENCE).expect("it ends in order");
    assert!(status.success(), "it ended with {status}");
    let body = json!({ "orgId": "after", "name": "After" });
    let client = cluster.nodes[0].client().with_deadline(PATIENCE);
    client.send(Method::PUT, "/org", Some(body), Uuid::new_v4()).await.expect("written");
    sleep(Duration::from_secs(1)).await;
    let figures = prober::figures(&prober.stop().await);
    assert_eq!(figures.failed, 0, "{figures:?}");
    assert!(figures.longest_gap_ms <= 1000, "{figures:?}");
    no_panic_in(&cluster);
}
