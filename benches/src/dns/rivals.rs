//! The servers that are measured: each as a process of its own on one core.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use pangolin_core::{Revision, plan::DnsPlan};
use pangolin_dns::{CookieSecret, DnsConfig, DnsServer, RateLimit, print_zone};
use tokio_util::sync::CancellationToken;

use super::{
    System,
    zone::{self, APEX},
};

/// The core of the servers; the generator is kept off it by the script.
const CORE: &str = "0";
/// Clock ticks a second (Linux, USER_HZ).
const TICKS: u64 = 100;

/// Our server alone, with a zone of the measurement.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to answer
    #[arg(long)]
    listen: SocketAddr,
    /// Names in the zone
    #[arg(long)]
    names: usize,
}

/// Serves until killed.
///
/// # Errors
/// The address is taken, or the server ends.
pub(crate) fn serve(options: &Options) -> Result<()> {
    let config = DnsConfig {
        listen: vec![options.listen],
        udp_threads: 1,
        nsid: "bench".to_owned(),
        cookie_secrets: vec![CookieSecret(*b"sixteen bytes ok")],
        // Counted for each answer, and never reached.
        rate_limit: Some(RateLimit { per_second: 1_000_000, burst: 1_000_000 }),
        ..DnsConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (server, task) = DnsServer::bind(config)?;
        let no_keys = |_: pangolin_dns::Secret<'_>| Err("there are none".to_owned());
        server.apply(Revision { lineage: 1, index: 1 }, &zone::plan(options.names), &no_keys)?;
        Ok(task.run(CancellationToken::new()).await?)
    })
}

/// A server under load.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    _folder: Arc<tempfile::TempDir>,
}

impl Server {
    /// CPU time of the process and its children so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        let mut pids = vec![self.child.id()];
        while let Some(pid) = pids.pop() {
            let stat =
                std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the server has ended")?;
            let rest = stat.rsplit_once(')').context("a process without a name")?.1;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            // utime and stime, proc(5) fields 14 and 15.
            for at in [11, 12] {
                ticks += fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
            }
            let children = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        Ok(Duration::from_millis(ticks * 1000 / TICKS))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // NSD's children end only if it is asked to end.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server on a free port.
pub(crate) fn start(system: System, plan: &DnsPlan, names: usize) -> Result<Server> {
    let folder = Arc::new(tempfile::tempdir()?);
    let dir = folder.path();
    let port = free_port()?;
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
        std::fs::write(path, text).map_err(anyhow::Error::from)
    };
    let shown = dir.display();
    let mut command = Command::new("taskset");
    command.args(["-c", CORE]).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    match system {
        System::Pangolin => {
            command.arg(std::env::current_exe()?).arg("dns-server");
            command.arg("--listen").arg(format!("127.0.0.1:{port}")).arg("--names").arg(names.to_string());
        }
        System::Nsd => {
            installed("nsd")?;
            write("bench.zone", &print_zone(&plan.zones[0])?)?;
            write(
                "nsd.conf",
                &format!(
                    "server:\n  ip-address: 127.0.0.1@{port}\n  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  \
                     zonesdir: \"{shown}\"\n  database: \"\"\n  pidfile: \"{shown}/pid\"\n  xfrdfile: \"{shown}/xfrd\"\n  \
                     zonelistfile: \"{shown}/zones\"\n  xfrdir: \"{shown}\"\n  rrl-ratelimit: 0\n  \
                     rrl-whitelist-ratelimit: 0\n  reuseport: yes\n  minimal-responses: yes\n  answer-cookie: yes\n\
                     remote-control:\n  control-enable: no\n\
                     zone:\n  name: {APEX}\n  zonefile: bench.zone\n"
                ),
            )?;
            command.args(["nsd", "-d", "-c"]).arg(dir.join("nsd.conf"));
        }
        System::Knot => {
            installed("knotd")?;
            write("bench.zone", &print_zone(&plan.zones[0])?)?;
            write(
                "knot.conf",
                &format!(
                    "server:\n  rundir: {shown}\n  listen: 127.0.0.1@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  \
                     background-workers: 1\nlog:\n  - target: stderr\n    any: error\n\
                     database:\n  storage: {shown}\n\
                     mod-cookies:\n  - id: bench\n    badcookie-slip: 1\n\
                     template:\n  - id: default\n    storage: {shown}\n    global-module: mod-cookies/bench\n    \
                     zonefile-sync: -1\n    journal-content: none\n\
                     zone:\n  - domain: {APEX}\n    file: bench.zone\n"
                ),
            )?;
            command.args(["knotd", "-c"]).arg(dir.join("knot.conf"));
        }
        System::Gdnsd => {
            installed("gdnsd")?;
            write(&format!("zones/{APEX}"), &print_zone(&plan.zones[0])?)?;
            write(
                "config",
                &format!(
                    "options => {{\n  listen => 127.0.0.1:{port}\n  udp_threads => 1\n  tcp_threads => 1\n  \
                     run_dir => {shown}/run\n  state_dir => {shown}/state\n  zones_rfc1035_threads => 1\n}}\n"
                ),
            )?;
            for made in ["run", "state"] {
                std::fs::create_dir_all(dir.join(made))?;
            }
            command.args(["gdnsd", "-c"]).arg(dir).arg("start");
        }
    }
    let log = std::fs::File::create(dir.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().with_context(|| format!("{system:?} does not start"))?;
    std::thread::sleep(Duration::from_millis(300));
    if let Some(status) = child.try_wait()? {
        let said = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        bail!("{system:?} ended at once, {status}: {said}");
    }
    Ok(Server { address: SocketAddr::from(([127, 0, 0, 1], port)), child, _folder: folder })
}

fn installed(program: &str) -> Result<()> {
    let there = ["/usr/sbin", "/usr/bin"].iter().any(|folder| Path::new(folder).join(program).exists());
    ensure!(there, "{program} is not installed: apt-get install nsd knot gdnsd, or choose with --systems");
    Ok(())
}

fn free_port() -> Result<u16> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    Ok(socket.local_addr()?.port())
}
