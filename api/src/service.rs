//! The API as a service: one request in, one response out.

use std::{error::Error, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::{Buf, BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, combinators::UnsyncBoxBody};
use pangolin_core::{
    Cause, ClusterState, NodeId, RequestId, Slug,
    id::ClientId,
    record::{NodeRole, Target},
};
use pangolin_raft::Cluster;
use pangolin_wire::{
    ApiWrite, ClusterStatus, Code, CreatedToken, JournalPage, LATEST, MIN_REVISION_HEADER, REQUEST_BODY_MAX,
    REQUEST_ID_HEADER, TargetState,
};
use sha2::{Digest as _, Sha256};
use tower::Service as _;
use uuid::Uuid;

use crate::{
    answer,
    backups::BackupPort,
    call::{Arrived, Freshness},
    certificates::CertificatePort,
    failure::ApiFailure,
    keyring::KeyringPort,
    routes::{self, Door},
    zones::DnsPort,
};

/// Longest that a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body that is too large is read up to this many bytes before the client is told.
const DISCARDED_MAX: usize = 8 * 1024 * 1024;

/// Body of the API's responses.
pub type ResponseBody = UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>;

/// What a new join token is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// What the joiner becomes.
    pub role: NodeRole,
    /// How long it is good for.
    pub lifetime: Duration,
    /// The node whose place the joiner takes.
    pub replaces: Option<NodeId>,
}

