//! What sockets carried, while agents came and went.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{kill, outcome, pins};
use crate::harness::agent::{Agent, Wish};
use crate::harness::bpffs::BpfFs;
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::Scrape;
use crate::harness::traffic::Traffic;
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
