//! The cluster's side of `join`: any node that holds the keyring answers joiners.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::BoxFuture;
use pangolin_core::{
    Body, Cause, Command, Fence, NodeId, Object, Slug, TokenId,
    command::{Actor, NodeAdmitted},
    decision::Aspect,
    plan::plan,
    record::{Digest, NodeRole, NodeSpec, TunnelKey},
};
use pangolin_peer::{
    identity::AuthorityKey,
    join::{JoinDoor, NoSecret},
};
use pangolin_raft::{Cluster, Proposal, ProposeError};
use tracing::info;
use zeroize::Zeroizing;

use super::{Answer, Ask, Welcome, WelcomePeer, check};
use crate::{clock, keys::Keys, local::answers::NodeAnswers, seal};

/// How long what was committed elsewhere may take to reach this node.
const APPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers joiners.
pub struct Door {
    /// The cluster.
    pub cluster: Cluster,
    /// Opens token secrets and the authority's key.
    pub keyring: Keys,
    /// This node.
    pub node: NodeId,
    /// Asks the other nodes how a joiner looks from there.
    pub answers: NodeAnswers,
}

impl JoinDoor for Door {
    fn secret(&self, id: TokenId) -> BoxFuture<'_, Result<Zeroizing<[u8; 32]>, NoSecret>> {
        Box::pin(async move {
            // The token was acknowledged somewhere else, maybe a moment ago: only a node that has caught up may say that
            // there is none.
            if !self.cluster.state().tokens().contains_key(&id) {
                self.cluster.read_barrier(APPLY_TIMEOUT).await.map_err(|error| {
                    NoSecret::NotNow(format!(
                        "this node does not know the token, but it may be behind ({error}): try again, or ask another node"
                    ))
                })?;
            }
            let state = self.cluster.state();
            let token = state.tokens().get(&id).ok_or_else(|| {
                NoSecret::Refused(
                    "this token is not known: it may have been revoked, or belong to another cluster; create a new one \
                     with `pangolinctl token create`"
                        .to_owned(),
                )
            })?;
            if token.used.is_none() && token.expires_at < clock::now() {
                return Err(NoSecret::Refused(pangolin_core::Refusal::TokenExpired(id).to_string()));
            }
            let secret = self
                .keyring
                .now()
                .open(&token.secret, &seal::token(id))
                .map_err(|error| NoSecret::NotNow(error.to_string()))?;
            let secret: [u8; 32] = secret
                .as_slice()
                .try_into()
                .map_err(|_| NoSecret::Refused("the token's secret has not 32 bytes".to_owned()))?;
            Ok(Zeroizing::new(secret))
        })
    }

    fn answer(
        &self,
        token: TokenId,
        remote: SocketAddr,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            let ask: Ask = serde_json::from_slice(&body)
                .map_err(|error| format!("the request cannot be read: {error}"))?;
            let answer = match ask {
                Ask::Check { probes, nonce, name, peer_address, key } => {
                    let refusal = self.refusal(token, &name, peer_address, key);
                    self.check(&probes, &nonce, remote, refusal).await?
                }
                Ask::Join { csr, spec } => self.admit(token, &csr, *spec).await?,
            };
            serde_json::to_vec(&answer).map_err(|error| error.to_string())
        })
    }
}

impl Door {
    async fn check(
        &self,
        probes: &[check::Probe],
        nonce: &str,
        remote: SocketAddr,
        refusal: Option<String>,
    ) -> Result<Answer, String> {
        if probes.len() > check::PROBES_MAX || nonce.len() > check::NONCE_MAX || nonce.is_empty() {
            return Err(format!(
                "at most {} probes with a nonce of 1 to {} bytes",
                check::PROBES_MAX,
                check::NONCE_MAX
            ));
        }
        let (own, mut views) = tokio::join!(
            check::run(probes, nonce, remote.ip()),
            self.answers.views_of_joiner(probes, nonce, remote.ip())
        );
        let state = self.cluster.state();
        if let Some(node) = state.nodes().get(&self.node) {
            views.insert(0, check::View { node: node.spec.name.clone(), ahead_ms: 0, results: own });
        }
        let peers = state.nodes().values().map(|n| (n.spec.name.clone(), n.spec.peer_address)).collect();
        Ok(Answer::Checked { now: clock::now(), views, peers, refusal })
    }

