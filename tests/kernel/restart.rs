//! Restarts with `pin_path`: counting goes on while no agent runs, and the next one continues the series.

mod block;
mod dns;
mod sockets;
mod tcp;

use serde_json::Value;

use crate::harness::agent::{Agent, Wish};
use crate::harness::bpffs::BpfFs;
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::{Scrape, assert_counted};
use crate::harness::{eventually, live, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
const TIMED: &str = "ebpf_syscall_latency_ns_count";
const TAKEOVERS: &str = "telesonde_bpf_pin_takeovers_total";
const LATENCY: &str = "latency: all, latency_by_syscall: [getppid]";

/// Waits until the workload of a cgroup has made so many calls, none of them twice, all of them timed.
fn until_counted(agent: &Agent, cgroup: &str, calls: f64) {
    let last = agent.at_rest(
        &format!("{cgroup} has {calls} calls"),
        |scrape| {
            let of = [("cgroup_path", cgroup), ("syscall", "getppid")];
            (scrape.value(COUNT, &of), scrape.value(TIMED, &of), scrape.skipped(&["sys_exit"]))
        },
        |(found, timed, _)| *found == Some(calls) && *timed == Some(calls),
    );
    assert_counted(last.0, calls, last.2);
    assert!(last.1.is_some_and(|timed| timed <= calls), "{last:?}");
}

/// Waits until a histogram with so many values is exported; gives since when it says that it counts.
fn since(receiver: &Receiver, metric: &str, of: &[(&str, &str)], values: u64) -> u64 {
    eventually("it is exported", || {
        let point = receiver.histogram(metric, of)?;
        (point.count >= values).then_some(point.start_time_unix_nano)
    })
}

fn outcome(agent: &Agent, collector: &str) -> Option<String> {
    let outcomes = ["adopted", "refused", "absent"];
    let scrape = agent.scrape();
    let of = |outcome: &&str| scrape.value(TAKEOVERS, &[("collector", collector), ("outcome", outcome)]) == Some(1.0);
    outcomes.into_iter().find(of).map(str::to_owned)
}

fn pins(agent: &Agent, collector: &str) -> String {
    let status = agent.status().unwrap();
    let all = status["integrations"].as_array().unwrap();
    let found = all.iter().find(|one| one["name"] == collector);
    found.map_or(Value::Null, |one| one["pins"].clone()).as_str().unwrap_or_default().to_owned()
}

fn kill(mut agent: Agent) {
    agent.signal("KILL");
    agent.wait();
}

#[test]
fn nothing_is_lost_and_nothing_counted_twice() {
    let _kernel = live!();
    let (bpffs, receiver) = (BpfFs::mount(), Receiver::start());
    let key = bpffs.key();
    let ebpf = [key.as_str()];
    let wish = Wish { alone: true, ebpf: &ebpf, syscalls: LATENCY, otlp: Some(receiver.address()), ..Wish::default() };
    let [stays, busy, ends, comes] = ["stays", "busy", "ends", "comes"].map(Cgroup::new);
    let call = |cgroup: &Cgroup, calls: u32| drop(stimulus::run(cgroup, &[&format!("getppid={calls}")]));

    let first = Agent::start(wish);
    assert_eq!((outcome(&first, "syscalls").as_deref(), outcome(&first, "cgroup")), (Some("absent"), None));
    call(&stays, 1000);
    call(&ends, 500);
    let dead = ends.path().to_owned();
    until_counted(&first, &dead, 500.0);
    drop(ends);
    let since = |cgroup: &str, calls: u64| {
        let of = [("cgroup.path", cgroup), ("syscall", "getppid")];
        since(&receiver, "ebpf_syscall_latency_ns", &of, (calls * 99).div_ceil(100))
    };
    let began = (since(stays.path(), 1000), since(&dead, 500));
    let working = stimulus::start(&busy, &["getppid=600000"]);
    until(&first, busy.path());
    kill(first);

    // Nobody is there but the kernel.
    call(&stays, 70);
    call(&comes, 300);
    let second = Agent::start(wish);
    assert_eq!(outcome(&second, "syscalls").as_deref(), Some("adopted"), "{}", second.log());
    assert!(pins(&second, "syscalls").contains("taken over"), "{}", pins(&second, "syscalls"));
    assert!(pins(&second, "cgroup").contains("not kept"), "{}", pins(&second, "cgroup"));
    kill(second);
    // Another program than before, with the same maps: it counts the agent itself, too.
    let itself = [key.as_str(), "include_self: true"];
    let third = Agent::start(Wish { ebpf: &itself, ..wish });
    stimulus::finish(working);
    for (cgroup, calls) in [(stays.path(), 1070.0), (&*dead, 500.0), (comes.path(), 300.0), (busy.path(), 6e5)] {
        until_counted(&third, cgroup, calls);
    }
    assert_eq!(began, (since(stays.path(), 1070), since(&dead, 500)), "start times");
    third.stop();

    call(&stays, 30);
    let fourth = Agent::start(wish);
    for (cgroup, calls) in [(stays.path(), 1100.0), (&*dead, 500.0), (comes.path(), 300.0), (busy.path(), 6e5)] {
        until_counted(&fourth, cgroup, calls);
    }
    fourth.stop();

    // Maps of other sizes cannot go on.
    let larger = Agent::start(Wish { syscalls: "max_calls: 20000", ..wish });
    assert_eq!(outcome(&larger, "syscalls").as_deref(), Some("refused"));
    assert!(larger.log().contains("begins afresh"), "{}", larger.log());
    assert!(pins(&larger, "syscalls").contains("began afresh"), "{}", pins(&larger, "syscalls"));
    call(&stays, 7);
    let count = |scrape: &Scrape| scrape.value(COUNT, &[("cgroup_path", stays.path()), ("syscall", "getppid")]);
    assert_eq!(larger.until("it is counted afresh", count), 7.0);
    // Switched off, nothing of it is left.
    larger.rewrite(&[("enabled: require, max_calls: 20000", "enabled: false")]);
    assert_eq!(larger.reload().0, Some(0));
    let left = bpffs.files();
    assert!(left.iter().all(|file| file.ends_with("checkpoint")), "{left:?}");
    larger.stop();
}

/// What the other collectors that are kept have of a workload: opens, faults, time on a CPU and switches.
fn others(scrape: &Scrape, cgroup: &str) -> [f64; 4] {
    let all = [
        "ebpf_file_open_count_total",
        "ebpf_page_faults_total",
        "ebpf_process_runtime_ns_total",
        "ebpf_context_switches_total",
    ];
    all.map(|name| scrape.sum(name, &[("cgroup_path", cgroup)]))
}

#[test]
fn what_tasks_and_files_did_goes_on() {
    let _kernel = live!();
    let bpffs = BpfFs::mount();
    let (key, kept) = (bpffs.key(), ["file_io", "memory", "scheduler"]);
    let collectors = kept.map(|name| format!("{name}: {{enabled: require}}"));
    let collectors = collectors.each_ref().map(String::as_str);
    let ebpf = [key.as_str()];
    let wish = Wish { alone: true, ebpf: &ebpf, collectors: &collectors, ..Wish::default() };
    let [before, between] = ["before", "between"].map(Cgroup::new);
    let work =
        |cgroup: &Cgroup| drop(stimulus::run(cgroup, &["resident_pages=3000", "exec=20", "nanosleep=100:10000"]));
    let enough = |[opens, faults, runtime, switches]: &[f64; 4]| {
        *opens >= 20.0 && *faults >= 3000.0 && *runtime > 0.0 && *switches >= 100.0
    };
    let rest = |agent: &Agent, cgroup: &Cgroup| {
        let mut last = [0.0; 4];
        agent.until("all that it did is counted", |scrape| {
            let now = others(scrape, cgroup.path());
            (now == std::mem::replace(&mut last, now) && enough(&now)).then_some(now)
        })
    };
    let first = Agent::start(wish);
    work(&before);
    let done = rest(&first, &before);
    kill(first);
    work(&between);
    let second = Agent::start(wish);
    for name in kept {
        assert_eq!(outcome(&second, name).as_deref(), Some("adopted"), "{name}: {}", second.log());
    }
    let same = rest(&second, &between);
    let skipped = second.scrape().skipped(&["sys_exit"]);
    assert!((done[0] - same[0]).abs() <= skipped, "opens: {done:?} {same:?}, {skipped} skipped");
    for (before, between) in done.into_iter().zip(same).skip(1) {
        assert!(between < 4.0 * before, "{done:?} before, {same:?} between");
    }
    assert_eq!(others(&second.scrape(), before.path()), done, "what had ended before");
    second.stop();
    let third = Agent::start(wish);
    assert_eq!([&before, &between].map(|cgroup| others(&third.scrape(), cgroup.path())), [done, same]);
    third.stop();
}

/// Waits until something of a workload is counted.
fn until(agent: &Agent, cgroup: &str) {
    agent.until("it is seen", |scrape| scrape.value(COUNT, &[("cgroup_path", cgroup), ("syscall", "getppid")]));
}

#[test]
fn where_nothing_can_be_pinned_it_is_said() {
    let _kernel = live!();
    let elsewhere = format!("pin_path: {}/pins", env!("CARGO_TARGET_TMPDIR"));
    let (code, said) = Agent::refused(Wish { alone: true, ebpf: &[&elsewhere], ..Wish::default() });
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("integrations.ebpf.pin_path") && said.contains("mount -t bpf"), "{said}");

    let bpffs = BpfFs::mount();
    let key = bpffs.key();
    let ebpf = [key.as_str()];
    let wish = Wish { alone: true, ebpf: &ebpf, ..Wish::default() };
    let first = Agent::start(wish);
    let (code, said) = Agent::refused(wish);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("another agent has it"), "{said}");
    // Once the key is gone, what was pinned goes as files do.
    first.stop();
    assert!(bpffs.files().iter().any(|file| file.ends_with("syscalls/links/sys_exit")), "{:?}", bpffs.files());
    std::fs::remove_dir_all(bpffs.pins()).unwrap();
    assert_eq!(bpffs.files(), Vec::<std::path::PathBuf>::new());
    let without = Agent::start(Wish { alone: true, ..Wish::default() });
    assert_eq!((outcome(&without, "syscalls"), pins(&without, "syscalls")), (None, String::new()));
    without.stop();
}