/// What the API needs of the node beyond the cluster's state and log.
pub trait NodePort: Send + Sync + 'static {
    /// How the cluster is: the same answer on every node, because the leader is asked. An error only where this
    /// node has nothing to tell of its own either.
    fn status(&self) -> BoxFuture<'_, Result<ClusterStatus, ApiFailure>>;

    /// Whether changes may come in through this node: a witness only votes.
    fn takes_writes(&self) -> bool;

    /// Makes a join token. The secret is sealed by the node, so it is not a proposal of the API's own.
    fn create_token(
        &self,
        wanted: NewToken,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<CreatedToken, ApiFailure>>;

    /// Takes a node, or this one, out of the cluster for good, and waits until it is gone.
    fn leave(
        &self,
        node: Option<NodeId>,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>>;

    /// Lets a learner vote, and waits until it does.
    fn promote(
        &self,
        node: NodeId,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>>;

    /// Takes the cluster of this name apart until this node alone is left, and waits for that.
    fn disband(
        &self,
        cluster: Slug,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>>;

    /// Hands leadership to `to`, or to the best voter, and answers who leads then.
    fn transfer_leader(
        &self,
        to: Option<NodeId>,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<NodeId, ApiFailure>>;

    /// Closes the rolling upgrade that is under way, and raises the feature level to what all nodes understand.
    fn finish_upgrade(&self, cause: Cause) -> BoxFuture<'_, Result<(), ApiFailure>>;

    /// Its backups.
    fn backups(&self) -> &dyn BackupPort;

    /// Its DNS.
    fn dns(&self) -> &dyn DnsPort;

    /// Its keyring.
    fn keyring(&self) -> &dyn KeyringPort;

    /// Keys and certificates that come in from operators.
    fn certificates(&self) -> &dyn CertificatePort;

    /// How a target stands, as this node sees it; none from a node that carries no traffic.
    fn target_state(&self, state: &ClusterState, target: &Target) -> Option<TargetState>;

    /// Takes note of a write that was asked for, as the last thing before its answer. Must not block.
    fn audit(&self, write: ApiWrite);

    /// Resolves when this node is about to stop: whoever waits for something is answered then.
    fn stopping(&self) -> BoxFuture<'_, ()>;

    /// Reads this node's journal: at most `limit` entries behind `after`, or the newest ones.
    fn journal(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<JournalPage, ApiFailure>>;
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub struct Caller {
    /// How the caller proves who they are.
    pub credentials: Credentials,
    /// Address of the client, as far as it is known.
    pub remote: Option<SocketAddr>,
}

/// How a caller proves who they are.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// By the API key in the `Authorization` header.
    Bearer,
    /// By being let through to the node's local socket; the name says who it is, for causes and logs.
    LocalOperator(String),
}

/// The API. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    door: Arc<Door>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// The API of a node.
    pub fn new(cluster: Cluster, node: Arc<dyn NodePort>) -> Self {
        Self { door: Arc::new(routes::open(cluster, node)) }
    }

    /// Verb and path of every route, for documents and tests; parameters are in braces.
    #[must_use]
    pub fn routes(&self) -> &[(http::Method, &'static str)] {
        &self.door.table
    }

    /// Answers a request.
    pub async fn call<B>(&self, request: Request<B>, caller: Caller) -> Response<ResponseBody>
    where
        B: http_body::Body + Send,
        B::Data: Buf + Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let (request_id, given) = match request_id(&head.headers) {
            Ok(Some(id)) => (id, Ok(())),
            Ok(None) => (Uuid::new_v4(), Ok(())),
            Err(failure) => (Uuid::new_v4(), Err(failure)),
        };
        let arrived = async {
            given?;
            let freshness = freshness(&head.headers)?;
            let body = read(body).await?;
            Ok(Arrived {
                caller,
                authorization: head.headers.get(header::AUTHORIZATION).cloned(),
                freshness,
                name: request_id,
                request: request_of(request_id, &head, &body),
                verb: head.method.clone(),
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                body,
            })
        };
        let response = match arrived.await {
            Err(failure) => answer::respond(Err(failure), request_id),
            Ok(arrived) => {
                let mut request = Request::new(Empty::<Bytes>::new());
                *request.method_mut() = head.method.clone();
                *request.uri_mut() = head.uri.clone();
                request.extensions_mut().insert(Arc::new(arrived));
                let filter = self.door.filter(&head.method, head.uri.path());
                match warp::service(filter).call(request).await {
                    Ok(mut response) => match response.extensions_mut().remove::<ApiFailure>() {
                        Some(failure) => answer::respond(Err(failure), request_id),
                        None => response,
                    },
                    Err(never) => match never {},
                }
            }
        };
        let mut response = response.map(|body| {
            body.map_err(|error| -> Box<dyn Error + Send + Sync> { Box::new(error) }).boxed_unsync()
        });
        if let Ok(value) = HeaderValue::from_str(&request_id.to_string()) {
            response.headers_mut().insert(REQUEST_ID_HEADER, value);
        }
        if response.status() == StatusCode::METHOD_NOT_ALLOWED
            && let Some(allowed) = self.door.allowed(head.uri.path())
        {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        tracing::debug!(
            method = %head.method, path = head.uri.path(), status = response.status().as_u16(), %request_id,
            "API request"
        );
        response
    }
}

/// The request as the log knows it: a client of its own, made of its name, of what is asked and by whom. So a name that
/// is used again for something else, or by somebody else, is not answered as if that had been done.
fn request_of(id: Uuid, head: &http::request::Parts, body: &[u8]) -> RequestId {
    let mut content = Sha256::new();
    let key = head.headers.get(header::AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
    for part in [id.as_bytes(), head.method.as_str().as_bytes(), head.uri.path().as_bytes(), key, body] {
        content.update((part.len() as u64).to_le_bytes());
        content.update(part);
    }
    let digest: [u8; 32] = content.finalize().into();
    RequestId { client: ClientId(digest.first_chunk().copied().unwrap_or_default()), serial: 1 }
}

/// The name that the client gave its request.
fn request_id(headers: &HeaderMap) -> Result<Option<Uuid>, ApiFailure> {
    let Some(value) = headers.get(REQUEST_ID_HEADER) else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| Uuid::try_parse(text).ok()).filter(|id| !id.is_nil());
    match id {
        Some(id) => Ok(Some(id)),
        None => Err(ApiFailure::invalid("the header Pangolin-Request-Id is not a UUID")
            .hint("Make a fresh random one for each request, and send the same one with its repeats.")),
    }
}

fn freshness(headers: &HeaderMap) -> Result<Freshness, ApiFailure> {
    let Some(value) = headers.get(MIN_REVISION_HEADER) else { return Ok(Freshness::Any) };
    let text = value.to_str().unwrap_or_default();
    if text == LATEST {
        return Ok(Freshness::Latest);
    }
    text.parse().map(Freshness::AtLeast).map_err(|error| {
        ApiFailure::invalid(format!("the header Pangolin-Min-Revision is {text:?}: {error}, or \"latest\""))
    })
}

/// All of a body; none if it is larger than any that is taken. One that is too large is read on for a while: a client
/// that still writes when the connection is closed never sees the answer.
async fn collect<B: http_body::Body>(body: B) -> Result<Option<Bytes>, B::Error> {
    let mut body = pin!(body);
    let (mut kept, mut length) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        length += data.remaining();
        if length <= REQUEST_BODY_MAX {
            kept.put(data);
        } else if length > DISCARDED_MAX {
            break;
        }
    }
    Ok((length <= REQUEST_BODY_MAX).then(|| kept.freeze()))
}

async fn read<B>(body: B) -> Result<Bytes, ApiFailure>
where
    B: http_body::Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match tokio::time::timeout(BODY_TIMEOUT, collect(body)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(ApiFailure::new(
            Code::TooLarge,
            format!("the body of the request is larger than {} KiB", REQUEST_BODY_MAX / 1024),
        )),
        Ok(Err(error)) => {
            let error: Box<dyn Error + Send + Sync> = error.into();
            Err(ApiFailure::invalid(format!("the body of the request did not arrive: {error}")))
        }
        Err(_) => Err(ApiFailure::new(
            Code::RequestTimeout,
            format!("the body of the request did not arrive within {} s", BODY_TIMEOUT.as_secs()),
        )),
    }
}
