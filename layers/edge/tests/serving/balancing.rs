//! Which target gets a request: weights, backups, stickiness, and targets that fail.

use std::collections::{BTreeMap, BTreeSet};

use pangolin_core::{
    SiteId, TargetId,
    observation::TargetHealth,
    record::Method,
    traffic::{Balancing, Share},
};
use pangolin_edge::{Standing, Via};

use crate::lab::{Client, Lab, Speaks, Target, name, soon, until};

const HOST: &str = "app.test.example";

fn lab(balancing: Balancing, shares: &[(u64, u16, u8)], targets: &[&Target]) -> Lab {
    let mut lab = Lab::start();
    let ways: Vec<_> = targets.iter().map(|target| [(Via::Local, target.address)]).collect();
    let ways: Vec<_> = ways.iter().map(|way| &way[..]).collect();
    lab.publish(HOST, Method::Http, 1, &ways);
    let route = lab.plan.routes.get_mut(&name(HOST)).expect("published");
    route.balancing = balancing;
    let share = |(id, weight, priority): &(u64, u16, u8)| {
        (TargetId(*id), Share { weight: *weight, priority: *priority })
    };
    route.shares = shares.iter().map(share).collect();
    lab.apply();
    lab
}

/// Who answers, request by request, on one connection.
async fn answers(lab: &Lab, count: usize) -> Vec<String> {
    let mut client = lab.http1(HOST).await;
    let mut names = Vec::new();
    for _ in 0..count {
        let answer = client.get("/").await;
        assert_eq!(answer.status, 200);
        names.push(answer.text().split('\n').next().unwrap_or_default().to_owned());
    }
    names
}

#[tokio::test]
async fn requests_are_shared_by_weight() {
    let (one, two) = (Target::start("one", Speaks::Http1).await, Target::start("two", Speaks::Http1).await);
    let lab = lab(Balancing::RoundRobin, &[(1, 3, 0)], &[&one, &two]);
    let names = answers(&lab, 40).await;
    assert_eq!(names.iter().filter(|name| *name == "one").count(), 30, "{names:?}");
}

#[tokio::test]
async fn the_target_with_the_fewest_requests_under_way_gets_the_next_one() {
    let targets = [Target::start("one", Speaks::Http1).await, Target::start("two", Speaks::Http1).await];
    let lab = lab(Balancing::LeastConnections, &[], &[&targets[0], &targets[1]]);
    let running = || [1, 2].map(|id| lab.edge.target_state(TargetId(id)).expect("known").running);
    let hang = |mut client: Client| tokio::spawn(async move { client.get("/wait").await.text().to_owned() });
    let first = hang(lab.http1(HOST).await);
    until("a request hangs", || running().iter().sum::<usize>() == 1).await;
    let (busy, free) = if running()[0] == 1 { (0, 1) } else { (1, 0) };
    let name = |index: usize| ["one", "two"][index];
    let names = answers(&lab, 6).await;
    assert!(names.iter().all(|answered| answered == name(free)), "one hangs at {}: {names:?}", name(busy));
    // One under way at each: both are as good.
    let second = hang(lab.http1(HOST).await);
    until("another one hangs at the other target", || running() == [1, 1]).await;
    let seen: BTreeSet<String> = answers(&lab, 6).await.into_iter().collect();
    assert_eq!(seen.len(), 2, "equals take turns");
    targets[busy].go.notify_one();
    assert_eq!(soon(first).await.expect("answered"), name(busy));
    until("it is counted no more", || running()[busy] == 0).await;
    let names = answers(&lab, 6).await;
    assert!(names.iter().all(|answered| answered == name(busy)), "one hangs at {}: {names:?}", name(free));
    targets[free].go.notify_one();
    assert_eq!(soon(second).await.expect("answered"), name(free));
}

