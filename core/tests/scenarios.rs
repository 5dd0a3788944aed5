//! Plays the stories of `tests/scenarios/*.txt`: a cluster, what its nodes see, and what the leader then decides.
//!
//! A story is read line by line; `#` begins a remark. Lines at the margin change the cluster or the time:
//!
//! ```text
//! node NAME [witness]           joins; the first one makes the cluster
//! node NAME drains|returns|leaves    (leaves = is out of the state at once)
//! node NAME is to leave|vote         an operator has asked for it
//! node NAME joins instead of OTHER
//! cluster disbands to NAME
//! autopilot removes the dead after SECONDS s
//! voters NAME ...               Raft's membership; leaders change it below
//! learners NAME ...
//! node NAME understands LEVEL   it runs a program of this feature level from now on
//! upgrade begins|ends
//! node NAME is being upgraded   its turn in the upgrade has begun
//! node NAME is upgraded         its part of the upgrade is done
//! leader NAME                   a new term begins
//! site NAME                     is made
//! site NAME is at HOME [then STANDBY ...]
//! site NAME has one tunnel at a time            its connector has registered, and is single-homed
//! at SECONDS s                  the clock; what was seen before is forgotten
//! decides                       the leader decides until it comes to rest; the indented lines below say what
//! decides nothing
//! membership                    the leader changes the membership until it is at rest; the lines below say how
//! membership rests
//! NAME may leave | NAME may not leave
//! remarks                       what an operator is told; each line below is part of one of them
//! remarks nothing
//! hands over to NAME | keeps the leadership
//! node NAME is in region REGION
//! node NAME has weight WEIGHT
//! node NAME is home to SITES at most
//! site NAME lies in REGION
//! why NAME                      what the cluster answers to this question; the indented lines below are its text
//! resource HOST behind SITE     is published, with a target
//! ```
//!
//! Below `at`, indented lines say what is seen, later ones over earlier ones:
//!
//! ```text
//!     all are up for SECONDS s          everybody reports, and has reached everybody else that long
//!     NAME is dead for SECONDS s        reports nothing, and nobody has reached it that long
//!     NAME misses OTHER for SECONDS s   NAME alone has not reached OTHER that long
//!     NAME is silent                    its reports do not arrive
//!     tunnel SITE: NAME ...             the site has live tunnels to these nodes
//!     tunnel SITE: NAME for SECONDS s   and to this one for so long
//!     socket SITE: NAME                 this node holds its control socket
//!     distance SITE: NAME MS NAME MS    what its connector has measured to nodes, told by the holder of its socket
//!     NAME ... caught up for SECONDS s  members that have had all of the log that long
//! ```

#[allow(dead_code, reason = "each test file uses its own part of the made-up facts")]
mod facts;

use std::{collections::BTreeMap, path::Path, time::Duration};

use facts::{admitted, command, created, slug, spec, token};
use pangolin_core::{
    Body, CatalogChange, ClusterState, Command, FeatureLevel, NodeId, Observations, Outcome, Report, SiteId,
    Timestamp,
    access::Principal,
    command::UpgradeChange,
    decide::{Step, Voting, check_removal, decide, hand_over, next_step, remarks},
    fabric::{Capacity, FabricChange},
    observation::{Attachment, Seen},
    outcome::Object,
    record::{AdminState, Autopilot, Digest, NodeRole, NodeSpec, TunnelKey, Verdict},
    why::{About, why},
};

/// Rounds within which a leader comes to rest: verdicts, then what follows from them.
const ROUNDS: usize = 4;
/// Changes of the membership within which it comes to rest.
const CHANGES: usize = 12;

#[derive(Default)]
struct Story {
    state: ClusterState,
    index: u64,
    term: u64,
    now: u64,
    nodes: BTreeMap<String, NodeId>,
    sites: BTreeMap<String, SiteId>,
    reports: BTreeMap<NodeId, Report>,
    voting: Voting,
}

impl Story {
    fn apply(&mut self, command: &Command) -> Option<Object> {
        self.index += 1;
        match self.state.apply(self.index, command) {
            Outcome::Done(made) => made,
            Outcome::Refused(refusal) => panic!("{command} was refused: {refusal}"),
        }
    }

    fn change(&mut self, body: Body) -> Option<Object> {
        self.apply(&command(self.now, body))
    }

    fn node(&self, name: &str) -> NodeId {
        *self.nodes.get(name).unwrap_or_else(|| panic!("no node {name}"))
    }

