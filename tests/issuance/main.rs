//! Certificates of a public authority: Pebble, the test authority of Let's Encrypt's makers, issues to real clusters, and
//! proves names through their own DNS. Between the nodes and Pebble stands a front that counts and holds up requests.
//!
//! The programs must be built: `cargo build --workspace --bins` (scripts/test.sh does); Pebble is Debian's package.

#![expect(clippy::print_stdout, reason = "says why it is skipped, and its figures")]

#[allow(dead_code, reason = "each test file uses its own part of it")]
#[path = "../hosts/mod.rs"]
mod hosts;

#[path = "../../layers/dns/tests/engine/mod.rs"]
mod engine;

mod accounts;
mod alias;
mod drills;
mod fallback;
mod front;
mod kills;
mod lab;
mod pebble;
mod profiles;
mod resolver;
mod whole;

use pangolin_node as _;
