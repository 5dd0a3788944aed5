//! The clock and the random bytes of this program, as the C library hands them out: of a simulation while a thread is
//! in one ([`pangolin_chaos::sim::world`]), else of the system.
//!
//! Everything in the program reads time and randomness through these two functions: `Instant`, `SystemTime`, the
//! timers and fair selections of Tokio, the keys of hash maps, the election timeouts of openraft. Replacing them here
//! makes a simulation repeatable without a feature or flag that the product would have to be built with. Only the
//! program `pangolin-chaos` has them.

#![expect(unsafe_code, reason = "functions of the C library are replaced")]

use nix::libc;
use pangolin_chaos::sim::world;

/// POSIX `clock_gettime`.
///
/// # Safety
/// `time` is null or points to a `timespec`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    let simulated = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => world::wall_clock(),
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => world::monotonic(),
        _ => None,
    };
    match simulated {
        Some(now) if !time.is_null() => {
            let tv_sec = libc::time_t::try_from(now.as_secs()).unwrap_or(libc::time_t::MAX);
            // SAFETY: the caller says that it points to one.
            unsafe { *time = libc::timespec { tv_sec, tv_nsec: i64::from(now.subsec_nanos()) } };
            0
        }
        // SAFETY: the kernel checks what it is given.
        _ => unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int },
    }
}

/// Linux `getrandom`.
///
/// # Safety
/// `buffer` points to `length` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if world::is_entered() && !buffer.is_null() {
        // SAFETY: the caller says that there are so many bytes; all values are valid ones.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        world::fill(bytes);
        return libc::ssize_t::try_from(length).unwrap_or(libc::ssize_t::MAX);
    }
    // SAFETY: the kernel checks what it is given.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t }
}
