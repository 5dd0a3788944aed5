//! The only place that spawns long-lived tasks. A task that ends unexpectedly ends the node: the service manager
//! starts it again into a known state.

use std::{future::Future, time::Duration};

use tokio::{
    runtime::Handle,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info_span};

/// How long tasks may take to end once they are told to.
const DRAIN: Duration = Duration::from_secs(15);

/// Why the node ends.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task failed.
    #[error("{task} failed: {reason}")]
    Failed {
        /// Which.
        task: &'static str,
        /// Why.
        reason: String,
    },
    /// A task came to an end though nobody told it to.
    #[error("{task} ended unexpectedly")]
    Ended {
        /// Which.
        task: &'static str,
    },
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panicked(String),
}

/// Name, whether it is a front, and how it ended.
type Ended = (&'static str, bool, Result<(), String>);

/// The node's tasks. Those that decide run where [`Tasks`] is used, those that carry traffic on a runtime of their
/// own: neither waits for the other.
#[derive(Debug)]
pub struct Tasks {
    traffic: Handle,
    set: JoinSet<Ended>,
    fronts: usize,
    closing: CancellationToken,
    shutdown: CancellationToken,
}

impl Tasks {
    /// No tasks yet. `traffic` is the runtime of those that carry traffic.
    #[must_use]
    pub fn new(traffic: Handle) -> Self {
        Self {
            traffic,
            set: JoinSet::new(),
            fronts: 0,
            closing: CancellationToken::new(),
            shutdown: CancellationToken::new(),
        }
    }

    /// The runtime of what carries traffic.
    #[must_use]
    pub fn traffic(&self) -> &Handle {
        &self.traffic
    }

    /// Told when the node is to end; every task gets it.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Told before [`Tasks::shutdown`]: the fronts take nothing new and finish what they have, while all that they
    /// stand on (tunnels, peers) still runs.
    #[must_use]
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// Starts a task that takes part in decisions and lives as long as the node.
    pub fn spawn<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.start(name, false, &Handle::current(), task);
    }

    /// Starts a task that carries traffic and lives as long as the node.
    pub fn spawn_traffic<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.start(name, false, &self.traffic.clone(), task);
    }

    /// Starts a task that serves those outside; it ends with [`Tasks::closing`].
    pub fn spawn_front<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.fronts += 1;
        self.start(name, true, &self.traffic.clone(), task);
    }

    fn start<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        front: bool,
        runtime: &Handle,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let span = info_span!("task", name);
        let run = async move { (name, front, task.await.map_err(|error| error.to_string())) };
        self.set.spawn_on(run.instrument(span), runtime);
    }

    /// Waits until a task ends, which none should.
    pub async fn first_end(&mut self) -> TaskError {
        match self.set.join_next().await {
            Some(ended) => {
                if matches!(ended, Ok((_, true, _))) {
                    self.fronts -= 1;
                }
                as_error(ended).unwrap_or(TaskError::Ended { task: "the last task" })
            }
            None => std::future::pending().await,
        }
    }

    /// Tells all tasks to end, the fronts first, and waits for them, but not for ever.
    pub async fn end(mut self) {
        self.closing.cancel();
        if tokio::time::timeout(DRAIN, self.join(|tasks| tasks.fronts == 0)).await.is_err() {
            error!("not everything under way was finished within {} s; it is cut off", DRAIN.as_secs());
        }
        self.shutdown.cancel();
        if tokio::time::timeout(DRAIN, self.join(|_| false)).await.is_err() {
            error!("tasks did not end within {} s; they are cut off", DRAIN.as_secs());
        }
    }

    /// Waits for tasks to end until there are enough, or none is left.
    async fn join(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let Some(ended) = self.set.join_next().await else { return };
            // A front that panicked does not say that it was one: then the time limit counts.
            if matches!(ended, Ok((_, true, _))) {
                self.fronts -= 1;
            }
            match as_error(ended) {
                Some(TaskError::Ended { task }) => debug!(task, "ended"),
                Some(error) => error!(%error, "a task failed while ending"),
                None => {}
            }
        }
    }
}

fn as_error(ended: Result<Ended, JoinError>) -> Option<TaskError> {
    match ended {
        Ok((task, _, Ok(()))) => Some(TaskError::Ended { task }),
        Ok((task, _, Err(reason))) => Some(TaskError::Failed { task, reason }),
        Err(error) if error.is_cancelled() => None,
        Err(error) => Some(TaskError::Panicked(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn fronts_finish_while_all_that_they_stand_on_still_runs() {
        let mut tasks = Tasks::new(Handle::current());
        let order = Arc::new(Mutex::new(Vec::new()));
        let (closing, shutdown) = (tasks.closing(), tasks.shutdown());
        let log = order.clone();
        tasks.spawn_front("edge", async move {
            closing.cancelled().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            log.lock().expect("a lock").push("edge");
            Ok::<(), String>(())
        });
        let log = order.clone();
        tasks.spawn("tunnels", async move {
            shutdown.cancelled().await;
            log.lock().expect("a lock").push("tunnels");
            Ok::<(), String>(())
        });
        tasks.end().await;
        assert_eq!(*order.lock().expect("a lock"), ["edge", "tunnels"]);
    }

    #[tokio::test]
    async fn a_task_that_ends_of_itself_is_named_and_ends_the_node() {
        let mut tasks = Tasks::new(Handle::current());
        tasks.spawn_front("dns", async { Err("no socket") });
        assert_eq!(tasks.first_end().await.to_string(), "dns failed: no socket");
        tasks.end().await;
    }
}
