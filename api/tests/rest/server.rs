//! A node's API over real sockets: what the tests talk to.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use pangolin_api::{
    Api, ApiFailure, BackupPort, Caller, CertificatePort, Credentials, DnsPort, KeyringPort, NewToken,
    NodePort,
};
use pangolin_core::{
    Actor, Body, Cause, ClusterId, ClusterState, Fence, NodeId, Object, Outcome, RequestId, Slug, TokenId,
    command::ClusterCreated,
    record::{self, Authority, Digest, JoinToken, NodeRole, NodeSpec, Sealed, Settings, TunnelKey},
};
use pangolin_raft::{Cluster, Proposal};
use pangolin_wire::{
    ApiWrite, Client, ClusterStatus, Code, CreatedToken, JournalEntry, JournalEvent, JournalLine,
    JournalPage, LeaderStatus, NodeStatus, QuorumStatus, RaftPart, Standing, TargetState,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

use crate::{no_backups::NoBackups, no_dns::NoDns, no_keyring::NoKeyring, unsealed::Unsealed};

/// A running API. Everything ends when it is dropped.
pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) cluster: Cluster,
    /// What was noted of writes.
    pub(crate) writes: Writes,
    /// Local socket: whoever opens it is an operator. The server's directory is around it.
    pub(crate) socket: PathBuf,
    /// Where a bearer key is needed, over TLS; the certificate is good for `localhost`.
    pub(crate) tls: SocketAddr,
    /// Certificate authority behind it, PEM.
    pub(crate) ca: String,
    bearer: PathBuf,
    _tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

/// The writes that the API has told its node of.
pub(crate) type Writes = Arc<Mutex<Vec<ApiWrite>>>;

/// An answer, raw.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Server {
    /// A one-node cluster with its API on loopback.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut tasks = JoinSet::new();
        let cluster = crate::one_node::cluster(&dir.path().join("node"), &mut tasks).await;
        let writes = Writes::default();
        let node = OneNode { cluster: cluster.clone(), writes: writes.clone() };
        let api = Api::new(cluster.clone(), Arc::new(node));
        let (socket, bearer) = (dir.path().join("operator.sock"), dir.path().join("bearer.sock"));
        for (path, credentials) in
            [(&socket, Credentials::LocalOperator("tester".into())), (&bearer, Credentials::Bearer)]
        {
            let listener = UnixListener::bind(path).expect("a socket");
            let (api, caller) = (api.clone(), Caller { credentials, remote: None });
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(api.clone(), caller.clone(), stream));
                }
            });
        }
        let (acceptor, ca) = acceptor();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let tls = listener.local_addr().expect("an address");
        let tls_api = api.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, remote)) = listener.accept().await {
                let (acceptor, api) = (acceptor.clone(), tls_api.clone());
                connections.spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let caller = Caller { credentials: Credentials::Bearer, remote: Some(remote) };
                        serve(api, caller, stream).await;
                    }
                });
            }
        });
        Self { api, cluster, writes, socket, tls, ca, bearer, _tasks: tasks, _dir: dir }
    }

    /// A client with operator's rights.
    pub(crate) fn operator(&self) -> Client {
        Client::unix(&self.socket)
    }

    /// A client with an API key, over TLS.
    pub(crate) fn holder(&self, key: &str) -> Client {
        let endpoint = format!("https://localhost:{}", self.tls.port());
        Client::https(&endpoint, key, Some(self.ca.as_bytes())).expect("a client").at(self.tls)
    }

    /// Sends a request with operator's rights and reads the answer, whatever it is.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Reply {
        raw(&self.socket, method, path, &[], body.into()).await
    }

    /// The same, with headers and whatever credentials they hold.
    pub(crate) async fn ask_as(
        &self,
        headers: &[(&str, &str)],
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Reply {
        raw(&self.bearer, method, path, headers, body.into()).await
    }

    /// The same, with operator's rights and headers.
    pub(crate) async fn ask_with(
        &self,
        headers: &[(&str, &str)],
        method: Method,
        path: &str,
        body: impl Into<Vec<u8>>,
    ) -> Reply {
        raw(&self.socket, method, path, headers, body.into()).await
    }
}

