//! What is said on one socket, as tables of what happens and what follows.

use std::net::Ipv4Addr;

use pangolin_core::{
    SiteId,
    plan::TunnelTarget,
    record::{HealthCheck, Method},
};

use super::*;
use crate::control::messages::{Distances, PingResult, Register, TargetStatus, encode, key_text};

const KEY: TunnelKey = TunnelKey([1; 32]);
const NEW_KEY: TunnelKey = TunnelKey([2; 32]);

/// A site and the nodes, as a session sees them.
struct World {
    site: Option<SiteTunnel>,
    nodes: BTreeMap<NodeId, TunnelNode>,
    carried: bool,
    /// Where the tunnel should end, if not at home.
    end: Option<NodeId>,
}

fn node(number: u8) -> TunnelNode {
    TunnelNode {
        name: format!("n{number}"),
        endpoint: format!("192.0.2.{number}:51820"),
        key: TunnelKey([100 + number; 32]),
        address: Ipv4Addr::new(100, 89, 0, number),
        control: format!("192.0.2.{number}:443"),
        region: None,
    }
}

fn target(id: u64, port: u16, host: &str) -> TunnelTarget {
    let health_check =
        HealthCheck { path: Some("/health".into()), interval: 10, timeout: 3, unhealthy_threshold: 2 };
    TunnelTarget {
        id: TargetId(id),
        method: Method::Http,
        tunnel_port: port,
        host: host.into(),
        port: 8080,
        health_check: Some(health_check),
    }
}

/// Nodes 1 to 3, home is 1; one target; version 5; a Newt with [`KEY`] is registered.
fn world() -> World {
    let site = SiteTunnel {
        site: SiteId(4),
        address: Ipv4Addr::new(100, 89, 4, 17),
        key: Some(KEY),
        multi_homed: false,
        offers: vec![NodeId(1), NodeId(2), NodeId(3)],
        epoch: Epoch(1),
        config_version: 5,
        targets: vec![target(7, 40_001, "10.0.0.5")],
    };
    let nodes = (1..=3).map(|number| (NodeId(u64::from(number)), node(number))).collect();
    World { site: Some(site), nodes, carried: true, end: None }
}

impl World {
    fn site(&mut self) -> &mut SiteTunnel {
        self.site.as_mut().unwrap()
    }

    fn on(&self, session: &mut Session, event: Event) -> Vec<Action> {
        let view = View {
            site: self.site.as_ref(),
            nodes: &self.nodes,
            home: self.site.as_ref().and_then(|site| site.offers.first().copied()),
            end: self.end.or(self.site.as_ref().and_then(|site| site.offers.first().copied())),
            usable: self.site.as_ref().map_or(&[][..], |site| &site.offers),
            carried: self.carried,
            now: Timestamp(1_795_222_800_000),
        };
        session.on(&view, event)
    }

    /// What follows, in short: types of messages with versions, and what else is to be done.
    fn short(&self, session: &mut Session, event: Event) -> Vec<String> {
        // Where the tunnel ends is told in tests of its own.
        let told = self.on(session, event);
        told.iter().filter(|action| !matches!(action, Action::Attachment(_))).map(brief).collect()
    }
}

fn brief(action: &Action) -> String {
    match action {
        Action::Send(FromNode::Connect(connect), version) => {
            format!("connect {} chain={:?} v{version}", connect.endpoint, connect.chain_id)
        }
        Action::Send(FromNode::TcpAdd(list), version) => format!("tcp/add {:?} v{version}", list.targets),
        Action::Send(FromNode::TcpRemove(list), version) => {
            format!("tcp/remove {:?} v{version}", list.targets)
        }
        Action::Send(FromNode::UdpAdd(list), version) => format!("udp/add {:?} v{version}", list.targets),
        Action::Send(FromNode::HealthAdd(list), version) => {
            let ids: Vec<u64> = list.targets.iter().map(|check| check.id).collect();
            format!("healthcheck/add {ids:?} v{version}")
        }
        Action::Send(FromNode::HealthRemove(list), version) => {
            format!("healthcheck/remove {:?} v{version}", list.ids)
        }
        Action::Send(FromNode::Nodes(list), version) => {
            let ids: Vec<u64> = list.nodes.iter().map(|node| node.node_id).collect();
            format!("nodes {ids:?} v{version}")
        }
        Action::Send(message, version) => {
            let text = encode(message, 0);
            let kind = text.split('"').nth(3).unwrap().rsplit('/').next().unwrap();
            format!("{kind} v{version}")
        }
        Action::Commit { key, version, multi_homed } => {
            format!("commit {} {version:?} multi={multi_homed}", key.0[0])
        }
        Action::Health(health) => format!("health {health:?}"),
        Action::Attachment(Attachment { end, distances }) => format!("attached {end:?} {distances:?}"),
        Action::Leave => "leave".into(),
        Action::Close(reason) => format!("close: {reason}"),
    }
}

