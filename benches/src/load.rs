//! Clients in a closed loop: each sends its next operation when the last one is answered.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::sample::Sample;

/// One client: whoever does an operation and waits for its answer.
pub(crate) trait Client {
    /// Writes a value under one of the keys, `number` counting this client's operations. Returns when it is
    /// acknowledged.
    async fn write(&mut self, number: u64) -> Result<()>;

    /// Reads one of the keys, linearizably.
    async fn read(&mut self, number: u64) -> Result<()>;
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Write,
    Read,
}

struct Shared {
    micros: Vec<u64>,
    last: Instant,
    stall: Duration,
    failed: u64,
    reason: Option<anyhow::Error>,
}

/// Most operations that may fail in a run before it is no measurement any more.
const FAILED_MAX: u64 = 100;

/// Lets all clients work for `during`, at the same time. To be called within a `LocalSet`.
///
/// # Errors
/// Operations fail.
pub(crate) async fn run<C: Client + 'static>(
    clients: Vec<C>,
    operation: Operation,
    during: Duration,
) -> Result<Sample> {
    let began = Instant::now();
    let shared = Rc::new(RefCell::new(Shared {
        micros: Vec::new(),
        last: began,
        stall: Duration::ZERO,
        failed: 0,
        reason: None,
    }));
    let work = |mut client: C| {
        let shared = shared.clone();
        async move {
            let mut number = 0;
            while began.elapsed() < during {
                let sent = Instant::now();
                let done = match operation {
                    Operation::Write => client.write(number).await,
                    Operation::Read => client.read(number).await,
                };
                let now = Instant::now();
                let shared = &mut *shared.borrow_mut();
                match done {
                    Ok(()) => {
                        shared.micros.push(u64::try_from((now - sent).as_micros()).unwrap_or(u64::MAX));
                        shared.stall = shared.stall.max(now - shared.last);
                        shared.last = now;
                    }
                    Err(error) => {
                        shared.failed += 1;
                        shared.reason.get_or_insert(error);
                        if shared.failed > FAILED_MAX {
                            return;
                        }
                    }
                }
                number += 1;
            }
        }
    };
    let mut at_work = tokio::task::JoinSet::new();
    for client in clients {
        at_work.spawn_local(work(client));
    }
    at_work.join_all().await;
    let shared = shared.borrow();
    ensure!(shared.failed <= FAILED_MAX && !shared.micros.is_empty(), "operations fail: {:?}", shared.reason);
    Ok(Sample::new(shared.micros.clone(), shared.stall, began.elapsed(), shared.failed))
}
