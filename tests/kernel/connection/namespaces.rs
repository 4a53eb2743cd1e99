//! Interfaces and network namespaces come and go, and nobody has to follow them; by choice only some are looked at.

use std::net::IpAddr;

use super::{ACTIVE, FAMILIES, amount, assert_whole, expect, from, start, to};
use crate::harness::agent::Agent;
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::{Netns, Pair};
use crate::harness::traffic::Traffic;

const COUNT: u32 = 61;
const SIZE: u32 = 400;

/// Sends datagrams from one workload to another; gives what they are on the wire.
fn send(netns: [&Netns; 2], cgroups: [&Cgroup; 2], server: &str, port: &str) -> (f64, f64) {
    let count = COUNT.to_string();
    let receiving = Traffic::ready(netns[1], cgroups[1], &["udp_receive", server, port, &count]);
    Traffic::run(netns[0], cgroups[0], &["udp_send", server, port, &count, &SIZE.to_string()]);
    receiving.finish();
    let header = if server.contains(':') { 48 } else { 28 };
    (f64::from(COUNT * (SIZE + header)), f64::from(COUNT))
}

fn expect_open(agent: &Agent, cgroup: &Cgroup, count: f64) {
    let labels = [("cgroup_path", cgroup.path()), ("network_transport", "udp")];
    agent.until(&format!("{count} are open"), |scrape| (scrape.sum(ACTIVE, &labels) == count).then_some(()));
}

/// All of them are newer than the agent; what is gone has its totals for good.
#[test]
fn interfaces_and_namespaces_come_and_go() {
    let _kernel = live!();
    let agent = start(", idle_timeout: 1s, interval: 100ms");
    let mut before = Vec::new();
    for round in ["first", "second"] {
        // The same addresses in namespaces that are others each time.
        let pair = Pair::new();
        let (netns, cgroup) = ([&pair.client, &pair.server], |name: &str| Cgroup::new(&format!("{name}-{round}")));
        let (sender, receiver) = (cgroup("comer"), cgroup("stayer"));
        let (mut bytes, mut packets) = (0.0, 0.0);
        let mut check = |server: &str| {
            let sent = send(netns, [&sender, &receiver], server, "7000");
            (bytes, packets) = (bytes + sent.0, packets + sent.1);
            expect(&agent, &[from(&sender), to(&receiver)], (bytes, packets));
            expect(&agent, &[from(&sender)], (bytes, packets));
        };
        for (server, _) in FAMILIES {
            check(&server.to_string());
        }
        // A new interface, then without the one that was there.
        pair.join("late", "10.88.0", "fd88:");
        for server in ["10.88.0.2", "fd88::2"] {
            check(server);
        }
        pair.client.ip(&["link", "del", "veth"]);
        for server in ["10.88.0.2", "fd88::2"] {
            check(server);
        }
        drop(pair);
        expect_open(&agent, &sender, 0.0);
        before.push((sender, receiver, (bytes, packets)));
        for (sender, receiver, expected) in &before {
            assert_eq!(amount(&agent.scrape(), &[from(sender), to(receiver)]), *expected, "{round}");
        }
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

/// Pods with the host's network are in the host's namespace, and their peers are told by their cgroups as all others are.
#[test]
fn each_mode_has_its_network_namespaces() {
    let _kernel = live!();
    let (host, pair) = (Netns::own(), Pair::new());
    // Others on this machine have the other ports.
    let port = (20_000 + std::process::id() % 10_000).to_string();
    for (mode, has_host, has_pods) in [("all", true, true), ("host", true, false), ("pods", false, true)] {
        let agent = start(&format!(", directions: both, network_namespaces: {mode}"));
        for (family, on_host, in_pod) in [
            ("ipv4", IpAddr::from([127, 0, 0, 1]), Pair::SERVER_V4),
            ("ipv6", IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16]), Pair::SERVER_V6),
        ] {
            let cgroup = |name: &str| Cgroup::new(&format!("{name}-{mode}-{family}"));
            let (local, server) = ([cgroup("host"), cgroup("host-server")], [cgroup("pod"), cgroup("pod-server")]);
            for (is_kept, netns, [sender, receiver], address) in
                [(has_host, [&host, &host], &local, on_host), (has_pods, [&pair.client, &pair.server], &server, in_pod)]
            {
                let sent = send(netns, [sender, receiver], &address.to_string(), &port);
                for direction in ["transmit", "receive"] {
                    let workload = [("cgroup_path", if direction == "transmit" { sender } else { receiver }.path())];
                    let of_network = [&workload[..], &[("network_io_direction", direction)]].concat();
                    // The collector network has them all, and has read the same packets.
                    agent.until_exactly(&format!("{of_network:?}"), sent, |scrape| {
                        let sum = |metric| scrape.sum(metric, &of_network);
                        (sum("ebpf_network_bytes_total"), sum("ebpf_network_packets_total"))
                    });
                    let labels = [from(sender), to(receiver), ("network_io_direction", direction)];
                    expect(&agent, &labels, if is_kept { sent } else { (0.0, 0.0) });
                }
            }
        }
        assert_whole(&agent.scrape());
        agent.stop();
    }
}
