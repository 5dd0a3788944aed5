//! The node's side.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use pangolin_core::id::TokenId;
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::server::TlsStream;
use zeroize::Zeroizing;

use super::{
    ANSWER_MAX, DONE, EXPORTER, LATER, PROOF, REFUSED, REQUEST_HEAD, REQUEST_MAX, read_block, verify,
    write_block,
};

/// How long a joiner may take between its requests.
const IDLE: Duration = Duration::from_secs(30);

/// How long the door may work on a request: it may have to wait for an election and a commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Most requests on one connection.
const REQUESTS_MAX: usize = 64;

/// So many wrong proofs of one address within [`WRONG_WINDOW`] close the door to it for the rest of that time.
const WRONG_MAX: u32 = 5;
const WRONG_WINDOW: Duration = Duration::from_secs(60);

/// Most addresses whose wrong proofs are counted. Guessing a 256-bit secret is hopeless anyway: this only keeps
/// the attempts cheap and visible.
const WRONG_ADDRESSES: usize = 4096;

/// Why a joiner does not get what it asks for, in words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declined {
    /// Every node would say the same: the token is unknown or expired, the name is taken, …
    Refused(String),
    /// This node cannot tell now, or does not know how it went: another one may, and asking again is safe.
    NotNow(String),
}

impl Declined {
    /// In words.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused(reason) | Self::NotNow(reason) => reason,
        }
    }

    fn status(&self) -> u8 {
        match self {
            Self::Refused(_) => REFUSED,
            Self::NotNow(_) => LATER,
        }
    }

    fn too_long() -> Self {
        Self::NotNow("it takes too long; ask again".to_owned())
    }
}

/// Who decides about joiners.
pub trait JoinDoor: Send + Sync + 'static {
    /// The secret of a token. May take as long as the node needs to find out whether it has missed the token. A
    /// refusal counts as a wrong proof.
    fn secret(&self, token: TokenId) -> BoxFuture<'_, Result<Zeroizing<[u8; 32]>, Declined>>;

    /// Answers a request whose sender has proven to know the token's secret. The same request may come again.
    fn answer(
        &self,
        token: TokenId,
        remote: SocketAddr,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, Declined>>;
}

/// Answers a joiner until it leaves.
pub(crate) async fn serve(
    mut stream: TlsStream<TcpStream>,
    remote: SocketAddr,
    door: Option<Arc<dyn JoinDoor>>,
    wrong: &WrongProofs,
) -> Result<(), String> {
    let session = stream.get_ref().1;
    let binding = session.export_keying_material([0; 32], EXPORTER, None).map_err(|e| e.to_string())?;
    for _ in 0..REQUESTS_MAX {
        let request = timeout(IDLE, read_block(&mut stream, REQUEST_HEAD + REQUEST_MAX))
            .await
            .map_err(|_| "the joiner has gone silent")?
            .map_err(|e| e.to_string())?;
        let Some(request) = request else { return Ok(()) };
        let judged = judge(&request, remote, door.as_deref(), wrong, |secret, body, proof| {
            verify(secret, &binding, body, proof)
        });
        let judged = timeout(ANSWER_TIMEOUT, judged).await.unwrap_or_else(|_| Err(Declined::too_long()));
        let (answer, goes_on) = match judged {
            Ok((door, token)) => {
                let body = request[REQUEST_HEAD..].to_vec();
                let answer = timeout(ANSWER_TIMEOUT, door.answer(token, remote, body)).await;
                (answer.unwrap_or_else(|_| Err(Declined::too_long())), true)
            }
            Err(declined) => (Err(declined), false),
        };
        let (status, body) = match &answer {
            Ok(body) if body.len() > ANSWER_MAX => (REFUSED, &b"the answer is too large"[..]),
            Ok(body) => (DONE, body.as_slice()),
            Err(declined) => (declined.status(), declined.reason().as_bytes()),
        };
        timeout(IDLE, write_block(&mut stream, &[&[status], body]))
            .await
            .map_err(|_| "the joiner does not read its answer")?
            .map_err(|e| e.to_string())?;
        if let (Err(declined), false) = (&answer, goes_on) {
            return Err(format!("the joiner was turned away: {}", declined.reason()));
        }
    }
    Err("the joiner has used up its requests".to_owned())
}

