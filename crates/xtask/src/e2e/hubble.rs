//! `cargo xtask e2e hubble`: the agent against Cilium's own servers, of the newest and of an old release: a node's Hubble
//! with its observer, and Hubble Relay before three of them. The flows are synthetic, the servers count what they send,
//! and the agent must have counted the same.

mod reader;
pub mod server;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use super::{Report, certificates};
use crate::run;
use crate::tools::{self, Tool};
use reader::Reader;
use server::Server;

/// How many flows of each node go into one comparison.
const FLOWS: u64 = 20_000;
/// How many are under way when a server is killed.
const BURST: u64 = 60_000;

const RELEASES: [(Tool, &str); 2] = [(Tool::CiliumHubble, "newest"), (Tool::CiliumHubbleOld, "old")];
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Runs the proof.
///
/// # Errors
/// Fails when something cannot be built or started.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    if options.cached && !RELEASES.iter().all(|(tool, _)| tools::installed(*tool)) {
        let build = "`cargo xtask tools cilium-hubble cilium-hubble-old` builds it";
        return Ok(Report::skipped("the proof with Cilium's own Hubble", build));
    }
    let mut programs = Vec::new();
    for (tool, release) in RELEASES {
        programs.push((tools::install(tool)?, release));
    }
    run::binary(options.no_build)?;
    Report::of(options, |dir, report| {
        certificates::write(dir)?;
        for (program, release) in &programs {
            for (tls, wire) in [(false, "plain"), (true, "mTLS")] {
                let name = format!("{release} release, {wire}, through restarts");
                report.check("node", &name, || node(dir, program, tls));
                report.check("relay", &name, || relay(dir, program, tls, *release == "old"));
            }
        }
        Ok(())
    })
}

/// One agent reads one node.
fn node(dir: &Path, program: &Path, tls: bool) -> Result<String> {
    let mut nodes = vec![Server::node(dir, program, NODES[0], tls)?];
    let mut agent = Reader::start(dir, "node", nodes[0].port, tls)?;
    agent.equals(&nodes, &nodes[0], FLOWS)?;
    nodes[0].restart()?;
    agent.equals(&nodes, &nodes[0], FLOWS)?;
    let missed = agent.interrupted(&mut nodes[0], BURST)?;
    let flows = agent.equals(&nodes, &nodes[0], FLOWS)?;
    let ends = agent.stop()?;
    ensure!(ends >= 2, "{ends} ends of streams were counted, after two restarts");
    Ok(format!("{flows} flows equal; {missed} of {BURST} died with the server, none came twice; {ends} ends counted"))
}

/// One agent reads three nodes through the relay. An old relay does not ask a node again that was restarted, not before it
/// is asked anew itself.
fn relay(dir: &Path, program: &Path, tls: bool, old: bool) -> Result<String> {
    let mut nodes = NODES.iter().map(|name| Server::node(dir, program, name, tls)).collect::<Result<Vec<_>>>()?;
    let mut relay = Server::relay(dir, program, &nodes, tls)?;
    let mut agent = Reader::start(dir, "relay", relay.port, tls)?;
    agent.equals(&nodes, &relay, FLOWS)?;
    relay.restart()?;
    agent.equals(&nodes, &relay, FLOWS)?;
    nodes[1].restart()?;
    if old {
        relay.restart()?;
    }
    let flows = agent.equals(&nodes, &relay, FLOWS)?;
    let named: BTreeSet<String> = agent.counted()?.into_keys().map(|(_, _, node)| node).collect();
    ensure!(named.iter().eq(&NODES), "flows of {named:?} are told apart");
    let ends = agent.stop()?;
    ensure!(ends >= 1, "no end of a stream was counted, after a restart");
    Ok(format!("{flows} flows of {} nodes equal; {ends} ends counted", named.len()))
}
