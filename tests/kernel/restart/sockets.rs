//! What sockets carried, while agents came and went.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{kill, outcome, pins};
use crate::harness::agent::{Agent, Wish};
use crate::harness::bpffs::BpfFs;
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::{Traffic, offload};
use crate::harness::{eventually, live};

/// The payload of a datagram, and what it takes with its headers.
const SIZE: u32 = 333;
const WHOLE: u32 = SIZE + 28;
/// How many are sent at once.
const ROUND: u32 = 500;

/// Sends datagrams to an address where nobody listens.
fn send(pair: &Pair, cgroup: &Cgroup, count: u32) {
    let (address, count, size) = (Pair::SERVER_V4.to_string(), count.to_string(), SIZE.to_string());
    Traffic::run(&pair.client, cgroup, &["udp_send", &address, "7000", &count, &size]);
}

/// Sends datagrams until it is told to stop; gives how many.
fn keep_sending(pair: &Pair, cgroup: &Cgroup, stop: &AtomicBool) -> u32 {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        send(pair, cgroup, ROUND);
        sent += ROUND;
    }
    sent
}

/// Sets a flag when it is dropped, whatever happens before.
struct AtEnd<'f>(&'f AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn amount(count: u32) -> (f64, f64) {
    (f64::from(count) * f64::from(WHOLE), f64::from(count))
}

#[test]
fn traffic_goes_on_while_nobody_looks() {
    const OF: [&str; 2] = ["ebpf_network_bytes_total", "ebpf_network_packets_total"];
    let _kernel = live!();
    let (bpffs, receiver) = (BpfFs::mount(), Receiver::start());
    let (key, network) = (bpffs.key(), ["network: {enabled: require}"]);
    let ebpf = [key.as_str()];
    let wish =
        Wish { alone: true, ebpf: &ebpf, collectors: &network, otlp: Some(receiver.address()), ..Wish::default() };
    let pair = Pair::new();
    let [busy, ends, comes] = ["busy", "ends", "comes"].map(Cgroup::new);
    let way = [("network_io_direction", "transmit"), ("network_transport", "udp"), ("network_type", "ipv4")];
    let sent = |scrape: &Scrape, cgroup: &str| {
        let labels = [&way[..], &[("cgroup_path", cgroup)]].concat();
        (scrape.sum(OF[0], &labels), scrape.sum(OF[1], &labels))
    };
    let expect = |agent: &Agent, cgroup: &str, count: u32| {
        agent.until_exactly(cgroup, amount(count), |scrape| sent(scrape, cgroup));
    };
    let since = |cgroup: &str| {
        let of = [("cgroup.path", cgroup), ("network.io.direction", "transmit"), ("network.transport", "udp")];
        eventually("it is exported", || receiver.began(OF[1], &of))
    };

    let first = Agent::start(wish);
    assert_eq!(outcome(&first, "network").as_deref(), Some("absent"), "{}", first.log());
    send(&pair, &ends, 700);
    let (dead, working) = (ends.path().to_owned(), AtomicBool::new(false));
    expect(&first, &dead, 700);
    drop(ends);
    let began = since(&dead);
    std::thread::scope(|scope| {
        let stop = AtEnd(&working);
        let load = scope.spawn(|| keep_sending(&pair, &busy, &working));
        first.until("there is load", |scrape| (sent(scrape, busy.path()).1 > 0.0).then_some(()));
        let began_busy = since(busy.path());
        kill(first);
        // Nobody is there but the kernel.
        send(&pair, &comes, 300);
        // Another program than before, with the same maps: it counts the agent itself, too.
        let itself = [key.as_str(), "include_self: true"];
        let second = Agent::start(Wish { ebpf: &itself, ..wish });
        assert_eq!(outcome(&second, "network").as_deref(), Some("adopted"), "{}", second.log());
        assert!(pins(&second, "network").contains("taken over"), "{}", pins(&second, "network"));
        drop(stop);
        let all = load.join().unwrap();
        for (cgroup, count) in [(busy.path(), all), (&*dead, 700), (comes.path(), 300)] {
            expect(&second, cgroup, count);
        }
        assert_eq!((since(&dead), since(busy.path())), (began, began_busy), "start times");
        second.stop();
        send(&pair, &busy, 40);
        // Without one of its hooks it goes on, and nothing stays there.
        let wish = Wish { collectors: &["network: {enabled: require, drops: false}"], ..wish };
        let hooks = |bpffs: &BpfFs| bpffs.files().iter().filter(|file| file.ends_with("kfree_skb__socket")).count();
        let dropping = hooks(&bpffs);
        let third = Agent::start(wish);
        assert_eq!(outcome(&third, "network").as_deref(), Some("adopted"), "{}", third.log());
        assert!(dropping == 0 || hooks(&bpffs) == 0, "{:?}", bpffs.files());
        for (cgroup, count) in [(busy.path(), all + 40), (&*dead, 700), (comes.path(), 300)] {
            expect(&third, cgroup, count);
        }
        kill(third);
    });
    let faults = receiver.faults();
    assert!(!faults.iter().any(|fault| fault.contains("ebpf_network")), "{faults:?}");

    // Maps of other sizes cannot go on.
    let larger = Wish { collectors: &["network: {enabled: require, max_flows: 5000}"], otlp: None, ..wish };
    let larger = Agent::start(larger);
    assert_eq!(outcome(&larger, "network").as_deref(), Some("refused"));
    assert!(pins(&larger, "network").contains("began afresh"), "{}", pins(&larger, "network"));
    send(&pair, &busy, 7);
    expect(&larger, busy.path(), 7);
    // Switched off, nothing of it is left.
    larger.rewrite(&[("enabled: require, max_flows: 5000", "enabled: false")]);
    assert_eq!(larger.reload().0, Some(0));
    let left = bpffs.files();
    assert!(left.iter().all(|file| !file.starts_with(bpffs.pins().join("network"))), "{left:?}");
    larger.stop();
}

