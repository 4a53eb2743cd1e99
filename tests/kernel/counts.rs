//! Exact counts, errors and latencies of one workload.

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::{Scrape, assert_counted};
use crate::harness::{eventually, live, skipped, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
const ERRORS: &str = "ebpf_syscall_errors_total";
const TIMED: &str = "latency: all, latency_by_syscall: [nanosleep]";

/// Gives the count of a system call in a cgroup.
fn count(scrape: &Scrape, cgroup: &Cgroup, syscall: &str) -> Option<f64> {
    scrape.value(COUNT, &[("cgroup_path", cgroup.path()), ("syscall", syscall)])
}

/// Scrapes until the cgroup has a system call, then checks all counts at once.
fn check(agent: &Agent, cgroup: &Cgroup, expected: &[(&str, f64)]) {
    let scrape = agent.until("the workload is seen", |scrape| {
        count(scrape, cgroup, expected[0].0)?;
        Some(scrape.clone())
    });
    let all = expected.iter().map(|(_, number)| number).sum::<f64>();
    let mut short = 0.0;
    for &(syscall, number) in expected {
        let found = count(&scrape, cgroup, syscall).unwrap_or_default();
        assert!(found <= number, "{syscall}: {}", seen(&scrape, cgroup));
        short += number - found;
    }
    let skipped = scrape.skipped(&["sys_exit"]);
    assert!(short <= skipped, "{short} of {all} calls, {skipped} skipped: {}", seen(&scrape, cgroup));
    assert_eq!(scrape.sum("telesonde_bpf_map_overflow_total", &[]), 0.0, "a map was full");
}

fn seen(scrape: &Scrape, cgroup: &Cgroup) -> String {
    let of = [("cgroup_path", cgroup.path())];
    let lines = scrape.all(COUNT, &of).map(|sample| (&sample.labels["syscall"], sample.value));
    format!("{:?}", lines.collect::<Vec<_>>())
}

#[test]
fn scrape_and_export_say_what_was_done() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let agent = Agent::start(Wish { syscalls: TIMED, otlp: Some(receiver.address()), ..Wish::default() });
    let cgroup = Cgroup::new("exact");
    let done = stimulus::run(&cgroup, &["getppid=12345", "openat_enoent=321", "nanosleep=50:1000000"]);
    check(&agent, &cgroup, &[("getppid", 12345.0), ("openat", 321.0), ("nanosleep", 50.0)]);

    let scrape = agent.scrape();
    let (path, sleep) = (("cgroup_path", cgroup.path()), ("syscall", "nanosleep"));
    let (skipped, untimed) = (scrape.skipped(&["sys_exit"]), scrape.skipped(&["sys_enter", "sys_exit"]));
    let missing = scrape.value(ERRORS, &[path, ("syscall", "openat"), ("error_type", "ENOENT")]);
    assert_counted(missing, 321.0, skipped);
    assert_eq!(Some(scrape.sum(ERRORS, &[path, ("syscall", "openat")])), missing);
    assert_eq!(scrape.sum(ERRORS, &[path, ("syscall", "getppid")]), 0.0);
    let timed = scrape.value("ebpf_syscall_latency_ns_count", &[path, sleep]);
    assert_counted(timed, 50.0, untimed);
    let sum = scrape.value("ebpf_syscall_latency_ns_sum", &[path, sleep]).unwrap();
    let clock = done["nanosleep_ns"].as_f64().unwrap();
    assert!(timed.unwrap() * 1e6 <= sum && sum <= clock, "{timed:?} ms <= {sum} ns <= {clock} ns");

    let path = ("cgroup.path", cgroup.path());
    let exported = |syscall| receiver.number("ebpf_syscall_count", &[path, ("syscall", syscall)]);
    let said = |syscall| count(&scrape, &cgroup, syscall);
    eventually("all sleeps are exported", || (exported("nanosleep") == said("nanosleep")).then_some(()));
    assert_eq!((exported("getppid"), exported("openat")), (said("getppid"), said("openat")));
    let errors = [path, ("syscall", "openat"), ("error.type", "ENOENT")];
    assert_eq!(receiver.number("ebpf_syscall_errors", &errors), missing);
    let histogram = receiver.histogram("ebpf_syscall_latency_ns", &[path, sleep]).unwrap();
    assert_eq!((Some(histogram.count as f64), histogram.sum), (timed, Some(sum)));
    let buckets = histogram.positive.unwrap_or_default().bucket_counts.iter().sum::<u64>();
    assert_eq!(buckets + histogram.zero_count, histogram.count);
    agent.stop();
}

