//! The workload whose numbers are known: a process in a cgroup of its own that makes exactly N getppid calls.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What the workload does.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the cgroup to enter.
    #[arg(long)]
    cgroup: PathBuf,
    /// How many getppid calls to make, no more and no fewer.
    #[arg(long)]
    calls: u64,
    /// Milliseconds over which to spread them.
    #[arg(long)]
    over: u64,
}

/// Enters the cgroup and makes the calls.
///
/// # Errors
/// Fails when the cgroup cannot be entered.
pub fn run(args: &Args) -> Result<()> {
    let procs = args.cgroup.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string()).with_context(|| format!("cannot enter {}", procs.display()))?;
    let started = Instant::now();
    let ticks = args.over.max(1);
    let mut made = 0;
    for tick in 1..=ticks {
        let due = args.calls * tick / ticks;
        while made < due {
            let _ = rustix::process::getppid();
            made += 1;
        }
        sleep(Duration::from_millis(tick).saturating_sub(started.elapsed()));
    }
    Ok(())
}

/// Finds the hierarchy that the agent takes as primary: version 2 where it has controllers, else the memory controller's.
///
/// # Errors
/// Fails when neither is mounted.
pub fn hierarchy() -> Result<&'static Path> {
    let v2 = Path::new("/sys/fs/cgroup");
    let v1 = Path::new("/sys/fs/cgroup/memory");
    if v1.join("cgroup.procs").exists() {
        return Ok(v1);
    }
    if v2.join("cgroup.controllers").exists() {
        return Ok(v2);
    }
    bail!("no cgroup hierarchy is mounted below /sys/fs/cgroup")
}

/// A running workload; its cgroup is removed with it.
pub struct Workload {
    /// What it is called, unique to this run.
    pub name: String,
    dir: PathBuf,
    child: Child,
}

impl Workload {
    /// Starts `calls` calls spread over `over` in a new cgroup.
    ///
    /// # Errors
    /// Fails when the cgroup cannot be made or the process not started.
    pub fn start(name: &str, calls: u64, over: Duration) -> Result<Self> {
        let name = format!("telesonde-e2e-{}-{name}", std::process::id());
        Self::start_in(hierarchy()?.join(&name), name, calls, over)
    }

    /// Does the same in a new cgroup of a given path, whose parent exists.
    ///
    /// # Errors
    /// Fails when the cgroup cannot be made or the process not started.
    pub fn start_in(dir: PathBuf, name: String, calls: u64, over: Duration) -> Result<Self> {
        fs::create_dir(&dir).with_context(|| format!("cannot make the cgroup {}", dir.display()))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("stimulus")
            .arg("--cgroup")
            .arg(&dir)
            .args(["--calls", &calls.to_string(), "--over", &over.as_millis().to_string()])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the workload")?;
        Ok(Self { name, dir, child })
    }

    /// Waits for its end; its cgroup stays.
    ///
    /// # Errors
    /// Fails when it failed.
    pub fn wait(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the workload {} ended with {status}", self.name);
        }
        Ok(())
    }

    /// Waits for its end and removes its cgroup.
    ///
    /// # Errors
    /// Fails when it failed.
    pub fn finish(mut self) -> Result<String> {
        self.wait()?;
        fs::remove_dir(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))?;
        Ok(self.name.clone())
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir(&self.dir);
    }
}