fn says(message: FromConnector) -> Event {
    Event::Received(message, 0)
}

fn ping(version: u64) -> Event {
    Event::Received(FromConnector::Ping(Nothing {}), version)
}

fn nodes_wanted() -> Event {
    says(FromConnector::NodesWanted(NodesWanted { chain_id: "c0".into() }))
}

fn registers(key: TunnelKey, chain: &str) -> Register {
    Register {
        public_key: key_text(key),
        newt_version: "1.13.0".into(),
        chain_id: chain.into(),
        ..Register::default()
    }
}

fn full(key: TunnelKey, chain: &str) -> Event {
    says(FromConnector::Register(registers(key, chain)))
}

fn compat(key: TunnelKey, chain: &str) -> Event {
    says(FromConnector::Register(Register { backwards_compatible: true, ..registers(key, chain) }))
}

fn multi(key: TunnelKey, chain: &str) -> Event {
    says(FromConnector::Register(Register { multi_homed: true, ..registers(key, chain) }))
}

#[test]
fn several_nodes_are_offered_where_they_lie_in_several_regions() {
    let mut world = world();
    let region = |world: &mut World, id, region: &str| {
        world.nodes.get_mut(&NodeId(id)).unwrap().region = Some(region.parse().unwrap());
    };
    region(&mut world, 1, "eu");
    region(&mut world, 2, "eu");
    region(&mut world, 3, "us");
    world.end = Some(NodeId(2));
    let actions = world.on(&mut Session::default(), nodes_wanted());
    let [Action::Send(FromNode::ExitNodes(nodes), 5)] = actions.as_slice() else { panic!("{actions:?}") };
    let ids: Vec<u64> = nodes.exit_nodes.iter().map(|node| node.exit_node_id).collect();
    assert_eq!(ids, [2, 1, 3], "the one where it should end comes first");
    for id in 1..=3 {
        region(&mut world, id, "eu");
    }
    let actions = world.on(&mut Session::default(), nodes_wanted());
    let [Action::Send(FromNode::ExitNodes(nodes), 5)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(nodes.exit_nodes.len(), 1);
}

#[test]
fn what_a_connector_has_measured_is_told_and_where_its_tunnel_ends() {
    type Results = &'static [(u64, f64, Option<&'static str>)];
    type Case = (&'static str, Results, &'static [(u64, u32)]);
    let cases: [Case; 6] = [
        ("nothing measured", &[], &[]),
        ("no choice, no measurement", &[(1, 0.0, None)], &[]),
        ("two nodes", &[(1, 11.0, None), (2, 80.4, None)], &[(1, 11), (2, 80)]),
        ("one is not reached", &[(1, 11.0, None), (2, 0.0, Some("timeout"))], &[(1, 11)]),
        ("no such node, no such time", &[(9, 1.0, None), (2, -5.0, None), (3, f64::NAN, None)], &[]),
        ("an empty error is none", &[(1, 3.0, Some("")), (2, 4.0, None)], &[(1, 3), (2, 4)]),
    ];
    for (what, results, expected) in cases {
        let world = world();
        let result = |(id, latency_ms, error): &(u64, f64, Option<&str>)| PingResult {
            exit_node_id: *id,
            latency_ms: *latency_ms,
            error: error.map(str::to_owned),
        };
        let ping_results = Some(results.iter().map(result).collect());
        let register = Register { ping_results, ..registers(KEY, "c1") };
        let actions = world.on(&mut Session::default(), says(FromConnector::Register(register)));
        let distances = expected.iter().map(|(id, ms)| (NodeId(*id), *ms)).collect();
        let attachment = Attachment { end: Some(NodeId(1)), distances };
        assert_eq!(actions.last(), Some(&Action::Attachment(attachment)), "{what}");
    }
}

