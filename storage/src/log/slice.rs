//! How long the log's thread wants to run at a time: the one door of this crate to unsafe code.
//!
//! Whoever asks for a short slice gets the processor as soon as it is woken, from a thread of a longer slice that runs
//! there. The log's thread sleeps but for some microseconds per batch, and every other node waits for its sync: without
//! it, it waits until whoever queued the batch has done all the rest of its work.

#![expect(
    unsafe_code,
    reason = "slices are asked for by a system call that no crate here has a safe form for"
)]

use std::{io, time::Duration};

/// The shortest that the system gives (kernel/sched/syscalls.c, since Linux 6.12).
const SHORTEST: Duration = Duration::from_micros(100);

/// Asks for the shortest slice for the calling thread; see sched(7) and `sched_setattr(2)`. Takes no privilege. A system
/// before Linux 6.12 takes no notice.
///
/// # Errors
/// The system does not allow the call.
pub(super) fn shortest() -> io::Result<()> {
    let mut attributes = current()?;
    attributes.sched_flags = 0;
    attributes.sched_runtime = SHORTEST.as_nanos() as u64;
    // SAFETY: the structure is whole, says its own size, and is only read; 0 is the calling thread.
    checked(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
}

/// How the calling thread is scheduled.
fn current() -> io::Result<libc::sched_attr> {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure has room for as many bytes as are said to fit; 0 is the calling thread.
    checked(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    attributes.size = size;
    Ok(attributes)
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_for_the_thread_that_asks_and_changes_nothing_else() {
        let before = current().expect("asked");
        let asked = std::thread::spawn(|| {
            shortest().expect("allowed");
            current().expect("asked")
        });
        let asked = asked.join().expect("ended");
        assert_eq!((asked.sched_policy, asked.sched_nice), (before.sched_policy, before.sched_nice));
        // Systems before Linux 6.12 say 0.
        assert!([0, SHORTEST.as_nanos() as u64].contains(&asked.sched_runtime), "{}", asked.sched_runtime);
        assert_eq!(
            current().expect("asked").sched_runtime,
            before.sched_runtime,
            "this thread has not asked"
        );
    }
}
