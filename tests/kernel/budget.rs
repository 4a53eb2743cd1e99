//! A budget leads a collector down its ladder while it costs too much, and up again when it does not.

use std::process::Child;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::scrape::Scrape;
use crate::harness::{eventually, live, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
const TIMED: &str = "ebpf_syscall_latency_ns_count";
const STEP: &str = "telesonde_collector_step";
const SPENT: &str = "telesonde_collector_cpu_seconds_total";

/// What is less than any load takes, and more than any takes, in percent of a CPU.
const TINY: &str = "0.0001";
const AMPLE: &str = "100000";

/// Calls without end; ended with the test.
struct Load(Child);

impl Load {
    fn start(cgroup: &Cgroup) -> Self {
        Self(stimulus::start(cgroup, &["getppid=1000000000"]))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn step(scrape: &Scrape) -> String {
    let on: Vec<_> = scrape.all(STEP, &[("collector", "syscalls")]).filter(|sample| sample.value == 1.0).collect();
    on.first().map(|sample| sample.labels["step"].clone()).unwrap_or_default()
}

/// Gives the collector's state with what is said of it.
fn said(agent: &Agent) -> String {
    let status = agent.status().unwrap();
    let integrations = status["integrations"].as_array().unwrap();
    let own = integrations.iter().find(|one| one["name"] == "syscalls").unwrap();
    format!("{} {}", own["state"].as_str().unwrap(), own["why"])
}

fn budget(percent: &str, window: &str) -> String {
    format!("budget: {{collectors: {{syscalls: {percent}}}, window: {window}}}\n")
}

/// Has the agent take another budget; gives it.
fn allow(agent: &Agent, before: &str, percent: &str, window: &str) -> String {
    let after = budget(percent, window);
    agent.rewrite(&[(before, &after)]);
    assert_eq!(agent.reload().0, Some(0), "{}", agent.log());
    after
}

fn counted(agent: &Agent, cgroup: &Cgroup, calls: f64) {
    let labels = [("cgroup_path", cgroup.path()), ("syscall", "getppid")];
    agent.until_exactly(cgroup.path(), (calls, calls), |scrape| {
        let value = scrape.value(COUNT, &labels).unwrap_or_default();
        (value, value)
    });
}

fn until_on(agent: &Agent, wanted: &str) {
    agent.until(&format!("it is on the step {wanted}"), |scrape| (step(scrape) == wanted).then_some(()));
}

fn start(receiver: &Receiver) -> (Agent, String) {
    let off: Vec<String> = collectors::ALL
        .iter()
        .filter(|one| !one.needs.is_empty() && !["syscalls", "cgroup"].contains(&one.name))
        .map(|one| format!("{}: {{enabled: false}}", one.name))
        .collect();
    let off: Vec<&str> = off.iter().map(String::as_str).collect();
    let otlp = Some(receiver.address());
    let events = "otlp: test, schedule_delay: 50ms";
    let agent = Agent::start(Wish { collectors: &off, syscalls: "latency: all", otlp, events, ..Wish::default() });
    let scrape = agent.scrape();
    assert_eq!(
        scrape.all(STEP, &[]).count() + scrape.all(SPENT, &[]).count(),
        0,
        "without a budget nothing is measured"
    );
    let first = budget(AMPLE, "1h");
    agent.rewrite(&[("admin: {", &format!("{first}admin: {{"))]);
    assert_eq!(agent.reload().0, Some(0), "{}", agent.log());
    (agent, first)
}

#[test]
fn what_costs_too_much_does_less_and_then_more_again() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let (agent, mut now) = start(&receiver);
    until_on(&agent, "full");
    let cgroup = Cgroup::new("budget-load");
    let load = Load::start(&cgroup);
    let spent = |part: &str| agent.scrape().sum(SPENT, &[("collector", "syscalls"), ("part", part)]);
    eventually("programs and rounds are measured", || (spent("programs") > 0.0 && spent("rounds") > 0.0).then_some(()));

    // It counts only: the next step is held off as long as that is looked at.
    for attempt in 1.. {
        now = allow(&agent, &now, TINY, "500ms");
        agent.until("it counts only", |scrape| (step(scrape) != "full" && step(scrape) != "sampling").then_some(()));
        now = allow(&agent, &now, TINY, "1h");
        if step(&agent.scrape()) == "counting" {
            break;
        }
        assert!(attempt < 5, "it does not stay on a step");
        now = allow(&agent, &now, AMPLE, "100ms");
        until_on(&agent, "full");
    }
    let state = said(&agent);
    assert!(state.contains("degraded") && state.contains("times nothing"), "{state}");
    let brief = Cgroup::new("budget-counting");
    stimulus::run(&brief, &["getppid=12345", "nanosleep=20:1000"]);
    counted(&agent, &brief, 12345.0);
    let scrape = agent.scrape();
    assert_eq!(scrape.sum(COUNT, &[("cgroup_path", brief.path()), ("syscall", "nanosleep")]), 20.0);
    assert_eq!(scrape.sum(TIMED, &[("cgroup_path", brief.path())]), 0.0, "nothing is timed");

    // It pauses: its programs are gone, its totals stay.
    let attached = agent.programs();
    now = allow(&agent, &now, TINY, "100ms");
    until_on(&agent, "paused");
    now = allow(&agent, &now, TINY, "1h");
    let state = said(&agent);
    if step(&agent.scrape()) == "paused" {
        assert!(state.contains("degraded") && state.contains("paused"), "{state}");
        let left = agent.programs();
        assert!(left.len() < attached.len(), "{left:?} of {attached:?}");
    }
    counted(&agent, &brief, 12345.0);

    // There is room: it goes up step by step, and counts on.
    drop(load);
    allow(&agent, &now, AMPLE, "100ms");
    until_on(&agent, "full");
    eventually("nothing is said of it any more", || said(&agent).starts_with("running").then_some(()));
    stimulus::run(&brief, &["getppid=777"]);
    counted(&agent, &brief, 12345.0 + 777.0);
    let timed = [("cgroup_path", brief.path())];
    agent.until("calls are timed again", |scrape| (scrape.sum(TIMED, &timed) >= 777.0).then_some(()));

    for (step, severity) in [("sampling", "WARN"), ("counting", "WARN"), ("paused", "WARN"), ("full", "INFO")] {
        let of = [("event_name", "collector.step"), ("collector", "syscalls"), ("step", step)];
        let event = eventually(&format!("the event of {step}"), || receiver.events(&of).first().cloned());
        assert_eq!(event["severity_text"], severity);
        assert!(event["reason"].contains("% of a CPU"), "{event:?}");
    }
    agent.stop();
}
