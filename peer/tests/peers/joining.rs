//! Joiners and the door.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use pangolin_core::{id::TokenId, record::Digest};
use pangolin_peer::{
    BoxFuture,
    identity::spki_digest_of_certificate,
    join::{Declined, JoinClient, JoinDoor, JoinError, JoinTokenText, REQUEST_MAX},
};
use tokio::net::{TcpListener, TcpStream};

use crate::lab::{Lab, Node};

/// A token of which this node cannot tell whether it is good.
const MISSED: TokenId = TokenId([8; 8]);

struct Door {
    token: JoinTokenText,
    answered: AtomicUsize,
}

impl JoinDoor for Door {
    fn secret(&self, token: TokenId) -> BoxFuture<'_, Result<zeroize::Zeroizing<[u8; 32]>, Declined>> {
        Box::pin(async move {
            if token == self.token.id {
                Ok(self.token.secret.clone())
            } else if token == MISSED {
                Err(Declined::NotNow("this node is behind".to_owned()))
            } else {
                Err(Declined::Refused("the token is unknown".to_owned()))
            }
        })
    }

    fn answer(
        &self,
        token: TokenId,
        remote: SocketAddr,
        body: Vec<u8>,
    ) -> BoxFuture<'_, Result<Vec<u8>, Declined>> {
        assert!(token == self.token.id && remote.ip().is_loopback());
        self.answered.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            match &body[..] {
                b"no" => Err(Declined::Refused("the cluster is full".to_owned())),
                b"later" => Err(Declined::NotNow("there is no leader".to_owned())),
                body => Ok([b"welcome ", body].concat()),
            }
        })
    }
}

async fn house() -> (Lab, Node, JoinTokenText, Arc<Door>) {
    let lab = Lab::new();
    let node = lab.node(1).await;
    let pin = spki_digest_of_certificate(lab.authority.certificate()).unwrap();
    let token = JoinTokenText::generate(pin).unwrap();
    let door = Arc::new(Door { token: token.clone(), answered: AtomicUsize::new(0) });
    node.peers.admit(door.clone());
    (lab, node, token, door)
}

#[tokio::test]
async fn whoever_has_the_token_is_answered_several_times_on_one_connection() {
    let (lab, node, token, door) = house().await;
    let typed: JoinTokenText = token.to_string().parse().unwrap();
    let mut client = JoinClient::connect(node.address, &typed).await.unwrap();
    assert_eq!(client.authority(), lab.authority.certificate());
    assert_eq!(client.request(b"one").await.unwrap(), b"welcome one");
    let large = vec![7; REQUEST_MAX];
    assert_eq!(client.request(&large).await.unwrap().len(), REQUEST_MAX + 8);
    assert!(matches!(client.request(&[0; REQUEST_MAX + 1]).await, Err(JoinError::TooLarge(_))));
    let refused = client.request(b"no").await.unwrap_err();
    assert_eq!(refused.to_string(), "the node refuses: the cluster is full");
    let later = client.request(b"later").await.unwrap_err();
    assert!(matches!(&later, JoinError::Later(reason) if reason == "there is no leader"), "{later}");
    assert_eq!(client.request(b"two").await.unwrap(), b"welcome two");
    assert_eq!(door.answered.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn a_wrong_secret_or_token_never_reaches_the_door_and_closes_it_after_a_while() {
    let (_lab, node, token, door) = house().await;
    let wrong = JoinTokenText { secret: zeroize::Zeroizing::new([9; 32]), ..token.clone() };
    let unknown = JoinTokenText { id: TokenId([9; 8]), ..token.clone() };
    for (token, reason) in [
        (&wrong, "secret of the join token is wrong"),
        (&unknown, "the token is unknown"),
        (&wrong, "wrong"),
        (&wrong, "wrong"),
        (&wrong, "wrong"),
        (&wrong, "too many wrong join tokens"),
        (&token, "too many wrong join tokens"),
    ] {
        let mut client = JoinClient::connect(node.address, token).await.unwrap();
        let error = client.request(b"let me in").await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    assert_eq!(door.answered.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_node_that_cannot_tell_counts_nothing_against_the_joiner() {
    let (_lab, node, token, _) = house().await;
    let missed = JoinTokenText { id: MISSED, ..token };
    for _ in 0..10 {
        let mut client = JoinClient::connect(node.address, &missed).await.unwrap();
        let error = client.request(b"let me in").await.unwrap_err();
        assert!(matches!(&error, JoinError::Later(reason) if reason == "this node is behind"), "{error}");
    }
}

#[tokio::test]
async fn a_node_without_a_door_says_so() {
    let lab = Lab::new();
    let node = lab.node(1).await;
    let pin = spki_digest_of_certificate(lab.authority.certificate()).unwrap();
    let mut client = JoinClient::connect(node.address, &JoinTokenText::generate(pin).unwrap()).await.unwrap();
    let error = client.request(b"x").await.unwrap_err();
    assert!(matches!(&error, JoinError::Later(_)), "{error}");
    assert!(error.to_string().contains("does not take joiners yet"), "{error}");
}

#[tokio::test]
async fn somebody_in_the_middle_with_another_authority_is_found_out_before_anything_is_sent() {
    let (_lab, _node, token, _) = house().await;
    let impostor = Lab::new().node(1).await;
    let error = JoinClient::connect(impostor.address, &token).await.unwrap_err();
    assert!(matches!(error, JoinError::OtherCluster(_)), "{error}");
}

#[tokio::test]
async fn the_real_authoritys_certificate_in_foreign_hands_does_not_help() {
    let (lab, _node, token, _) = house().await;
    // Its own authority has signed the impostor, but it shows the real one's certificate.
    let mut identity = Lab::new().identity(1);
    identity.authority = lab.authority.certificate().to_vec();
    let impostor = Node::start(identity).await;
    let error = JoinClient::connect(impostor.address, &token).await.unwrap_err();
    assert!(matches!(error, JoinError::OtherCluster(_)), "{error}");
}

#[tokio::test]
async fn the_pin_of_something_that_is_no_authority_is_refused() {
    let (_lab, node, token, _) = house().await;
    // The node's own key instead of the authority's, and none at all.
    for authority_pin in [node.spki, Digest([0; 32])] {
        let token = JoinTokenText { authority_pin, ..token.clone() };
        let error = JoinClient::connect(node.address, &token).await.unwrap_err();
        assert!(matches!(error, JoinError::OtherCluster(_)), "{error}");
    }
}

#[tokio::test]
async fn somebody_who_passes_bytes_on_between_the_two_changes_nothing() {
    let (_lab, node, token, _) = house().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let middle = listener.local_addr().unwrap();
    let target = node.address;
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(target).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
    });
    let mut client = JoinClient::connect(middle, &token).await.unwrap();
    assert_eq!(client.request(b"x").await.unwrap(), b"welcome x");
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_reported_with_what_to_check() {
    let (_lab, node, token, _) = house().await;
    let address = node.address;
    node.stop().await;
    let error = JoinClient::connect(address, &token).await.unwrap_err();
    assert!(error.to_string().contains("check the address"), "{error}");
}
