//! A program under test with its log in a file; it is ended with its owner, at the latest after a deadline.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A running program.
pub struct Program {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Program {
    /// Starts a command whose output goes to `NAME.log` in `dir`.
    ///
    /// # Errors
    /// Fails when it cannot be started.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` says so.
    ///
    /// # Errors
    /// Fails with the end of its log when it ends before that or takes longer than `deadline`.
    pub fn until(&mut self, what: &str, deadline: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < deadline {
            if ready() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.tail());
            }
            sleep(Duration::from_millis(50));
        }
        bail!("{}: {what} did not happen within {} s:\n{}", self.name, deadline.as_secs(), self.tail())
    }

    /// Asks it to end and waits for it, killing it after the deadline.
    ///
    /// # Errors
    /// Fails when it had to be killed.
    pub fn stop(mut self, deadline: Duration) -> Result<ExitStatus> {
        self.end(deadline)
    }

    /// Does the same for a program that will be replaced.
    ///
    /// # Errors
    /// Fails when it had to be killed.
    pub fn end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).with_context(|| format!("cannot signal {}", self.name))?;
        if let Some(status) = self.ended(deadline)? {
            return Ok(status);
        }
        let _ = self.child.kill();
        bail!("{} did not end within {} s of SIGTERM:\n{}", self.name, deadline.as_secs(), self.tail())
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// Fails with the end of its log when it takes longer than `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.ended(deadline)?.with_context(|| format!("{} has not ended:\n{}", self.name, self.tail()))
    }

    fn ended(&mut self, deadline: Duration) -> Result<Option<ExitStatus>> {
        let started = Instant::now();
        while started.elapsed() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(None)
    }

    fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
