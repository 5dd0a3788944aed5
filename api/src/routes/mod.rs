//! The route table: one file per noun, each with its handlers and what its objects look like on the wire.
//!
//! Every route is a boxed filter with the same types, so that warp's types stay small, and handlers answer errors as
//! values: a rejection means "not this route" and nothing else. One `recover` at the end speaks for all rejections.

mod backup;
mod cluster;
mod credentials;
mod domain;
mod key;
mod node;
mod org;
mod resource;
mod role;
mod site;
mod target;
mod token;
mod user;
mod why;

use std::{convert::Infallible, future::Future, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Method};
use pangolin_raft::Cluster;
use pangolin_wire::{BASE_PATH, Code};
use warp::{Filter, Rejection, filters::BoxedFilter, reply::Response};

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
    pub(crate) filters: Route,
}

impl Door {
    /// The verbs that a path takes; none if there is no such path.
    pub(crate) fn allowed(&self, path: &str) -> Option<HeaderValue> {
        let path = path.strip_prefix(BASE_PATH)?;
        let fits = |pattern: &str| {
            let (mut pattern, mut path) = (pattern.split('/'), path.trim_end_matches('/').split('/'));
            loop {
                match (pattern.next(), path.next()) {
                    (None, None) => return true,
                    (Some(want), Some(have)) if want == have || want.starts_with('{') => {}
                    _ => return false,
                }
            }
        };
        let mut verbs: Vec<&str> =
            self.table.iter().filter(|(_, pattern)| fits(pattern)).map(|(verb, _)| verb.as_str()).collect();
        verbs.dedup();
        HeaderValue::from_str(&verbs.join(", ")).ok().filter(|_| !verbs.is_empty())
    }
}

/// Opens all routes.
pub(crate) fn open(cluster: Cluster, node: Arc<dyn NodePort>) -> Door {
    let app = Arc::new(App { cluster, node });
    let nouns: [fn(&mut Routes); 13] = [
        cluster::routes,
        token::routes,
        // Before the nodes, for the same reason as the journal.
        backup::routes,
        node::routes,
        org::routes,
        user::routes,
        role::routes,
        key::routes,
        site::routes,
        domain::routes,
        resource::routes,
        target::routes,
        why::routes,
    ];
    let mut table = Vec::new();
    let mut filters: Vec<Route> = vec![cluster::health(&app)];
    table.push((Method::GET, cluster::HEALTH));
    for noun in nouns {
        let mut routes = Routes { app: app.clone(), table: Vec::new(), filters: Vec::new() };
        noun(&mut routes);
        table.extend(routes.table);
        filters.extend(any_of(routes.filters));
    }
    let all = any_of(filters).unwrap_or_else(|| warp::any().and_then(nowhere).boxed());
    Door { table, filters: all.recover(recover).unify().boxed() }
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
fn at(path: &'static str) -> BoxedFilter<(Vec<String>,)> {
    let segments = BASE_PATH.split('/').chain(path.split('/')).filter(|segment| !segment.is_empty());
    let start = warp::any().map(Vec::new).boxed();
    let all = segments.fold(start, |filter, segment| {
        if segment.starts_with('{') {
            filter
                .and(warp::path::param::<String>())
                .map(|mut found: Vec<String>, text| {
                    found.push(text);
                    found
                })
                .boxed()
        } else {
            filter.and(warp::path(segment)).boxed()
        }
    });
    all.and(warp::path::end()).boxed()
}

/// The names in a path's braces.
fn names(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn arrived() -> impl Filter<Extract = (Arc<Arrived>,), Error = Rejection> + Clone {
    warp::ext::get::<Arc<Arrived>>()
}
