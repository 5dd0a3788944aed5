//! Which addresses this node connects to for local sites: what the operator of the host allows. Pure.
//!
//! Whoever administers an organisation with a local site chooses its targets, but not what of this host they reach: by
//! itself a node opens no connection to its own loopback, to link-local addresses (where clouds keep credentials), or
//! to what is no host at all.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

/// Most networks of one list.
pub const NETWORKS_MAX: usize = 64;

/// Networks that are refused unless they are allowed: "this host" (RFC 1122, 3.2.1.3), loopback, link-local (RFC 3927,
/// RFC 4291), multicast, and broadcast. An IPv4-mapped address counts as the IPv4 address.
const REFUSED: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];

/// What a node may reach for local sites. Of the networks that an address lies in, the smallest counts, and one that
/// the operator names before one that is refused by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalTargets {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl LocalTargets {
    /// The policy of these lists.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Result<Self, String> {
        if allow.len() > NETWORKS_MAX || deny.len() > NETWORKS_MAX {
            return Err(format!("{NETWORKS_MAX} networks are allowed and denied at most"));
        }
        for network in allow.iter().chain(&deny) {
            if *network != network.trunc() {
                return Err(format!("{network} has bits behind its prefix: write {}", network.trunc()));
            }
        }
        if let Some(both) = allow.iter().find(|network| deny.contains(network)) {
            return Err(format!("{both} is allowed and denied"));
        }
        Ok(Self { allow, deny })
    }

    /// Whether an address may be reached; the network that speaks against it otherwise.
    ///
    /// # Errors
    /// That network.
    pub fn check(&self, address: IpAddr) -> Result<(), IpNet> {
        let address = address.to_canonical();
        let smallest = |networks: &[IpNet]| {
            let holding = networks.iter().filter(|network| network.contains(&address));
            holding.max_by_key(|network| network.prefix_len()).copied()
        };
        let length = |network: Option<IpNet>| network.map(|network| network.prefix_len());
        let (allowed, denied) = (smallest(&self.allow), smallest(&self.deny));
        // The operator's own lists never name the same network.
        let refused = smallest(&REFUSED.map(network));
        match (denied, refused) {
            (Some(network), _) if length(denied) > length(allowed) => Err(network),
            (_, Some(network)) if length(refused) > length(allowed).max(length(denied)) => Err(network),
            _ => Ok(()),
        }
    }

    /// Those of the addresses that may be reached.
    ///
    /// # Errors
    /// There are some, and none may; the reason, for people.
    pub fn permit(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> io::Result<Vec<SocketAddr>> {
        let (mut permitted, mut refusal) = (Vec::new(), None);
        for address in addresses {
            match self.check(address.ip()) {
                Ok(()) => permitted.push(address),
                Err(network) => refusal = Some((address.ip(), network)),
            }
        }
        match refusal {
            Some((address, network)) if permitted.is_empty() => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "{address} lies in {network}, where this node reaches no targets: see local_targets in its \
                     configuration"
                ),
            )),
            _ => Ok(permitted),
        }
    }
}

#[expect(clippy::expect_used, reason = "the list above, which a test reads")]
fn network(text: &str) -> IpNet {
    text.parse().expect("a network")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().copied().map(network).collect()
    }

    #[test]
    fn the_smallest_network_counts_and_the_operators_before_ours() {
        type List = &'static [&'static str];
        let cases: [(List, List, &str, bool); 22] = [
            (&[], &[], "10.0.0.5", true),
            (&[], &[], "2001:db8::5", true),
            (&[], &[], "127.0.0.1", false),
            (&[], &[], "::1", false),
            (&[], &[], "::ffff:127.0.0.1", false),
            (&[], &[], "0.0.0.0", false),
            (&[], &[], "::", false),
            (&[], &[], "169.254.169.254", false),
            (&[], &[], "fe80::1", false),
            (&[], &[], "224.0.0.1", false),
            (&[], &[], "255.255.255.255", false),
            (&["127.0.0.0/8"], &[], "127.0.0.1", true),
            (&["127.0.0.1/32"], &[], "127.0.0.1", true),
            (&["127.0.0.1/32"], &[], "127.0.0.2", false),
            (&["0.0.0.0/0"], &[], "127.0.0.1", false),
            (&["0.0.0.0/0"], &[], "10.0.0.5", true),
            (&[], &["10.0.0.0/8"], "10.0.0.5", false),
            (&["10.1.0.0/16"], &["10.0.0.0/8"], "10.1.0.5", true),
            (&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.0.5", false),
            (&["10.1.0.0/16"], &["0.0.0.0/0", "::/0"], "192.0.2.1", false),
            (&["127.0.0.0/8"], &["127.0.0.53/32"], "127.0.0.53", false),
            (&["127.0.0.0/8"], &["0.0.0.0/0"], "127.0.0.1", true),
        ];
        for (allow, deny, address, reached) in cases {
            let policy = LocalTargets::new(networks(allow), networks(deny)).expect("a policy");
            let found = policy.check(address.parse().expect("an address"));
            assert_eq!(found.is_ok(), reached, "{address}: allow {allow:?}, deny {deny:?}: {found:?}");
        }
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        for (allow, deny) in [
            (networks(&["10.0.0.1/8"]), vec![]),
            (networks(&["10.0.0.0/8"]), networks(&["10.0.0.0/8"])),
            (vec![network("10.0.0.0/8"); NETWORKS_MAX + 1], vec![]),
        ] {
            assert!(LocalTargets::new(allow, deny).is_err());
        }
    }

    #[test]
    fn of_several_addresses_those_that_may_be_reached_are_and_none_is_told() {
        let policy = LocalTargets::default();
        let [near, own] = ["10.0.0.5:80", "127.0.0.1:80"].map(|text| text.parse().expect("an address"));
        assert_eq!(policy.permit([own, near]).expect("one"), [near]);
        let error = policy.permit([own]).expect_err("none");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("127.0.0.0/8"), "{error}");
        assert!(policy.permit([]).expect("nothing to refuse").is_empty());
    }
}