    fn site(&self, name: &str) -> SiteId {
        *self.sites.get(name).unwrap_or_else(|| panic!("no site {name}"))
    }

    fn name_of(&self, id: NodeId) -> &str {
        self.nodes.iter().find(|(_, known)| **known == id).map_or("?", |(name, _)| name)
    }

    fn add_node(&mut self, name: &str, role: NodeRole, replaces: Option<NodeId>) {
        let n = u8::try_from(self.nodes.len() + 1).expect("few nodes");
        let made = if self.nodes.is_empty() {
            self.change(created(spec(name, n)));
            Some(Object::Node(NodeId(1)))
        } else {
            let token = pangolin_core::record::JoinToken { role, replaces, ..token(n, Timestamp(u64::MAX)) };
            self.change(Body::TokenCreated(Box::new(token)));
            self.change(admitted(n, spec(name, n)))
        };
        let Some(Object::Node(id)) = made else { panic!("no node was made: {made:?}") };
        self.nodes.insert(name.to_owned(), id);
        // The stories begin when everybody has been seen at work.
        self.change(Body::NodeVerdict { node: id, verdict: Verdict::Up });
    }

    fn add_site(&mut self, name: &str) {
        if self.state.orgs().is_empty() {
            let org = CatalogChange::OrgCreated { id: slug("acme"), name: "Acme".to_owned() };
            self.change(Body::Catalog(Box::new(org)));
        }
        let site = CatalogChange::SiteCreated {
            id: None,
            org: slug("acme"),
            nice_id: None,
            name: name.to_owned(),
            connector_id: format!("{:015}", self.sites.len()),
            connector_secret: Digest([1; 32]),
        };
        let Some(Object::Site(id)) = self.change(Body::Catalog(Box::new(site))) else { panic!("no site") };
        self.sites.insert(name.to_owned(), id);
    }

    fn publish(&mut self, name: &str, site: &str) {
        let (site, org, name) = (self.site(site), slug("acme"), facts::host(name));
        let domain = CatalogChange::DomainCreated {
            id: None,
            org: org.clone(),
            name: name.parent().expect("a domain"),
        };
        let Some(Object::Domain(domain)) = self.change(Body::Catalog(Box::new(domain))) else {
            panic!("no domain")
        };
        let title = "Wiki".to_owned();
        let made = CatalogChange::ResourceCreated {
            id: None,
            org,
            nice_id: None,
            name: title,
            domain,
            host: name.clone(),
        };
        let Some(Object::Resource(resource)) = self.change(Body::Catalog(Box::new(made))) else {
            panic!("no resource")
        };
        self.change(Body::Catalog(Box::new(CatalogChange::TargetCreated {
            id: None,
            resource,
            site,
            method: pangolin_core::record::Method::Http,
            host: "10.0.0.5".to_owned(),
            port: 8080,
            health_check: None,
        })));
        let names = vec![name.parent().expect("a domain"), name];
        self.change(facts::certificate(names));
    }

    fn set_capacity(&mut self, name: &str, change: impl Fn(Capacity) -> Capacity) {
        let node = self.node(name);
        let capacity = change(self.state.fabric().capacity(node));
        self.change(Body::Fabric(Box::new(FabricChange::CapacitySet { node, capacity })));
    }

