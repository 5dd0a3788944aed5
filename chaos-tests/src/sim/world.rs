//! One thread in which time stands still while anything can still happen, and passes when nothing can.
//!
//! A Tokio runtime of one thread runs all nodes. Its clock is advanced by a millisecond whenever no task is ready, so a
//! run takes as long as the work in it, and two runs of one seed make the same steps in the same order. The program
//! hands the clock and the random bytes of the world to everyone who asks the C library (`libc_overrides.rs`).

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::dice::Dice;

/// One step of the clock: as fine as Tokio's timers are.
const STEP: Duration = Duration::from_millis(1);
/// What the clocks of the host say when a run begins: 1 January 2026, and an uptime of some days.
const WALL: Duration = Duration::from_secs(1_767_225_600);
const UPTIME: Duration = Duration::from_secs(1_000_000);
/// How long simulated time may stand still, in real time: longer, and some task is ready for ever.
const STILL: Duration = Duration::from_secs(120);
/// Unoptimised futures are large.
const STACK: usize = 64 * 1024 * 1024;

thread_local! {
    /// How long the run has lasted; none outside of one.
    static ELAPSED: Cell<Option<Duration>> = const { Cell::new(None) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// Whether this thread is in a simulation.
#[must_use]
pub fn is_entered() -> bool {
    ELAPSED.try_with(Cell::get).is_ok_and(|elapsed| elapsed.is_some())
}

/// How long the run has lasted.
#[must_use]
pub fn elapsed() -> Duration {
    ELAPSED.try_with(Cell::get).ok().flatten().unwrap_or_default()
}

/// What the monotonic clock says; none outside of a simulation.
#[must_use]
pub fn monotonic() -> Option<Duration> {
    ELAPSED.try_with(Cell::get).ok().flatten().map(|elapsed| UPTIME + elapsed)
}

/// What the wall clock of the host says; none outside of a simulation.
#[must_use]
pub fn wall_clock() -> Option<Duration> {
    ELAPSED.try_with(Cell::get).ok().flatten().map(|elapsed| WALL + elapsed)
}

/// The next random bytes of the simulation.
pub fn fill(bytes: &mut [u8]) {
    RANDOM.with(|random| {
        let mut dice = Dice::new(random.get());
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&dice.number().to_le_bytes()[..chunk.len()]);
        }
        random.set(dice.number());
    });
}

/// Runs a future in a world of its own.
///
/// # Errors
/// The program does not hand out the clock of the world (it is not `pangolin-chaos`), the system gives no thread, time
/// does not pass because some task is always ready, or the run panicked.
pub fn run<F: Future>(
    seed: u64,
    begin: impl FnOnce() -> F + Send + 'static,
) -> Result<F::Output, anyhow::Error>
where
    F::Output: Send + 'static,
{
    let steps = Arc::new(AtomicU64::new(0));
    let taken = steps.clone();
    let (running, over) = mpsc::channel::<()>();
    let thread =
        std::thread::Builder::new().name("simulation".into()).stack_size(STACK).spawn(move || {
            let _running = running;
            RANDOM.with(|random| random.set(seed));
            ELAPSED.with(|elapsed| elapsed.set(Some(Duration::ZERO)));
            let before = Instant::now();
            ELAPSED.with(|elapsed| elapsed.set(Some(STEP)));
            anyhow::ensure!(before.elapsed() == STEP, "a simulation runs in the program pangolin-chaos only");
            let idle = Arc::new(Notify::new());
            let waker = idle.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                // Called when no task is ready; what is woken here keeps the runtime from waiting for real.
                .on_thread_park(move || {
                    ELAPSED.with(|elapsed| elapsed.set(elapsed.get().map(|elapsed| elapsed + STEP)));
                    taken.fetch_add(1, Ordering::Relaxed);
                    waker.notify_one();
                })
                .build()?;
            Ok(runtime.block_on(async {
                tokio::spawn(async move {
                    loop {
                        idle.notified().await;
                    }
                });
                begin().await
            }))
        })?;
    let mut last = 0;
    // Ends when the thread drops its end of the channel.
    while over.recv_timeout(STILL) == Err(RecvTimeoutError::Timeout) {
        let now = steps.load(Ordering::Relaxed);
        anyhow::ensure!(now != last, "simulated time stands still at {now} ms: a task is always ready");
        last = now;
    }
    thread.join().map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        anyhow::anyhow!("the simulation panicked: {said}")
    })?
}
