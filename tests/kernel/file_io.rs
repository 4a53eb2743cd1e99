//! Exact bytes, opens and timed calls on files, through every call, on file systems of the test's own.

use bpf::abi::file_io::{Amount, FILE_READ, FILE_WRITE, Loss};
use bpf::abi::histogram::HistShape;
use bpf::{Error, Loader, Types};
use serde_json::Value;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::disk::{self, Mount};
use crate::harness::scrape::{Scrape, assert_counted};
use crate::harness::{live, skipped, stimulus};

const READ: &str = "ebpf_file_read_bytes_total";
const WRITTEN: &str = "ebpf_file_write_bytes_total";
const OPENS: &str = "ebpf_file_open_count_total";
const TIMED: &str = "ebpf_file_io_latency_ns_count";

/// The programs that count calls, and those that time them.
const ENDS: &[&str] = &["sys_exit", "sys_exit__probe"];
const BOTH: &[&str] = &["sys_enter", "sys_exit", "sys_exit__probe"];

/// Bytes that one call reads or writes, at most.
const MOST: f64 = 8192.0;

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
    let (skipped, untimed) = (scrape.skipped(ENDS), scrape.skipped(BOTH));
    for (name, bytes) in [(READ, "read_bytes"), (WRITTEN, "write_bytes")] {
        let found = of(name);
        assert!(matches!(&found[..], [(of, _)] if *of == kind), "{found:?}");
        assert_counted(Some(found[0].1), number(bytes).unwrap(), skipped * MOST);
    }
    assert_counted(scrape.value(OPENS, &path), number("opens").unwrap(), skipped);
    // The move writes once more.
    for (operation, name, more) in
        [("read", "reads", 0.0), ("fsync", "fsyncs", 0.0), ("copy", "copies", 0.0), ("write", "writes", 1.0)]
    {
        let timed = scrape.value(TIMED, &[path[0], ("operation", operation)]);
        assert_counted(timed, number(name).unwrap() + more, untimed);
    }
    assert_eq!(scrape.sum("telesonde_bpf_map_overflow_total", &[]), 0.0, "a map was full");
    assert_eq!(scrape.sum("telesonde_events_lost_total", &[("collector", "file_io")]), 0.0, "starts were lost");
}

#[test]
fn every_call_counts_on_ext4_and_on_tmpfs() {
    let _kernel = live!();
    if let Err(reason) = disk::permitted() {
        skipped(&reason);
        return;
    }
    let facts = bpf::probe::Facts::gather();
    // What opens more descriptors than a process begins with is lost there, and told: `every_way_to_a_file_counts_the_same`.
    let is_near = facts.lockdown.as_deref() == Some("confidentiality") && facts.version < (6, 17);
    let agent = Agent::start(Wish { collectors: &["file_io: {enabled: require, latency: all}"], ..Wish::default() });
    for (kind, mount) in [("ext4", Mount::ext4()), ("tmpfs", Mount::tmpfs())] {
        let cgroup = Cgroup::new(&format!("files-{kind}"));
        let action = if is_near { "read_loop=1000" } else { "everything=37" };
        let done = stimulus::files(mount.path(), action, &[cgroup.directory()]);
        let seen = |scrape: &Scrape| scrape.value(OPENS, &[("cgroup_path", cgroup.path())]);
        let scrape = agent.until("the workload is seen", |scrape| seen(scrape).map(|_| scrape.clone()));
        if is_near {
            let path = [("cgroup_path", cgroup.path()), ("system_filesystem_type", kind)];
            let skipped = scrape.skipped(&["sys_exit__near"]) * MOST;
            assert_counted(scrape.value(READ, &path), 1000.0, skipped);
            assert_counted(scrape.value(WRITTEN, &path), 4096.0, skipped);
        } else {
            check(&scrape, &cgroup, kind, &done);
        }
    }
    agent.stop();
}

