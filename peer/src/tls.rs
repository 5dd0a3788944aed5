//! TLS configurations: 1.3 only, the cluster's authority as the only root, the provider named explicitly.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{ClientConfig as Client, Resumption, danger::ServerCertVerifier},
    crypto::CryptoProvider,
    server::{ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::{
    error::PeerError,
    hello::Party,
    identity::{NodeIdentity, node_name, spki_digest_of_certificate},
};

/// What a connection between nodes speaks.
pub(crate) const ALPN_PEER: &[u8] = b"pangolin-peer/1";

/// What a connection of a joiner speaks.
pub(crate) const ALPN_JOIN: &[u8] = b"pangolin-join/1";

/// A node's identity in the form that connections need.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) party: Party,
    pub(crate) for_peers: Arc<ServerConfig>,
    pub(crate) for_joiners: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Credentials {
    pub(crate) fn new(identity: &NodeIdentity) -> Result<Self, PeerError> {
        let party = Party { cluster: identity.cluster, lineage: identity.lineage, node: identity.node };
        if spki_digest_of_certificate(&identity.certificate)? != identity.key.spki_digest() {
            return Err(PeerError::Identity("the key does not belong to the certificate".to_owned()));
        }
        check_name(&identity.certificate, &party).map_err(PeerError::Identity)?;
        let authority = CertificateDer::from(identity.authority.clone());
        let chain = vec![CertificateDer::from(identity.certificate.clone()), authority.clone()];
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(identity_error)?;
        let roots = Arc::new(roots);

        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(identity_error)?;
        let server = || ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let mut for_peers = server()
            .map_err(identity_error)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), identity.key.private_key())
            .map_err(identity_error)?;
        let mut for_joiners = server()
            .map_err(identity_error)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), identity.key.private_key())
            .map_err(identity_error)?;
        let mut client = Client::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(identity_error)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, identity.key.private_key())
            .map_err(identity_error)?;

        for_peers.alpn_protocols = vec![ALPN_PEER.to_vec()];
        for_joiners.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        client.alpn_protocols = vec![ALPN_PEER.to_vec()];
        // Connections are few and last: a ticket would only be a way around the checks of a full handshake.
        for_peers.send_tls13_tickets = 0;
        for_joiners.send_tls13_tickets = 0;
        client.resumption = Resumption::disabled();
        Ok(Self {
            party,
            for_peers: Arc::new(for_peers),
            for_joiners: Arc::new(for_joiners),
            client: Arc::new(client),
        })
    }
}

/// The TLS side of a joiner, who knows nothing but what `verifier` checks.
pub(crate) fn joiner(verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that the certificate of a party has to carry.
pub(crate) fn server_name(party: &Party) -> Result<ServerName<'static>, String> {
    ServerName::try_from(node_name(party.cluster, party.node)).map_err(|e| e.to_string())
}

/// Whether a certificate carries its party's name.
pub(crate) fn check_name(certificate: &[u8], party: &Party) -> Result<(), String> {
    let certificate = CertificateDer::from(certificate);
    let parsed = ParsedCertificate::try_from(&certificate).map_err(|e| e.to_string())?;
    rustls::client::verify_server_name(&parsed, &server_name(party)?).map_err(|_| {
        format!("the certificate is not one of node {} of cluster {}", party.node, party.cluster)
    })
}

fn identity_error(error: impl std::fmt::Display) -> PeerError {
    PeerError::Identity(error.to_string())
}
