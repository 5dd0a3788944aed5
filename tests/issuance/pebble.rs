//! A real Pebble in strict mode, with an identity of its own.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use pangolin_chaos::process::Process;
use serde_json::json;

/// How long it may take until it listens.
const PATIENCE: Duration = Duration::from_secs(20);
/// Name and key of an account that it gave by other means.
pub(crate) const EXTERNAL: (&str, &str) =
    ("kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W");

/// How it behaves.
#[derive(Clone, Default)]
pub(crate) struct Behaviour {
    /// Per cent of good nonces that it refuses; none = 5, which is its own way.
    pub(crate) nonce_reject: Option<u8>,
    /// Per cent of proofs that it takes over from earlier orders.
    pub(crate) reuse: u8,
    /// Most seconds that it takes to look at a name; none = at once.
    pub(crate) slow: Option<u8>,
    /// It takes only accounts that are bound to [`EXTERNAL`].
    pub(crate) external: bool,
}

impl Behaviour {
    /// Every request counts once: none is refused for its nonce, and sent again.
    pub(crate) fn exact() -> Self {
        Self { nonce_reject: Some(0), ..Self::default() }
    }
}

/// The identity that Pebble and the front share: one certificate for `localhost` and loopback.
pub(crate) struct Identity {
    pub(crate) certificate_pem: String,
    pub(crate) key_pem: String,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Identity {
    fn make() -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        Self {
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
            certificate: made.cert.der().to_vec(),
            key: made.signing_key.serialize_der(),
        }
    }
}

pub(crate) struct Pebble {
    pub(crate) identity: Arc<Identity>,
    pub(crate) acme: SocketAddr,
    pub(crate) management: SocketAddr,
    dns: SocketAddr,
    behaviour: Behaviour,
    dir: tempfile::TempDir,
    process: Option<Process>,
}

/// Where Debian installs it; none if it is not there.
pub(crate) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("pebble")).find(|file| file.is_file())
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

impl Pebble {
    pub(crate) fn start(dns: SocketAddr, behaviour: Behaviour) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let identity = Arc::new(Identity::make());
        let (acme, management) = (free_port(), free_port());
        let mut pebble = Self { identity, acme, management, dns, behaviour, dir, process: None };
        pebble.write();
        pebble.run();
        pebble
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self) {
        std::fs::write(self.file("cert.pem"), &self.identity.certificate_pem).expect("written");
        std::fs::write(self.file("key.pem"), &self.identity.key_pem).expect("written");
        let (key_id, key) = EXTERNAL;
        let config = json!({ "pebble": {
            "listenAddress": self.acme.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": self.file("cert.pem"),
            "privateKey": self.file("key.pem"),
            "httpPort": 5002,
            "tlsPort": 5001,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": self.behaviour.external,
            "externalAccountMACKeys": { key_id: key },
        }});
        std::fs::write(self.file("config.json"), config.to_string()).expect("written");
    }

    fn run(&mut self) {
        let mut command = Command::new(program().expect("checked before"));
        command.arg("-config").arg(self.file("config.json")).args([
            "-strict",
            "-dnsserver",
            &self.dns.to_string(),
        ]);
        match self.behaviour.slow {
            Some(seconds) => command.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
            None => command.env("PEBBLE_VA_NOSLEEP", "1"),
        };
        if let Some(percent) = self.behaviour.nonce_reject {
            command.env("PEBBLE_WFE_NONCEREJECT", percent.to_string());
        }
        command.env("PEBBLE_AUTHZREUSE", self.behaviour.reuse.to_string());
        self.process = Some(Process::spawn("pebble", command, &self.log()).expect("started"));
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(self.acme).is_err() {
            let tail = self.process.as_ref().map(|process| process.tail()).unwrap_or_default();
            assert!(Instant::now() < end, "it does not listen: {tail}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it and starts it again: it forgets every account and order.
    pub(crate) fn restart(&mut self) {
        self.process = None;
        self.run();
    }

    /// Asks another resolver from now on. It forgets every account and order.
    pub(crate) fn ask(&mut self, resolver: SocketAddr) {
        self.dns = resolver;
        self.restart();
    }

    fn log(&self) -> PathBuf {
        self.file("log")
    }

    /// What it has done, by its own log: orders taken, certificates issued.
    pub(crate) fn counts(&self) -> Counts {
        Counts::of(&self.log())
    }

    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// What an authority has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) orders: usize,
    pub(crate) issued: usize,
}

impl Counts {
    fn of(log: &Path) -> Self {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        Self { orders: count("Added order "), issued: count("Issued certificate serial ") }
    }
}
