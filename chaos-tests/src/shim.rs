//! Lies about disk and clock: a small library that is loaded into nodes before all others (`LD_PRELOAD`), and the page
//! of memory through which it is told what shall go wrong, and tells how often it did.

use std::{
    ffi::OsString,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::process;

/// The library, for the C compiler of the system.
const SOURCE: &str = include_str!("shim.c");
/// How long compiling it may take, on a machine that is busy.
const COMPILE_PATIENCE: Duration = Duration::from_secs(60);
/// Where the library finds its page.
const CONTROLS: &str = "PANGOLIN_CHAOS_CONTROLS";
/// Number of fields of the page: as `struct controls` in `shim.c` has them, eight bytes each.
const FIELDS: u64 = 6;
const FIELD_SIZE: u64 = 8;

/// The compiled library.
#[derive(Clone, Debug)]
pub struct Library {
    path: PathBuf,
}

impl Library {
    /// Compiles it into a folder.
    ///
    /// # Errors
    /// There is no C compiler, or it refuses.
    pub fn build(folder: &Path) -> Result<Self> {
        let (source, path) = (folder.join("shim.c"), folder.join("shim.so"));
        std::fs::write(&source, SOURCE)?;
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O2", "-Wall", "-o"]).arg(&path).arg(&source).arg("-ldl");
        let compiled = process::run(command, "", COMPILE_PATIENCE);
        let compiled = compiled.context("a C compiler is needed (Debian: apt-get install gcc libc6-dev)");
        compiled?.ok("cc")?;
        Ok(Self { path })
    }

    /// A page of one node's own, in a file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn controls(&self, file: &Path) -> Result<Controls> {
        let page = File::options().read(true).write(true).create(true).truncate(true).open(file)?;
        page.set_len(FIELD_SIZE * FIELDS)?;
        let environment = vec![
            ("LD_PRELOAD".into(), self.path.clone().into_os_string()),
            (CONTROLS.into(), file.as_os_str().to_owned()),
        ];
        Ok(Controls { page, environment })
    }
}

/// What goes wrong on one node, from the moment that it is set. It outlives the node's process.
#[derive(Debug)]
pub struct Controls {
    page: File,
    environment: Vec<(OsString, OsString)>,
}

/// How often it has gone wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrongs {
    /// Syncs that failed.
    pub syncs_failed: u64,
    /// Syncs that took longer.
    pub syncs_delayed: u64,
    /// Looks at the clock that were answered wrongly.
    pub clocks_shifted: u64,
}

impl Controls {
    /// What the node's program needs in its environment.
    #[must_use]
    pub fn environment(&self) -> &[(OsString, OsString)] {
        &self.environment
    }

    /// Every `fsync`, `fdatasync` and durable write (`O_DSYNC`) fails with this error number; none = they succeed.
    ///
    /// # Errors
    /// The page cannot be written.
    pub fn fail_syncs(&self, errno: Option<i32>) -> Result<()> {
        self.set(0, errno.unwrap_or(0).into())
    }

    /// Every `fsync`, `fdatasync` and durable write (`O_DSYNC`) takes this much longer.
    ///
    /// # Errors
    /// The page cannot be written.
    pub fn delay_syncs(&self, by: Duration) -> Result<()> {
        self.set(1, i64::try_from(by.as_millis()).unwrap_or(i64::MAX))
    }

    /// The clock that people read is off by so many seconds. The monotonic one is not touched.
    ///
    /// # Errors
    /// The page cannot be written.
    pub fn shift_clock(&self, seconds: i64) -> Result<()> {
        self.set(2, seconds)
    }

    /// How often it has gone wrong.
    ///
    /// # Errors
    /// The page cannot be read.
    pub fn wrongs(&self) -> Result<Wrongs> {
        let read = |field: u64| -> Result<u64> {
            let mut bytes = [0; 8];
            self.page.read_exact_at(&mut bytes, field * FIELD_SIZE)?;
            Ok(u64::from_ne_bytes(bytes))
        };
        Ok(Wrongs { syncs_failed: read(3)?, syncs_delayed: read(4)?, clocks_shifted: read(5)? })
    }

    /// A write into a file is seen at once by those who map it.
    fn set(&self, field: u64, value: i64) -> Result<()> {
        self.page.write_all_at(&value.to_ne_bytes(), field * FIELD_SIZE).context("telling the shim")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_fail_and_clocks_are_off_as_long_as_they_are_told_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let library = Library::build(folder.path()).expect("compiled");
        let controls = library.controls(&folder.path().join("controls")).expect("a page");
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).envs(controls.environment().iter().map(|(n, v)| (n, v)));
            process::run(command, "", COMPILE_PATIENCE).expect("it ran")
        };
        let file = folder.path().join("file");
        let sync = format!("dd if=/dev/zero of={} bs=1 count=1 conv=fsync", file.display());
        assert!(shell(&sync).success);
        let now = || -> i64 { shell("date +%s").stdout.trim().parse().expect("seconds") };
        let right = now();
        assert_eq!(controls.wrongs().expect("counted"), Wrongs::default());

        controls.fail_syncs(Some(libc::EIO)).expect("told");
        controls.shift_clock(-7200).expect("told");
        assert!(shell(&sync).stderr.contains("Input/output error"));
        let off = now() - right;
        assert!((-7200..-7100).contains(&off), "off by {off} s");
        let wrongs = controls.wrongs().expect("counted");
        assert!(wrongs.syncs_failed == 1 && wrongs.clocks_shifted > 0, "{wrongs:?}");

        controls.fail_syncs(None).expect("told");
        controls.shift_clock(0).expect("told");
        assert!(shell(&sync).success && now() >= right);
    }
}
