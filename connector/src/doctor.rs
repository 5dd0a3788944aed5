//! What stands between a connector and its cluster: tried from where the connector is, step by step, with the port that is
//! blocked by name. Nothing is changed by it.

use std::path::Path;

use crate::{
    dial::tcp,
    endpoint::{Door, split},
    options::Options,
    sign_in::try_sign_in,
    status::{self, TunnelStatus},
};

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// It is as it should be.
    pub ok: bool,
    /// What was found, and what to do.
    pub text: String,
}

impl Finding {
    fn ok(text: impl Into<String>) -> Self {
        Self { ok: true, text: text.into() }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self { ok: false, text: text.into() }
    }
}

/// Tries everything.
pub async fn examine(options: &Options, status_file: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for door in &options.doors {
        findings.push(try_door(door, options).await);
    }
    let Some(path) = status_file else {
        findings.push(Finding::bad(
            "the tunnels cannot be looked at: give --status-file, here and to the running connector",
        ));
        return findings;
    };
    let status = match status::read(path) {
        Ok(status) => status,
        Err(error) => {
            findings.push(Finding::bad(format!("the tunnels cannot be looked at: {error}")));
            return findings;
        }
    };
    if status.tunnels.is_empty() {
        findings.push(Finding::bad("the running connector has no tunnels: the cluster has not told it any"));
    }
    for tunnel in &status.tunnels {
        let answers = if tunnel.alive { true } else { tcp_answers(tunnel).await };
        findings.push(judge(tunnel, answers));
    }
    findings
}

async fn try_door(door: &Door, options: &Options) -> Finding {
    let (host, port) = door.place();
    if let Err(error) = tcp(host, port).await {
        return Finding::bad(format!(
            "{door}: TCP port {port} of {host} does not answer ({error}): let it out, or correct the endpoint"
        ));
    }
    match try_sign_in(door, &options.tls, &options.id, &options.secret).await {
        Ok(()) => Finding::ok(format!("{door}: signs in")),
        Err(error) => Finding::bad(format!("{door}: TCP port {port} answers, but {error}")),
    }
}

/// Whether a node's edge takes connections.
async fn tcp_answers(tunnel: &TunnelStatus) -> bool {
    match split(&tunnel.control) {
        Some((host, Some(port))) => tcp(host, port).await.is_ok(),
        _ => false,
    }
}

/// What a tunnel's state says; `tcp_answers` is whether the node's edge takes connections. Pure.
#[must_use]
pub fn judge(tunnel: &TunnelStatus, tcp_answers: bool) -> Finding {
    let TunnelStatus { node, endpoint, control, .. } = tunnel;
    let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, "?"));
    match (tunnel.alive, tunnel.over_tls, tcp_answers) {
        (true, false, _) => Finding::ok(format!("{node}: the tunnel to UDP port {port} of {host} is alive")),
        (true, true, _) => Finding::bad(format!(
            "{node}: UDP port {port} of {host} is blocked, its tunnel goes over TCP to {control}: slower; let UDP {port} out"
        )),
        (false, _, true) => Finding::bad(format!(
            "{node}: UDP port {port} of {host} is blocked: nothing comes back, though TCP to {control} is answered; \
             let UDP {port} out"
        )),
        (false, _, false) if control.is_empty() => Finding::bad(format!(
            "{node}: nothing comes back from UDP port {port} of {host}: the node is away, or the port is blocked"
        )),
        (false, _, false) => Finding::bad(format!(
            "{node}: neither UDP port {port} of {host} nor TCP to {control} is answered: the node is away, or both are \
             blocked"
        )),
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::Timestamp;

    use super::*;

    #[test]
    fn the_blocked_port_is_named() {
        let tunnel = |alive, over_tls, control: &str| TunnelStatus {
            node: "n1".into(),
            endpoint: "192.0.2.1:51820".into(),
            control: control.into(),
            over_tls,
            alive,
            since: Timestamp(1),
        };
        let control = "192.0.2.1:443";
        let cases = [
            (tunnel(true, false, control), true, true, "51820 of 192.0.2.1 is alive"),
            (tunnel(true, true, control), true, false, "UDP port 51820 of 192.0.2.1 is blocked, its tunnel"),
            (tunnel(false, false, control), true, false, "UDP port 51820 of 192.0.2.1 is blocked: nothing"),
            (tunnel(false, true, control), false, false, "neither UDP port 51820"),
            (tunnel(false, false, ""), false, false, "the node is away, or the port is blocked"),
        ];
        for (tunnel, answers, ok, expected) in cases {
            let finding = judge(&tunnel, answers);
            assert_eq!(finding.ok, ok, "{finding:?}");
            assert!(finding.text.contains(expected), "{finding:?}");
        }
    }
}
