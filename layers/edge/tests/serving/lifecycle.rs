//! Starting, changing under traffic, stopping.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use pangolin_core::record::Method;
use pangolin_edge::{BoundEdge, EdgeConfig, EdgeError, Limits, Via};
use tokio::net::TcpStream;

use crate::lab::{CONTROL, Lab, Speaks, Target, empty, soon, until};

const HOST: &str = "app.test.example";

fn config(address: SocketAddr) -> EdgeConfig {
    EdgeConfig { https: vec![address], http: Vec::new(), limits: Limits::default(), node_name: "n1".into() }
}

#[test]
fn an_address_that_cannot_be_had_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = taken.local_addr().expect("an address");
    let error = BoundEdge::bind(config(address)).expect_err("the address is in use");
    assert!(matches!(error, EdgeError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()));
    let foreign = "192.0.2.1:443".parse().expect("an address");
    assert!(matches!(BoundEdge::bind(config(foreign)), Err(EdgeError::NoSuchAddress { .. })));
    let mut bad = config(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    bad.node_name = "<script>".into();
    assert!(matches!(BoundEdge::bind(bad), Err(EdgeError::NodeName { .. })));
}

#[tokio::test]
async fn before_it_serves_an_edge_refuses_clients() {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bound = BoundEdge::bind(config(any)).expect("an edge");
    let address = bound.local_addrs().https[0];
    let refused = TcpStream::connect(address).await.expect_err("nobody is let in");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn new_plans_under_traffic_drop_nothing() {
    let (one, two) = (Target::start("a", Speaks::Http1).await, Target::start("b", Speaks::Http1).await);
    let mut lab = Lab::start();
    lab.publish(HOST, Method::Http, 1, &[&[(Via::Local, one.address)]]);
    let stop = Arc::new(AtomicBool::new(false));
    let mut asking = tokio::task::JoinSet::new();
    for mut client in [lab.http1(HOST).await, lab.http1(HOST).await, lab.http2(HOST).await] {
        let stop = Arc::clone(&stop);
        asking.spawn(async move {
            let mut answers = 0;
            while !stop.load(Relaxed) {
                assert_eq!(client.get("/").await.status, 200);
                answers += 1;
            }
            answers
        });
    }
    for round in 0..40_u64 {
        lab.certificate(1, round + 2, &["*.test.example"]);
        // The targets change every other time.
        let base = if round % 2 == 0 { 1 } else { 3 };
        lab.dialer.set(base, &[(Via::Local, one.address)]);
        lab.dialer.set(base + 1, &[(Via::Local, two.address)]);
        lab.publish(HOST, Method::Http, base, &[&[(Via::Local, one.address)], &[(Via::Local, two.address)]]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Relaxed);
    while let Some(answers) = soon(asking.join_next()).await {
        assert!(answers.expect("no failed request") > 0);
    }
    assert!(two.hits() > 0);
}

#[tokio::test]
async fn an_older_plan_is_ignored() {
    let mut lab = Lab::start();
    lab.revision = 10;
    lab.apply();
    let now = lab.edge.revision();
    let routes = std::mem::take(&mut lab.plan.certificates);
    lab.apply_at(5);
    assert_eq!(lab.edge.revision(), now);
    assert_eq!(lab.get(CONTROL, "/").await.status, 200);
    lab.plan.certificates = routes;
}

#[tokio::test]
async fn requests_end_when_the_edge_stops_and_new_ones_do_not_come() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::start();
    lab.publish_local(HOST, Method::Http, 1, &target);
    let mut asking = Vec::new();
    for mut client in [lab.http1(HOST).await, lab.http2(HOST).await] {
        let request = client.request("GET", "/wait", empty());
        asking.push(tokio::spawn(async move { client.ask(request).await }));
    }
    let _idle = lab.http1(CONTROL).await;
    until("both are on their way", || target.hits() == 2).await;
    lab.shutdown.cancel();
    until("the socket is closed", || std::net::TcpStream::connect(lab.https).is_err()).await;
    target.go.notify_waiters();
    for asking in asking {
        assert_eq!(asking.await.expect("an answer").text(), "t1");
    }
    soon(&mut lab.task).await.expect("no panic").expect("no error");
    assert!(TcpStream::connect(lab.http).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_within_the_grace_is_closed() {
    let target = Target::start("t1", Speaks::Http1).await;
    let mut lab = Lab::with(Limits { shutdown_grace: Duration::from_millis(100), ..Limits::default() });
    lab.publish_local(HOST, Method::Http, 1, &target);
    let mut client = lab.http1(HOST).await;
    let request = client.request("GET", "/wait", empty());
    let asking = tokio::spawn(async move { client.try_ask(request).await });
    until("it is on its way", || target.hits() == 1).await;
    lab.shutdown.cancel();
    assert!(asking.await.expect("no panic").is_err());
    soon(&mut lab.task).await.expect("no panic").expect("no error");
    assert_eq!(lab.edge.counters().active_connections, 0);
}
