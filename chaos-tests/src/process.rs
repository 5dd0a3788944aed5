//! Child processes that never outlive the harness, and what can be done to them.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{Pid, getppid},
};

/// How often a waiting call looks again.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Lines of a log that are shown when something went wrong.
const TAIL_LINES: usize = 15;

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output going to the end of `log`.
    ///
    /// # Errors
    /// The program cannot be started, or the log not be written.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        let child = tie(&mut command).spawn().with_context(|| format!("cannot start {program}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal; to one that has ended, this does nothing.
    pub fn signal(&mut self, signal: Signal) {
        if self.exit_status().is_none()
            && let Ok(pid) = i32::try_from(self.child.id())
        {
            // An error here can only mean that it has ended in between.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// Stops it in its tracks, as if its host hung (`SIGSTOP`).
    pub fn freeze(&mut self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on after [`Self::freeze`].
    pub fn thaw(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    /// Asks it to end (`SIGTERM`) and waits.
    ///
    /// # Errors
    /// It has not ended in time; it is killed then.
    pub fn terminate(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        match self.wait(patience) {
            Some(status) => Ok(status),
            None => {
                self.kill();
                bail!("{} did not end within {patience:?} of SIGTERM\n{}", self.name, self.tail())
            }
        }
    }

    /// How it ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        format!("--- end of {}\n{}\n---", self.log.display(), lines[from..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a program that has ended said.
#[derive(Debug)]
pub struct Output {
    /// It reported success.
    pub success: bool,
    /// Its exit status, where it was not killed.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// The output, if the program reported success.
    ///
    /// # Errors
    /// It did not; says what it wrote.
    pub fn ok(self, what: &str) -> Result<Self> {
        if self.success {
            return Ok(self);
        }
        bail!("{what} failed: {}{}", self.stdout, self.stderr)
    }
}

/// Runs a program to its end, with `input` on its standard input.
///
/// # Errors
/// It cannot be started, or has not ended in time.
pub fn run(mut command: Command, input: &str, patience: Duration) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut stdin = tempfile::tempfile()?;
    std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    std::io::Seek::rewind(&mut stdin)?;
    let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let child = tie(&mut command).spawn().with_context(|| format!("cannot start {program}"))?;
    let mut process = Process { name: program, child, log: PathBuf::new() };
    let status = process.wait(patience);
    let (stdout, stderr) = (read_back(stdout)?, read_back(stderr)?);
    let Some(status) = status else {
        bail!("{} has not ended within {patience:?}; so far: {stdout}{stderr}", process.name)
    };
    Ok(Output { success: status.success(), code: status.code(), stdout, stderr })
}

fn read_back(mut file: File) -> Result<String> {
    std::io::Seek::rewind(&mut file)?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Has the kernel kill the child when its parent is gone, and keeps the terminal's Ctrl-C from it: the harness ends
/// its children itself, in order.
fn tie(command: &mut Command) -> &mut Command {
    command.process_group(0);
    let parent = nix::unistd::getpid();
    #[expect(unsafe_code, reason = "the death signal can only be set between fork and exec")]
    // SAFETY: the closure makes two system calls and touches no memory of the parent's.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have gone before the line above.
            if getppid() == parent { Ok(()) } else { Err(std::io::ErrorKind::BrokenPipe.into()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_gets_its_input_and_its_output_is_kept_apart() {
        let output = run(shell("cat; echo no >&2; exit 3"), "word", Duration::from_secs(10)).expect("it ran");
        assert_eq!((output.stdout.as_str(), output.stderr.as_str(), output.code), ("word", "no\n", Some(3)));
        assert!(output.ok("the shell").expect_err("it failed").to_string().contains("the shell failed"));
    }

    #[test]
    fn a_program_that_does_not_end_is_given_up_and_killed() {
        let error =
            run(shell("echo so far; exec sleep 60"), "", Duration::from_millis(200)).expect_err("late");
        assert!(error.to_string().contains("so far"), "{error}");
    }

    #[test]
    fn a_process_is_frozen_thawed_and_dies_when_it_is_dropped() {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let mut process =
            Process::spawn("sleeper", shell("echo up; exec sleep 60"), log.path()).expect("started");
        let state = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit(") ").next()?.chars().next()
        };
        let until = |pid, wanted: &dyn Fn(Option<char>) -> bool| {
            let end = Instant::now() + Duration::from_secs(10);
            while !wanted(state(pid)) {
                assert!(Instant::now() < end, "state is {:?}", state(pid));
                std::thread::sleep(LOOK_EVERY);
            }
        };
        let pid = process.pid();
        process.freeze();
        until(pid, &|state| state == Some('T'));
        process.thaw();
        until(pid, &|state| state == Some('S'));
        assert!(process.exit_status().is_none());
        drop(process);
        assert_eq!(state(pid), None, "it lives on");
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed_in_the_end() {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let script = "trap '' TERM; echo deaf; while true; do sleep 0.05; done";
        let mut process = Process::spawn("deaf", shell(script), log.path()).expect("started");
        while !process.tail().contains("\ndeaf") {
            std::thread::sleep(LOOK_EVERY);
        }
        let error = process.terminate(Duration::from_millis(200)).expect_err("it does not listen");
        assert!(error.to_string().contains("deaf"), "{error}");
        assert!(process.exit_status().is_some());
    }
}