#[tokio::test]
async fn a_backup_serves_while_the_first_choice_is_unhealthy_or_its_site_is_away() {
    let (one, two) = (Target::start("one", Speaks::Http1).await, Target::start("two", Speaks::Http1).await);
    let lab = lab(Balancing::RoundRobin, &[(2, 1, 1)], &[&one, &two]);
    let only = |names: Vec<String>, name: &str| assert!(names.iter().all(|n| n == name), "{names:?}");
    only(answers(&lab, 4).await, "one");
    lab.edge.set_target_health(BTreeMap::from([(TargetId(1), TargetHealth::Unhealthy)]));
    only(answers(&lab, 4).await, "two");
    let both = [(TargetId(1), TargetHealth::Unhealthy), (TargetId(2), TargetHealth::Unhealthy)];
    lab.edge.set_target_health(BTreeMap::from(both));
    only(answers(&lab, 4).await, "one");
    lab.edge.set_target_health(BTreeMap::from([(TargetId(1), TargetHealth::Healthy)]));
    lab.edge.set_unreachable(BTreeSet::from([SiteId(1)]));
    assert_eq!(lab.edge.target_state(TargetId(1)).expect("known").standing, Standing::Unreachable);
    // Both lie behind that site: a wrong word about it takes nothing out of service.
    only(answers(&lab, 4).await, "one");
}

#[tokio::test]
async fn a_browser_comes_back_to_its_target_by_its_cookie_which_the_target_does_not_see() {
    let targets = [Target::start("one", Speaks::Http1).await, Target::start("two", Speaks::Http1).await];
    let lab = lab(Balancing::Cookie, &[], &[&targets[0], &targets[1]]);
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let first = lab.get(HOST, "/").await;
        let cookie = first.header("set-cookie").to_owned();
        assert!(cookie.starts_with("pangolin_route=") && cookie.contains("; HttpOnly"), "{cookie}");
        let pair = cookie.split(';').next().expect("a pair").to_owned();
        let name = first.text().split('\n').next().expect("a name").to_owned();
        for _ in 0..4 {
            let mut client = lab.http1(HOST).await;
            let mut request = client.request("GET", "/", crate::lab::empty());
            let value = format!("a=1; {pair}; b=2").parse().expect("a value");
            request.headers_mut().insert("cookie", value);
            let again = client.ask(request).await;
            assert!(again.text().starts_with(&name), "{name} is not {}", again.text());
            assert!(again.text().contains("\ncookie: a=1; b=2\n"), "{}", again.text());
            assert_eq!(again.header("set-cookie"), "");
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), 2, "both are used");
}

#[tokio::test]
async fn one_address_goes_to_one_target_and_elsewhere_when_that_is_gone() {
    let (one, two) = (Target::start("one", Speaks::Http1).await, Target::start("two", Speaks::Http1).await);
    let lab = lab(Balancing::Address, &[], &[&one, &two]);
    let mut names = answers(&lab, 5).await;
    names.extend(answers(&lab, 5).await);
    names.dedup();
    assert_eq!(names.len(), 1);
    let chosen = if names[0] == "one" { 1 } else { 2 };
    lab.edge.set_target_health(BTreeMap::from([(TargetId(chosen), TargetHealth::Unhealthy)]));
    assert_ne!(answers(&lab, 1).await, names);
}

#[tokio::test]
async fn a_target_that_refuses_is_ejected_and_no_request_is_lost() {
    let whole = Target::start("whole", Speaks::Http1).await;
    let gone = Target::start("gone", Speaks::Http1).await;
    let address = gone.address;
    drop(gone);
    let mut lab = lab(Balancing::RoundRobin, &[], &[&whole, &whole]);
    lab.dialer.set(2, &[(Via::Local, address)]);
    lab.apply();
    let names = answers(&lab, 12).await;
    assert!(names.iter().all(|name| name == "whole"), "{names:?}");
    let state = lab.edge.target_state(TargetId(2)).expect("known");
    assert_eq!(state.standing, Standing::Unhealthy, "{state:?}");
}
