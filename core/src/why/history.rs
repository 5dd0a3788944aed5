//! The decisions of a state, ready to be asked many times.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Fact, Step, Told};
use crate::{
    command::{Actor, Cause},
    decision::{Aspect, Decision, NodeName, What},
    id::{NodeId, Revision},
    outcome::Object,
    state::ClusterState,
    time::Timestamp,
};

/// How far back a chain of causes is told.
const DEPTH_MAX: usize = 8;
/// Most decisions told behind one fact.
const STEPS_MAX: usize = 24;
/// Most earlier decisions told about a subject.
const EARLIER_MAX: usize = 8;

pub(super) struct History<'a> {
    pub(super) state: &'a ClusterState,
    all: Vec<&'a Arc<Decision>>,
    topics: BTreeMap<(&'a Object, Aspect), Vec<&'a Arc<Decision>>>,
}

impl<'a> History<'a> {
    pub(super) fn of(state: &'a ClusterState) -> Self {
        let all = state.decisions().all();
        let mut topics: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for decision in &all {
            for change in &decision.changes {
                topics.entry((&change.subject.object, change.what.aspect())).or_default().push(*decision);
            }
        }
        Self { state, all, topics }
    }

    /// The last decision on one side of an object.
    pub(super) fn last(&self, object: &Object, aspect: Aspect) -> Option<&'a Arc<Decision>> {
        self.topics.get(&(object, aspect))?.last().copied()
    }

    /// The decision that brought an object into being.
    pub(super) fn beginning(&self, object: &Object) -> Option<&'a Arc<Decision>> {
        self.last(object, Aspect::Existence)
    }

    /// The last decision that edited one of these values of an object.
    pub(super) fn edit(&self, object: &Object, fields: &[&str]) -> Option<&'a Arc<Decision>> {
        let edits_it = |decision: &&&Arc<Decision>| {
            decision.changes.iter().any(|change| match &change.what {
                What::Edited(edits) if change.subject.object == *object => {
                    edits.iter().any(|edit| fields.contains(&edit.field.as_str()))
                }
                _ => false,
            })
        };
        self.topics.get(&(object, Aspect::Values))?.iter().rev().find(edits_it).copied()
    }

    /// The decision with which a leader took up its duties in a term, and the one that handed it the leadership.
    pub(super) fn leadership(&self, leader: NodeId, term: u64) -> Vec<&'a Arc<Decision>> {
        let Some(all) = self.topics.get(&(&Object::Cluster, Aspect::Leadership)) else { return Vec::new() };
        let began = |what: &What| matches!(what, What::Leads { term: known, .. } if *known == term);
        let handed = |what: &What| matches!(what, What::Handed { to, .. } if to.id == leader);
        let is = |decision: &Arc<Decision>, fits: &dyn Fn(&What) -> bool| {
            decision.changes.iter().any(|change| fits(&change.what))
        };
        let Some(at) = all.iter().rposition(|decision| is(decision, &began)) else { return Vec::new() };
        // It is written down once the new leader has taken up its duties.
        let handed = all[at..].iter().find(|decision| is(decision, &handed));
        std::iter::once(&all[at]).chain(handed).copied().collect()
    }

    pub(super) fn get(&self, revision: Revision) -> Option<&'a Arc<Decision>> {
        let at = self.all.binary_search_by_key(&revision, |decision| decision.revision).ok()?;
        Some(self.all[at])
    }

    /// The last decision that is about an object or names it, with the name the object had.
    pub(super) fn last_word_on(&self, object: &Object) -> Option<(&'a Arc<Decision>, String)> {
        self.all.iter().rev().find_map(|decision| {
            let change = decision.changes.iter().find(|change| change.subject.object == *object)?;
            Some((*decision, change.subject.to_string()))
        })
    }

    /// An object that is gone, found by the name that it had.
    pub(super) fn gone(&self, fits: impl Fn(&Object, &str) -> bool) -> Option<Object> {
        let mut changes = self.all.iter().rev().flat_map(|decision| &decision.changes);
        changes
            .find(|change| fits(&change.subject.object, &change.subject.name))
            .map(|change| change.subject.object.clone())
    }

    /// A node by the name it has or had.
    pub(super) fn node(&self, id: NodeId) -> NodeName {
        let known = self.state.node_name(id);
        if !known.name.is_empty() {
            return known;
        }
        // Not even its leaving is remembered, but another decision may name it.
        let name = self.all.iter().rev().find_map(|decision| decision.name_of(id));
        NodeName { id, name: name.unwrap_or_default().to_owned() }
    }

    /// Who took a decision.
    pub(super) fn actor(&self, actor: &Actor) -> String {
        let named = |object: &Object, name: String| match (object, name.is_empty()) {
            (object, true) => object.to_string(),
            (Object::ApiKey(id), _) => format!("API key {name} ({id})"),
            (Object::User(_), _) => format!("user {name}"),
            (_, _) => name,
        };
        match actor {
            Actor::Operator(who) => who.clone(),
            Actor::Leader(id) => format!("leader {}", self.node(*id)),
            Actor::Node(id) => format!("node {}", self.node(*id).to_string().trim_start_matches("node ")),
            Actor::ApiKey(id) => {
                let object = Object::ApiKey(id.clone());
                let known = self.state.api_keys().get(id).map(|key| key.name.clone());
                let name = known.or_else(|| self.past_name(&object)).unwrap_or_default();
                named(&object, name)
            }
            Actor::User(id) => {
                let object = Object::User(*id);
                let known = self.state.users().get(id).map(|user| user.email.clone());
                let name = known.or_else(|| self.past_name(&object)).unwrap_or_default();
                named(&object, name)
            }
            Actor::Connector(id) => {
                let known = self.state.sites().get(id).map(|site| format!("{}/{}", site.org, site.nice_id));
                let name = known.or_else(|| self.past_name(&Object::Site(*id)));
                format!("connector of site {}", name.unwrap_or_else(|| id.to_string()))
            }
        }
    }

    fn past_name(&self, object: &Object) -> Option<String> {
        let mut changes = self.all.iter().rev().flat_map(|decision| &decision.changes);
        changes.find(|change| change.subject.object == *object).map(|change| change.subject.name.clone())
    }

    /// A fact and the decisions that made it so, each with those that led to it.
    pub(super) fn fact(
        &self,
        text: impl Into<String>,
        decided: impl IntoIterator<Item = Option<&'a Arc<Decision>>>,
    ) -> Fact {
        let mut steps = Vec::new();
        let mut told = BTreeSet::new();
        for decision in decided.into_iter().flatten() {
            self.tell(decision, 0, &mut told, &mut steps);
        }
        Fact { text: text.into(), steps }
    }

    /// A fact whose record keeps its cause, also when the decision itself is too old to be kept.
    pub(super) fn recorded(
        &self,
        text: impl Into<String>,
        decision: Option<&'a Arc<Decision>>,
        at: Timestamp,
        cause: &Cause,
    ) -> Fact {
        let mut fact = self.fact(text, [decision.filter(|decision| decision.at == at)]);
        if fact.steps.is_empty() {
            let told = Told::Recorded { at, cause: cause.clone(), actor: self.actor(&cause.actor) };
            fact.steps.push(Step { depth: 0, revision: None, told });
            let mut told = BTreeSet::new();
            for revision in &cause.because {
                self.follow(*revision, 1, &mut told, &mut fact.steps);
            }
        }
        fact
    }

    /// What else was decided about an object, newest first.
    pub(super) fn earlier(&self, object: &Object, facts: &[Fact]) -> Option<Fact> {
        let told: BTreeSet<Revision> =
            facts.iter().flat_map(|fact| &fact.steps).filter_map(|step| step.revision).collect();
        let steps: Vec<Step> = self
            .all
            .iter()
            .rev()
            .filter(|decision| !told.contains(&decision.revision) && decision.concerns(object))
            .take(EARLIER_MAX)
            .map(|decision| self.step(decision, 0))
            .collect();
        (!steps.is_empty()).then(|| Fact { text: "earlier, newest first".to_owned(), steps })
    }

    fn step(&self, decision: &Arc<Decision>, depth: usize) -> Step {
        let actor = self.actor(&decision.cause.actor);
        let told = Told::Decision { decision: decision.clone(), actor };
        Step { depth, revision: Some(decision.revision), told }
    }

    fn tell(
        &self,
        decision: &'a Arc<Decision>,
        depth: usize,
        told: &mut BTreeSet<Revision>,
        steps: &mut Vec<Step>,
    ) {
        if steps.len() >= STEPS_MAX || !told.insert(decision.revision) {
            return;
        }
        steps.push(self.step(decision, depth));
        if depth < DEPTH_MAX {
            for revision in &decision.cause.because {
                // A cause lies before its effect: anything else would go in circles.
                if *revision < decision.revision {
                    self.follow(*revision, depth + 1, told, steps);
                }
            }
        }
    }

    fn follow(&self, revision: Revision, depth: usize, told: &mut BTreeSet<Revision>, steps: &mut Vec<Step>) {
        match self.get(revision) {
            Some(decision) => self.tell(decision, depth, told, steps),
            None if told.insert(revision) => {
                steps.push(Step { depth, revision: Some(revision), told: Told::Forgotten });
            }
            None => {}
        }
    }
}
