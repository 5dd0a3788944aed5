//! One request on its way to a handler: who asks, for what, on which state.

use std::{str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method};
use pangolin_core::{
    Actor, Body, CatalogChange, Cause, ClusterState, Fence, Object, RequestId, Revision,
    access::{self, Principal},
};
use pangolin_raft::{Cluster, Proposal};
use pangolin_wire::{ApiWrite, Code, PAGE_MAX, Pagination};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::{
    failure::ApiFailure,
    service::{Caller, Credentials, NodePort},
    view::View,
};

/// How long a node waits until it has applied what a client has seen already, or has just written.
const APPLIED_MAX: Duration = Duration::from_secs(2);

/// Most characters of a path that are noted: longer ones lead nowhere.
const PATH_MAX: usize = 256;

/// How new the state has to be that a request is answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// As this node has it.
    Any,
    /// Not older than what the client has seen.
    AtLeast(Revision),
    /// With everything in it that was acknowledged before the request.
    Latest,
}

/// A request as it came in, before anything is known of the caller.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) caller: Caller,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) freshness: Freshness,
    /// The name that the client gave it, or was given.
    pub(crate) name: Uuid,
    pub(crate) request: RequestId,
    pub(crate) verb: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Bytes,
}

/// What all handlers share.
pub(crate) struct App {
    pub(crate) cluster: Cluster,
    pub(crate) node: Arc<dyn NodePort>,
}

/// A request of a caller who has proved who they are, on a state that is new enough.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    pub(crate) principal: Principal,
    pub(crate) state: Arc<ClusterState>,
    arrived: Arc<Arrived>,
    parameters: Vec<(&'static str, String)>,
}

/// A change that is committed and applied here.
pub(crate) struct Changed {
    made: Option<Object>,
    pub(crate) revision: Revision,
    pub(crate) state: Arc<ClusterState>,
}

impl Call {
    /// Authenticates the caller and waits for the state that they have seen already.
    pub(crate) async fn open(
        app: Arc<App>,
        arrived: Arc<Arrived>,
        parameters: Vec<(&'static str, String)>,
    ) -> Result<Self, ApiFailure> {
        let authenticate = || authenticate(&app.cluster.state(), &arrived);
        if arrived.freshness != Freshness::Any {
            // A key that was made a moment ago on another node is known here once this node has caught up; who
            // shows none at all does not wait.
            if matches!(arrived.caller.credentials, Credentials::Bearer) && arrived.authorization.is_none() {
                authenticate()?;
            }
            if let Err(stale) = catch_up(&app.cluster, arrived.freshness).await {
                authenticate()?;
                return Err(stale);
            }
        }
        let principal = authenticate()?;
        // A host has to get out of its cluster without another one's help.
        let leaves = arrived.path.ends_with("/cluster/leave");
        if !arrived.verb.is_safe() && !leaves && !app.node.takes_writes() {
            return Err(ApiFailure::new(
                Code::Conflict,
                "this node is a witness: it only votes, and takes no changes",
            )
            .hint("Ask a data node: `pangolinctl --endpoint https://HOST`, or on its host."));
        }
        let state = app.cluster.state();
        Ok(Self { app, principal, state, arrived, parameters })
    }

    /// What the caller may see.
    pub(crate) fn view(&self) -> View<'_> {
        View { state: &self.state, principal: &self.principal }
    }

    /// What the caller may see after a change.
    pub(crate) fn view_of<'a>(&'a self, changed: &'a Changed) -> View<'a> {
        View { state: &changed.state, principal: &self.principal }
    }

    /// Refuses those who may not see and change the cluster as a whole.
    pub(crate) fn administrator(&self) -> Result<(), ApiFailure> {
        if self.principal.is_administrator() {
            return Ok(());
        }
        Err(ApiFailure::new(Code::Forbidden, "this needs the right to administer the whole cluster")
            .hint("Use an API key whose reach is the cluster, or the local socket of a node."))
    }

