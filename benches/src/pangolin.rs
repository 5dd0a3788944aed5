//! A cluster of three nodes of this product, and clients of its REST API on kept-alive connections.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pangolin_chaos::{
    cluster::{Backend, Cluster, Node, Options, Timing},
    https::Https,
    ports::{self, Ports},
};
use pangolin_core::{TargetId, record::KeyScope};
use pangolin_wire::{
    BASE_PATH, CreateApiKey, CreateDomain, CreateOrg, CreateResource, CreateSite, CreateTarget,
    CreatedApiKey, CreatedSite, Domain, LATEST, MIN_REVISION_HEADER, Org, Resource, Target, UpdateTarget,
};
use tokio::net::UnixStream;

use crate::load;

/// How long one request of the preparations may take.
const STEP_PATIENCE: Duration = Duration::from_secs(30);
/// The organisation that owns what is written.
const ORG: &str = "bench";
/// Targets of one resource.
const TARGETS_PER_RESOURCE: usize = 100;

/// Three nodes, with targets to write to.
pub(crate) struct Pangolin {
    pub(crate) cluster: Cluster,
    targets: Vec<TargetId>,
    api_key: String,
    authority: String,
}

/// Which way clients take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Road {
    /// The leader's local socket: HTTP/1.1 without TLS
    Socket,
    /// The leader's edge: HTTP/1.1 over TLS, with an API key
    Edge,
}

/// What a cluster of nodes for a measurement is like.
///
/// # Errors
/// No ports are free.
pub(crate) fn options(nodes: u8) -> Result<Options> {
    let addresses = ports::own_addresses(nodes);
    let ports = Ports::free(&addresses)?;
    let zone = "bench.test".to_owned();
    let log = Some("warn".to_owned());
    Ok(Options { addresses, ports, zone, backend: Backend::InProcess, log, timing: Timing::default() })
}

impl Pangolin {
    /// Starts three nodes and makes `keys` targets.
    pub(crate) async fn start(keys: usize) -> Result<Self> {
        let cluster = Cluster::start(options(3)?).await?;
        let client = cluster.any_node()?.client().with_deadline(STEP_PATIENCE);
        let _: Org = client.put("/org", &CreateOrg { org_id: ORG.parse()?, name: None }).await?;
        let domain = CreateDomain { base_domain: cluster.options.zone.parse()? };
        let _: Domain = client.put(&format!("/org/{ORG}/domain"), &domain).await?;
        let site =
            CreateSite { name: ORG.to_owned(), kind: None, nice_id: None, newt_id: None, secret: None };
        let site: CreatedSite = client.put(&format!("/org/{ORG}/site"), &site).await?;
        let mut targets = Vec::new();
        while targets.len() < keys {
            let host = format!("r{}.{}", targets.len(), cluster.options.zone);
            let resource = CreateResource {
                name: None,
                nice_id: None,
                full_domain: Some(host.parse()?),
                domain_id: None,
                subdomain: None,
                http: None,
            };
            let resource: Resource = client.put(&format!("/org/{ORG}/resource"), &resource).await?;
            for _ in 0..TARGETS_PER_RESOURCE.min(keys - targets.len()) {
                let target = CreateTarget {
                    site_id: site.site.site_id,
                    ip: "127.0.0.1".to_owned(),
                    port: 1,
                    method: None,
                    health_check: None,
                };
                let path = format!("/resource/{}/target", resource.resource_id);
                let made: Target = client.put(&path, &target).await?;
                targets.push(made.target_id);
            }
        }
        let key =
            CreateApiKey { name: ORG.to_owned(), scope: KeyScope::Cluster, api_key_id: None, secret: None };
        let key: CreatedApiKey = client.put("/api-key", &key).await?;
        let api_key = key.key.context("the API key is not shown")?;
        let authority = cluster.authority().await?;
        Ok(Self { cluster, targets, api_key, authority })
    }

    fn leader<'a>(&'a self, status: &pangolin_wire::ClusterStatus) -> Result<&'a Node> {
        let leader = status.leader.as_ref().context("there is no leader")?;
        Ok(&self.cluster.nodes[self.cluster.position(status, leader.node_id)?])
    }

    /// Clients of the leader, one connection each.
    pub(crate) async fn clients(&self, road: Road, count: usize, value: usize) -> Result<Vec<Client>> {
        let status = self.cluster.status().await?;
        let leader = self.leader(&status)?;
        let body = body(value)?;
        let host = status.control_host.to_string();
        let authorization = match road {
            Road::Socket => None,
            Road::Edge => Some(HeaderValue::from_str(&format!("Bearer {}", self.api_key))?),
        };
        let mut clients = Vec::new();
        for number in 0..count {
            let sender = match road {
                Road::Socket => {
                    let socket: PathBuf = leader.socket();
                    let stream = UnixStream::connect(&socket).await;
                    let stream = stream.with_context(|| format!("connecting to {}", socket.display()))?;
                    speak(TokioIo::new(stream)).await?
                }
                Road::Edge => {
                    let stream = Https::trusting(&self.authority)?.connect(leader.https(), &host).await?;
                    speak(TokioIo::new(stream)).await?
                }
            };
            clients.push(Client {
                sender,
                host: HeaderValue::from_str(&host)?,
                authorization: authorization.clone(),
                // Clients begin at different targets and go round.
                targets: (0..self.targets.len())
                    .map(|step| self.targets[(number + step * 7) % self.targets.len()])
                    .collect(),
                body: body.clone(),
            });
        }
        Ok(clients)
    }

    /// The processes.
    pub(crate) fn pids(&mut self) -> Vec<u32> {
        self.cluster.nodes.iter_mut().filter_map(|node| Some(node.process()?.pid())).collect()
    }
}

/// The body of a write: its value is the path of a target's health check.
fn body(value: usize) -> Result<Bytes> {
    let path = format!("/{}", "v".repeat(value.saturating_sub(1)));
    let check = pangolin_wire::HealthCheck::of(Some(path));
    let update =
        UpdateTarget { ip: None, port: None, method: None, enabled: None, health_check: Some(Some(check)) };
    Ok(serde_json::to_vec(&update)?.into())
}

async fn speak<S>(stream: TokioIo<S>) -> Result<http1::SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(stream).await?;
    // It ends with the client.
    tokio::spawn(connection);
    Ok(sender)
}

/// One client of the REST API.
pub(crate) struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    targets: Vec<TargetId>,
    body: Bytes,
}

impl Client {
    async fn ask(&mut self, method: Method, number: u64, body: Bytes, fresh: bool) -> Result<()> {
        let number = usize::try_from(number)? % self.targets.len();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{BASE_PATH}/target/{}", self.targets[number]))
            .header(header::HOST, &self.host);
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if fresh {
            request = request.header(MIN_REVISION_HEADER, LATEST);
        }
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request.body(Full::new(body))?).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        ensure!(head.status == StatusCode::OK, "status {}: {}", head.status, String::from_utf8_lossy(&body));
        Ok(())
    }
}

impl load::Client for Client {
    async fn write(&mut self, number: u64) -> Result<()> {
        self.ask(Method::POST, number, self.body.clone(), false).await
    }

    async fn read(&mut self, number: u64) -> Result<()> {
        self.ask(Method::GET, number, Bytes::new(), true).await
    }
}
