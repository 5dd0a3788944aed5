//! What this node's DNS answers for the names at which names are proved: asked by the leader before an authority is
//! told to look.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use pangolin_core::{HostName, NodeId, plan::CHALLENGE_LABEL};
use pangolin_dns::{Protocol, ask_txt};
use pangolin_peer::Handler;

/// Most names asked for at once: two for each name of a certificate.
const NAMES_MAX: usize = 200;

/// The values that are answered, by name.
pub type Answered = BTreeMap<HostName, Vec<String>>;

/// Asks this node's own DNS.
#[derive(Clone, Debug)]
pub struct OwnDns {
    listen: Vec<SocketAddr>,
}

impl OwnDns {
    /// The DNS that listens there.
    #[must_use]
    pub fn new(listen: &[SocketAddr]) -> Self {
        let own = |address: &SocketAddr| match address {
            at if !at.ip().is_unspecified() => *at,
            SocketAddr::V4(at) => ([127, 0, 0, 1], at.port()).into(),
            SocketAddr::V6(at) => (std::net::Ipv6Addr::LOCALHOST, at.port()).into(),
        };
        Self { listen: listen.iter().map(own).collect() }
    }

    /// The values that every address answers, by UDP and by TCP.
    ///
    /// # Errors
    /// One of them does not answer.
    pub async fn answers(&self, names: &[HostName]) -> Result<Answered, String> {
        let mut answered = Answered::new();
        for name in names {
            let mut common: Option<Vec<Vec<u8>>> = None;
            for address in &self.listen {
                for protocol in [Protocol::Udp, Protocol::Tcp] {
                    let found = ask_txt(*address, name, protocol).await?;
                    common = Some(match common {
                        Some(known) => known.into_iter().filter(|value| found.contains(value)).collect(),
                        None => found,
                    });
                }
            }
            let values = common.unwrap_or_default();
            let texts = values.iter().map(|value| String::from_utf8_lossy(value).into_owned());
            answered.insert(name.clone(), texts.collect());
        }
        Ok(answered)
    }
}

impl Handler for OwnDns {
    fn request(&self, _: NodeId, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            let answered = self.answers(&asked(&body)?).await?;
            serde_json::to_vec(&answered).map(Bytes::from).map_err(|error| error.to_string())
        })
    }
}

/// The names that another node asks for: those of proofs alone.
fn asked(body: &[u8]) -> Result<Vec<HostName>, String> {
    let names: Vec<HostName> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let proof = |name: &HostName| name.as_str().split('.').next() == Some(CHALLENGE_LABEL);
    if names.len() > NAMES_MAX || !names.iter().all(proof) {
        return Err(format!("at most {NAMES_MAX} names that begin with {CHALLENGE_LABEL}"));
    }
    Ok(names)
}

/// What another node has answered.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read_answers(answer: &[u8]) -> Result<Answered, String> {
    serde_json::from_slice(answer).map_err(|error| error.to_string())
}

/// See [`crate::fuzz`].
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(names) = asked(bytes) {
        assert!(names.len() <= NAMES_MAX);
    }
    let _ = read_answers(bytes);
}
