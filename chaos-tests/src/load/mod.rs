//! What goes on in a test bed while faults come and go: clients that write and read, visitors, resolvers, and somebody
//! who looks at the nodes. Each runs on a thread of its own in the network where it belongs, and notes what it sees.

pub mod clients;
pub mod outside;
pub mod rest;
pub mod watch;

use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::host::Network;

/// A thread with its own runtime, in a network, until it is told to stop.
#[derive(Debug)]
pub struct Worker {
    stop: CancellationToken,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    /// Starts `work` in a network; none = this host's.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start<F: Future<Output = ()>>(
        name: &str,
        network: Option<&Network>,
        work: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> Result<Self> {
        let stop = CancellationToken::new();
        let told = stop.clone();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // What is still under way ends with the runtime.
            runtime.block_on(tokio::task::LocalSet::new().run_until(work(told)));
            Ok(())
        };
        let thread = match network {
            Some(network) => network.spawn(name, run)?,
            None => std::thread::Builder::new().name(name.to_owned()).spawn(run)?,
        };
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Tells it to stop, and waits until it has.
    ///
    /// # Errors
    /// It could not do its work.
    pub fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        let thread = self.thread.take().context("it was stopped already")?;
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the load has panicked"))?
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // Nobody asks any more how it went.
            let _ = thread.join();
        }
    }
}
