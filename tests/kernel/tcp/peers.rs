//! What becomes of connections, by peer: the same totals as without, and the peers' names.

use super::{COUNTERS, ERRORS, RETRANSMITS, V4, V6, label};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::{Netns, Pair};
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;

/// Connects, accepts, closes, resets, retransmissions and failed connects under these labels.
fn totals(scrape: &Scrape, labels: &[(&str, &str)]) -> [f64; 6] {
    let [a, b, c, d] = COUNTERS;
    [a, b, c, d, RETRANSMITS, ERRORS].map(|name| scrape.sum(name, labels))
}

/// Scrapes until the totals are these, and so many segments were sent again as the namespace says.
fn expect(agent: &Agent, cgroup: &Cgroup, netns: &Netns, before: u64, mut expected: [f64; 6]) {
    agent.until(&format!("all that became of {}", cgroup.path()), |scrape| {
        let found = totals(scrape, &[label(cgroup)]);
        expected[4] = (netns.snmp("Tcp", "RetransSegs") - before) as f64;
        assert!(found.iter().zip(expected).all(|(found, most)| *found <= most), "{found:?}, not {expected:?}");
        (found == expected).then_some(())
    });
}

#[test]
fn connections_by_peer_have_the_same_totals() {
    let _kernel = live!();
    let pair = Pair::new();
    for (silent, _) in [("10.99.0.77", "ipv4"), ("fd00::77", "ipv6")] {
        let to = ["lladdr", "02:00:00:00:00:77", "dev", "veth", "nud", "permanent"];
        pair.client.ip(&[&["neighbour", "add", silent], &to[..]].concat());
    }
    // A SYN is repeated once, and a second later.
    pair.client.set("ipv4/tcp_syn_retries", "1");
    for (number, section) in ["", ", peers: true", ", peers: true, max_peers: 1"].into_iter().enumerate() {
        let tcp = format!("tcp: {{enabled: require{section}}}");
        let enrich = "networks: {lab: [10.99.0.0/16, 'fd00::/64']}";
        let agent = Agent::start(Wish { collectors: &[&tcp], enrich, ..Wish::default() });
        let again = [&pair.client, &pair.server].map(|netns| netns.snmp("Tcp", "RetransSegs"));
        let (clients, servers) = (Cgroup::new(&format!("with-peers-{number}")), Cgroup::new(&format!("peer-{number}")));
        let (mut client, mut server) = (Peer::start(&clients, &pair.client), Peer::start(&servers, &pair.server));
        let mut caller = Peer::start(&clients, &pair.client);
        for silent in ["10.99.0.77", "fd00::77"] {
            caller.ask(&format!("begin {silent} 9 2"));
        }
        for (address, _) in [V4, V6] {
            server.ask(&format!("listen {address} 7000 128"));
            assert_eq!(client.ask(&format!("connect {address} 7000 7")), 7);
            server.ask("accept 7");
            client.ask("reset 2");
            server.ask("close 2");
            assert_eq!(client.ask(&format!("connect {address} 9 3")), 0);
            client.ask("close 5");
            server.ask("close 5");
        }
        let silent = [label(&clients)];
        agent.until("SYNs are repeated", |scrape| (scrape.sum(RETRANSMITS, &silent) >= 4.0).then_some(()));
        caller.ask("close 4");
        expect(&agent, &clients, &pair.client, again[0], [14.0, 0.0, 14.0, 4.0, 0.0, 10.0]);
        expect(&agent, &servers, &pair.server, again[1], [0.0, 14.0, 14.0, 4.0, 0.0, 0.0]);
        let scrape = agent.scrape();
        let named = |cgroup| totals(&scrape, &[label(cgroup), ("peer_workload_name", "lab")]);
        let full = scrape.value("telesonde_bpf_map_overflow_total", &[("map", "peers")]);
        match number {
            0 => {
                assert!(scrape.0.iter().all(|sample| !sample.labels.contains_key("peer_workload_name")));
                assert_eq!(full, None);
            }
            1 => {
                assert_eq!(named(&clients), totals(&scrape, &[label(&clients)]));
                assert_eq!(named(&servers), totals(&scrape, &[label(&servers)]));
                assert_eq!(full, Some(0.0));
            }
            // What found no room is its workload's without a peer.
            _ => assert!(full > Some(0.0) && named(&servers)[1] <= 7.0, "{full:?}"),
        }
        agent.stop();
    }
}
