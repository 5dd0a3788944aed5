//! What is dropped between hosts: rules, and the batches in which nftables takes them. A table stands in the bridge's
//! namespace, so that one batch cuts every direction at the same moment, whatever the hosts are doing.

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use anyhow::{Context, Result};
use serde_json::Value;

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Everything.
    All,
    /// What nodes say to each other: Raft, reports, probes, relays.
    Peers(u16),
    /// What connectors and visitors say to nodes: tunnels and HTTPS.
    Data {
        /// WireGuard datagrams.
        tunnel: u16,
        /// Control channel and visitors.
        https: u16,
    },
}

/// Packets that are dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Who sends them.
    pub from: BTreeSet<IpAddr>,
    /// To whom.
    pub to: BTreeSet<IpAddr>,
    /// Which of them.
    pub what: Traffic,
}

impl Rule {
    /// Everything from some to others.
    pub fn all(from: impl IntoIterator<Item = IpAddr>, to: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { from: from.into_iter().collect(), to: to.into_iter().collect(), what: Traffic::All }
    }
}

/// The batch that puts the rules into force.
#[must_use]
pub fn install(table: &str, rules: &[Rule]) -> String {
    let mut text = format!(
        "table bridge {table} {{\n  chain forward {{\n    type filter hook forward priority 0; policy accept;\n"
    );
    for rule in rules.iter().filter(|rule| !rule.from.is_empty() && !rule.to.is_empty()) {
        let ends = format!("ip saddr {} ip daddr {}", set(&rule.from), set(&rule.to));
        for what in matches(rule.what) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "    {ends}{what} counter drop");
        }
    }
    text.push_str("  }\n}\n");
    text
}

/// The batch that takes them away.
#[must_use]
pub fn remove(table: &str) -> String {
    format!("delete table bridge {table}\n")
}

/// A port stands for both directions of what is spoken there.
fn matches(what: Traffic) -> Vec<String> {
    let both =
        |protocol: &str, port: u16| ["dport", "sport"].map(|side| format!(" {protocol} {side} {port}"));
    match what {
        Traffic::All => vec![String::new()],
        Traffic::Peers(port) => both("tcp", port).into(),
        Traffic::Data { tunnel, https } => [both("udp", tunnel), both("tcp", https)].concat(),
    }
}

fn set(addresses: &BTreeSet<IpAddr>) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("{{ {} }}", all.join(", "))
}

/// The sum of all counters in what `nft -j list` prints.
///
/// # Errors
/// It is not that.
pub(super) fn dropped(json: &str) -> Result<u64> {
    let listed: Value = serde_json::from_str(json).context("nft does not print JSON")?;
    let entries = listed["nftables"].as_array().context("nft prints no list")?;
    let counters = entries.iter().filter_map(|entry| entry["rule"]["expr"].as_array()).flatten();
    Ok(counters.filter_map(|expression| expression["counter"]["packets"].as_u64()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 77, 0, last].into()
    }

    #[test]
    fn rules_become_one_batch() {
        let rules = [
            Rule::all([ip(1)], [ip(2), ip(3)]),
            Rule { what: Traffic::Peers(7420), ..Rule::all([ip(2)], [ip(1)]) },
            Rule { what: Traffic::Data { tunnel: 51820, https: 443 }, ..Rule::all([ip(4)], [ip(1)]) },
            Rule::all([], [ip(1)]),
        ];
        let expected = "table bridge f1 {\n  chain forward {\n    type filter hook forward priority 0; policy accept;\n\
            \x20   ip saddr { 10.77.0.1 } ip daddr { 10.77.0.2, 10.77.0.3 } counter drop\n\
            \x20   ip saddr { 10.77.0.2 } ip daddr { 10.77.0.1 } tcp dport 7420 counter drop\n\
            \x20   ip saddr { 10.77.0.2 } ip daddr { 10.77.0.1 } tcp sport 7420 counter drop\n\
            \x20   ip saddr { 10.77.0.4 } ip daddr { 10.77.0.1 } udp dport 51820 counter drop\n\
            \x20   ip saddr { 10.77.0.4 } ip daddr { 10.77.0.1 } udp sport 51820 counter drop\n\
            \x20   ip saddr { 10.77.0.4 } ip daddr { 10.77.0.1 } tcp dport 443 counter drop\n\
            \x20   ip saddr { 10.77.0.4 } ip daddr { 10.77.0.1 } tcp sport 443 counter drop\n  }\n}\n";
        assert_eq!(install("f1", &rules), expected);
    }

    #[test]
    fn counters_are_added_up() {
        let rule = |packets: u64| serde_json::json!({ "rule": { "expr": [{ "counter": { "packets": packets } }, { "drop": null }] } });
        let listed = serde_json::json!({ "nftables": [{ "table": {} }, rule(3), rule(4)] }).to_string();
        assert_eq!(dropped(&listed).expect("counted"), 7);
        assert!(dropped("no").is_err() && dropped("{}").is_err());
    }
}
