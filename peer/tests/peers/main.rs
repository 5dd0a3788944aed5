//! The peers' streams over real sockets on the loopback interface.

#![expect(clippy::unwrap_used, reason = "what fails in a test should panic")]

mod hostile;
mod joining;
mod lab;
mod membership;
mod silence;
mod streams;
