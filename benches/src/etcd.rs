//! A cluster of three etcd processes with the settings that etcd itself chooses, and clients of its gRPC API.

use std::{
    net::TcpListener,
    path::Path,
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pangolin_chaos::process::Process;

use crate::{
    grpc::{Channel, bytes_in, number_in, put_bytes},
    load,
};

const NODES: usize = 3;
const START_PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Connections that clients share, as etcd's own benchmark tool does it; more cost etcd memory and give nothing.
pub(crate) const CONNECTIONS_MAX: usize = 16;

/// Three running members.
pub(crate) struct Etcd {
    members: Vec<Process>,
    clients: Vec<String>,
    leader: String,
}

/// The version of the program, as it says it.
pub(crate) fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| {
        format!("cannot run {}: install etcd-server, or give --etcd PATH", program.display())
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().trim_start_matches("etcd Version:").trim().to_owned())
}

impl Etcd {
    /// Starts the members, with their data below `dir`.
    pub(crate) async fn start(program: &Path, dir: &Path) -> Result<Self> {
        let ports = free_ports(2 * NODES)?;
        let (clients, peers) = ports.split_at(NODES);
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> =
            peers.iter().enumerate().map(|(n, port)| format!("e{n}={}", url(port))).collect();
        let mut members = Vec::new();
        for (number, (client, peer)) in clients.iter().zip(peers).enumerate() {
            let name = format!("e{number}");
            let mut command = Command::new(program);
            command
                .args(["--name", &name, "--data-dir"])
                .arg(dir.join(&name))
                .args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)])
                .args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
                .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
                .args(["--logger", "zap", "--log-level", "error"]);
            members.push(Process::spawn(&name, command, &dir.join(format!("{name}.log")))?);
        }
        let clients: Vec<String> = clients.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut etcd = Self { members, clients, leader: String::new() };
        etcd.leader = etcd.wait_for_leader().await?;
        Ok(etcd)
    }

    async fn wait_for_leader(&mut self) -> Result<String> {
        let until = Instant::now() + START_PATIENCE;
        loop {
            for client in &self.clients {
                if leads(client).await.unwrap_or(false) {
                    return Ok(client.clone());
                }
            }
            if Instant::now() >= until {
                let tails: String = self.members.iter().map(Process::tail).collect();
                bail!("etcd has no leader after {START_PATIENCE:?}\n{tails}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Clients of the leader.
    pub(crate) async fn clients(&self, count: usize, keys: usize, value: usize) -> Result<Vec<Client>> {
        let mut channels = Vec::new();
        for _ in 0..count.min(CONNECTIONS_MAX) {
            channels.push(Channel::connect(&self.leader).await?);
        }
        let value: Rc<[u8]> = vec![b'v'; value].into();
        let client = |number: usize| Client {
            channel: channels[number % channels.len()].clone(),
            keys,
            first: number,
            value: value.clone(),
        };
        Ok((0..count).map(client).collect())
    }

    /// The processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Process::pid).collect()
    }
}

/// Whether the member leads (`etcdserverpb.Maintenance/Status`: header.member_id against leader).
async fn leads(client: &str) -> Result<bool> {
    let mut channel = Channel::connect(client).await?;
    let status = channel.call("/etcdserverpb.Maintenance/Status", &[]).await?;
    let own = bytes_in(&status, 1).and_then(|header| number_in(header, 2));
    let leader = number_in(&status, 4);
    Ok(own.is_some() && own == leader && leader != Some(0))
}

/// One client of etcd's key-value API.
pub(crate) struct Client {
    channel: Channel,
    keys: usize,
    first: usize,
    value: Rc<[u8]>,
}

impl Client {
    fn key(&self, number: u64) -> String {
        let keys = self.keys as u64;
        format!("/bench/{:08}", (self.first as u64 + number * 7) % keys)
    }
}

impl load::Client for Client {
    async fn write(&mut self, number: u64) -> Result<()> {
        let mut message = Vec::with_capacity(self.value.len() + 32);
        put_bytes(&mut message, 1, self.key(number).as_bytes());
        put_bytes(&mut message, 2, &self.value);
        self.channel.call("/etcdserverpb.KV/Put", &message).await.map(|_| ())
    }

    /// A range of one key; without `serializable` it is linearizable.
    async fn read(&mut self, number: u64) -> Result<()> {
        let mut message = Vec::with_capacity(32);
        put_bytes(&mut message, 1, self.key(number).as_bytes());
        self.channel.call("/etcdserverpb.KV/Range", &message).await.map(|_| ())
    }
}

/// Ports that are free now. They are taken a moment later; should another process be faster, etcd says so.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<std::io::Result<_>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
