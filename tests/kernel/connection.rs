//! Who talks to whom, exactly and once.

mod events;
mod lives;
mod many;
mod namespaces;
mod paths;

use std::net::IpAddr;

use bpf::probe::Facts;

use crate::harness::agent::{Agent, Wish, is_emulated};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::Pair;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::{Traffic, offload};

const BYTES: &str = "ebpf_connection_bytes_total";
const PACKETS: &str = "ebpf_connection_packets_total";
const ACTIVE: &str = "ebpf_active_connections";
const LINK_HEADER: u64 = 14;
const FAMILIES: [(IpAddr, &str); 2] = [(Pair::SERVER_V4, "ipv4"), (Pair::SERVER_V6, "ipv6")];

/// Bytes and packets.
type Amount = (f64, f64);

fn start(section: &str) -> Agent {
    let section = format!("connection: {{enabled: require{section}}}");
    Agent::start(Wish { collectors: &[&section, "network: {enabled: require}"], alone: true, ..Wish::default() })
}

fn amount(scrape: &Scrape, labels: &[(&str, &str)]) -> Amount {
    (scrape.sum(BYTES, labels), scrape.sum(PACKETS, labels))
}

fn from(cgroup: &Cgroup) -> (&str, &str) {
    ("source_cgroup_path", cgroup.path())
}

fn to(cgroup: &Cgroup) -> (&str, &str) {
    ("destination_cgroup_path", cgroup.path())
}

/// Scrapes until there is an amount under these labels, never more.
fn expect(agent: &Agent, labels: &[(&str, &str)], expected: Amount) {
    agent.until_exactly(&format!("{labels:?}"), expected, |scrape| amount(scrape, labels));
}

/// Gives what the client's interface has sent, without so many bytes of each packet.
fn sent(pair: &Pair, link_header: u64) -> f64 {
    let counters = pair.client.counters("veth");
    (counters.tx_bytes - link_header * counters.tx_packets) as f64
}

/// Sends datagrams and a stream from one namespace to an address of the other, which must count once, under both
/// workloads; what the interface has sent of each packet beyond its IP header is told.
fn expect_once(agent: &Agent, pair: &Pair, path: &str, server: &str, link_header: u64) {
    const COUNT: u32 = 503;
    const SIZE: u32 = 600;
    let cgroup = |name: &str| Cgroup::new(&format!("{path}-{name}-{}", server.contains(':')));
    let (sender, receiver) = (cgroup("sender"), cgroup("receiver"));
    let count = COUNT.to_string();
    let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", server, "7000", &count]);
    Traffic::run(&pair.client, &sender, &["udp_send", server, "7000", &count, &SIZE.to_string()]);
    receiving.finish();
    let header = if server.contains(':') { 48 } else { 28 };
    let expected = (f64::from(COUNT * (SIZE + header)), f64::from(COUNT));
    for direction in ["transmit", "receive"] {
        expect(agent, &[from(&sender), to(&receiver), ("network_io_direction", direction)], expected);
    }
    let all = amount(&agent.scrape(), &[from(&sender)]);
    assert_eq!(all, (2.0 * expected.0, 2.0 * expected.1), "{path}: each way once, and nothing else");

    let (sender, receiver) = (cgroup("stream"), cgroup("stream-receiver"));
    let before = sent(pair, link_header);
    let receiving = Traffic::ready(&pair.server, &receiver, &["tcp_receive", server, "7000"]);
    Traffic::run(&pair.client, &sender, &["tcp_send", server, "7000", "1000000"]);
    receiving.finish();
    let labels = [from(&sender), to(&receiver), ("network_io_direction", "transmit")];
    agent.until("the interface and the socket agree", |scrape| {
        let (own, interface) = (scrape.sum(BYTES, &labels), sent(pair, link_header) - before);
        println!("{path} to {server}: {own} of {interface}");
        (own > 1e6 && own == interface).then_some(())
    });
    let all = [from(&sender), ("network_io_direction", "transmit")];
    assert_eq!(agent.scrape().sum(BYTES, &all), agent.scrape().sum(BYTES, &labels), "{path}: and nothing else");
}

