//! WireGuard tunnels to sites, their control channel, and dialing through them.

pub mod control;
