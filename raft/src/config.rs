//! How a node takes part.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openraft::SnapshotPolicy;
use pangolin_core::{id::NodeId, time::Timestamp};

use crate::error::RaftError;

/// Entries between two snapshots.
const SNAPSHOT_EVERY: u64 = 20_000;
/// Entries that stay in the log though a snapshot includes them: a node that was away for a moment gets these
/// instead of a whole snapshot.
const KEEP_IN_LOG: u64 = 4_000;
/// Entries that are purged at least at a time.
const PURGE_BATCH: u64 = 256;
/// A node further behind gets a snapshot. Must be above [`SNAPSHOT_EVERY`].
const LAG_MAX: u64 = SNAPSHOT_EVERY + KEEP_IN_LOG;
/// Most entries of one message; their bytes are bounded by the log adapter.
pub(crate) const ENTRIES_PER_MESSAGE: usize = 512;
/// Bounds of openraft's own queues: what is under way is bounded above them already.
const QUEUE: u64 = 4096;

/// How much longer a follower may take for each entry that it is sent. A batch that is given up is sent again, so that one
/// which never fits into the time would keep a node that is slow, or that was away, behind for ever. A peer that is gone
/// is not waited for: its link breaks within half a second, and what is under way with it.
const ENTRY_PATIENCE: Duration = Duration::from_millis(20);

/// How long an answer to so many entries is waited for. Without any it is about the lease, to which late answers count,
/// too: openraft proposes a fraction of the heartbeat interval, which a busy disk exceeds.
pub(crate) fn append_patience(timing: &Timing, entries: usize) -> Duration {
    let entries = u32::try_from(entries).unwrap_or(u32::MAX);
    match entries {
        0 => timing.election_min,
        some => timing.election_max + ENTRY_PATIENCE.saturating_mul(some),
    }
}

/// When nodes speak, and when they lose patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// A follower that hears nothing waits at least so long before it stands for election.
    pub election_min: Duration,
    /// And at most so long; also how long a leader may lead without hearing from a majority.
    pub election_max: Duration,
}

impl Timing {
    /// Nodes within a few milliseconds of each other: a lost leader is replaced within a second. Two heartbeats
    /// fit into the lease; more would cost an idle node more than they tell.
    #[must_use]
    pub const fn lan() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(500),
        }
    }

    /// The longest round trip between nodes that this timing is made for: a leader that misses one heartbeat still
    /// hears from a majority within its lease, answers come while they are waited for, and half of what is left then is
    /// kept for a busy host.
    #[must_use]
    pub fn round_trip_max(&self) -> Duration {
        self.election_max.saturating_sub(self.heartbeat * 2).min(self.heartbeat_patience()) / 2
    }

    /// How long openraft waits for the answer to a heartbeat. It takes the interval for that, and five ticks for an
    /// interval: as long as fits into [`Timing::election_min`] with a tick. When heartbeats go, this node says itself
    /// (`pulse`).
    fn heartbeat_patience(&self) -> Duration {
        self.election_min * 4 / 5
    }

    /// Nodes on different continents.
    #[must_use]
    pub const fn wan() -> Self {
        Self {
            heartbeat: Duration::from_millis(200),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(2000),
        }
    }
}

/// What a node takes the time of commands from: the system, or the wall clock of a simulated host.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The clock of the host.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
        })
    }

    /// Another clock.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// What it says.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This node.
    pub node: NodeId,
    /// Its state directory: log and snapshots live in `raft/` below it.
    pub dir: PathBuf,
    /// The same on all nodes.
    pub timing: Timing,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Entries kept in the log though a snapshot includes them.
    pub keep_in_log: u64,
    /// Where the time of commands comes from.
    pub clock: Clock,
}

impl RaftConfig {
    /// The configuration of a node with LAN timing.
    #[must_use]
    pub fn new(node: NodeId, dir: impl Into<PathBuf>) -> Self {
        Self {
            node,
            dir: dir.into(),
            timing: Timing::lan(),
            snapshot_every: SNAPSHOT_EVERY,
            keep_in_log: KEEP_IN_LOG,
            clock: Clock::system(),
        }
    }

    pub(crate) fn openraft(&self) -> Result<openraft::Config, RaftError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let Timing { heartbeat, election_min, election_max } = self.timing;
        let patience = self.timing.heartbeat_patience();
        openraft::Config {
            cluster_name: "pangolin".into(),
            heartbeat_interval: millis(patience),
            election_timeout_min: millis(election_min),
            election_timeout_max: millis(election_max),
            enable_pre_vote: Some(true),
            // After this long without a majority a leader falls silent for a while, so that those who hear each
            // other can elect another one.
            quorum_loss_probe_interval: Some(2 * millis(election_max)),
            // How far entries are committed is stored without a sync, so after a loss of power it may be behind:
            // a restarted leader stands for election like anyone.
            enable_leader_restore: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_in_log,
            purge_batch_size: PURGE_BATCH.min(self.keep_in_log.max(1)),
            replication_lag_threshold: LAG_MAX.max(self.snapshot_every + self.keep_in_log),
            max_payload_entries: ENTRIES_PER_MESSAGE as u64,
            api_channel_size: Some(QUEUE),
            notification_channel_size: Some(QUEUE),
            state_machine_channel_size: Some(QUEUE),
            // An unreachable peer is known to be so without a packet: asking often costs nothing.
            backoff: format!("{}ms", millis(heartbeat)),
            ..openraft::Config::default()
        }
        .validate()
        .map_err(|error| RaftError::Timing(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_batch_is_given_the_time_that_a_slow_node_takes_for_it() {
        let lan = Timing::lan();
        assert_eq!(append_patience(&lan, 0), lan.election_min);
        let (one, all) = (append_patience(&lan, 1), append_patience(&lan, ENTRIES_PER_MESSAGE));
        assert!(one >= lan.election_max && all >= Duration::from_secs(10) && all < Duration::from_secs(20));
    }

    #[test]
    fn answers_to_heartbeats_are_waited_for_as_long_as_nodes_may_be_apart() {
        for (timing, round_trip) in [(Timing::lan(), 50), (Timing::wan(), 400)] {
            assert_eq!(timing.round_trip_max(), Duration::from_millis(round_trip));
            let config = RaftConfig { timing, ..RaftConfig::new(NodeId(1), "") }.openraft().expect("valid");
            assert!(u128::from(config.heartbeat_interval) > timing.round_trip_max().as_millis());
        }
    }
}
