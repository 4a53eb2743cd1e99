//! The agent that reads a server of Cilium, and what it has counted.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::server::{Server, Tally};
use crate::e2e::child::Program;
use crate::e2e::exposition::{self, Labels};
use crate::e2e::prometheus::eventually;
use crate::e2e::{END, http};
use crate::process;

const START: Duration = Duration::from_secs(30);
/// How many flows there must be before a server is killed.
const UNDER_WAY: u64 = 1_000;

/// A running agent, and what it has counted.
pub struct Reader {
    program: Program,
    port: u16,
    /// Whether flows are of several nodes.
    relay: bool,
    /// What it had counted when the server that it reads had sent nothing yet, and which start of the server that was.
    base: (Tally, u32),
    /// What it had counted when last nothing was on its way.
    settled: Tally,
}

impl Reader {
    /// Starts the release build on a server.
    ///
    /// # Errors
    /// Fails when it does not start.
    pub fn start(dir: &Path, mode: &str, server: u16, tls: bool) -> Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let place = dir.display();
        let secured = if tls {
            format!(
                "hubble_tls_enabled: true, hubble_tls_ca: {place}/ca.pem, hubble_tls_cert: {place}/client.pem, \
                 hubble_tls_key: {place}/client.key"
            )
        } else {
            "hubble_tls_enabled: false".to_owned()
        };
        let address = format!("'127.0.0.1:{server}'");
        let cilium = format!(
            "enabled: require, mode: {mode}, hubble_address: {address}, hubble_node_address: {address}, \
             kubernetes_enabled: false, flow_buffer_size: 1048576, max_flows_per_second: 10000000, {secured}"
        );
        let text = format!(
            "integrations: {{ebpf: {{cilium: {{{cilium}}}}}}}\n\
             exporters: {{prometheus: {{listen: '127.0.0.1:{port}', max_age: 0s}}}}\n\
             health: {{listen: '127.0.0.1:0'}}\nadmin: {{socket: {place}/admin.sock}}\n",
        );
        let file = dir.join("hubble.yaml");
        fs::write(&file, text).context("cannot write hubble.yaml")?;
        let mut command = Command::new(process::target().join("release/telesonde"));
        command.arg("run").arg("--config").arg(file);
        let mut program = Program::start("agent", dir, &mut command)?;
        program.until("the first scrape", START, || http::get(port, "/metrics", "text/plain").is_ok())?;
        Ok(Self { program, port, relay: mode == "relay", base: (Tally::new(), 1), settled: Tally::new() })
    }

    /// Has every node observe so many flows once all streams are open; waits until the agent has counted what the server
    /// that it reads has sent, no more and no less, and gives how much that is in all.
    ///
    /// # Errors
    /// Fails when that does not come about.
    pub fn equals(&mut self, nodes: &[Server], front: &Server, flows: u64) -> Result<u64> {
        let all = || nodes.iter().chain([front]);
        eventually(|| {
            for server in all() {
                let streams = server.served()?.streams;
                ensure!(streams == 1, "{streams} streams are open");
            }
            Ok(())
        })?;
        if front.starts != self.base.1 {
            self.base = (self.settled.clone(), front.starts);
        }
        for node in nodes {
            // An open stream may not have its place in the ring yet: what comes before that, it does not send.
            let before = node.served()?.flows;
            eventually(|| {
                node.emit(7)?;
                std::thread::sleep(Duration::from_millis(50));
                ensure!(node.served()?.flows != before, "no flow is sent");
                Ok(())
            })?;
        }
        let before = nodes.iter().map(|node| Ok(sum(&node.served()?.flows))).collect::<Result<Vec<_>>>()?;
        for node in nodes {
            node.emit(flows)?;
        }
        let mut settled = None;
        eventually(|| {
            for (node, before) in nodes.iter().zip(&before) {
                let sent = sum(&node.served()?.flows) - before;
                // What was made to open the stream may be on its way.
                ensure!((flows..flows + 70).contains(&sent), "a node has sent {sent} flows of {flows}");
            }
            let mut expected = self.base.0.clone();
            for (key, count) in self.sent(front)? {
                *expected.entry(key).or_default() += count;
            }
            let counted = self.counted()?;
            ensure!(counted == expected, "counted {counted:?}, sent {expected:?}");
            // The relay sends what it holds back for order only after a while.
            ensure!(sum(&expected) - sum(&self.settled) >= flows * nodes.len() as u64, "not all has been sent");
            ensure!(settled.replace(counted.clone()) == Some(counted), "more may come");
            Ok(())
        })?;
        self.settled = settled.unwrap_or_default();
        Ok(sum(&self.settled))
    }

    /// Gives what a server has sent, as the agent tells it apart.
    fn sent(&self, server: &Server) -> Result<Tally> {
        let named = |node| if self.relay { node } else { String::new() };
        let flows = server.served()?.flows;
        Ok(flows.into_iter().map(|((verdict, event, node), count)| ((verdict, event, named(node)), count)).collect())
    }

    /// Kills a server in the middle of so many flows and starts it again; gives how many of them were never counted.
    ///
    /// # Errors
    /// Fails when it does not start, or when more were counted than were made.
    pub fn interrupted(&mut self, node: &mut Server, flows: u64) -> Result<u64> {
        let before = sum(&self.settled);
        let emitting = node.emit_meanwhile(flows);
        eventually(|| {
            let counted = sum(&self.counted()?);
            ensure!(counted >= before + UNDER_WAY, "only {counted} flows after {before}");
            Ok(())
        })?;
        node.restart()?;
        emitting.join().map_err(|_| anyhow::anyhow!("whoever emits panicked"))?;
        eventually(|| {
            ensure!(node.served()?.streams == 1, "the agent is not back");
            Ok(())
        })?;
        // The stream before has ended, so all that came of it is counted, or waits to be.
        let mut last = None;
        eventually(|| {
            let now = self.counted()?;
            ensure!(last.replace(now.clone()) == Some(now), "more is counted");
            Ok(())
        })?;
        self.settled = last.unwrap_or_default();
        let mut base = self.settled.clone();
        for (key, count) in self.sent(node)? {
            *base.entry(key).or_default() -= count;
        }
        let counted = sum(&base) - before;
        self.base = (base, node.starts);
        ensure!(counted <= flows, "{counted} flows were counted of {flows}");
        Ok(flows - counted)
    }

    /// Gives what was counted.
    ///
    /// # Errors
    /// Fails when the account does not add up, or something was dropped.
    pub fn counted(&self) -> Result<Tally> {
        let scrape = exposition::parse(&http::get(self.port, "/metrics", "text/plain")?.body)?.samples;
        let mut tally = Tally::new();
        let (mut received, mut outcomes) = (0, 0);
        let label = |labels: &Labels, name: &str| labels.get(name).cloned().unwrap_or_default();
        for ((name, labels), value) in scrape {
            let value = value as u64;
            match &*name {
                "hubble_flows_total" => {
                    let key = (label(&labels, "verdict"), label(&labels, "type"), label(&labels, "k8s_node_name"));
                    *tally.entry(key).or_default() += value;
                }
                "telesonde_hubble_flows_received_total" => received += value,
                "telesonde_hubble_flows_total" => {
                    outcomes += value;
                    if label(&labels, "outcome") != "counted" && value > 0 {
                        bail!("{value} flows were {labels:?}");
                    }
                }
                _ => {}
            }
        }
        ensure!(received == outcomes, "of {received} flows {outcomes} have an outcome");
        ensure!(sum(&tally) == outcomes, "{} flows are in hubble_flows_total, {outcomes} were counted", sum(&tally));
        Ok(tally)
    }

    /// Ends the agent; gives how many ends of streams it has counted.
    ///
    /// # Errors
    /// Fails when it does not end well.
    pub fn stop(self) -> Result<u64> {
        let scrape = exposition::parse(&http::get(self.port, "/metrics", "text/plain")?.body)?.samples;
        let ends = scrape.iter().filter(|((name, _), _)| name == "telesonde_hubble_stream_ends_total");
        let ends = ends.map(|(_, value)| *value as u64).sum();
        let status = self.program.stop(END)?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(ends)
    }
}

fn sum(tally: &Tally) -> u64 {
    tally.values().sum()
}
