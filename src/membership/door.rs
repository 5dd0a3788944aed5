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
    join::{Declined, JoinDoor},
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
    fn secret(&self, id: TokenId) -> BoxFuture<'_, Result<Zeroizing<[u8; 32]>, Declined>> {
        Box::pin(async move {
            // The token was acknowledged somewhere else, maybe a moment ago: only a node that has caught up may say that
            // there is none.
            if !self.cluster.state().tokens().contains_key(&id) {
                self.cluster.read_barrier(APPLY_TIMEOUT).await.map_err(|error| {
                    Declined::NotNow(format!(
                        "this node does not know the token, but it may be behind ({error}): try again, or ask another node"
                    ))
                })?;
            }
            let state = self.cluster.state();
            let token = state.tokens().get(&id).ok_or_else(|| {
                Declined::Refused(
                    "this token is not known: it may have been revoked, or belong to another cluster; create a new one \
                     with `pangolinctl token create`"
                        .to_owned(),
                )
            })?;
            if token.used.is_none() && token.expires_at < clock::now() {
                return Err(Declined::Refused(pangolin_core::Refusal::TokenExpired(id).to_string()));
            }
            let secret = self
                .keyring
                .now()
                .open(&token.secret, &seal::token(id))
                .map_err(|error| Declined::NotNow(error.to_string()))?;
            let secret: [u8; 32] = secret
                .as_slice()
                .try_into()
                .map_err(|_| Declined::Refused("the token's secret has not 32 bytes".to_owned()))?;
            Ok(Zeroizing::new(secret))
        })
    }

    fn answer(
        &self,
        token: TokenId,
        remote: SocketAddr,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, Declined>> {
        Box::pin(async move {
            let ask: Ask = serde_json::from_slice(&body)
                .map_err(|error| Declined::Refused(format!("the request cannot be read: {error}")))?;
            let answer = match ask {
                Ask::Check { probes, nonce, name, peer_address, key } => {
                    let refusal = self.refusal(token, &name, peer_address, key);
                    self.check(&probes, &nonce, remote, key, refusal).await?
                }
                Ask::Join { csr, spec } => self.admit(token, &csr, *spec).await?,
            };
            serde_json::to_vec(&answer).map_err(|error| Declined::Refused(error.to_string()))
        })
    }
}

impl Door {
    async fn check(
        &self,
        probes: &[check::Probe],
        nonce: &str,
        remote: SocketAddr,
        key: Option<Digest>,
        refusal: Option<String>,
    ) -> Result<Answer, Declined> {
        if probes.len() > check::PROBES_MAX || nonce.len() > check::NONCE_MAX || nonce.is_empty() {
            return Err(Declined::Refused(format!(
                "at most {} probes with a nonce of 1 to {} bytes",
                check::PROBES_MAX,
                check::NONCE_MAX
            )));
        }
        let (own, (mut views, unasked)) = tokio::join!(
            check::run(probes, nonce, remote.ip()),
            self.answers.views_of_joiner(probes, nonce, remote.ip(), key)
        );
        let state = self.cluster.state();
        if let Some(node) = state.nodes().get(&self.node) {
            views.insert(0, check::View { node: node.spec.name.clone(), ahead_ms: 0, results: own });
        }
        let peers = state.nodes().values().map(|n| (n.spec.name.clone(), n.spec.peer_address)).collect();
        let data = state.nodes().values().map(|n| &n.spec).filter(|spec| spec.role == NodeRole::Data);
        let edges = data.flat_map(|spec| {
            let at = |ip: &std::net::IpAddr| SocketAddr::new(*ip, spec.https_port);
            spec.public_addresses.iter().map(move |ip| (spec.name.clone(), at(ip)))
        });
        let edges = edges.collect();
        Ok(Answer::Checked { now: clock::now(), views, peers, edges, unasked, refusal })
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

    async fn admit(&self, token: TokenId, csr: &str, spec: NodeSpec) -> Result<Answer, Declined> {
        let csr = BASE64_STANDARD
            .decode(csr)
            .map_err(|error| Declined::Refused(format!("the signing request is not base64: {error}")))?;
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
        // The same request finds what it has made already, also at another node.
        let again = |error: &dyn std::fmt::Display| {
            Declined::NotNow(format!("{error}: run the same join again, it is safe"))
        };
        let committed = self.cluster.propose(proposal).await.map_err(|error| match error {
            ProposeError::NotAppended { reason } => {
                Declined::NotNow(format!("the cluster takes no changes now ({reason}): try again"))
            }
            other => again(&other),
        })?;
        let made =
            committed.outcome.into_result().map_err(|refusal| Declined::Refused(refusal.to_string()))?;
        let Some(Object::Node(node)) = made else {
            return Err(Declined::Refused("the admission made no node".into()));
        };
        self.cluster.wait_applied(committed.revision, APPLY_TIMEOUT).await.map_err(|error| again(&error))?;
        info!(%node, %name, "a node was admitted");
        self.welcome(node, &csr).map(|welcome| Answer::Welcome(Box::new(welcome)))
    }

    /// A certificate for `node` on the key of the signing request, which has to be the one that was announced.
    fn certify(&self, node: NodeId, csr: &[u8], announced: Digest) -> Result<Vec<u8>, Declined> {
        let state = self.cluster.state();
        let cluster = state.cluster().ok_or_else(uninitialised)?;
        // A node that was away while the keyring was changed may not have it yet.
        let key = self
            .keyring
            .now()
            .open(&cluster.authority.key, seal::AUTHORITY)
            .map_err(|error| Declined::NotNow(error.to_string()))?;
        let refused = |error: &dyn std::fmt::Display| Declined::Refused(error.to_string());
        let authority = AuthorityKey::from_parts(cluster.authority.certificate.clone(), &key)
            .map_err(|error| refused(&error))?;
        let certificate = authority
            .sign_node(csr, cluster.id, node, std::time::SystemTime::now())
            .map_err(|error| refused(&format!("the signing request is not acceptable: {error}")))?;
        let signed = pangolin_peer::identity::spki_digest_of_certificate(&certificate)
            .map_err(|error| refused(&error))?;
        if signed != announced {
            return Err(refused(&"the signing request is for another key than the one that was announced"));
        }
        Ok(certificate)
    }

    fn welcome(&self, node: NodeId, csr: &[u8]) -> Result<Welcome, Declined> {
        let state = self.cluster.state();
        let cluster = state.cluster().ok_or_else(uninitialised)?;
        let peers = plan(&state, node).peers;
        let gone = || Declined::Refused("the node is not in the membership any more".to_owned());
        let admitted = &state.nodes().get(&node).ok_or_else(gone)?.spec;
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

fn uninitialised() -> Declined {
    Declined::NotNow("this node has not heard of the cluster's beginning yet".to_owned())
}