    /// The answer to `why`.
    fn why(&self, name: &str) -> Vec<String> {
        let principal = Principal::Operator("root".to_owned());
        let about = About::find(&self.state, &principal, None, name).expect("something to ask about");
        let text = why(&self.state, &about).expect("an explanation").to_string();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// A line at the margin.
    fn tell(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["node", name] => self.add_node(name, NodeRole::Data, None),
            ["node", name, "witness"] => self.add_node(name, NodeRole::Witness, None),
            ["node", name, "joins", "instead", "of", other] => {
                let other = self.node(other);
                self.add_node(name, NodeRole::Data, Some(other));
            }
            ["node", name, "is", "to", "leave"] => {
                let node = self.node(name);
                self.change(Body::NodeAdmin { node, admin: AdminState::Leaving });
            }
            ["node", name, "is", "to", "vote"] => {
                self.change(Body::NodePromoted(self.node(name)));
            }
            ["cluster", "disbands", "to", name] => {
                self.change(Body::Disbanded { survivor: self.node(name) });
            }
            ["autopilot", "removes", "the", "dead", "after", seconds, "s"] => {
                let remove_after_s = Some(seconds.parse().expect("seconds"));
                self.change(Body::AutopilotChanged(Autopilot { remove_after_s, ..Autopilot::default() }));
            }
            ["voters", ref names @ ..] => {
                self.voting.voters = names.iter().map(|name| self.node(name)).collect();
            }
            ["learners", ref names @ ..] => {
                self.voting.learners = names.iter().map(|name| self.node(name)).collect();
            }
            [name, "may", "leave"] => {
                check_removal(&self.state, &self.voting(), self.node(name)).expect("it may leave");
            }
            [name, "may", "not", "leave"] => {
                check_removal(&self.state, &self.voting(), self.node(name)).expect_err("it may not leave");
            }
            ["hands", "over", "to", name] => assert_eq!(self.successor(), Some(self.node(name))),
            ["keeps", "the", "leadership"] => assert_eq!(self.successor(), None),
            ["node", name, "drains"] => {
                let node = self.node(name);
                self.change(Body::NodeAdmin { node, admin: AdminState::Drained });
            }
            ["node", name, "returns"] => {
                let node = self.node(name);
                self.change(Body::NodeAdmin { node, admin: AdminState::Active });
            }
            ["node", name, "understands", level] => {
                let node = self.node(name);
                let known = self.state.nodes().get(&node).expect("a node").spec.clone();
                let feature_level = FeatureLevel(level.parse().expect("a level"));
                self.change(Body::NodeChanged { node, spec: Box::new(NodeSpec { feature_level, ..known }) });
            }
            ["node", name, "is", "being", "upgraded"] => {
                self.change(Body::Upgrade(UpgradeChange::NodeBegun(self.node(name))));
            }
            ["node", name, "is", "upgraded"] => {
                self.change(Body::Upgrade(UpgradeChange::NodeDone(self.node(name))));
            }
            ["upgrade", "begins"] => {
                self.change(Body::Upgrade(UpgradeChange::Started { rollback: false }));
            }
            ["upgrade", "ends"] => {
                self.change(Body::Upgrade(UpgradeChange::Finished));
            }
            ["node", name, "is", "in", "region", region] => {
                let node = self.node(name);
                let known = self.state.nodes().get(&node).expect("a node").spec.clone();
                let spec = Box::new(NodeSpec { region: Some(slug(region)), ..known });
                self.change(Body::NodeChanged { node, spec });
            }
            ["node", name, "has", "weight", weight] => {
                let weight = weight.parse().expect("a weight");
                self.set_capacity(name, |capacity| Capacity { weight, ..capacity });
            }
            ["node", name, "is", "home", "to", most, "at", "most"] => {
                let sites = Some(most.parse().expect("a number"));
                self.set_capacity(name, |capacity| Capacity { sites, ..capacity });
            }
            ["site", name, "lies", "in", region] => {
                let (site, region) = (self.site(name), Some(slug(region)));
                self.change(Body::Fabric(Box::new(FabricChange::SiteRegionSet { site, region })));
            }
            ["node", name, "leaves"] => {
                self.change(Body::NodeRemoved(self.node(name)));
            }
            ["leader", name] => {
                self.term += 1;
                let (term, node) = (self.term, self.node(name));
                self.change(Body::LeaderStarted { term, node });
            }
            ["site", name] => self.add_site(name),
            ["resource", host, "behind", site] => self.publish(host, site),
            ["site", name, "is", "at", home, ref rest @ ..] => {
                let standbys = rest.iter().skip(1).map(|name| self.node(name)).collect();
                let (site, home) = (self.site(name), self.node(home));
                self.change(Body::SitePlaced { site, home, standbys });
            }
            ["site", name, "has", "one", "tunnel", "at", "a", "time"] => {
                let site = self.site(name);
                let tunnel_key = TunnelKey([u8::try_from(site.0).expect("a small id"); 32]);
                let version = "1.13.0".to_owned();
                self.change(Body::ConnectorRegistered { site, tunnel_key, version, multi_homed: false });
            }
            ["at", seconds, "s"] => {
                self.now = millis(seconds);
                self.reports.clear();
                self.voting.caught_up_for.clear();
            }
            _ => panic!("not understood"),
        }
    }

