//! Connections that live long, hardly begin, begin again, are no connections, or carry more than 32 bits can count.

use bpf::probe::Facts;

use super::{
    ACTIVE, BYTES, ENDS, FAMILIES, LINK_HEADER, OLDER, PACKETS, amount, assert_whole, expect, from, lacks, sent, start,
    to,
};
use crate::harness::agent::{Agent, Wish, is_emulated};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::Pair;
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::{Traffic, offload};

fn open(scrape: &Scrape, cgroup: &Cgroup) -> f64 {
    scrape.sum(ACTIVE, &[("cgroup_path", cgroup.path()), ("network_transport", "tcp")])
}

fn stream<'c>(sender: &'c Cgroup, receiver: &'c Cgroup) -> [(&'c str, &'c str); 4] {
    [from(sender), to(receiver), ("network_transport", "tcp"), ("server_port", "7000")]
}

/// Silent for longer than anything that has no end of its own may be, and older than the agent that sees its end.
#[test]
fn a_connection_outlives_silence_and_the_agent() {
    let _kernel = live!();
    let section = ", ports: [7000], idle_timeout: 1s, interval: 100ms";
    let first = start(section);
    if lacks(&first, OLDER) {
        return first.stop();
    }
    let pair = Pair::new();
    let mut streams: Vec<_> = FAMILIES
        .into_iter()
        .map(|(server, family)| {
            let cgroup = |name: &str| Cgroup::new(&format!("{name}-{family}"));
            let (sender, receiver, server) = (cgroup("steady"), cgroup("steady-server"), server.to_string());
            let receiving = Traffic::ready(&pair.server, &receiver, &["tcp_receive", &server, "7000"]);
            let sending = Traffic::ready(&pair.client, &sender, &["tcp_twice", &server, "7000", "2000000"]);
            (sender, receiver, sending, receiving)
        })
        .collect();
    for (sender, receiver, ..) in &streams {
        first.until("the first half has come", |scrape| {
            (scrape.sum(BYTES, &stream(sender, receiver)) > 2e6).then_some(())
        });
    }
    std::thread::sleep(std::time::Duration::from_millis(1500));
    for (sender, receiver, ..) in &streams {
        assert_eq!((open(&first.scrape(), sender), open(&first.scrape(), receiver)), (1.0, 1.0), "it is still open");
        assert!(first.scrape().sum(PACKETS, &[from(receiver)]) > 0.0, "what was acknowledged");
    }
    first.stop();

    let second = start(section);
    for (sender, receiver, sending, _) in &mut streams {
        assert_eq!(second.scrape().sum(BYTES, &stream(sender, receiver)), 0.0, "what went before is the former one's");
        sending.go_on();
    }
    for (sender, receiver, sending, receiving) in streams {
        sending.finish();
        receiving.finish();
        second.until("the second half has come, from and to the same", |scrape| {
            let half = scrape.sum(BYTES, &stream(&sender, &receiver));
            let network = [("cgroup_path", sender.path()), ("network_io_direction", "transmit")];
            (half > 2e6 && half == scrape.sum("ebpf_network_bytes_total", &network)).then_some(())
        });
        let scrape = second.scrape();
        assert_eq!(
            scrape.sum(BYTES, &[from(&sender)]),
            scrape.sum(BYTES, &stream(&sender, &receiver)),
            "and nothing else"
        );
        second
            .until("its end was seen", |scrape| (open(scrape, &sender) + open(scrape, &receiver) == 0.0).then_some(()));
    }
    assert_whole(&second.scrape());
    second.stop();
}

/// The answer to the SYN never arrives: the listening socket alone knows of it.
#[test]
fn half_a_handshake_counts_what_was_sent() {
    let _kernel = live!();
    let agent = start(", directions: both, ports: [7000]");
    let pair = Pair::new();
    let knocks = FAMILIES.map(|(server, family)| {
        let client = if server.is_ipv4() { Pair::CLIENT_V4 } else { Pair::CLIENT_V6 }.to_string();
        let nobody = ["lladdr", "02:00:00:00:00:09", "dev", "veth", "nud", "permanent"];
        pair.server.ip(&[&["neighbour", "replace", &client], &nobody[..]].concat());
        let (sender, receiver) =
            (Cgroup::new(&format!("knocker-{family}")), Cgroup::new(&format!("listener-{family}")));
        let address = server.to_string();
        let receiving = Traffic::ready(&pair.server, &receiver, &["tcp_receive", &address, "7000"]);
        let sending = Traffic::ready(&pair.client, &sender, &["tcp_knock", &address, "7000"]);
        (sender, receiver, sending, receiving, if server.is_ipv4() { 60.0 } else { 80.0 })
    });
    for (sender, receiver, mut sending, _receiving, size) in knocks {
        let known = [from(&sender), to(&receiver), ("server_port", "7000")];
        agent.until("each SYN counts at both ends", |scrape| {
            let way = |direction| amount(scrape, &[&known[..], &[("network_io_direction", direction)]].concat());
            let (left, came) = (way("transmit"), way("receive"));
            assert_eq!(left.0, size * left.1, "nothing but SYNs");
            (left.1 > 0.0 && left == came).then_some(())
        });
        assert_eq!((open(&agent.scrape(), &sender), open(&agent.scrape(), &receiver)), (1.0, 1.0));
        sending.go_on();
        sending.finish();
        if !Facts::gather().is_legacy() {
            agent.until("who gave up has none", |scrape| (open(scrape, &sender) == 0.0).then_some(()));
        }
    }
    agent.stop();
}

