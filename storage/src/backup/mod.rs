//! Backups: what outlives the loss of every node.
//!
//! Two kinds of files, both encrypted to the cluster's keyring and to its recovery key ([`file`]): the whole state at
//! one revision, and segments of the log behind it, so that a restore goes to any index or time ([`chain`]). They lie
//! in a [`Place`]: the node's own directory; copies lie in a second one ([`place`]) or in a [`bucket`]. Old ones go by
//! [`retention`].
//!
//! Not here: when backups are made, and what a restore does to a cluster (the node).

mod bucket;
mod chain;
mod file;
mod place;
mod retention;

#[cfg(any(test, fuzzing))]
pub(crate) use bucket::fuzz as fuzz_bucket;
pub use bucket::{BucketConfig, BucketPlace};
pub use chain::{Chain, Point, chain};
#[cfg(any(test, fuzzing))]
pub(crate) use file::fuzz as fuzz_file;
pub use file::{Content, Header, Key, Kind, Opened, Segment, open, peek, seal};
pub use place::{Copies, Listed, Place};
pub use retention::{Retention, superfluous};
