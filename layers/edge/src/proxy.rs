//! One request, from the edge to a target and back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use pangolin_core::traffic::Balancing;
use tokio::time::sleep;

use crate::{
    balance::key_of,
    body::{ClientBody, EdgeBody, Replay, UpstreamBody},
    counters::bump,
    edge::World,
    headers::{self, ClientFields},
    limits::Permit,
    page::{self, Page},
    pool::{AcquireError, Lease, TargetPool},
    request::{Host, path_of},
    snapshot::Route,
    sticky,
    tries::{Failure, Next, Tries},
    upgrade,
    upstream::Protocol,
};

/// Who asks, and under which id.
pub(crate) struct Asker<'a> {
    pub(crate) fields: &'a ClientFields,
    pub(crate) host: &'a Host,
    pub(crate) request_id: &'a HeaderValue,
    pub(crate) permit: &'a Arc<Permit>,
}

/// Sends a request to a target of `route` and gives its response, or the page to show instead.
pub(crate) async fn forward(
    world: &Arc<World>,
    route: &Route,
    mut request: Request<Incoming>,
    asker: Asker<'_>,
) -> Result<Response<EdgeBody>, Page> {
    if route.targets.is_empty() {
        return Err(page::NO_TARGET);
    }
    let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| {
        request.version() == Version::HTTP_11 && headers::wanted_upgrade(request.headers()).is_some()
    });
    let mut outgoing = Outgoing::new(request, &asker, upgrade.is_some(), world.limits.body_timeout);
    let (key, new_cookie) = match route.balancing {
        Balancing::Cookie => outgoing.cookie.map_or_else(fresh_cookie, |number| (number, None)),
        _ => (key_of(asker.permit.source()), None),
    };
    let pick = route.pick(|| key);
    let mut tries = Tries::default();
    loop {
        let Some(index) = route.choose(&tries.failed, pick) else { return Err(page::NO_TARGET) };
        let pool = &route.targets[index];
        let protocol = Protocol::of(pool.target.method, outgoing.grpc);
        if upgrade.is_some() && protocol == Protocol::Http2 {
            return Err(page::NO_UPGRADE);
        }
        let next = match acquire(world, pool, protocol, &mut tries, (index, route)).await {
            Err(verdict) => verdict,
            Ok(lease) => match exchange(world, lease, &mut outgoing, protocol).await {
                Exchange::Answered(response, lease) => {
                    let mut response = finish(world, response, lease, upgrade, asker.permit)?;
                    if let Some(cookie) = new_cookie {
                        response.headers_mut().append(header::SET_COOKIE, cookie);
                    }
                    return Ok(response);
                }
                Exchange::Late => return Err(page::LATE),
                Exchange::NoBody => return Err(page::NO_BODY),
                Exchange::Broken { via, reused } => {
                    let failure = Failure { target: index, via, reused };
                    let next = tries.way_failed(Instant::now(), failure, world.connector.own_node());
                    if outgoing.can_be_sent() { (next, page::BROKEN) } else { (Next::GiveUp, page::BROKEN) }
                }
            },
        };
        match next {
            (Next::GiveUp, page) => return Err(page),
            (Next::Again, _) => {}
            (Next::After(pause), _) => sleep(pause).await,
        }
        bump(&world.counters.retries);
    }
}

/// A number for a browser that has none, and the cookie that keeps it.
fn fresh_cookie() -> (u64, Option<HeaderValue>) {
    let number = rand::random();
    (number, sticky::give(number))
}

