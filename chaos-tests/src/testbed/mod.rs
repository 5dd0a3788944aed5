//! A test bed of real hosts: each node, connector and client in a network namespace of its own, with disks and clocks
//! that can be made to fail. Needs root. Nothing of it outlives the harness: namespaces, mounts and processes are gone
//! with it, however it ends; its folder is removed, or found later by [`leftovers`](crate::leftovers).

pub mod bed;
pub mod filter;
pub mod network;
pub mod recorder;
pub mod roster;
