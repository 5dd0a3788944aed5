//! The route table: one file per noun, each with its handlers and what its objects look like on the wire.
//!
//! Every route is a boxed filter with the same types, so that warp's types stay small, and handlers answer errors as
//! values: a rejection means "not this route" and nothing else. One `recover` at the end speaks for all rejections.

mod backup;
mod certificate;
mod cluster;
mod credentials;
mod dns;
mod domain;
mod fabric;
mod key;
mod keyring;
mod node;
mod org;
mod resource;
mod role;
mod signing;
mod site;
mod target;
mod token;
mod traffic;
mod user;
mod why;

use std::{convert::Infallible, future::Future, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Method};
use pangolin_raft::Cluster;
use pangolin_wire::{BASE_PATH, Code};
use warp::{
    Filter, Rejection,
    filters::{BoxedFilter, path::FullPath},
    reply::Response,
};

use crate::{
    answer::{Answer, respond},
    call::{App, Arrived, Call},
    failure::ApiFailure,
    service::NodePort,
};

/// A filter that answers some requests and rejects the others.
pub(crate) type Route = BoxedFilter<(Response,)>;
type Handler = Arc<dyn Fn(Call) -> BoxFuture<'static, Result<Answer, ApiFailure>> + Send + Sync>;
/// All routes, and warp behind them.
pub(crate) struct Door {
    pub(crate) table: Vec<(Method, &'static str)>,
    /// One for each line of the table.
    filters: Vec<Route>,
    /// All of them in turn: says what is wrong with a request that none takes.
    all: Route,
}

impl Door {
    /// The filter that takes a request. warp tries its filters one after the other, each with a future of its own,
    /// which costs more than all the rest of a small request: so the table says which one it is.
    pub(crate) fn filter(&self, verb: &Method, path: &str) -> Route {
        let line = path.strip_prefix(BASE_PATH).and_then(|path| {
            let mut lines = self.table.iter().zip(&self.filters);
            lines.find(|((known, pattern), _)| known == verb && matched(pattern, path).is_some())
        });
        line.map_or(&self.all, |(_, filter)| filter).clone()
    }