/// Whoever resets a connection gives its port back first: the reset is still that connection's, and ends it.
#[test]
fn a_reset_is_the_end_of_what_it_resets() {
    const CALLS: u32 = 7;
    let _kernel = live!();
    let agent = start(", ports: [7000]");
    if lacks(&agent, ENDS) {
        return agent.stop();
    }
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let cgroup = |name: &str| Cgroup::new(&format!("{name}-{family}"));
        let (sender, again, receiver) = (cgroup("resets"), cgroup("connects-again"), cgroup("is-reset"));
        let (mut client, mut listener) = (Peer::start(&sender, &pair.client), Peer::start(&receiver, &pair.server));
        listener.ask(&format!("listen {server} 7000 64"));
        assert_eq!(client.ask(&format!("connect {server} 7000 {CALLS}")), u64::from(CALLS));
        listener.ask(&format!("accept {CALLS}"));
        client.ask(&format!("reset {CALLS}"));
        let settled = |cgroup: &Cgroup, alive: f64| {
            let labels = [from(cgroup), ("server_port", "7000")];
            let network = [("cgroup_path", cgroup.path()), ("network_io_direction", "transmit")];
            agent.until("all of it is the connections'", |scrape| {
                let (own, all) = (amount(scrape, &labels), amount(scrape, &[from(cgroup)]));
                let sum = |metric| scrape.sum(metric, &network);
                let sent = (sum("ebpf_network_bytes_total"), sum("ebpf_network_packets_total"));
                (own == all && own == sent && own.1 > 0.0 && open(scrape, cgroup) == alive).then_some(())
            });
        };
        settled(&sender, 0.0);
        assert_eq!(amount(&agent.scrape(), &[from(&sender)]).1, f64::from(3 * CALLS), "SYN, ACK and RST");
        listener.ask(&format!("close {CALLS}"));
        settled(&receiver, 0.0);

        let address = server.to_string();
        let sending = Traffic::ready(&pair.client, &again, &["tcp_again", &address, "7000", "3000"]);
        settled(&again, 1.0);
        assert!(amount(&agent.scrape(), &[from(&again)]).0 > 6000.0);
        drop(sending);
        settled(&again, 0.0);
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

/// Two workloads, one after the other, with the very same addresses and ports.
#[test]
fn ports_that_are_used_again_belong_to_their_present_owner() {
    let _kernel = live!();
    let agent = start(", ports: [7000]");
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let address = server.to_string();
        let cgroup = |name: &str| Cgroup::new(&format!("{name}-{family}"));
        let (one, other, receiver) = (cgroup("one"), cgroup("other"), cgroup("reused"));
        let serving = Traffic::ready(&pair.server, &receiver, &["tcp_serve", &address, "7000", "300000", "2"]);
        Traffic::run(&pair.client, &one, &["tcp_fetch", &address, "7000", "5555"]);
        Traffic::run(&pair.client, &other, &["tcp_fetch", &address, "7000", "5555"]);
        serving.finish();
        agent.until("both had as much, and the sender no more", |scrape| {
            let had = |cgroup| scrape.sum(BYTES, &[from(&receiver), to(cgroup), ("server_port", "7000")]);
            let sent = [("cgroup_path", receiver.path()), ("network_io_direction", "transmit")];
            let all = scrape.sum("ebpf_network_bytes_total", &sent);
            let total = scrape.sum(BYTES, &[from(&receiver)]);
            println!("{family}: {} and {} of {total}; {all}", had(&one), had(&other));
            (had(&one) > 3e5 && had(&other) > 3e5 && had(&one) + had(&other) == all && total == all).then_some(())
        });
        let (one, other) = (cgroup("one-datagrams"), cgroup("other-datagrams"));
        let header = if server.is_ipv4() { 28 } else { 48 };
        for (sender, count) in [(&one, 101), (&other, 103)] {
            let action = ["udp_send_from", &address, "7000", &count.to_string(), "200", "5556"];
            Traffic::run(&pair.client, sender, &action);
        }
        for (sender, count) in [(&one, 101), (&other, 103)] {
            expect(&agent, &[from(sender)], (f64::from(count * (200 + header)), f64::from(count)));
        }
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

#[test]
fn echoes_are_one_class_without_ports() {
    const COUNT: u32 = 97;
    const SIZE: u32 = 256;
    let _kernel = live!();
    let agent = start("");
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let sender = Cgroup::new(&format!("echo-{family}"));
        Traffic::run(
            &pair.client,
            &sender,
            &["icmp_send", &server.to_string(), "0", &COUNT.to_string(), &SIZE.to_string()],
        );
        let header = if server.is_ipv4() { 20 } else { 40 };
        let labels = [from(&sender), ("network_transport", "icmp")];
        expect(&agent, &labels, (f64::from(COUNT * (SIZE + header)), f64::from(COUNT)));
        assert!(agent.scrape().all(BYTES, &labels).all(|sample| !sample.labels.contains_key("server_port")));
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

#[test]
fn addresses_are_shown_by_wish_and_within_their_budget() {
    let _kernel = live!();
    let agent = start(", max_addresses: 2");
    let (pair, sender) = (Pair::new(), Cgroup::new("to-many"));
    for number in 10..15 {
        let (address, to) =
            (format!("10.99.0.{number}"), ["lladdr", "02:00:00:00:00:02", "dev", "veth", "nud", "permanent"]);
        pair.client.ip(&[&["neighbour", "add", &address], &to[..]].concat());
        Traffic::run(&pair.client, &sender, &["udp_send", &address, "7000", "10", "72"]);
        // One after the other: the first two are shown.
        expect(&agent, &[from(&sender)], (f64::from(number - 9) * 1000.0, f64::from(number - 9) * 10.0));
    }
    let scrape = agent.scrape();
    // Others of this machine take part in the budget.
    let shown: Vec<_> = scrape.all(BYTES, &[]).filter_map(|sample| sample.labels.get("network_peer_address")).collect();
    let mut known: Vec<_> = shown.into_iter().filter(|address| !address.is_empty()).collect();
    known.sort();
    known.dedup();
    assert!((1..=2).contains(&known.len()), "{known:?}");
    agent.stop();
}

/// Echoes of both families are one class with one sum.
#[test]
fn protocols_of_one_class_are_summed() {
    let _kernel = live!();
    let agent = start("");
    let (pair, sender) = (Pair::new(), Cgroup::new("both-echoes"));
    for (server, _) in FAMILIES {
        Traffic::run(&pair.client, &sender, &["icmp_send", &server.to_string(), "0", "11", "100"]);
    }
    let labels = [from(&sender), ("network_transport", "icmp")];
    expect(&agent, &labels, (11.0 * (120.0 + 140.0), 22.0));
    agent.scrape();
    expect(&agent, &labels, (11.0 * (120.0 + 140.0), 22.0));
    agent.stop();
}

/// More bytes on one connection than 32 bits can count.
#[test]
fn bytes_beyond_32_bits_are_counted() {
    const COUNT: u32 = 66_000;
    const SIZE: u32 = 65_400;
    let _kernel = live!();
    let agent = start("");
    let pair = Pair::new();
    let cgroup = Cgroup::new;
    for netns in [&pair.client, &pair.server] {
        netns.ip(&["link", "set", "veth", "mtu", "65535"]);
        // Each packet is one for the interface, too.
        offload(netns, "veth", false, false);
    }
    // Nobody has that address: the other end drops what comes.
    let nobody = ["lladdr", "02:00:00:00:00:02", "dev", "veth", "nud", "permanent"];
    pair.client.ip(&[&["neighbour", "add", "10.99.0.9"], &nobody[..]].concat());
    let sender = cgroup("plenty");
    Traffic::run(&pair.client, &sender, &["udp_send", "10.99.0.9", "7000", &COUNT.to_string(), &SIZE.to_string()]);
    let bytes = f64::from(COUNT) * f64::from(SIZE + 28);
    assert!(bytes > f64::from(u32::MAX));
    expect(&agent, &[from(&sender)], (bytes, f64::from(COUNT)));
    assert_whole(&agent.scrape());
    if is_emulated() {
        return;
    }

    let (sender, receiver, server) = (cgroup("stream"), cgroup("stream-server"), Pair::SERVER_V6.to_string());
    let before = sent(&pair, LINK_HEADER);
    let receiving = Traffic::ready(&pair.server, &receiver, &["tcp_receive", &server, "7000"]);
    Traffic::run(&pair.client, &sender, &["tcp_send", &server, "7000", "4400000000"]);
    receiving.finish();
    agent.until("the interface and the socket agree", |scrape| {
        let (own, interface) = (scrape.sum(BYTES, &[from(&sender), to(&receiver)]), sent(&pair, LINK_HEADER) - before);
        println!("{own} of {interface}");
        (own > 4.4e9 && own == interface).then_some(())
    });
    assert_whole(&agent.scrape());
    agent.stop();
}

/// The same traffic once as it is and once by peer: the same totals, and the peers' names.
#[test]
fn traffic_by_peer_has_the_same_totals() {
    const METRICS: [&str; 2] = ["ebpf_network_bytes_total", "ebpf_network_packets_total"];
    let _kernel = live!();
    let pair = Pair::new();
    let mut all = Vec::new();
    for peers in ["false", "true"] {
        let network = format!("network: {{enabled: require, peers: {peers}}}");
        let collectors = ["connection: {enabled: require}", &network];
        let agent = Agent::start(Wish { collectors: &collectors, ..Wish::default() });
        let (sender, receiver) = (Cgroup::new(&format!("peers-{peers}")), Cgroup::new(&format!("peer-{peers}")));
        let mut totals = Vec::new();
        for (server, family) in FAMILIES {
            let address = server.to_string();
            let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", &address, "7000", "101"]);
            Traffic::run(&pair.client, &sender, &["udp_send", &address, "7000", "101", "500"]);
            receiving.finish();
            Traffic::run(&pair.client, &sender, &["icmp_send", &address, "0", "7", "64"]);
            let header = if server.is_ipv4() { 20 } else { 40 };
            let datagrams = (f64::from(101 * (508 + header)), 101.0);
            let icmp = if server.is_ipv4() { "icmp" } else { "icmpv6" };
            let way = |cgroup: &Cgroup, direction, transport, expected| {
                let labels = [
                    ("cgroup_path", cgroup.path()),
                    ("network_io_direction", direction),
                    ("network_transport", transport),
                    ("network_type", family),
                ];
                let read = |scrape: &Scrape| (scrape.sum(METRICS[0], &labels), scrape.sum(METRICS[1], &labels));
                agent.until_exactly(&format!("{labels:?}"), expected, read);
                read(&agent.scrape())
            };
            totals.push(way(&sender, "transmit", "udp", datagrams));
            totals.push(way(&receiver, "receive", "udp", datagrams));
            totals.push(way(&sender, "transmit", icmp, (f64::from(7 * (64 + header)), 7.0)));
        }
        let scrape = agent.scrape();
        let toward = [("cgroup_path", sender.path()), ("peer_cgroup_path", receiver.path())];
        let named = scrape.sum(METRICS[1], &toward);
        assert_eq!(named, if peers == "true" { 202.0 } else { 0.0 }, "the peer's name");
        all.push(totals);
        agent.stop();
    }
    assert_eq!(all[0], all[1]);
}

#[test]
fn maps_are_printed_with_what_they_mean() {
    let _kernel = live!();
    let agent = start("");
    let (pair, sender) = (Pair::new(), Cgroup::new("printed"));
    Traffic::run(&pair.client, &sender, &["udp_send", "10.99.0.2", "7000", "3", "72"]);
    expect(&agent, &[from(&sender)], (300.0, 3.0));
    let tool = |arguments: &[&str]| {
        let output = agent.tool(arguments);
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (_, list, _) = tool(&["debug", "maps"]);
    assert!(list.contains("connection/connections") && list.contains("network/flows"), "{list}");
    let (_, entries, _) = tool(&["debug", "maps", "connection/connections"]);
    let own = format!("{{tuple: {{cgroup: {}, ", sender.id());
    let line = entries.lines().find(|line| line.contains(&own)).unwrap_or_else(|| panic!("{entries}"));
    assert!(line.contains("remote_port: 7000") && line.contains("sent: {bytes: 300, packets: 3}"), "{line}");
    let (_, flows, _) = tool(&["debug", "maps", "network/flows"]);
    let flow = format!("{{cgroup: {}, direction: 0, family: 4, transport: 17}} ", sender.id());
    assert!(flows.contains(&flow), "{flows}");
    let (_, ring, _) = tool(&["debug", "maps", "connection/overflow"]);
    assert!(ring.contains("would take them"), "{ring}");
    let (found, _, error) = tool(&["debug", "maps", "connection/nothing"]);
    assert!(!found && error.contains("/maps lists") || error.contains("404"), "{error}");
    agent.stop();
}
