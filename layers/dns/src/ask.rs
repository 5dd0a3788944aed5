//! A question to a name server, as a validator asks it: to see what a node of this cluster really answers.

use std::{net::SocketAddr, time::Duration};

use domain::{
    base::{Message, MessageBuilder, Name, Rtype, iana::Rcode},
    rdata::Txt,
};
use pangolin_core::HostName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::Protocol;

/// How long an answer may take: the server is on this host.
const PATIENCE: Duration = Duration::from_secs(1);
/// Largest answer by UDP that is read: no EDNS is sent, so that none is larger than 512 bytes (RFC 1035 §4.2.1).
const DATAGRAM_MAX: usize = 4096;

/// The values of the TXT records at a name, as `server` answers; none where there is no such record.
///
/// # Errors
/// No answer in time, one that is none, or one that says that something is wrong.
pub async fn ask_txt(
    server: SocketAddr,
    name: &HostName,
    protocol: Protocol,
) -> Result<Vec<Vec<u8>>, String> {
    let question = question(name)?;
    let asked = async {
        match protocol {
            Protocol::Udp => by_udp(server, &question).await,
            Protocol::Tcp => by_tcp(server, &question).await,
        }
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(bytes)) => values(bytes, &question),
        Ok(Err(error)) => Err(format!("{server} by {protocol}: {error}")),
        Err(_) => Err(format!("{server} does not answer by {protocol} within {} s", PATIENCE.as_secs())),
    }
}

async fn by_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM_MAX];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

async fn by_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn question(name: &HostName) -> Result<Vec<u8>, String> {
    let name: Name<Vec<u8>> =
        name.as_str().parse().map_err(|error| format!("{name} cannot be asked for: {error}"))?;
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_random_id();
    let mut message = message.question();
    message.push((name, Rtype::TXT)).map_err(|error| error.to_string())?;
    Ok(message.finish())
}

fn values(answer: Vec<u8>, question: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let bad = |error: &dyn std::fmt::Display| format!("an answer that cannot be read: {error}");
    let answer = Message::from_octets(answer).map_err(|error| bad(&error))?;
    let question = Message::from_octets(question).map_err(|error| bad(&error))?;
    let header = answer.header();
    if !answer.is_answer(&question) {
        return Err("an answer to another question".to_owned());
    }
    match header.rcode() {
        Rcode::NOERROR if header.tc() => return Err("an answer that was cut".to_owned()),
        Rcode::NOERROR => {}
        Rcode::NXDOMAIN => return Ok(Vec::new()),
        other => return Err(format!("the answer is {other}")),
    }
    let section = answer.answer().map_err(|error| bad(&error))?;
    let mut found = Vec::new();
    for record in section.limit_to::<Txt<_>>() {
        let record = record.map_err(|error| bad(&error))?;
        found.push(record.data().iter().flatten().copied().collect());
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let name: HostName = "_acme-challenge.a.test".parse().expect("a name");
            let question = question(&name).expect("a question");
            let _ = values(bytes.clone(), &question);
            let _ = values([&question[..2], &[0x84, 0], &question[4..], &bytes].concat(), &question);
        }
    }
}
