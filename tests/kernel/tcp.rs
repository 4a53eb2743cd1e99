//! TCP connections of known workloads, in network namespaces other than the agent's.

mod causes;
mod many;
mod peers;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::line::{Line, Packets, Way};
use crate::harness::netns::{Netns, Pair};
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;
use crate::harness::{eventually, live};

const COUNTERS: [&str; 4] =
    ["ebpf_tcp_connects_total", "ebpf_tcp_accepts_total", "ebpf_tcp_closes_total", "ebpf_tcp_resets_total"];
const CONNECTIONS: &str = "ebpf_tcp_connections";
const ERRORS: &str = "ebpf_tcp_connect_errors_total";
const RETRANSMITS: &str = "ebpf_tcp_retransmits_total";
const V4: (IpAddr, &str) = (Pair::SERVER_V4, "ipv4");
const V6: (IpAddr, &str) = (Pair::SERVER_V6, "ipv6");

fn start() -> Agent {
    Agent::start(Wish { collectors: &["tcp: {enabled: require, rtt_interval: 50ms}"], ..Wish::default() })
}

fn label(cgroup: &Cgroup) -> (&str, &str) {
    ("cgroup_path", cgroup.path())
}

/// Gives connects, accepts, closes and resets of a cgroup on a network.
fn counts(scrape: &Scrape, cgroup: &Cgroup, network: &str) -> [f64; 4] {
    COUNTERS.map(|name| scrape.sum(name, &[label(cgroup), ("network_type", network)]))
}

/// Scrapes until the counts of a cgroup are there.
fn expect(agent: &Agent, cgroup: &Cgroup, network: &str, expected: [u32; 4]) {
    let expected = expected.map(f64::from);
    let mut found = [0.0; 4];
    let what = format!("{expected:?} connects, accepts, closes, resets of {}", cgroup.path());
    agent.until(&what, |scrape| {
        found = counts(scrape, cgroup, network);
        assert!(found.iter().zip(expected).all(|(found, expected)| *found <= expected), "{what}: {found:?}");
        (found == expected).then_some(())
    });
}

/// Gives the sockets of a cgroup by state.
fn states(scrape: &Scrape, cgroup: &Cgroup) -> BTreeMap<String, f64> {
    let mut states = BTreeMap::new();
    for sample in scrape.all(CONNECTIONS, &[label(cgroup)]) {
        *states.entry(sample.labels["network_connection_state"].clone()).or_default() += sample.value;
    }
    states
}

