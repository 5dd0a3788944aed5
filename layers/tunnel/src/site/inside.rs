//! How a site's end gets at what is inside its tunnels.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    FlowKind, SiteBackend, SiteFlow,
    interface::{Interface, Opened},
};
use crate::{
    error::TunnelError,
    key::SecretKey,
    node::Backend,
    probe::PROBE_PORT,
    stack::{Accepted, Stack},
    stream::{TunnelDatagrams, TunnelStream},
    wireguard::{Bound, Device, FromStack, ToStack, Userspace},
};

/// The kernel's TCP on an interface, or a stack in this process.
#[derive(Clone)]
pub(super) enum Inside {
    Interface(Interface),
    Stack(Stack),
}

/// What [`open`] gives.
pub(super) struct Made {
    pub inside: Inside,
    pub device: Device,
    pub accepted: Flows,
    pub probes: mpsc::Receiver<(SocketAddrV4, Bytes)>,
}

/// Opens the best that is asked for and works.
pub(super) async fn open(
    backend: &SiteBackend,
    socket: Bound,
    key: &SecretKey,
    address: Ipv4Addr,
    mtu: u16,
) -> Result<Made, TunnelError> {
    let (program, must) = match backend {
        SiteBackend::InProcess => return open_stack(socket, key, address, mtu).await,
        SiteBackend::Tun(program) => (program, true),
        SiteBackend::Auto(program) => (program, false),
    };
    match Interface::open(program, address, mtu).await {
        Ok(opened) => {
            tracing::info!(backend = %Backend::Tun, "tunnel backend chosen");
            open_interface(opened, socket, key).await
        }
        Err(error) if must => Err(TunnelError::Namespace(error)),
        Err(error) => {
            tracing::info!(backend = %Backend::InProcess, why_not = %format!("tun: {error}"), "tunnel backend chosen");
            open_stack(socket, key, address, mtu).await
        }
    }
}

async fn open_interface(opened: Opened, socket: Bound, key: &SecretKey) -> Result<Made, TunnelError> {
    let (to_tun, from_tun) = opened.packets;
    let device = Device::Tun(Userspace::start(socket, key, to_tun, from_tun).await?);
    let inside = Inside::Interface(opened.interface);
    Ok(Made { inside, device, accepted: Flows::Interface(opened.accepted), probes: opened.probes })
}

async fn open_stack(
    socket: Bound,
    key: &SecretKey,
    address: Ipv4Addr,
    mtu: u16,
) -> Result<Made, TunnelError> {
    let (stack, queues) = Stack::new(address, mtu);
    let from_stack = FromStack::new(queues.out, mtu);
    let device = Device::InProcess(Userspace::start(socket, key, ToStack(stack.clone()), from_stack).await?);
    let accepted = Flows::Stack(queues.accepted, mtu);
    Ok(Made { inside: Inside::Stack(stack), device, accepted, probes: queues.probes })
}

impl Inside {
    pub(super) fn backend(&self) -> Backend {
        match self {
            Self::Interface(_) => Backend::Tun,
            Self::Stack(_) => Backend::InProcess,
        }
    }

    pub(super) fn listen(&self, tcp: BTreeSet<u16>, udp: BTreeSet<u16>) {
        match self {
            Self::Interface(interface) => interface.listen(tcp, udp),
            Self::Stack(stack) => stack.listen(tcp, udp),
        }
    }

    /// Sends a probe. One that is lost is made up for by the next.
    pub(super) fn send_probe(&self, to: SocketAddrV4, payload: &[u8]) {
        match self {
            Self::Interface(interface) => interface.send_probe(to, payload),
            Self::Stack(stack) => drop(stack.send_udp(PROBE_PORT, to, payload)),
        }
    }

    pub(super) async fn closed(&self) {
        match self {
            Self::Interface(interface) => interface.closed().await,
            Self::Stack(stack) => stack.closed().await,
        }
    }

    pub(super) async fn run(&self, shutdown: &CancellationToken) -> Result<(), TunnelError> {
        match self {
            Self::Interface(interface) => interface.run(shutdown).await,
            Self::Stack(stack) => {
                stack.run(shutdown).await;
                Ok(())
            }
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Interface(interface) => interface.close(),
            Self::Stack(stack) => stack.close().await,
        }
    }
}

/// Where flows arrive that nodes have opened.
pub(super) enum Flows {
    Interface(mpsc::Receiver<SiteFlow>),
    Stack(mpsc::Receiver<Accepted>, u16),
}

impl Flows {
    pub(super) async fn next(&mut self) -> Option<SiteFlow> {
        match self {
            Self::Interface(queue) => queue.recv().await,
            Self::Stack(queue, mtu) => {
                let (key, kind) = match queue.recv().await? {
                    Accepted::Tcp(key, stream) => (key, FlowKind::Tcp(TunnelStream::stack(stream))),
                    Accepted::Udp(key, flow) => (key, FlowKind::Udp(TunnelDatagrams::stack(flow, *mtu))),
                };
                Some(SiteFlow { from: key.remote.into(), port: key.local.port(), kind })
            }
        }
    }
}
