//! Clusters of real processes, faults and checks.
//!
//! A [`cluster::Cluster`] is a handful of `pangolind` processes on loopback addresses, with their configuration and
//! state in a temporary directory; a [`site::Site`] adds a connector and a backend behind it. They are used from
//! outside only: through the local sockets, over HTTPS, over DNS, and with signals. [`prober::Prober`] asks all the
//! while and says afterwards how long nobody answered.
//!
//! A [`testbed::bed::Bed`] puts such a cluster on hosts of its own, where [`faults`] hit it while [`load`] is on it; a
//! [`run`] writes the [`history`], which the [`invariants`] judge.
//!
//! Used by the program `pangolin-chaos` (the demo, and its check) and by the black-box tests of the repository.
//! Everything that is started here ends with whoever started it: children are killed on drop, and by the kernel when
//! the parent is gone.

pub mod backend;
pub mod chance;
pub mod cluster;
pub mod demo;
pub mod dns;
pub mod faults;
pub mod history;
pub mod host;
pub mod https;
pub mod invariants;
mod kernel;
pub mod kills;
pub mod leftovers;
pub mod load;
pub mod ports;
pub mod prober;
pub mod process;
pub mod programs;
pub mod run;
pub mod shim;
pub mod sim;
pub mod site;
pub mod testbed;
pub mod verdict;
pub mod wire;
