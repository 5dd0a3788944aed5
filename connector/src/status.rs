//! What a running connector says of itself: a small file, written anew when something changes, which `status` and
//! `doctor` read.

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use pangolin_core::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use crate::{now, over_tls::Way};

/// How often the file is written though nothing changes: whoever reads it knows by its age that the connector is gone.
const WRITE_EVERY: Duration = Duration::from_secs(10);
/// A file that is older says nothing of the present.
const FRESH: Duration = Duration::from_secs(30);
/// Longest file that is read: thousands of nodes.
const FILE_MAX: u64 = 1 << 20;

/// What a connector says of itself. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// When this was written.
    pub written: Timestamp,
    /// When the program was started.
    pub started: Timestamp,
    /// The control socket.
    pub control: ControlStatus,
    /// The site's address inside the tunnels; none before the cluster has told it.
    pub address: Option<Ipv4Addr>,
    /// The nodes to which tunnels are kept.
    pub tunnels: Vec<TunnelStatus>,
}

/// How the control socket is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Where it goes; none while there is none.
    pub door: Option<String>,
    /// Since when it has, or has not.
    pub since: Timestamp,
    /// Why there is none.
    pub problem: Option<String>,
}

/// How the tunnel to a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// The node's name.
    pub node: String,
    /// Where its WireGuard takes datagrams: `host:port`.
    pub endpoint: String,
    /// Where its edge is reached, `host:port`; empty = not known.
    pub control: String,
    /// Datagrams go over TLS, because UDP was not answered.
    pub over_tls: bool,
    /// The node answers probes inside the tunnel.
    pub alive: bool,
    /// Since when it has, or has not; 0 = it has not been tried.
    pub since: Timestamp,
}

impl TunnelStatus {
    /// What carries the datagrams, for people.
    #[must_use]
    pub fn way(&self) -> Way {
        if self.over_tls { Way::Tls } else { Way::Udp }
    }
}

/// What cannot be read of a connector's status.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// There is no such file, or it cannot be read.
    #[error("{path}: {source}; does the connector run, with this --status-file?")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no status.
    #[error("{path} is not the status of a connector: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Nobody writes it any more.
    #[error("{path} was last written {seconds} s ago: the connector does not run")]
    Old {
        /// The file.
        path: PathBuf,
        /// Its age.
        seconds: u64,
    },
}

/// Reads what a running connector has written.
///
/// # Errors
/// [`StatusError`] if there is none.
pub fn read(path: &Path) -> Result<Status, StatusError> {
    let source = |source| StatusError::Read { path: path.to_owned(), source };
    let parse = |reason| StatusError::Parse { path: path.to_owned(), reason };
    if std::fs::metadata(path).map_err(source)?.len() > FILE_MAX {
        return Err(parse(format!("it is longer than {FILE_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(source)?;
    let status: Status = serde_json::from_str(&text).map_err(|error| parse(error.to_string()))?;
    let age = now().since(status.written);
    if age > FRESH {
        return Err(StatusError::Old { path: path.to_owned(), seconds: age.as_secs() });
    }
    Ok(status)
}

/// Writes the status whenever it changes, for ever.
pub(crate) async fn keep(path: PathBuf, mut status: watch::Receiver<Status>) {
    let mut told = false;
    loop {
        let text = {
            let said = Status { written: now(), ..status.borrow_and_update().clone() };
            // Numbers and strings always have a JSON form.
            serde_json::to_string(&said).unwrap_or_default()
        };
        match write(&path, &text) {
            Ok(()) => told = false,
            Err(error) if !told => {
                tracing::warn!(path = %path.display(), %error, "the status file cannot be written");
                told = true;
            }
            Err(_) => {}
        }
        if let Ok(Err(_)) = timeout(WRITE_EVERY, status.changed()).await {
            return;
        }
    }
}

/// Whoever reads it sees the old one or the new one, never a part.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
}

/// A status in lines for people.
#[must_use]
pub fn lines(status: &Status) -> Vec<String> {
    let ago = |at: Timestamp| format!("{} s", status.written.since(at).as_secs());
    let control = &status.control;
    let mut lines =
        vec![format!("pangolin-connector {}, running for {}", status.version, ago(status.started))];
    lines.push(match (&control.door, &control.problem) {
        (Some(door), _) => format!("control: {door} for {}", ago(control.since)),
        (None, Some(problem)) => format!("control: none for {}: {problem}", ago(control.since)),
        (None, None) => "control: connecting".to_owned(),
    });
    match status.address {
        Some(address) => lines.push(format!("site address: {address}")),
        None => lines.push("no tunnel is wanted yet: the cluster has not answered".to_owned()),
    }
    for tunnel in &status.tunnels {
        let way = match tunnel.way() {
            Way::Udp => "UDP",
            Way::Tls => "TLS",
        };
        let state = match (tunnel.alive, tunnel.since) {
            (true, since) => format!("alive for {}", ago(since)),
            (false, Timestamp(0)) => "not tried yet".to_owned(),
            (false, since) => format!("no answer for {}", ago(since)),
        };
        lines.push(format!("tunnel: {} at {} over {way}: {state}", tunnel.node, tunnel.endpoint));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let tunnel = TunnelStatus {
            node: "n1".into(),
            endpoint: "192.0.2.1:51820".into(),
            control: "192.0.2.1:443".into(),
            over_tls: false,
            alive: true,
            since: Timestamp(7_000),
        };
        Status {
            version: "1.0.0".into(),
            written: Timestamp(10_000),
            started: Timestamp(1_000),
            control: ControlStatus { door: Some("https://c".into()), since: Timestamp(4_000), problem: None },
            address: Some(Ipv4Addr::new(100, 89, 4, 17)),
            tunnels: vec![
                tunnel.clone(),
                TunnelStatus { node: "n2".into(), alive: false, over_tls: true, ..tunnel },
            ],
        }
    }

    #[test]
    fn a_status_is_told_in_lines() {
        assert_eq!(
            lines(&status()),
            [
                "pangolin-connector 1.0.0, running for 9 s",
                "control: https://c for 6 s",
                "site address: 100.89.4.17",
                "tunnel: n1 at 192.0.2.1:51820 over UDP: alive for 3 s",
                "tunnel: n2 at 192.0.2.1:51820 over TLS: no answer for 3 s",
            ]
        );
    }

    #[test]
    fn what_was_written_is_read_while_it_is_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status.json");
        assert!(matches!(read(&path), Err(StatusError::Read { .. })));
        let mut fresh = Status { written: now(), ..status() };
        write(&path, &serde_json::to_string(&fresh).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), fresh);
        fresh.written = Timestamp(1);
        write(&path, &serde_json::to_string(&fresh).unwrap()).unwrap();
        assert!(matches!(read(&path), Err(StatusError::Old { .. })));
        write(&path, "{").unwrap();
        assert!(matches!(read(&path), Err(StatusError::Parse { .. })));
    }
}
