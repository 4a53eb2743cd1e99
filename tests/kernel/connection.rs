//! Who talks to whom, exactly and once.

use std::net::IpAddr;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::Pair;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::Traffic;

const BYTES: &str = "ebpf_connection_bytes_total";
const PACKETS: &str = "ebpf_connection_packets_total";
const ACTIVE: &str = "ebpf_active_connections";
const FAMILIES: [(IpAddr, &str); 2] = [(Pair::SERVER_V4, "ipv4"), (Pair::SERVER_V6, "ipv6")];

/// Bytes and packets.
type Amount = (f64, f64);

fn start(section: &str) -> Agent {
    let section = format!("connection: {{enabled: require{section}}}");
    Agent::start(Wish { collectors: &[&section, "network: {enabled: require}"], ..Wish::default() })
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
    let mut last = (-1.0, 0.0);
    agent.until(&format!("{labels:?} has {expected:?}"), |scrape| {
        let now = amount(scrape, labels);
        if now != last {
            println!("{labels:?} has {now:?}, not yet {expected:?}");
        }
        last = now;
        assert!(last.0 <= expected.0 && last.1 <= expected.1, "{labels:?}: {last:?}, not {expected:?}");
        (last == expected).then_some(())
    });
}

/// Without a full table, and without a program that was skipped, what was counted is all that was.
fn assert_whole(scrape: &Scrape) {
    assert_eq!(scrape.value("telesonde_bpf_map_overflow_total", &[("map", "connections")]), Some(0.0));
    assert_eq!(scrape.sum("telesonde_events_lost_total", &[("collector", "connection")]), 0.0);
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
            (open(&sender) + open(&receiver) == 0.0).then_some(())
        });
    }
    assert_whole(&agent.scrape());
    agent.stop();
}