#[test]
fn latency_does_not_change_counts() {
    let _kernel = live!();
    for latency in ["latency: all", "latency: off", "latency: {sample: 16}"] {
        let agent = Agent::start(Wish { syscalls: latency, ..Wish::default() });
        let cgroup = Cgroup::new("latency");
        stimulus::run(&cgroup, &["getppid=5000", "openat_enoent=70", "nanosleep=9:1000"]);
        check(&agent, &cgroup, &[("getppid", 5000.0), ("openat", 70.0), ("nanosleep", 9.0)]);
        let scrape = agent.scrape();
        let timed = scrape.sum("ebpf_syscall_latency_ns_count", &[("cgroup_path", cgroup.path())]);
        assert_eq!(timed > 0.0, latency != "latency: off", "{latency}: {timed} calls were timed");
        agent.stop();
    }
}

#[test]
fn a_listed_call_alone_is_counted() {
    let _kernel = live!();
    let agent = Agent::start(Wish { syscalls: "syscalls: [getppid]", ..Wish::default() });
    let cgroup = Cgroup::new("listed");
    stimulus::run(&cgroup, &["getppid=500", "openat_enoent=70"]);
    check(&agent, &cgroup, &[("getppid", 500.0)]);
    let scrape = agent.scrape();
    assert!(scrape.all(COUNT, &[]).all(|sample| sample.labels.get("syscall").is_none_or(|name| name == "getppid")));
    agent.stop();
}

#[test]
fn calls_that_return_twice_or_never_count_once() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let cgroup = Cgroup::new("processes");
    stimulus::run(&cgroup, &["fork=101", "vfork=57", "threads=83", "signals=211", "exec=13"]);
    check(&agent, &cgroup, &[("rt_sigreturn", 211.0), ("execve", 13.0), ("kill", 211.0), ("wait4", 158.0)]);
    let scrape = agent.scrape();
    let of = |names: &[&str]| names.iter().filter_map(|name| count(&scrape, &cgroup, name)).sum::<f64>();
    let skipped = scrape.skipped(&["sys_exit"]);
    assert_counted(Some(of(&["fork", "vfork", "clone", "clone3"])), 241.0, skipped);
    if cfg!(target_arch = "x86_64") {
        for (names, done) in [(&["fork"][..], 101.0), (&["vfork"], 57.0), (&["clone", "clone3"], 83.0)] {
            assert_counted(Some(of(names)), done, skipped);
        }
    }
    assert_eq!(of(&["exit", "exit_group"]), 0.0, "they never return");
    agent.stop();
}

#[test]
fn a_32_bit_program_has_its_own_table() {
    let _kernel = live!();
    let program = match stimulus::compat() {
        Ok(program) => program,
        Err(reason) => {
            skipped(&reason);
            return;
        }
    };
    let agent = Agent::start(Wish::default());
    let cgroup = Cgroup::new("compat");
    stimulus::run(&cgroup, &["getppid=55", &format!("exec_file={}", program.display())]);
    // Number 64 is semget for 64-bit programs.
    check(&agent, &cgroup, &[("i386:getppid", 777.0), ("getppid", 55.0)]);
    assert_eq!(count(&agent.scrape(), &cgroup, "semget"), None);
    agent.stop();
}

#[test]
fn sixty_four_threads_lose_nothing() {
    let _kernel = live!();
    let agent = Agent::start(Wish { syscalls: "latency: all, latency_by_syscall: [getppid]", ..Wish::default() });
    let cgroup = Cgroup::new("threads");
    let mut child = stimulus::start(&cgroup, &["parallel=64:20000"]);
    let mut before = agent.scrape();
    while child.try_wait().unwrap().is_none() {
        let scrape = agent.scrape();
        assert_eq!(scrape.fallen(&before), [], "a counter never falls");
        before = scrape;
    }
    stimulus::finish(child);
    check(&agent, &cgroup, &[("getppid", 1_280_000.0)]);
    let labels = [("cgroup_path", cgroup.path()), ("syscall", "getppid")];
    let scrape = agent.scrape();
    let untimed = scrape.skipped(&["sys_enter", "sys_exit"]);
    assert_counted(scrape.value("ebpf_syscall_latency_ns_count", &labels), 1_280_000.0, untimed);
    agent.stop();
}

#[test]
fn a_restarted_agent_counts_exactly() {
    let _kernel = live!();
    let before = Cgroup::new("before");
    let agent = Agent::start(Wish::default());
    stimulus::run(&before, &["getppid=1000"]);
    check(&agent, &before, &[("getppid", 1000.0)]);
    agent.stop();

    let agent = Agent::start(Wish::default());
    let after = Cgroup::new("after");
    stimulus::run(&after, &["getppid=2345"]);
    check(&agent, &after, &[("getppid", 2345.0)]);
    stimulus::run(&before, &["getppid=10"]);
    agent
        .until("the first workload is seen again", |scrape| (count(scrape, &before, "getppid")? == 10.0).then_some(()));
    agent.stop();
}
