//! A small DNS client: one question over UDP or TCP, and what is needed of the answer (RFC 1035 §4).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(2);
const ID: u16 = 0x5050;
/// In the third byte of a message.
const RECURSION_DESIRED: u8 = 1;

/// Record types that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// IPv4 address.
    A = 1,
    /// Name server.
    Ns = 2,
    /// Start of authority.
    Soa = 6,
    /// Text.
    Txt = 16,
    /// IPv6 address.
    Aaaa = 28,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Response code: 0 is fine, 3 is no such name, 5 is refused.
    pub code: u8,
    /// The server is authoritative.
    pub authoritative: bool,
    /// The addresses in the answer section.
    pub addresses: Vec<IpAddr>,
    /// Number of records in the answer section.
    pub answers: u16,
    /// Serial of the SOA record in the answer section, where there is one (RFC 1035 §3.3.13).
    pub serial: Option<u32>,
}

/// Asks over UDP.
///
/// # Errors
/// No answer, or one that is no answer.
pub async fn ask(server: SocketAddr, name: &str, kind: Kind) -> Result<Answer> {
    exchange(server, &question(name, kind)?).await
}

/// Asks a resolver over UDP, which is to look for the answer itself.
///
/// # Errors
/// No answer, or one that is no answer.
pub async fn resolve(resolver: SocketAddr, name: &str, kind: Kind) -> Result<Answer> {
    let mut question = question(name, kind)?;
    question[2] |= RECURSION_DESIRED;
    exchange(resolver, &question).await
}

async fn exchange(server: SocketAddr, question: &[u8]) -> Result<Answer> {
    let local: SocketAddr =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = [0; 4096];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .with_context(|| format!("{server} did not answer within {PATIENCE:?}"))??;
    read(&buffer[..length])
}

/// Asks over TCP.
///
/// # Errors
/// No answer, or one that is no answer.
pub async fn ask_tcp(server: SocketAddr, name: &str, kind: Kind) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let question = question(name, kind)?;
        stream.write_u16(u16::try_from(question.len())?).await?;
        stream.write_all(&question).await?;
        let length = stream.read_u16().await?;
        let mut buffer = vec![0; length.into()];
        stream.read_exact(&mut buffer).await?;
        read(&buffer)
    };
    timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("{server} did not answer within {PATIENCE:?}"))?
}

fn question(name: &str, kind: Kind) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(64);
    out.extend(ID.to_be_bytes());
    // One question, nothing else, recursion not desired.
    out.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        ensure!(!label.is_empty() && label.len() < 64, "{name:?} is not a domain name");
        out.push(u8::try_from(label.len())?);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out.extend((kind as u16).to_be_bytes());
    out.extend(1u16.to_be_bytes());
    Ok(out)
}

fn read(bytes: &[u8]) -> Result<Answer> {
    let mut reader = Reader { bytes, at: 0 };
    ensure!(reader.number()? == ID, "an answer to somebody else's question");
    let flags = reader.number()?;
    ensure!(flags & 0x8000 != 0, "not an answer");
    let (questions, answers) = (reader.number()?, reader.number()?);
    reader.skip(4)?;
    for _ in 0..questions {
        reader.name()?;
        reader.skip(4)?;
    }
    let (mut addresses, mut serial) = (Vec::new(), None);
    for _ in 0..answers {
        reader.name()?;
        let kind = reader.number()?;
        reader.skip(6)?;
        let length = usize::from(reader.number()?);
        if kind == Kind::Soa as u16 {
            serial = Some(reader.serial(length)?);
            continue;
        }
        let data = reader.take(length)?;
        if let (1, Ok(octets)) = (kind, <[u8; 4]>::try_from(data)) {
            addresses.push(IpAddr::from(octets));
        }
        if let (28, Ok(octets)) = (kind, <[u8; 16]>::try_from(data)) {
            addresses.push(IpAddr::from(octets));
        }
    }
    let code = u8::try_from(flags & 0xf)?;
    Ok(Answer { code, authoritative: flags & 0x0400 != 0, addresses, answers, serial })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at + length).context("the answer ends too early")?;
        self.at += length;
        Ok(taken)
    }

    fn skip(&mut self, length: usize) -> Result<()> {
        self.take(length).map(|_| ())
    }

    /// Walks over the data of an SOA record.
    fn serial(&mut self, length: usize) -> Result<u32> {
        let end = self.at + length;
        self.name()?;
        self.name()?;
        let taken = self.take(4)?;
        let serial = u32::from_be_bytes([taken[0], taken[1], taken[2], taken[3]]);
        self.skip(end.checked_sub(self.at).context("an SOA record ends too early")?)?;
        Ok(serial)
    }

    fn number(&mut self) -> Result<u16> {
        let taken = self.take(2)?;
        Ok(u16::from_be_bytes([taken[0], taken[1]]))
    }

    /// Walks over a name; a pointer ends it (RFC 1035 §4.1.4).
    fn name(&mut self) -> Result<()> {
        loop {
            match self.take(1)?[0] {
                0 => return Ok(()),
                length @ 1..=63 => self.skip(length.into())?,
                pointer if pointer & 0xc0 == 0xc0 => return self.skip(1),
                other => bail!("{other:#x} begins no label"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_an_answer() {
        let mut answer = question("a.test", Kind::A).expect("a question");
        (answer[2], answer[3], answer[7]) = (0x84, 0, 2);
        for last in [1, 2] {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, last]);
        }
        let read = read(&answer).expect("an answer");
        assert_eq!((read.code, read.authoritative, read.answers), (0, true, 2));
        assert_eq!(
            read.addresses,
            ["192.0.2.1", "192.0.2.2"].map(|a| a.parse::<IpAddr>().expect("an address"))
        );
    }

    #[test]
    fn the_serial_is_read_from_an_soa_record() {
        let mut answer = question("a.test", Kind::Soa).expect("a question");
        (answer[2], answer[7]) = (0x84, 1);
        answer.extend([0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 30, 0, 24, 0xc0, 12, 0xc0, 12, 0, 0, 1, 4]);
        answer.extend([0; 16]);
        let read = read(&answer).expect("an answer");
        assert_eq!((read.serial, read.answers, read.addresses), (Some(260), 1, vec![]));
    }

    #[test]
    fn a_cut_answer_is_refused_at_every_length() {
        let mut answer = question("a.test", Kind::A).expect("a question");
        (answer[2], answer[7]) = (0x80, 1);
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1]);
        for length in 0..answer.len() {
            assert!(read(&answer[..length]).is_err(), "{length} bytes were taken");
        }
    }
}
