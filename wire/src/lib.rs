//! What clients of the REST API and nodes say to each other: the types of requests and answers, the one envelope
//! around every answer, and a small HTTP client.
//!
//! Used by `pangolin-api` (which answers), `pangolinctl` and other programs that ask. Not here: what a request
//! means and who may make it (`pangolin-api`).
//!
//! Conventions: JSON in camelCase; `PUT` creates, `POST` updates, `GET` reads, `DELETE` removes; unknown fields of
//! a request are refused, unknown fields of an answer are ignored, so that clients outlive servers.

mod backup;
mod catalog;
mod certificate;
pub mod client;
mod cluster;
mod credential;
mod dns;
mod envelope;
mod fabric;
mod journal;
mod keyring;
mod moment;
mod shape;
mod text;
mod traffic;
mod why;

pub use backup::*;
pub use catalog::*;
pub use certificate::*;
pub use client::{Answer, Client, ClientError};
pub use cluster::*;
pub use credential::{CREDENTIAL_ID_LEN, SECRET_LEN, SECRET_MAX, random_id, random_secret};
pub use dns::*;
pub use envelope::{Code, Envelope, Failure, PAGE_MAX, Pagination};
pub use fabric::*;
pub use journal::{ApiWrite, JournalEntry, JournalEvent, JournalLine, JournalPage, NamedNode, NamedSite};
pub use keyring::*;
pub use moment::Moment;
pub use traffic::*;
pub use why::{Event, EventPage, EventSubject, Explanation, Fact, Step};

/// Every route begins with this.
pub const BASE_PATH: &str = "/api/v1";

/// Largest request body, in bytes: no request comes near it.
pub const REQUEST_BODY_MAX: usize = 256 * 1024;

/// Header of answers: the revision that the answer shows, `LINEAGE.INDEX`.
pub const REVISION_HEADER: &str = "pangolin-revision";

/// Header of requests: answer only from a state at least as new as this revision. A client that sends back the
/// last revision it was given sees its own writes on every node.
pub const MIN_REVISION_HEADER: &str = "pangolin-min-revision";

/// In the place of a revision in [`MIN_REVISION_HEADER`]: answer from a state that has everything in it that was
/// acknowledged anywhere before this request (a linearizable read).
pub const LATEST: &str = "latest";

/// Header of requests and answers: the request's name, a UUID. A request that is repeated under the same name is
/// done once and answered as it was the first time.
pub const REQUEST_ID_HEADER: &str = "pangolin-request-id";
