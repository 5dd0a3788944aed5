//! How traffic comes in beside HTTPS, how it is shared among targets, and how they stand.

use ipnet::IpNet;
use pangolin_core::{
    HostName, NodeId, ResourceId,
    traffic::{Balancing, PortKind, PortRules, ProxyProtocol, Share},
};
use serde::{Deserialize, Serialize};

use crate::{
    Pagination,
    shape::{answer, request},
};

/// How a target stands, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Its checks pass.
    Healthy,
    /// It has no check, or none has ended.
    Unknown,
    /// It gets traffic only where nothing better is left.
    Unhealthy,
    /// No node has a live tunnel to its site.
    Unreachable,
    /// It gets no traffic because somebody wants it so.
    Disabled,
}

answer! {
    /// How a target stands, as the node that was asked sees it.
    TargetState {
        /// In a word.
        standing: Standing,
        /// Why.
        reason: String,
    }

    /// An open port of a resource.
    Port {
        /// The resource.
        resource_id: ResourceId,
        /// Its name.
        full_domain: HostName,
        /// Which port: `25565/tcp`, `53/udp`, `tls`.
        port: String,
        /// Version of the PROXY protocol that targets are spoken to with; none = they are not told who connects.
        proxy_protocol: Option<ProxyProtocol>,
        /// Clients that may come; empty = all.
        allow: Vec<IpNet>,
        /// Clients that may not.
        deny: Vec<IpNet>,
        /// Connections or UDP flows at once on each node.
        connections: u32,
        /// Of them, from one IPv4 address or one IPv6 /64.
        per_source: u32,
        /// Seconds without a byte until one is ended.
        idle_seconds: u32,
    }

    /// Answer of `GET /org/{orgId}/ports`.
    PortList {
        /// The open ports, by resource.
        ports: Vec<Port>,
        /// Which part of them.
        pagination: Pagination,
    }
}

impl Port {
    /// An open port as the state has it.
    #[must_use]
    pub fn new(resource_id: ResourceId, full_domain: HostName, kind: PortKind, rules: &PortRules) -> Self {
        let PortRules { proxy_protocol, allow, deny, connections, per_source, idle } = rules.clone();
        let port = kind.to_string();
        // People have one second version.
        let proxy_protocol = match proxy_protocol {
            Some(ProxyProtocol::V2Datagrams) => Some(ProxyProtocol::V2),
            other => other,
        };
        Self {
            resource_id,
            full_domain,
            port,
            proxy_protocol,
            allow,
            deny,
            connections,
            per_source,
            idle_seconds: idle,
        }
    }
}

request! {
    /// Request of `POST /resource/{resourceId}/balancing`.
    SetBalancing {
        /// Which of the targets that are equally well is chosen.
        balancing: Balancing,
    }

    /// Request of `POST /target/{targetId}/share`.
    SetShare {
        /// How much of the traffic it gets, in proportion to the weights of the others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        /// 0 serves, 1 is the backup, 2 the backup's backup.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        priority: Option<u8>,
    }

    /// Request of `PUT /resource/{resourceId}/port`: opens it, or changes its rules to exactly these.
    OpenPort {
        /// Which port: `25565/tcp`, `53/udp`, `tls`.
        port: String,
        /// Version of the PROXY protocol that targets are spoken to with; for UDP `v2`, in front of each datagram.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proxy_protocol: Option<ProxyProtocol>,
        /// Clients that may come; all if not said.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        allow: Vec<IpNet>,
        /// Clients that may not.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        deny: Vec<IpNet>,
        /// Connections or UDP flows at once on each node; 1000 if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connections: Option<u32>,
        /// Of them, from one IPv4 address or one IPv6 /64; 100 if not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        per_source: Option<u32>,
        /// Seconds without a byte until one is ended; 3600 if not said, for UDP 60.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idle_seconds: Option<u32>,
    }

    /// Request of `POST /site/{siteId}/local`.
    SetLocal {
        /// The nodes that reach its targets by themselves, an empty list = every one with data; none = its connector
        /// does.
        #[serde(default)]
        nodes: Option<Vec<NodeId>>,
    }

    /// Request of `POST /resource/{resourceId}/port/close`.
    ClosePort {
        /// Which port.
        port: String,
    }
}

impl OpenPort {
    /// The rules of a port of this kind.
    #[must_use]
    pub fn rules(self, kind: PortKind) -> PortRules {
        let usual = PortRules::usual(kind);
        PortRules {
            proxy_protocol: match (kind, self.proxy_protocol) {
                (PortKind::Udp(_), Some(ProxyProtocol::V2)) => Some(ProxyProtocol::V2Datagrams),
                (_, version) => version,
            },
            allow: self.allow,
            deny: self.deny,
            connections: self.connections.unwrap_or(usual.connections),
            // Fewer in all mean fewer from one source.
            per_source: self.per_source.unwrap_or(usual.per_source.min(self.connections.unwrap_or(u32::MAX))),
            idle: self.idle_seconds.unwrap_or(usual.idle),
        }
    }
}

impl SetShare {
    /// The share that comes of it.
    #[must_use]
    pub fn over(self, share: Share) -> Share {
        Share {
            weight: self.weight.unwrap_or(share.weight),
            priority: self.priority.unwrap_or(share.priority),
        }
    }
}