/// Gives what `/proc/net/tcp` and `/proc/net/tcp6` say of a namespace.
fn proc_states(netns: &Netns) -> BTreeMap<String, f64> {
    const NAMES: [&str; 12] = [
        "",
        "established",
        "syn_sent",
        "syn_received",
        "fin_wait_1",
        "fin_wait_2",
        "time_wait",
        "closed",
        "close_wait",
        "last_ack",
        "listen",
        "closing",
    ];
    let mut states = BTreeMap::new();
    for line in
        ["tcp", "tcp6"].iter().flat_map(|file| netns.read(file).lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
    {
        let state = line.split_whitespace().nth(3).unwrap();
        let name = NAMES[usize::from_str_radix(state, 16).unwrap()];
        if name != "time_wait" {
            *states.entry(name.to_owned()).or_default() += 1.0;
        }
    }
    states
}

/// Gives the programs that the kernel skipped: they would have run within themselves on one CPU.
fn missed(scrape: &Scrape) -> Vec<(String, f64)> {
    let skipped = scrape.all("telesonde_bpf_misses_total", &[]).filter(|sample| sample.value > 0.0);
    skipped.map(|sample| (sample.labels["program"].clone(), sample.value)).collect()
}

/// Gives the mean round trip of a cgroup's connections, once it is known; nothing where the kernel does not tell.
fn rtt(agent: &Agent, cgroup: &Cgroup) -> Option<f64> {
    if agent.lacks("tcp", "no round trips of open ones", (5, 12)) {
        assert_eq!(agent.scrape().all("ebpf_tcp_rtt_us", &[]).count(), 0, "what is not known is absent");
        return None;
    }
    Some(agent.until("round trips are read", |scrape| scrape.value("ebpf_tcp_rtt_us", &[label(cgroup)])))
}

/// Scrapes until both say the same, and gives what they say.
fn agree(agent: &Agent, cgroup: &Cgroup, netns: &Netns) -> BTreeMap<String, f64> {
    let mut differ = String::new();
    let attempt = || {
        let before = proc_states(netns);
        let seen = states(&agent.scrape(), cgroup);
        differ = format!("{seen:?}, in /proc {before:?}");
        (seen == before).then_some(seen)
    };
    let mut attempt = attempt;
    for _ in 0..200 {
        if let Some(states) = attempt() {
            return states;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("{}: {differ}", cgroup.path());
}

fn numbers<const N: usize>(states: [(&str, u32); N]) -> BTreeMap<String, f64> {
    states.map(|(name, number)| (name.to_owned(), f64::from(number))).into()
}

#[test]
fn connections_are_counted_from_their_beginning_to_their_end() {
    let _kernel = live!();
    let agent = start();
    let pair = Pair::new();
    for (address, network) in [V4, V6] {
        let (clients, servers) =
            (Cgroup::new(&format!("tcp-client-{network}")), Cgroup::new(&format!("tcp-server-{network}")));
        let (mut client, mut server) = (Peer::start(&clients, &pair.client), Peer::start(&servers, &pair.server));
        server.ask(&format!("listen {address} 7000 128"));
        assert_eq!(client.ask(&format!("connect {address} 7000 57")), 57);
        server.ask("accept 57");
        assert_eq!(agree(&agent, &clients, &pair.client), numbers([("established", 57)]));
        assert_eq!(agree(&agent, &servers, &pair.server), numbers([("established", 57), ("listen", 1)]));
        expect(&agent, &clients, network, [57, 0, 0, 0]);
        expect(&agent, &servers, network, [0, 57, 0, 0]);
        let scrape = agent.scrape();
        for (cgroup, direction) in [(&clients, "outbound"), (&servers, "inbound")] {
            let wanted = [label(cgroup), ("direction", direction), ("network_type", network)];
            assert_eq!(scrape.sum(CONNECTIONS, &wanted), scrape.sum(CONNECTIONS, &[label(cgroup)]));
            assert!(rtt(&agent, cgroup) != Some(0.0));
        }
        let timed = [label(&clients), ("network_type", network)];
        assert_eq!(scrape.value("ebpf_tcp_connect_latency_ns_count", &timed), Some(57.0));

        client.ask("reset 13");
        server.ask("close 13");
        expect(&agent, &clients, network, [57, 0, 13, 13]);
        expect(&agent, &servers, network, [0, 57, 13, 13]);
        client.ask("shutdown");
        assert_eq!(agree(&agent, &clients, &pair.client), numbers([("fin_wait_2", 44)]));
        assert_eq!(agree(&agent, &servers, &pair.server), numbers([("close_wait", 44), ("listen", 1)]));
        server.ask("close 44");
        client.ask("close 44");
        expect(&agent, &clients, network, [57, 0, 57, 13]);
        expect(&agent, &servers, network, [0, 57, 57, 13]);
        drop(server);
        assert_eq!(agree(&agent, &clients, &pair.client), numbers([]));
        assert_eq!(agree(&agent, &servers, &pair.server), numbers([]));
        let scrape = agent.scrape();
        for cgroup in [&clients, &servers] {
            assert_eq!(scrape.value("ebpf_tcp_srtt_us_count", &[label(cgroup)]), Some(57.0));
            assert_eq!(scrape.sum(ERRORS, &[label(cgroup)]) + scrape.sum(RETRANSMITS, &[label(cgroup)]), 0.0);
        }
    }
    assert_eq!(agent.scrape().sum("telesonde_events_lost_total", &[("collector", "tcp")]), 0.0);
    agent.stop();
}

#[test]
fn round_trips_are_those_of_the_line() {
    let _kernel = live!();
    let agent = start();
    let line = Line::new(Duration::from_millis(25));
    for (address, network) in [V4, V6] {
        let (clients, servers) =
            (Cgroup::new(&format!("tcp-far-client-{network}")), Cgroup::new(&format!("tcp-far-server-{network}")));
        let (mut client, mut server) = (Peer::start(&clients, &line.client), Peer::start(&servers, &line.server));
        server.ask(&format!("listen {address} 7000 16"));
        assert_eq!(client.ask(&format!("connect {address} 7000 9")), 9);
        server.ask("accept 9");
        client.ask("send 1000");
        server.ask("receive 1000");
        server.ask("send 1000");
        client.ask("receive 1000");
        let milliseconds = 50_000.0..60_000.0;
        let scrape = agent.scrape();
        for cgroup in [&clients, &servers] {
            let rtt = rtt(&agent, cgroup);
            assert!(rtt.is_none_or(|rtt| milliseconds.contains(&rtt)), "{rtt:?} µs now");
        }
        let mean = |scrape: &Scrape, name: &str, labels: &[(&str, &str)]| {
            let part = |part: &str| scrape.value(&format!("{name}_{part}"), labels).unwrap();
            part("sum") / part("count")
        };
        let latency = mean(&scrape, "ebpf_tcp_connect_latency_ns", &[label(&clients), ("network_type", network)]);
        assert!(milliseconds.contains(&(latency / 1000.0)), "{latency} ns to connect");
        client.ask("close 9");
        server.ask("close 9");
        expect(&agent, &clients, network, [9, 0, 9, 0]);
        expect(&agent, &servers, network, [0, 9, 9, 0]);
        let scrape = agent.scrape();
        for cgroup in [&clients, &servers] {
            assert_eq!(scrape.value("ebpf_tcp_srtt_us_count", &[label(cgroup)]), Some(9.0));
            let srtt = mean(&scrape, "ebpf_tcp_srtt_us", &[label(cgroup)]);
            assert!(milliseconds.contains(&srtt), "{srtt} µs at the end");
        }
    }
    agent.stop();
}

#[test]
fn what_is_sent_again_is_what_the_namespace_says() {
    let _kernel = live!();
    let agent = start();
    for (address, network) in [V4, V6] {
        let mut line = Line::new(Duration::from_millis(5));
        let (clients, servers) =
            (Cgroup::new(&format!("tcp-lossy-client-{network}")), Cgroup::new(&format!("tcp-lossy-server-{network}")));
        let (mut client, mut server) = (Peer::start(&clients, &line.client), Peer::start(&servers, &line.server));
        server.ask(&format!("listen {address} 7000 16"));
        line.drop(Way::ToServer, Packets::Syn, 2, 2);
        line.drop(Way::ToClient, Packets::Syn, 1, 1);
        assert_eq!(client.ask(&format!("connect {address} 7000 4")), 4);
        server.ask("accept 4");
        line.drop(Way::ToServer, Packets::Data, 40, 7);
        line.drop(Way::ToClient, Packets::Any, 5, 9);
        for _ in 0..3 {
            client.tell("send 300000");
            server.ask("receive 300000");
            client.answer();
        }
        client.ask("close 4");
        server.ask("close 4");
        expect(&agent, &clients, network, [4, 0, 4, 0]);
        expect(&agent, &servers, network, [0, 4, 4, 0]);
        for (cgroup, netns) in [(&clients, &line.client), (&servers, &line.server)] {
            let sent = eventually("the counts agree", || {
                let labels = [label(cgroup), ("network_type", network)];
                let (counted, kernel) = (agent.scrape().sum(RETRANSMITS, &labels), netns.snmp("Tcp", "RetransSegs"));
                assert!(counted <= netns.snmp("Tcp", "RetransSegs") as f64, "{counted} of {kernel}");
                (counted == kernel as f64).then_some(kernel)
            });
            assert!(sent >= 1, "{sent} segments again");
        }
        assert!(line.dropped() >= 40);
    }
    agent.stop();
}

#[test]
fn sockets_that_are_older_than_the_agent_have_their_owners() {
    let _kernel = live!();
    let pair = Pair::new();
    for (address, network) in [V4, V6] {
        let (clients, servers) =
            (Cgroup::new(&format!("tcp-old-client-{network}")), Cgroup::new(&format!("tcp-old-server-{network}")));
        let (mut client, mut server) = (Peer::start(&clients, &pair.client), Peer::start(&servers, &pair.server));
        server.ask(&format!("listen {address} 7000 128"));
        assert_eq!(client.ask(&format!("connect {address} 7000 21")), 21);
        server.ask("accept 21");
        let agent = start();
        if agent.lacks("tcp", "no sockets older than the agent", (5, 12)) {
            let scrape = agent.scrape();
            assert_eq!((states(&scrape, &clients), states(&scrape, &servers)), (numbers([]), numbers([])));
            agent.stop();
            continue;
        }
        assert_eq!(agree(&agent, &clients, &pair.client), numbers([("established", 21)]));
        assert_eq!(agree(&agent, &servers, &pair.server), numbers([("established", 21), ("listen", 1)]));
        let scrape = agent.scrape();
        for (cgroup, direction, number) in [(&clients, "outbound", 21.0), (&servers, "inbound", 22.0)] {
            assert_eq!(scrape.sum(CONNECTIONS, &[label(cgroup), ("direction", direction)]), number);
            assert!(rtt(&agent, cgroup) != Some(0.0));
        }
        // A connection that the old listener accepts now is the server's, too.
        assert_eq!(client.ask(&format!("connect {address} 7000 5")), 5);
        server.ask("accept 5");
        client.ask("reset 8");
        server.ask("close 26");
        client.ask("close 18");
        expect(&agent, &clients, network, [5, 0, 26, 8]);
        expect(&agent, &servers, network, [0, 5, 26, 8]);
        assert_eq!(agree(&agent, &servers, &pair.server), numbers([("listen", 1)]));
        assert_eq!(agree(&agent, &clients, &pair.client), numbers([]));
        agent.stop();
    }
}

#[test]
fn short_connections_of_many_tasks_lose_nothing() {
    let _kernel = live!();
    let agent = start();
    // What a sandbox hides (causes.rs tells) hides a beginning or an end here, too: then all is done once more.
    let exact = (1..=5).any(|round| short_connections(&agent, round));
    assert!(exact, "in each of five rounds connections are missing");
    assert_eq!(agent.scrape().sum("telesonde_events_lost_total", &[("collector", "tcp")]), 0.0);
    agent.stop();
}

/// Makes thousands of connections at once, and says whether all were counted; nearly all always are, and none twice.
fn short_connections(agent: &Agent, round: u32) -> bool {
    const EACH: u32 = 5_000;
    const HIDDEN: f64 = 20.0;
    let all = f64::from(EACH);
    let netns = Netns::new();
    let mut ends: Vec<_> = (0..3)
        .map(|number| {
            let cgroup = |end| Cgroup::new(&format!("tcp-many-{end}{number}-{round}"));
            let (clients, servers) = (cgroup("client"), cgroup("server"));
            let (client, mut server) = (Peer::start(&clients, &netns), Peer::start(&servers, &netns));
            server.ask(&format!("listen 127.0.0.1 {} 512", 7000 + number));
            (client, server, clients, servers, 7000 + number)
        })
        .collect();
    for (client, server, _, _, port) in &mut ends {
        client.tell(&format!("cycle 127.0.0.1 {port} {EACH}"));
        server.tell(&format!("serve {EACH}"));
    }
    let mut exact = true;
    for (client, server, clients, servers, _) in &mut ends {
        client.answer();
        server.answer();
        let (found, missed) = agent.at_rest(
            "the counts of connections rest",
            |scrape| {
                let (client, server) = (counts(scrape, clients, "ipv4"), counts(scrape, servers, "ipv4"));
                assert!(client[1] <= 0.0 && server[0] <= 0.0);
                let found = [client[0], client[2], server[1], server[2]];
                assert!(found.iter().all(|&count| count <= all), "more than there were: {found:?}");
                // The kernel skips a program that would run within itself on one CPU, and says how often it did.
                (found, scrape.sum("telesonde_bpf_misses_total", &[("program", "inet_sock_set_state")]))
            },
            |(found, missed)| found.iter().all(|&count| count >= all - missed),
        );
        let lowest = all - missed;
        assert!(found.iter().all(|&count| count >= lowest - HIDDEN), "{found:?} of {all}, {missed} skipped");
        if found.iter().any(|&count| count < lowest) {
            println!("round {round}: {found:?} of {all}, {missed} skipped");
            exact = false;
            continue;
        }
        let resets = counts(&agent.scrape(), clients, "ipv4")[3];
        assert!(resets >= f64::from(EACH / 2) - missed, "{resets} resets");
        // A last change that the kernel skipped leaves its connection in the state before.
        let idle = |cgroup: &Cgroup| states(&agent.scrape(), cgroup);
        assert!(idle(clients).values().sum::<f64>() <= missed);
        let servers = idle(servers);
        assert!(servers["listen"] == 1.0 && servers.values().sum::<f64>() <= 1.0 + missed, "{servers:?}");
    }
    exact
}
