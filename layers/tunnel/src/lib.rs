//! WireGuard tunnels to sites, their control channel, and dialing through them.
//!
//! [`TunnelLayer`] is the node's end: it brings WireGuard peers in line with the plan, dials into sites and says
//! which of them are alive. [`site::SiteTunnels`] is the site's end, used by the connector program: one tunnel to
//! each node at once. Both ends need no privileges; a node that has them uses a network interface and the kernel's
//! TCP instead of the in-process stack.
//!
//! Liveness comes from probes inside the tunnel ([`PROBE_INTERVAL`], [`PROBE_LIFETIME`]) and never from WireGuard's
//! own timers, which take from 90 seconds to for ever to notice that the other end has restarted.

pub mod checks;
pub mod control;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod key;
mod liveness;
mod node;
mod packet;
mod probe;
pub mod site;
mod stack;
mod stream;
mod wireguard;

pub use error::{DialError, TunnelError};
pub use key::SecretKey;
pub use node::{Backend, BackendChoice, SiteStats, TunnelConfig, TunnelLayer, TunnelTask};
pub use probe::{PROBE_INTERVAL, PROBE_LIFETIME, PROBE_PORT};
pub use stream::{TunnelDatagrams, TunnelStream};

/// MTU inside the tunnels: fits IPv6 and PPPoE underneath, and is what Newt uses.
pub const DEFAULT_MTU: u16 = 1280;

/// The current time by this host's clock.
fn wall_clock() -> pangolin_core::time::Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    pangolin_core::time::Timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
