//! Whether the operations on one register are linearizable: the search of Wing and Gong (JPDC 1993), with the memory of
//! states that were seen already by Lowe ("Testing for linearizability", CPE 2017).

use std::collections::HashSet;

/// An operation on a register. Values are numbered; 0 is that of a register nobody has written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Op {
    /// When it was called.
    pub(super) from: u64,
    /// When it was answered; `u64::MAX` if it may take effect at any time from its call on, or never.
    pub(super) to: u64,
    /// What it does.
    pub(super) does: Does,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    /// Replaces the value.
    Write(usize),
    /// Finds this value.
    Read(usize),
}

/// What came of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is an order.
    Order,
    /// There is none: no order was found in which this operation has its place.
    NoOrder(usize),
    /// The search was given up.
    TooLong,
}

/// The calls and answers that have not found their place yet, as a list that remembers what was taken out of it.
struct Line {
    /// Entry `2n + 1` is the call of operation n, `2n + 2` its answer; 0 is the head.
    next: Vec<usize>,
    previous: Vec<usize>,
}

const END: usize = usize::MAX;

impl Line {
    fn of(ops: &[Op]) -> Self {
        let mut entries: Vec<(u64, bool, usize)> = Vec::with_capacity(ops.len() * 2);
        for (number, op) in ops.iter().enumerate() {
            // What happens at the same moment may have happened in either order: calls count as first.
            entries.push((op.from, false, 2 * number + 1));
            entries.push((op.to, true, 2 * number + 2));
        }
        entries.sort_unstable();
        let mut line = Self { next: vec![END; entries.len() + 1], previous: vec![END; entries.len() + 1] };
        let mut last = 0;
        for (_, _, entry) in entries {
            line.next[last] = entry;
            line.previous[entry] = last;
            last = entry;
        }
        line
    }

    fn unlink(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = next;
        if next != END {
            self.previous[next] = previous;
        }
    }

    fn link(&mut self, entry: usize) {
        let (previous, next) = (self.previous[entry], self.next[entry]);
        self.next[previous] = entry;
        if next != END {
            self.previous[next] = entry;
        }
    }

    fn take(&mut self, op: usize) {
        self.unlink(2 * op + 1);
        self.unlink(2 * op + 2);
    }

    fn give_back(&mut self, op: usize) {
        self.link(2 * op + 2);
        self.link(2 * op + 1);
    }
}

