//! One end of TCP connections: a program in a cgroup and a network namespace that does what it is told.
//!
//! Its commands stand at the top of `tests/stimulus/tcp.c`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use super::cgroup::Cgroup;
use super::netns::Netns;
use super::stimulus::compile;

/// The program; it ends, and with it its sockets, when this is dropped.
pub struct Peer {
    program: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the program.
    pub fn start(cgroup: &Cgroup, netns: &Netns) -> Self {
        let mut command = Command::new(program());
        command.arg(cgroup.directory()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = netns.run(|| command.spawn().unwrap());
        let (commands, answers) = (program.stdin.take().unwrap(), BufReader::new(program.stdout.take().unwrap()));
        Self { program, commands, answers }
    }

    /// Tells the program what to do and waits for its answer.
    pub fn ask(&mut self, command: &str) -> u64 {
        self.tell(command);
        self.answer()
    }

    /// Tells the program what to do; [`answer`](Self::answer) waits until it is done.
    pub fn tell(&mut self, command: &str) {
        self.commands.write_all(format!("{command}\n").as_bytes()).unwrap();
    }

    /// Waits for the answer to what was told.
    pub fn answer(&mut self) -> u64 {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| panic!("the peer ended"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("tcp.c", &["-O1", "-Wall", "-Werror"], &["clang", "cc"]).unwrap())
}
