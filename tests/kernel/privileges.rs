//! The agent has the capabilities that it declares, in every thread, or none at all; and it is confined.

use std::collections::BTreeSet;
use std::fs;

use runtime::Need;
use serde_json::Value;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::{eventually, live, stimulus};

/// Gives what the kernel says of a key in the status of each thread, without repetitions.
fn of_threads(agent: &Agent, key: &str) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().flatten();
    // A thread may end meanwhile.
    let all = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let value = |status: String| {
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t").map(str::to_owned));
        value.unwrap_or_else(|| panic!("no {key}: {status}"))
    };
    all.map(value).collect()
}

fn capabilities(agent: &Agent, key: &str) -> BTreeSet<u64> {
    of_threads(agent, key).iter().map(|set| u64::from_str_radix(set, 16).unwrap()).collect()
}

/// Gives the names of the capabilities that the agent says it makes use of.
fn said(agent: &Agent) -> Vec<String> {
    let status = agent.status().unwrap();
    status["capabilities"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

fn is_landlocked(status: &Value) -> bool {
    let landlock = &status["sandbox"]["landlock"];
    let (active, says) = (landlock["active"].as_bool().unwrap(), landlock["says"].as_str().unwrap());
    assert!(active || says.contains("Landlock"), "it says why not: {status}");
    active
}

#[test]
fn root_has_what_is_declared_and_is_confined() {
    let _kernel = live!();
    let agent = Agent::start(Wish { alone: true, ..Wish::default() });
    let needs = collectors::ALL.iter().flat_map(|descriptor| descriptor.needs);
    let declared = needs.filter_map(|need| if let Need::Capability(name) = need { Some(*name) } else { None });
    // What it uses by itself, and what opens a hierarchy that is mounted nowhere.
    let own = ["CAP_DAC_READ_SEARCH", "CAP_NET_BIND_SERVICE", "CAP_SYS_RESOURCE", "CAP_SYS_ADMIN"];
    let may: BTreeSet<&str> = declared.chain(own).collect();
    let has = said(&agent);
    assert!(has.iter().all(|name| may.contains(name.as_str())), "{has:?} of {may:?}");
    let mounted = bpf::probe::Facts::gather().cgroups.unified.is_some();
    assert_eq!(has.contains(&"CAP_SYS_ADMIN".to_owned()), !mounted, "{has:?}");
    let sets = capabilities(&agent, "CapEff");
    assert!(sets.len() == 1 && sets == capabilities(&agent, "CapPrm"), "all threads have the same: {sets:?}");
    assert_eq!(sets.first().map(|set| set.count_ones() as usize), Some(has.len()));
    assert_eq!(capabilities(&agent, "CapInh"), BTreeSet::from([0]));

    assert_eq!(of_threads(&agent, "NoNewPrivs"), BTreeSet::from(["1".to_owned()]));
    assert_eq!(of_threads(&agent, "Seccomp"), BTreeSet::from(["2".to_owned()]));
    let status = agent.status().unwrap();
    assert_eq!(status["sandbox"]["seccomp"]["active"], true, "{status}");
    // Landlock came with Linux 5.13, and is there where it was booted with it.
    let release = bpf::probe::Facts::gather();
    assert!(!is_landlocked(&status) || release.version >= (5, 13), "{status}");
    println!("Linux {}: {}", release.release, status["sandbox"]);
    agent.stop();
}

#[test]
fn the_sandbox_can_be_required_and_left_out() {
    let _kernel = live!();
    let off = Agent::start(Wish { alone: true, env: &[("TELESONDE_AGENT__SANDBOX", "off")], ..Wish::default() });
    let status = off.status().unwrap();
    assert_eq!(status["sandbox"]["seccomp"]["says"], "agent.sandbox is off");
    assert!(!status["sandbox"]["landlock"]["active"].as_bool().unwrap());
    assert_eq!(of_threads(&off, "Seccomp"), BTreeSet::from(["0".to_owned()]));
    // Either it is wholly confined, or it does not run and says what is missing; `check` is as confined as the agent is.
    off.rewrite(&[("agent: {", "agent: {sandbox: require, ")]);
    let output = off.tool(&["check"]);
    let (report, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if error.is_empty() {
        assert!(report.contains("files are written below ") && report.contains(" system calls, "), "{report}");
    } else {
        assert!(error.contains("agent.sandbox is `require`, but ") && output.status.code() == Some(2), "{error}");
    }
    off.stop();
}

#[test]
fn whoever_gives_all_up_counts_on_and_attaches_nothing() {
    let _kernel = live!();
    let env = &[("TELESONDE_AGENT__PRIVILEGES", "drop")][..];
    let agent = Agent::start(Wish { all: true, env, collectors: &["memory: {enabled: true}"], ..Wish::default() });
    let facts = bpf::probe::Facts::gather();
    let kept: &[&str] =
        if facts.version >= (5, 19) || facts.unprivileged_bpf_disabled == Some(0) { &[] } else { &["CAP_BPF"] };
    // The socket answers a moment before.
    let left = if kept.is_empty() { 0 } else { 1 << 39 };
    let expected = [("CapEff", left), ("CapPrm", left), ("CapInh", 0)];
    eventually("no thread has others", || {
        expected.iter().all(|(key, set)| capabilities(&agent, key) == BTreeSet::from([*set])).then_some(())
    });
    assert_eq!(said(&agent), kept);
    // All that collectors do after they were attached they can still do.
    super::stimulate(&agent);
    let cgroup = Cgroup::new("dropped");
    stimulus::run(&cgroup, &["getppid=123"]);
    let labels = [("cgroup_path", cgroup.path()), ("syscall", "getppid")];
    let calls =
        |scrape: &crate::harness::scrape::Scrape| scrape.value("ebpf_syscall_count_total", &labels).unwrap_or_default();
    agent.until_exactly("the calls", (123.0, 123.0), |scrape| (calls(scrape), calls(scrape)));
    let failed = agent.scrape();
    let failed: Vec<_> = failed.all("telesonde_collector_errors_total", &[]).filter(|s| s.value > 0.0).collect();
    assert!(failed.is_empty(), "{failed:?}");

    // What would attach is refused as a whole; what does not is taken over.
    let programs = agent.programs();
    agent.rewrite(&[("memory: {enabled: true}", "memory: {enabled: true, max_workloads: 512}")]);
    let (code, answer) = agent.reload();
    let why = answer["errors"][0].as_str().unwrap();
    assert_eq!((code, &answer["outcome"]), (Some(3), &Value::from("failed")), "{answer}");
    assert!(why.contains("memory would be attached anew: agent.privileges is drop"), "{why}");
    assert_eq!(agent.programs(), programs);
    agent.rewrite(&[("memory: {enabled: true, max_workloads: 512}", "memory: {enabled: false}")]);
    let (code, answer) = agent.reload();
    assert_eq!((code, &answer["outcome"]), (Some(0), &Value::from("success")), "{answer}");
    agent.rewrite(&[("memory: {enabled: false}", "memory: {enabled: true}")]);
    let (code, answer) = agent.reload();
    assert_eq!(code, Some(3), "it does not come back: {answer}");
    stimulus::run(&cgroup, &["getppid=7"]);
    agent.until_exactly("the calls", (130.0, 130.0), |scrape| (calls(scrape), calls(scrape)));
    agent.stop();
}
