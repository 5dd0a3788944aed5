//! Other people's DNS servers as processes, and questions to whoever answers.
#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use domain::base::{Message, MessageBuilder, Name, Rtype, iana::Class};
use pangolin_core::plan::DnsPlan;
use pangolin_dns::{DnsConfig, DnsServer, Secret};
use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// One question.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// Whether a program is installed; says that the test is skipped if not.
pub(crate) fn is_there(program: &str) -> bool {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists());
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// A port that is free for both protocols at the moment.
pub(crate) fn free_port() -> u16 {
    for _ in 0..50 {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let port = udp.local_addr().expect("an address").port();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// A process that ends with the test, and its folder.
pub(crate) struct Engine {
    child: Child,
    pub(crate) address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Engine {
    /// Starts a program with files in a folder of its own; `$DIR` and `$PORT` in files and arguments are replaced.
    pub(crate) fn start(program: &str, port: u16, arguments: &[&str], files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let fill = |text: &str| {
            let folder = folder.path().to_str().expect("a plain path");
            text.replace("$DIR", folder).replace("$PORT", &port.to_string())
        };
        for (name, content) in files {
            std::fs::write(folder.path().join(name), fill(content)).expect("a file");
        }
        let log = std::fs::File::create(folder.path().join("log")).expect("a file");
        let child = Command::new(program)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
            .args(arguments.iter().map(|argument| fill(argument)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("a process");
        Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), folder }
    }

    /// NSD with these lines at the end of its configuration.
    pub(crate) fn nsd(port: u16, rest: &str, files: &[(&str, &str)]) -> Self {
        let conf = format!(
            "server:\n  ip-address: 127.0.0.1@$PORT\n  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  \
             zonesdir: \"$DIR\"\n  database: \"\"\n  pidfile: \"$DIR/pid\"\n  xfrdfile: \"$DIR/xfrd\"\n  \
             zonelistfile: \"$DIR/zones\"\n  xfrdir: \"$DIR\"\n  hide-version: yes\n  rrl-ratelimit: 0\n  \
             ipv4-edns-size: 1232\n  minimal-responses: no\n  refuse-any: no\n\
             remote-control:\n  control-enable: no\n{rest}"
        );
        let mut all = vec![("nsd.conf", conf.as_str())];
        all.extend(files);
        Self::start("nsd", port, &["-d", "-c", "$DIR/nsd.conf"], &all)
    }

    /// unbound that asks `server` for everything below `test`, with these lines below `server:`.
    pub(crate) fn unbound(server: SocketAddr, lines: &str) -> Self {
        let conf = format!(
            "server:\n  interface: 127.0.0.1\n  port: $PORT\n  username: \"\"\n  chroot: \"\"\n  directory: \"$DIR\"\n  \
             pidfile: \"$DIR/pid\"\n  use-syslog: no\n  num-threads: 1\n  do-not-query-localhost: no\n  \
             local-zone: \"test.\" nodefault\n  do-ip6: no\n  module-config: \"validator iterator\"\n  \
             val-log-level: 2\n{lines}\
             remote-control:\n  control-enable: no\n\
             stub-zone:\n  name: \"z.test\"\n  stub-addr: 127.0.0.1@{}\n",
            server.port()
        );
        Self::start("unbound", free_port(), &["-d", "-c", "$DIR/unbound.conf"], &[("unbound.conf", &conf)])
    }

    /// Waits until it answers a question with NOERROR.
    pub(crate) fn wait(&mut self, name: &str, kind: Rtype) {
        let start = Instant::now();
        loop {
            if let Some(reply) =
                ask_once(self.address, &query(name, kind, false, 0), Duration::from_millis(300))
                && reply.header().rcode() == domain::base::iana::Rcode::NOERROR
            {
                return;
            }
            let ended = self.child.try_wait().expect("a status");
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "it does not answer: {}", self.log());
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // NSD's children end with it only if it is asked to end.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Our server on a loopback address.
pub(crate) struct Ours {
    pub(crate) server: DnsServer,
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<(), pangolin_dns::DnsError>>>,
    runtime: Runtime,
}

impl Ours {
    pub(crate) fn start(plan: &DnsPlan) -> Self {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let config = DnsConfig { listen, udp_threads: 1, rate_limit: None, ..DnsConfig::default() };
        let runtime = Runtime::new().expect("a runtime");
        let (server, task) = DnsServer::bind(config).expect("a free address");
        let shutdown = CancellationToken::new();
        let task = Some(runtime.spawn(task.run(shutdown.clone())));
        let ours = Self { server, shutdown, task, runtime };
        ours.serve(1, plan);
        ours
    }

    pub(crate) fn serve(&self, index: u64, plan: &DnsPlan) {
        let revision = pangolin_core::Revision { lineage: 1, index };
        self.server.apply(revision, plan, &unsealed).expect("a plan");
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.local_addrs()[0]
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            let _ = self.runtime.block_on(task);
        }
    }
}

/// In these tests, what is sealed lies open.
fn unsealed(secret: Secret<'_>) -> Result<Vec<u8>, String> {
    match secret {
        Secret::ZoneKey(_, sealed) | Secret::TransferKey(_, sealed) => Ok(sealed.content.clone()),
    }
}

/// A query with EDNS.
pub(crate) fn query(name: &str, kind: Rtype, dnssec_ok: bool, id: u16) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    let name: Name<Vec<u8>> = name.parse().expect("a name");
    question.push((name, kind, Class::IN)).expect("room");
    let mut additional = question.additional();
    let opt = additional.opt(|opt| {
        opt.set_udp_payload_size(1232);
        opt.set_dnssec_ok(dnssec_ok);
        Ok(())
    });
    opt.expect("room");
    additional.finish()
}

/// Asks by UDP, and by TCP where the reply says so.
pub(crate) fn ask(server: SocketAddr, query: &[u8]) -> Message<Vec<u8>> {
    let start = Instant::now();
    loop {
        if let Some(reply) = ask_once(server, query, ANSWER) {
            return reply;
        }
        // A server that takes up a new zone refuses for a moment.
        assert!(start.elapsed() < PATIENCE, "{server} does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks once, by UDP and by TCP where the reply says so; none where nothing comes in time.
pub(crate) fn ask_once(server: SocketAddr, query: &[u8], patience: Duration) -> Option<Message<Vec<u8>>> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect(server).expect("a route");
    socket.set_read_timeout(Some(patience)).expect("a timeout");
    socket.send(query).ok()?;
    let mut reply = vec![0; 4096];
    let length = socket.recv(&mut reply).ok()?;
    reply.truncate(length);
    let reply = Message::from_octets(reply).ok()?;
    if reply.header().tc() { by_tcp(server, query) } else { Some(reply) }
}

pub(crate) fn by_tcp(server: SocketAddr, query: &[u8]) -> Option<Message<Vec<u8>>> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(server).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    let length = u16::try_from(query.len()).expect("short");
    stream.write_all(&[&length.to_be_bytes(), query].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).ok()?;
    Message::from_octets(reply).ok()
}
