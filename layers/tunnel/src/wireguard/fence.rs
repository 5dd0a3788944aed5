//! A fence around an interface of the kernel's WireGuard, whose packets nobody hands to us: rules of nftables that do what
//! the gate of the other backends does.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    net::Ipv4Addr,
    process::{Command, Stdio},
};

use crate::probe::PROBE_PORT;

/// Where programs of the administrator lie that `PATH` may not name.
const ALSO_IN: &str = "/usr/sbin:/sbin";

/// The table of rules for an interface. It is removed with [`Fence::lower`]; where a node was killed, the next start
/// replaces it.
pub(crate) struct Fence {
    interface: String,
}

impl Fence {
    /// Lets nothing in from the interface but what the node with this address has asked for, and forwards nothing. Blocks
    /// for some milliseconds.
    ///
    /// # Errors
    /// `nft` is not there or may not, or the interface has a name that rules cannot be written for.
    pub(crate) fn raise(interface: &str, own: Ipv4Addr) -> io::Result<Self> {
        if !is_plain(interface) {
            let text = "rules can be written for names of letters, digits, dots, dashes and underscores only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        nft(&rules(interface, own))?;
        Ok(Self { interface: interface.to_owned() })
    }

    /// Removes the rules. Blocks for some milliseconds.
    ///
    /// # Errors
    /// They are gone already, or `nft` fails.
    pub(crate) fn lower(self) -> io::Result<()> {
        nft(&format!("delete table inet {}\n", table(&self.interface)))
    }
}

fn table(interface: &str) -> String {
    format!("pangolin-{interface}")
}

fn is_plain(interface: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !interface.is_empty() && interface.bytes().all(plain)
}

/// What `nft -f` is told. All of it takes effect at once, or nothing: an older table of that name is replaced.
///
/// *Related* are the errors that ICMP reports about flows of the node's own. A packet that is accepted here still passes
/// the host's other rules.
fn rules(interface: &str, own: Ipv4Addr) -> String {
    let table = table(interface);
    let mut rules = format!("table inet {table}\ndelete table inet {table}\n");
    let chains = [
        (
            "input",
            format!(
                "ip daddr {own} ct state established,related accept; \
                 ip daddr {own} udp dport {PROBE_PORT} accept; \
                 ip daddr {own} icmp type echo-request accept; "
            ),
        ),
        ("forward", String::new()),
        // Before the kernel routes it, and so before it answers that another way would be shorter.
        ("prerouting", format!("ip daddr {own} accept; ")),
    ];
    let _ = writeln!(rules, "table inet {table} {{");
    for (chain, accepted) in chains {
        let _ = writeln!(
            rules,
            "chain {chain} {{ type filter hook {chain} priority filter; policy accept; \
             iifname != \"{interface}\" accept; {accepted}counter drop; }}"
        );
    }
    rules.push_str("}\n");
    rules
}

fn nft(rules: &str) -> io::Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env("PATH", format!("{path}:{ALSO_IN}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot start nft: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // One that ends before it has read everything says why.
        let _ = input.write_all(rules.as_bytes());
    }
    let done = child.wait_with_output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(io::Error::other(format!("nft: {}", said.lines().next().unwrap_or("failed"))))
}

#[cfg(test)]
mod tests;
