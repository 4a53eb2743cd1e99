//! The agent within a cgroup whose memory limit comes close: it keeps less, counts what it drops, and is not killed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::harness::agent::{Agent, Wish, wrapped};
use crate::harness::cgroup::{Cgroup, mount};
use crate::harness::otlp::Receiver;
use crate::harness::scrape::Scrape;
use crate::harness::{directory, eventually, live, skipped, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
const CLOSE: &str = "telesonde_memory_limit_close";
const OUTCOMES: [&str; 5] = ["delivered", "failed", "refused", "queue_full", "memory_limit"];

/// Cgroups of a round of the load, each with so many calls.
const BRIEF: u32 = 300;
const CALLS: u32 = 20;
const KNOWN: u32 = 25;
/// More events than may wait while the limit is close.
const FORKS: u32 = 2_000;
/// What another process in the cgroup takes, in pages.
const PAGES: u32 = 15_000;

/// A cgroup with a memory limit that can be set.
struct Bounded {
    cgroup: Cgroup,
    is_v1: bool,
}

impl Bounded {
    fn new() -> Result<Self, String> {
        let control = mount()?.join("cgroup.subtree_control");
        let is_v1 = !control.exists();
        if !is_v1 {
            fs::write(control, "+memory").map_err(|error| format!("memory cannot be limited: {error}"))?;
        }
        Ok(Self { cgroup: Cgroup::new("bounded"), is_v1 })
    }

    fn file(&self, v1: &str, v2: &str) -> PathBuf {
        self.cgroup.directory().join(if self.is_v1 { v1 } else { v2 })
    }

    /// Gives the bytes that the kernel would not take back first.
    fn used(&self) -> u64 {
        let used = fs::read_to_string(self.file("memory.usage_in_bytes", "memory.current")).unwrap();
        let stat = fs::read_to_string(self.cgroup.directory().join("memory.stat")).unwrap();
        let inactive = if self.is_v1 { "total_inactive_file " } else { "inactive_file " };
        let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive)).unwrap();
        used.trim().parse::<u64>().unwrap() - inactive.parse::<u64>().unwrap()
    }

    /// Sets the limit so that what is used is so many percent of it.
    fn limit(&self, percent: u64) {
        fs::write(self.file("memory.limit_in_bytes", "memory.max"), (self.used() * 100 / percent).to_string()).unwrap();
    }

    /// Says how many processes the kernel has ended for want of memory.
    fn kills(&self) -> u64 {
        let text = fs::read_to_string(self.file("memory.oom_control", "memory.events")).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }

    /// Gives a program that runs the agent in this cgroup.
    fn program(&self, place: &Path) -> PathBuf {
        wrapped(place, &format!("[ $1 = run ] && echo $$ > {}/cgroup.procs", self.cgroup.directory().display()))
    }
}

/// Another process of the cgroup, which takes what such limits are larger by than what the agent takes in a test.
struct Neighbour(Child);