    /// A parameter of the path.
    pub(crate) fn parameter<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &'static str,
    ) -> Result<T, ApiFailure> {
        let text = self.parameters.iter().find(|(known, _)| *known == name);
        let text = text.map(|(_, text)| text.as_str()).unwrap_or_default();
        text.parse().map_err(|error| ApiFailure::invalid(format!("{text:?} is not a {name}: {error}")))
    }

    /// The body as a request of the given type. No body at all is the same as an empty object.
    pub(crate) fn body<T: DeserializeOwned>(&self) -> Result<T, ApiFailure> {
        read_body(&self.arrived.body)
    }

    /// The part of a list that the query asks for.
    pub(crate) fn page<T>(
        &self,
        entries: impl Iterator<Item = T>,
    ) -> Result<(Vec<T>, Pagination), ApiFailure> {
        let (limit, offset) = self.limit_and("offset")?;
        let offset = offset.map_or(0, |offset| usize::try_from(offset).unwrap_or(usize::MAX));
        let mut total = 0;
        let mut page = Vec::new();
        for entry in entries {
            if total >= offset && page.len() < limit {
                page.push(entry);
            }
            total += 1;
        }
        Ok((page, Pagination { total, limit, offset }))
    }

    /// How many entries the query asks for, and the number that it gives under `other`.
    pub(crate) fn limit_and(&self, other: &str) -> Result<(usize, Option<u64>), ApiFailure> {
        let (mut limit, mut found) = (PAGE_MAX as u64, None);
        for pair in self.arrived.query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = || {
                value.parse::<u64>().map_err(|_| {
                    ApiFailure::invalid(format!("{name} is {value:?} in the query: it must be a number"))
                })
            };
            match name {
                "limit" => limit = number()?,
                name if name == other => found = Some(number()?),
                _ => {
                    return Err(ApiFailure::invalid(format!(
                        "{name:?} is not known in the query: this list takes limit and {other}"
                    )));
                }
            }
        }
        match usize::try_from(limit) {
            Ok(limit @ 1..=PAGE_MAX) => Ok((limit, found)),
            _ => Err(ApiFailure::invalid(format!("limit lies between 1 and {PAGE_MAX}"))),
        }
    }

    /// The values that the query gives under these names; no others are taken.
    pub(crate) fn query<const N: usize>(
        &self,
        known: [&'static str; N],
    ) -> Result<[Option<String>; N], ApiFailure> {
        let mut found = [const { None }; N];
        for (name, value) in form_urlencoded::parse(self.arrived.query.as_bytes()) {
            let Some(position) = known.iter().position(|known| *known == name) else {
                let name = name.chars().take(PATH_MAX).collect::<String>();
                let known = known.join(", ");
                return Err(ApiFailure::invalid(format!(
                    "{name:?} is not known in the query: it takes {known}"
                )));
            };
            found[position] = Some(value.into_owned());
        }
        Ok(found)
    }

    /// The request's name.
    pub(crate) fn request(&self) -> RequestId {
        self.arrived.request
    }

    /// Who is behind the request, and what it is.
    pub(crate) fn cause(&self) -> Cause {
        let Arrived { verb, path, caller, .. } = &*self.arrived;
        // A key that is gone later still has its name here; an operator's name is the actor's.
        let key = match &self.principal {
            Principal::ApiKey { id, .. } => self.state.api_keys().get(id),
            Principal::Operator(_) => None,
        };
        let whose = key.map(|key| format!(" with the API key {:?}", key.name)).unwrap_or_default();
        let from = caller.remote.map(|remote| format!(" from {}", remote.ip())).unwrap_or_default();
        Cause::new(self.actor(), format!("{verb} {path}{whose}{from}"))
    }

    fn actor(&self) -> Actor {
        match &self.principal {
            Principal::Operator(name) => Actor::Operator(name.clone()),
            Principal::ApiKey { id, .. } => Actor::ApiKey(id.clone()),
        }
    }

    /// What is to be noted of this request once it is answered; nothing of a read.
    pub(crate) fn audit(&self) -> Option<Audit> {
        let Arrived { verb, path, .. } = &*self.arrived;
        if verb.is_safe() {
            return None;
        }
        let write = ApiWrite {
            who: self.actor().to_string(),
            remote: self.arrived.caller.remote.map(|remote| remote.ip()),
            verb: verb.to_string(),
            path: path.chars().take(PATH_MAX).collect(),
            status: None,
            request_id: self.arrived.name.to_string(),
        };
        Some(Audit { app: self.app.clone(), write })
    }

    /// Refuses to remove what the caller does not see. A repeat finds it gone already and gets the first answer.
    pub(crate) fn may_remove(
        &self,
        seen: impl FnOnce(View<'_>) -> Result<(), ApiFailure>,
    ) -> Result<(), ApiFailure> {
        if self.state.outcome_of(self.request()).is_some() { Ok(()) } else { seen(self.view()) }
    }

    /// Changes the catalog; see [`Self::propose`].
    pub(crate) async fn change(&self, change: CatalogChange) -> Result<Changed, ApiFailure> {
        self.propose(Body::Catalog(Box::new(change))).await
    }

    /// Proposes a change under the request's name, and waits until it shows here. A handler does this once: a repeat
    /// of the request is answered with what became of it the first time.
    pub(crate) async fn propose(&self, body: Body) -> Result<Changed, ApiFailure> {
        let request = self.request();
        let (revision, outcome) = match self.state.outcome_of(request) {
            Some(known) => known,
            None => {
                let cause = self.cause();
                let proposal = Proposal { request: Some(request), cause, fence: Fence::None, body };
                let committed = self.app.cluster.propose(proposal).await?;
                (committed.revision, committed.outcome)
            }
        };
        let made = outcome.into_result()?;
        if self.app.cluster.wait_applied(revision, APPLIED_MAX).await.is_err() {
            return Err(ApiFailure::new(
                Code::NotVisibleYet,
                format!("the change is done at revision {revision}, but this node cannot show it yet"),
            )
            .hint("Repeat the request with the same Pangolin-Request-Id, here or at another node."));
        }
        Ok(Changed { made, revision, state: self.app.cluster.state() })
    }
}

/// A write on its way to its answer. It is noted also when the caller goes away before: then nobody has told them
/// whether it happened.
pub(crate) struct Audit {
    app: Arc<App>,
    write: ApiWrite,
}

impl Audit {
    /// The write has this answer.
    pub(crate) fn answered(mut self, status: u16) {
        self.write.status = Some(status);
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.app.node.audit(self.write.clone());
    }
}

impl Changed {
    /// What the change made, if it is of the kind that the handler expects.
    pub(crate) fn made<T>(&self, of_kind: impl FnOnce(&Object) -> Option<T>) -> Result<T, ApiFailure> {
        let made = self.made.as_ref().and_then(of_kind);
        made.ok_or_else(|| {
            ApiFailure::internal(format!("the change made {:?}, which is not expected", self.made))
        })
    }
}

/// Waits until this node's state is new enough.
async fn catch_up(cluster: &Cluster, freshness: Freshness) -> Result<(), ApiFailure> {
    let stale = match freshness {
        Freshness::Any => return Ok(()),
        Freshness::AtLeast(revision) => match cluster.wait_applied(revision, APPLIED_MAX).await {
            Ok(()) => return Ok(()),
            Err(_) => {
                let applied = cluster.state().revision();
                format!("this node has applied revision {applied}, and the request asks for {revision}")
            }
        },
        Freshness::Latest => match cluster.read_barrier(APPLIED_MAX).await {
            Ok(_) => return Ok(()),
            Err(not_yet) => format!("this node cannot show the latest state: {not_yet}"),
        },
    };
    Err(ApiFailure::new(Code::Behind, stale).hint("Repeat the request, or ask another node."))
}

fn authenticate(state: &ClusterState, arrived: &Arrived) -> Result<Principal, ApiFailure> {
    let refuse = |message: &str| {
        ApiFailure::new(Code::Unauthorized, message)
            .hint("Send an API key: `Authorization: Bearer ID.SECRET`. `pangolinctl key create` makes one.")
    };
    match &arrived.caller.credentials {
        Credentials::LocalOperator(name) => Ok(Principal::Operator(name.clone())),
        Credentials::Bearer => {
            let header = arrived.authorization.as_ref().ok_or_else(|| refuse("no API key was sent"))?;
            let (scheme, key) =
                header.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(refuse("the Authorization header does not hold a bearer key"));
            }
            access::principal_of_key(state, key.trim())
                .ok_or_else(|| refuse("the API key is not, or no longer, valid"))
        }
    }
}

/// The body of a request. No body at all is the same as an empty object.
pub(crate) fn read_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiFailure> {
    let body: &[u8] = if body.is_empty() { b"{}" } else { body };
    // Where a fault lies is looked up only when there is one: keeping track of it costs more than reading.
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let json = &mut serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut *json).map_err(|error| {
        let (path, error) = (error.path().to_string(), error.inner());
        ApiFailure::invalid(match (error.classify(), path.as_str()) {
            (serde_json::error::Category::Data, ".") => format!("the request is not acceptable: {error}"),
            (serde_json::error::Category::Data, path) => {
                format!("the request is not acceptable at {path}: {error}")
            }
            _ => format!("the body of the request is not JSON: {error}"),
        })
    })?;
    json.end().map_err(|error| {
        ApiFailure::invalid(format!("the body of the request goes on behind its JSON: {error}"))
    })?;
    Ok(value)
}
