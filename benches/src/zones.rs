//! Ten thousand names and a thousand certificates: how soon a change is served then, and what a node needs for it.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pangolin_chaos::{
    cluster::{Cluster, Node},
    dns::{self, Kind},
    https::Https,
};
use pangolin_wire::{AddRecord, Client, CreateDomain, CreateOrg, Domain, ImportRecords, Org, Resource};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    judge::Check,
    pangolin,
    processes::resident_mb,
    sample::{Figures, Sample},
    say,
};

const SERVED_P99_MS: f64 = 1000.0;
/// Whatever takes longer does not happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the internal issuer may take for all certificates.
const ISSUED_WITHIN: Duration = Duration::from_secs(1800);
/// Pause between two looks: below a node's rate limit.
const PAUSE: Duration = Duration::from_millis(4);
/// Pause between two changes.
const REST: Duration = Duration::from_millis(100);
/// Names in one part of a zone file: below the limit of a request.
const PART: usize = 2000;
/// The zone with the names.
const ZONE: &str = "names.test";

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Names in one zone
    #[arg(long, default_value_t = 10_000)]
    names: usize,
    /// Domains with a resource, each with a certificate of its own
    #[arg(long, default_value_t = 1000)]
    certificates: usize,
    /// Changes of records, and as many new certificates, that are timed then
    #[arg(long, default_value_t = 50)]
    changes: usize,
}

/// Measures, prints, judges.
///
/// # Errors
/// The cluster does not start, or a change is not served.
pub(crate) async fn run(options: &Options) -> Result<bool> {
    let mut cluster = Cluster::start(pangolin::options(3)?).await?;
    let client = cluster.any_node()?.client().with_deadline(PATIENCE);
    let empty = memory(&mut cluster)?;
    let _: Org = client.put("/org", &CreateOrg { org_id: "bench".parse()?, name: None }).await?;
    import(&client, options.names).await?;
    let with_names = memory(&mut cluster)?;
    say(&format!("{} names are brought in; a node needs {with_names} MB", options.names));
    let began = Instant::now();
    for number in 0..options.certificates {
        publish(&client, number).await?;
    }
    let last = options.certificates.saturating_sub(1);
    let https = cluster.https_client().await?;
    for node in &cluster.nodes {
        shown(&https, node, &host(last), ISSUED_WITHIN).await?;
    }
    let issued_s = began.elapsed().as_secs();
    let whole = memory(&mut cluster)?;
    say(&format!(
        "{} certificates were issued within {issued_s} s; a node needs {whole} MB",
        options.certificates
    ));

    let (mut records, mut certificates) = (Vec::new(), Vec::new());
    for number in 0..options.changes {
        records.push(record(&cluster, &client, number).await?);
        sleep(REST).await;
    }
    for number in options.certificates..options.certificates + options.changes {
        certificates.push(certificate(&cluster, &client, &https, number).await?);
        sleep(REST).await;
    }
    let (records, certificates) = (Sample::of(&records).figures(), Sample::of(&certificates).figures());
    let checks = [
        Check::at_most(
            "a record, acknowledged to answered by all nodes, p99 ms",
            records.p99_ms,
            SERVED_P99_MS,
        ),
        Check::at_most(
            "a new resource, acknowledged to its certificate shown by all nodes, p99 ms",
            certificates.p99_ms,
            SERVED_P99_MS,
        ),
    ];
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    let brief = |f: &Figures| json!({ "n": f.operations, "p50_ms": f.p50_ms, "p99_ms": f.p99_ms, "max_ms": f.max_ms });
    say(&json!({
        "bench": "zones", "nodes": 3, "names": options.names, "certificates": options.certificates,
        "record_to_answered": brief(&records), "resource_to_certificate_shown": brief(&certificates),
        "issued_s": issued_s,
        "memory_mb": { "empty": empty, "with_names": with_names, "with_names_and_certificates": whole },
        "checks": checks, "ok": ok,
    })
    .to_string());
    Ok(ok)
}

/// Of the node that needs most.
fn memory(cluster: &mut Cluster) -> Result<f64> {
    let mut most: f64 = 0.0;
    for node in &mut cluster.nodes {
        let pid = node.process().context("a node does not run")?.pid();
        most = most.max(resident_mb(pid)?);
    }
    Ok(most)
}

async fn import(client: &Client, names: usize) -> Result<()> {
    let _: Domain = client.put("/org/bench/domain", &CreateDomain { base_domain: ZONE.parse()? }).await?;
    for first in (0..names).step_by(PART) {
        let mut text = String::from("$TTL 300\n");
        for number in first..(first + PART).min(names) {
            writeln!(text, "host-{number} IN A 192.0.2.{}", number % 250)?;
        }
        let part = ImportRecords { text, replace: false };
        let _: Value = client.post(&format!("/dns/zone/{ZONE}/import"), &part).await?;
    }
    Ok(())
}

fn host(number: usize) -> String {
    format!("www.domain-{number}.test")
}

/// A domain with a resource: it needs a certificate.
async fn publish(client: &Client, number: usize) -> Result<()> {
    let domain = CreateDomain { base_domain: format!("domain-{number}.test").parse()? };
    let _: Domain = client.put("/org/bench/domain", &domain).await?;
    let _: Resource = client.put("/org/bench/resource", &json!({ "fullDomain": host(number) })).await?;
    Ok(())
}

/// From the acknowledgement of a new record until every node answers it.
async fn record(cluster: &Cluster, client: &Client, number: usize) -> Result<Duration> {
    let name = format!("late-{number}.{ZONE}");
    let (kind, value) = ("A".to_owned(), "192.0.2.1".to_owned());
    let record = AddRecord { name: name.parse()?, kind, value, ttl: None };
    let _: Option<Value> = client.put("/dns/record", &record).await?;
    let began = Instant::now();
    for node in &cluster.nodes {
        while dns::ask(node.dns(), &name, Kind::A).await?.addresses.is_empty() {
            if began.elapsed() > PATIENCE {
                bail!("{} does not answer {name}", node.name);
            }
            sleep(PAUSE).await;
        }
    }
    Ok(began.elapsed())
}

/// From the acknowledgement of a new resource until every node shows its certificate: making it and the commit are in it.
async fn certificate(cluster: &Cluster, client: &Client, https: &Https, number: usize) -> Result<Duration> {
    publish(client, number).await?;
    let began = Instant::now();
    for node in &cluster.nodes {
        shown(https, node, &host(number), PATIENCE).await?;
    }
    Ok(began.elapsed())
}

async fn shown(https: &Https, node: &Node, host: &str, patience: Duration) -> Result<()> {
    let began = Instant::now();
    while https.connect(node.https(), host).await.is_err() {
        if began.elapsed() > patience {
            bail!("{} does not show a certificate for {host}", node.name);
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
