//! A slow and lossy link between two network namespaces: a TUN device in each, and a program that carries the packets.
//!
//! It works on every kernel, with or without netem. The program's commands stand at the top of `tests/stimulus/line.c`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::netns::{Netns, Pair};
use super::stimulus::compile;

/// Which way packets go.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    ToServer,
    ToClient,
}

/// Which packets may be dropped.
#[derive(Clone, Copy, Debug)]
pub enum Packets {
    Any,
    /// Segments with the flag SYN.
    Syn,
    /// TCP segments with payload.
    Data,
    Udp,
}

/// Two namespaces with the addresses of [`Pair`] on the interface `tun`, and the line between them.
pub struct Line {
    pub client: Netns,
    pub server: Netns,
    program: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Line {
    /// Makes a line that delays every packet, each way, by so much.
    pub fn new(delay: Duration) -> Self {
        let (client, server) = (Netns::new(), Netns::new());
        let mut command = Command::new(program());
        command.args([client.path(), server.path()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().unwrap();
        let (commands, answers) = (program.stdin.take().unwrap(), BufReader::new(program.stdout.take().unwrap()));
        let mut line = Self { client, server, program, commands, answers };
        assert_eq!(line.answer(), 0, "the devices are there");
        let ends = [(&line.client, Pair::CLIENT_V4, Pair::CLIENT_V6), (&line.server, Pair::SERVER_V4, Pair::SERVER_V6)];
        for (netns, v4, v6) in ends {
            netns.ip(&["link", "set", "tun", "addrgenmode", "none"]);
            netns.ip(&["address", "add", &format!("{v4}/24"), "dev", "tun"]);
            netns.ip(&["address", "add", &format!("{v6}/64"), "dev", "tun", "nodad"]);
            netns.ip(&["link", "set", "tun", "up"]);
        }
        line.ask(&format!("delay {}", delay.as_micros()));
        line
    }

    /// Drops each `every`-th of these packets, `count` in all; it replaces what was said before of that way.
    pub fn drop(&mut self, way: Way, packets: Packets, count: u32, every: u32) {
        let kind = match packets {
            Packets::Any => "any",
            Packets::Syn => "syn",
            Packets::Data => "data",
            Packets::Udp => "udp",
        };
        self.ask(&format!("drop {} {kind} {count} {every}", way as u8));
    }

    /// Gives how many packets were dropped.
    pub fn dropped(&mut self) -> u64 {
        self.ask("dropped")
    }

    fn ask(&mut self, command: &str) -> u64 {
        // In one piece: the program takes what it reads at once for a command.
        self.commands.write_all(format!("{command}\n").as_bytes()).unwrap();
        self.answer()
    }

    fn answer(&mut self) -> u64 {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| panic!("the line ended"))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn program() -> &'static std::path::Path {
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("line.c", &["-O1", "-Wall", "-Werror"], &["clang", "cc"]).unwrap())
}

#[test]
fn packets_are_late_or_lost() {
    use std::net::UdpSocket;
    use std::time::Instant;

    let _kernel = super::live!();
    let delay = Duration::from_millis(20);
    let mut line = Line::new(delay);
    for (client, server) in [(Pair::CLIENT_V4, Pair::SERVER_V4), (Pair::CLIENT_V6, Pair::SERVER_V6)] {
        let receiver = line.server.run(|| UdpSocket::bind((server, 7000)).unwrap());
        let sender = line.client.run(|| UdpSocket::bind((client, 0)).unwrap());
        let (before, begin) = (line.dropped(), Instant::now());
        line.drop(Way::ToServer, Packets::Udp, 2, 2);
        for number in 0..5 {
            sender.send_to(&[number], (server, 7000)).unwrap();
        }
        let mut buffer = [0; 16];
        let arrived = [(); 3].map(|()| receiver.recv_from(&mut buffer).map(|_| buffer[0]).unwrap());
        assert_eq!(arrived, [0, 2, 4]);
        assert!(begin.elapsed() >= delay);
        assert_eq!(line.dropped() - before, 2);
    }
}
