//! What the sites' control channel asks of the node, and the services that the control host offers.

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use pangolin_api::{Api, Caller, Credentials};
use pangolin_core::{
    Body, Cause, Fence, NodeId, Object, Refusal, SiteId, access,
    command::Actor,
    fabric::FabricChange,
    plan::TunnelPlan,
    record::{Digest, TunnelKey},
};
use pangolin_edge::{EdgeBody, LocalService};
use pangolin_peer::Peers;
use pangolin_raft::{Cluster, Proposal};
use pangolin_tunnel::control::{ControlService, ProvisionError, Provisioned, RegisterError, SiteControl};
use pangolin_wire::{random_id, random_secret};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::reports::Reports;

/// The node, as the control channel sees it.
pub struct SitePort {
    /// The cluster.
    pub cluster: Cluster,
    /// This node.
    pub node: NodeId,
    /// The tunnel plan as it stands.
    pub plan: watch::Receiver<Arc<TunnelPlan>>,
    /// Which tunnels are alive.
    pub reports: Reports,
    /// Which nodes answer.
    pub peers: Peers,
    /// Where this node's WireGuard takes datagrams.
    pub wireguard: SocketAddr,
}

impl SitePort {
    /// This node as people call it.
    fn name(&self) -> String {
        let state = self.cluster.state();
        let name = state.nodes().get(&self.node).map(|node| node.spec.name.to_string());
        name.unwrap_or_else(|| format!("node {}", self.node))
    }
}

impl SiteControl for SitePort {
    fn sign_in(&self, connector_id: &str, secret: &str) -> Option<SiteId> {
        access::site_of_credentials(&self.cluster.state(), connector_id, secret).map(|site| site.id)
    }

    fn provision(
        &self,
        key: String,
        name: Option<String>,
    ) -> BoxFuture<'_, Result<Provisioned, ProvisionError>> {
        Box::pin(async move {
            let known = access::provisioning_key(&self.cluster.state(), &key).map(|key| key.id.clone());
            let Some(key) = known else { return Err(ProvisionError::Key) };
            let secret = Zeroizing::new(random_secret());
            let connector_secret = access::digest(&secret);
            let reason = format!("a connector brought provisioning key {key} to {}", self.name());
            let change =
                FabricChange::SiteProvisioned { key, name, connector_id: random_id(), connector_secret };
            let proposal = Proposal {
                request: None,
                cause: Cause::new(Actor::Node(self.node), reason),
                fence: Fence::None,
                body: Body::Fabric(Box::new(change)),
            };
            let failed = |reason: String, later| ProvisionError::Site { reason, later };
            let committed =
                self.cluster.propose(proposal).await.map_err(|error| failed(error.to_string(), true))?;
            let made = match committed.outcome.into_result() {
                Ok(made) => made,
                Err(refusal) => {
                    tracing::warn!(%refusal, "a connector with a provisioning key was given no site");
                    let of_key = matches!(&refusal, Refusal::KeyWorthless { .. } | Refusal::NotFound(_));
                    return Err(if of_key {
                        ProvisionError::Key
                    } else {
                        failed(refusal.to_string(), false)
                    });
                }
            };
            self.cluster
                .wait_applied(committed.revision, std::time::Duration::from_secs(2))
                .await
                .map_err(|error| failed(error.to_string(), true))?;
            let state = self.cluster.state();
            let site = match made {
                Some(Object::Site(id)) => state.sites().get(&id),
                _ => None,
            };
            // Another connector with the same key may have been faster.
            let site = site.filter(|site| site.connector_secret == connector_secret);
            let site = site.ok_or_else(|| failed("it was changed at the same moment".to_owned(), true))?;
            Ok(Provisioned { connector_id: site.connector_id.clone(), secret })
        })
    }

    fn register(
        &self,
        site: SiteId,
        key: TunnelKey,
        version: String,
        multi_homed: bool,
    ) -> BoxFuture<'_, Result<(), RegisterError>> {
        Box::pin(async move {
            // Nothing new needs no quorum: a connector that comes back is served at once, also in a minority.
            let known = self.cluster.state().connectors().get(&site).is_some_and(|connector| {
                connector.tunnel_key == key
                    && connector.version == version
                    && connector.multi_homed == multi_homed
            });
            if known {
                return Ok(());
            }
            let proposal = Proposal {
                request: None,
                cause: Cause::new(Actor::Connector(site), format!("it signed in at {}", self.name())),
                fence: Fence::None,
                body: Body::ConnectorRegistered { site, tunnel_key: key, version, multi_homed },
            };
            let failed = |reason: String| RegisterError { reason };
            let committed =
                self.cluster.propose(proposal).await.map_err(|error| failed(error.to_string()))?;
            committed.outcome.into_result().map_err(|refusal| failed(refusal.to_string()))?;
            self.cluster
                .wait_applied(committed.revision, std::time::Duration::from_secs(2))
                .await
                .map_err(|error| failed(error.to_string()))
        })
    }

    fn credential(&self, site: SiteId) -> Option<Digest> {
        self.cluster.state().sites().get(&site).map(|site| site.connector_secret)
    }

    fn carried(&self, site: SiteId, node: NodeId) -> bool {
        self.reports.tunnels_to(site).contains(&node)
    }

    fn suspect(&self, node: NodeId) -> bool {
        self.peers.is_suspect(node)
    }

    fn wireguard(&self) -> Option<SocketAddr> {
        Some(self.wireguard)
    }

    fn plan(&self) -> watch::Receiver<Arc<TunnelPlan>> {
        self.plan.clone()
    }

    fn node(&self) -> NodeId {
        self.node
    }
}

/// What the edge serves on the control host: the sites' control channel and the API.
pub struct ControlHost {
    /// The control channel.
    pub control: Arc<ControlService>,
    /// The API.
    pub api: Api,
}

impl LocalService for ControlHost {
    fn call(&self, request: Request<Incoming>, peer: SocketAddr) -> BoxFuture<'static, Response<EdgeBody>> {
        let (control, api) = (self.control.clone(), self.api.clone());
        Box::pin(async move {
            if ControlService::serves(request.uri().path()) {
                return control.handle(request).await.map(EdgeBody::new);
            }
            api.call(request, Caller { credentials: Credentials::Bearer, remote: Some(peer) })
                .await
                .map(EdgeBody::new)
        })
    }
}