/// Without a full table, and without a program that was skipped, what was counted is all that was.
fn assert_whole(scrape: &Scrape) {
    assert_eq!(scrape.value("telesonde_bpf_map_overflow_total", &[("map", "connections")]), Some(0.0));
    assert_eq!(scrape.sum("telesonde_events_lost_total", &[("collector", "connection")]), 0.0);
}

/// What the collector cannot see before Linux 5.12, in its own words.
const OLDER: &str = "older than the agent belong to the workload kernel";
const ENDS: &str = "the ends of TCP connections are not seen";

/// Says whether this kernel lacks something; then the collector has to say so.
fn lacks(agent: &Agent, words: &str) -> bool {
    agent.lacks("connection", words, (5, 12))
}

#[test]
fn connections_are_followed_by_wish() {
    let _kernel = live!();
    let wish = Wish {
        collectors: &["network: {enabled: require}", "connection: {enabled: false}"],
        alone: true,
        ..Wish::default()
    };
    let agent = Agent::start(wish);
    let pair = Pair::new();
    let mut before = "false";
    for (wanted, name) in [("false", "unfollowed"), ("true", "followed"), ("false", "unfollowed-again")] {
        if wanted != before {
            let [from, to] = [before, wanted].map(|enabled| format!("connection: {{enabled: {enabled}}}"));
            agent.rewrite(&[(&from, &to)]);
            let (code, answer) = agent.reload();
            assert_eq!(code, Some(0), "{answer}");
            before = wanted;
        }
        let sender = Cgroup::new(name);
        // What an old kernel does not tell degrades it.
        let states: &[&str] = match wanted {
            "true" if Facts::gather().is_legacy() => &["running", "degraded"],
            "true" => &["running"],
            _ => &["disabled"],
        };
        agent.until(&format!("connection is {states:?}"), |scrape| {
            let labels = |state| [("collector", "connection"), ("state", state)];
            let is = |state| scrape.value("telesonde_collector_state", &labels(state)) == Some(1.0);
            states.iter().any(|state| is(*state)).then_some(())
        });
        Traffic::run(&pair.client, &sender, &["udp_send", "10.99.0.2", "7000", "17", "72"]);
        let sent = (1700.0, 17.0);
        // The collector network has read the same packets.
        let network = [("cgroup_path", sender.path()), ("network_io_direction", "transmit")];
        agent.until_exactly("the bare counter", sent, |scrape| {
            let sum = |metric| scrape.sum(metric, &network);
            (sum("ebpf_network_bytes_total"), sum("ebpf_network_packets_total"))
        });
        expect(&agent, &[from(&sender)], if wanted == "true" { sent } else { (0.0, 0.0) });
        let alive = agent.scrape().sum(ACTIVE, &[("cgroup_path", sender.path())]);
        assert_eq!(alive, if wanted == "true" { 1.0 } else { 0.0 });
    }
    agent.stop();
}

