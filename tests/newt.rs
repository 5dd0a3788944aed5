//! A stock Newt: the program at `$NEWT_BIN` against three nodes. Without it this is skipped, because it is not ours to
//! bring along; what the control protocol says to a Newt is tested in `layers/tunnel/tests/control` all the same.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

#![expect(clippy::print_stdout, reason = "says why it is skipped")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use pangolin_chaos::{
    cluster::{Cluster, Options},
    https::Https,
    process::Process,
    site::Site,
};
use pangolin_node as _;
use pangolin_wire as wire;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

/// How long a Newt may take until its tunnel carries a page, or until it is back after its node has died.
const PATIENCE: Duration = Duration::from_secs(180);
/// One page.
const PAGE: Duration = Duration::from_secs(5);
/// Largest head of a request.
const HEAD_MAX: usize = 16 << 10;

/// Where the program is; says why there is nothing to test without one.
fn program() -> Option<PathBuf> {
    let program = std::env::var_os("NEWT_BIN").map(PathBuf::from);
    match &program {
        None => println!("skipped: NEWT_BIN names no Newt"),
        Some(path) => assert!(path.is_file(), "NEWT_BIN is {}, where there is no program", path.display()),
    }
    program
}

/// Stands where a Newt expects the control host: its requests go to the first node that is there, over TLS. A Newt finds
/// the control host by its name and the system's resolver, which know nothing of a cluster on loopback addresses.
struct ControlHost {
    nodes: Vec<SocketAddr>,
    name: String,
    tls: TlsConnector,
}

impl ControlHost {
    /// Where it listens, in plain HTTP.
    async fn start(cluster: &Cluster) -> SocketAddr {
        let authority = cluster.authority().await.expect("the authority");
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots.add(certificate.expect("a certificate")).expect("trusted");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = Arc::new(Self {
            nodes: cluster.nodes.iter().map(pangolin_chaos::cluster::Node::https).collect(),
            name: format!("control.{}", cluster.options.zone),
            tls: TlsConnector::from(Arc::new(config)),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let host = Arc::clone(&host);
                // A connection that breaks is the Newt's to make again.
                tokio::spawn(async move { host.carry(stream).await.ok() });
            }
        });
        at
    }

    async fn carry(&self, mut near: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            if head.len() > HEAD_MAX || near.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let mut far = None;
        for node in &self.nodes {
            if let Ok(stream) = TcpStream::connect(node).await {
                far = Some(stream);
                break;
            }
        }
        let Some(far) = far else { return Ok(()) };
        let name = ServerName::try_from(self.name.clone()).map_err(std::io::Error::other)?;
        let mut far = self.tls.connect(name, far).await?;
        // One request to a connection, and the name that the nodes know.
        let text = String::from_utf8_lossy(&head).into_owned();
        let lines = text.split_inclusive("\r\n").map(|line| match line.split_once(':') {
            Some((name, _)) if name.eq_ignore_ascii_case("host") => format!("Host: {}\r\n", self.name),
            _ => line.to_owned(),
        });
        far.write_all(lines.collect::<String>().as_bytes()).await?;
        copy_bidirectional(&mut near, &mut far).await.map(drop)
    }
}

/// Waits until a node serves the page.
async fn serves(https: &Https, at: SocketAddr, site: &Site, newt: &Process) {
    let end = Instant::now() + PATIENCE;
    loop {
        match https.get(at, &site.host, "/", PAGE).await {
            Ok(page) if page.header("x-backend") == Some("hello") => return,
            other => {
                let seen = other.map(|page| page.status);
                assert!(Instant::now() < end, "{at} does not serve {}: {seen:?}\n{}", site.host, newt.tail());
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_newt_serves_a_page_through_every_node_and_comes_back_when_its_own_dies() {
    let Some(program) = program() else { return };
    let options = Options::of_a_test().expect("addresses and ports");
    let mut cluster = Cluster::start(options).await.expect("a cluster of three nodes");
    Site::found(&cluster).await.expect("an organisation and a domain");
    let mut site = Site::publish(&cluster, "lab", "hello", Some(1)).await.expect("a site");
    // The Newt takes the place of our connector.
    site.kill_connector();
    let client = cluster.nodes[0].client();
    let known: wire::Site = client.get(&format!("/site/{}", site.id)).await.expect("the site");
    let secret = std::fs::read_to_string(cluster.dir().join(format!("secret-{}", known.nice_id)));
    let control = ControlHost::start(&cluster).await;
    let mut command = Command::new(&program);
    command.args(["--endpoint", &format!("http://{control}"), "--id", &known.newt_id, "--secret"]);
    command.arg(secret.expect("the secret").trim()).env("HOME", cluster.dir()).current_dir(cluster.dir());
    let newt = Process::spawn("newt", command, &cluster.dir().join("newt.log")).expect("it starts");

    let https = cluster.https_client().await.expect("the authority");
    for node in &cluster.nodes {
        serves(&https, node.https(), &site, &newt).await;
    }
    let status = cluster.status().await.expect("a status");
    let placed = status.sites.iter().find(|known| known.site_id == site.id).expect("the site");
    let [end] = placed.tunnels[..] else { panic!("one tunnel, not {:?}", placed.tunnels) };
    let carrier = cluster.position(&status, end).expect("one of these");
    cluster.nodes[carrier].kill();
    for position in (0..cluster.nodes.len()).filter(|position| *position != carrier) {
        serves(&https, cluster.nodes[position].https(), &site, &newt).await;
    }
}