#[test]
fn a_connector_of_several_tunnels_tells_how_far_they_go_and_again_when_that_changes() {
    let (mut world, mut session) = (world(), Session::default());
    world.site().multi_homed = true;
    let results = |pairs: &[(u64, f64)]| -> Vec<PingResult> {
        let result = |(id, ms): &(u64, f64)| PingResult { exit_node_id: *id, latency_ms: *ms, error: None };
        pairs.iter().map(result).collect()
    };
    let told = |ping_results| says(FromConnector::Distances(Distances { ping_results }));
    let register = |ping_results| {
        let ping_results = Some(ping_results);
        says(FromConnector::Register(Register { multi_homed: true, ping_results, ..registers(KEY, "c1") }))
    };
    let cases = [
        ("with its registration", register(results(&[(1, 11.0)])), Some(vec![(1, 11)])),
        ("the same again", told(results(&[(1, 11.2)])), None),
        ("one more", told(results(&[(1, 11.0), (2, 79.6)])), Some(vec![(1, 11), (2, 80)])),
        ("nonsense", told(results(&[(9, 1.0), (1, f64::INFINITY)])), None),
        ("nothing", told(Vec::new()), None),
        ("after a reconnect, without any", register(Vec::new()), None),
    ];
    for (what, event, expected) in cases {
        let actions = world.on(&mut session, event);
        let told = actions.iter().find_map(|action| match action {
            Action::Attachment(Attachment { end: None, distances }) => Some(distances.clone()),
            _ => None,
        });
        let expected = expected.map(|pairs| pairs.into_iter().map(|(id, ms)| (NodeId(id), ms)).collect());
        assert_eq!(told, expected, "{what}");
    }
}

#[test]
fn a_moved_tunnel_is_told_to_end_elsewhere_and_those_of_several_nodes_end_nowhere() {
    let (world, mut session) = (world(), Session::default());
    world.on(&mut session, full(KEY, "c1"));
    let actions = world.on(&mut session, Event::Moved(NodeId(2)));
    let attachment = Attachment { end: Some(NodeId(2)), ..Attachment::default() };
    assert_eq!(actions.last(), Some(&Action::Attachment(attachment)));
    let actions = world.on(&mut Session::default(), multi(KEY, "c1"));
    assert!(!actions.iter().any(|action| matches!(action, Action::Attachment(_))), "{actions:?}");
}

