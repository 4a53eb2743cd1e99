//! Very many connections at once.

use super::{ACTIVE, amount, assert_whole, from};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::Pair;
use crate::harness::traffic::Traffic;

/// How long gathers take and what the table takes is said, not asserted: it depends on what else the machine does.
#[test]
fn connections_by_the_thousand_are_all_in_the_table() {
    const SOCKETS: u32 = 2;
    const PORTS: u32 = 32_768;
    const CONNECTIONS: u32 = SOCKETS * PORTS;
    let _kernel = live!();
    // Half of the table is for sockets that have many peers; others on this machine have some, too.
    let slots = 2 * (CONNECTIONS + 4096);
    let table = format!("connection: {{enabled: require, idle_timeout: 1h, max_connections: {slots}}}");
    let agent = Agent::start(Wish {
        collectors: &[&table, "network: {enabled: require}"],
        env: &[("TELESONDE_LIMITS__MAP_MEMORY", "256MiB")],
        ..Wish::default()
    });
    let (pair, sender) = (Pair::new(), Cgroup::new("thousands"));
    let before = (agent.rounds("connection"), resident(&agent));
    let server = Pair::SERVER_V4.to_string();
    let (sockets, ports) = (SOCKETS.to_string(), PORTS.to_string());
    Traffic::run(&pair.client, &sender, &["udp_scatter", &server, "20000", &sockets, &ports]);
    let expected = (f64::from(CONNECTIONS * 29), f64::from(CONNECTIONS));
    agent.until_exactly("one packet each", expected, |scrape| amount(scrape, &[from(&sender)]));
    let open = agent.scrape().sum(ACTIVE, &[("cgroup_path", sender.path())]);
    assert_eq!(open, f64::from(CONNECTIONS), "each has a slot");
    assert_whole(&agent.scrape());
    let with = (agent.rounds("connection"), resident(&agent));
    println!(
        "a gather takes {:?} ms (least, median) without connections, {:?} ms with {CONNECTIONS}",
        before.0, with.0
    );
    println!("the agent has {} KiB without, {} KiB with them; its maps:\n{}", before.1, with.1, maps(&agent));
    agent.stop();
}

/// Gives the memory that the process has, in KiB.
fn resident(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn maps(agent: &Agent) -> String {
    let output = String::from_utf8(agent.tool(&["debug", "maps"]).stdout).unwrap();
    output.lines().filter(|line| line.contains("connection/")).collect::<Vec<_>>().join("\n")
}