/// Looks for an order, in at most `steps` steps.
pub(super) fn search(ops: &[Op], steps: usize) -> Found {
    let mut line = Line::of(ops);
    let mut value = 0;
    let mut placed = vec![0_u64; ops.len().div_ceil(64)];
    let mut order: Vec<(usize, usize)> = Vec::new();
    let mut seen: HashSet<(Vec<u64>, usize)> = HashSet::new();
    let mut entry = line.next[0];
    // The furthest that any order came, and what had no place there.
    let mut furthest = (0, 0);
    for _ in 0..steps {
        if line.next[0] == END {
            return Found::Order;
        }
        let op = (entry - 1) / 2;
        let is_call = entry % 2 == 1;
        if is_call {
            let after = match ops[op].does {
                Does::Write(written) => Some(written),
                Does::Read(found) => (found == value).then_some(value),
            };
            if let Some(after) = after {
                placed[op / 64] |= 1 << (op % 64);
                if seen.insert((placed.clone(), after)) {
                    order.push((op, value));
                    value = after;
                    line.take(op);
                    entry = line.next[0];
                    continue;
                }
                placed[op / 64] &= !(1 << (op % 64));
            }
            entry = line.next[entry];
        } else {
            // It was answered before anything else can take effect: an earlier choice was wrong.
            if order.len() >= furthest.0 {
                furthest = (order.len(), op);
            }
            let Some((last, before)) = order.pop() else { return Found::NoOrder(furthest.1) };
            value = before;
            placed[last / 64] &= !(1 << (last % 64));
            line.give_back(last);
            entry = line.next[2 * last + 1];
        }
    }
    if line.next[0] == END { Found::Order } else { Found::TooLong }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn op((from, to, does): (u64, u64, Does)) -> Op {
        Op { from, to, does }
    }

    /// By definition: some order of the operations that respects the clock and the register. Open ones may be left out.
    fn by_brute_force(ops: &[Op], placed: u32, value: usize) -> bool {
        let left: Vec<usize> = (0..ops.len()).filter(|n| placed & (1 << n) == 0).collect();
        if left.iter().all(|n| ops[*n].to == u64::MAX) {
            return true;
        }
        left.iter().any(|n| {
            let first = left.iter().all(|other| ops[*other].to >= ops[*n].from);
            let after = match ops[*n].does {
                Does::Write(written) => Some(written),
                Does::Read(found) => (found == value).then_some(value),
            };
            first && after.is_some_and(|after| by_brute_force(ops, placed | (1 << n), after))
        })
    }

    #[test]
    fn known_histories_are_told_apart() {
        use Does::{Read, Write};
        const OPEN: u64 = u64::MAX;
        type Case = (&'static str, &'static [(u64, u64, Does)], Found);
        let cases: [Case; 10] = [
            ("nothing", &[], Found::Order),
            ("one after the other", &[(1, 2, Write(1)), (3, 4, Read(1))], Found::Order),
            ("never written", &[(1, 2, Read(0)), (3, 4, Read(0))], Found::Order),
            ("a stale read", &[(1, 2, Write(1)), (3, 4, Read(0))], Found::NoOrder(1)),
            ("at the same time", &[(1, 5, Write(1)), (2, 3, Read(0)), (4, 6, Read(1))], Found::Order),
            ("back again", &[(1, 9, Write(1)), (2, 3, Read(1)), (4, 5, Read(0))], Found::NoOrder(2)),
            (
                "an open write shows late",
                &[(1, OPEN, Write(1)), (2, 3, Read(0)), (8, 9, Read(1))],
                Found::Order,
            ),
            (
                "an open write never shows",
                &[(1, OPEN, Write(1)), (2, 3, Write(2)), (8, 9, Read(2))],
                Found::Order,
            ),
            (
                "an open write shows and is gone",
                &[(1, OPEN, Write(1)), (2, 3, Read(1)), (4, 5, Read(0))],
                Found::NoOrder(2),
            ),
            (
                "two orders of two writes",
                &[(1, 9, Write(1)), (1, 9, Write(2)), (10, 11, Read(1)), (12, 13, Read(2))],
                Found::NoOrder(3),
            ),
        ];
        for (name, ops, expected) in cases {
            let ops: Vec<Op> = ops.iter().copied().map(op).collect();
            assert_eq!(search(&ops, 10_000), expected, "{name}");
        }
    }

    #[test]
    fn two_hundred_operations_of_ten_clients_are_searched_at_once() {
        // Each client overlaps with all others; what they read fits one order.
        let mut ops = Vec::new();
        for round in 0..20_u64 {
            for client in 0..10_u64 {
                let number = usize::try_from(round * 10 + client).expect("small");
                let does = if client == 9 { Does::Read(number) } else { Does::Write(number + 1) };
                ops.push(Op { from: round * 100 + client, to: round * 100 + 90 + client, does });
            }
        }
        assert_eq!(search(&ops, 1_000_000), Found::Order);
        assert_eq!(search(&ops, 10), Found::TooLong);
    }

    proptest! {
        #[test]
        fn the_search_agrees_with_the_definition(
            ops in prop::collection::vec((0_u64..20, 1_u64..8, any::<bool>(), any::<bool>(), 0_usize..3), 0..7)
        ) {
            let ops: Vec<Op> = ops
                .into_iter()
                .map(|(from, takes, write, open, value)| {
                    let does = if write { Does::Write(value) } else { Does::Read(value) };
                    Op { from, to: if open && write { u64::MAX } else { from + takes }, does }
                })
                .collect();
            let order = search(&ops, 1_000_000) == Found::Order;
            prop_assert_eq!(order, by_brute_force(&ops, 0, 0), "{:?}", ops);
        }
    }
}
