//! A configuration that is read again changes what differs, and nothing else.

use serde_json::Value;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::otlp::Receiver;
use crate::harness::{eventually, live, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
const RELOADS: &str = "telesonde_config_reloads_total";

/// Gives the words of a list of the answer.
fn list(answer: &Value, key: &str) -> Vec<String> {
    answer[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn state(agent: &Agent, collector: &str) -> String {
    let status = agent.status().unwrap();
    let found = status["integrations"].as_array().unwrap().iter().find(|one| one["name"] == collector).cloned();
    found.unwrap()["state"].as_str().unwrap().to_owned()
}

/// Gives what the log says from a place on of configurations that were taken over.
fn taken_over(agent: &Agent, from: usize) -> Vec<Value> {
    let log = agent.log();
    let lines = log[from..].lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"].as_str().is_some_and(|message| message.ends_with("taken over"))).collect()
}

/// Changes the configuration and waits until that is applied, whoever asks for it first: the file, or what `ask` does.
/// Gives the keys that are others now and the collectors that were concerned.
fn apply(agent: &Agent, replacements: &[(&str, &str)], ask: impl FnOnce()) -> (String, String) {
    let from = agent.log().len();
    agent.rewrite(replacements);
    ask();
    eventually("the configuration is taken over", || {
        let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        let lines = taken_over(agent, from);
        let line = lines.iter().find(|line| line["changed"] != "")?;
        Some((word(line, "changed"), word(line, "collectors")))
    })
}

fn start(named: &[&str], wish: Wish<'_>) -> Agent {
    Agent::start(Wish { collectors: named, alone: true, ..wish })
}

struct Counted<'c>(&'c Agent, &'c Cgroup);

impl Counted<'_> {
    fn until(&self, calls: f64) {
        let labels = [("cgroup_path", self.1.path()), ("syscall", "getppid")];
        self.0.until_exactly("the calls", (calls, calls), |scrape| {
            let value = scrape.value(COUNT, &labels).unwrap_or_default();
            (value, value)
        });
    }
}

#[test]
fn what_differs_is_applied_and_nothing_else_is_touched() {
    let _kernel = live!();
    let agent = start(&["memory: {enabled: true}", "scheduler: {enabled: false}"], Wish::default());
    let cgroup = Cgroup::new("reload");
    let counted = Counted(&agent, &cgroup);
    stimulus::run(&cgroup, &["getppid=100"]);
    counted.until(100.0);
    let programs = agent.programs();
    let before = agent.scrape();

    // One collector goes and another one comes, because the file has changed.
    let (memory, scheduler) = ("memory: {enabled: true}", "scheduler: {enabled: false}");
    let exchange = [(memory, "memory: {enabled: false}"), (scheduler, "scheduler: {}")];
    let (changed, concerned) = apply(&agent, &exchange, || {});
    let key = |name: &str| format!("integrations.ebpf.collectors.{name}.enabled");
    assert_eq!(changed, format!("{}, {}", key("memory"), key("scheduler")));
    assert_eq!(concerned, "scheduler, memory");
    assert_eq!((state(&agent, "memory"), state(&agent, "scheduler")), ("disabled".to_owned(), "running".to_owned()));
    let after = agent.programs();
    let stayed = programs.iter().filter(|id| after.contains(id)).count();
    assert!(0 < stayed && stayed < programs.len(), "{stayed} of {} programs stay", programs.len());
    stimulus::run(&cgroup, &["getppid=50"]);
    counted.until(150.0);
    let tasks = [("cgroup_path", cgroup.path())];
    agent.until("the new collector counts", |s| (s.sum("ebpf_context_switches_total", &tasks) > 0.0).then_some(()));
    assert_eq!(agent.scrape().fallen(&before), [], "no total has fallen");

    // The collector that counts is set up otherwise, by SIGHUP: it goes on from its totals.
    let otherwise = [("syscalls: {enabled: require", "syscalls: {enabled: require, max_calls: 4096")];
    let (_, concerned) = apply(&agent, &otherwise, || agent.signal("HUP"));
    assert_eq!(concerned, "syscalls");
    stimulus::run(&cgroup, &["getppid=7"]);
    counted.until(157.0);
    assert_eq!(agent.scrape().fallen(&before), [], "no total has fallen");

    // A filter concerns all collectors, at once.
    let filter = "    exclude_processes: [stimulus]\n    collectors:";
    let reload = || assert_eq!(agent.reload().0, Some(0));
    let (changed, concerned) = apply(&agent, &[("    collectors:", filter)], reload);
    assert_eq!(
        (changed.as_str(), concerned.as_str()),
        ("integrations.ebpf.exclude_processes", "cgroup, syscalls, scheduler")
    );
    stimulus::run(&cgroup, &["getppid=1000"]);
    apply(&agent, &[(filter, "    collectors:")], reload);
    stimulus::run(&cgroup, &["getppid=3"]);
    counted.until(160.0);
    agent.stop();
}

#[test]
fn an_invalid_configuration_changes_nothing_and_is_told_everywhere() {
    let _kernel = live!();
    let agent = start(&["memory: {enabled: true}"], Wish::default());
    let cgroup = Cgroup::new("invalid");
    let counted = Counted(&agent, &cgroup);
    stimulus::run(&cgroup, &["getppid=11"]);
    counted.until(11.0);
    let programs = agent.programs();
    let reloads = |outcome| agent.scrape().value(RELOADS, &[("outcome", outcome)]);
    assert_eq!((reloads("success"), reloads("invalid")), (Some(0.0), Some(0.0)));

    agent.rewrite(&[("memory: {enabled: true}", "memory: {enabled: perhaps}")]);
    let why = "integrations.ebpf.collectors.memory.enabled must be";
    let told = || agent.status()?["reload"]["errors"][0].as_str()?.contains(why).then_some(());
    eventually("the changed file is noticed", told);
    let (code, answer) = agent.reload();
    assert_eq!(code, Some(4), "as at the start");
    assert!(list(&answer, "errors")[0].contains(why), "{answer}");
    assert!(agent.log().contains(why), "{}", agent.log());
    assert_eq!((reloads("success"), reloads("invalid")), (Some(0.0), Some(2.0)));
    let (ready, page) = agent.readiness();
    assert!(ready == 200 && page.contains(why), "it does what it did: {page}");
    assert_eq!(agent.programs(), programs);

    // What is asked for cannot be had: nothing of it is taken over.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen: \"{}\"", taken.local_addr().unwrap());
    let off = ("memory: {enabled: perhaps}", "memory: {enabled: false}");
    agent.rewrite(&[off, ("health: {listen: \"127.0.0.1:0\"", &format!("health: {{{listen}"))]);
    let (code, answer) = agent.reload();
    assert_eq!((code, answer["outcome"].as_str()), (Some(7), Some("failed")), "{answer}");
    assert!(list(&answer, "errors")[0].contains("health.listen"), "{answer}");
    assert_eq!(agent.programs(), programs);
    drop(taken);
    let (code, answer) = agent.reload();
    assert_eq!((code, answer["outcome"].as_str()), (Some(0), Some("success")), "{answer}");
    assert_eq!(state(&agent, "memory"), "disabled");
    assert_eq!(agent.readiness(), (200, "ready\n".to_owned()), "at its new address");

    // What only a restart changes is named by its key, again and again.
    agent.rewrite(&[("enrich: {}", "enrich: {attributes: {drop: [systemd.unit]}}")]);
    for _ in 0..2 {
        let (code, answer) = agent.reload();
        assert_eq!((code, list(&answer, "needs_restart")), (Some(0), vec!["enrich.attributes.drop".to_owned()]));
    }
    assert!(agent.readiness().1.contains("enrich.attributes.drop waits for a restart"));
    stimulus::run(&cgroup, &["getppid=5"]);
    counted.until(16.0);
    agent.stop();
}

#[test]
fn exporters_come_and_go() {
    let _kernel = live!();
    let (first, second) = (Receiver::start(), Receiver::start());
    let endpoint = "interval: 1s, temporality: delta";
    let wish = Wish { otlp: Some(first.address()), endpoint, ..Wish::default() };
    let agent = start(&["process: {enabled: true}"], wish);
    assert_eq!(state(&agent, "process"), "disabled", "nobody takes events");
    let cgroup = Cgroup::new("exporters");
    let labels = [("cgroup.path", cgroup.path()), ("syscall", "getppid")];
    let until = |receiver: &Receiver, calls: f64| {
        eventually("the calls have arrived", || {
            let now = receiver.number("ebpf_syscall_count", &labels).unwrap_or_default();
            assert!(now <= calls, "{now} of {calls}");
            (now == calls).then_some(())
        });
    };
    stimulus::run(&cgroup, &["getppid=40"]);
    until(&first, 40.0);

    // Another interval: differences go on from what was acknowledged. And somebody takes events now.
    let reload = || assert_eq!(agent.reload().0, Some(0));
    let otherwise = [("interval: 1s", "interval: 2s"), ("events: {otlp: ''}", "events: {otlp: test}")];
    assert_eq!(apply(&agent, &otherwise, reload).1, "process");
    let lacks = agent.lacks("process", "no connection events", (5, 11));
    assert_eq!(state(&agent, "process"), if lacks { "degraded" } else { "running" });
    stimulus::run(&cgroup, &["getppid=2"]);
    until(&first, 42.0);
    stimulus::run(&cgroup, &["exec=1"]);
    let has_come =
        || (!first.events(&[("event_name", "process.exec"), ("cgroup.path", cgroup.path())]).is_empty()).then_some(());
    eventually("the event has come", has_come);

    // One more receiver gets everything since the start, the first one nothing any more.
    let (one, other) = (first.address().to_string(), second.address().to_string());
    let exchange = [(&*one, &*other), ("    test: {", "    other: {"), ("otlp: test", "otlp: ''")];
    let (changed, concerned) = apply(&agent, &exchange, reload);
    assert_eq!(changed, "exporters.events.otlp, exporters.otlp.other, exporters.otlp.test");
    assert_eq!((concerned.as_str(), state(&agent, "process").as_str()), ("process", "disabled"));
    stimulus::run(&cgroup, &["getppid=8"]);
    until(&second, 50.0);
    until(&first, 42.0);
    assert_eq!(agent.status().unwrap()["otlp"].as_object().unwrap().keys().collect::<Vec<_>>(), ["other"]);
    agent.stop();
    assert_eq!((first.faults(), second.faults()), (Vec::new(), Vec::new()));
}
