//! Memory and CPU time of processes, as the kernel counts them.

use anyhow::{Context, Result};

/// `VmRSS` of a process in MB (10^6 bytes are not what operators count: 1 MB = 1024 KiB here).
///
/// # Errors
/// There is no such process.
pub(crate) fn resident_mb(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let kib: f64 = kib.context("VmRSS is missing")?.trim().parse()?;
    Ok(crate::sample::round(kib / 1024.0))
}

/// User and system time of processes so far, in seconds.
///
/// # Errors
/// One of them is not there.
pub(crate) fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    // Fixed by the kernel's interface to programs on all architectures that matter here (`getconf CLK_TCK`).
    const TICKS_PER_SECOND: f64 = 100.0;
    let mut ticks = 0.0;
    for pid in pids {
        let path = format!("/proc/{pid}/stat");
        let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // The name, in parentheses, may hold blanks: counted from behind it, these are fields 12 and 13.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        for field in fields.get(11..13).context("the line is cut off")? {
            ticks += field.parse::<f64>()?;
        }
    }
    Ok(ticks / TICKS_PER_SECOND)
}
