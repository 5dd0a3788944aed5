//! The first changes of a group: a cluster, and targets whose health checks hold the values.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use pangolin_core::{
    NodeId, TargetId,
    command::{Actor, Body, CatalogChange, Cause, ClusterCreated, Fence},
    id::{ClientId, RequestId},
    outcome::Object,
    record::{
        Authority, Digest, HealthCheck, Method, NodeRole, NodeSpec, Sealed, Settings, Target, TunnelKey,
    },
};
use pangolin_raft::{Cluster, Proposal, ProposeError};
use tokio::time::{Instant, sleep};

use super::setup::CLUSTER;

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A change as a client of the API makes it: with a name of its own, so that it is done once.
pub(crate) fn proposal(request: RequestId, body: Body) -> Proposal {
    let cause = Cause::new(Actor::Operator("bench".into()), "POST /api/v1/target");
    Proposal { request: Some(request), cause, fence: Fence::None, body }
}

/// The change that makes `value` the path of a target's health check.
pub(crate) fn change(target: &Target, value: String) -> Body {
    let check = HealthCheck { path: Some(value), interval: 30, timeout: 5, unhealthy_threshold: 2 };
    Body::Catalog(Box::new(CatalogChange::TargetChanged {
        id: target.id,
        method: target.method,
        host: target.host.clone(),
        port: target.port,
        enabled: target.enabled,
        health_check: Some(check),
    }))
}

/// Makes a cluster of all nodes, with so many targets; gives their ids.
///
/// # Errors
/// It does not come about in time.
pub(crate) async fn seed(cluster: &Cluster, nodes: u64, keys: usize) -> Result<Vec<TargetId>> {
    cluster.bootstrap().await?;
    make(cluster, created()?).await?;
    for node in (2..=nodes).map(NodeId) {
        insist(|| async {
            let leader = cluster.lead().context("this node does not lead")?;
            leader.add_learner(node).await?;
            Ok(leader.promote(node).await?)
        })
        .await?;
    }
    let catalog = |change| Body::Catalog(Box::new(change));
    let org: pangolin_core::Slug = "bench".parse()?;
    make(cluster, catalog(CatalogChange::OrgCreated { id: org.clone(), name: "bench".into() })).await?;
    let name = "bench.test".parse()?;
    let domain = CatalogChange::DomainCreated { id: None, org: org.clone(), name };
    let Some(Object::Domain(domain)) = make(cluster, catalog(domain)).await? else { bail!("no domain") };
    let site = CatalogChange::SiteCreated {
        id: None,
        org: org.clone(),
        nice_id: None,
        name: "bench".into(),
        connector_id: "benchbenchbench".into(),
        connector_secret: Digest([1; 32]),
    };
    let Some(Object::Site(site)) = make(cluster, catalog(site)).await? else { bail!("no site") };
    let resource = CatalogChange::ResourceCreated {
        id: None,
        org,
        nice_id: None,
        name: "bench".into(),
        domain,
        host: "r.bench.test".parse()?,
    };
    let Some(Object::Resource(resource)) = make(cluster, catalog(resource)).await? else {
        bail!("no resource")
    };
    let mut targets = Vec::new();
    for _ in 0..keys {
        let target = CatalogChange::TargetCreated {
            id: None,
            resource,
            site,
            method: Method::Http,
            host: "127.0.0.1".into(),
            port: 1,
            health_check: None,
        };
        let Some(Object::Target(target)) = make(cluster, catalog(target)).await? else { bail!("no target") };
        targets.push(target);
    }
    Ok(targets)
}

async fn make(cluster: &Cluster, body: Body) -> Result<Option<Object>> {
    let request = RequestId { client: ClientId(*uuid::Uuid::new_v4().as_bytes()), serial: 1 };
    let proposal = proposal(request, body);
    let committed = insist(|| async { Ok(cluster.propose(proposal.clone()).await?) }).await?;
    Ok(committed.outcome.into_result()?)
}

/// Tries until it is done: leaders have to be elected and nodes to be reached first.
async fn insist<T>(mut work: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match work().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= until || is_refused(&error) => return Err(error),
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// What no patience helps against.
fn is_refused(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ProposeError::TooLarge { .. } | ProposeError::Level { .. }))
}

fn created() -> Result<Body> {
    let sealed = || Sealed { kek: 1, wrapped_key: vec![], content: vec![] };
    let authority = || Authority { certificate: vec![], key: sealed() };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 7420));
    Ok(Body::ClusterCreated(Box::new(ClusterCreated {
        id: CLUSTER,
        name: "bench".parse()?,
        authority: authority(),
        issuer: authority(),
        settings: Settings {
            zone: "bench.test".parse()?,
            control_host: "app.bench.test".parse()?,
            tunnel_network: "100.89.0.0/16".parse()?,
            ttl: 30,
        },
        node: NodeId(1),
        spec: NodeSpec {
            name: "n1".parse()?,
            role: NodeRole::Data,
            peer_address: address,
            spki: Digest([1; 32]),
            public_addresses: vec![],
            https_port: 443,
            tunnel_endpoint: "127.0.0.1:51820".into(),
            tunnel_key: TunnelKey([1; 32]),
            region: None,
            version: "1".into(),
            feature_level: pangolin_core::feature::NEWEST,
        },
    })))
}
