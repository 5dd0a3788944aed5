//! Which WireGuard peers a plan means, and what has to change for it. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use pangolin_core::{id::SiteId, plan::TunnelPlan, record::TunnelKey};

use crate::wireguard::{Peer, PeerChange};

/// A site as this layer keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SitePeer {
    pub address: Ipv4Addr,
    /// None = there is no tunnel to it yet.
    pub key: Option<TunnelKey>,
}

/// The sites of a plan. A key can name one peer only: of several sites with the same key the first keeps it, and
/// nobody gets the node's own.
pub(super) fn wanted(plan: &TunnelPlan, own: TunnelKey) -> BTreeMap<SiteId, SitePeer> {
    if plan.address.is_none() {
        return BTreeMap::new();
    }
    let mut taken = BTreeSet::from([own]);
    plan.sites
        .iter()
        .map(|(site, tunnel)| {
            let key = tunnel.key.filter(|key| {
                let free = taken.insert(*key);
                if !free {
                    tracing::warn!(%site, "no tunnel: its connector registered a WireGuard key that is in use");
                }
                free
            });
            (*site, SitePeer { address: tunnel.address, key })
        })
        .collect()
}

/// What leads from one set of sites to the other.
pub(super) fn change(now: &BTreeMap<SiteId, SitePeer>, wanted: &BTreeMap<SiteId, SitePeer>) -> PeerChange {
    // A key may move from one site to another: peers are compared as WireGuard knows them.
    let peers = |sites: &BTreeMap<SiteId, SitePeer>| -> BTreeMap<TunnelKey, Ipv4Addr> {
        sites.values().filter_map(|peer| Some((peer.key?, peer.address))).collect()
    };
    let (now, wanted) = (peers(now), peers(wanted));
    let gone = |(key, address): &(&TunnelKey, &Ipv4Addr)| wanted.get(*key) != Some(*address);
    let new = |(key, address): &(&TunnelKey, &Ipv4Addr)| now.get(*key) != Some(*address);
    PeerChange {
        remove: now.iter().filter(gone).map(|(key, _)| *key).collect(),
        add: wanted
            .iter()
            .filter(new)
            .map(|(key, address)| Peer { key: *key, address: *address, endpoint: None })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::{id::Epoch, plan::SiteTunnel};

    use super::*;

    const OWN: TunnelKey = TunnelKey([0xff; 32]);

    fn plan(sites: &[(u64, u8, Option<u8>)]) -> TunnelPlan {
        let sites = sites.iter().map(|(id, address, key)| {
            let tunnel = SiteTunnel {
                site: SiteId(*id),
                address: Ipv4Addr::new(10, 0, 0, *address),
                key: key.map(|byte| TunnelKey([byte; 32])),
                multi_homed: true,
                offers: Vec::new(),
                epoch: Epoch(1),
                config_version: 1,
                targets: Vec::new(),
            };
            (SiteId(*id), tunnel)
        });
        TunnelPlan {
            address: Some(Ipv4Addr::new(10, 0, 0, 1)),
            sites: sites.collect(),
            ..TunnelPlan::default()
        }
    }

    /// Keys removed and keys added on the way from one plan to the other.
    fn keys(from: &[(u64, u8, Option<u8>)], to: &[(u64, u8, Option<u8>)]) -> (Vec<u8>, Vec<u8>) {
        let change = change(&wanted(&plan(from), OWN), &wanted(&plan(to), OWN));
        (
            change.remove.iter().map(|key| key.0[0]).collect(),
            change.add.iter().map(|peer| peer.key.0[0]).collect(),
        )
    }

    #[test]
    fn only_what_differs_is_changed() {
        type Sites = &'static [(u64, u8, Option<u8>)];
        type Keys = &'static [u8];
        let cases: [(&str, Sites, Sites, Keys, Keys); 9] = [
            ("first plan", &[], &[(1, 11, Some(1)), (2, 12, None)], &[], &[1]),
            ("the same", &[(1, 11, Some(1))], &[(1, 11, Some(1))], &[], &[]),
            ("a site goes", &[(1, 11, Some(1)), (2, 12, Some(2))], &[(2, 12, Some(2))], &[1], &[]),
            ("a connector registers", &[(1, 11, None)], &[(1, 11, Some(1))], &[], &[1]),
            ("a new key", &[(1, 11, Some(1))], &[(1, 11, Some(3))], &[1], &[3]),
            ("another address", &[(1, 11, Some(1))], &[(1, 12, Some(1))], &[1], &[1]),
            (
                "keys swapped",
                &[(1, 11, Some(1)), (2, 12, Some(2))],
                &[(1, 11, Some(2)), (2, 12, Some(1))],
                &[1, 2],
                &[1, 2],
            ),
            ("a key twice goes to the first", &[], &[(1, 11, Some(1)), (2, 12, Some(1))], &[], &[1]),
            ("the node's own key", &[], &[(1, 11, Some(0xff))], &[], &[]),
        ];
        for (name, from, to, remove, add) in cases {
            assert_eq!(keys(from, to), (remove.to_vec(), add.to_vec()), "{name}");
        }
    }

    #[test]
    fn a_node_that_carries_no_tunnels_has_no_peers() {
        let plan = TunnelPlan { address: None, ..plan(&[(1, 11, Some(1))]) };
        assert!(wanted(&plan, OWN).is_empty());
    }
}
