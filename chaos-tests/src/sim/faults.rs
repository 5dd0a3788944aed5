//! What may go wrong in a run, and the plan that is drawn from the seed. It is carried out in `nemesis.rs`.

use std::time::Duration;

use super::dice::Dice;

/// Sorts of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    PowerLoss,
    Kill,
    PowerLossEverywhere,
    KillLeader,
    PowerLossAfterVote,
    Stop,
    PartitionHalves,
    IsolateLeader,
    IsolateOne,
    Bridge,
    Ring,
    OneWayIn,
    OneWayOut,
    Hold,
    Delay,
    Loss,
    ClockJump,
    TransferLeader,
    Snapshot,
    DiskFull,
    WriteError,
    SyncError,
    SlowDisk,
    AddVoter,
    RemoveVoter,
    NodeGone,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 26] = [
        Self::PowerLoss,
        Self::Kill,
        Self::PowerLossEverywhere,
        Self::KillLeader,
        Self::PowerLossAfterVote,
        Self::Stop,
        Self::PartitionHalves,
        Self::IsolateLeader,
        Self::IsolateOne,
        Self::Bridge,
        Self::Ring,
        Self::OneWayIn,
        Self::OneWayOut,
        Self::Hold,
        Self::Delay,
        Self::Loss,
        Self::ClockJump,
        Self::TransferLeader,
        Self::Snapshot,
        Self::DiskFull,
        Self::WriteError,
        Self::SyncError,
        Self::SlowDisk,
        Self::AddVoter,
        Self::RemoveVoter,
        Self::NodeGone,
    ];

    /// Its name in histories.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::PowerLoss => "power-loss",
            Self::Kill => "kill",
            Self::PowerLossEverywhere => "power-loss-everywhere",
            Self::KillLeader => "kill-leader",
            Self::PowerLossAfterVote => "power-loss-after-vote",
            Self::Stop => "stop",
            Self::PartitionHalves => "partition-halves",
            Self::IsolateLeader => "isolate-leader",
            Self::IsolateOne => "isolate-one",
            Self::Bridge => "bridge",
            Self::Ring => "ring",
            Self::OneWayIn => "one-way-in",
            Self::OneWayOut => "one-way-out",
            Self::Hold => "hold",
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::ClockJump => "clock-jump",
            Self::TransferLeader => "transfer-leader",
            Self::Snapshot => "snapshot",
            Self::DiskFull => "disk-full",
            Self::WriteError => "write-error",
            Self::SyncError => "sync-error",
            Self::SlowDisk => "slow-disk",
            Self::AddVoter => "add-voter",
            Self::RemoveVoter => "remove-voter",
            Self::NodeGone => "node-gone",
        }
    }

    fn lasts(self, dice: &mut Dice) -> Duration {
        match self {
            // An election, the start of those who voted, and another election.
            Self::PowerLossAfterVote => dice.time(4000, 5500),
            _ => dice.time(300, 4000),
        }
    }
}

/// A fault of a run's plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Of which sort.
    pub(crate) kind: Kind,
    /// When it begins, after the one before.
    pub(crate) after: Duration,
    /// How long it lasts.
    pub(crate) lasts: Duration,
}

/// How many faults a run has.
const FAULTS: usize = 9;
/// The long absence of one node, in milliseconds: long enough to be called down and to leave DNS.
const GONE: u64 = 9_000;

/// Draws a plan.
#[must_use]
pub(crate) fn draw(dice: &mut Dice) -> Vec<Planned> {
    let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| *kind != Kind::NodeGone).collect();
    dice.shuffle(&mut kinds);
    kinds.truncate(FAULTS);
    let mut plan: Vec<Planned> = kinds
        .into_iter()
        .map(|kind| Planned { kind, after: dice.time(300, 2200), lasts: kind.lasts(dice) })
        .collect();
    if dice.percent(25) {
        // Alone, after the others have ended.
        let (after, lasts) = (Duration::from_secs(6), Duration::from_millis(GONE));
        plan.push(Planned { kind: Kind::NodeGone, after, lasts });
    }
    plan
}
