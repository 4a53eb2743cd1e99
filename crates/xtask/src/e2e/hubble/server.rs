//! A server of Cilium as a process, and what it says that it has served.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::e2e::child::Program;
use crate::e2e::http;

/// Flows by verdict, kind of event and node.
pub type Tally = BTreeMap<(String, String, String), u64>;

const START: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    /// Where it serves.
    pub port: u16,
    name: String,
    control: u16,
    dir: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    running: Option<Program>,
    /// How often it was started.
    pub starts: u32,
}

/// What a server has served.
pub struct Served {
    /// Streams of flows that are open.
    pub streams: u64,
    /// The flows that it has sent since it was started.
    pub flows: Tally,
}

impl Server {
    /// Starts the Hubble of a node.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn node(dir: &Path, program: &Path, name: &str, tls: bool) -> Result<Self> {
        Self::start(dir, program, "node", name, tls, &[])
    }

    /// Starts Hubble Relay before nodes.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn relay(dir: &Path, program: &Path, nodes: &[Self], tls: bool) -> Result<Self> {
        let peers: Vec<_> = nodes.iter().map(|node| format!("{}=127.0.0.1:{}", node.name, node.port)).collect();
        Self::start(dir, program, "relay", "relay", tls, &["-peers", &peers.join(",")])
    }

    fn start(dir: &Path, program: &Path, kind: &str, name: &str, tls: bool, more: &[&str]) -> Result<Self> {
        // All are held until all are chosen, so that they differ.
        let held = (0..2).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<Vec<_>, _>>()?;
        let ports = held.iter().map(|l| Ok(l.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
        let (listen, control) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
        let place = dir.display().to_string();
        let mut arguments = vec![kind, "-name", name, "-dir", &place, "-listen", &listen, "-control", &control];
        arguments.extend(tls.then_some("-tls"));
        arguments.extend(more);
        let mut server = Self {
            port: ports[0],
            name: name.to_owned(),
            control: ports[1],
            dir: dir.to_owned(),
            program: program.to_owned(),
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            running: None,
            starts: 0,
        };
        drop(held);
        server.restart()?;
        Ok(server)
    }

    /// Kills it where it runs, and starts it where it was.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.running = None;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        let mut program = Program::start(&self.name, &self.dir, &mut command)?;
        let port = self.port;
        program.until("serving", START, || {
            http::get(self.control, "/served", "*/*").is_ok()
                && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })?;
        self.running = Some(program);
        self.starts += 1;
        Ok(())
    }

    /// Has it observe so many flows.
    ///
    /// # Errors
    /// Fails when it does not.
    pub fn emit(&self, flows: u64) -> Result<()> {
        http::get(self.control, &format!("/emit?flows={flows}"), "*/*").map(drop)
    }

    /// Has it observe so many flows, whether anybody waits for the end of that or not.
    pub fn emit_meanwhile(&self, flows: u64) -> std::thread::JoinHandle<()> {
        let control = self.control;
        std::thread::spawn(move || drop(http::get(control, &format!("/emit?flows={flows}"), "*/*")))
    }

    /// Asks what it has served.
    ///
    /// # Errors
    /// Fails when it does not say.
    pub fn served(&self) -> Result<Served> {
        let said: Value = serde_json::from_str(&http::get(self.control, "/served", "*/*")?.body)?;
        let mut flows = Tally::new();
        for (key, count) in said["by"].as_object().context("it has served nothing")? {
            let [verdict, event, node] = key.splitn(3, '/').collect::<Vec<_>>()[..] else { bail!("{key}: no key") };
            flows.insert((verdict_of(verdict)?, event_of(event)?, node.to_owned()), count.as_u64().unwrap_or(0));
        }
        Ok(Served { streams: said["streams"].as_u64().context("no streams")?, flows })
    }
}

fn verdict_of(number: &str) -> Result<String> {
    named(number, &[("1", "FORWARDED"), ("2", "DROPPED"), ("4", "AUDIT"), ("5", "REDIRECTED")])
}

fn event_of(number: &str) -> Result<String> {
    named(number, &[("1", "Drop"), ("4", "Trace"), ("5", "PolicyVerdict"), ("129", "L7")])
}

fn named(number: &str, names: &[(&str, &str)]) -> Result<String> {
    let found = names.iter().find(|(known, _)| *known == number);
    found.map(|(_, name)| (*name).to_owned()).with_context(|| format!("{number}: none that is made"))
}
