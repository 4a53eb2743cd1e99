//! Very many connections at once.

use super::{ACTIVE, amount, assert_whole, from};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::Pair;
use crate::harness::traffic::Traffic;

/// What they take is measured by `cargo xtask bench connection`.
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
    let server = Pair::SERVER_V4.to_string();
    let (sockets, ports) = (SOCKETS.to_string(), PORTS.to_string());
    Traffic::run(&pair.client, &sender, &["udp_scatter", &server, "20000", &sockets, &ports]);
    let expected = (f64::from(CONNECTIONS * 29), f64::from(CONNECTIONS));
    agent.until_exactly("one packet each", expected, |scrape| amount(scrape, &[from(&sender)]));
    let scrape = agent.scrape();
    assert_eq!(scrape.sum(ACTIVE, &[("cgroup_path", sender.path())]), f64::from(CONNECTIONS), "each has a slot");
    assert_whole(&scrape);
    agent.stop();
}