impl Neighbour {
    fn start(cgroup: &Cgroup) -> Self {
        let mut child = stimulus::start(cgroup, &[&format!("resident_pages={PAGES}"), "hold=1"]);
        let mut said = [0];
        // What it prints, it prints when it has them.
        child.stdout.take().unwrap().read_exact(&mut said).unwrap();
        Self(child)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until exactly so many calls are counted, in whatever series.
fn counted(agent: &Agent, calls: u32) -> Scrape {
    agent.until("all calls are counted", |scrape| {
        let sum = scrape.sum(COUNT, &[]);
        assert!(sum <= f64::from(calls), "{sum} of {calls} calls");
        (sum == f64::from(calls)).then(|| scrape.clone())
    })
}

/// Waits until what was emitted is what became of it.
fn closed(agent: &Agent) {
    agent.until("the account of events closes", |scrape| {
        let of = |outcome: &str| scrape.sum("telesonde_export_events_total", &[("outcome", outcome)]);
        let (emitted, ended) = (
            scrape.sum("telesonde_events_emitted_total", &[]),
            OUTCOMES.iter().map(|outcome| of(outcome)).sum::<f64>(),
        );
        (ended == emitted).then_some(())
    });
}

#[test]
fn a_close_memory_limit_costs_detail_and_not_the_agent() {
    let _kernel = live!();
    let bounded = match Bounded::new() {
        Ok(bounded) => bounded,
        Err(why) => return skipped(&why),
    };
    let (place, receiver) = (directory("bounded"), Receiver::start());
    let program = bounded.program(&place);
    // Only what these processes do is counted: to the last call, whoever else makes such calls.
    let name = format!("load-{}", std::process::id());
    let run = |cgroup: &Cgroup, actions: &[&str]| stimulus::run_as(&name, cgroup, actions);
    let mut agent = Agent::start(Wish {
        program: Some(&program),
        syscalls: "syscalls: [sched_rr_get_interval]",
        collectors: &["process: {enabled: require, exec: {rate: 0}, exit: {rate: 0}, connection: {rate: 0}}"],
        ebpf: &[&format!("process_filter: [{name}]")],
        otlp: Some(receiver.address()),
        events: "otlp: test, schedule_delay: 50ms, export_timeout: 15s",
        alone: true,
        ..Wish::default()
    });
    assert_eq!(agent.scrape().value(CLOSE, &[]), None, "without a limit there is nothing to be said");
    let (known, busy) = (Cgroup::new("known"), Cgroup::new("busy"));
    let known_calls = format!("sched_rr_get_interval={KNOWN}");
    run(&known, &[&known_calls]);
    counted(&agent, KNOWN);

    // Of a limit as small as the agent itself, what is left when it is close would be no room for anything.
    let neighbour = Neighbour::start(&bounded.cgroup);
    run(&busy, &[&format!("churn={BRIEF}:{CALLS}")]);
    let before = counted(&agent, KNOWN + BRIEF * CALLS);
    bounded.limit(87);
    agent.until("the limit is close", |scrape| (scrape.value(CLOSE, &[])? == 1.0).then_some(()));

    // Whoever comes now has no series; whoever has one goes on with it.
    let late = Cgroup::new("late");
    run(&late, &[&format!("churn={BRIEF}:{CALLS}")]);
    run(&known, &[&known_calls]);
    let scrape = counted(&agent, 2 * KNOWN + 2 * BRIEF * CALLS);
    let is_late = |sample: &str| sample.starts_with(late.path());
    let named = scrape.0.iter().filter_map(|sample| sample.labels.get("cgroup_path")).find(|path| is_late(path));
    assert_eq!(named, None, "there are no new series");
    assert_eq!(scrape.value(COUNT, &[("cgroup_path", known.path())]), Some(f64::from(2 * KNOWN)));
    let folded = |scrape: &Scrape| scrape.value(COUNT, &[("otel_metric_overflow", "true")]).unwrap_or_default();
    assert_eq!(folded(&scrape) - folded(&before), f64::from(BRIEF * CALLS));
    assert!(scrape.sum("telesonde_series_folded_total", &[]) > 0.0);
    let cut = |scrape: &Scrape| scrape.sum("telesonde_export_events_total", &[("outcome", "memory_limit")]);
    receiver.refuse(true);
    eventually("the queue is short", || {
        run(&late, &[&format!("fork={FORKS}")]);
        (cut(&agent.scrape()) > 0.0).then_some(())
    });
    receiver.refuse(false);
    closed(&agent);
    let (code, said) = agent.readiness();
    assert!(code == 200 && said.contains("the memory limit is close"), "{code}: {said}");
    assert_eq!(agent.status().unwrap()["memory"]["limit_is_close"], true);
    println!("{} bytes are used, {} processes were ended", bounded.used(), bounded.kills());

    bounded.limit(50);
    agent.until("the limit is far", |scrape| (scrape.value(CLOSE, &[])? == 0.0).then_some(()));
    assert_eq!(agent.readiness().1, "ready\n");
    let fresh = Cgroup::new("fresh");
    run(&fresh, &[&known_calls]);
    let scrape = counted(&agent, 3 * KNOWN + 2 * BRIEF * CALLS);
    assert_eq!(scrape.value(COUNT, &[("cgroup_path", fresh.path())]), Some(f64::from(KNOWN)));
    assert!(agent.is_running() && bounded.kills() == 0);
    let said = |words: &str| agent.log().lines().filter(|line| line.contains(words)).count();
    assert_eq!((said("the memory limit is close"), said("the memory limit is no longer close")), (1, 1));
    drop(neighbour);
    agent.stop();
    fs::remove_dir_all(place).unwrap();
}
