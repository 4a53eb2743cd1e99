//! Counters never fall and no series is there twice, whatever comes and goes.

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::scrape::Scrape;
use crate::harness::{live, stimulus};

/// Together longer than it takes until the entries of what is gone are taken out of the kernel's maps.
const ROUNDS: usize = 16;
/// Together more than what makes the agent forget what nothing refers to any more.
const WORKLOADS: usize = 30;

fn assert_steady(scrape: &Scrape, before: &Scrape) {
    assert_eq!(scrape.repeated(), [], "a series is one");
    assert_eq!(scrape.fallen(before), [], "a counter never falls");
}

#[test]
fn counters_only_grow_while_workloads_come_and_go() {
    let _kernel = live!();
    let sections =
        ["dns: {servers: true, names: true, timeout: 1s}", "network: {enabled: true}", "tcp: {enabled: true}"];
    let agent = Agent::start(Wish { collectors: &sections, ..Wish::default() });
    let mut before = agent.scrape();
    let lasting = Cgroup::new("steady");
    for round in 0..ROUNDS {
        // What has no owner is done, too: addresses are announced, and datagrams come to closed ports.
        let pair = Pair::new();
        for number in 0..WORKLOADS {
            let brief = Cgroup::new(&format!("steady-{round}-{number}"));
            let actions = ["getppid=3", "openat_enoent=1", "datagrams=2", "tcp_refused=1", "dns_query=1", "exec=1"];
            let kinds = &actions[number % 3..number % 3 + 4];
            pair.client.run(|| stimulus::run(&brief, kinds));
        }
        pair.client.run(|| stimulus::run(&lasting, &["getppid=5", "dns_query=1", "tcp_refused=1"]));
        drop(pair);
        for _ in 0..3 {
            let scrape = agent.scrape();
            assert_steady(&scrape, &before);
            before = scrape;
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }
    let kernel = [("workload_name", "kernel")];
    assert!(before.sum("ebpf_network_packets_total", &kernel) > 0.0, "what has no owner is counted");
    agent.stop();
}
