//! Hosts that do not reach each other: nftables drops the packets, all directions at the same moment.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use futures_util::future::LocalBoxFuture;

use super::{Begun, Fault, STEP_PATIENCE};
use crate::{
    chance::Chance,
    testbed::{
        bed::{Bed, CLIENTS_HOST, OUTSIDE_HOST, SITE_HOST},
        filter::{Rule, Traffic},
    },
};

/// Who does not reach whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Halves,
    LeaderMinority,
    LeaderIsolated,
    Bridge,
    Ring,
    In,
    Out,
    Peers,
    Data,
}

pub(super) fn of(shape: Shape, chance: &mut Chance) -> Box<dyn Fault> {
    Box::new(Partition { shape, order: chance.number(), table: None })
}

struct Partition {
    shape: Shape,
    order: u64,
    table: Option<String>,
}

/// Pairs of positions, from and to, among `order`, whose first is the leader.
fn cut(shape: Shape, order: &[usize]) -> BTreeSet<(usize, usize)> {
    let groups = |one: &[usize], other: &[usize]| -> BTreeSet<(usize, usize)> {
        let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
        pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
    };
    let count = order.len();
    let minority = (count - 1) / 2;
    match shape {
        // The leader may be on either side: by lot, the smaller one is at the end.
        Shape::Halves => groups(&order[..count - count / 2], &order[count - count / 2..]),
        Shape::LeaderMinority => groups(&order[..minority], &order[minority..]),
        Shape::LeaderIsolated | Shape::Peers => groups(&order[..1], &order[1..]),
        // The leader is the one that all reach.
        Shape::Bridge => groups(&order[1..=count / 2], &order[count / 2 + 1..]),
        // Each reaches its neighbours only; of three nodes, the leader and one other do not reach each other.
        Shape::Ring if count <= 3 => groups(&order[..1], &order[count - 1..]),
        Shape::Ring => {
            let near = |a: usize, b: usize| (a + 1) % count == b || (b + 1) % count == a;
            let all = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
            all.filter(|(a, b)| a != b && !near(*a, *b)).map(|(a, b)| (order[a], order[b])).collect()
        }
        Shape::In => order[1..].iter().map(|other| (*other, order[0])).collect(),
        Shape::Out => order[1..].iter().map(|other| (order[0], *other)).collect(),
        Shape::Data => BTreeSet::new(),
    }
}

/// Those that are on the losing side: who is cut off from a majority, in one direction or both.
fn hit(shape: Shape, order: &[usize], cut: &BTreeSet<(usize, usize)>) -> Vec<usize> {
    if shape == Shape::Data {
        return order[..1].to_vec();
    }
    let cut_off = |node: usize| {
        let lost: BTreeSet<usize> =
            cut.iter().filter(|(a, b)| *a == node || *b == node).map(|(a, b)| a + b - node).collect();
        // Links of everybody may be cut while all of them have a majority: then whoever lost one is hit.
        lost.len() * 2 >= order.len() || (matches!(shape, Shape::Bridge | Shape::Ring) && !lost.is_empty())
    };
    order.iter().copied().filter(|node| cut_off(*node)).collect()
}

impl Partition {
    async fn start(&mut self, name: u64, bed: &mut Bed) -> Result<Option<Begun>> {
        let members = bed.members();
        let leader = match bed.leader(STEP_PATIENCE).await {
            Ok(leader) if members.len() >= 3 => leader,
            _ => return Ok(None),
        };
        let mut order: Vec<usize> = members.into_iter().filter(|node| *node != leader).collect();
        let mut chance = Chance::new(self.order);
        chance.shuffle(&mut order);
        let place = if self.shape == Shape::Halves { chance.below(order.len() + 1) } else { 0 };
        order.insert(place, leader);
        let cut = cut(self.shape, &order);
        let hit = hit(self.shape, &order, &cut);
        let rules = self.rules(bed, &order, &cut)?;
        let table = format!("f{name}");
        bed.fabric.block(&table, &rules)?;
        self.table = Some(table);
        let links: Vec<String> =
            cut.iter().map(|(a, b)| format!("{}-x->{}", bed.names(&[*a]), bed.names(&[*b]))).collect();
        let links = if links.is_empty() { String::new() } else { format!(": {}", links.join(" ")) };
        Begun::new(hit.clone(), format!("hits {}, leader {}{links}", bed.names(&hit), bed.names(&[leader])))
    }

