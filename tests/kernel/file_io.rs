//! Exact bytes, opens and timed calls on files, through every call, on file systems of the test's own.

use serde_json::Value;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::disk::{self, Mount};
use crate::harness::scrape::Scrape;
use crate::harness::{live, stimulus};

const READ: &str = "ebpf_file_read_bytes_total";
const WRITTEN: &str = "ebpf_file_write_bytes_total";
const OPENS: &str = "ebpf_file_open_count_total";
const TIMED: &str = "ebpf_file_io_latency_ns_count";

/// Compares what a scrape says of a cgroup with what was done to files of one kind there.
fn check(scrape: &Scrape, cgroup: &Cgroup, kind: &str, done: &Value) {
    let path = [("cgroup_path", cgroup.path())];
    let number = |name: &str| done[name].as_f64();
    let of = |name: &str| {
        let found =
            scrape.all(name, &path).map(|sample| (sample.labels["system_filesystem_type"].clone(), sample.value));
        // The move into the cgroup is itself a write to one of its files.
        found.filter(|(kind, _)| !kind.starts_with("cgroup")).collect::<Vec<_>>()
    };
    assert_eq!(of(READ), [(kind.to_owned(), number("read_bytes").unwrap())]);
    assert_eq!(of(WRITTEN), [(kind.to_owned(), number("write_bytes").unwrap())]);
    assert_eq!(scrape.value(OPENS, &path), number("opens"), "files opened");
    for (operation, name) in [("read", "reads"), ("fsync", "fsyncs"), ("copy", "copies")] {
        let timed = scrape.value(TIMED, &[path[0], ("operation", operation)]);
        assert_eq!(timed, number(name), "{operation} calls that were timed");
    }
    // The move's again.
    let writes = scrape.value(TIMED, &[path[0], ("operation", "write")]);
    assert_eq!(writes, number("writes").map(|writes| writes + 1.0), "write calls that were timed");
    assert_eq!(scrape.sum("telesonde_bpf_misses_total", &[]), 0.0, "the kernel skipped programs");
    assert_eq!(scrape.sum("telesonde_bpf_map_overflow_total", &[]), 0.0, "a map was full");
    assert_eq!(scrape.sum("telesonde_events_lost_total", &[("collector", "file_io")]), 0.0, "starts were lost");
}

#[test]
fn every_call_counts_on_ext4_and_on_tmpfs() {
    let _kernel = live!();
    if let Err(reason) = disk::permitted() {
        println!("SKIPPED kernel::file_io::every_call_counts_on_ext4_and_on_tmpfs: {reason}");
        return;
    }
    let agent = Agent::start(Wish { collectors: &["file_io: {enabled: require, latency: all}"], ..Wish::default() });
    for (kind, mount) in [("ext4", Mount::ext4()), ("tmpfs", Mount::tmpfs())] {
        let cgroup = Cgroup::new(&format!("files-{kind}"));
        let done = stimulus::files(mount.path(), "everything=37", &[cgroup.directory()]);
        let seen = |scrape: &Scrape| scrape.value(OPENS, &[("cgroup_path", cgroup.path())]);
        let scrape = agent.until("the workload is seen", |scrape| seen(scrape).map(|_| scrape.clone()));
        check(&scrape, &cgroup, kind, &done);
    }
    agent.stop();
}

#[test]
fn calls_of_the_32_bit_table_count() {
    let _kernel = live!();
    let mount = Mount::tmpfs();
    let program = match stimulus::compat_files(&mount.path().join("file"), 77) {
        Ok(program) => program,
        Err(reason) => {
            println!("SKIPPED kernel::file_io::calls_of_the_32_bit_table_count: {reason}");
            return;
        }
    };
    let agent = Agent::start(Wish { collectors: &["file_io: {enabled: require, latency: all}"], ..Wish::default() });
    let cgroup = Cgroup::new("files-compat");
    stimulus::run(&cgroup, &[&format!("exec_file={}", program.display())]);
    let path = ("cgroup_path", cgroup.path());
    let tmpfs = [path, ("system_filesystem_type", "tmpfs")];
    let read = agent.until("the workload is seen", |scrape| scrape.value(READ, &tmpfs));
    let scrape = agent.scrape();
    assert_eq!((read, scrape.value(WRITTEN, &tmpfs)), (77.0 * 67.0, Some(7700.0)));
    let timed = |operation| scrape.value(TIMED, &[path, ("operation", operation)]);
    assert_eq!((timed("fsync"), timed("copy")), (Some(77.0), None));
    assert!(scrape.value(OPENS, &[path]) >= Some(2.0));
    agent.stop();
}

#[test]
fn timing_does_not_change_amounts() {
    let _kernel = live!();
    let mount = Mount::tmpfs();
    for latency in ["off", "{sample: 16}"] {
        let section = format!("file_io: {{enabled: require, latency: {latency}}}");
        let agent = Agent::start(Wish { collectors: &[&section], ..Wish::default() });
        let cgroup = Cgroup::new("files-untimed");
        stimulus::files(mount.path(), "read_loop=100000", &[cgroup.directory()]);
        let path = ("cgroup_path", cgroup.path());
        let tmpfs = [path, ("system_filesystem_type", "tmpfs")];
        let read = agent.until("the workload is seen", |scrape| scrape.value(READ, &tmpfs));
        assert_eq!(read, 100_000.0);
        let scrape = agent.scrape();
        assert_eq!(scrape.value(WRITTEN, &tmpfs), Some(4096.0));
        let timed = scrape.value(TIMED, &[path, ("operation", "read")]);
        if latency == "off" {
            assert_eq!(timed, None);
        } else {
            // One in 16 on average, each standing for 16; the standard deviation is some 700.
            let timed = timed.unwrap();
            assert!((95_000.0..105_000.0).contains(&timed), "{timed} of 100,000 calls by estimate");
        }
        agent.stop();
    }
}

#[test]
fn what_does_not_fit_overflows_whole() {
    let _kernel = live!();
    let mount = Mount::tmpfs();
    let section = "file_io: {enabled: require, latency: all, max_amounts: 1, max_latencies: 1}";
    let agent = Agent::start(Wish { collectors: &[section], ..Wish::default() });
    let cgroup = Cgroup::new("files-full");
    stimulus::files(mount.path(), "read_loop=100000", &[cgroup.directory()]);
    let path = [("cgroup_path", cgroup.path())];
    let overflow = [("otel_metric_overflow", "true")];
    // Whoever came first has the only entry; other workloads of the machine overflow, too.
    let whole = |scrape: &Scrape, name| scrape.sum(name, &path) + scrape.value(name, &overflow).unwrap_or_default();
    let scrape = agent.until("all that was read is counted", |scrape| {
        (whole(scrape, READ) >= 100_000.0 && whole(scrape, TIMED) >= 100_000.0).then(|| scrape.clone())
    });
    assert!(whole(&scrape, WRITTEN) >= 4096.0 && whole(&scrape, OPENS) >= 1.0);
    for map in ["file_amounts", "file_latency"] {
        let events = scrape.value("telesonde_bpf_map_overflow_total", &[("map", map)]);
        assert!(events > Some(0.0), "{map} was full, silently");
    }
    agent.stop();
}
