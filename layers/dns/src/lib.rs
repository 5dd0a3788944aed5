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
//! | `record`, `store`, `build`, `defect` | the answers, in wire form |
//! | `answer`, `resolve` | RFC 1034 §4.3.2: from the question to the reply |
//! | `region` | where a client is |
//! | `sign` | DNSSEC, signed as it is answered |
//! | `transfer`, `notify` | copies for secondaries |
//! | `zonefile`, `inspect` | zones as text, replies as text |
//! | `check` | whether parent and servers agree |
//! | `limit` | response rate limiting |
//! | `ask` | one question, as a validator asks it |
//! | `server`, `bind`, `udp`, `tcp` | sockets, threads, shutdown |
//!
//! Deliberately not here: recursion, dynamic updates, zones of others, any clock or state of its own. What is answered
//! and in which order is decided in `pangolin_core::plan`.

mod answer;
mod ask;
mod bind;
mod build;
mod check;
mod config;
mod counters;
mod defect;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod inspect;
mod limit;
mod name;
mod network;
mod notify;
mod record;
mod region;
mod reply;
mod request;
mod resolve;
mod server;
mod sign;
mod store;
mod tcp;
mod transfer;
mod udp;
mod zonefile;

pub use answer::{Answered, Context, Outcome, Policy, Transport, answer};
pub use ask::ask_txt;
pub use check::{Alias, Checked, ask_parent, check_zone};
pub use config::{CookieSecret, DnsConfig, RateLimit};
pub use counters::DnsCounters;
pub use error::{DnsError, Protocol};
pub use inspect::Shown;
pub use region::{GeoDatabase, RegionsFile};
pub use server::{DnsServer, DnsTask, Open, Secret};
pub use sign::{Signers, ZoneSigner, delegation_signer, new_zone_key};
pub use store::Store;
pub use zonefile::{Imported, print_zone, read_value, read_zone};
