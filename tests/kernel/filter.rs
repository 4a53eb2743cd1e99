//! What is left out, and that it is left out in the kernel.

use std::fs;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::netns::Pair;
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;
use crate::harness::{live, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
const MINE: &str = "7d1b3f5a9c8e2640b7d1f3a5c9e82640a1b2c3d4e5f60718293a4b5c6d7e8f90";
const OTHER: &str = "0c1d2e3f405162738495a6b7c8d9eafb0c1d2e3f405162738495a6b7c8d9eafb";

/// Where no runtime keeps its containers: one of this machine is not expected to name those of the tests.
const NO_RUNTIME: &[(&str, &str)] =
    &[("TELESONDE_HOST__ROOT", "/proc/sys"), ("TELESONDE_HOST__CGROUP", "/sys/fs/cgroup")];

fn getppids(scrape: &Scrape, labels: &[(&str, &str)]) -> Option<f64> {
    scrape.value(COUNT, &[labels, &[("syscall", "getppid")]].concat())
}

/// Stops the agent's process while something is done: what it says afterwards only the kernel can have seen to.
fn while_stopped(agent: &Agent, work: impl FnOnce()) {
    agent.signal("STOP");
    let stat = || fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    crate::harness::eventually("the agent has stopped", || stat().contains(") T ").then_some(()));
    work();
    agent.signal("CONT");
}

#[test]
fn only_containers_of_the_filter_are_seen() {
    let _kernel = live!();
    let above = Cgroup::new("filter");
    let (mine, other) = (above.child(&format!("crio-{MINE}")), above.child(&format!("crio-{OTHER}")));
    let filter = format!("container_filter: [{}]", &MINE[..12]);
    let agent = Agent::start(Wish { ebpf: &[&filter], env: NO_RUNTIME, ..Wish::default() });
    let labels = [("container_id", MINE)];

    stimulus::run(&mine, &["getppid=100"]);
    stimulus::run(&other, &["getppid=1000"]);
    stimulus::run(&above, &["getppid=1000"]);
    // Made while the agent cannot see to it: a child of an allowed cgroup is seen from its first call, one of a denied
    // cgroup is not seen at all.
    let mut children = Vec::new();
    while_stopped(&agent, || {
        let (mine, other) = (mine.child("init.scope"), other.child("init.scope"));
        stimulus::run(&mine, &["getppid=20"]);
        stimulus::run(&other, &["getppid=1000"]);
        children.extend([mine, other]);
    });
    agent.until("all of it is counted", |scrape| (getppids(scrape, &labels)? == 120.0).then_some(()));
    let counted = agent.counted_cgroups();
    assert!(counted.contains(&mine.id()) && counted.contains(&children[0].id()));
    for denied in [&other, &children[1], &above] {
        assert!(!counted.contains(&denied.id()), "the kernel has counted {}", denied.path());
    }
    let scrape = agent.scrape();
    assert!(scrape.all(COUNT, &[]).all(|sample| sample.labels.get("container_id").is_some_and(|id| id == MINE)));
    agent.stop();
}

/// A container whose name nobody knew when its first task ran is counted whole, or left out whole.
#[test]
fn a_new_container_is_judged_by_its_name() {
    let _kernel = live!();
    let above = Cgroup::new("filter-new");
    let agent = Agent::start(Wish { ebpf: &["container_filter: [7d1b3f]"], env: NO_RUNTIME, ..Wish::default() });
    let mut made = Vec::new();
    while_stopped(&agent, || {
        let (mine, other) = (above.child(&format!("crio-{MINE}")), above.child(&format!("crio-{OTHER}")));
        stimulus::run(&mine, &["getppid=300"]);
        stimulus::run(&other, &["getppid=1000"]);
        made.extend([mine, other]);
    });
    agent.until("it is counted", |scrape| (getppids(scrape, &[("container_id", MINE)])? == 300.0).then_some(()));
    let scrape = agent.scrape();
    assert_eq!(scrape.sum(COUNT, &[("container_id", OTHER)]), 0.0);
    assert!(scrape.all(COUNT, &[]).all(|sample| sample.labels.get("container_id").is_some_and(|id| id == MINE)));
    // By now the kernel knows better, too.
    let below = made[1].child("x");
    stimulus::run(&below, &["getppid=1000"]);
    assert!(!agent.counted_cgroups().contains(&below.id()));
    agent.stop();
}

#[test]
fn the_agent_itself_is_seen_only_by_wish() {
    let _kernel = live!();
    for (ebpf, seen) in [(&[][..], false), (&["include_self: true"][..], true)] {
        let agent = Agent::start(Wish { ebpf, ..Wish::default() });
        let cgroup = Cgroup::new("self");
        fs::write(cgroup.directory().join("cgroup.procs"), agent.pid().to_string()).unwrap();
        stimulus::run(&cgroup, &["getppid=10"]);
        let labels = [("cgroup_path", cgroup.path())];
        let is_seen = |scrape: &Scrape| scrape.value(COUNT, &[labels[0], ("syscall", "epoll_wait")]).is_some();
        agent.until("the workload is counted", |scrape| getppids(scrape, &labels));
        if seen {
            agent.until("the agent is counted", |scrape| is_seen(scrape).then_some(()));
        }
        for _ in 0..3 {
            assert_eq!(is_seen(&agent.scrape()), seen, "{ebpf:?}");
        }
        agent.stop();
    }
}

#[test]
fn processes_are_filtered_by_name() {
    let _kernel = live!();
    for (filter, seen) in
        [("exclude_processes: [stimulus]", false), ("process_filter: [stimulus]", true), ("process_filter: [x]", false)]
    {
        let agent = Agent::start(Wish { ebpf: &[filter], ..Wish::default() });
        let cgroup = Cgroup::new("name");
        stimulus::run(&cgroup, &["getppid=70", "openat_enoent=7"]);
        let scrape = agent.scrape();
        let labels = [("cgroup_path", cgroup.path())];
        assert_eq!(getppids(&scrape, &labels), seen.then_some(70.0), "{filter}");
        assert_eq!(agent.counted_cgroups().contains(&cgroup.id()), seen, "{filter}");
        agent.stop();
    }
}

/// Of N calls one in n is timed, each independently of the others but for gaps of at most 2 n - 2: the deviation is
/// under that of N/n independent draws.
#[test]
fn a_sample_is_scaled_and_counters_are_not_sampled() {
    let _kernel = live!();
    for (rate, latency, every) in [("sample_rate: 50", "all", 2.0), ("sample_rate: 25", "{sample: 4}", 16.0)] {
        let syscalls = format!("latency: {latency}, latency_by_syscall: [getppid]");
        let agent = Agent::start(Wish { ebpf: &[rate], syscalls: &syscalls, ..Wish::default() });
        let cgroup = Cgroup::new("sample");
        let calls = 160_000.0;
        stimulus::run(&cgroup, &["getppid=160000"]);
        let labels = [("cgroup_path", cgroup.path())];
        agent.until("all calls are counted", |scrape| (getppids(scrape, &labels)? == calls).then_some(()));
        let scrape = agent.scrape();
        let of = [("cgroup_path", cgroup.path()), ("syscall", "getppid")];
        let count = scrape.value("ebpf_syscall_latency_ns_count", &of).unwrap();
        assert!((count % every).abs() < 1e-9, "{count} is not a multiple of {every}");
        // Six times the deviation of so many independent draws: a test that never fails by chance.
        let slack = 6.0 * every * (calls / every).sqrt();
        assert!((count - calls).abs() <= slack, "{count} of {calls} calls, at most {slack} off");
        let interval = [("metric", "ebpf_syscall_latency_ns")];
        assert_eq!(scrape.value("telesonde_sample_interval", &interval), Some(every));
        agent.stop();
    }
    let agent = Agent::start(Wish { syscalls: "latency: all", ..Wish::default() });
    let scrape = agent.scrape();
    assert_eq!(scrape.value("telesonde_sample_interval", &[("metric", "ebpf_syscall_latency_ns")]), None);
    agent.stop();
}

/// Connections have no sampling of their own: the rate is that of their histogram alone.
#[test]
fn the_rate_reaches_every_histogram() {
    let _kernel = live!();
    let tcp = "tcp: {enabled: require}";
    let agent = Agent::start(Wish { ebpf: &["sample_rate: 50"], collectors: &[tcp], ..Wish::default() });
    let pair = Pair::new();
    let (clients, servers) = (Cgroup::new("sample-client"), Cgroup::new("sample-server"));
    let (mut client, mut server) = (Peer::start(&clients, &pair.client), Peer::start(&servers, &pair.server));
    server.ask(&format!("listen {} 7000 512", Pair::SERVER_V4));
    for _ in 0..2 {
        assert_eq!(client.ask(&format!("connect {} 7000 200", Pair::SERVER_V4)), 200);
        server.ask("accept 200");
    }
    let labels = [("cgroup_path", clients.path())];
    agent.until("all are counted", |scrape| (scrape.value("ebpf_tcp_connects_total", &labels)? == 400.0).then_some(()));
    let scrape = agent.scrape();
    let count = scrape.value("ebpf_tcp_connect_latency_ns_count", &labels).unwrap();
    // Six deviations of 400 fair draws, each of which counts twice.
    assert!(count % 2.0 == 0.0 && (count - 400.0).abs() <= 6.0 * 20.0, "{count} of 400 connections");
    let interval = [("metric", "ebpf_tcp_connect_latency_ns")];
    assert_eq!(scrape.value("telesonde_sample_interval", &interval), Some(2.0));
    agent.stop();
}
