//! Tells secondaries that a zone has changed (RFC 1996). Every node does, so that none has to.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use domain::{
    base::{
        Message, MessageBuilder, Name, Rtype,
        iana::{Class, Opcode, Rcode},
    },
    rdata::tsig::Time48,
    tsig::{ClientTransaction, Key},
};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{server::Shared, udp::seconds};

/// Changes that come together are told once.
const GATHER: Duration = Duration::from_secs(1);
/// How long an answer is waited for: the first time, then twice as long each time.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a secondary is told (RFC 1996 §3.6 leaves it open); it looks by itself in the end.
const ATTEMPTS: u32 = 4;

/// Tells of each change until shutdown.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut changes = shared.changes.subscribe();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(GATHER) => {}
        }
        changes.mark_unchanged();
        tokio::select! {
            () = shutdown.cancelled() => return,
            // A later change is told afterwards: a round takes half a minute at most.
            () = tell_all(&shared) => {}
        }
    }
}

async fn tell_all(shared: &Shared) {
    let transfers = shared.transfers.load_full();
    let mut telling = tokio::task::JoinSet::new();
    for zone in &transfers.plan.zones {
        for (address, key) in &zone.secondaries {
            let Some(key) = transfers.keys.values().find(|known| known.name().to_string() == key.as_str())
            else {
                continue;
            };
            let from = shared.local().iter().find(|local| local.is_ipv4() == address.is_ipv4());
            let from = from.map(|local| SocketAddr::new(local.ip(), 0));
            telling.spawn(tell(from, *address, zone.apex.to_string(), Arc::clone(key)));
        }
    }
    while telling.join_next().await.is_some() {}
}

async fn tell(from: Option<SocketAddr>, secondary: SocketAddr, zone: String, key: Arc<Key>) {
    let Some(from) = from else {
        tracing::warn!(%secondary, zone, "the secondary cannot be told of changes: DNS has no address of its family");
        return;
    };
    let mut patience = PATIENCE;
    let mut why = "it does not answer".to_owned();
    for _ in 0..ATTEMPTS {
        match timeout(patience, tell_once(from, secondary, &zone, &key)).await {
            Ok(Ok(Rcode::NOERROR)) => {
                tracing::debug!(%secondary, zone, "the secondary knows of the change");
                return;
            }
            Ok(Ok(rcode)) => why = format!("it answers {rcode}"),
            Ok(Err(error)) => {
                why = error.to_string();
                sleep(patience).await;
            }
            Err(_) => {}
        }
        patience *= 2;
    }
    tracing::warn!(%secondary, zone, "the secondary cannot be told that the zone has changed: {why}");
}

async fn tell_once(
    from: SocketAddr,
    secondary: SocketAddr,
    zone: &str,
    key: &Arc<Key>,
) -> std::io::Result<Rcode> {
    let invalid = |what: &str| std::io::Error::other(what.to_owned());
    let socket = UdpSocket::bind(from).await?;
    socket.connect(secondary).await?;
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_random_id();
    builder.header_mut().set_opcode(Opcode::NOTIFY);
    builder.header_mut().set_aa(true);
    let id = builder.header().id();
    let mut question = builder.question();
    let name: Name<Vec<u8>> = zone.parse().map_err(|_| invalid("the zone is no domain name"))?;
    question.push((name, Rtype::SOA, Class::IN)).map_err(|_| invalid("the question is too long"))?;
    let mut message = question.additional();
    let now = || Time48::from_u64(u64::from(seconds()));
    let transaction = ClientTransaction::request(Arc::clone(key), &mut message, now());
    let transaction = transaction.map_err(|_| invalid("the message is too long"))?;
    socket.send(&message.finish()).await?;
    loop {
        let mut reply = vec![0; 1232];
        let length = socket.recv(&mut reply).await?;
        reply.truncate(length);
        let Ok(mut reply) = Message::from_octets(reply) else { continue };
        let header = reply.header();
        if header.id() != id || !header.qr() || header.opcode() != Opcode::NOTIFY {
            continue;
        }
        return match transaction.answer(&mut reply, now()) {
            Ok(()) => Ok(header.rcode()),
            Err(error) => Err(invalid(&format!("its answer is not signed as it should be: {error}"))),
        };
    }
}
