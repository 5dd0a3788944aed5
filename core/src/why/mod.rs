//! Why things are as they are: facts of the state, each with the decisions that made it so.
//!
//! Pure, and of the state alone: every node that has applied the same log gives the same text. What only one node sees
//! (whether a tunnel is alive, what a target's check says) is not here but in that node's status and journal.

mod about;
mod certificate;
mod history;
mod host;
mod node;
mod site;
mod text;

use std::sync::Arc;

pub use about::{About, FindError, Kind};

use crate::{
    access::Principal, command::Cause, decision::Decision, id::Revision, name::Slug, state::ClusterState,
    time::Timestamp,
};
use history::History;

/// The answer to "why".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked about, in words.
    pub about: String,
    /// The organisation that it belongs to; none = the cluster's.
    pub owner: Option<Slug>,
    /// What holds now, the most important first.
    pub facts: Vec<Fact>,
}

/// Something that holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// In words.
    pub text: String,
    /// The decisions that made it so, each followed by those that led to it.
    pub steps: Vec<Step>,
}

/// A decision on the way to a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// 0 = made the fact so; otherwise it led to the last step before it that is one less deep.
    pub depth: usize,
    /// Where it stands in the log; none if that is not known any more.
    pub revision: Option<Revision>,
    /// What is known of it.
    pub told: Told,
}

/// What is known of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// All of it; the actor by the names that nodes, keys and sites have or had.
    Decision {
        /// The decision.
        decision: Arc<Decision>,
        /// Who took it.
        actor: String,
    },
    /// It is too old to be kept, but its cause stands in the record that it changed.
    Recorded {
        /// When.
        at: Timestamp,
        /// Why.
        cause: Cause,
        /// Who took it.
        actor: String,
    },
    /// It is too old to be kept.
    Forgotten,
    /// It is about something that who asks may not see.
    Hidden,
}

/// Explains; none if nothing is known of what is asked about, now or earlier.
#[must_use]
pub fn why(state: &ClusterState, about: &About) -> Option<Explanation> {
    let history = History::of(state);
    match about {
        About::Node(id) => node::why(&history, *id),
        About::Site(id) => site::why(&history, *id),
        About::Host(name) => Some(host::why(&history, name)),
        About::Certificate(name) => certificate::why(&history, name),
    }
}

/// Names for the actors of several decisions.
pub struct Actors<'a>(History<'a>);

impl<'a> Actors<'a> {
    /// The names that are known in a state.
    #[must_use]
    pub fn of(state: &'a ClusterState) -> Self {
        Self(History::of(state))
    }

    /// Who is behind a decision, in words.
    #[must_use]
    pub fn text(&self, cause: &Cause) -> String {
        self.0.actor(&cause.actor)
    }
}

impl Explanation {
    /// The part that `principal` may see: of what is not theirs, only that there was a decision.
    #[must_use]
    pub fn seen_by(mut self, principal: &Principal) -> Self {
        for step in self.facts.iter_mut().flat_map(|fact| &mut fact.steps) {
            if let Told::Decision { decision, .. } = &mut step.told {
                match decision.seen_by(principal) {
                    Some(seen) => *decision = seen,
                    None => step.told = Told::Hidden,
                }
            }
        }
        self
    }
}
