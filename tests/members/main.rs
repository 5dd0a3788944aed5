//! How nodes come and go, as operators see it: real node processes, their API, and `pangolinctl`.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does).

mod audit;
mod autopilot;
mod joining;
mod lab;
mod leaving;
mod witness;

use pangolin_node as _;
