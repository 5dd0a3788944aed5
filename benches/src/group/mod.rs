//! The Raft group itself beside etcd: three members as processes, asked over plain TCP with frames.
//!
//! A write is a change of the cluster's state: it is checked, done once per request, kept with its cause in the
//! decision log, and on the disks of a majority before it is acknowledged. Members speak mutual TLS with each other.

mod frame;
pub(crate) mod member;
mod seed;
mod setup;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    path::Path,
    process::Command,
    rc::Rc,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use frame::{Frame, Kind, receive};
use pangolin_chaos::process::Process;
use pangolin_core::TargetId;
use pangolin_peer::identity::AuthorityKey;
use setup::{Files, Identity, Ready};
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
    task::{AbortHandle, spawn_local},
};

use crate::{etcd::CONNECTIONS_MAX, load};

const NODES: u64 = 3;

/// Three running members; the first one leads.
pub(crate) struct Group {
    members: Vec<Process>,
    leader: std::net::SocketAddr,
    keys: Rc<[TargetId]>,
}

impl Group {
    /// Starts the members, with their data below `dir`, and makes so many keys.
    ///
    /// # Errors
    /// They do not start, or do not find each other.
    pub(crate) async fn start(dir: &Path, keys: usize) -> Result<Self> {
        let authority = AuthorityKey::create("bench")?;
        let program = std::env::current_exe().context("where is this program?")?;
        let (mut members, mut ready) = (Vec::new(), Vec::new());
        let files = |node: u64| Files(dir.join(format!("m{node}")));
        for node in 1..=NODES {
            let files = files(node);
            std::fs::create_dir(&files.0)?;
            setup::store(&files.identity(), &Identity::create(&authority, node)?)?;
            let mut command = Command::new(&program);
            command.arg("member").arg("--dir").arg(&files.0);
            if node == 1 {
                command.args(["--keys", &keys.to_string()]);
            }
            members.push(Process::spawn(&format!("m{node}"), command, &files.log())?);
        }
        for node in 1..=NODES {
            ready.push(setup::load::<Ready>(&files(node).ready()).await?);
        }
        for node in 1..=NODES {
            setup::store(&files(node).plan(), &ready)?;
        }
        let keys: Vec<TargetId> = match setup::load(&files(1).seeded()).await {
            Ok(keys) => keys,
            Err(error) => {
                let tails: String = members.iter().map(Process::tail).collect();
                bail!("{error:#}\n{tails}");
            }
        };
        let leader = ready.first().context("there is no member")?.clients;
        Ok(Self { members, leader, keys: keys.into() })
    }

    /// Clients of the leader.
    pub(crate) async fn clients(&self, count: usize, value: usize) -> Result<Vec<Client>> {
        let mut connections = Vec::new();
        for _ in 0..count.min(CONNECTIONS_MAX) {
            connections.push(Connection::open(self.leader).await?);
        }
        let value = Bytes::from(format!("/{}", "v".repeat(value.saturating_sub(1))));
        let client = |number: usize| Client {
            connection: connections[number % connections.len()].clone(),
            keys: self.keys.clone(),
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

/// A connection that carries many calls at the same time; it ends when it is dropped.
struct Connection {
    shared: Rc<Shared>,
    tasks: [AbortHandle; 2],
}

#[derive(Default)]
struct Shared {
    next: Cell<u32>,
    out: RefCell<BytesMut>,
    more: Notify,
    waiting: RefCell<HashMap<u32, oneshot::Sender<Frame>>>,
}

impl Connection {
    async fn open(address: std::net::SocketAddr) -> Result<Rc<Self>> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let shared = Rc::<Shared>::default();
        let writing = spawn_local(write_on(writer, shared.clone()));
        let reading = spawn_local(read_on(reader, shared.clone()));
        Ok(Rc::new(Self { shared, tasks: [writing.abort_handle(), reading.abort_handle()] }))
    }

    async fn call(&self, kind: Kind, key: u64, body: Bytes) -> Result<Bytes> {
        let shared = &self.shared;
        let call = shared.next.replace(shared.next.get().wrapping_add(1));
        let (sender, answer) = oneshot::channel();
        shared.waiting.borrow_mut().insert(call, sender);
        Frame { call, kind, key, body }.put(&mut shared.out.borrow_mut());
        shared.more.notify_one();
        let answer = answer.await.context("the connection has ended")?;
        ensure!(answer.kind == Kind::Done, "{}", String::from_utf8_lossy(&answer.body));
        Ok(answer.body)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn write_on(mut writer: OwnedWriteHalf, shared: Rc<Shared>) {
    loop {
        shared.more.notified().await;
        let mut out = shared.out.take();
        if writer.write_all_buf(&mut out).await.is_err() {
            return;
        }
    }
}

async fn read_on(mut reader: OwnedReadHalf, shared: Rc<Shared>) {
    let mut arrived = BytesMut::new();
    while receive(&mut reader, &mut arrived).await.is_ok_and(|count| count > 0) {
        while let Ok(Some(frame)) = Frame::take(&mut arrived) {
            if let Some(waiting) = shared.waiting.borrow_mut().remove(&frame.call) {
                // A client that no longer waits needs no answer.
                let _ = waiting.send(frame);
            }
        }
    }
    shared.waiting.borrow_mut().clear();
}

/// One client of the group.
pub(crate) struct Client {
    connection: Rc<Connection>,
    keys: Rc<[TargetId]>,
    first: usize,
    value: Bytes,
}

impl Client {
    fn key(&self, number: u64) -> u64 {
        let step = self.first as u64 + number * 7;
        self.keys[(step % self.keys.len() as u64) as usize].0
    }
}

impl load::Client for Client {
    async fn write(&mut self, number: u64) -> Result<()> {
        self.connection.call(Kind::Write, self.key(number), self.value.clone()).await.map(|_| ())
    }

    async fn read(&mut self, number: u64) -> Result<()> {
        self.connection.call(Kind::Read, self.key(number), Bytes::new()).await.map(|_| ())
    }
}
