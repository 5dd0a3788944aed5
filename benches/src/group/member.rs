//! A member: the replicated log, its state and the connections between nodes, as in `pangolind`, and a door for the
//! load generator. No layer follows the state here.
//!
//! As in `pangolind`, decisions have a thread of their own. The door is on it too.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use pangolin_core::{
    TargetId,
    id::{ClientId, NodeId, RequestId},
};
use pangolin_peer::BoundPeers;
use pangolin_raft::{Cluster, RaftConfig};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::complain;

use super::{
    frame::{Frame, Kind, receive},
    seed::{change, proposal, seed},
    setup::{Files, Identity, Ready, load, peer_plan, store},
};

/// How long a read waits for its confirmation.
const READ_DEADLINE: Duration = Duration::from_secs(2);
const LOOPBACK: (std::net::Ipv4Addr, u16) = (std::net::Ipv4Addr::LOCALHOST, 0);

/// What a member is told on its command line.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Its directory
    #[arg(long)]
    dir: PathBuf,
    /// Keys to be made, by the member that makes the group
    #[arg(long)]
    keys: Option<usize>,
}

/// Runs until the process is ended.
///
/// # Errors
/// It cannot start, or the group does not come about.
pub(crate) fn run(options: &Options) -> Result<()> {
    let traffic = Builder::new_multi_thread().enable_all().build()?;
    let decisions = Builder::new_current_thread().enable_all().build()?;
    let (options, handle) = (options.clone(), traffic.handle().clone());
    decisions.block_on(serve(options, handle))
}

async fn serve(options: Options, traffic: Handle) -> Result<()> {
    let files = Files(options.dir);
    let identity: Identity = load(&files.identity()).await?;
    let node = identity.node;
    let identity = identity.node_identity()?;
    let spki = identity.key.spki_digest().0;
    let bound = BoundPeers::bind(LOOPBACK.into()).await?;
    let address = bound.local_addr();
    let (peers, task) = bound.start(identity, &traffic);
    let ended = tokio::spawn(task.run(CancellationToken::new()));
    let config = RaftConfig::new(NodeId(node), files.store());
    let cluster = Cluster::start(config, peers.clone()).await?;
    let listener = TcpListener::bind(LOOPBACK).await?;
    store(&files.ready(), &Ready { peers: address, clients: listener.local_addr()?, spki })?;
    let members: Vec<Ready> = load(&files.plan()).await?;
    peers.set_plan(peer_plan(&members));
    if let Some(keys) = options.keys {
        store(&files.seeded(), &seed(&cluster, members.len() as u64, keys).await?)?;
    }
    let accepting = accept(listener, cluster);
    tokio::select! {
        ended = ended => Ok(ended??),
        accepted = accepting => accepted,
    }
}

async fn accept(listener: TcpListener, cluster: Cluster) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let cluster = cluster.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, cluster).await {
                complain(&format!("a client's connection: {error:#}"));
            }
        });
    }
}

async fn connection(stream: TcpStream, cluster: Cluster) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = stream.into_split();
    let (answers, mut ready) = mpsc::unbounded_channel::<Frame>();
    tokio::spawn(async move {
        let (mut frames, mut out) = (Vec::new(), BytesMut::new());
        while ready.recv_many(&mut frames, usize::MAX).await > 0 {
            frames.drain(..).for_each(|frame| frame.put(&mut out));
            if writer.write_all_buf(&mut out).await.is_err() {
                return;
            }
        }
    });
    let mut arrived = BytesMut::new();
    let name = uuid::Uuid::new_v4().as_u128();
    while receive(&mut reader, &mut arrived).await? > 0 {
        let mut reads = Vec::new();
        while let Some(frame) = Frame::take(&mut arrived)? {
            match frame.kind {
                Kind::Write => {
                    let (cluster, answers) = (cluster.clone(), answers.clone());
                    tokio::spawn(async move {
                        let request = name.wrapping_add(u128::from(frame.call)).to_be_bytes();
                        let done = write(&cluster, ClientId(request), frame.key, frame.body)
                            .await
                            .map(|()| Bytes::new());
                        // Whoever has gone needs no answer.
                        let _ = answers.send(answer(frame.call, frame.key, done));
                    });
                }
                _ => reads.push(frame),
            }
        }
        if !reads.is_empty() {
            let (cluster, answers) = (cluster.clone(), answers.clone());
            tokio::spawn(async move { read(&cluster, reads, &answers).await });
        }
    }
    Ok(())
}

fn answer(call: u32, key: u64, done: Result<Bytes>) -> Frame {
    match done {
        Ok(body) => Frame { call, kind: Kind::Done, key, body },
        Err(error) => Frame { call, kind: Kind::Failed, key, body: error.to_string().into() },
    }
}

async fn write(cluster: &Cluster, client: ClientId, key: u64, value: Bytes) -> Result<()> {
    let value = String::from_utf8(value.into())?;
    let state = cluster.state();
    let target = state.targets().get(&TargetId(key)).context("there is no such target")?;
    let body = change(target, value);
    let request = RequestId { client, serial: 1 };
    cluster.propose(proposal(request, body)).await?.outcome.into_result()?;
    Ok(())
}

/// Reads that have arrived together are confirmed together: all of them began before.
async fn read(cluster: &Cluster, reads: Vec<Frame>, answers: &mpsc::UnboundedSender<Frame>) {
    let confirmed = cluster.read_barrier(READ_DEADLINE).await;
    let state = cluster.state();
    for Frame { call, key, .. } in reads {
        let value = || {
            confirmed.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            let target = state.targets().get(&TargetId(key)).context("there is no such target")?;
            let path = target.health_check.as_ref().and_then(|check| check.path.as_ref());
            Ok(path.map(|path| Bytes::copy_from_slice(path.as_bytes())).unwrap_or_default())
        };
        let _ = answers.send(answer(call, key, value()));
    }
}
