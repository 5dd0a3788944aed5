//! `pangolinctl port`.

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use pangolin_core::traffic::{self, PortKind};
use pangolin_wire::{ClosePort, OpenPort, Port, PortList};

use crate::{
    failure::Failure,
    names,
    print::{self, cell},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Open a port on every node for a resource, or change its rules to exactly these
    ///
    /// `25565/tcp` and `53/udp` lead to the resource's targets of the method tcp or udp, `tls` passes TLS for the
    /// resource's name on to its targets of the method tcp without decrypting it. Ports below 1024 need
    /// CAP_NET_BIND_SERVICE, which the systemd unit gives.
    Open(Open),
    /// Close a port; its connections end
    Close {
        /// Which port: 25565/tcp, 53/udp, tls
        port: PortKind,
        /// Resource: id, host or short name
        #[arg(long)]
        resource: String,
    },
    /// List the open ports
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Open {
    /// Which port: 25565/tcp, 53/udp, tls
    port: PortKind,
    /// Resource: id, host or short name
    #[arg(long)]
    resource: String,
    /// Tell targets who connects, by this version of the PROXY protocol (UDP: v2, in front of each datagram)
    #[arg(long, value_enum, value_name = "VERSION")]
    proxy_protocol: Option<ProxyProtocol>,
    /// Let in only clients of this network (may be repeated)
    #[arg(long, value_name = "NETWORK")]
    allow: Vec<IpNet>,
    /// Keep out clients of this network (may be repeated)
    #[arg(long, value_name = "NETWORK")]
    deny: Vec<IpNet>,
    /// Connections or UDP flows at once on each node [default: 1000]
    #[arg(long, value_name = "NUMBER")]
    connections: Option<u32>,
    /// Of them, from one IPv4 address or one IPv6 /64 [default: 100]
    #[arg(long, value_name = "NUMBER")]
    per_source: Option<u32>,
    /// Seconds without a byte until one is ended [default: 3600, for UDP 60]
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ProxyProtocol {
    /// A line of text
    V1,
    /// Binary
    V2,
}

impl From<ProxyProtocol> for traffic::ProxyProtocol {
    fn from(version: ProxyProtocol) -> Self {
        match version {
            ProxyProtocol::V1 => Self::V1,
            ProxyProtocol::V2 => Self::V2,
        }
    }
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Open(open) => {
            let id = names::resource(session, &open.resource).await?;
            let request = OpenPort {
                port: open.port.to_string(),
                proxy_protocol: open.proxy_protocol.map(Into::into),
                allow: open.allow,
                deny: open.deny,
                connections: open.connections,
                per_source: open.per_source,
                idle_seconds: open.idle,
            };
            session.done(&session.put(&format!("/resource/{id}/port"), &request).await?)
        }
        Verb::Close { port, resource } => {
            let id = names::resource(session, &resource).await?;
            let request = ClosePort { port: port.to_string() };
            session.done(&session.post(&format!("/resource/{id}/port/close"), &request).await?)
        }
        Verb::List => {
            let path = names::org_path(session, "ports").await?;
            session.show(&session.get(&path).await?, |ports: PortList| {
                let rows = ports.ports.iter().map(row);
                print::table(["PORT", "RESOURCE", "PROXY", "ALLOW", "DENY", "CONNECTIONS", "IDLE"], rows)
            })
        }
    }
}

fn row(port: &Port) -> [comfy_table::Cell; 7] {
    let proxy = port.proxy_protocol.map_or_else(|| "-".to_owned(), print::word);
    [
        cell(&port.port),
        cell(&port.full_domain),
        cell(proxy),
        cell(print::list(&port.allow)),
        cell(print::list(&port.deny)),
        cell(format!("{} ({} per source)", port.connections, port.per_source)),
        cell(format!("{} s", port.idle_seconds)),
    ]
}
