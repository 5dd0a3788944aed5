//! The node: puts the parts together, nothing else.
//!
//! `main.rs` is the program; the library exists so that a simulator can build nodes as well.

pub mod backup;
pub mod clock;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod keys;
pub mod leader;
pub mod local;
pub mod membership;
pub mod metrics;
pub mod node;
pub mod seal;
pub mod state_dir;
pub mod tasks;

/// Version of the program.
pub const VERSION: &str =
    if cfg!(pangolin_next) { concat!(env!("CARGO_PKG_VERSION"), "-next") } else { env!("CARGO_PKG_VERSION") };
