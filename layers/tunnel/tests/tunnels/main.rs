//! Tunnels from end to end.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod ends;
mod in_process;