#[test]
fn datagrams_count_once_from_whom_to_whom() {
    const COUNT: u32 = 1009;
    const SIZE: u32 = 333;
    let _kernel = live!();
    let agent = start(", directions: both, ports: [7000]");
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let (sender, receiver) = (Cgroup::new(&format!("sender-{family}")), Cgroup::new(&format!("receiver-{family}")));
        let (address, count) = (server.to_string(), COUNT.to_string());
        let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", &address, "7000", &count]);
        Traffic::run(&pair.client, &sender, &["udp_send", &address, "7000", &count, &SIZE.to_string()]);
        receiving.finish();
        let header = if server.is_ipv4() { 28 } else { 48 };
        let expected = (f64::from(COUNT * (SIZE + header)), f64::from(COUNT));
        let known = [from(&sender), to(&receiver), ("network_transport", "udp"), ("server_port", "7000")];
        for direction in ["transmit", "receive"] {
            let labels: Vec<_> = known.into_iter().chain([("network_io_direction", direction)]).collect();
            expect(&agent, &labels, expected);
        }
        for party in [from(&sender), to(&receiver)] {
            assert_eq!(amount(&agent.scrape(), &[party]), (2.0 * expected.0, 2.0 * expected.1), "and nothing else");
        }
        let alive = [("cgroup_path", sender.path()), ("network_transport", "udp")];
        assert_eq!(agent.scrape().sum(ACTIVE, &alive), 1.0);
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

#[test]
fn streams_count_what_their_sockets_sent() {
    const SIZE: &str = "3000000";
    let _kernel = live!();
    let agent = start(", ports: [7000]");
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let (sender, receiver) = (Cgroup::new(&format!("from-{family}")), Cgroup::new(&format!("to-{family}")));
        let address = server.to_string();
        let receiving = Traffic::ready(&pair.server, &receiver, &["tcp_receive", &address, "7000"]);
        Traffic::run(&pair.client, &sender, &["tcp_send", &address, "7000", SIZE]);
        receiving.finish();
        for (source, destination) in [(&sender, &receiver), (&receiver, &sender)] {
            let labels = [from(source), to(destination), ("network_transport", "tcp"), ("server_port", "7000")];
            let mut seen = ((0.0, 0.0), (0.0, 0.0));
            agent.until("both collectors agree", |scrape| {
                let workload = [("cgroup_path", source.path()), ("network_io_direction", "transmit")];
                let network = |metric| scrape.sum(metric, &workload);
                let sent = (network("ebpf_network_bytes_total"), network("ebpf_network_packets_total"));
                seen = (amount(scrape, &labels), sent);
                (seen.0 == sent && sent.1 > 0.0).then_some(())
            });
            println!("{family}: {seen:?}");
            assert_eq!(amount(&agent.scrape(), &[from(source)]), seen.1, "and nothing else");
        }
        assert!(amount(&agent.scrape(), &[from(&sender)]).0 > 3e6);
        agent.until("none is open any more", |scrape| {
            let open = |cgroup: &Cgroup| scrape.sum(ACTIVE, &[("cgroup_path", cgroup.path())]);
            // Ends of connections are not seen before Linux 5.12.
            (open(&sender) + open(&receiver) == 0.0 || Facts::gather().is_legacy()).then_some(())
        });
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

#[test]
fn a_tunnel_and_a_bridge_count_nothing_twice() {
    /// Ethernet, IPv4, UDP and VXLAN around a packet that has a link header of its own.
    const TUNNEL: u64 = 14 + 20 + 8 + 8 + 14;
    let _kernel = live!();
    let agent = start(", directions: both");
    let pair = Pair::new();
    let ends = [(&pair.client, "1", "2"), (&pair.server, "2", "1")];
    for (netns, own, other) in ends {
        let (local, remote) = (format!("10.99.0.{own}"), format!("10.99.0.{other}"));
        let tunnel = ["type", "vxlan", "id", "7", "dstport", "4789", "dev", "veth", "local", &local, "remote", &remote];
        netns.ip(&[&["link", "add", "tunnel"], &tunnel[..]].concat());
        // Each packet is one for the interface, too.
        for interface in ["veth", "tunnel"] {
            offload(netns, interface, false, false);
        }
    }
    pair.set_up("tunnel", "10.98.0", "fd98:");
    pair.client.quiet("veth");
    for server in ["10.98.0.2", "fd98::2"] {
        expect_once(&agent, &pair, "tunnel", server, TUNNEL);
    }
    for (netns, own, _) in ends {
        netns.ip(&["link", "add", "bridge", "type", "bridge", "mcast_snooping", "0"]);
        netns.ip(&["link", "set", "tunnel", "master", "bridge"]);
        for address in [format!("10.98.0.{own}/24"), format!("fd98::{own}/64")] {
            netns.ip(&["address", "del", &address, "dev", "tunnel"]);
        }
        netns.ip(&["link", "set", "bridge", "mtu", "1450"]);
        offload(netns, "bridge", false, false);
    }
    pair.set_up("bridge", "10.97.0", "fd97:");
    pair.client.wait_for_link("bridge");
    pair.server.wait_for_link("bridge");
    pair.client.quiet("veth");
    for server in ["10.97.0.2", "fd97::2"] {
        expect_once(&agent, &pair, "bridge", server, TUNNEL);
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

#[test]
fn a_socket_that_is_older_than_the_agent_counts_from_then_on() {
    const COUNT: &str = "211";
    let _kernel = live!();
    let first = start("");
    if lacks(&first, OLDER) {
        return first.stop();
    }
    let pair = Pair::new();
    let mut senders: Vec<_> = FAMILIES
        .into_iter()
        .map(|(server, family)| {
            let sender = Cgroup::new(&format!("older-{family}"));
            let directory = sender.directory().to_str().unwrap();
            let traffic = Traffic::ready(
                &pair.client,
                &sender,
                &["udp_move", &server.to_string(), "7000", COUNT, "100", directory],
            );
            let header = if server.is_ipv4() { 28.0 } else { 48.0 };
            (sender, traffic, (211.0 * (100.0 + header), 211.0))
        })
        .collect();
    for (sender, _, expected) in &senders {
        expect(&first, &[from(sender)], *expected);
    }
    first.stop();
    let second = start("");
    for (sender, traffic, _) in &mut senders {
        assert_eq!(amount(&second.scrape(), &[from(sender)]), (0.0, 0.0), "what went before is the former one's");
        traffic.go_on();
    }
    for (sender, traffic, expected) in senders {
        traffic.finish();
        expect(&second, &[from(&sender)], expected);
        let private = [from(&sender), ("destination_workload_name", "private")];
        assert_eq!(amount(&second.scrape(), &private), expected, "nobody here has that port");
    }
    second.stop();
}

#[test]
fn a_flood_of_a_million_connections_loses_nothing_uncounted() {
    let _kernel = live!();
    let agent = start("");
    let (pair, sender) = (Pair::new(), Cgroup::new("flood"));
    let server = Pair::SERVER_V4.to_string();
    // In parts, each of which ends in time on a busy machine.
    let parts = if is_emulated() { 1 } else { 5 };
    for _ in 0..parts {
        Traffic::run(&pair.client, &sender, &["udp_scatter", &server, "5000", "4", "50000"]);
    }
    let packets = f64::from(parts * 4 * 50_000);
    let sent = (packets * 29.0, packets);
    let network = |scrape: &Scrape, labels: &[(&str, &str)]| {
        let labels: Vec<_> = labels.iter().copied().chain([("network_io_direction", "transmit")]).collect();
        scrape.sum("ebpf_network_bytes_total", &labels)
    };
    agent.until("all is in the table, came through the overflow, or is counted as lost", |scrape| {
        assert_eq!(network(scrape, &[("cgroup_path", sender.path())]), sent.0, "the bare counter of the same hook");
        let named = amount(scrape, &[from(&sender)]);
        let lost = amount(scrape, &[("otel_metric_overflow", "true")]);
        let all = amount(scrape, &[]);
        println!("{named:?} named, {lost:?} lost, {all:?} in all; the hook had {}", network(scrape, &[]));
        assert!(named.0 <= sent.0, "{named:?}");
        // Others on this machine send, too, and may have lost at most what they sent.
        let others = network(scrape, &[]) - sent.0;
        let excess = named.0 + lost.0 - sent.0;
        (0.0 <= excess && excess <= others).then_some(())
    });
    assert!(agent.scrape().value("telesonde_bpf_map_overflow_total", &[("map", "connections")]) > Some(0.0));
    agent.stop();
}