    /// An indented line below `at`.
    fn see(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["all", "are", "up", "for", seconds, "s"] => {
                for (id, node) in self.state.nodes() {
                    let others = self.state.nodes().keys().filter(|other| *other != id);
                    let peers = others.map(|other| (*other, self.seen(true, seconds))).collect();
                    let feature_level = node.spec.feature_level;
                    let report =
                        Report { at: Timestamp(self.now), peers, feature_level, ..Report::default() };
                    self.reports.insert(*id, report);
                }
            }
            [name, "is", "dead", "for", seconds, "s"] => {
                let (dead, seen) = (self.node(name), self.seen(false, seconds));
                self.reports.remove(&dead);
                for report in self.reports.values_mut() {
                    report.peers.insert(dead, seen);
                }
            }
            [name, "misses", other, "for", seconds, "s"] => {
                let (name, other, seen) = (self.node(name), self.node(other), self.seen(false, seconds));
                self.reports.get_mut(&name).expect("a report").peers.insert(other, seen);
            }
            [name, "is", "silent"] => {
                let node = self.node(name);
                self.reports.remove(&node);
            }
            [ref names @ .., "caught", "up", "for", seconds, "s"] => {
                for name in names {
                    let (node, time) = (self.node(name), Duration::from_millis(millis(seconds)));
                    self.voting.caught_up_for.insert(node, time);
                }
            }
            ["tunnel", site, name, "for", seconds, "s"] => {
                let (site, seen) = (self.site(site.trim_end_matches(':')), self.seen(true, seconds));
                let node = self.node(name);
                self.reports.get_mut(&node).expect("a report").tunnels.insert(site, seen);
            }
            ["socket", site, name] => {
                let (site, node) = (self.site(site.trim_end_matches(':')), self.node(name));
                self.reports.get_mut(&node).expect("a report").sockets.insert(site);
            }
            ["distance", site, ref measured @ ..] => {
                let site = self.site(site.trim_end_matches(':'));
                let distance = |pair: &[&str]| (self.node(pair[0]), pair[1].parse().expect("milliseconds"));
                let distances = measured.chunks_exact(2).map(distance).collect();
                let holder = self.reports.values_mut().find(|report| report.sockets.contains(&site));
                let attachment = Attachment { end: None, distances };
                holder.expect("a holder of its socket").attachments.insert(site, attachment);
            }
            ["tunnel", site, ref carriers @ ..] => {
                let (site, seen) = (self.site(site.trim_end_matches(':')), self.seen(true, "1"));
                for name in carriers {
                    let node = self.node(name);
                    self.reports.get_mut(&node).expect("a report").tunnels.insert(site, seen);
                }
            }
            _ => panic!("not understood"),
        }
    }

    fn seen(&self, alive: bool, seconds: &str) -> Seen {
        Seen { alive, since: Timestamp(self.now.saturating_sub(millis(seconds))) }
    }

    /// The membership as the leader sees it: it is in contact with whoever reports.
    fn voting(&self) -> Voting {
        let alive = self.reports.keys().copied().collect();
        Voting { alive, ..self.voting.clone() }
    }

    fn leader(&self) -> NodeId {
        self.state.leadership().expect("a leader").node
    }

    fn successor(&self) -> Option<NodeId> {
        hand_over(&self.state, &self.voting(), self.leader())
    }

    /// How the leader changes the membership, in the words of the stories.
    fn membership(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..CHANGES {
            let step = next_step(&self.state, &self.voting(), self.leader(), Timestamp(self.now));
            let Some(step) = step else { return told };
            told.push(self.take(&step));
        }
        panic!("the membership does not come to rest; so far: {told:#?}");
    }

    fn take(&mut self, step: &Step) -> String {
        let name = |node: &NodeId| self.name_of(*node).to_owned();
        let (words, change) = match step {
            Step::AddLearner(node) => {
                let words = format!("{} learns", name(node));
                self.voting.learners.insert(*node);
                (words, None)
            }
            Step::Promote(node) => {
                let words = format!("{} votes", name(node));
                assert!(self.voting.learners.remove(node));
                self.voting.voters.insert(*node);
                (words, None)
            }
            Step::Exchange { out, into } => {
                let words = format!("{} gives its vote to {}", name(out), name(into));
                assert!(self.voting.voters.remove(out) && self.voting.learners.remove(into));
                self.voting.learners.insert(*out);
                self.voting.voters.insert(*into);
                (words, None)
            }
            Step::Retire { node, .. } => {
                let change = Body::NodeAdmin { node: *node, admin: AdminState::Leaving };
                (format!("{} is to leave", name(node)), Some(change))
            }
            Step::Remove(node) => {
                let words = format!("{} is gone", name(node));
                self.voting.voters.remove(node);
                self.voting.learners.remove(node);
                let known = self.state.nodes().contains_key(node);
                (words, known.then_some(Body::NodeRemoved(*node)))
            }
        };
        change.and_then(|body| self.change(body));
        words
    }

    /// What the leader decides, in the words of the stories.
    fn decisions(&mut self) -> Vec<String> {
        let (leader, now) = (self.leader(), Timestamp(self.now));
        let mut seen = Observations::default();
        for (node, report) in &self.reports {
            seen.insert(*node, now, report.clone());
        }
        let mut told = Vec::new();
        for _ in 0..ROUNDS {
            let commands = decide(&self.state, &seen, leader, now);
            if commands.is_empty() {
                return told;
            }
            for command in commands {
                assert!(!command.cause.reason.is_empty(), "no cause is given");
                self.apply(&command);
                told.push(self.words(&command.body));
            }
        }
        panic!("the leader does not come to rest; so far: {told:#?}");
    }

    fn words(&self, body: &Body) -> String {
        match body {
            Body::NodeVerdict { node, verdict } => {
                let verdict = if *verdict == Verdict::Up { "up" } else { "down" };
                format!("node {} is {verdict}", self.name_of(*node))
            }
            Body::SitePlaced { site, home, standbys } => {
                let site = self.sites.iter().find(|(_, id)| *id == site).map_or("?", |(name, _)| name);
                let then: String = standbys.iter().map(|id| format!(" {}", self.name_of(*id))).collect();
                let then = if then.is_empty() { then } else { format!(" then{then}") };
                format!("site {site} is at {}{then}", self.name_of(*home))
            }
            Body::FeatureLevelRaised(level) => format!("the feature level is {level}"),
            other => other.name().to_owned(),
        }
    }
}

