//! A cluster, its resolver, an authority and the front before it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pangolin_chaos::{
    cluster::{Cluster, Options},
    https::Https,
    process::Output,
};
use pangolin_core::issuance::StandingKind;
use pangolin_wire::{Certificate, CertificateList};
use tokio::time::sleep;

use crate::{
    front::Front,
    hosts,
    pebble::{Behaviour, EXTERNAL, Pebble},
    resolver::Resolver,
};

/// How long an order may take: Debian's Pebble refuses some nonces, and the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) cluster: Cluster,
    pub(crate) pebble: Pebble,
    pub(crate) front: Front,
    pub(crate) resolver: Arc<Resolver>,
}

/// Says why there is nothing to test here; none if Pebble is there.
pub(crate) fn skipped() -> bool {
    let missing = crate::pebble::program().is_none();
    if missing {
        println!("skipped: pebble is not installed (Debian: apt-get install pebble)");
    }
    missing
}

impl Lab {
    pub(crate) async fn start(nodes: u8, behaviour: Behaviour) -> Self {
        let cluster = Cluster::start(Options::of_nodes(nodes).expect("options")).await.expect("a cluster");
        let servers = cluster.nodes.iter().map(|node| node.dns()).collect();
        let (dns, resolver) = Resolver::start(servers).await;
        let pebble = Pebble::start(dns, behaviour);
        let front = Front::start(&pebble);
        std::fs::write(cluster.dir().join("roots.pem"), &pebble.identity.certificate_pem).expect("written");
        Self { cluster, pebble, front, resolver }
    }

    /// What `pangolinctl` says on some node that runs.
    pub(crate) fn ctl(&self, words: &[&str]) -> Output {
        let at = self.cluster.nodes.iter().position(pangolin_chaos::cluster::Node::runs).expect("a node");
        hosts::pangolinctl(&self.cluster, at, words)
    }

    pub(crate) fn ctl_ok(&self, words: &[&str]) -> String {
        let said = self.ctl(words);
        assert!(said.success, "{words:?}: {said:?}");
        said.stdout
    }

    /// Gets certificates from the authority from now on.
    pub(crate) fn use_pebble(&self) {
        self.set_pebble(&[]);
    }

    /// Goes on with another account at the authority.
    pub(crate) fn use_account(&self, name: &str) {
        self.set_pebble(&["--account", name]);
    }

    fn set_pebble(&self, more: &[&str]) {
        let roots = self.cluster.dir().join("roots.pem");
        let roots = roots.to_str().expect("text");
        let mut words = vec!["cert", "issuer", "set", "pebble", "--directory", &self.front.directory];
        words.extend(["--roots", roots, "--contact", "ops@demo.test"]);
        words.extend(more);
        self.ctl_ok(&words);
    }

    /// Adds an issuer behind those that there are; `more` is what is said of it besides.
    pub(crate) fn add_issuer(&self, name: &str, front: &Front, more: &[&str]) {
        let roots = self.cluster.dir().join("roots.pem");
        let roots = roots.to_str().expect("text");
        let words = ["cert", "issuer", "set", name, "--directory", &front.directory, "--roots", roots];
        self.ctl_ok(&[&words[..], more].concat());
    }

    /// Binds the account to the one that the authority gave.
    pub(crate) fn use_external(&self) {
        let (roots, key) = (self.cluster.dir().join("roots.pem"), self.cluster.dir().join("external"));
        std::fs::write(&key, EXTERNAL.1).expect("written");
        let (roots, key) = (roots.to_str().expect("text"), key.to_str().expect("text"));
        let words =
            ["cert", "issuer", "set", "pebble", "--directory", &self.front.directory, "--roots", roots];
        let more = ["--external-account", EXTERNAL.0, "--external-key-file", key];
        self.ctl_ok(&[&words[..], &more].concat());
    }

    pub(crate) async fn certificates(&self) -> Vec<Certificate> {
        let Ok(node) = self.cluster.any_node() else { return Vec::new() };
        let list = node.client().get::<CertificateList>("/certificates").await;
        list.map(|list| list.certificates).unwrap_or_default()
    }

    /// The certificate for the cluster's zone.
    pub(crate) async fn of_zone(&self) -> Option<Certificate> {
        let zone = self.cluster.options.zone.clone();
        let all = self.certificates().await;
        all.into_iter().find(|certificate| certificate.names.iter().any(|name| name.as_str() == zone))
    }

    /// Waits until the certificate for the zone is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Certificate) -> bool) -> Certificate {
        self.within(PATIENCE, what, wanted).await
    }

    /// The same, with another patience.
    pub(crate) async fn within(
        &self,
        patience: Duration,
        what: &str,
        wanted: impl Fn(&Certificate) -> bool,
    ) -> Certificate {
        let end = Instant::now() + patience;
        loop {
            let found = self.of_zone().await;
            if let Some(certificate) = found.as_ref().filter(|certificate| wanted(certificate)) {
                return certificate.clone();
            }
            if Instant::now() >= end {
                let why = self.ctl(&["cert", "why", &self.cluster.options.zone]).stdout;
                let log = std::fs::read_to_string(self.cluster.nodes[0].log()).unwrap_or_default();
                let log: Vec<&str> = log.lines().rev().take(20).collect();
                panic!("{what}: {found:#?}\n{why}\n{}\n{}", self.pebble.tail(), log.join("\n"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the authority's certificate of this generation, or a later one, is in force and all is well.
    pub(crate) async fn issued(&self, generation: u64) -> Certificate {
        self.until(&format!("generation {generation}"), |certificate| {
            certificate.issuer.as_deref() == Some("pebble")
                && certificate.generation >= Some(generation)
                && certificate.state == StandingKind::Valid
                && certificate.order.is_none()
        })
        .await
    }

    /// Waits until a certificate that this issuer has made is in force, and all is well.
    pub(crate) async fn issued_by(&self, issuer: &str, generation: u64, patience: Duration) -> Certificate {
        self.within(patience, &format!("generation {generation} by {issuer}"), |certificate| {
            certificate.issuer.as_deref() == Some(issuer)
                && certificate.generation >= Some(generation)
                && certificate.state == StandingKind::Valid
                && certificate.order.is_none()
        })
        .await
    }

    /// The authority's root, PEM.
    pub(crate) async fn root(&self) -> String {
        let identity = Https::trusting(&self.pebble.identity.certificate_pem).expect("a client");
        let answer =
            identity.get(self.pebble.management, "localhost", "/roots/0", PATIENCE).await.expect("a root");
        String::from_utf8(answer.body.to_vec()).expect("PEM")
    }

    /// Asks every node that runs for a name, as a visitor who trusts the authority.
    pub(crate) async fn served_everywhere(&self, host: &str) {
        let visitor = Https::trusting(&self.root().await).expect("a client");
        for node in self.cluster.nodes.iter().filter(|node| node.runs()) {
            let end = Instant::now() + PATIENCE;
            while let Err(error) = visitor.get(node.https(), host, "/", Duration::from_secs(5)).await {
                assert!(Instant::now() < end, "{} does not show it: {error:#}", node.name);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
