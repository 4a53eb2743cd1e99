//! A process in a cgroup that does what it is told, step by step, and what the kernel says of it in /proc.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use super::cgroup::Cgroup;
use super::{eventually, stimulus};

/// What the kernel counts of one task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// Nanoseconds on a CPU.
    pub runtime: f64,
    /// Nanoseconds of waiting for one.
    pub delay: f64,
    /// How often it came to run.
    pub runs: f64,
    /// Switches that it asked for.
    pub voluntary: f64,
    /// Switches that were forced on it.
    pub involuntary: f64,
    /// Page faults without I/O.
    pub minor: f64,
    /// Page faults with I/O.
    pub major: f64,
}

/// The process; it ends with its input.
pub struct Tasks {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Tasks {
    /// Starts it within a cgroup.
    pub fn start(cgroup: &Cgroup) -> Self {
        let mut command = Command::new(stimulus::tasks());
        command.arg(cgroup.directory()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut tasks = Self { child, input, output };
        tasks.answer();
        tasks
    }

    /// Has it do something to its end; gives its answer.
    pub fn ask(&mut self, line: &str) -> Value {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
        self.answer()
    }

    /// Has it begin something.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for the answer to what it was told.
    pub fn answer(&mut self) -> Value {
        serde_json::from_str(&self.output.next().expect("an answer").unwrap()).unwrap()
    }

    /// Gives its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives what was looked at while the process was blocked all the time, with the kernel's counts of its main thread.
    pub fn at_rest<T>(&self, mut look: impl FnMut() -> T) -> (Counts, T) {
        eventually("the process is blocked", || {
            let before = self.counts()?;
            let seen = look();
            (self.counts() == Some(before)).then_some((before, seen))
        })
    }

    /// Gives the counts of its main thread; nothing while it runs.
    fn counts(&self) -> Option<Counts> {
        let read = |file| fs::read_to_string(format!("/proc/{0}/task/{0}/{file}", self.pid())).unwrap();
        let (stat, status, schedstat) = (read("stat"), read("status"), read("schedstat"));
        let after_name: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let number = |text: &str| text.trim().parse::<f64>().unwrap();
        let named = |name: &str| number(status.lines().find_map(|line| line.strip_prefix(name)).unwrap());
        let schedule: Vec<f64> = schedstat.split_whitespace().map(number).collect();
        (after_name[0] == "S").then(|| Counts {
            runtime: schedule[0],
            delay: schedule[1],
            runs: schedule[2],
            voluntary: named("voluntary_ctxt_switches:"),
            involuntary: named("nonvoluntary_ctxt_switches:"),
            minor: number(after_name[7]),
            major: number(after_name[9]),
        })
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
