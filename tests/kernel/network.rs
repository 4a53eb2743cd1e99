//! Traffic and drops of one workload, exactly.

use std::net::IpAddr;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::Pair;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::Traffic;

const BYTES: &str = "ebpf_network_bytes_total";
const PACKETS: &str = "ebpf_network_packets_total";
const DROPS: &str = "ebpf_network_drops_total";
const REQUIRED: &str = "network: {enabled: require}";

/// Bytes and packets.
type Amount = (f64, f64);

const FAMILIES: [(IpAddr, &str); 2] = [(Pair::SERVER_V4, "ipv4"), (Pair::SERVER_V6, "ipv6")];

fn start() -> Agent {
    Agent::start(Wish { collectors: &[REQUIRED], ..Wish::default() })
}

fn amount(scrape: &Scrape, path: &str, labels: &[(&str, &str)]) -> Amount {
    let labels: Vec<_> = [("cgroup_path", path)].into_iter().chain(labels.iter().copied()).collect();
    (scrape.sum(BYTES, &labels), scrape.sum(PACKETS, &labels))
}

/// Scrapes until a workload has an amount under these labels, and all of it under these.
fn expect(agent: &Agent, path: &str, labels: &[(&str, &str)], expected: Amount) {
    let mut last = (0.0, 0.0);
    agent.until(&format!("{path} {labels:?} has {expected:?}"), |scrape| {
        last = amount(scrape, path, labels);
        assert!(last.0 <= expected.0 && last.1 <= expected.1, "{path} {labels:?}: {last:?}, not {expected:?}");
        (last == expected).then_some(())
    });
}

fn way<'l>(direction: &'l str, transport: &'l str, family: &'l str) -> [(&'l str, &'l str); 3] {
    [("network_io_direction", direction), ("network_transport", transport), ("network_type", family)]
}

/// Without a full map and without a program that was skipped, what was counted is all that was.
fn assert_whole(scrape: &Scrape) {
    for map in ["flows", "drops"] {
        assert_eq!(scrape.value("telesonde_bpf_map_overflow_total", &[("map", map)]), Some(0.0));
    }
    assert_eq!(scrape.sum("telesonde_events_lost_total", &[("collector", "network")]), 0.0);
}

#[test]
fn datagrams_are_counted_at_both_ends() {
    const COUNT: u32 = 1009;
    const SIZE: u32 = 333;
    let _kernel = live!();
    let agent = start();
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let (sender, receiver) = (Cgroup::new(&format!("sender-{family}")), Cgroup::new(&format!("receiver-{family}")));
        let (address, count) = (server.to_string(), COUNT.to_string());
        let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", &address, "7000", &count]);
        Traffic::run(&pair.client, &sender, &["udp_send", &address, "7000", &count, &SIZE.to_string()]);
        receiving.finish();
        let header = if server.is_ipv4() { 28 } else { 48 };
        let expected = (f64::from(COUNT * (SIZE + header)), f64::from(COUNT));
        for (cgroup, direction) in [(&sender, "transmit"), (&receiver, "receive")] {
            expect(&agent, cgroup.path(), &way(direction, "udp", family), expected);
            assert_eq!(amount(&agent.scrape(), cgroup.path(), &[]), expected, "and nothing else");
        }
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

#[test]
fn datagrams_to_a_closed_port_are_dropped_for_one_reason() {
    const COUNT: u32 = 1511;
    let _kernel = live!();
    let agent = start();
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let sender = Cgroup::new(&format!("closed-{family}"));
        let reason = [("reason", "NO_SOCKET"), ("workload_name", "kernel")];
        let before = agent.scrape();
        let action = ["udp_send", &server.to_string(), "7000", &COUNT.to_string(), "100"];
        Traffic::run(&pair.client, &sender, &action);
        let header = if server.is_ipv4() { 28 } else { 48 };
        let sent = (f64::from(COUNT * (100 + header)), f64::from(COUNT));
        expect(&agent, sender.path(), &way("transmit", "udp", family), sent);
        let after = agent.scrape();
        // Others on this machine may send to closed ports as well: the first attempt need not be the exact one.
        let drops = after.sum(DROPS, &reason) - before.sum(DROPS, &reason);
        assert_eq!(drops, f64::from(COUNT), "{family}");
    }
    assert_whole(&agent.scrape());
    agent.stop();
}