/// Bytes and packets.
type Amount = (f64, f64);

const CONNECTIONS: [&str; 2] = ["ebpf_connection_bytes_total", "ebpf_connection_packets_total"];

/// Gives what a workload has sent, as sockets and as connections have it.
fn both(scrape: &Scrape, cgroup: &str) -> (Amount, Amount) {
    let network = [("cgroup_path", cgroup), ("network_io_direction", "transmit")];
    let amount =
        |names: [&str; 2], labels: &[(&str, &str)]| (scrape.sum(names[0], labels), scrape.sum(names[1], labels));
    let traffic = ["ebpf_network_bytes_total", "ebpf_network_packets_total"];
    (amount(traffic, &network), amount(CONNECTIONS, &[("source_cgroup_path", cgroup)]))
}

/// A stream from one workload to another, half of which waits for the test's word.
struct Stream {
    ends: [Cgroup; 2],
    programs: [Traffic; 2],
}

impl Stream {
    fn open(pair: &Pair, name: &str, port: &str) -> Self {
        let ends = ["client", "server"].map(|end| Cgroup::new(&format!("{name}-{end}")));
        let address = Pair::SERVER_V4.to_string();
        let receiving = Traffic::ready(&pair.server, &ends[1], &["tcp_receive", &address, port]);
        let sending = Traffic::ready(&pair.client, &ends[0], &["tcp_twice", &address, port, "300000"]);
        Self { ends, programs: [sending, receiving] }
    }

    /// Sends the other half; gives the workloads' paths, which are gone then.
    fn end(self) -> [String; 2] {
        let [mut sending, receiving] = self.programs;
        sending.go_on();
        sending.finish();
        receiving.finish();
        self.ends.map(|end| end.path().to_owned())
    }
}

