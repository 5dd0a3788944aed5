//! Tunnels from end to end.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends where something fails, and says what it skips"
)]

mod ends;
mod hostile;
mod in_process;
mod interface;
