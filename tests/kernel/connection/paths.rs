//! Whatever translates addresses on the way: each packet counts once, at its sockets.

use std::process::Command;

use super::{BYTES, assert_whole, expect, from, start, to};
use crate::harness::agent::Agent;
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::{Netns, Pair};
use crate::harness::traffic::{Traffic, offload};
use crate::harness::{live, skipped};

/// Adds a rule that translates addresses; says why that cannot be had here.
fn translate(netns: &Netns, program: &str, rule: &[&str]) -> Result<(), String> {
    let run = || Command::new(program).args(["-w", "-t", "nat", "-A"]).args(rule).output();
    let output = netns.run(run).map_err(|error| format!("{program}: {error}"))?;
    let said = || String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {}", said())) }
}

/// Sends so many bytes through a service's address.
fn stream_through(netns: [&Netns; 2], cgroups: [&Cgroup; 2], service: [&str; 2], server: [&str; 2]) {
    let receiving = Traffic::ready(netns[1], cgroups[1], &["tcp_receive", server[0], server[1]]);
    Traffic::run(netns[0], cgroups[0], &["tcp_send", service[0], service[1], "1000000"]);
    receiving.finish();
}

/// Gives what the client's interface has sent, from the IP header on.
fn sent(netns: &Netns) -> f64 {
    const LINK_HEADER: u64 = 14;
    let counters = netns.quiet("veth");
    (counters.tx_bytes - LINK_HEADER * counters.tx_packets) as f64
}

fn expect_bytes(agent: &Agent, labels: &[(&str, &str)], bytes: f64) {
    agent.until_exactly(&format!("{labels:?}"), (bytes, 0.0), |scrape| (scrape.sum(BYTES, labels), 0.0));
}

/// As kube-proxy does: the sender translates a service's address to that of its backend, whom both ends then name.
#[test]
fn a_translated_service_is_its_backend() {
    let _kernel = live!();
    let pair = Pair::new();
    let families = [("iptables", "10.96.0.1", "10.99.0.2"), ("ip6tables", "fd00:96::1", "fd00::2")];
    pair.client.ip(&["route", "add", "10.96.0.0/16", "dev", "veth", "src", "10.99.0.1"]);
    pair.client.ip(&["route", "add", "fd00:96::/64", "dev", "veth"]);
    for (program, service, server) in families {
        for transport in ["tcp", "udp"] {
            let backend = if server.contains(':') { format!("[{server}]:7000") } else { format!("{server}:7000") };
            let rule =
                ["OUTPUT", "-d", service, "-p", transport, "--dport", "80", "-j", "DNAT", "--to-destination", &backend];
            if let Err(reason) = translate(&pair.client, program, &rule) {
                skipped(&reason);
                return;
            }
        }
    }
    // Each packet is one for the interface, too.
    for netns in [&pair.client, &pair.server] {
        offload(netns, "veth", false, false);
    }
    let agent = start(", ports: [7000]");
    for (program, service, server) in families {
        let cgroup = |name: &str| Cgroup::new(&format!("{name}-{program}"));
        let netns = [&pair.client, &pair.server];
        let (sender, receiver) = (cgroup("to-service"), cgroup("backend"));
        let before = sent(&pair.client);
        stream_through(netns, [&sender, &receiver], [service, "80"], [server, "7000"]);
        let sent = sent(&pair.client) - before;
        let labels = [from(&sender), to(&receiver), ("network_transport", "tcp"), ("server_port", "80")];
        expect_bytes(&agent, &labels, sent);
        expect_bytes(&agent, &[from(&sender)], sent);
        let answers = [from(&receiver), to(&sender), ("network_transport", "tcp"), ("server_port", "7000")];
        assert!(agent.scrape().sum(BYTES, &answers) > 0.0, "the other way has the same two ends");

        let (sender, receiver) = (cgroup("datagrams-to-service"), cgroup("datagrams-backend"));
        let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", server, "7000", "307"]);
        Traffic::run(&pair.client, &sender, &["udp_send", service, "80", "307", "500"]);
        receiving.finish();
        let header = if server.contains(':') { 48 } else { 28 };
        expect(&agent, &[from(&sender), to(&receiver)], (f64::from(307 * (500 + header)), 307.0));
        expect(&agent, &[from(&sender)], (f64::from(307 * (500 + header)), 307.0));
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

/// A router between two namespaces that hides who sends: nobody here can tell the two ends, and nothing counts twice.
#[test]
fn what_a_router_translates_counts_at_its_sockets_alone() {
    let _kernel = live!();
    let [client, router, server] = [Netns::new(), Netns::new(), Netns::new()];
    for (end, number) in [(&client, "1"), (&server, "2")] {
        let (own, near) = (format!("10.50.{number}.2/24"), format!("10.50.{number}.1"));
        let (own6, near6) = (format!("fd50:{number}::2/64"), format!("fd50:{number}::1"));
        let to = format!("to{number}");
        end.ip(&["link", "add", "veth", "type", "veth", "peer", "name", &to, "netns", &router.path()]);
        for (netns, device, v4, v6) in
            [(end, "veth", &own, &own6), (&router, &*to, &format!("{near}/24"), &format!("{near6}/64"))]
        {
            netns.ip(&["address", "add", v4, "dev", device]);
            netns.ip(&["address", "add", v6, "dev", device, "nodad"]);
            netns.ip(&["link", "set", device, "up"]);
        }
        end.ip(&["route", "add", "default", "via", &near]);
        end.ip(&["-6", "route", "add", "default", "via", &near6]);
        offload(end, "veth", false, false);
        offload(&router, &to, false, false);
    }
    router.set("ipv4/ip_forward", "1");
    router.set("ipv6/conf/all/forwarding", "1");
    for program in ["iptables", "ip6tables"] {
        if let Err(reason) = translate(&router, program, &["POSTROUTING", "-j", "MASQUERADE"]) {
            skipped(&reason);
            return;
        }
    }
    let agent = start(", ports: [7000]");
    for (address, header) in [("10.50.2.2", 28), ("fd50:2::2", 48)] {
        let cgroup = |name: &str| Cgroup::new(&format!("{name}-{header}"));
        let netns = [&client, &server];
        let (sender, receiver) = (cgroup("behind-router"), cgroup("beyond-router"));
        stream_through(netns, [&sender, &receiver], [address, "7000"], [address, "7000"]);
        let labels = [from(&sender), ("destination_workload_name", "private"), ("server_port", "7000")];
        agent.until("both collectors agree", |scrape| {
            let own = [("cgroup_path", sender.path()), ("network_io_direction", "transmit")];
            let (named, all) = (scrape.sum(BYTES, &labels), scrape.sum(BYTES, &[from(&sender)]));
            let counted = scrape.sum("ebpf_network_bytes_total", &own);
            (named > 1e6 && named == all && all == counted).then_some(())
        });
        assert!(agent.scrape().sum(BYTES, &[from(&receiver), ("destination_workload_name", "private")]) > 0.0);

        let (sender, receiver) = (cgroup("datagrams-behind"), cgroup("datagrams-beyond"));
        let receiving = Traffic::ready(&server, &receiver, &["udp_receive", address, "7000", "211"]);
        Traffic::run(&client, &sender, &["udp_send", address, "7000", "211", "700"]);
        receiving.finish();
        expect(&agent, &[from(&sender)], (f64::from(211 * (700 + header)), 211.0));
    }
    assert_whole(&agent.scrape());
    agent.stop();
}