#[test]
fn connections_go_on_while_nobody_looks() {
    const COLLECTORS: [&str; 2] =
        ["network: {enabled: require}", "connection: {enabled: require, idle_timeout: 4s, interval: 100ms}"];
    let _kernel = live!();
    let (bpffs, receiver) = (BpfFs::mount(), Receiver::start());
    let key = bpffs.key();
    let ebpf = [key.as_str()];
    let wish =
        Wish { alone: true, ebpf: &ebpf, collectors: &COLLECTORS, otlp: Some(receiver.address()), ..Wish::default() };
    let pair = Pair::new();
    for end in [&pair.client, &pair.server] {
        // Nothing is announced, and each segment crosses the link by itself.
        end.set("ipv6/conf/veth/disable_ipv6", "1");
        offload(end, "veth", false, false);
    }
    let (header, before) = (pair.link_header().0, pair.client.quiet("veth"));
    let [busy, comes] = ["busy", "comes"].map(Cgroup::new);
    // What is between two workloads of this node is known as that, whichever end has ended when.
    let known = |scrape: &Scrape, [client, server]: &[String; 2]| {
        let labels = [("source_cgroup_path", client.as_str()), ("destination_cgroup_path", server)];
        (scrape.sum(CONNECTIONS[0], &labels), scrape.sum(CONNECTIONS[1], &labels))
    };
    let whole = |agent: &Agent, ends: &[String; 2]| {
        agent.until(&format!("{ends:?} have all"), |scrape| {
            let (sockets, connections) = both(scrape, &ends[0]);
            println!("{ends:?}: {sockets:?}, {connections:?}, {:?}", known(scrape, ends));
            (sockets == connections && known(scrape, ends) == connections && connections.0 > 6e5).then_some(connections)
        })
    };
    let since = |cgroup: &str| {
        let of = [("source.cgroup.path", cgroup)];
        eventually("it is exported", || receiver.began(CONNECTIONS[1], &of))
    };

    let first = Agent::start(wish);
    for name in ["network", "connection"] {
        assert_eq!(outcome(&first, name).as_deref(), Some("absent"), "{}", first.log());
    }
    let gone = Stream::open(&pair, "gone", "7001").end();
    let had = whole(&first, &gone);
    let [stays, dies] = [("stays", "7002"), ("dies", "7003")].map(|(name, port)| Stream::open(&pair, name, port));
    first.until("both are known", |scrape| {
        let paths = [&stays, &dies].map(|stream| both(scrape, stream.ends[0].path()));
        paths.iter().all(|(sockets, connections)| sockets == connections && connections.0 > 3e5).then_some(())
    });
    let began = [&gone[0], stays.ends[0].path()].map(&since);
    let working = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = AtEnd(&working);
        let load = scope.spawn(|| keep_sending(&pair, &busy, &working));
        let used = |scrape: &Scrape| scrape.value("telesonde_bpf_map_utilization_percent", &[("map", "connections")]);
        first.until("slots are used again", |scrape| {
            let sockets = both(scrape, busy.path()).1.1 / f64::from(ROUND);
            (sockets > 40.0 && used(scrape)? * 8192.0 / 100.0 < sockets / 2.0).then_some(())
        });
        kill(first);
        // Nobody is there but the kernel.
        send(&pair, &comes, 300);
        let dies = dies.end();
        let second = Agent::start(wish);
        for name in ["network", "connection"] {
            assert_eq!(outcome(&second, name).as_deref(), Some("adopted"), "{}", second.log());
        }
        kill(second);
        // Another program than before, with the same maps: it counts the agent itself, too.
        let itself = [key.as_str(), "include_self: true"];
        let third = Agent::start(Wish { ebpf: &itself, ..wish });
        drop(stop);
        let all = load.join().unwrap();
        let stays = stays.end();
        let link = pair.client.quiet("veth").since(&before);
        let mut sum = (0.0, 0.0);
        for (cgroup, count) in [(busy.path(), all), (comes.path(), 300)] {
            third.until_exactly(cgroup, amount(count), |scrape| both(scrape, cgroup).0);
            third.until_exactly(cgroup, amount(count), |scrape| both(scrape, cgroup).1);
            sum = (sum.0 + amount(count).0, sum.1 + amount(count).1);
        }
        for ends in [&gone, &dies, &stays] {
            let all = whole(&third, ends);
            sum = (sum.0 + all.0, sum.1 + all.1);
        }
        let sent = link.tx_bytes - header * link.tx_packets;
        assert_eq!(sum, (sent as f64, link.tx_packets as f64), "all that crossed the link");
        assert_eq!(whole(&third, &gone), had);
        assert_eq!(began, [&gone[0], &stays[0]].map(|path| since(path)), "start times");
        let lost = third.scrape().sum("telesonde_bpf_map_overflow_total", &[("map", "connections")]);
        assert_eq!(lost, 0.0, "packets without a slot");
        third.stop();
    });
    let faults = receiver.faults();
    assert!(!faults.iter().any(|fault| fault.contains("ebpf_connection")), "{faults:?}");

    // A table of another size cannot go on, and both begin afresh.
    let larger = ["network: {enabled: require}", "connection: {enabled: require, max_connections: 5000}"];
    let larger = Agent::start(Wish { collectors: &larger, otlp: None, ..wish });
    for name in ["network", "connection"] {
        assert_eq!(outcome(&larger, name).as_deref(), Some("refused"));
        assert!(pins(&larger, name).contains("began afresh"), "{}", pins(&larger, name));
    }
    send(&pair, &busy, 7);
    larger.until_exactly("afresh", amount(7), |scrape| both(scrape, busy.path()).1);
    larger.stop();
}
