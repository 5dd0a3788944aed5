//! The only place that spawns long-lived tasks. A task that ends unexpectedly ends the node: the service manager
//! starts it again into a known state.

use std::{future::Future, time::Duration};

use tokio::task::{JoinError, JoinSet};
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

type Ended = (&'static str, Result<(), String>);

/// The node's tasks.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<Ended>,
    shutdown: CancellationToken,
}

impl Tasks {
    /// Told when the node is to end; every task gets it.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task that lives as long as the node.
    pub fn spawn<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let span = info_span!("task", name);
        let run = async move { (name, task.await.map_err(|error| error.to_string())) };
        self.set.spawn(run.instrument(span));
    }

    /// Waits until a task ends, which none should.
    pub async fn first_end(&mut self) -> TaskError {
        match self.set.join_next().await {
            Some(ended) => as_error(ended).unwrap_or(TaskError::Ended { task: "the last task" }),
            None => std::future::pending().await,
        }
    }

    /// Tells all tasks to end and waits for them, but not for ever.
    pub async fn end(mut self) {
        self.shutdown.cancel();
        let all = async {
            while let Some(ended) = self.set.join_next().await {
                match as_error(ended) {
                    Some(TaskError::Ended { task }) => debug!(task, "ended"),
                    Some(error) => error!(%error, "a task failed while ending"),
                    None => {}
                }
            }
        };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            error!("tasks did not end within {} s; they are cut off", DRAIN.as_secs());
        }
    }
}

fn as_error(ended: Result<Ended, JoinError>) -> Option<TaskError> {
    match ended {
        Ok((task, Ok(()))) => Some(TaskError::Ended { task }),
        Ok((task, Err(reason))) => Some(TaskError::Failed { task, reason }),
        Err(error) if error.is_cancelled() => None,
        Err(error) => Some(TaskError::Panicked(error.to_string())),
    }
}
