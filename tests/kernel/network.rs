//! Traffic and drops of one workload, exactly.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bpf::probe::Facts;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::{self, Cgroup};
use crate::harness::netns::{Counters, Netns, Pair};
use crate::harness::scrape::Scrape;
use crate::harness::traffic::{Traffic, offload};
use crate::harness::{directory, eventually, live};

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

/// Scrapes until a workload has an amount under these labels, never more.
fn expect(agent: &Agent, path: &str, labels: &[(&str, &str)], expected: Amount) {
    agent.until_exactly(&format!("{path} {labels:?}"), expected, |scrape| amount(scrape, path, labels));
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

/// A router's namespace has four interfaces' ends to pass, and no socket: the ends of the way count, once each.
#[test]
fn what_is_routed_counts_at_its_ends_only() {
    const COUNT: u32 = 307;
    const SIZE: u32 = 222;
    let _kernel = live!();
    let agent = start();
    let (first, last) = (Pair::new(), Netns::new());
    let router = &first.server;
    router.ip(&["link", "add", "far", "type", "veth", "peer", "name", "far", "netns", &last.path()]);
    for (netns, v4, v6) in [(router, "10.98.0.1/24", "fd01::1/64"), (&last, "10.98.0.2/24", "fd01::2/64")] {
        netns.ip(&["link", "set", "far", "addrgenmode", "none"]);
        netns.ip(&["address", "add", v4, "dev", "far"]);
        netns.ip(&["address", "add", v6, "dev", "far", "nodad"]);
        netns.ip(&["link", "set", "far", "up"]);
    }
    // Without an address of the link's own nobody is asked for a neighbour.
    last.ip(&["link", "set", "far", "address", "02:00:00:00:00:03"]);
    router.ip(&["neighbour", "add", "fd01::2", "lladdr", "02:00:00:00:00:03", "dev", "far", "nud", "permanent"]);
    for (name, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
        router.set(name, value);
    }
    first.client.ip(&["route", "add", "10.98.0.0/24", "via", "10.99.0.2"]);
    first.client.ip(&["route", "add", "fd01::/64", "via", "fd00::2"]);
    for (address, header, family) in [("10.98.0.2", 28, "ipv4"), ("fd01::2", 48, "ipv6")] {
        // Once a packet has come through, every neighbour on the way is known.
        let bind = |netns: &Netns, address: &str, port| netns.run(|| UdpSocket::bind((address, port)).unwrap());
        let any = if family == "ipv4" { "0.0.0.0" } else { "::" };
        let (near, far) = (bind(&first.client, any, 0), bind(&last, any, 7001));
        far.set_nonblocking(true).unwrap();
        eventually("the way is open", || {
            let _ = near.send_to(&[1], (address, 7001));
            far.recv(&mut [0]).ok()
        });
        let ends = ["routed-sender", "routed-receiver"].map(|name| Cgroup::new(&format!("{name}-{family}")));
        let kernel =
            |scrape: &Scrape| scrape.sum(PACKETS, &[("workload_name", "kernel"), ("network_transport", "udp")]);
        let before = kernel(&agent.scrape());
        let count = COUNT.to_string();
        let receiving = Traffic::ready(&last, &ends[1], &["udp_receive", address, "7000", &count]);
        Traffic::run(&first.client, &ends[0], &["udp_send", address, "7000", &count, &SIZE.to_string()]);
        receiving.finish();
        let expected = (f64::from(COUNT * (SIZE + header)), f64::from(COUNT));
        for (cgroup, direction) in ends.iter().zip(["transmit", "receive"]) {
            expect(&agent, cgroup.path(), &way(direction, "udp", family), expected);
            assert_eq!(amount(&agent.scrape(), cgroup.path(), &[]), expected, "and nothing else");
        }
        assert!(kernel(&agent.scrape()) - before < f64::from(COUNT), "what is routed is nobody's");
    }
    agent.stop();
}

#[test]
fn datagrams_to_a_closed_port_are_dropped_for_one_reason() {
    const COUNT: u32 = 1511;
    let _kernel = live!();
    let agent = start();
    let unknown = agent.lacks("network", "no reasons for drops", (5, 17));
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let reason = [("reason", "NO_SOCKET"), ("workload_name", "kernel")];
        let mut attempt = 0;
        // Others on this machine may send to closed ports as well: the first attempt need not be the exact one.
        eventually("exactly those are dropped", || {
            attempt += 1;
            let sender = Cgroup::new(&format!("closed-{family}-{attempt}"));
            let before = agent.scrape();
            let action = ["udp_send", &server.to_string(), "7000", &COUNT.to_string(), "100"];
            Traffic::run(&pair.client, &sender, &action);
            let header = if server.is_ipv4() { 28 } else { 48 };
            let sent = (f64::from(COUNT * (100 + header)), f64::from(COUNT));
            expect(&agent, sender.path(), &way("transmit", "udp", family), sent);
            if unknown {
                assert_eq!(agent.scrape().all(DROPS, &[]).count(), 0, "what is not known is absent");
                return Some(());
            }
            let drops = agent.scrape().sum(DROPS, &reason) - before.sum(DROPS, &reason);
            assert!(drops >= f64::from(COUNT), "{family}: {drops} drops");
            (drops == f64::from(COUNT)).then_some(())
        });
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

/// What the sender's end of a link tells of one stream: bytes and packets on the wire each way. A packet of many
/// segments crosses the link as one, so the segments are the kernel's own count of them.
fn on_the_wire(link: &Counters, header_of_link: (u64, u64), segments: u64, server: IpAddr) -> (Amount, Amount) {
    // IP, TCP and its timestamps.
    let header = if server.is_ipv4() { 20 + 32 } else { 40 + 32 };
    let whole = link.tx_bytes - header_of_link.0 * link.tx_packets;
    let sent = whole + (segments - link.tx_packets) * header;
    let acknowledged = link.rx_bytes - header_of_link.1 * link.rx_packets;
    ((sent as f64, segments as f64), (acknowledged as f64, link.rx_packets as f64))
}

#[test]
fn streams_are_counted_as_on_the_wire() {
    const SIZE: u32 = 3_000_000;
    let _kernel = live!();
    let agent = start();
    for (index, (gso, gro)) in [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate() {
        let pair = Pair::new();
        for end in [&pair.client, &pair.server] {
            offload(end, "veth", gso, gro);
        }
        let header = pair.link_header();
        for (server, family) in FAMILIES {
            let mut attempt = 0;
            let (ends, sent, acknowledged) = eventually("nothing else crosses the link, and nothing twice", || {
                attempt += 1;
                let name = |end: &str| Cgroup::new(&format!("{end}-{family}-{index}-{attempt}"));
                let ends = (name("sender"), name("receiver"));
                let address = server.to_string();
                let announced = || pair.client.snmp6("Icmp6OutMsgs") + pair.server.snmp6("Icmp6OutMsgs");
                let disturbed = || announced() + pair.client.snmp("Tcp", "RetransSegs");
                let (link, segments) = (pair.client.quiet("veth"), pair.client.snmp("Tcp", "OutSegs"));
                let before = disturbed();
                let receiving = Traffic::ready(&pair.server, &ends.1, &["tcp_receive", &address, "7000"]);
                Traffic::run(&pair.client, &ends.0, &["tcp_send", &address, "7000", &SIZE.to_string()]);
                receiving.finish();
                let link = pair.client.quiet("veth").since(&link);
                let segments = pair.client.snmp("Tcp", "OutSegs") - segments;
                if disturbed() != before {
                    return None;
                }
                assert_eq!(segments > link.tx_packets, gso, "{segments} segments in {} packets", link.tx_packets);
                let (sent, acknowledged) = on_the_wire(&link, header, segments, server);
                Some((ends, sent, acknowledged))
            });
            assert!(sent.0 > f64::from(SIZE));
            // Linux 6.1 and older run no program for the SYN-ACK over IPv6, of 80 bytes; 6.12 does.
            let unseen = if Facts::gather().version < (6, 2) && server.is_ipv6() { (80.0, 1.0) } else { (0.0, 0.0) };
            let answered = (acknowledged.0 - unseen.0, acknowledged.1 - unseen.1);
            expect(&agent, ends.0.path(), &way("transmit", "tcp", family), sent);
            expect(&agent, ends.0.path(), &way("receive", "tcp", family), acknowledged);
            expect(&agent, ends.1.path(), &way("receive", "tcp", family), sent);
            expect(&agent, ends.1.path(), &way("transmit", "tcp", family), answered);
        }
    }
    assert_whole(&agent.scrape());
    agent.stop();
}

#[test]
fn one_call_that_makes_many_datagrams_counts_them_all() {
    const SEGMENT: u32 = 1000;
    let _kernel = live!();
    let agent = start();
    let pair = Pair::new();
    for (server, family) in FAMILIES {
        let sender = Cgroup::new(&format!("segments-{family}"));
        let action =
            ["udp_segments", &server.to_string(), "7000", &(40 * SEGMENT + 7).to_string(), &SEGMENT.to_string()];
        Traffic::run(&pair.client, &sender, &action);
        let header = if server.is_ipv4() { 28 } else { 48 };
        let expected = (f64::from(40 * SEGMENT + 7 + 41 * header), 41.0);
        expect(&agent, sender.path(), &way("transmit", "udp", family), expected);
    }
    agent.stop();
}

#[test]
fn a_socket_outlives_its_cgroup() {
    const SIZE: u32 = 400_000;
    let _kernel = live!();
    let agent = start();
    let pair = Pair::new();
    let (sender, receiver) = (Cgroup::new("orphan"), Cgroup::new("late"));
    let (path, address) = (sender.path().to_owned(), Pair::SERVER_V4.to_string());
    for end in [&pair.client, &pair.server] {
        offload(end, "veth", false, false);
    }
    let header = pair.link_header();
    let link = pair.client.quiet("veth");
    let mut receiving = Traffic::ready(&pair.server, &receiver, &["tcp_receive_late", &address, "7000"]);
    Traffic::run(&pair.client, &sender, &["tcp_leave", &address, "7000", &SIZE.to_string()]);
    drop(sender);
    let before =
        agent.until("the sender is seen", |scrape| (amount(scrape, &path, &[]).1 > 0.0).then(|| scrape.clone()));
    assert!(amount(&before, &path, &[]).0 < f64::from(SIZE), "most is still to be sent");
    receiving.go_on();
    receiving.finish();
    let link = pair.client.quiet("veth").since(&link);
    let (sent, acknowledged) = on_the_wire(&link, header, link.tx_packets, Pair::SERVER_V4);
    assert!(sent.0 > f64::from(SIZE));
    // Where the peer has acknowledged the end before it closes, the connection is in TIME_WAIT and has no socket any
    // more: the last segment each way is nobody's.
    let but_last = |all: Amount| (all.0 - 52.0, all.1 - 1.0);
    agent.until("what it sent after its cgroup was gone", |scrape| {
        let of = |direction| amount(scrape, &path, &way(direction, "tcp", "ipv4"));
        let (transmit, receive) = (of("transmit"), of("receive"));
        println!("{transmit:?} of {sent:?}, {receive:?} of {acknowledged:?}");
        let whole = (transmit, receive) == (sent, acknowledged);
        (whole || (transmit, receive) == (but_last(sent), but_last(acknowledged))).then_some(())
    });
    expect(&agent, receiver.path(), &way("receive", "tcp", "ipv4"), sent);
    assert_eq!(agent.scrape().fallen(&before), []);
    agent.stop();
}

#[test]
fn a_socket_belongs_to_who_uses_it() {
    const COUNT: u32 = 77;
    let _kernel = live!();
    let agent = start();
    let pair = Pair::new();
    let (first, second) = (Cgroup::new("creator"), Cgroup::new("user"));
    let directory = second.directory().to_str().unwrap();
    let address = Pair::SERVER_V4.to_string();
    let action = ["udp_move", &address, "7000", &COUNT.to_string(), "100", directory];
    let mut moving = Traffic::ready(&pair.client, &first, &action);
    let all = |count: u32| (f64::from(count * 128), f64::from(count));
    expect(&agent, first.path(), &way("transmit", "udp", "ipv4"), all(COUNT));
    moving.go_on();
    moving.finish();
    if agent.lacks("network", "a socket stays with its creator", (6, 3)) {
        expect(&agent, first.path(), &way("transmit", "udp", "ipv4"), all(2 * COUNT));
        assert_eq!(amount(&agent.scrape(), second.path(), &[]), (0.0, 0.0));
        agent.stop();
        return;
    }
    // The first use is what moves it: that packet is still the creator's.
    expect(&agent, second.path(), &way("transmit", "udp", "ipv4"), all(COUNT - 1));
    expect(&agent, first.path(), &way("transmit", "udp", "ipv4"), all(COUNT + 1));
    agent.stop();
}

#[test]
fn sockets_that_were_there_before_have_their_owners() {
    const COUNT: u32 = 55;
    let _kernel = live!();
    let pair = Pair::new();
    let first = Cgroup::new("early");
    let directory = first.directory().to_str().unwrap();
    let address = Pair::SERVER_V6.to_string();
    let action = ["udp_move", &address, "7000", &COUNT.to_string(), "100", directory];
    let mut early = Traffic::ready(&pair.client, &first, &action);
    let agent = start();
    early.go_on();
    early.finish();
    let all = (f64::from(COUNT * 148), f64::from(COUNT));
    if agent.lacks("network", "older than the agent belong to the workload kernel", (5, 12)) {
        let labels = [&way("transmit", "udp", "ipv6")[..], &[("workload_name", "kernel")]].concat();
        agent.until("the kernel has it all", |scrape| {
            let (bytes, packets) = (scrape.sum(BYTES, &labels), scrape.sum(PACKETS, &labels));
            (bytes >= all.0 && packets >= all.1).then_some(())
        });
        assert_eq!(amount(&agent.scrape(), first.path(), &[]), (0.0, 0.0));
    } else {
        expect(&agent, first.path(), &way("transmit", "udp", "ipv6"), all);
    }
    agent.stop();
}

/// Gives a program that runs the agent where the memory controller seems to be on no version 1 hierarchy.
fn on_version_2() -> PathBuf {
    let directory = directory("v2");
    let (controllers, program) = (directory.join("controllers"), directory.join("telesonde"));
    fs::write(&controllers, "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t1\n").unwrap();
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /proc/cgroups && exec {} \"$@\"' sh \"$@\"\n",
        controllers.display(),
        env!("CARGO_BIN_EXE_telesonde"),
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

#[test]
fn version_2_alone_counts_the_same() {
    const COUNT: u32 = 503;
    let _kernel = live!();
    let program = on_version_2();
    let agent = Agent::start(Wish { program: Some(&program), collectors: &[REQUIRED], ..Wish::default() });
    let pair = Pair::new();
    let root = cgroup::mount_of("").unwrap();
    for (server, family) in FAMILIES {
        let primary = |name| {
            let cgroup = Cgroup::new(&format!("{name}-{family}"));
            cgroup.twin(&root).unwrap_or(cgroup)
        };
        let (sender, receiver) = (primary("sender"), primary("receiver"));
        let (address, count) = (server.to_string(), COUNT.to_string());
        let receiving = Traffic::ready(&pair.server, &receiver, &["udp_receive", &address, "7000", &count]);
        Traffic::run(&pair.client, &sender, &["udp_send", &address, "7000", &count, "100"]);
        receiving.finish();
        let header = if server.is_ipv4() { 28 } else { 48 };
        let expected = (f64::from(COUNT * (100 + header)), f64::from(COUNT));
        expect(&agent, sender.path(), &way("transmit", "udp", family), expected);
        expect(&agent, receiver.path(), &way("receive", "udp", family), expected);
    }
    agent.stop();
}

#[test]
fn loopback_counts_where_it_is_wanted() {
    const COUNT: u32 = 31;
    let _kernel = live!();
    let pair = Pair::new();
    for wanted in [true, false] {
        let section = format!("network: {{enabled: require, loopback: {wanted}}}");
        let agent = Agent::start(Wish { collectors: &[&section], ..Wish::default() });
        let cgroup = Cgroup::new(&format!("loopback-{wanted}"));
        let send = |address: &str| {
            Traffic::run(&pair.client, &cgroup, &["udp_send", address, "7000", &COUNT.to_string(), "100"]);
        };
        for address in ["127.0.0.1", "::1"] {
            send(address);
        }
        send(&Pair::SERVER_V4.to_string());
        let all = |sends: u32| (f64::from(sends * COUNT * 128), f64::from(sends * COUNT));
        expect(&agent, cgroup.path(), &way("transmit", "udp", "ipv4"), all(if wanted { 2 } else { 1 }));
        let six = amount(&agent.scrape(), cgroup.path(), &way("transmit", "udp", "ipv6"));
        assert_eq!(six, if wanted { (f64::from(COUNT * 148), f64::from(COUNT)) } else { (0.0, 0.0) });
        agent.stop();
    }
}

#[test]
fn what_a_full_map_cannot_hold_is_the_overflow_series() {
    const COUNT: u32 = 211;
    let _kernel = live!();
    let section = "network: {enabled: require, max_flows: 1}";
    let agent = Agent::start(Wish { collectors: &[section], ..Wish::default() });
    let pair = Pair::new();
    let cgroup = Cgroup::new("overflow");
    for (server, _) in FAMILIES {
        Traffic::run(&pair.client, &cgroup, &["udp_send", &server.to_string(), "7000", &COUNT.to_string(), "100"]);
    }
    agent.until("what did not fit is in the overflow series", |scrape| {
        let overflow = scrape.value(PACKETS, &[("otel_metric_overflow", "true")])?;
        let lost = scrape.value("telesonde_bpf_map_overflow_total", &[("map", "flows")])?;
        // One of the two flows may have had the one entry.
        (overflow >= f64::from(COUNT) && lost >= f64::from(COUNT)).then_some(())
    });
    agent.stop();
}
