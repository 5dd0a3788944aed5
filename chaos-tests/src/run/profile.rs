//! How long and how hard a run is.

use std::time::Duration;

use crate::load::clients::Load;

/// A named size of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Three nodes, every fault once, one at a time: at most eight minutes
    Smoke,
    /// Five nodes, every fault once, then half an hour of faults that overlap
    Night,
    /// Five nodes, eight hours of faults that overlap
    Soak,
}

/// What a profile means.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// How long faults come and go: none begins later than this.
    pub lasts: Duration,
    /// Whether it goes on with faults that overlap once every fault has been there.
    pub overlaps: bool,
    /// What clients do.
    pub load: Load,
    /// Requests that have to be answered for the run to show anything.
    pub answered: usize,
}

impl Profile {
    /// What it means.
    #[must_use]
    pub fn shape(self) -> Shape {
        let load =
            |clients, pause, keys| Load { clients, keys, pause: Duration::from_millis(pause), seed: 0 };
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        match self {
            // Six and a half minutes of faults, the rest for building up, healing and judging.
            Self::Smoke => Shape {
                nodes: 3,
                lasts: Duration::from_secs(390),
                overlaps: false,
                load: load(6, 100, 12),
                answered: 2000,
            },
            Self::Night => Shape {
                nodes: 5,
                lasts: minutes(45),
                overlaps: true,
                load: load(8, 100, 24),
                answered: 20_000,
            },
            Self::Soak => Shape {
                nodes: 5,
                lasts: minutes(480),
                overlaps: true,
                load: load(8, 150, 48),
                answered: 200_000,
            },
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Night => "night",
            Self::Soak => "soak",
        }
    }
}
