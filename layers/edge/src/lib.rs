//! The public side of a node: TLS, routing, proxying.
//!
//! `src/` binds an [`EdgeConfig`] early ([`BoundEdge::bind`]), starts it with a [`Dialer`] (how a target is
//! reached: through a local tunnel or relayed by another node) and a [`LocalService`] (what the control host
//! serves), runs the [`EdgeTask`], and brings the [`Edge`] in line with each new plan ([`Edge::apply`]).
//!
//! A request takes one immutable snapshot: its host selects a route, the route a target by health and turn, the
//! target's pool a connection. What breaks before the first byte of a response is tried again elsewhere.
//!
//! Beside HTTP it opens ports: TCP, UDP, and TLS that is passed on by server name without being decrypted.
//!
//! Not here: how tunnels and relays work, who leads, what is committed. The edge knows a plan and a dialer.

mod balance;
mod body;
mod certificates;
mod config;
mod connection;
mod counters;
mod dial;
mod edge;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod headers;
mod hello;
mod limits;
mod listen;
mod page;
mod plain;
mod pool;
mod ports;
mod proxy;
mod record;
mod request;
mod service;
mod snapshot;
mod sticky;
mod tickets;
mod tries;
mod upgrade;
mod upstream;

pub use balance::Standing;
pub use body::{BodyError, EdgeBody};
pub use certificates::OpenKey;
pub use config::{EdgeConfig, Limits};
pub use counters::EdgeCounters;
pub use dial::{BoxedDatagrams, BoxedIo, Datagrams, DialError, Dialed, Dialer, Io, LocalService, Via};
pub use edge::{BoundEdge, Edge, EdgeTask, LocalAddresses, TargetState};
pub use error::{EdgeError, EdgeProblem};
