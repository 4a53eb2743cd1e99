//! Connections that are open while agents come and go, and what became of others before.

use super::{kill, outcome};
use crate::harness::agent::{Agent, Wish};
use crate::harness::bpffs::BpfFs;
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::netns::Pair;
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;

const COUNTERS: [&str; 4] =
    ["ebpf_tcp_connects_total", "ebpf_tcp_accepts_total", "ebpf_tcp_closes_total", "ebpf_tcp_connect_latency_ns_count"];
const LOAD: u32 = 400;

/// Gives connects, accepts, closes, timed connects and established connections of a workload.
fn counts(scrape: &Scrape, cgroup: &str) -> [f64; 5] {
    let [a, b, c, d] = COUNTERS.map(|name| scrape.sum(name, &[("cgroup_path", cgroup)]));
    let open = [("cgroup_path", cgroup), ("network_connection_state", "established")];
    [a, b, c, d, scrape.sum("ebpf_tcp_connections", &open)]
}

/// Waits until a workload has these counts, or none comes any more: the kernel shows nobody what a packet does that
/// interrupts certain tasks. Says whether it has them.
fn until(agent: &Agent, cgroup: &str, expected: [f64; 5]) -> bool {
    let what = format!("{expected:?} connects, accepts, closes, timed ones and open ones of {cgroup}");
    let found = agent.at_rest(&what, |scrape| counts(scrape, cgroup), |found| *found == expected);
    let near = |(found, expected): (&f64, &f64)| *found >= (expected * 0.97).floor() - 1.0;
    assert!(found.iter().zip(&expected).all(near), "{what}: {found:?}");
    assert!(found[..4].iter().zip(&expected).all(|(found, expected)| found <= expected), "{what}: {found:?}");
    found == expected
}

/// Has connections live over a restart; says whether all was seen.
fn round(section: &str) -> bool {
    let (bpffs, pair) = (BpfFs::mount(), Pair::new());
    let (key, address) = (bpffs.key(), Pair::SERVER_V4);
    let (ebpf, collectors) = ([key.as_str()], [section]);
    let wish = Wish { alone: true, ebpf: &ebpf, collectors: &collectors, ..Wish::default() };
    let [clients, servers, ends, busy] = ["clients", "servers", "ends", "busy"].map(Cgroup::new);
    let first = Agent::start(wish);
    assert_eq!(outcome(&first, "tcp").as_deref(), Some("absent"));
    let mut server = Peer::start(&servers, &pair.server);
    let mut client = Peer::start(&clients, &pair.client);
    server.ask(&format!("listen {address} 7000 128"));
    assert_eq!(client.ask(&format!("connect {address} 7000 5")), 5);
    server.ask("accept 5");
    client.ask("close 1");
    server.ask("close 1");
    let dead = ends.path().to_owned();
    {
        let mut ending = Peer::start(&ends, &pair.client);
        assert_eq!(ending.ask(&format!("connect {address} 7000 2")), 2);
        server.ask("accept 2");
        ending.ask("close 2");
    }
    let all =
        [until(&first, clients.path(), [5.0, 0.0, 1.0, 5.0, 4.0]), until(&first, &dead, [2.0, 0.0, 2.0, 2.0, 0.0])];
    drop(ends);
    let (mut caller, mut listener) = (Peer::start(&busy, &pair.client), Peer::start(&busy, &pair.server));
    listener.ask(&format!("listen {address} 7001 128"));
    listener.tell(&format!("serve {LOAD}"));
    caller.tell(&format!("cycle {address} 7001 {LOAD}"));
    first.until("it calls", |scrape| (counts(scrape, busy.path())[0] > 0.0).then_some(()));
    kill(first);

    // Nobody is there but the kernel.
    client.ask("close 2");
    assert_eq!(client.ask(&format!("connect {address} 7000 3")), 3);
    server.ask("accept 3");
    // Another program than before, with the same maps: it is measured.
    let second = Agent::start(Wish { env: &[("TELESONDE_BUDGET__CPU_PERCENT", "1000")], ..wish });
    assert_eq!(outcome(&second, "tcp").as_deref(), Some("adopted"), "{}", second.log());
    let load = f64::from(LOAD);
    assert_eq!((caller.answer(), listener.answer()), (0, 0));
    let all = [
        all[0] && all[1],
        until(&second, clients.path(), [8.0, 0.0, 3.0, 8.0, 5.0]),
        until(&second, busy.path(), [load, load, 2.0 * load, load, 0.0]),
        until(&second, &dead, [2.0, 0.0, 2.0, 2.0, 0.0]),
        {
            client.ask("close 5");
            until(&second, clients.path(), [8.0, 0.0, 8.0, 8.0, 0.0])
        },
    ];
    second.stop();
    println!("{section}: {all:?}");
    !all.contains(&false)
}

#[test]
fn connections_stay_open_over_a_restart() {
    let _kernel = live!();
    for section in ["tcp: {enabled: require}", "tcp: {enabled: require, peers: true}"] {
        assert!((0..5).any(|_| round(section)), "{section}");
    }
}
