//! What is said to public certificate authorities: ACME (RFC 8555) with what was added to it: renewal information
//! (RFC 9773), profiles (draft-ietf-acme-profiles), and external accounts.
//!
//! | module | what it is |
//! |---|---|
//! | `client` | one method for each thing that is asked |
//! | `answer` | what comes back |
//! | `jws` | requests signed with the account's key (RFC 7515) |
//! | `transport` | one exchange over HTTPS, with its limits |
//!
//! Deliberately not here: what is asked when, and what is remembered of it. That is in the cluster's log
//! (`pangolin_core::issuance`), and done by its leader.

mod answer;
mod client;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod jws;
mod transport;

pub use answer::{Authorization, AuthorizationState, Directory, OrderState, RenewalInfo, Submitted};
pub use client::{Account, AcmeClient, External, NewOrder};
pub use error::{AcmeError, Problem};
pub use jws::AccountKey;
