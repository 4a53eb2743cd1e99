//! What the files of cgroups say, against those files themselves.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::{self, Cgroup};
use crate::harness::scrape::Scrape;
use crate::harness::{eventually, live, skipped, stimulus};

const USAGE: &str = "cgroup_memory_usage_bytes";
const LIMIT: &str = "cgroup_memory_limit_bytes";
const EVENTS: &str = "cgroup_memory_events_total";
const PERIODS: &str = "cgroup_cpu_throttled_periods_total";
const THROTTLED: &str = "cgroup_cpu_throttled_seconds_total";
const PRESSURE: &str = "cgroup_pressure_seconds_total";

/// Gives the first of some files that a cgroup has: the versions name them differently.
fn file(directory: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| directory.join(name)).find(|path| path.exists())
}

/// Enables controllers of version 2 for the cgroups below its root.
fn enable(controllers: &str) {
    if let Some(root) = cgroup::mount_of("") {
        // Refused where version 1 has the controller: then it is found there.
        let _ = fs::write(root.join("cgroup.subtree_control"), controllers);
    }
}

fn number(text: &str, name: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Scrapes while some files do not change; gives what they say and the scrape.
fn at_once(agent: &Agent, files: &[&Path]) -> (Vec<String>, Scrape) {
    let read = || files.iter().map(|file| fs::read_to_string(file).unwrap()).collect::<Vec<_>>();
    eventually("the files are the same before and after a scrape", || {
        let before = read();
        let scrape = agent.scrape();
        (read() == before).then_some((before, scrape))
    })
}

/// Waits until a program that holds what it has says so.
fn wait_until_held(child: &mut Child) {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("pid"), "{line}");
}

#[test]
fn memory_is_what_the_files_say() {
    let _kernel = live!();
    enable("+memory");
    let agent = Agent::start(Wish::default());
    let cgroup = Cgroup::new("memory-files");
    let Some(usage) = file(cgroup.directory(), &["memory.usage_in_bytes", "memory.current"]) else {
        return skipped("no memory controller");
    };
    let limit = file(cgroup.directory(), &["memory.limit_in_bytes", "memory.max"]).unwrap();
    let labels = [("cgroup_path", cgroup.path())];
    let scrape = agent.until("it is seen", |scrape| scrape.value(USAGE, &labels).map(|_| scrape.clone()));
    assert_eq!(scrape.value(LIMIT, &labels), None, "max is no limit");
    assert_eq!(scrape.value(PERIODS, &labels), None, "without a quota there are no periods");

    fs::write(&limit, (64 << 20).to_string()).unwrap();
    let page = 4096.0;
    let held = |pages: u32| {
        let mut child = stimulus::start(&cgroup, &[&format!("resident_pages={pages}"), "hold=1"]);
        wait_until_held(&mut child);
        let (files, scrape) = at_once(&agent, &[&usage, &limit]);
        let value = scrape.value(USAGE, &labels).unwrap();
        assert_eq!(value, files[0].trim().parse::<f64>().unwrap());
        assert_eq!(scrape.value(LIMIT, &labels), Some(f64::from(64 << 20)));
        child.kill().unwrap();
        child.wait().unwrap();
        value
    };
    let (little, much) = (held(1), held(2001));
    // Their page tables, and what each CPU charges ahead: 64 pages.
    let slack = 2001.0 / 512.0 + 2.0 + 64.0 * std::thread::available_parallelism().unwrap().get() as f64;
    let pages = (much - little) / page;
    assert!((2000.0 - slack..=2000.0 + slack).contains(&pages), "{pages} pages instead of 2000");
    agent.stop();
}

#[test]
fn a_task_killed_for_want_of_memory_is_counted() {
    let _kernel = live!();
    enable("+memory");
    let agent = Agent::start(Wish::default());
    let cgroup = Cgroup::new("oom-files");
    let Some(limit) = file(cgroup.directory(), &["memory.limit_in_bytes", "memory.max"]) else {
        return skipped("no memory controller");
    };
    if let Some(swap) = file(cgroup.directory(), &["memory.swap.max"]) {
        fs::write(swap, "0").unwrap();
    }
    fs::write(&limit, (4 << 20).to_string()).unwrap();
    let mut child = stimulus::start(&cgroup, &["resident_pages=4096"]);
    assert!(!child.wait().unwrap().success(), "it does not fit");
    let kills = file(cgroup.directory(), &["memory.oom_control", "memory.events"]).unwrap();
    let hits = file(cgroup.directory(), &["memory.failcnt"]).unwrap_or_else(|| kills.clone());
    let of = |event| [("cgroup_path", cgroup.path()), ("event", event)];
    agent.until("it is seen", |scrape| scrape.value(EVENTS, &of("oom_kill")));
    let (files, scrape) = at_once(&agent, &[&kills, &hits]);
    let event = |event| scrape.value(EVENTS, &of(event));
    assert_eq!(event("oom_kill"), Some(1.0));
    assert_eq!(event("oom_kill"), Some(number(&files[0], "oom_kill ")));
    let max = if kills == hits { number(&files[1], "max ") } else { number(&files[1], "") };
    assert!(max > 0.0);
    assert_eq!(event("max"), Some(max));
    agent.stop();
}

