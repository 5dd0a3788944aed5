//! Authoritative DNS from the committed state.
//!
//! Every node serves the same answers: `src` hands each [`DnsPlan`](pangolin_core::plan::DnsPlan) to
//! [`DnsServer::apply`], which builds a [`Store`] (record sets in wire form by name) and swaps it in whole. The
//! sockets are read by [`DnsTask::run`]: one thread per core and address for UDP, a few tasks for TCP. Each message
//! passes through [`answer`], a pure function of the store, the [`Context`] and the bytes.
//!
//! | module | what it is |
//! |---|---|
//! | `config` | what the operator sets, with its limits |
//! | `name`, `request`, `reply` | one message in, one message out |
//! | `record`, `store`, `build` | the answers, in wire form |
//! | `answer` | RFC 1034 §4.3.2: from the question to the reply |
//! | `limit` | response rate limiting |
//! | `ask` | one question, as a validator asks it |
//! | `server`, `bind`, `udp`, `tcp` | sockets, threads, shutdown |
//!
//! Deliberately not here: recursion, dynamic updates, transfers in, any clock or state of its own. What is answered
//! and in which order is decided in `pangolin_core::plan`.

mod answer;
mod ask;
mod bind;
mod build;
mod config;
mod counters;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod limit;
mod name;
mod network;
mod record;
mod reply;
mod request;
mod server;
mod store;
mod tcp;
mod udp;

pub use answer::{Answered, Context, Outcome, Policy, Transport, answer};
pub use ask::ask_txt;
pub use config::{CookieSecret, DnsConfig, RateLimit};
pub use counters::DnsCounters;
pub use error::{DnsError, Protocol};
pub use server::{DnsServer, DnsTask};
pub use store::Store;
