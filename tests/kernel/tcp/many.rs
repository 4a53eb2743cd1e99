//! Accept queues that overflow, and very many sockets.

use std::collections::BTreeMap;
use std::time::Duration;

use bpf::probe::Facts;

use super::{V4, V6, counts, label, numbers};
use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::line::Line;
use crate::harness::netns::{Netns, Pair};
use crate::harness::peer::Peer;
use crate::harness::{eventually, live};

const OVERFLOWS: &str = "ebpf_tcp_listen_overflows_total";

#[test]
fn full_accept_queues_are_their_listeners() {
    let _kernel = live!();
    let agent = Agent::start(Wish { collectors: &["network: {enabled: require}"], ..Wish::default() });
    if agent.lacks("network", "overflows of accept queues cannot be seen", (5, 12)) {
        return agent.stop();
    }
    for (address, network) in [V4, V6] {
        // Far enough for all to ask before the first is told: the ends of handshakes find the queue full; and near.
        let line = Line::new(Duration::from_millis(30));
        let pair = Pair::new();
        for (client, server, place) in [(&line.client, &line.server, "far"), (&pair.client, &pair.server, "near")] {
            let (clients, servers) = (
                Cgroup::new(&format!("full-client-{place}-{network}")),
                Cgroup::new(&format!("full-{place}-{network}")),
            );
            let (mut connecting, mut listening) = (Peer::start(&clients, client), Peer::start(&servers, server));
            listening.ask(&format!("listen {address} 7000 3"));
            connecting.ask(&format!("begin {address} 7000 20"));
            eventually("the counts agree", || {
                let scrape = agent.scrape();
                let kernel = server.snmp("TcpExt", "ListenOverflows") as f64;
                let counted = scrape.sum(OVERFLOWS, &[label(&servers)]);
                assert_eq!(scrape.sum(OVERFLOWS, &[label(&clients)]), 0.0);
                (counted > 10.0 && counted == kernel).then_some(())
            });
        }
    }
    assert_eq!(agent.scrape().sum("telesonde_bpf_map_overflow_total", &[("map", "overflows")]), 0.0);
    agent.stop();
}

/// Of so many a sandbox may hide a few ends (causes.rs tells): then all is done once more, and once it has to be exact.
#[test]
fn a_hundred_thousand_sockets_are_counted() {
    let _kernel = live!();
    let agent = Agent::start(Wish { collectors: &["tcp: {enabled: require}"], ..Wish::default() });
    assert!((0..3).any(|round| many_sockets(&agent, round)), "never were all of them counted");
    assert_eq!(agent.scrape().sum("telesonde_events_lost_total", &[("collector", "tcp")]), 0.0);
    agent.stop();
}

/// Says whether each of very many sockets was counted from its beginning to its end; it may be a few at most that were not.
/// How long gathers take is said, not asserted: it depends on what else the machine does.
fn many_sockets(agent: &Agent, round: u32) -> bool {
    // A process may have so many files.
    const EACH: u32 = 12_500;
    const AT_ONCE: u32 = 2_500;
    const FEW: f64 = 10.0;
    // Without storage beside sockets a map has room for 65,536 of them.
    let pairs = if Facts::gather().is_legacy() { 2 } else { 4 };
    let connections = pairs * EACH;
    let netns = Netns::new();
    netns.set("ipv4/ip_local_port_range", "1024 65535");
    netns.set("core/somaxconn", "4096");
    let named = |who| Cgroup::new(&format!("many-{who}-{round}"));
    let (clients, servers) = (named("clients"), named("servers"));
    let before = agent.rounds("tcp");
    let mut peers = Vec::new();
    for port in 700..700 + pairs {
        let (mut client, mut server) = (Peer::start(&clients, &netns), Peer::start(&servers, &netns));
        server.ask(&format!("listen 127.0.0.1 {port} 4096"));
        for _ in 0..EACH / AT_ONCE {
            assert_eq!(client.ask(&format!("connect 127.0.0.1 {port} {AT_ONCE}")), u64::from(AT_ONCE));
            server.ask(&format!("accept {AT_ONCE}"));
        }
        peers.push((client, server));
    }
    let is_exact = |found: &BTreeMap<String, f64>, expected: &BTreeMap<String, f64>| {
        for state in found.keys().chain(expected.keys()) {
            let of = |states: &BTreeMap<String, f64>| states.get(state).copied().unwrap_or_default();
            assert!((of(found) - of(expected)).abs() <= FEW, "{found:?}, not {expected:?}");
        }
        found == expected
    };
    let all = |cgroup, expected: BTreeMap<String, f64>| {
        let found =
            agent.at_rest("every socket is counted", |scrape| super::states(scrape, cgroup), |all| *all == expected);
        is_exact(&found, &expected)
    };
    let established = ("established", connections);
    let open = [all(&clients, numbers([established])), all(&servers, numbers([established, ("listen", pairs)]))];
    let with = agent.rounds("tcp");
    println!(
        "a gather of tcp takes {before:?} ms (least, median) without sockets, {with:?} ms with {}",
        2 * connections
    );
    let scrape = agent.scrape();
    let each = f64::from(connections);
    let [connects, others @ ..] = counts(&scrape, &clients, "ipv4");
    let [none, accepts, rest @ ..] = counts(&scrape, &servers, "ipv4");
    assert_eq!((others, none, rest), ([0.0; 3], 0.0, [0.0; 2]));
    assert!([connects, accepts].iter().all(|count| (each - FEW..=each).contains(count)), "{connects}, {accepts}");
    drop(peers);
    // Some orphans take their time: what the kernel still has is still counted, and of no process' own nothing is left.
    let what_is_left = |scrape: &_| {
        let mut counted = super::states(scrape, &clients);
        for (state, sockets) in super::states(scrape, &servers) {
            *counted.entry(state).or_default() += sockets;
        }
        (counted, super::proc_states(&netns))
    };
    let (left, kernel) =
        agent.at_rest("what the kernel still has is counted", what_is_left, |(counted, kernel)| counted == kernel);
    assert!(!kernel.contains_key("established") && !kernel.contains_key("listen"), "{kernel:?}");
    is_exact(&left, &kernel) && open == [true; 2] && [connects, accepts] == [each; 2]
}
