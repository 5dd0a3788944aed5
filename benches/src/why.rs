//! What the decision log costs: an answer to `why` when it is full, and each change while it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use pangolin_core::{
    Actor, Body, CatalogChange, Cause, ClusterId, ClusterState, Command, Fence, NodeId, Outcome, SiteId,
    Timestamp,
    access::Principal,
    command::ClusterCreated,
    feature,
    outcome::Object,
    record::{Authority, Digest, Method, NodeRole, NodeSpec, Sealed, Settings, TunnelKey, Verdict},
    why::{About, why},
};
use serde_json::json;

use crate::{judge::Check, sample::Sample, say};

const WHY_MAX_MS: f64 = 50.0;
/// More objects of each kind than decisions of a kind are kept.
const OBJECTS: u64 = 3000;
/// Questions of each sort.
const QUESTIONS: usize = 50;
/// Changes that are timed.
const CHANGES: u64 = 20_000;

/// Measures, prints, judges.
///
/// # Errors
/// A command is refused.
pub(crate) fn run() -> Result<bool> {
    let mut log = Log::begun()?;
    let first = log.verdicts(CHANGES)?;
    log.fill()?;
    let kept = log.state.decisions().len();
    let full = log.verdicts(CHANGES)?;
    say(&format!(
        "{kept} decisions are kept; a change that leaves one takes {:.1} us then, and {:.1} us while the log is nearly empty",
        micros(full),
        micros(first)
    ));
    let mut longest: f64 = 0.0;
    for name in ["n1", "bench/site-7", "r7.bench.test", "bench.test"] {
        let mut times = Vec::new();
        for _ in 0..QUESTIONS {
            let began = Instant::now();
            let principal = Principal::Operator("bench".to_owned());
            let about = About::find(&log.state, &principal, None, name)
                .map_err(|error| anyhow::anyhow!("{error}"))?;
            let text = why(&log.state, &about).context("nothing is known")?.to_string();
            times.push(began.elapsed());
            std::hint::black_box(text);
        }
        let figures = Sample::of(&times).figures();
        say(&format!("why {name}: p50 {} ms, longest {} ms", figures.p50_ms, figures.max_ms));
        longest = longest.max(figures.max_ms);
    }
    let checks = [Check::at_most("why with a full decision log, longest, ms", longest, WHY_MAX_MS)];
    checks.iter().for_each(|check| say(&check.line()));
    let ok = checks.iter().all(|check| check.ok);
    say(&json!({
        "bench": "why", "decisions": kept, "change_us": crate::sample::round(micros(full)),
        "change_nearly_empty_us": crate::sample::round(micros(first)), "why_max_ms": longest, "checks": checks, "ok": ok,
    })
    .to_string());
    Ok(ok)
}

fn micros(of_all: Duration) -> f64 {
    of_all.as_secs_f64() * 1e6 / CHANGES as f64
}

struct Log {
    state: ClusterState,
    index: u64,
}

impl Log {
    fn begun() -> Result<Self> {
        let mut log = Self { state: ClusterState::default(), index: 0 };
        let sealed = || Sealed { kek: 1, wrapped_key: vec![1], content: vec![2] };
        let authority = || Authority { certificate: vec![1], key: sealed() };
        log.apply(Body::ClusterCreated(Box::new(ClusterCreated {
            id: ClusterId([7; 16]),
            name: "bench".parse()?,
            authority: authority(),
            issuer: authority(),
            settings: Settings {
                zone: "cluster.test".parse()?,
                control_host: "control.cluster.test".parse()?,
                tunnel_network: "100.90.0.0/16".parse()?,
                ttl: 30,
            },
            node: NodeId(1),
            spec: NodeSpec {
                name: "n1".parse()?,
                role: NodeRole::Data,
                peer_address: ([192, 0, 2, 1], 7420).into(),
                spki: Digest([1; 32]),
                public_addresses: vec![[192, 0, 2, 1].into()],
                https_port: 443,
                tunnel_endpoint: "192.0.2.1:51820".to_owned(),
                tunnel_key: TunnelKey([1; 32]),
                region: None,
                version: "0.1.0".to_owned(),
                feature_level: feature::NEWEST,
            },
        })))?;
        log.catalog(CatalogChange::OrgCreated { id: "bench".parse()?, name: "Bench".to_owned() })?;
        Ok(log)
    }

    fn apply(&mut self, body: Body) -> Result<Option<Object>> {
        self.index += 1;
        let cause = Cause::new(Actor::Operator("bench".to_owned()), "as asked");
        let at = Timestamp(self.index * 10);
        let command = Command { request: None, at, cause, fence: Fence::None, body };
        match self.state.apply(self.index, &command) {
            Outcome::Done(made) => Ok(made),
            Outcome::Refused(refusal) => bail!("{refusal}"),
        }
    }

    fn catalog(&mut self, change: CatalogChange) -> Result<Option<Object>> {
        self.apply(Body::Catalog(Box::new(change)))
    }

    /// Many objects of several kinds, and what happens to each.
    fn fill(&mut self) -> Result<()> {
        let domain = self.catalog(CatalogChange::DomainCreated {
            id: None,
            org: "bench".parse()?,
            name: "bench.test".parse()?,
        })?;
        let Some(Object::Domain(domain)) = domain else { bail!("no domain") };
        for number in 0..OBJECTS {
            let site = self.catalog(CatalogChange::SiteCreated {
                id: None,
                org: "bench".parse()?,
                nice_id: Some(format!("site-{number}").parse()?),
                name: format!("Site {number}"),
                connector_id: format!("{number:015}"),
                connector_secret: Digest([1; 32]),
            })?;
            let Some(Object::Site(site)) = site else { bail!("no site") };
            self.publish(number, site, domain)?;
            self.catalog(CatalogChange::OrgCreated {
                id: format!("org-{number}").parse()?,
                name: "Another".to_owned(),
            })?;
            self.apply(Body::SitePlaced { site, home: NodeId(1), standbys: vec![] })?;
        }
        Ok(())
    }

    fn publish(&mut self, number: u64, site: SiteId, domain: pangolin_core::DomainId) -> Result<()> {
        let made = self.catalog(CatalogChange::ResourceCreated {
            id: None,
            org: "bench".parse()?,
            nice_id: None,
            name: format!("R{number}"),
            domain,
            host: format!("r{number}.bench.test").parse()?,
        })?;
        let Some(Object::Resource(resource)) = made else { bail!("no resource") };
        self.catalog(CatalogChange::TargetCreated {
            id: None,
            resource,
            site,
            method: Method::Http,
            host: "10.0.0.1".to_owned(),
            port: 8080,
            health_check: None,
        })?;
        Ok(())
    }

    /// A node that goes up and down: each time a decision.
    fn verdicts(&mut self, count: u64) -> Result<Duration> {
        let began = Instant::now();
        for number in 0..count {
            let verdict = if number % 2 == 0 { Verdict::Down } else { Verdict::Up };
            self.apply(Body::NodeVerdict { node: NodeId(1), verdict })?;
        }
        Ok(began.elapsed())
    }
}
