//! What has to hold in every run, one file each. An invariant is a pure function of a
//! [`History`](crate::history::History); what it cannot tell, it calls unknown.

pub mod acknowledged_write;
pub mod bounded_use;
pub mod coverage;
pub mod dead_node_gone;
pub mod dns_agrees;
pub mod dns_fresh;
pub mod dns_serves;
pub mod epoch_grows;
pub mod in_order;
pub mod linearizable;
pub mod one_home;
pub mod one_leader;
pub mod serves_again;
pub mod serves_through;
pub mod sessions;
pub mod stale_fence;
pub mod state_hash;
mod wgl;

use crate::{history::History, verdict::Finding};

/// Something that has to hold.
pub struct Invariant {
    /// Its name, as in reports and in [`Header::expects`](crate::history::Header::expects).
    pub name: &'static str,
    /// What it says.
    pub says: &'static str,
    /// Whether it holds.
    pub check: fn(&History) -> Finding,
}

/// All of them.
pub const ALL: &[Invariant] = &[
    Invariant {
        name: "linearizable",
        says: "each key behaves like one register: every read and write takes effect at one moment between its \
               call and its answer",
        check: linearizable::check,
    },
    Invariant {
        name: "acknowledged-write-survives",
        says: "a read that began after a write was acknowledged finds it, or a later one",
        check: acknowledged_write::check,
    },
    Invariant { name: "one-leader", says: "a term has one leader at most", check: one_leader::check },
    Invariant {
        name: "state-hash",
        says: "two nodes that have applied the same log have the same state, bit by bit",
        check: state_hash::check,
    },
    Invariant {
        name: "sessions",
        says: "a client never sees time go back, and sees what it wrote itself, on whichever node it asks",
        check: sessions::check,
    },
    Invariant {
        name: "epoch-grows",
        says: "the epoch of a site's placement never goes back",
        check: epoch_grows::check,
    },
    Invariant { name: "one-home", says: "a site has one home in an epoch", check: one_home::check },
    Invariant {
        name: "stale-fence",
        says: "nothing is done under a fence once something was done under a later one",
        check: stale_fence::check,
    },
    Invariant {
        name: "dns-fresh",
        says: "a node's DNS is never further than a second behind what the node has applied, and never ahead of it",
        check: dns_fresh::check,
    },
    Invariant {
        name: "dns-agrees",
        says: "two nodes that answer from the same serial answer the same",
        check: dns_agrees::check,
    },
    Invariant {
        name: "dns-serves",
        says: "whoever answers for a live name answers with data, or that there is none of the type",
        check: dns_serves::check,
    },
    Invariant {
        name: "dead-node-gone",
        says: "a node that is gone is no longer named in DNS a few seconds later",
        check: dead_node_gone::check,
    },
    Invariant {
        name: "serves-again",
        says: "when the faults are over, writes are taken again within a bound",
        check: serves_again::check,
    },
    Invariant {
        name: "serves-through",
        says: "a node that no fault has hit serves visitors all the while",
        check: serves_through::check,
    },
    Invariant {
        name: "in-order",
        says: "no node panics, ends without a reason, or starts on a log that has lost something",
        check: in_order::check,
    },
    Invariant {
        name: "bounded-use",
        says: "memory and open files of a node stay within bounds",
        check: bounded_use::check,
    },
    Invariant {
        name: "coverage",
        says: "the faults have really happened, and there was work under way",
        check: coverage::check,
    },
];
