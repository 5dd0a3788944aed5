//! Bugs that are planted on purpose, to see whether the harness finds them. Only builds with `--cfg planted` have this
//! module (`scripts/planted-bugs.sh` makes them); in them, at most one bug is at work, and none until [`plant`] is
//! called.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU8, Ordering},
};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// A write is acknowledged when it was proposed, not when it is committed.
    ReplyBeforeCommit = 1,
    /// A vote is not made durable before it is given.
    VoteNotSynced = 2,
    /// A leader answers reads without asking whether it still leads.
    LeaseWithoutBound = 3,
    /// The fence of a decision is not looked at.
    UnfencedEffect = 4,
    /// DNS answers from an entry that is not committed.
    DnsUncommitted = 5,
    /// A change of several voters at once, without the joint membership between them.
    NoJointConsensus = 6,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ReplyBeforeCommit,
        Self::VoteNotSynced,
        Self::LeaseWithoutBound,
        Self::UnfencedEffect,
        Self::DnsUncommitted,
        Self::NoJointConsensus,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReplyBeforeCommit => "reply-before-commit",
            Self::VoteNotSynced => "vote-not-synced",
            Self::LeaseWithoutBound => "lease-without-bound",
            Self::UnfencedEffect => "unfenced-effect",
            Self::DnsUncommitted => "dns-uncommitted",
            Self::NoJointConsensus => "no-joint-consensus",
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|bug| bug.name() == text);
        found.ok_or_else(|| format!("no planted bug is called {text}"))
    }
}

static PLANTED: AtomicU8 = AtomicU8::new(0);

/// Lets a bug loose in this process.
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, Ordering::Relaxed);
}

/// Whether this bug is at work.
#[must_use]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8
}
