//! What was decided, and why: from this node's state alone, so that a node without contact answers as well.

use std::{sync::Arc, time::Duration};

use pangolin_core::{
    ClusterState, Revision,
    access::Principal,
    why::{About, Actors, FindError, Kind, why},
};
use pangolin_wire::{Code, Event, EventPage, Explanation, PAGE_MAX};
use tokio::time::{Instant, timeout_at};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure};

/// Longest that a request for events waits for the next one: clients give up after 10 s.
const WAIT_MAX: u64 = 8;
/// Events shown when nothing is said.
const EVENTS_DEFAULT: usize = 50;

pub(super) fn routes(routes: &mut Routes) {
    routes.get("/why", explain);
    routes.get("/events", events);
}

async fn explain(call: Call) -> Result<Answer, ApiFailure> {
    let [name, kind] = call.query(["name", "kind"])?;
    let name = name.ok_or_else(|| ApiFailure::invalid("the query gives no name to ask about"))?;
    let kind = kind.map(|kind| kind_of(&kind)).transpose()?;
    let about = About::find(&call.state, &call.principal, kind, &name).map_err(not_found)?;
    let explanation = why(&call.state, &about).ok_or_else(|| {
        ApiFailure::new(Code::NotFound, format!("nothing is known of {name:?}, now or earlier"))
    })?;
    let explanation = Explanation::new(&explanation.seen_by(&call.principal));
    Answer::ok(call.state.revision(), format!("why {}", explanation.about), &explanation)
}

fn kind_of(text: &str) -> Result<Kind, ApiFailure> {
    match text {
        "host" => Ok(Kind::Host),
        "site" => Ok(Kind::Site),
        "certificate" => Ok(Kind::Certificate),
        "node" => Ok(Kind::Node),
        _ => Err(ApiFailure::invalid(format!("kind is {text:?}: it is host, site, certificate or node"))),
    }
}

fn not_found(error: FindError) -> ApiFailure {
    let code = match &error {
        FindError::Unknown { .. } => Code::NotFound,
        FindError::Ambiguous { .. } | FindError::Invalid(_) => Code::Invalid,
    };
    ApiFailure::new(code, error.to_string())
}

async fn events(call: Call) -> Result<Answer, ApiFailure> {
    let [since, limit, wait] = call.query(["since", "limit", "wait"])?;
    let since = since.map(|text| revision(&text, call.state.revision().lineage)).transpose()?;
    let limit = match limit {
        None => EVENTS_DEFAULT,
        Some(text) => text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit)).ok_or_else(|| {
            ApiFailure::invalid(format!("limit is {text:?}: it lies between 1 and {PAGE_MAX}"))
        })?,
    };
    let wait = match wait {
        None => 0,
        Some(text) => text.parse().ok().filter(|wait| *wait <= WAIT_MAX).ok_or_else(|| {
            ApiFailure::invalid(format!("wait is {text:?}: it is a number of seconds, at most {WAIT_MAX}"))
        })?,
    };
    let (state, page) = wait_for_events(&call, since, limit, Duration::from_secs(wait)).await;
    Answer::ok(state.revision(), "events", &page)
}

/// `LINEAGE.INDEX`, or an index alone in the lineage of now.
fn revision(text: &str, lineage: u64) -> Result<Revision, ApiFailure> {
    let index = text.parse().map(|index| Revision { lineage, index });
    index
        .or_else(|_| text.parse())
        .map_err(|error| ApiFailure::invalid(format!("since is {text:?}: {error}")))
}

/// What is there, or what comes first within `wait`.
async fn wait_for_events(
    call: &Call,
    since: Option<Revision>,
    limit: usize,
    wait: Duration,
) -> (Arc<ClusterState>, EventPage) {
    let end = Instant::now() + wait;
    let mut states = call.app.cluster.watch();
    let stopping = call.app.node.stopping();
    tokio::pin!(stopping);
    loop {
        let state = states.borrow_and_update().clone();
        let page = page(&state, &call.principal, since, limit);
        if !page.events.is_empty() || page.missing_up_to.is_some() || Instant::now() >= end {
            return (state, page);
        }
        tokio::select! {
            changed = timeout_at(end, states.changed()) => if !matches!(changed, Ok(Ok(()))) {
                return (state, page);
            },
            // Whoever follows goes on at another node.
            () = &mut stopping => return (state, page),
        }
    }
}

/// The events behind `since` that the caller may see, or the newest ones.
fn page(state: &ClusterState, principal: &Principal, since: Option<Revision>, limit: usize) -> EventPage {
    let decisions = state.decisions();
    let seen = decisions.since(since.unwrap_or_default());
    let mut seen: Vec<_> = seen.into_iter().filter_map(|decision| decision.seen_by(principal)).collect();
    let more = since.is_some() && seen.len() > limit;
    if since.is_none() {
        seen.drain(..seen.len().saturating_sub(limit));
    }
    seen.truncate(limit);
    // All that this state knows has been looked at, whether or not the caller may see it.
    let next = match seen.last() {
        Some(last) if more => last.revision,
        _ => since.unwrap_or_default().max(state.revision()),
    };
    let missing_up_to =
        since.map(|since| (since, decisions.forgotten())).filter(|(since, forgotten)| forgotten > since);
    let actors = Actors::of(state);
    let events = seen.iter().map(|decision| Event::new(decision, actors.text(&decision.cause))).collect();
    EventPage { events, more, next, missing_up_to: missing_up_to.map(|(_, forgotten)| forgotten) }
}
