//! The REST API: the one door to warp.
//!
//! Who calls it: the edge, for requests to the control host, whose callers prove themselves with an API key; and the
//! node's local socket, where whoever may open it is an operator. Reads are answered from this node's state; writes
//! go to the leader as proposals, and are answered when this node shows them.
//!
//! The way of a request: [`Api::call`] reads the body (with a limit and in time) and passes it to warp, which finds
//! the route; [`call::Call`] authenticates, waits for the revision that the client demands, and hands itself to the
//! noun's handler, an `async fn(Call) -> Result<Answer, ApiFailure>`.
//!
//! Not here: listening and TLS (the edge, `src/`), what a change does (`pangolin-core`), agreement
//! (`pangolin-raft`).

mod answer;
mod backups;
mod call;
mod certificates;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod keyring;
mod routes;
mod service;
mod view;
mod zones;

pub use backups::BackupPort;
pub use certificates::CertificatePort;
pub use failure::ApiFailure;
pub use keyring::KeyringPort;
pub use service::{Api, Caller, Credentials, NewToken, NodePort, ResponseBody};
pub use zones::{DnsPort, NewKey, ZoneRecords};
