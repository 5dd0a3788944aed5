//! What was decided and why: `GET /why` and `GET /events`.

use pangolin_core::{Decision, Revision, Slug, outcome::Object, why};
use serde::{Deserialize, Serialize};

use crate::{Moment, cluster::optional_revision, text};

/// Answer of `GET /why`: the same from every node that has applied the same log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What was asked about.
    pub about: String,
    /// What holds now, the most important first.
    pub facts: Vec<Fact>,
    /// All of it as text.
    pub text: String,
}

/// Something that holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fact {
    /// In words.
    pub text: String,
    /// The decisions that made it so, each followed by those that led to it.
    pub steps: Vec<Step>,
}

/// A decision on the way to a fact. Of one that is too old to be kept, or that is not for the asker's eyes, only the
/// place is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// 0 = made the fact so; otherwise it led to the last step before it that is one less deep.
    pub depth: usize,
    /// Where it stands in the log.
    #[serde(default, with = "optional_revision")]
    pub revision: Option<Revision>,
    /// When, as the log tells time.
    pub at: Option<Moment>,
    /// Term of the leader then.
    pub term: Option<u64>,
    /// The cluster did it by itself; otherwise an operator wanted it.
    pub automatic: Option<bool>,
    /// Who took it.
    pub actor: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// What it changed.
    pub what: Option<String>,
}

/// Answer of `GET /events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventPage {
    /// The decisions, oldest first.
    pub events: Vec<Event>,
    /// Behind these there are more already.
    pub more: bool,
    /// Where to go on: what comes next is behind this revision, on every node.
    #[serde(with = "text")]
    pub next: Revision,
    /// Of what lies between the revision asked from and this one, not all is kept any more; none = nothing is missing.
    #[serde(default, with = "optional_revision")]
    pub missing_up_to: Option<Revision>,
}

/// A decision: a change of the cluster's state, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Where it stands in the log.
    #[serde(with = "text")]
    pub revision: Revision,
    /// When, as the log tells time.
    pub at: Moment,
    /// Term of the leader then; none before the first.
    pub term: Option<u64>,
    /// The cluster did it by itself; otherwise an operator wanted it.
    pub automatic: bool,
    /// Who took it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The earlier decisions that led to it, nearest first.
    pub because: Vec<String>,
    /// What it changed, in words.
    pub what: String,
    /// What it is about.
    pub subjects: Vec<EventSubject>,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventSubject {
    /// Which kind of thing: `node`, `site`, `resource` …
    pub kind: String,
    /// Its id; none of the cluster itself.
    pub id: Option<String>,
    /// Its name then.
    pub name: String,
    /// The organisation that it belongs to.
    pub org_id: Option<Slug>,
}

impl Explanation {
    /// What is sent of an explanation.
    #[must_use]
    pub fn new(explanation: &why::Explanation) -> Self {
        let fact = |fact: &why::Fact| Fact {
            text: fact.text.clone(),
            steps: fact.steps.iter().map(Step::new).collect(),
        };
        Self {
            about: explanation.about.clone(),
            facts: explanation.facts.iter().map(fact).collect(),
            text: explanation.to_string(),
        }
    }
}

impl Step {
    fn new(step: &why::Step) -> Self {
        let why::Step { depth, revision, told } = step;
        let nothing = Self {
            depth: *depth,
            revision: *revision,
            at: None,
            term: None,
            automatic: None,
            actor: None,
            reason: None,
            what: None,
        };
        match told {
            why::Told::Decision { decision, actor } => Self {
                at: Some(decision.at.into()),
                term: decision.term,
                automatic: Some(!decision.cause.actor.is_operator()),
                actor: Some(actor.clone()),
                reason: Some(decision.cause.reason.clone()),
                what: Some(decision.text()),
                ..nothing
            },
            why::Told::Recorded { at, cause, actor } => Self {
                at: Some((*at).into()),
                automatic: Some(!cause.actor.is_operator()),
                actor: Some(actor.clone()),
                reason: Some(cause.reason.clone()),
                ..nothing
            },
            why::Told::Forgotten | why::Told::Hidden => nothing,
        }
    }
}

impl Event {
    /// What is sent of a decision that `actor` took.
    #[must_use]
    pub fn new(decision: &Decision, actor: String) -> Self {
        let subjects = decision.changes.iter().map(|change| {
            let (kind, id) = kind_and_id(&change.subject.object);
            EventSubject {
                kind: kind.to_owned(),
                id,
                name: change.subject.name.clone(),
                org_id: change.subject.org.clone(),
            }
        });
        let mut distinct: Vec<EventSubject> = Vec::new();
        for subject in subjects {
            if !distinct.contains(&subject) {
                distinct.push(subject);
            }
        }
        Self {
            revision: decision.revision,
            at: decision.at.into(),
            term: decision.term,
            automatic: !decision.cause.actor.is_operator(),
            actor,
            reason: decision.cause.reason.clone(),
            because: decision.cause.because.iter().map(ToString::to_string).collect(),
            what: decision.text(),
            subjects: distinct,
        }
    }
}

fn kind_and_id(object: &Object) -> (&'static str, Option<String>) {
    match object {
        Object::Cluster => ("cluster", None),
        Object::Node(id) => ("node", Some(id.to_string())),
        Object::Token(id) => ("token", Some(id.to_string())),
        Object::Org(id) => ("org", Some(id.to_string())),
        Object::User(id) => ("user", Some(id.to_string())),
        Object::Role(id) => ("role", Some(id.to_string())),
        Object::ApiKey(id) => ("key", Some(id.clone())),
        Object::Site(id) => ("site", Some(id.to_string())),
        Object::Domain(id) => ("domain", Some(id.to_string())),
        Object::Resource(id) => ("resource", Some(id.to_string())),
        Object::Target(id) => ("target", Some(id.to_string())),
        Object::RecordSet(name) => ("recordSet", Some(name.to_string())),
        Object::Certificate(id) => ("certificate", Some(id.to_string())),
        Object::Issuer(name) => ("issuer", Some(name.to_string())),
        Object::ProvisioningKey(id) => ("provisioningKey", Some(id.clone())),
    }
}
