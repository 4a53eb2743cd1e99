//! Another tracer on hooks of ours, while tests run: bpftrace on every system call and every switch.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// The probes are attached before BEGIN runs.
const PROGRAM: &str = "tracepoint:raw_syscalls:sys_enter { @calls = count(); } \
                       tracepoint:sched:sched_switch { @switches = count(); } \
                       BEGIN { printf(\"attached\\n\"); }";

/// A running bpftrace; it ends with this value.
pub struct Tracer {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Tracer {
    /// Starts it and waits until its probes are attached.
    ///
    /// # Errors
    /// Fails when bpftrace is not installed or cannot attach.
    pub fn start() -> Result<Self> {
        let mut command = Command::new("bpftrace");
        command.args(["-B", "line", "-e", PROGRAM]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start bpftrace (Debian, Ubuntu: apt install bpftrace)")?;
        let output = child.stdout.take().context("bpftrace has no output")?;
        let mut tracer = Self { child, output: BufReader::new(output).lines() };
        if !tracer.output.by_ref().map_while(Result::ok).any(|line| line == "attached") {
            bail!("bpftrace did not attach");
        }
        println!("bpftrace sits on sys_enter and sched_switch");
        Ok(tracer)
    }

    /// Ends it and gives what it counted meanwhile.
    ///
    /// # Errors
    /// Fails when it did not run to the end, or saw nothing.
    pub fn stop(mut self) -> Result<String> {
        let running = self.child.try_wait()?.is_none();
        // SIGINT by the shell's own kill: std knows only SIGKILL, after which bpftrace prints nothing.
        let _ = Command::new("sh").args(["-c", &format!("kill -s INT {}", self.child.id())]).status();
        let counts: Vec<String> = self.output.by_ref().map_while(Result::ok).filter(|l| l.starts_with('@')).collect();
        if !running || counts.len() != 2 {
            bail!("bpftrace ended too early");
        }
        Ok(counts.join(", "))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