#[test]
fn a_blueprint_is_refused_with_what_to_do_instead() {
    let (world, mut session) = (world(), Session::default());
    let actions =
        world.on(&mut session, says(FromConnector::Blueprint(serde_json::json!({"blueprint": "{}"}))));
    let [Action::Send(FromNode::BlueprintResult(result), 5)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert!(!result.success && result.message.contains("pangolinctl"), "{result:?}");
}

const CONNECT_1: &str = r#"connect 192.0.2.1:51820 chain="" v6"#;

#[test]
fn a_newt_that_starts_is_given_its_home_and_its_tunnel() {
    let (mut world, mut session) = (world(), Session::default());
    world.site().key = None;
    assert_eq!(world.short(&mut session, ping(0)), ["pong v5"]);
    assert_eq!(world.short(&mut session, nodes_wanted()), ["exitNodes v5"]);
    assert_eq!(
        world.short(&mut session, compat(NEW_KEY, "c1")),
        [r#"commit 2 "1.13.0" multi=false"#],
        "its key is on its way to the nodes before it asks for the tunnel"
    );
    assert!(world.short(&mut session, full(NEW_KEY, "c2")).is_empty(), "the same commit serves both");
    world.site().key = Some(NEW_KEY);
    assert!(world.short(&mut session, Event::Planned).is_empty());
    assert_eq!(
        world.short(&mut session, Event::Committed(Ok(()))),
        [r#"connect 192.0.2.1:51820 chain="c2" v5"#],
        "the last chain is the one that Newt waits for"
    );
}

#[test]
fn a_key_that_is_being_committed_is_answered_once_when_every_node_has_it() {
    let (mut world, mut session) = (world(), Session::default());
    world.site().key = None;
    world.on(&mut session, nodes_wanted());
    assert_eq!(world.short(&mut session, compat(NEW_KEY, "c1")), [r#"commit 2 "1.13.0" multi=false"#]);
    // It is applied here, and has to settle on the others.
    world.site().key = Some(NEW_KEY);
    assert!(world.short(&mut session, full(NEW_KEY, "c2")).is_empty());
    assert_eq!(
        world.short(&mut session, Event::Committed(Ok(()))),
        [r#"connect 192.0.2.1:51820 chain="c2" v5"#]
    );
}

#[test]
fn one_node_is_offered_so_that_newt_does_not_measure_distances() {
    let (world, mut session) = (world(), Session::default());
    let actions = world.on(&mut session, nodes_wanted());
    let [Action::Send(FromNode::ExitNodes(nodes), 5)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(nodes.chain_id, "c0");
    assert_eq!(nodes.exit_nodes.len(), 1);
    assert_eq!((nodes.exit_nodes[0].exit_node_id, nodes.exit_nodes[0].endpoint.as_str()), (1, "192.0.2.1"));
}

#[test]
fn the_connect_has_all_that_the_tunnel_carries() {
    let (world, mut session) = (world(), Session::default());
    let actions = world.on(&mut session, full(KEY, "c1"));
    let Some(Action::Send(FromNode::Connect(connect), 5)) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(connect.public_key, key_text(node(1).key));
    assert_eq!((connect.server_ip.as_str(), connect.tunnel_ip.as_str()), ("100.89.0.1", "100.89.4.17"));
    assert_eq!(connect.targets.tcp, ["40001:10.0.0.5:8080"]);
    assert_eq!(connect.health_check_targets[0].id, 7);
    assert_eq!(connect.health_check_targets[0].hc_path, "/health");
    assert_eq!((connect.node_id, connect.control.as_str()), (1, "192.0.2.1:443"));
    assert_eq!(connect.nodes, None);
}

#[test]
fn a_registration_that_changes_nothing_is_answered_before_it_is_committed() {
    let (world, mut session) = (world(), Session::default());
    let connect = r#"connect 192.0.2.1:51820 chain="c1" v5"#;
    let commit = r#"commit 1 "1.13.0" multi=false"#;
    assert_eq!(world.short(&mut session, full(KEY, "c1")), [connect, commit]);
    let again = r#"connect 192.0.2.1:51820 chain="c2" v5"#;
    assert_eq!(world.short(&mut session, full(KEY, "c2")), [again], "repeats are answered, not committed");
    assert!(world.short(&mut session, Event::Committed(Err("no quorum".into()))).is_empty());
}

#[test]
fn a_newt_that_comes_back_is_left_alone_while_its_home_carries_it() {
    struct Case {
        what: &'static str,
        carried: bool,
        asked: bool,
        expected: &'static [&'static str],
    }
    const COMMIT: &str = r#"commit 1 "1.13.0" multi=false"#;
    const CONNECT: &str = r#"connect 192.0.2.1:51820 chain="c1" v5"#;
    let cases = [
        Case { what: "its tunnel is alive", carried: true, asked: false, expected: &[COMMIT] },
        Case { what: "its tunnel is dead", carried: false, asked: false, expected: &[CONNECT, COMMIT] },
        Case { what: "it has asked for nodes", carried: false, asked: true, expected: &[COMMIT] },
    ];
    for case in cases {
        let (mut world, mut session) = (world(), Session::default());
        world.carried = case.carried;
        if case.asked {
            world.on(&mut session, nodes_wanted());
        }
        assert_eq!(world.short(&mut session, compat(KEY, "c1")), case.expected, "{}", case.what);
        assert!(world.short(&mut session, Event::Committed(Ok(()))).is_empty(), "{}", case.what);
    }
}

#[test]
fn a_key_that_is_new_here_is_committed_and_its_tunnel_rebuilt() {
    let (world, mut session) = (world(), Session::default());
    assert_eq!(world.short(&mut session, compat(NEW_KEY, "c1")), [r#"commit 2 "1.13.0" multi=false"#]);
    assert_eq!(
        world.short(&mut session, Event::Committed(Ok(()))),
        [r#"connect 192.0.2.1:51820 chain="c1" v5"#]
    );
}

#[test]
fn a_refused_registration_is_told_to_those_who_understand_it() {
    let (world, mut session) = (world(), Session::default());
    world.on(&mut session, full(NEW_KEY, "c1"));
    assert!(world.short(&mut session, Event::Committed(Err("no quorum".into()))).is_empty());
    let mut session = Session::default();
    world.on(&mut session, multi(NEW_KEY, "c1"));
    assert_eq!(world.short(&mut session, Event::Committed(Err("no quorum".into()))), ["refused v5"]);
}

#[test]
fn a_newt_that_has_stopped_asking_gets_its_tunnel_when_there_is_one() {
    const COMMIT: &str = r#"commit 2 "1.13.0" multi=false"#;
    const CONNECT: &str = r#"connect 192.0.2.1:51820 chain="" v5"#;
    struct Case {
        what: &'static str,
        begin: fn(&mut World, &mut Session),
        /// What happens then, and what follows.
        steps: Vec<(Event, &'static [&'static str])>,
    }
    let refused = || Event::Committed(Err("no quorum".into()));
    let fails = |world: &mut World, session: &mut Session| {
        world.on(session, full(NEW_KEY, "c1"));
        world.on(session, Event::Committed(Err("no quorum".into())));
    };
    let cases = [
        Case {
            what: "nothing could be committed, for long",
            begin: fails,
            steps: vec![
                (Event::Looked, &[]),
                (Event::Looked, &[COMMIT]),
                (Event::Looked, &[]),
                (refused(), &[]),
                (Event::Looked, &[]),
                (Event::Looked, &[]),
                (Event::Looked, &[COMMIT]),
                (Event::Committed(Ok(())), &[CONNECT]),
                (Event::Looked, &[]),
                (Event::Looked, &[]),
                (Event::Looked, &[]),
                (Event::Looked, &[]),
            ],
        },
        Case {
            what: "it goes on asking",
            begin: fails,
            steps: vec![
                (Event::Looked, &[]),
                (full(NEW_KEY, "c2"), &[COMMIT]),
                (refused(), &[]),
                (Event::Looked, &[]),
                (full(NEW_KEY, "c3"), &[COMMIT]),
                (Event::Committed(Ok(())), &[r#"connect 192.0.2.1:51820 chain="c3" v5"#]),
                (Event::Looked, &[]),
                (Event::Looked, &[]),
            ],
        },
        Case {
            what: "it asks again while the commit is repeated",
            begin: fails,
            steps: vec![
                (Event::Looked, &[]),
                (Event::Looked, &[COMMIT]),
                (full(NEW_KEY, "c2"), &[]),
                (Event::Committed(Ok(())), &[r#"connect 192.0.2.1:51820 chain="c2" v5"#]),
            ],
        },
        Case {
            what: "the commit has come about after all",
            begin: |world, session| {
                world.on(session, full(NEW_KEY, "c1"));
                world.on(session, Event::Committed(Err("it may have been".into())));
                world.site().key = Some(NEW_KEY);
            },
            steps: vec![(Event::Looked, &[]), (Event::Looked, &[CONNECT]), (Event::Looked, &[])],
        },
        Case {
            what: "no node was there when it asked for them",
            begin: |world, session| {
                let nodes = std::mem::take(&mut world.nodes);
                world.on(session, nodes_wanted());
                world.carried = false;
                world.on(session, compat(KEY, "c1"));
                world.on(session, Event::Committed(Ok(())));
                world.on(session, Event::Looked);
                world.on(session, Event::Looked);
                world.nodes = nodes;
            },
            steps: vec![(Event::Looked, &[]), (Event::Looked, &[]), (Event::Looked, &[CONNECT])],
        },
        Case {
            what: "it has not said its key",
            begin: |world, session| drop(world.on(session, nodes_wanted())),
            steps: vec![(Event::Looked, &[]), (Event::Looked, &[]), (Event::Looked, &[])],
        },
        Case {
            what: "its tunnel is alive",
            begin: |world, session| {
                world.on(session, compat(KEY, "c1"));
                world.on(session, Event::Committed(Ok(())));
            },
            steps: vec![(Event::Looked, &[]), (Event::Looked, &[]), (Event::Looked, &[])],
        },
        Case {
            what: "one that keeps several tunnels asks for ever",
            begin: |world, session| {
                world.on(session, multi(NEW_KEY, "c1"));
                world.on(session, Event::Committed(Err("no quorum".into())));
            },
            steps: vec![(Event::Looked, &[]), (Event::Looked, &[]), (Event::Looked, &[])],
        },
    ];
    for Case { what, begin, steps } in cases {
        let (mut world, mut session) = (world(), Session::default());
        begin(&mut world, &mut session);
        for (number, (event, expected)) in steps.into_iter().enumerate() {
            assert_eq!(world.short(&mut session, event), expected, "{what}, step {number}");
        }
    }
}

#[test]
fn a_connector_without_any_node_gets_no_answer_and_asks_again() {
    let (mut world, mut session) = (world(), Session::default());
    world.nodes.clear();
    assert!(world.on(&mut session, nodes_wanted()).is_empty());
    assert_eq!(world.short(&mut session, full(KEY, "c1")), [r#"commit 1 "1.13.0" multi=false"#]);
}

#[test]
fn a_configuration_version_that_was_missed_leads_to_a_sync() {
    struct Case {
        what: &'static str,
        connected: bool,
        version: u64,
        expected: &'static [&'static str],
    }
    let cases = [
        Case { what: "no configuration yet", connected: false, version: 0, expected: &["pong v5"] },
        Case { what: "came back in step", connected: false, version: 5, expected: &["pong v5"] },
        Case { what: "came back behind", connected: false, version: 3, expected: &["pong v5", "sync v5"] },
        Case {
            what: "came from the future",
            connected: false,
            version: 9,
            expected: &["pong v5", "sync v5"],
        },
        Case { what: "connected here", connected: true, version: 5, expected: &["pong v5"] },
        Case { what: "lost something", connected: true, version: 2, expected: &["pong v5", "sync v5"] },
    ];
    for case in cases {
        let (world, mut session) = (world(), Session::default());
        if case.connected {
            world.on(&mut session, full(KEY, "c1"));
        }
        assert_eq!(world.short(&mut session, ping(case.version)), case.expected, "{}", case.what);
    }
}

#[test]
fn a_ping_that_crosses_a_change_on_its_way_needs_no_sync() {
    let (mut world, mut session) = (world(), Session::default());
    world.on(&mut session, full(KEY, "c1"));
    world.site().config_version = 6;
    world.site().targets.push(target(8, 40_002, "10.0.0.6"));
    world.on(&mut session, Event::Planned);
    assert_eq!(world.short(&mut session, ping(5)), ["pong v6"]);
}

#[test]
fn a_sync_is_followed_by_what_newt_would_drop_from_it() {
    let (mut world, mut session) = (world(), Session::default());
    world.site().targets.push(target(8, 40_002, "fd00::5"));
    let expected = ["pong v5", "sync v5", r#"tcp/add ["40002:[fd00::5]:8080"] v5"#];
    assert_eq!(world.short(&mut session, ping(3)), expected);
}

#[test]
fn changes_of_targets_and_checks_are_told_as_differences() {
    struct Case {
        what: &'static str,
        change: fn(&mut Vec<TunnelTarget>),
        expected: &'static [&'static str],
    }
    let cases = [
        Case { what: "nothing", change: |_| (), expected: &[] },
        Case {
            what: "one more",
            change: |targets| targets.push(target(8, 40_002, "db.local")),
            expected: &[r#"tcp/add ["40002:db.local:8080"] v6"#, "healthcheck/add [8] v6"],
        },
        Case {
            what: "one less",
            change: Vec::clear,
            expected: &[r#"tcp/remove ["40001:10.0.0.5:8080"] v6"#, "healthcheck/remove [7] v6"],
        },
        Case {
            what: "another port there",
            change: |targets| targets[0].port = 9090,
            expected: &[r#"tcp/add ["40001:10.0.0.5:9090"] v6"#, "healthcheck/add [7] v6"],
        },
        Case {
            what: "datagrams instead",
            change: |targets| targets[0].method = Method::Udp,
            expected: &[
                r#"tcp/remove ["40001:10.0.0.5:8080"] v6"#,
                r#"udp/add ["40001:10.0.0.5:8080"] v6"#,
                "healthcheck/remove [7] v6",
            ],
        },
        Case {
            what: "checked otherwise",
            change: |targets| targets[0].health_check.as_mut().unwrap().interval = 60,
            expected: &["healthcheck/add [7] v6"],
        },
    ];
    for case in cases {
        let (mut world, mut session) = (world(), Session::default());
        world.on(&mut session, full(KEY, "c1"));
        (case.change)(&mut world.site().targets);
        world.site().config_version = 6;
        assert_eq!(world.short(&mut session, Event::Planned), case.expected, "{}", case.what);
        assert!(world.short(&mut session, Event::Planned).is_empty(), "{}: told once", case.what);
    }
}

#[test]
fn a_newt_whose_home_changed_is_pushed_without_a_chain() {
    struct Case {
        what: &'static str,
        change: fn(&mut World),
        expected: &'static [&'static str],
    }
    let cases = [
        Case {
            what: "another home",
            change: |world| {
                world.site().offers = vec![NodeId(2), NodeId(1), NodeId(3)];
                world.site().epoch = Epoch(2);
            },
            expected: &[r#"connect 192.0.2.2:51820 chain="" v5"#],
        },
        Case {
            what: "other standbys",
            change: |world| {
                world.site().offers = vec![NodeId(1), NodeId(3), NodeId(2)];
                world.site().epoch = Epoch(2);
            },
            expected: &[],
        },
        Case {
            what: "the home is not in service, and no new one is decided",
            change: |world| {
                world.nodes.remove(&NodeId(1));
                world.site().offers = vec![NodeId(2), NodeId(3)];
            },
            expected: &[],
        },
        Case {
            what: "the home has another address",
            change: |world| world.nodes.get_mut(&NodeId(1)).unwrap().endpoint = "192.0.2.9:51820".into(),
            expected: &[r#"connect 192.0.2.9:51820 chain="" v5"#],
        },
        Case {
            what: "another connector has registered since",
            change: |world| {
                world.site().key = Some(NEW_KEY);
                world.site().offers = vec![NodeId(2), NodeId(1)];
                world.site().epoch = Epoch(2);
            },
            expected: &[],
        },
    ];
    for case in cases {
        for came_back in [false, true] {
            let (mut world, mut session) = (world(), Session::default());
            world.on(&mut session, if came_back { compat(KEY, "c1") } else { full(KEY, "c1") });
            (case.change)(&mut world);
            assert_eq!(world.short(&mut session, Event::Planned), case.expected, "{}", case.what);
            assert!(world.short(&mut session, Event::Planned).is_empty(), "{}: pushed once", case.what);
        }
    }
}

#[test]
fn a_move_ahead_of_the_plan_is_not_undone_by_the_plan_that_records_it() {
    let (mut world, mut session) = (world(), Session::default());
    world.on(&mut session, full(KEY, "c1"));
    let moved = [r#"connect 192.0.2.2:51820 chain="" v5"#];
    assert_eq!(world.short(&mut session, Event::Moved(NodeId(2))), moved);
    assert!(world.short(&mut session, Event::Moved(NodeId(2))).is_empty());
    world.site().config_version = 6;
    assert!(world.short(&mut session, Event::Planned).is_empty(), "the old home is still planned");
    world.site().offers = vec![NodeId(2), NodeId(3)];
    world.site().epoch = Epoch(2);
    assert!(world.short(&mut session, Event::Planned).is_empty(), "it is there already");
    world.site().offers = vec![NodeId(1), NodeId(2)];
    world.site().epoch = Epoch(3);
    assert_eq!(world.short(&mut session, Event::Planned), [CONNECT_1]);
}

#[test]
fn a_multi_homed_connector_is_told_all_nodes_and_their_changes() {
    let (mut world, mut session) = (world(), Session::default());
    world.site().multi_homed = true;
    let actions = world.on(&mut session, multi(KEY, "c1"));
    let Some(Action::Send(FromNode::Connect(connect), 5)) = actions.first() else { panic!("{actions:?}") };
    let nodes = connect.nodes.as_ref().unwrap();
    assert_eq!(nodes.iter().map(|node| node.node_id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((nodes[1].endpoint.as_str(), nodes[1].control.as_str()), ("192.0.2.2:51820", "192.0.2.2:443"));

    world.site().offers = vec![NodeId(2), NodeId(1), NodeId(3)];
    world.site().epoch = Epoch(2);
    assert_eq!(world.short(&mut session, Event::Planned), ["nodes [2, 1, 3] v5"], "nothing is rebuilt");
    world.nodes.remove(&NodeId(1));
    assert_eq!(world.short(&mut session, Event::Planned), ["nodes [2, 3] v5"]);
    assert!(world.short(&mut session, Event::Moved(NodeId(3))).is_empty());
}

#[test]
fn only_the_sites_own_checked_targets_are_believed() {
    let (mut world, mut session) = (world(), Session::default());
    world.site().targets.push(TunnelTarget { health_check: None, ..target(8, 40_002, "a") });
    let status = |pairs: &[(&str, &str)]| {
        let targets = pairs
            .iter()
            .map(|(id, status)| {
                ((*id).to_owned(), TargetStatus { status: (*status).to_owned(), ..TargetStatus::default() })
            })
            .collect();
        says(FromConnector::HealthStatus(HealthStatus { targets }))
    };
    let all = status(&[("7", "healthy"), ("8", "healthy"), ("99", "unhealthy"), ("x", "healthy")]);
    assert_eq!(world.short(&mut session, all), ["health {TargetId(7): Healthy}"]);
    assert!(world.short(&mut session, status(&[("7", "unknown")])).is_empty(), "a check that starts anew");
    assert_eq!(world.short(&mut session, status(&[("7", "unhealthy")])), ["health {TargetId(7): Unhealthy}"]);
    world.site().targets.clear();
    assert_eq!(world.short(&mut session, Event::Planned), ["health {}"]);
}

#[test]
fn a_site_that_is_gone_ends_its_connectors() {
    let (mut world, mut session) = (world(), Session::default());
    world.on(&mut session, full(KEY, "c1"));
    world.site = None;
    let expected = ["terminate v1", "close: the site is gone or switched off"];
    assert_eq!(world.short(&mut session, Event::Planned), expected);
    assert!(world.short(&mut session, full(KEY, "c1")).is_empty());
}

#[test]
fn a_connector_that_leaves_or_talks_nonsense_is_let_go() {
    let (world, mut session) = (world(), Session::default());
    let leaving = world.short(&mut session, says(FromConnector::Disconnecting(Nothing {})));
    assert_eq!(leaving, ["leave", "close: the connector is leaving"]);
    let bad_key = Register { public_key: "AAAA".into(), ..Register::default() };
    let long_chain = registers(KEY, &"c".repeat(CHAIN_MAX + 1));
    for (register, reason) in [(bad_key, "publicKey"), (long_chain, "chainId")] {
        let actions = world.short(&mut session, says(FromConnector::Register(register)));
        assert!(actions[0].starts_with("close: ") && actions[0].contains(reason), "{actions:?}");
    }
}

#[test]
fn a_long_version_is_cut_between_characters() {
    assert_eq!(cut("1.13.0", 64), "1.13.0");
    assert_eq!(cut("ääää", 5), "ää");
    let (world, mut session) = (world(), Session::default());
    let register = Register { newt_version: "v".repeat(1000), ..registers(NEW_KEY, "c1") };
    let actions = world.on(&mut session, says(FromConnector::Register(register)));
    let [Action::Commit { version, .. }] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(version.len(), VERSION_MAX);
}