/// A connection to a target, or what to do without.
async fn acquire(
    world: &World,
    pool: &Arc<TargetPool>,
    protocol: Protocol,
    tries: &mut Tries,
    (index, route): (usize, &Route),
) -> Result<Lease, (Next, Page)> {
    let error = match pool.acquire(&world.connector, protocol, &tries.exclude, tries.fresh).await {
        Ok(lease) => return Ok(lease),
        Err(AcquireError::Busy) => return Err((Next::GiveUp, page::BUSY)),
        Err(AcquireError::Dial(error)) => error,
    };
    bump(&world.counters.upstream_errors);
    tracing::debug!(target_id = %pool.target.id, resource = %route.resource, via = ?error.via, %error, "no connection");
    let now = Instant::now();
    let next = match error.via {
        Some(_) if error.by_target => {
            pool.note_failure();
            tries.target_failed(now, index)
        }
        Some(via) => {
            let failure = Failure { target: index, via, reused: false };
            tries.way_failed(now, failure, world.connector.own_node())
        }
        None => tries.no_path(now, index, route.targets.len(), pool.unreachable_for()),
    };
    Err((next, page::UNREACHABLE))
}

enum Exchange {
    Answered(Response<Incoming>, Lease),
    Broken {
        via: crate::dial::Via,
        reused: bool,
    },
    Late,
    /// The client did not send all of its request.
    NoBody,
}

/// Sends the request and waits for the head of the response, or until the way is known to be lost.
async fn exchange(world: &World, mut lease: Lease, outgoing: &mut Outgoing, protocol: Protocol) -> Exchange {
    let Some(request) = outgoing.request(protocol) else { return Exchange::Late };
    let lost = lease.link.lost.clone();
    let sent = {
        let sending = lease.send(request);
        tokio::pin!(sending);
        let answered = async {
            tokio::select! {
                biased;
                sent = &mut sending => Some(sent),
                () = lost.cancelled(), if outgoing.repeatable() => None,
            }
        };
        match tokio::time::timeout(world.limits.response_timeout, answered).await {
            Ok(sent) => Ok(sent),
            Err(_) => Err(Exchange::Late),
        }
    };
    let sent = match sent {
        Ok(sent) => sent,
        Err(late) => {
            lease.pool.note_failure();
            return late;
        }
    };
    let (via, reused) = (lease.link.via, lease.reused);
    match sent {
        Some(Ok(response)) => {
            // What a proxy before the target says when it reaches nobody (RFC 9110 §15.6.3 to §15.6.5).
            match response.status() {
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                    lease.pool.note_failure();
                }
                _ => lease.pool.note_success(),
            }
            return Exchange::Answered(response, lease);
        }
        // The only thing of ours that can fail in there is the body.
        Some(Err(error)) if error.error().is_user() => return Exchange::NoBody,
        Some(Err(mut error)) => {
            tracing::debug!(%via, reused, error = %error.error(), "connection broke before a response");
            if let Some(request) = error.take_message() {
                outgoing.give_back(request);
            }
            if !reused && !lost.is_cancelled() {
                lease.pool.note_failure();
            }
        }
        None => tracing::debug!(%via, "way lost before a response"),
    }
    lease.broken();
    Exchange::Broken { via, reused }
}

/// Makes the target's response the edge's.
fn finish(
    world: &Arc<World>,
    mut response: Response<Incoming>,
    lease: Lease,
    upgrade: Option<OnUpgrade>,
    permit: &Arc<Permit>,
) -> Result<Response<EdgeBody>, Page> {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let on_target = match (switched, upgrade) {
        (true, None) => return Err(page::BROKEN),
        (true, Some(client)) => Some((client, hyper::upgrade::on(&mut response))),
        (false, _) => None,
    };
    let (mut head, body) = response.into_parts();
    headers::clean_response(&mut head.headers, switched);
    head.headers.insert(headers::VIA, headers::way(lease.link.via));
    // hyper sets the version that the client speaks.
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let body = match on_target {
        Some((client, target)) => {
            upgrade::join(world, client, target, (Arc::clone(permit), lease));
            EdgeBody::empty()
        }
        None => EdgeBody::proxied(body, lease),
    };
    Ok(Response::from_parts(head, body))
}

