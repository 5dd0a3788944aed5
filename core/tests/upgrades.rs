//! What the feature level keeps out, and how a rolling upgrade goes on, stops and goes back.

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use facts::{admitted, beginning, command, spec, token};
use pangolin_core::{
    Body, ClusterState, CodecError, FeatureLevel, NodeId, Outcome, Timestamp,
    command::UpgradeChange,
    feature,
    record::{AdminState, NodeSpec, UpgradeStep},
};

/// Two nodes, 1 and 4.
struct Life(ClusterState, u64);

impl Life {
    fn begun() -> Self {
        let mut life = Self(ClusterState::default(), 0);
        for command in beginning() {
            life.1 += 1;
            life.0.apply(life.1, &command);
        }
        life
    }

    fn apply(&mut self, body: Body) -> Result<(), String> {
        self.1 += 1;
        match self.0.apply(self.1, &command(self.1, body)) {
            Outcome::Done(_) => Ok(()),
            Outcome::Refused(refusal) => Err(refusal.to_string()),
        }
    }

    fn upgrade(&mut self, change: UpgradeChange) -> Result<(), String> {
        self.apply(Body::Upgrade(change))
    }

    fn understands(&mut self, node: u64, level: u32) -> Result<(), String> {
        let known = self.0.nodes()[&NodeId(node)].spec.clone();
        let spec = Box::new(NodeSpec { feature_level: FeatureLevel(level), ..known });
        self.apply(Body::NodeChanged { node: NodeId(node), spec })
    }

    fn steps(&self) -> Vec<(u64, UpgradeStep)> {
        let nodes = self.0.upgrade().expect("an upgrade").nodes.iter();
        nodes.map(|(id, node)| (id.0, node.step)).collect()
    }
}

#[test]
fn the_level_is_raised_only_when_every_node_understands_it_and_then_keeps_older_programs_out() {
    let mut life = Life::begun();
    assert_eq!(life.0.feature_level(), FeatureLevel(1));
    life.understands(1, 2).expect("node 1 runs a newer version");
    let refused = life.apply(Body::FeatureLevelRaised(FeatureLevel(2))).expect_err("node 4 does not");
    assert!(refused.contains("node n2 (4)"), "{refused}");
    life.understands(4, 3).expect("an even newer one");
    life.apply(Body::FeatureLevelRaised(FeatureLevel(2))).expect("raised");
    assert_eq!(life.0.feature_level(), FeatureLevel(2));
    assert!(life.apply(Body::FeatureLevelRaised(FeatureLevel(2))).expect_err("again").contains("already"));
    assert!(life.understands(4, 1).expect_err("an older program").contains("understands up to 1"));

    life.apply(Body::TokenCreated(Box::new(token(2, Timestamp(1_000_000))))).expect("a token");
    let old = life.apply(admitted(2, spec("n3", 3))).expect_err("an old program joins");
    assert!(old.contains("install the version"), "{old}");
    let new = NodeSpec { feature_level: FeatureLevel(2), ..spec("n3", 3) };
    life.apply(admitted(2, new)).expect("the token was not used up");
}

#[test]
fn a_state_of_a_higher_level_is_not_read_and_the_reason_says_what_to_do() {
    let mut life = Life::begun();
    assert_eq!(ClusterState::decode(&life.0.encode().expect("encoded")).expect("decoded"), life.0);
    let higher = feature::NEWEST.0 + 1;
    life.understands(1, higher).expect("a newer version");
    life.understands(4, higher).expect("a newer version");
    life.apply(Body::FeatureLevelRaised(FeatureLevel(higher))).expect("raised");
    let error = ClusterState::decode(&life.0.encode().expect("encoded")).expect_err("too new");
    assert!(matches!(error, CodecError::Level(_)), "{error}");
    assert!(error.to_string().contains("install the version"), "{error}");
}

#[test]
fn an_upgrade_goes_through_the_nodes_and_is_finished_when_all_are_done() {
    use UpgradeStep::{Done, UnderWay, Waiting};
    let mut life = Life::begun();
    assert!(
        life.upgrade(UpgradeChange::NodeBegun(NodeId(1))).expect_err("none is open").contains("no upgrade")
    );
    life.apply(Body::NodeAdmin { node: NodeId(4), admin: AdminState::Drained }).expect("drained");
    life.upgrade(UpgradeChange::Started { rollback: false }).expect("started");
    assert!(life.upgrade(UpgradeChange::Started { rollback: false }).is_err(), "one at a time");
    assert_eq!(life.steps(), [(1, Waiting), (4, Waiting)]);
    life.upgrade(UpgradeChange::NodeBegun(NodeId(4))).expect("begun");
    let kept = life.0.upgrade().expect("an upgrade").nodes[&NodeId(4)].clone();
    assert_eq!((kept.admin, kept.from_version.as_str()), (AdminState::Drained, "0.1.0"));
    life.upgrade(UpgradeChange::NodeDone(NodeId(4))).expect("done");
    assert_eq!(life.steps(), [(1, Waiting), (4, Done)]);
    assert!(life.upgrade(UpgradeChange::Finished).expect_err("node 1 waits").contains("node 1"));
    life.upgrade(UpgradeChange::NodeBegun(NodeId(1))).expect("begun");
    assert_eq!(life.steps(), [(1, UnderWay), (4, Done)]);
    life.upgrade(UpgradeChange::NodeDone(NodeId(1))).expect("done");
    life.upgrade(UpgradeChange::Finished).expect("finished");
    assert_eq!(life.0.upgrade(), None);
}

#[test]
fn a_rollback_brings_back_what_was_upgraded_until_the_level_is_raised() {
    use UpgradeStep::{Done, UnderWay, Waiting};
    let mut life = Life::begun();
    let back = UpgradeChange::Started { rollback: true };
    assert!(life.upgrade(back.clone()).expect_err("nothing to go back from").contains("no upgrade"));
    life.upgrade(UpgradeChange::Started { rollback: false }).expect("started");
    life.upgrade(UpgradeChange::NodeDone(NodeId(4))).expect("done");
    life.upgrade(back.clone()).expect("a way back");
    assert_eq!(life.steps(), [(1, Done), (4, Waiting)], "node 1 was never touched");
    assert!(life.upgrade(back.clone()).is_err(), "once");
    life.upgrade(UpgradeChange::NodeBegun(NodeId(4))).expect("begun");
    assert_eq!(life.steps(), [(1, Done), (4, UnderWay)]);
    life.upgrade(UpgradeChange::NodeDone(NodeId(4))).expect("done");
    life.upgrade(UpgradeChange::Finished).expect("finished");

    life.upgrade(UpgradeChange::Started { rollback: false }).expect("another one");
    life.understands(1, 2).expect("a newer version");
    life.understands(4, 2).expect("a newer version");
    life.apply(Body::FeatureLevelRaised(FeatureLevel(2))).expect("raised");
    assert!(life.upgrade(back).expect_err("too late").contains("no way back"));
}