/// Whether a request comes from somebody who knows its token.
async fn judge<'a>(
    request: &[u8],
    remote: SocketAddr,
    door: Option<&'a dyn JoinDoor>,
    wrong: &WrongProofs,
    verify: impl FnOnce(&[u8; 32], &[u8], &[u8]) -> bool,
) -> Result<(&'a dyn JoinDoor, TokenId), Declined> {
    let malformed = || Declined::Refused("the request is malformed".to_owned());
    let (id, rest) = request.split_first_chunk::<8>().ok_or_else(malformed)?;
    let (proof, body) = rest.split_at_checked(PROOF).ok_or_else(malformed)?;
    let door = door.ok_or_else(|| {
        Declined::NotNow("this node does not take joiners yet; try again, or ask another one".to_owned())
    })?;
    let now = Instant::now();
    if let Some(wait) = wrong.closed_to(remote.ip(), now) {
        return Err(Declined::Refused(format!(
            "too many wrong join tokens from {}; try again in {} s",
            remote.ip(),
            wait.as_secs() + 1
        )));
    }
    let token = TokenId(*id);
    let secret = door.secret(token).await.inspect_err(|declined| {
        if matches!(declined, Declined::Refused(_)) {
            wrong.count(remote.ip(), now);
        }
    })?;
    if !verify(&secret, body, proof) {
        wrong.count(remote.ip(), now);
        tracing::warn!(%remote, %token, "a joiner does not know the secret of the token that it names");
        return Err(Declined::Refused("the secret of the join token is wrong".to_owned()));
    }
    Ok((door, token))
}

/// See [`crate::fuzz`]: a request of somebody who does not know the token's secret.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(request: &[u8]) {
    use futures_util::FutureExt as _;

    struct Never;

    impl JoinDoor for Never {
        fn secret(&self, _: TokenId) -> BoxFuture<'_, Result<Zeroizing<[u8; 32]>, Declined>> {
            Box::pin(async { Ok(Zeroizing::new([1; 32])) })
        }

        fn answer(&self, _: TokenId, _: SocketAddr, _: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, Declined>> {
            unreachable!("nobody has proven anything")
        }
    }

    let remote = SocketAddr::from(([127, 0, 0, 1], 1));
    let verify = |secret: &[u8; 32], body: &[u8], proof: &[u8]| verify(secret, &[0; 32], body, proof);
    let wrong = WrongProofs::default();
    let judged = judge(request, remote, Some(&Never), &wrong, verify).now_or_never();
    assert!(judged.is_some_and(|judged| judged.is_err()), "somebody without the secret is let in");
}

/// Counts wrong proofs by address.
#[derive(Debug, Default)]
pub(crate) struct WrongProofs {
    counts: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

impl WrongProofs {
    /// For how long the door stays closed to an address, if it is.
    fn closed_to(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let counts = self.counts.lock();
        let (count, since) = counts.get(&network(address))?;
        let left = WRONG_WINDOW.saturating_sub(now - *since);
        (*count >= WRONG_MAX && !left.is_zero()).then_some(left)
    }

    fn count(&self, address: IpAddr, now: Instant) {
        let mut counts = self.counts.lock();
        if counts.len() >= WRONG_ADDRESSES {
            counts.retain(|_, (_, since)| now - *since < WRONG_WINDOW);
            if counts.len() >= WRONG_ADDRESSES {
                return;
            }
        }
        let entry = counts.entry(network(address)).or_insert((0, now));
        if now - entry.1 >= WRONG_WINDOW {
            *entry = (0, now);
        }
        entry.0 += 1;
    }
}

/// One host may have all addresses of an IPv6 /64 (RFC 4291 §2.5.1).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_closes_after_five_wrong_proofs_and_opens_again() {
        let (wrong, now) = (WrongProofs::default(), Instant::now());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        for _ in 0..WRONG_MAX {
            assert_eq!(wrong.closed_to(a, now), None);
            wrong.count(a, now);
        }
        assert_eq!(wrong.closed_to(a, now), Some(WRONG_WINDOW));
        assert_eq!(wrong.closed_to(b, now), None);
        assert_eq!(wrong.closed_to(a, now + WRONG_WINDOW), None);
        wrong.count(a, now + WRONG_WINDOW);
        assert_eq!(wrong.closed_to(a, now + WRONG_WINDOW), None, "the count begins anew");
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let (wrong, now) = (WrongProofs::default(), Instant::now());
        for host in 0..WRONG_MAX {
            wrong.count(format!("2001:db8::{host}").parse().unwrap(), now);
        }
        assert!(wrong.closed_to("2001:db8::ffff".parse().unwrap(), now).is_some());
        assert!(wrong.closed_to("2001:db8:0:1::1".parse().unwrap(), now).is_none());
    }
}