/// A request as it goes to targets, as often as its method and body allow.
struct Outgoing {
    method: Method,
    path: PathAndQuery,
    host: HeaderValue,
    /// None once sent for the only time.
    headers: Option<HeaderMap>,
    body: OutgoingBody,
    grpc: bool,
    /// The number in the edge's own cookie.
    cookie: Option<u64>,
}

enum OutgoingBody {
    Empty,
    /// Idempotent: may be sent again (RFC 9110 §9.2.2).
    Replay(Replay),
    /// May be sent again only if it has come back unsent.
    Once(Option<ClientBody>),
}

impl Outgoing {
    fn new(request: Request<Incoming>, asker: &Asker<'_>, upgrade: bool, body_timeout: Duration) -> Self {
        let (head, body) = request.into_parts();
        let patience = (head.version != Version::HTTP_2).then_some(body_timeout);
        let body = ClientBody::new(body, patience);
        let mut headers = head.headers;
        let protocol = upgrade.then(|| headers::wanted_upgrade(&headers)).flatten();
        headers::clean_request(&mut headers, protocol);
        let cookie = sticky::take(&mut headers);
        headers::identify(&mut headers, asker.fields, &asker.host.value, asker.request_id);
        let grpc = headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        let body = if hyper::body::Body::is_end_stream(&body) {
            OutgoingBody::Empty
        } else if head.method.is_idempotent() {
            OutgoingBody::Replay(Replay::new(body))
        } else {
            OutgoingBody::Once(Some(body))
        };
        Self {
            method: head.method,
            path: path_of(&head.uri),
            host: asker.host.value.clone(),
            headers: Some(headers),
            body,
            grpc,
            cookie,
        }
    }

    /// Whether it may be sent again although it may have arrived.
    fn repeatable(&self) -> bool {
        match &self.body {
            OutgoingBody::Empty => self.method.is_idempotent(),
            OutgoingBody::Replay(replay) => replay.is_whole(),
            OutgoingBody::Once(_) => false,
        }
    }

    /// Whether it may be sent now: it is here, and either never arrived anywhere or repeatable.
    fn can_be_sent(&self) -> bool {
        self.headers.is_some()
            && match &self.body {
                OutgoingBody::Empty => true,
                OutgoingBody::Replay(replay) => replay.is_whole(),
                OutgoingBody::Once(body) => body.is_some(),
            }
    }

    /// The request for a connection that speaks `protocol`. None if it cannot be sent again.
    fn request(&mut self, protocol: Protocol) -> Option<Request<UpstreamBody>> {
        let mut headers = if self.repeatable() { self.headers.clone()? } else { self.headers.take()? };
        let body = match &mut self.body {
            OutgoingBody::Empty => UpstreamBody::Empty,
            OutgoingBody::Replay(replay) => UpstreamBody::Replay(replay.reader()),
            OutgoingBody::Once(body) => UpstreamBody::Once(body.take()?),
        };
        let (version, uri) = match protocol {
            Protocol::Http1 => {
                headers.insert(header::HOST, self.host.clone());
                (Version::HTTP_11, Uri::from(self.path.clone()))
            }
            Protocol::Http2 => {
                headers.remove(header::HOST);
                let mut parts = http::uri::Parts::default();
                parts.scheme = Some(Scheme::HTTP);
                parts.authority = Authority::try_from(self.host.as_bytes()).ok();
                parts.path_and_query = Some(self.path.clone());
                (Version::HTTP_2, Uri::from_parts(parts).ok()?)
            }
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.version_mut() = version;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Some(request)
    }

    /// Takes a request back that never left.
    fn give_back(&mut self, request: Request<UpstreamBody>) {
        let (head, body) = request.into_parts();
        self.headers = Some(head.headers);
        if let (UpstreamBody::Once(body), OutgoingBody::Once(slot)) = (body, &mut self.body) {
            *slot = Some(body);
        }
    }
}
