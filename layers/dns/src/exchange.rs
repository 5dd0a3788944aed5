//! Questions to servers elsewhere, over the network.

use std::{net::SocketAddr, time::Duration};

use domain::{
    base::{Message, MessageBuilder, Name, Rtype, iana::Class},
    rdata::AllRecordData,
};
use pangolin_core::name::HostName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long a server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A reply, not looked at yet.
pub(crate) type Reply = Message<Vec<u8>>;

/// The records of a reply that can be read, in all sections.
pub(crate) fn typed(
    reply: &Reply,
) -> impl Iterator<Item = (HostName, AllRecordData<&[u8], domain::base::ParsedName<&[u8]>>)> {
    let records = reply.iter().filter_map(Result::ok);
    records.filter_map(|(record, _)| {
        let owner = record.owner().to_string().parse().ok()?;
        let data = record.to_any_record::<AllRecordData<_, _>>().ok()?.into_data();
        Some((owner, data))
    })
}

/// A query with EDNS.
pub(crate) fn query(name: &str, kind: Rtype, recurse: bool) -> Result<Vec<u8>, String> {
    let bad = |_| format!("{name} is no name that can be asked for");
    let name: Name<Vec<u8>> = name.parse().map_err(|_| format!("{name} is no domain name"))?;
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_random_id();
    builder.header_mut().set_rd(recurse);
    let mut question = builder.question();
    question.push((name, kind, Class::IN)).map_err(bad)?;
    let mut message = question.additional();
    let with_size = message.opt(|opt| {
        opt.set_udp_payload_size(crate::reply::UDP_PAYLOAD);
        Ok(())
    });
    with_size.map_err(bad)?;
    Ok(message.finish())
}

/// Asks by UDP, and by TCP if the reply does not fit.
pub(crate) async fn ask(server: SocketAddr, name: &str, kind: Rtype, recurse: bool) -> Result<Reply, String> {
    let query = query(name, kind, recurse)?;
    let reply = by_udp(server, &query).await?;
    if reply.header().tc() { by_tcp(server, &query).await } else { Ok(reply) }
}

/// Asks by UDP.
pub(crate) async fn by_udp(server: SocketAddr, query: &[u8]) -> Result<Reply, String> {
    let exchange = async {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        socket.send(query).await?;
        loop {
            let mut reply = vec![0; usize::from(crate::reply::UDP_PAYLOAD)];
            let length = socket.recv(&mut reply).await?;
            reply.truncate(length);
            if let Some(reply) = answer_to(query, reply) {
                return Ok(reply);
            }
        }
    };
    within_patience(exchange).await
}

/// Asks by TCP.
pub(crate) async fn by_tcp(server: SocketAddr, query: &[u8]) -> Result<Reply, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        // A query with one question is short.
        let framed = [&(query.len() as u16).to_be_bytes(), query].concat();
        stream.write_all(&framed).await?;
        let mut reply = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut reply).await?;
        answer_to(query, reply).ok_or_else(|| std::io::Error::other("the reply is to another question"))
    };
    within_patience(exchange).await
}

async fn within_patience(exchange: impl Future<Output = std::io::Result<Reply>>) -> Result<Reply, String> {
    match timeout(PATIENCE, exchange).await {
        Ok(reply) => reply.map_err(|error| error.to_string()),
        Err(_) => Err(format!("it did not answer within {} s", PATIENCE.as_secs())),
    }
}

/// The reply, if it is one to this query.
fn answer_to(query: &[u8], reply: Vec<u8>) -> Option<Reply> {
    let reply = Message::from_octets(reply).ok()?;
    let query = Message::from_octets(query).ok()?;
    let same = reply.header().qr()
        && reply.header().id() == query.header().id()
        && reply.first_question()? == query.first_question()?;
    same.then_some(reply)
}
