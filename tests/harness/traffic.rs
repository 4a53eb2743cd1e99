//! The C program that sends and receives exact amounts, run in a cgroup and a network namespace.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use super::cgroup::Cgroup;
use super::eventually;
use super::netns::Netns;
use super::stimulus::compile;

/// A running program; it is killed when the test ends before it does.
pub struct Traffic {
    child: Child,
    words: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Traffic {
    /// Starts an action with its arguments.
    pub fn start(netns: &Netns, cgroup: &Cgroup, action: &[&str]) -> Self {
        let mut command = command();
        command.arg(cgroup.directory()).args(action).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = netns.run(|| command.spawn().unwrap());
        let (words, lines) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, words, lines }
    }

    /// Starts an action and waits until it is ready for its peer, or for the test's word.
    pub fn ready(netns: &Netns, cgroup: &Cgroup, action: &[&str]) -> Self {
        let mut traffic = Self::start(netns, cgroup, action);
        let mut line = String::new();
        traffic.lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{action:?}");
        traffic
    }

    /// Runs an action to its end.
    pub fn run(netns: &Netns, cgroup: &Cgroup, action: &[&str]) {
        Self::start(netns, cgroup, action).finish();
    }

    /// Lets a program that waits for a word go on.
    pub fn go_on(&mut self) {
        self.words.write_all(b"go\n").unwrap();
    }

    /// Waits for its end.
    pub fn finish(mut self) {
        let status = eventually("the traffic ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "the traffic ended with {status}");
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sets whether an interface sends and receives packets of many segments.
pub fn offload(netns: &Netns, interface: &str, gso: bool, gro: bool) {
    let on = |on| if on { "1" } else { "0" };
    let mut command = command();
    command.args(["-", "offload", interface, on(gso), on(gro)]);
    let status = netns.run(|| command.status().unwrap());
    assert!(status.success(), "offload: {status}");
}

fn command() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| compile("traffic.c", &["-O1", "-Wall", "-Werror"], &["clang", "cc"]).unwrap());
    Command::new(program)
}
