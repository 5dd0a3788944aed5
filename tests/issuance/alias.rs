//! A name of somebody else's zone that leads here by CNAME: their name server is NSD, and everybody asks unbound.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use domain::base::Rtype;
use pangolin_chaos::{
    dns::{self, Kind},
    https::Https,
};
use pangolin_core::issuance::StandingKind;
use tokio::time::sleep;

use crate::{
    engine::{Engine, free_port, is_there},
    hosts,
    lab::{Lab, PATIENCE, skipped},
    pebble::Behaviour,
};

const NAME: &str = "app.customer.test";

/// The customer's name server, with these lines in the zone.
fn customer(port: u16, lines: &str) -> Engine {
    let zone = format!(
        "$ORIGIN customer.test.\n$TTL 60\n@ IN SOA ns hostmaster 1 3600 600 86400 60\n@ IN NS ns\n\
         ns IN A 127.0.0.1\n{lines}"
    );
    let part = "zone:\n  name: customer.test\n  zonefile: customer.zone\n";
    let mut nsd = Engine::nsd(port, part, &[("customer.zone", &zone)]);
    nsd.wait("customer.test", Rtype::SOA);
    nsd
}

/// A resolver that keeps nothing, and finds the customer's zone there and the cluster's at its nodes.
fn resolver(lab: &Lab, customer: SocketAddr) -> Engine {
    let stub = |zone: &str, servers: Vec<SocketAddr>| {
        let servers = servers.iter().map(|at| format!("  stub-addr: {}@{}\n", at.ip(), at.port()));
        format!("stub-zone:\n  name: \"{zone}\"\n{}", servers.collect::<String>())
    };
    let nodes = lab.cluster.nodes.iter().map(|node| node.dns()).collect();
    let lines = format!(
        "  domain-insecure: \"test\"\n  cache-max-ttl: 0\n  cache-max-negative-ttl: 0\n{}{}",
        stub("customer.test", vec![customer]),
        stub("demo.test", nodes)
    );
    Engine::unbound(customer, &lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_here_by_alias_is_proved_through_its_own_zone_and_served() {
    if skipped() || !is_there("nsd") || !is_there("unbound") {
        return;
    }
    let mut lab = Lab::start(3, Behaviour::exact()).await;
    let port = free_port();
    let nsd = customer(port, "");
    let mut unbound = resolver(&lab, nsd.address);
    unbound.wait("customer.test", Rtype::SOA);
    lab.pebble.ask(unbound.address);
    lab.ctl_ok(&["org", "create", "customer"]);
    lab.ctl_ok(&["domain", "create", NAME]);
    lab.ctl_ok(&["resource", "create", NAME]);

    // What is to be entered is what is printed.
    let parent = nsd.address.to_string();
    let check = ["dns", "check", NAME, "--server", &parent];
    let missing = hosts::pangolinctl(&lab.cluster, 0, &check);
    assert!(!missing.success, "{missing:?}");
    let printed: Vec<&str> =
        missing.stdout.lines().map(str::trim).filter(|line| line.contains(" IN CNAME ")).collect();
    assert_eq!(
        printed,
        [
            "app.customer.test. 3600 IN CNAME control.demo.test.",
            "_acme-challenge.app.customer.test. 3600 IN CNAME _acme-challenge.app.customer.test.demo.test.",
        ]
    );
    let lines = format!("{}\n", printed.join("\n"));
    drop(nsd);
    let nsd = customer(port, &lines);
    let checked = lab.ctl_ok(&check);
    assert!(checked.contains("is an alias of control.demo.test, which leads here"), "{checked}");

    lab.use_pebble();
    let end = Instant::now() + PATIENCE;
    let certificate = loop {
        let all = lab.certificates().await;
        let issued = all.into_iter().find(|certificate| {
            certificate.names.iter().any(|name| name.as_str() == NAME)
                && certificate.issuer.as_deref() == Some("pebble")
                && certificate.state == StandingKind::Valid
        });
        if let Some(certificate) = issued {
            break certificate;
        }
        let why = lab.ctl(&["cert", "why", NAME]).stdout;
        assert!(Instant::now() < end, "{why}\n{}\n{}", lab.pebble.tail(), unbound.log());
        sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(certificate.surplus_orders, 0);

    // As a visitor comes: by what the customer's zone says, and trusting the authority alone.
    let found = dns::resolve(unbound.address, NAME, Kind::A).await.expect("an answer");
    let mut addresses = found.addresses;
    addresses.sort_unstable();
    let mut nodes: Vec<_> = lab.cluster.nodes.iter().map(|node| node.address).collect();
    nodes.sort_unstable();
    assert_eq!(addresses, nodes);
    lab.served_everywhere(NAME).await;
    let visitor = Https::trusting(&lab.root().await).expect("a client");
    let stranger = "other.customer.test";
    let refused = visitor.get(lab.cluster.nodes[0].https(), stranger, "/", Duration::from_secs(5)).await;
    assert!(refused.is_err(), "a name that nobody has published");
    drop(nsd);
}