    /// Why `join` would be refused as things stand: by trying it on a copy of the state.
    fn refusal(
        &self,
        token: TokenId,
        name: &Slug,
        peer_address: SocketAddr,
        key: Option<Digest>,
    ) -> Option<String> {
        let mut state = pangolin_core::ClusterState::clone(&self.cluster.state());
        let index = state.revision().index + 1;
        // A host that was cut off after its admission is known by its key; another one has a key that no node has. There
        // is nothing else that could be refused.
        let spki = key.unwrap_or(Digest([0; 32]));
        let spec = NodeSpec {
            name: name.clone(),
            role: NodeRole::Data,
            peer_address,
            spki,
            public_addresses: vec![],
            https_port: 443,
            tunnel_endpoint: "unknown".to_owned(),
            tunnel_key: TunnelKey([0; 32]),
            region: None,
            version: crate::VERSION.to_owned(),
            feature_level: pangolin_core::feature::NEWEST,
        };
        let body = Body::NodeAdmitted(Box::new(NodeAdmitted { token, csr: spki, spec }));
        let cause = Cause::new(Actor::Node(self.node), "checked");
        let command = Command { request: None, at: clock::now(), cause, fence: Fence::None, body };
        state.apply(index, &command).into_result().err().map(|refusal| refusal.to_string())
    }

    async fn admit(&self, token: TokenId, csr: &str, spec: NodeSpec) -> Result<Answer, String> {
        let csr = BASE64_STANDARD
            .decode(csr)
            .map_err(|error| format!("the signing request is not base64: {error}"))?;
        let name = spec.name.clone();
        // A request that cannot be signed must not use up the token.
        self.certify(NodeId::default(), &csr, spec.spki)?;
        let body = Body::NodeAdmitted(Box::new(NodeAdmitted { token, csr: spec.spki, spec }));
        // Who made the token wanted the node.
        let state = self.cluster.state();
        let made = state.decisions().latest(&Object::Token(token), Aspect::Existence);
        let cause = Cause::new(Actor::Node(self.node), format!("{name} showed join token {token}"))
            .because(made.map(|decision| decision.revision));
        let proposal = Proposal { request: None, cause, fence: Fence::None, body };
        let committed = self.cluster.propose(proposal).await.map_err(|error| match error {
            ProposeError::NotAppended { reason } => {
                format!("the cluster takes no changes now ({reason}): try again")
            }
            other => format!("{other}: run the same join again, it is safe"),
        })?;
        let made = committed.outcome.into_result().map_err(|refusal| refusal.to_string())?;
        let Some(Object::Node(node)) = made else { return Err("the admission made no node".into()) };
        self.cluster
            .wait_applied(committed.revision, APPLY_TIMEOUT)
            .await
            .map_err(|error| format!("{error}: run the same join again, it is safe"))?;
        info!(%node, %name, "a node was admitted");
        self.welcome(node, &csr).map(|welcome| Answer::Welcome(Box::new(welcome)))
    }

    /// A certificate for `node` on the key of the signing request, which has to be the one that was announced.
    fn certify(&self, node: NodeId, csr: &[u8], announced: Digest) -> Result<Vec<u8>, String> {
        let state = self.cluster.state();
        let cluster = state.cluster().ok_or("the cluster has not been initialised")?;
        let key = self
            .keyring
            .now()
            .open(&cluster.authority.key, seal::AUTHORITY)
            .map_err(|error| error.to_string())?;
        let authority = AuthorityKey::from_parts(cluster.authority.certificate.clone(), &key)
            .map_err(|error| error.to_string())?;
        let certificate = authority
            .sign_node(csr, cluster.id, node, std::time::SystemTime::now())
            .map_err(|error| format!("the signing request is not acceptable: {error}"))?;
        let signed = pangolin_peer::identity::spki_digest_of_certificate(&certificate)
            .map_err(|error| error.to_string())?;
        if signed != announced {
            return Err("the signing request is for another key than the one that was announced".into());
        }
        Ok(certificate)
    }

    fn welcome(&self, node: NodeId, csr: &[u8]) -> Result<Welcome, String> {
        let state = self.cluster.state();
        let cluster = state.cluster().ok_or("the cluster has not been initialised")?;
        let peers = plan(&state, node).peers;
        let admitted = &state.nodes().get(&node).ok_or("the node is not in the membership")?.spec;
        let certificate = self.certify(node, csr, admitted.spki)?;
        // A witness only votes: it is never given a key to what it replicates.
        let keyring = (admitted.role == NodeRole::Data)
            .then(|| BASE64_STANDARD.encode(&*self.keyring.now().to_bytes()));
        Ok(Welcome {
            cluster: cluster.id.to_string(),
            lineage: peers.lineage,
            node: node.0,
            role: admitted.role,
            authority: BASE64_STANDARD.encode(&cluster.authority.certificate),
            certificate: BASE64_STANDARD.encode(certificate),
            keyring,
            peers: peers
                .nodes
                .into_iter()
                .map(|(node, peer)| WelcomePeer {
                    node: node.0,
                    name: peer.name,
                    address: peer.address,
                    spki: peer.spki,
                })
                .collect(),
        })
    }
}