    /// The verbs that a path takes; none if there is no such path.
    pub(crate) fn allowed(&self, path: &str) -> Option<HeaderValue> {
        let path = path.strip_prefix(BASE_PATH)?;
        let fitting = self.table.iter().filter(|(_, pattern)| matched(pattern, path).is_some());
        let mut verbs: Vec<&str> = fitting.map(|(verb, _)| verb.as_str()).collect();
        verbs.dedup();
        HeaderValue::from_str(&verbs.join(", ")).ok().filter(|_| !verbs.is_empty())
    }
}

/// What stands in the place of `{…}`, if the path is of the pattern. One slash at its end does not count.
fn matched(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut path = path.strip_suffix('/').unwrap_or(path).split('/');
    for want in pattern.split('/') {
        let have = path.next()?;
        match want.starts_with('{') {
            true if have.is_empty() => return None,
            true => found.push(have.to_owned()),
            false if want != have => return None,
            false => {}
        }
    }
    path.next().is_none().then_some(found)
}

/// Opens all routes.
pub(crate) fn open(cluster: Cluster, node: Arc<dyn NodePort>) -> Door {
    let app = Arc::new(App { cluster, node });
    let nouns: [fn(&mut Routes); 19] = [
        cluster::routes,
        token::routes,
        // Before the nodes, for the same reason as the journal.
        backup::routes,
        node::routes,
        org::routes,
        user::routes,
        role::routes,
        key::routes,
        keyring::routes,
        site::routes,
        domain::routes,
        resource::routes,
        target::routes,
        dns::routes,
        signing::routes,
        why::routes,
        certificate::routes,
        traffic::routes,
        fabric::routes,
    ];
    let mut table = Vec::new();
    let mut filters: Vec<Route> = vec![cluster::health(&app)];
    table.push((Method::GET, cluster::HEALTH));
    for noun in nouns {
        let mut routes = Routes { app: app.clone(), table: Vec::new(), filters: Vec::new() };
        noun(&mut routes);
        table.extend(routes.table);
        filters.extend(routes.filters);
    }
    let all = any_of(filters.clone()).unwrap_or_else(|| warp::any().and_then(nowhere).boxed());
    let spoken_for = |route: Route| route.recover(recover).unify().boxed();
    Door { table, filters: filters.into_iter().map(spoken_for).collect(), all: spoken_for(all) }
}

/// A filter that tries one after the other.
fn any_of(filters: Vec<Route>) -> Option<Route> {
    filters.into_iter().reduce(|one, other| one.or(other).unify().boxed())
}

async fn nowhere() -> Result<Response, Rejection> {
    Err(warp::reject::not_found())
}

async fn recover(rejection: Rejection) -> Result<Response, Infallible> {
    let failure = if rejection.is_not_found() {
        ApiFailure::new(Code::NotFound, "there is no such route")
            .hint(format!("Routes begin with {BASE_PATH}."))
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        ApiFailure::new(Code::MethodNotAllowed, "this route does not take this verb").hint(
            "PUT creates, POST updates, GET reads, DELETE removes; the header Allow names those it takes.",
        )
    } else {
        tracing::warn!(?rejection, "a request of the API was rejected in a way that has no answer");
        ApiFailure::internal("the request was rejected")
    };
    // The response is made where the request's name is known.
    let mut response = Response::default();
    response.extensions_mut().insert(failure);
    Ok(response)
}

/// The routes of one noun.
pub(crate) struct Routes {
    app: Arc<App>,
    table: Vec<(Method, &'static str)>,
    filters: Vec<Route>,
}

impl Routes {
    /// `GET` reads.
    fn get<F, R>(&mut self, path: &'static str, handler: F)
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Answer, ApiFailure>> + Send + 'static,
    {
        self.add(Method::GET, path, warp::get().boxed(), handler);
    }

    /// `PUT` creates.
    fn put<F, R>(&mut self, path: &'static str, handler: F)
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Answer, ApiFailure>> + Send + 'static,
    {
        self.add(Method::PUT, path, warp::put().boxed(), handler);
    }

    /// `POST` updates.
    fn post<F, R>(&mut self, path: &'static str, handler: F)
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Answer, ApiFailure>> + Send + 'static,
    {
        self.add(Method::POST, path, warp::post().boxed(), handler);
    }

    /// `DELETE` removes.
    fn delete<F, R>(&mut self, path: &'static str, handler: F)
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Answer, ApiFailure>> + Send + 'static,
    {
        self.add(Method::DELETE, path, warp::delete().boxed(), handler);
    }

    fn add<F, R>(&mut self, verb: Method, path: &'static str, filter: BoxedFilter<()>, handler: F)
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Answer, ApiFailure>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |call| handler(call).boxed());
        let app = self.app.clone();
        let route = at(path).and(filter).and(arrived()).then(move |parameters: Vec<String>, arrived| {
            enter(app.clone(), handler.clone(), path, parameters, arrived)
        });
        self.table.push((verb, path));
        self.filters.push(route.boxed());
    }
}

async fn enter(
    app: Arc<App>,
    handler: Handler,
    path: &'static str,
    parameters: Vec<String>,
    arrived: Arc<Arrived>,
) -> Response {
    let name = arrived.name;
    let parameters = names(path).zip(parameters).collect();
    let result = match Call::open(app, arrived, parameters).await {
        Ok(call) => {
            let audit = call.audit();
            let result = handler(call).await;
            if let Some(audit) = audit {
                audit.answered(match &result {
                    Ok(answer) => answer.status().as_u16(),
                    Err(failure) => failure.code.status(),
                });
            }
            result
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &result
        && failure.code == Code::Internal
    {
        tracing::warn!(request = %name, path, %failure, "a request of the API failed");
    }
    respond(result, name)
}

/// Matches a path below [`BASE_PATH`], and takes out what stands in the place of `{…}`.
fn at(pattern: &'static str) -> BoxedFilter<(Vec<String>,)> {
    let take = move |path: FullPath| {
        let found = path.as_str().strip_prefix(BASE_PATH).and_then(|path| matched(pattern, path));
        std::future::ready(found.ok_or_else(warp::reject::not_found))
    };
    warp::path::full().and_then(take).boxed()
}

/// The names in a path's braces.
fn names(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn arrived() -> impl Filter<Extract = (Arc<Arrived>,), Error = Rejection> + Clone {
    warp::ext::get::<Arc<Arrived>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_whole_paths_and_gives_what_stands_in_its_braces() {
        let found = |pattern, path| matched(pattern, path).map(|found| found.join(","));
        let cases = [
            ("/orgs", "/orgs", Some("")),
            ("/orgs", "/orgs/", Some("")),
            ("/orgs", "/orgs//", None),
            ("/orgs", "/org", None),
            ("/orgs", "orgs", None),
            ("/orgs", "/orgs/x", None),
            ("/org/{orgId}", "/org/lab", Some("lab")),
            ("/org/{orgId}", "/org/", None),
            ("/org/{orgId}/site/{niceId}", "/org/lab/site/a%20b", Some("lab,a%20b")),
            ("/org/{orgId}/site/{niceId}", "/org//site/x", None),
        ];
        for (pattern, path, wanted) in cases {
            assert_eq!(found(pattern, path).as_deref(), wanted, "{pattern} {path}");
        }
    }
}
