//! Exact bytes and samples of block I/O on a loop device, under whoever the I/O is charged to.

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::{Cgroup, io};
use crate::harness::disk::{self, Loop};
use crate::harness::scrape::Scrape;
use crate::harness::{live, skipped, stimulus};

const BYTES: &str = "ebpf_block_io_bytes_total";
const TIMED: &str = "ebpf_block_io_latency_ns_count";
const SUM: &str = "ebpf_block_io_latency_ns_sum";

const BLOCKS: f64 = 1234.0;

/// Says why I/O cannot be charged to anybody here.
fn impossible() -> Option<String> {
    disk::permitted().and_then(|()| io().map(drop)).err()
}

#[test]
fn direct_writes_belong_to_who_wrote() {
    let _kernel = live!();
    if let Some(reason) = impossible() {
        skipped(&reason);
        return;
    }
    let device = Loop::new(8 << 20);
    let agent = Agent::start(Wish { collectors: &["block: {enabled: require}"], ..Wish::default() });
    let cgroup = Cgroup::new("block");
    let twin = cgroup.twin(&io().unwrap());
    let cgroups: Vec<_> = [Some(&cgroup), twin.as_ref()].into_iter().flatten().map(Cgroup::directory).collect();
    stimulus::files(device.path(), "write_direct=1234", &cgroups);
    stimulus::files(device.path(), "read_direct=1000", &cgroups);

    let of = |direction| {
        [("cgroup_path", cgroup.path()), ("system_device", device.name()), ("disk_io_direction", direction)]
    };
    let seen = |scrape: &Scrape| scrape.value(BYTES, &of("read")).map(|_| scrape.clone());
    let scrape = agent.until("the workload is seen", seen);
    for (direction, blocks) in [("write", BLOCKS), ("read", 1000.0)] {
        assert_eq!(scrape.value(BYTES, &of(direction)), Some(blocks * 4096.0), "bytes: {direction}");
        assert_eq!(scrape.value(TIMED, &of(direction)), Some(blocks), "requests: {direction}");
        assert!(scrape.value(SUM, &of(direction)) > Some(0.0), "{direction} takes time");
    }
    // Nobody else used the device.
    let device = [("system_device", device.name())];
    assert_eq!(scrape.sum(BYTES, &[device[0], ("disk_io_direction", "write")]), BLOCKS * 4096.0);
    assert_eq!(scrape.sum("telesonde_bpf_map_overflow_total", &[]), 0.0, "a map was full");
    assert_eq!(scrape.sum("telesonde_events_lost_total", &[("collector", "block")]), 0.0, "a start was not noted");
    agent.stop();
}

#[test]
fn what_does_not_fit_overflows_whole() {
    let _kernel = live!();
    if let Some(reason) = impossible() {
        skipped(&reason);
        return;
    }
    let device = Loop::new(8 << 20);
    let section = "block: {enabled: require, max_transfers: 1, max_latencies: 1}";
    let agent = Agent::start(Wish { collectors: &[section], ..Wish::default() });
    let cgroup = Cgroup::new("block-full");
    let twin = cgroup.twin(&io().unwrap());
    let cgroups: Vec<_> = [Some(&cgroup), twin.as_ref()].into_iter().flatten().map(Cgroup::directory).collect();
    stimulus::files(device.path(), "write_direct=1234", &cgroups);
    stimulus::files(device.path(), "read_direct=1000", &cgroups);
    // Whoever came first has the only entry; other I/O of the machine overflows, too.
    let (path, overflow) = ([("cgroup_path", cgroup.path())], [("otel_metric_overflow", "true")]);
    let whole = |scrape: &Scrape, name| scrape.sum(name, &path) + scrape.value(name, &overflow).unwrap_or_default();
    let scrape = agent.until("all of it is counted", |scrape| {
        let all = whole(scrape, TIMED) >= BLOCKS + 1000.0 && whole(scrape, BYTES) >= (BLOCKS + 1000.0) * 4096.0;
        all.then(|| scrape.clone())
    });
    for map in ["block_bytes", "block_latency"] {
        let events = scrape.value("telesonde_bpf_map_overflow_total", &[("map", map)]);
        assert!(events > Some(0.0), "{map} was full, silently");
    }
    agent.stop();
}

#[test]
fn what_the_root_is_charged_for_belongs_to_the_kernel() {
    let _kernel = live!();
    if let Some(reason) = impossible() {
        skipped(&reason);
        return;
    }
    let device = Loop::new(8 << 20);
    let agent = Agent::start(Wish { collectors: &["block: {enabled: require}"], ..Wish::default() });
    // In a cgroup of the memory controller only; or in the root itself where one hierarchy has it all.
    let (cgroup, root) = (Cgroup::new("block-root"), io().unwrap());
    let one = cgroup.twin(&root).is_none();
    stimulus::files(device.path(), "write_direct=100", &[if one { &root } else { cgroup.directory() }]);
    let of = [("workload_name", "kernel"), ("system_device", device.name()), ("disk_io_direction", "write")];
    let bytes = agent.until("the writes are seen", |scrape| scrape.value(BYTES, &of));
    assert_eq!(bytes, 409_600.0);
    agent.stop();
}
