//! What is compared: our tunnel, wireguard-go at both ends, and no tunnel at all.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use pangolin_chaos::{
    process::Process,
    testbed::network::{Plug, tool},
};
use pangolin_tunnel::SecretKey;
use serde::Serialize;

use super::{
    end::{NODE_INSIDE, SITE_INSIDE, node_key, site_key},
    lab::{Lab, WIREGUARD_PORT, ip},
    load,
};
use crate::processes::cpu_seconds;

/// How long a program may take to open its control socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// What carries the streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum System {
    /// Ours, with the kernel's TCP at both ends
    Pangolin,
    /// Ours, with the connector's in-process TCP
    InProcess,
    /// wireguard-go of Debian at both ends
    WireguardGo,
    /// No tunnel: TCP over the same interfaces
    Plain,
}

impl System {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pangolin => "pangolin",
            Self::InProcess => "in-process",
            Self::WireguardGo => "wireguard-go",
            Self::Plain => "plain",
        }
    }
}

/// A system that runs. With it, its processes end.
pub(super) struct Running {
    /// The far end, as the node's host reaches it.
    pub(super) far: SocketAddr,
    processes: Vec<Process>,
    _logs: tempfile::TempDir,
}

impl Running {
    /// Starts a system on the two hosts, and waits until streams pass.
    ///
    /// # Errors
    /// It does not start, or nothing passes.
    pub(super) fn start(system: System, lab: &Lab, mtu: u16) -> Result<Self> {
        let logs = tempfile::tempdir()?;
        let mut running = Self { far: (SITE_INSIDE, load::PORT).into(), processes: Vec::new(), _logs: logs };
        match system {
            System::Pangolin | System::InProcess => {
                running.end(lab, lab.node(), mtu, &["node"])?;
                let in_process: &[&str] = if system == System::InProcess { &["--in-process"] } else { &[] };
                running.end(lab, lab.site(), mtu, &[&["site"], in_process].concat())?;
            }
            System::WireguardGo => {
                running.wireguard_go(lab.node(), "wgbnode")?;
                running.wireguard_go(lab.site(), "wgbsite")?;
                configure(
                    "wgbnode",
                    &node_key(),
                    Some(WIREGUARD_PORT),
                    &site_key(),
                    SITE_INSIDE.into(),
                    None,
                )?;
                let to = Some(lab.node_endpoint());
                configure("wgbsite", &site_key(), None, &node_key(), NODE_INSIDE.into(), to)?;
                for (plug, name, address) in
                    [(lab.node(), "wgbnode", NODE_INSIDE), (lab.site(), "wgbsite", SITE_INSIDE)]
                {
                    let batch =
                        format!("addr add {address}/16 dev {name}\nlink set dev {name} mtu {mtu} up\n");
                    ip(&plug.network, &batch)?;
                }
                running.first_word(lab)?;
            }
            System::Plain => running.far = (lab.site().address, load::PORT).into(),
        }
        if let Err(error) = load::reached(&lab.node().network, running.far) {
            let tails: String = running.processes.iter().map(Process::tail).collect();
            return Err(error.context(format!("{} does not carry anything\n{tails}", system.name())));
        }
        Ok(running)
    }

    /// CPU time of all that takes part so far, in seconds: the tunnel's programs, and this one with the load and the plain
    /// far end.
    pub(super) fn cpu(&self) -> Result<f64> {
        let mut pids: Vec<u32> = self.processes.iter().map(Process::pid).collect();
        pids.push(std::process::id());
        cpu_seconds(&pids)
    }

    fn spawn(&mut self, plug: &Plug, name: &str, mut command: Command) -> Result<()> {
        plug.network.enter(&mut command);
        let log = self._logs.path().join(format!("{name}.log"));
        self.processes.push(Process::spawn(name, command, &log)?);
        Ok(())
    }

    fn end(&mut self, lab: &Lab, plug: &Plug, mtu: u16, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("tunnel-end").args(arguments);
        command.args(["--node", &lab.node_endpoint().to_string(), "--mtu", &mtu.to_string()]);
        self.spawn(plug, &plug.name.clone(), command)
    }

    fn wireguard_go(&mut self, plug: &Plug, interface: &str) -> Result<()> {
        let mut command = tool("wireguard-go");
        command.args(["--foreground", interface]).env("LOG_LEVEL", "error");
        self.spawn(plug, interface, command)
            .context("is wireguard-go installed? (Debian: apt-get install wireguard-go)")
    }

    /// The site speaks first, since the node does not know where it is.
    fn first_word(&self, lab: &Lab) -> Result<()> {
        lab.site().network.within(|| {
            let socket = std::net::UdpSocket::bind((SITE_INSIDE, 0))?;
            socket.send_to(b"hello", (NODE_INSIDE, 9))?;
            Ok(())
        })
    }
}

/// Tells a wireguard-go its key and its one peer (the cross-platform userspace protocol of wireguard.com/xplatform).
fn configure(
    interface: &str,
    key: &SecretKey,
    port: Option<u16>,
    peer: &SecretKey,
    allowed: IpAddr,
    endpoint: Option<SocketAddr>,
) -> Result<()> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut request = format!("set=1\nprivate_key={}\n", hex(&*key.to_bytes()));
    if let Some(port) = port {
        request += &format!("listen_port={port}\n");
    }
    request += &format!("public_key={}\nallowed_ip={allowed}/32\n", hex(&peer.public().0));
    if let Some(endpoint) = endpoint {
        request += &format!("endpoint={endpoint}\n");
    }
    let path = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
    let until = Instant::now() + PATIENCE;
    let mut control = loop {
        match UnixStream::connect(&path) {
            Ok(control) => break control,
            Err(error) if Instant::now() >= until => bail!("{}: {error}", path.display()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    control.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer)?;
    ensure!(answer.trim() == "errno=0", "wireguard-go: {answer}");
    Ok(())
}