fn millis(seconds: &str) -> u64 {
    let seconds: f64 = seconds.parse().expect("seconds");
    u64::try_from(Duration::from_secs_f64(seconds).as_millis()).expect("a time")
}

fn play(file: &Path) {
    let text = std::fs::read_to_string(file).expect("a story");
    let lines: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .map(|(n, line)| (n + 1, line.split('#').next().unwrap_or_default().trim_end()))
        .filter(|(_, line)| !line.trim().is_empty())
        .collect();
    let mut story = Story::default();
    let mut position = 0;
    let mut decisions = 0;
    while let Some((number, line)) = lines.get(position).copied() {
        position += 1;
        let at = format!("{}:{number}: {}", file.display(), line.trim());
        let asks = ["decides", "membership", "remarks"].into_iter().find(|ask| line.starts_with(ask));
        if let Some(ask) = asks {
            let below = lines[position..].iter().take_while(|(_, line)| line.starts_with(' '));
            let expected: Vec<String> = below.map(|(_, line)| line.trim().to_owned()).collect();
            position += expected.len();
            assert_eq!(line == ask, !expected.is_empty(), "{at}");
            match ask {
                "decides" => assert_eq!(story.decisions(), expected, "{at}"),
                "membership" => assert_eq!(story.membership(), expected, "{at}"),
                _ => {
                    let told = remarks(&story.state, &story.voting());
                    let fits = |part: &String| told.iter().any(|remark| remark.contains(part));
                    assert!(told.len() == expected.len() && expected.iter().all(fits), "{at}: {told:#?}");
                }
            }
            decisions += 1;
            continue;
        }
        if let Some(name) = line.strip_prefix("why ") {
            let below = lines[position..].iter().take_while(|(_, line)| line.starts_with("    "));
            let expected: Vec<String> = below.map(|(_, line)| line[4..].to_owned()).collect();
            position += expected.len();
            let text = story.why(name);
            assert_eq!(text, expected, "{at}\n{}", text.join("\n"));
            continue;
        }
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            if line.starts_with(' ') { story.see(line) } else { story.tell(line) }
        }));
        assert!(told.is_ok(), "{at}");
    }
    assert!(decisions > 0, "{}: nothing is decided", file.display());
}

#[test]
fn the_leader_decides_as_the_stories_tell() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the stories")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    assert!(files.len() >= 8, "stories are missing in {}", folder.display());
    files.iter().for_each(|file| play(file));
}