#[test]
fn calls_of_the_32_bit_table_count() {
    let _kernel = live!();
    let mount = Mount::tmpfs();
    let program = match stimulus::compat_files() {
        Ok(program) => program,
        Err(reason) => {
            skipped(&reason);
            return;
        }
    };
    let agent = Agent::start(Wish { collectors: &["file_io: {enabled: require, latency: all}"], ..Wish::default() });
    let cgroup = Cgroup::new("files-compat");
    let actions = [format!("chdir={}", mount.path().display()), format!("exec_file={}", program.display())];
    stimulus::run(&cgroup, &actions.each_ref().map(String::as_str));
    let path = ("cgroup_path", cgroup.path());
    let tmpfs = [path, ("system_filesystem_type", "tmpfs")];
    let read = agent.until("the workload is seen", |scrape| scrape.value(READ, &tmpfs));
    let scrape = agent.scrape();
    let skipped = scrape.skipped(ENDS);
    assert_counted(Some(read), 77.0 * 67.0, skipped * MOST);
    assert_counted(scrape.value(WRITTEN, &tmpfs), 7700.0, skipped * MOST);
    let timed = |operation| scrape.value(TIMED, &[path, ("operation", operation)]);
    assert_counted(timed("fsync"), 77.0, scrape.skipped(BOTH));
    assert_eq!(timed("copy"), None);
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
        let scrape = agent.scrape();
        let skipped = scrape.skipped(ENDS);
        assert_counted(Some(read), 100_000.0, skipped);
        assert_counted(scrape.value(WRITTEN, &tmpfs), 4096.0, skipped * MOST);
        let timed = scrape.value(TIMED, &[path, ("operation", "read")]);
        if latency == "off" {
            assert_eq!(timed, None);
        } else {
            // One in 16 on average, each standing for 16; the standard deviation is some 700.
            let timed = timed.unwrap();
            assert!((95_000.0 - skipped..105_000.0).contains(&timed), "{timed} of 100,000 calls by estimate");
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
        let (read, timed) = (whole(scrape, READ), whole(scrape, TIMED));
        let (skipped, untimed) = (scrape.skipped(ENDS), scrape.skipped(BOTH));
        (read >= 100_000.0 - skipped && timed >= 100_000.0 - untimed).then(|| scrape.clone())
    });
    assert!(whole(&scrape, WRITTEN) >= 4096.0 && whole(&scrape, OPENS) >= 1.0);
    for map in ["file_amounts", "file_latency"] {
        let events = scrape.value("telesonde_bpf_map_overflow_total", &[("map", map)]);
        assert!(events > Some(0.0), "{map} was full, silently");
    }
    agent.stop();
}

/// What a program counts that finds files in one of the ways that kernels allow: bytes read and written in a cgroup,
/// and descriptors that it could not look up.
fn counted(program: &str, action: &str) -> Result<(u64, u64, u64), Error> {
    let (facts, types, mount) = (bpf::probe::Facts::gather(), Types::load(None)?, Mount::tmpfs());
    let hierarchy = facts.cgroups.primary as u32;
    let loader =
        Loader::new(if facts.is_legacy() { "file_io_legacy" } else { "file_io" }).constant("hierarchy", &hierarchy);
    let mut object = loader.histogram("file_latency", HistShape::new(0, 4, 40)).load(&types)?;
    object.attach(program, &types)?;
    let cgroup = Cgroup::new("files-way");
    stimulus::files(mount.path(), action, &[cgroup.directory()]);
    let (mut read, mut written) = (0, 0);
    object.table::<Amount, u64>("file_amounts")?.for_each(|amount, cells| {
        let bytes = if amount.cgroup == cgroup.id() { cells.iter().sum::<u64>() } else { 0 };
        match amount.kind {
            FILE_READ => read += bytes,
            FILE_WRITE if amount.magic == TMPFS => written += bytes,
            _ => {}
        }
    })?;
    let lost = object.per_cpu_cells::<Loss>("losses")?.get(0)?.iter().map(|loss| loss.far).sum();
    Ok((read, written, lost))
}

const TMPFS: u32 = 0x0102_1994;

#[test]
fn every_way_to_a_file_counts_the_same() {
    let _kernel = live!();
    let facts = bpf::probe::Facts::gather();
    // Before Linux 6.17 the first one is refused, before 5.12 it is not there, and under lockdown=confidentiality the second one.
    let locked = facts.lockdown.as_deref() == Some("confidentiality");
    let ways = [("sys_exit", facts.version >= (6, 17)), ("sys_exit__probe", !locked)];
    for (program, is_there) in ways.into_iter().skip(usize::from(facts.is_legacy())) {
        let counts = counted(program, "read_loop=1000");
        assert_eq!(counts.is_ok(), is_there, "{program}: {:?}", counts.err());
        if let Ok((read, written, lost)) = counts {
            assert_eq!((read, written, lost), (1000, 4096, 0), "{program}");
        }
    }
    if facts.is_legacy() {
        return;
    }
    let (read, written, lost) = counted("sys_exit__near", "read_loop=1000").unwrap();
    assert_eq!((read, written), (1000, 4096), "the table that a process begins with; {lost} lost");
    let (_, _, lost) = counted("sys_exit__near", "everything=3").unwrap();
    assert!(lost > 0, "a process with more descriptors than that is lost, but not in silence");
}