#[test]
fn a_throttled_workload_is_seen_as_the_kernel_sees_it() {
    let _kernel = live!();
    enable("+cpu");
    let agent = Agent::start(Wish::default());
    let cgroup = Cgroup::new("cpu-files");
    let (cpu, unified) = (cgroup::mount_of("cpu").unwrap(), cgroup::mount_of("").unwrap());
    let twin = cgroup.twin(&cpu);
    let directory = twin.as_ref().unwrap_or(&cgroup).directory();
    let other = if unified == cpu { None } else { cgroup.twin(&unified) };
    if let Some(quota) = file(directory, &["cpu.cfs_quota_us"]) {
        fs::write(quota, "10000").unwrap();
    } else if let Some(quota) = file(directory, &["cpu.max"]) {
        fs::write(quota, "10000 100000").unwrap();
    } else {
        return skipped("no CPU controller with quotas");
    }
    let child = stimulus::start(&cgroup, &["spinners=1"]);
    let id = child.id().to_string();
    for cgroup in [twin.as_ref(), other.as_ref()].into_iter().flatten() {
        fs::write(cgroup.directory().join("cgroup.procs"), &id).unwrap();
    }
    let labels = [("cgroup_path", cgroup.path())];
    agent.until("it is throttled", |scrape| (scrape.value(PERIODS, &labels)? >= 3.0).then_some(()));
    kill(child);
    let (files, scrape) = at_once(&agent, &[&directory.join("cpu.stat")]);
    assert_eq!(scrape.value(PERIODS, &labels), Some(number(&files[0], "nr_throttled ")));
    let seconds = if files[0].contains("throttled_usec") {
        number(&files[0], "throttled_usec ") / 1e6
    } else {
        number(&files[0], "throttled_time ") / 1e9
    };
    let counted = scrape.value(THROTTLED, &labels).unwrap();
    assert!((counted - seconds).abs() < 1e-6, "{counted} instead of {seconds} s");
    agent.stop();
}

#[test]
fn pressure_is_what_the_files_say() {
    let _kernel = live!();
    if fs::read("/proc/pressure/cpu").is_err() {
        return skipped("no pressure stall information");
    }
    let agent = Agent::start(Wish::default());
    let cgroup = Cgroup::new("pressure-files");
    let twin = cgroup.twin(&cgroup::mount_of("").unwrap());
    let directory = twin.as_ref().unwrap_or(&cgroup).directory();
    // A spinner that is left alone with its CPU waits for nobody: there have to be more of them.
    let children: Vec<_> = (0..3).map(|_| stimulus::start(&cgroup, &["spinners=1"])).collect();
    for child in &children {
        fs::write(directory.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    let some = [("cgroup_path", cgroup.path()), ("resource", "cpu"), ("share", "some")];
    agent.until("they wait for each other", |scrape| (scrape.value(PRESSURE, &some)? > 0.1).then_some(()));
    children.into_iter().for_each(kill);
    let resources = ["cpu", "memory", "io"];
    let paths = resources.map(|resource| directory.join(format!("{resource}.pressure")));
    // Before Linux 5.13 nobody is said to wait for a CPU in full.
    let total = |text: &str, share: &str| {
        let line = text.lines().find(|line| line.starts_with(share))?;
        Some(line.rsplit_once("total=").unwrap().1.parse::<f64>().unwrap() / 1e6)
    };
    let (files, scrape) = at_once(&agent, &paths.each_ref().map(PathBuf::as_path));
    for (resource, text) in resources.iter().zip(&files) {
        for share in ["some", "full"] {
            let labels = [("cgroup_path", cgroup.path()), ("resource", *resource), ("share", share)];
            let (counted, said) = (scrape.value(PRESSURE, &labels), total(text, share));
            let differ = counted.zip(said).map(|(counted, said)| (counted - said).abs());
            assert!(counted.is_some() == said.is_some(), "{resource} {share}: {counted:?} and {text}");
            assert!(differ.is_none_or(|differ| differ < 1e-9), "{resource} {share}: {counted:?} and {text}");
        }
    }
    agent.stop();
}

/// One container with cgroups of its own within: each byte counts once, under one name.
#[test]
fn what_lies_within_is_not_counted_again() {
    let _kernel = live!();
    enable("+memory");
    let id = "7d1b3f5a9c8e2640b7d1f3a5c9e82640a1b2c3d4e5f60718293a4b5c6d7e8f90";
    let agent = Agent::start(Wish::default());
    let above = Cgroup::new("within");
    let container = above.child(&format!("crio-{id}"));
    let below = container.child("init.scope");
    // Version 2 gives a controller from one level to the next only where it is told to.
    let _ = fs::write(above.directory().join("cgroup.subtree_control"), "+memory");
    let Some(usage) = file(container.directory(), &["memory.usage_in_bytes", "memory.current"]) else {
        return skipped("no memory controller");
    };
    let mut child = stimulus::start(&below, &["resident_pages=500", "hold=1"]);
    wait_until_held(&mut child);
    agent.until("it is seen", |scrape| scrape.value(USAGE, &[("container_id", id)]));
    let (files, scrape) = at_once(&agent, &[&usage]);
    assert_eq!(scrape.value(USAGE, &[("container_id", id)]), files[0].trim().parse().ok());
    assert_eq!(scrape.value(USAGE, &[("cgroup_path", above.path())]), None, "what is below it has another name");
    kill(child);
    agent.stop();
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
