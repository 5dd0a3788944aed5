//! The resolver that the authority asks: it hands each question to the name servers of the cluster, one after the other,
//! as resolvers do, and goes on to the next one where there is no answer or SERVFAIL.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

const PATIENCE: Duration = Duration::from_millis(500);
const SERVFAIL: u8 = 2;

/// How it asks, and what it has seen.
#[derive(Default)]
pub(crate) struct Resolver {
    /// It asks by TCP.
    pub(crate) tcp: AtomicBool,
    /// It answers SERVFAIL to everything.
    pub(crate) broken: AtomicBool,
    /// Questions that a name server has answered.
    pub(crate) answered: AtomicUsize,
}

impl Resolver {
    pub(crate) async fn start(servers: Vec<SocketAddr>) -> (SocketAddr, Arc<Self>) {
        let resolver = Arc::new(Self::default());
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
        let address = socket.local_addr().expect("an address");
        let served = resolver.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let (socket, question) = (socket.clone(), buffer[..length].to_vec());
                let (resolver, servers) = (served.clone(), servers.clone());
                tokio::spawn(async move {
                    let answer = resolver.answer(&question, &servers).await;
                    let _ = socket.send_to(&answer, client).await;
                });
            }
        });
        (address, resolver)
    }

    async fn answer(&self, question: &[u8], servers: &[SocketAddr]) -> Vec<u8> {
        if !self.broken.load(Ordering::Relaxed) {
            for server in servers {
                let asked = match self.tcp.load(Ordering::Relaxed) {
                    true => timeout(PATIENCE, by_tcp(*server, question)).await,
                    false => timeout(PATIENCE, by_udp(*server, question)).await,
                };
                if let Ok(Ok(answer)) = asked
                    && answer.get(3).is_some_and(|flags| flags & 0xf != SERVFAIL)
                {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        let mut failure = question.to_vec();
        (failure[2], failure[3]) = (failure[2] | 0x80, SERVFAIL);
        failure
    }
}

async fn by_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer).await?;
    answer.truncate(length);
    Ok(answer)
}

async fn by_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&[&(question.len() as u16).to_be_bytes(), question].concat()).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
