//! Executables within a workload: told apart exactly, and in sum what the workload is without them.

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::disk::Mount;
use crate::harness::netns::Netns;
use crate::harness::peer::Peer;
use crate::harness::scrape::Scrape;
use crate::harness::{live, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
const COLLECTORS: &[&str] = &[
    "connection: {enabled: require}",
    "file_io: {enabled: require}",
    "memory: {enabled: require}",
    "network: {enabled: require}",
    "scheduler: {enabled: require}",
    "tcp: {enabled: require}",
];

/// Gives the calls of an executable, or of a whole cgroup.
fn getppids(scrape: &Scrape, cgroup: &Cgroup, executable: Option<&str>) -> f64 {
    let path = ("cgroup_path", cgroup.path());
    let call = ("syscall", "getppid");
    match executable {
        Some(name) => scrape.value(COUNT, &[path, call, ("process_executable_name", name)]).unwrap_or_default(),
        None => scrape.sum(COUNT, &[path, call]),
    }
}

/// Two agents watch the same work, one of which tells executables apart.
#[test]
fn executables_add_up_to_their_workload() {
    let _kernel = live!();
    let wish = Wish { collectors: COLLECTORS, ..Wish::default() };
    let fine = Agent::start(Wish { ebpf: &["granularity: process"], ..wish });
    let coarse = Agent::start(wish);
    let (cgroup, netns, mount) = (Cgroup::new("granularity"), Netns::new(), Mount::tmpfs());
    let mut server = Peer::start(&cgroup, &netns);
    server.ask("listen 127.0.0.1 7000 128");
    let mut client = Peer::start(&cgroup, &netns);
    assert_eq!(client.ask("connect 127.0.0.1 7000 31"), 31);
    server.ask("accept 31");
    for name in ["alpha", "beta"] {
        stimulus::run_as(name, &cgroup, &["getppid=1000", "tcp_refused=7", "children=20:50"]);
    }
    stimulus::run_as("alpha", &cgroup, &["getppid=234", "openat_enoent=11"]);
    // The kernel keeps 15 bytes of a name.
    stimulus::run_as("a-name-of-20-letters", &cgroup, &["getppid=5"]);
    let done = stimulus::files(mount.path(), "everything=17", &[cgroup.directory()]);
    drop(client);
    drop(server);

    let path = ("cgroup_path", cgroup.path());
    let closed = |scrape: &Scrape| scrape.sum("ebpf_tcp_closes_total", &[path]) == 62.0;
    let seen = |scrape: &Scrape| (getppids(scrape, &cgroup, None) == 4239.0 && closed(scrape)).then(|| scrape.clone());
    let apart = fine.until("all is counted", seen);
    let whole = coarse.until("all is counted", seen);
    let calls = [("alpha", 2234.0), ("beta", 2000.0), ("a-name-of-20-le", 5.0)];
    for (name, expected) in calls {
        assert_eq!(getppids(&apart, &cgroup, Some(name)), expected, "{name}");
    }
    let value = |name: &str, executable: &str, more: &[(&str, &str)]| {
        apart.sum(name, &[&[path, ("process_executable_name", executable)], more].concat())
    };
    for name in ["alpha", "beta"] {
        assert_eq!(value("ebpf_tcp_connect_errors_total", name, &[("error_type", "refused")]), 7.0);
    }
    assert_eq!(value("ebpf_tcp_connects_total", "tcp", &[]), 31.0);
    assert_eq!(value("ebpf_tcp_accepts_total", "tcp", &[]), 31.0);
    assert_eq!(
        value("ebpf_file_write_bytes_total", "files", &[("system_filesystem_type", "tmpfs")]),
        done["write_bytes"]
    );
    assert_eq!(value("ebpf_file_read_bytes_total", "files", &[]), done["read_bytes"]);
    // What is counted by owner: the sums are those of the agent that tells no executables apart.
    let names = [
        COUNT,
        "ebpf_syscall_errors_total",
        "ebpf_file_read_bytes_total",
        "ebpf_file_write_bytes_total",
        "ebpf_file_open_count_total",
        "ebpf_tcp_connects_total",
        "ebpf_tcp_accepts_total",
        "ebpf_tcp_closes_total",
        "ebpf_tcp_connect_errors_total",
        "ebpf_tcp_connect_latency_ns_count",
        "ebpf_network_bytes_total",
        "ebpf_network_packets_total",
        "ebpf_page_faults_total",
        "ebpf_context_switches_total",
        "ebpf_memory_allocations_total",
    ];
    for name in names {
        let (apart, whole) = (apart.sum(name, &[path]), whole.sum(name, &[path]));
        assert!(whole > 0.0, "{name} is absent");
        assert_eq!(apart, whole, "{name}");
    }
    // The ends of connections have names of executables, too.
    let from = |scrape: &Scrape, more: &[(&str, &str)]| {
        scrape.sum("ebpf_connection_bytes_total", &[&[("source_cgroup_path", cgroup.path())], more].concat())
    };
    assert!(from(&whole, &[]) > 0.0);
    let parts = ["tcp", "alpha", "beta"].map(|name| from(&apart, &[("source_process_executable_name", name)]));
    assert!(parts.iter().all(|bytes| *bytes > 0.0) && parts.iter().sum::<f64>() == from(&whole, &[]), "{parts:?}");
    assert!(whole.0.iter().all(|sample| !sample.labels.contains_key("process_executable_name")));
    assert_eq!(apart.sum("telesonde_bpf_map_overflow_total", &[]), 0.0, "a map was full");
    fine.stop();
    coarse.stop();
}

/// Processes that end, a thousand of them, stay in the series of their executable.
#[test]
fn dead_processes_stay_in_the_sum_of_their_executable() {
    let _kernel = live!();
    let collectors = &["scheduler: {enabled: require}"];
    let agent = Agent::start(Wish { collectors, ebpf: &["granularity: process"], ..Wish::default() });
    let cgroup = Cgroup::new("brief");
    let mut before = agent.scrape();
    for (round, name) in ["busy", "other", "busy", "busy", "other"].into_iter().enumerate() {
        stimulus::run_as(name, &cgroup, &["children=200:3"]);
        let scrape = agent.until("the round is counted", |scrape| {
            (getppids(scrape, &cgroup, None) == 600.0 * (round + 1) as f64).then(|| scrape.clone())
        });
        assert_eq!(scrape.fallen(&before), [], "a counter never falls");
        before = scrape;
    }
    assert_eq!(getppids(&before, &cgroup, Some("busy")), 1800.0);
    assert_eq!(getppids(&before, &cgroup, Some("other")), 1200.0);
    let path = ("cgroup_path", cgroup.path());
    let series = before.all(COUNT, &[path, ("syscall", "getppid")]).count();
    assert_eq!(series, 2, "a thousand processes are one series for each executable");
    // Time on CPU goes to what a process runs, not to what its parent ran.
    let runtime = |name| before.sum("ebpf_process_runtime_ns_total", &[path, ("process_executable_name", name)]);
    assert!(runtime("busy") > 0.0 && runtime("other") > 0.0);

    // The cgroup goes, its entries are taken out of the kernel's maps, and its sums stay.
    let path = cgroup.path().to_owned();
    let executables = agent.executables(cgroup.id());
    assert!(executables.len() >= 2 && agent.counted_cgroups().iter().any(|id| executables.contains(id)));
    drop(cgroup);
    let sum = |scrape: &Scrape| scrape.sum(COUNT, &[("cgroup_path", &path), ("syscall", "getppid")]);
    agent.until("the entries are freed", |scrape| {
        assert_eq!(sum(scrape), 3000.0);
        assert_eq!(scrape.fallen(&before), [], "a counter never falls");
        (!agent.counted_cgroups().iter().any(|id| executables.contains(id))).then_some(())
    });
    agent.stop();
}

/// What finds no room in the table of executables is its workload's own, and counted.
#[test]
fn too_many_executables_are_their_workloads_own() {
    let _kernel = live!();
    let cgroup_section = "cgroup: {enabled: require, max_executables: 1}";
    let wish = Wish { ebpf: &["granularity: process"], collectors: &[cgroup_section], ..Wish::default() };
    let agent = Agent::start(wish);
    let cgroup = Cgroup::new("full");
    for name in ["one", "two", "three"] {
        stimulus::run_as(name, &cgroup, &["getppid=100"]);
    }
    let scrape = agent
        .until("all calls are counted", |scrape| (getppids(scrape, &cgroup, None) == 300.0).then(|| scrape.clone()));
    let lost = scrape.value("telesonde_bpf_map_overflow_total", &[("map", "executables")]);
    assert!(lost.is_some_and(|lost| lost >= 200.0), "{lost:?}");
    agent.stop();
}

/// Without the name of the executable the series are those of the workloads.
#[test]
fn a_dropped_attribute_sums_what_coincides() {
    let _kernel = live!();
    let agent = Agent::start(Wish {
        ebpf: &["granularity: process"],
        enrich: "attributes: {drop: [process.executable.name]}",
        ..Wish::default()
    });
    let cgroup = Cgroup::new("dropped");
    for name in ["one", "two", "one"] {
        stimulus::run_as(name, &cgroup, &["getppid=100"]);
    }
    let labels = [("cgroup_path", cgroup.path()), ("syscall", "getppid")];
    agent.until("all calls are one series", |scrape| (scrape.value(COUNT, &labels)? == 300.0).then_some(()));
    agent.stop();
}

/// A node is one workload: no series has a name of a workload.
#[test]
fn a_node_is_one_workload() {
    let _kernel = live!();
    let agent = Agent::start(Wish {
        ebpf: &["granularity: node"],
        syscalls: "syscalls: [sched_rr_get_interval]",
        ..Wish::default()
    });
    let (one, two) = (Cgroup::new("node-one"), Cgroup::new("node-two"));
    for cgroup in [&one, &two] {
        stimulus::run(cgroup, &["sched_rr_get_interval=70"]);
    }
    let labels = [("syscall", "sched_rr_get_interval")];
    let scrape =
        agent.until("both are counted", |scrape| (scrape.value(COUNT, &labels)? == 140.0).then(|| scrape.clone()));
    let named = |sample: &&crate::harness::scrape::Sample| {
        sample.name.starts_with("ebpf_")
            && ["cgroup_path", "container_id", "systemd_unit"].iter().any(|key| sample.labels.contains_key(*key))
    };
    assert_eq!(scrape.0.iter().filter(named).collect::<Vec<_>>(), Vec::<&crate::harness::scrape::Sample>::new());
    agent.stop();
}
