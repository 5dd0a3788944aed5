//! Plays `transcripts/*.txt`: what a Newt sent on the wire, frame by frame, and what it has to hear.
//!
//! `> FRAME` is sent as it is; `< TYPE [JSON]` is the next message, and its data contain all that the JSON says; `@ CHANGE`
//! is something that happens in the cluster meanwhile; `#` begins a remark.

use std::path::Path;

use futures_util::SinkExt as _;
use pangolin_core::{Epoch, NodeId, record::TunnelKey};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    newt::Newt,
    node::{FakeNode, HOME_LAB, serve, target, until},
};

/// Whether all of `part` is in `whole`: objects may have more fields.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| holds(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| holds(whole, part))
        }
        (whole, part) => whole == part,
    }
}

async fn happens(node: &FakeNode, what: &str) {
    let region = |id: u64, region: &str| {
        let region = region.parse().unwrap();
        node.change(|plan| plan.nodes.get_mut(&NodeId(id)).unwrap().region = Some(region));
    };
    match what {
        "the nodes lie in two regions" => {
            region(1, "eu");
            region(2, "eu");
            region(3, "us");
        }
        "its key is known and its tunnel alive" => {
            node.carried.lock().insert((HOME_LAB.0, NodeId(1)));
            node.change_home_lab(|site| site.key = Some(TunnelKey([1; 32])));
        }
        "its tunnel is dead" => node.carried.lock().clear(),
        "its home moves to node 2" => node.change_home_lab(|site| {
            (site.offers, site.epoch) = (vec![NodeId(2), NodeId(1), NodeId(3)], Epoch(2));
        }),
        "a target is added" => node.change_home_lab(|site| {
            site.targets.push(target(8, 40_002));
            site.config_version = 6;
        }),
        "nothing can be committed" => *node.refuses.lock() = Some("there is no leader".into()),
        "its registration fails, and commits are possible again" => {
            until(node.refused.subscribe(), |refused| *refused > 0).await;
            *node.refuses.lock() = None;
        }
        "the site is removed" => {
            node.secrets.lock().remove(&HOME_LAB.0);
            node.change(|plan| drop(plan.sites.remove(&HOME_LAB.0)));
        }
        _ => panic!("{what:?} is not understood"),
    }
}

async fn play(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let server = serve(FakeNode::new()).await;
    let mut newt = Newt::sign_in(&server, HOME_LAB).await;
    for (number, line) in (1..).zip(text.lines()) {
        let place = || format!("{}:{number}: {line}", path.display());
        match line.split_once(' ') {
            Some((">", frame)) => newt.ws.send(Message::text(format!("{frame}\n"))).await.unwrap(),
            Some(("@", what)) => happens(&server.node, what).await,
            Some(("<", wanted)) => {
                let (kind, part) = wanted.split_once(' ').unwrap_or((wanted, "{}"));
                let heard = newt.hears().await;
                assert_eq!(heard["type"], kind, "{}: {heard}", place());
                let part: Value = serde_json::from_str(part).unwrap();
                assert!(holds(&heard["data"], &part), "{}: {heard}", place());
                let version = heard["configVersion"].as_u64();
                assert!(version.is_some_and(|version| version > 0), "{}: {heard}", place());
            }
            _ if line.is_empty() || line.starts_with('#') => {}
            _ => panic!("{}: not understood", place()),
        }
    }
}

#[tokio::test]
async fn newts_hear_what_they_have_to() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/control/transcripts");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        play(&entry.unwrap().path()).await;
        played += 1;
    }
    assert!(played >= 5, "transcripts are missing");
}