    fn rules(&self, bed: &Bed, order: &[usize], cut: &BTreeSet<(usize, usize)>) -> Result<Vec<Rule>> {
        let what = match self.shape {
            Shape::Peers => Traffic::Peers(bed.cluster.options.ports.peers),
            _ => Traffic::All,
        };
        let mut rules: Vec<Rule> = cut
            .iter()
            .map(|(from, to)| Rule { what, ..Rule::all(bed.addresses([*from]), bed.addresses([*to])) })
            .collect();
        if matches!(self.shape, Shape::LeaderIsolated | Shape::Data) {
            let ports = bed.cluster.options.ports;
            let data = Traffic::Data { tunnel: ports.tunnel, https: ports.https };
            let what = if self.shape == Shape::Data { data } else { Traffic::All };
            let node = bed.addresses([order[0]]);
            let others = [SITE_HOST, CLIENTS_HOST, OUTSIDE_HOST];
            let others = others.into_iter().map(|host| bed.address_of(host)).collect::<Result<Vec<_>>>()?;
            rules.push(Rule { what, ..Rule::all(node.clone(), others.clone()) });
            rules.push(Rule { what, ..Rule::all(others, node) });
        }
        Ok(rules)
    }
}

impl Fault for Partition {
    fn begin<'a>(&'a mut self, name: u64, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<Option<Begun>>> {
        Box::pin(self.start(name, bed))
    }

    fn shown(&mut self, bed: &mut Bed) -> Result<Option<String>> {
        let dropped = bed.fabric.dropped(self.table.as_deref().context("it has not begun")?)?;
        Ok((dropped > 0).then(|| "packets are dropped".to_owned()))
    }

    fn end<'a>(&'a mut self, bed: &'a mut Bed) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move { self.table.take().map_or(Ok(()), |table| bed.fabric.unblock(&table)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(pairs: &[(usize, usize)]) -> BTreeSet<(usize, usize)> {
        pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect()
    }

    #[test]
    fn shapes_cut_what_their_names_say() {
        let three = [2, 0, 1];
        let five = [4, 0, 1, 2, 3];
        for (shape, order, expected, hits) in [
            (Shape::Halves, &three[..], both(&[(2, 1), (0, 1)]), vec![1]),
            (Shape::Halves, &five, both(&[(4, 2), (4, 3), (0, 2), (0, 3), (1, 2), (1, 3)]), vec![2, 3]),
            (Shape::LeaderMinority, &three, both(&[(2, 0), (2, 1)]), vec![2]),
            (
                Shape::LeaderMinority,
                &five,
                both(&[(4, 1), (4, 2), (4, 3), (0, 1), (0, 2), (0, 3)]),
                vec![4, 0],
            ),
            (Shape::LeaderIsolated, &three, both(&[(2, 0), (2, 1)]), vec![2]),
            (Shape::Bridge, &three, both(&[(0, 1)]), vec![0, 1]),
            (Shape::Bridge, &five, both(&[(0, 2), (0, 3), (1, 2), (1, 3)]), vec![0, 1, 2, 3]),
            (Shape::Ring, &three, both(&[(2, 1)]), vec![2, 1]),
            (Shape::Ring, &five, both(&[(4, 1), (4, 2), (0, 2), (0, 3), (1, 3)]), vec![4, 0, 1, 2, 3]),
            (Shape::In, &three, [(0, 2), (1, 2)].into(), vec![2]),
            (Shape::Out, &three, [(2, 0), (2, 1)].into(), vec![2]),
            (Shape::Data, &three, [].into(), vec![2]),
        ] {
            let found = cut(shape, order);
            assert_eq!(found, expected, "{shape:?} of {}", order.len());
            assert_eq!(hit(shape, order, &found), hits, "{shape:?} of {}", order.len());
        }
    }
}