async fn raw(socket: &PathBuf, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
    let stream = tokio::net::UnixStream::connect(socket).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    let mut request =
        Request::builder().method(method).uri(format!("/api/v1{path}")).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(bytes::Bytes::from(body))).expect("a request");
    let exchange = async {
        let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&body).expect("every answer is JSON");
        Reply { status: head.status, headers: head.headers, body }
    };
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Reply>().await
    };
    tokio::select! { reply = exchange => reply, never = drive => never }
}

async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(api: Api, caller: Caller, stream: S) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, caller) = (api.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(api.call(request, caller).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn acceptor() -> (tokio_rustls::TlsAcceptor, String) {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(signed.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .expect("a configuration");
    (Arc::new(config).into(), signed.cert.pem())
}

/// What `init` would commit.
pub(crate) fn cluster_created() -> Body {
    let sealed = || Sealed { kek: 1, wrapped_key: vec![], content: vec![] };
    let authority = || Authority { certificate: vec![1], key: sealed() };
    Body::ClusterCreated(Box::new(ClusterCreated {
        id: ClusterId([7; 16]),
        name: "lab".parse().expect("a short name"),
        authority: authority(),
        issuer: authority(),
        settings: Settings {
            zone: "lab.example.com".parse().expect("a zone"),
            control_host: "pangolin.lab.example.com".parse().expect("a host"),
            tunnel_network: "100.89.0.0/16".parse().expect("a network"),
            ttl: 30,
        },
        node: NodeId(1),
        spec: NodeSpec {
            name: "n1".parse().expect("a short name"),
            role: NodeRole::Data,
            peer_address: "127.0.0.11:7420".parse().expect("an address"),
            spki: Digest([1; 32]),
            public_addresses: vec!["127.0.0.11".parse().expect("an address")],
            https_port: 8443,
            tunnel_endpoint: "127.0.0.11:51820".into(),
            tunnel_key: TunnelKey([1; 32]),
            region: None,
            version: "0.1.0".into(),
            feature_level: pangolin_core::feature::NEWEST,
        },
    }))
}

/// A command of the operator's.
pub(crate) fn proposal(body: Body) -> Proposal {
    let cause = Cause::new(Actor::Operator("tester".into()), "test");
    Proposal { request: None, cause, fence: Fence::None, body }
}

/// The node around the API: what the tests need of it.
struct OneNode {
    cluster: Cluster,
    writes: Writes,
}

impl OneNode {
    fn make(&self, request: RequestId, cause: Cause, body: Body) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(async move {
            let proposal = Proposal { request: Some(request), cause, fence: Fence::None, body };
            match self.cluster.propose(proposal).await?.outcome {
                Outcome::Done(_) => Ok(()),
                Outcome::Refused(refusal) => Err(refusal.into()),
            }
        })
    }
}

impl NodePort for OneNode {
    fn status(&self) -> BoxFuture<'_, Result<ClusterStatus, ApiFailure>> {
        Box::pin(async {
            let state = self.cluster.state();
            let cluster = state.cluster().expect("a cluster");
            let settings = state.settings().expect("settings");
            let nodes = state.nodes().values().map(|node| NodeStatus {
                id: node.id,
                name: node.spec.name.clone(),
                role: node.spec.role,
                raft: if node.id == NodeId(1) { RaftPart::Leader } else { RaftPart::Learner },
                verdict: node.verdict,
                admin: node.admin,
                address: node.spec.peer_address,
                version: node.spec.version.clone(),
                feature_level: node.spec.feature_level,
                started_at: None,
                serving: None,
                applied: Some(state.revision()),
                lag: Some(0),
                seen_by: vec![],
            });
            Ok(ClusterStatus {
                cluster_id: cluster.id,
                name: cluster.name.clone(),
                zone: settings.zone.clone(),
                control_host: settings.control_host.clone(),
                leader: Some(LeaderStatus { node_id: NodeId(1), name: None, term: 1, since: None }),
                quorum: QuorumStatus::new(1, 1),
                revision: state.revision(),
                nodes: nodes.collect(),
                sites: vec![],
                feature_level: state.feature_level(),
                common_level: state.feature_level(),
                upgrade: None,
                remarks: vec![],
                partial: None,
            })
        })
    }

    fn takes_writes(&self) -> bool {
        true
    }

    fn create_token(
        &self,
        wanted: NewToken,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<CreatedToken, ApiFailure>> {
        Box::pin(async move {
            let NewToken { role, lifetime, replaces } = wanted;
            let now = self.cluster.state().time();
            let token = JoinToken {
                id: TokenId(request.client.0[..8].try_into().expect("eight bytes")),
                secret: Sealed { kek: 1, wrapped_key: vec![], content: vec![] },
                role,
                expires_at: now + lifetime,
                replaces,
                created_at: now,
                used: None,
            };
            let (id, expires_at) = (token.id, token.expires_at);
            let body = Body::TokenCreated(Box::new(token));
            let proposal = Proposal { request: Some(request), cause, fence: Fence::None, body };
            self.cluster.propose(proposal).await?.outcome.into_result()?;
            Ok(CreatedToken { id, token: Some(format!("token-{id}")), expires_at: expires_at.into() })
        })
    }

    fn leave(
        &self,
        node: Option<NodeId>,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>> {
        self.make(request, cause, Body::NodeRemoved(node.unwrap_or(NodeId(1))))
    }

    fn finish_upgrade(&self, _cause: Cause) -> BoxFuture<'_, Result<(), ApiFailure>> {
        Box::pin(async { Ok(()) })
    }

    fn promote(
        &self,
        node: NodeId,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>> {
        self.make(request, cause, Body::NodePromoted(node))
    }

    fn disband(
        &self,
        cluster: Slug,
        cause: Cause,
        request: RequestId,
    ) -> BoxFuture<'_, Result<(), ApiFailure>> {
        if self.cluster.state().cluster().is_none_or(|known| known.name != cluster) {
            let failure = ApiFailure::new(Code::Conflict, format!("this is not the cluster {cluster}"));
            return Box::pin(async { Err(failure) });
        }
        self.make(request, cause, Body::Disbanded { survivor: NodeId(1) })
    }

    fn transfer_leader(
        &self,
        to: Option<NodeId>,
        _: Cause,
        _: RequestId,
    ) -> BoxFuture<'_, Result<NodeId, ApiFailure>> {
        Box::pin(async move {
            match to {
                None | Some(NodeId(1)) => Ok(NodeId(1)),
                Some(id) => Err(ApiFailure::new(Code::Conflict, format!("{} is no voter", Object::Node(id)))),
            }
        })
    }

    fn backups(&self) -> &dyn BackupPort {
        &NoBackups
    }

    fn dns(&self) -> &dyn DnsPort {
        &NoDns
    }

    fn keyring(&self) -> &dyn KeyringPort {
        &NoKeyring
    }

    fn certificates(&self) -> &dyn CertificatePort {
        &Unsealed
    }

    fn target_state(&self, _: &ClusterState, _: &record::Target) -> Option<TargetState> {
        Some(TargetState { standing: Standing::Unknown, reason: "nobody looks".to_owned() })
    }

    fn stopping(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn audit(&self, write: ApiWrite) {
        self.writes.lock().expect("no panic").push(write);
    }

    fn journal(&self, after: Option<u64>, limit: usize) -> BoxFuture<'_, Result<JournalPage, ApiFailure>> {
        Box::pin(async move {
            let writes = self.writes.lock().expect("no panic");
            let first = after.map_or(writes.len().saturating_sub(limit), |after| after as usize + 1);
            let line = |(serial, write): (usize, &ApiWrite)| {
                let event = JournalEvent::ApiWrite(write.clone());
                let entry = JournalEntry { at: self.cluster.state().time(), revision: None, event };
                JournalLine::new(serial as u64, &entry)
            };
            let entries = writes.iter().enumerate().skip(first).take(limit).map(line).collect();
            Ok(JournalPage { node_id: NodeId(1), entries })
        })
    }
}
