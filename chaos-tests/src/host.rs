//! A host of its own for a program under test: a network namespace, and what stands in its environment.

use std::{
    ffi::OsString,
    fs::File,
    os::{fd::AsFd, unix::process::CommandExt},
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::{Context, Result};

use crate::kernel;

/// A network namespace. It lives as long as a handle to it, or a process in it; nothing of it has a name outside.
#[derive(Clone, Debug)]
pub struct Network {
    namespace: Arc<File>,
}

impl Network {
    /// An empty one.
    ///
    /// # Errors
    /// This process is not root.
    pub fn new() -> Result<Self> {
        let namespace = kernel::new_network().context("making a network namespace (this needs root)")?;
        Ok(Self { namespace: Arc::new(namespace) })
    }

    /// Where other programs of this system find it for as long as this process runs.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()).into()
    }

    /// Has a program run in it.
    pub fn enter(&self, command: &mut Command) {
        let namespace = Arc::clone(&self.namespace);
        #[expect(unsafe_code, reason = "a namespace can only be entered between fork and exec")]
        // SAFETY: the closure makes one system call and touches no memory of the parent's.
        unsafe {
            command.pre_exec(move || kernel::enter_network(namespace.as_fd()));
        }
    }

    /// Runs `work` on a thread in it: every socket that is opened there is in it.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let namespace = Arc::clone(&self.namespace);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            kernel::enter_network(namespace.as_fd()).context("entering a network namespace")?;
            work()
        });
        thread.context("starting a thread")
    }

    /// Runs `work` in it, and waits for it.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let thread = self.spawn("within", work)?;
        thread.join().map_err(|_| anyhow::anyhow!("a thread in a network namespace has panicked"))?
    }
}

/// Where a program runs. The default is this host as it is.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Its network; none = this host's.
    pub network: Option<Network>,
    /// What is added to its environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl Host {
    /// Has a program run there.
    pub fn place(&self, command: &mut Command) {
        if let Some(network) = &self.network {
            network.enter(command);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
    }
}
