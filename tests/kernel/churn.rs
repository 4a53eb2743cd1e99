//! Workloads that come and go.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::scrape::Scrape;
use crate::harness::{live, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";
/// The environment variable that says for how many seconds the agent is stopped at least.
const STALL: &str = "TELESONDE_TEST_STALL";

fn getppids(scrape: &Scrape, cgroup: &Cgroup, number: usize) -> Option<f64> {
    let path = format!("{}/churn-{number}", cgroup.path());
    scrape.value(COUNT, &[("cgroup_path", &path), ("syscall", "getppid")])
}

/// Each cgroup lives a few hundred microseconds and is removed while its task still exits.
#[test]
fn brief_cgroups_are_all_accounted_for() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let cgroup = Cgroup::new("churn");
    let mut child = stimulus::start(&cgroup, &["churn=500:20"]);
    let mut before = agent.scrape();
    while child.try_wait().unwrap().is_none() {
        let scrape = agent.scrape();
        assert!((0..500).filter_map(|number| getppids(&scrape, &cgroup, number)).all(|count| count <= 20.0));
        assert_eq!(scrape.fallen(&before), [], "a counter never falls");
        before = scrape;
    }
    stimulus::finish(child);
    agent.until("all brief cgroups have their names", |scrape| {
        (0..500).all(|number| getppids(scrape, &cgroup, number).is_some()).then_some(())
    });
    let peak = agent.map_entries("calls");
    assert!(peak >= 500, "{peak} entries");
    // Long enough for the dead cgroups' entries to be taken out of the kernel's maps, which must not change a sum.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(15) {
        let scrape = agent.scrape();
        let wrong: Vec<_> = (0..500).filter(|&number| getppids(&scrape, &cgroup, number) != Some(20.0)).collect();
        assert!(wrong.is_empty(), "not 20 calls: {wrong:?}");
        let inside = |path: &String| path.starts_with(cgroup.path());
        let all = scrape.all(COUNT, &[("syscall", "getppid")]);
        let all = all.filter(|sample| sample.labels.get("cgroup_path").is_some_and(inside));
        let sum: f64 = all.map(|sample| sample.value).sum();
        assert_eq!(sum, 10_000.0);
        assert_eq!(scrape.fallen(&before), [], "a counter never falls");
        before = scrape;
        std::thread::sleep(Duration::from_millis(500));
    }
    let left = agent.map_entries("calls");
    assert!(left + 500 <= peak, "{left} of {peak} entries are left");
    agent.stop();
}

/// An agent that is stopped cannot hear of cgroups: some have no name later, but none of their calls is lost.
#[test]
fn lost_reports_lose_no_counts() {
    let _kernel = live!();
    // Whoever else makes such calls is not counted.
    let name = format!("lost-{}", std::process::id());
    let filter = format!("process_filter: [{name}]");
    let syscalls = "syscalls: [sched_rr_get_interval]";
    let agent = Agent::start(Wish { syscalls, ebpf: &[&filter], ..Wish::default() });
    let stall = std::env::var(STALL).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    let (cgroup, before) = (Cgroup::new("lost"), agent.scrape());
    agent.signal("STOP");
    let stopped = Instant::now();
    stimulus::run_as(&name, &cgroup, &["churn=900:20"]);
    let late = cgroup.child("late");
    stimulus::run_as(&name, &late, &["sched_rr_get_interval=7"]);
    std::thread::sleep(Duration::from_secs(stall).saturating_sub(stopped.elapsed()));
    agent.signal("CONT");
    println!("the agent was stopped for {:.1} s", stopped.elapsed().as_secs_f64());
    let scrape = agent.until("all calls are counted", |scrape| {
        let sum = scrape.sum(COUNT, &[]);
        assert!(sum <= 18_007.0, "{sum} calls");
        (sum == 18_007.0).then(|| scrape.clone())
    });
    let lost = scrape.sum("telesonde_events_lost_total", &[("collector", "cgroup")]);
    let nameless = scrape.0.iter().filter(|sample| sample.name == COUNT && sample.labels.contains_key("cgroup_id"));
    let nameless = nameless.count() as f64;
    assert!(0.0 < nameless && nameless <= lost, "{nameless} have no name after {lost} lost reports");
    assert_eq!(scrape.value(COUNT, &[("cgroup_path", late.path())]), Some(7.0), "what still exists has its name");
    assert_eq!(scrape.fallen(&before), [], "a counter never falls");
    agent.stop();
}

#[test]
fn a_restarted_workload_is_one_series() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let above = Cgroup::new("restarts");
    let unit = format!("telesonde-test-{}.service", std::process::id());
    let labels = [("systemd_unit", unit.as_str()), ("syscall", "getppid")];
    let (mut expected, mut created) = (0.0, Vec::new());
    for round in 1..=20_u32 {
        let cgroup = above.child(&unit);
        created.push(
            fs::metadata(cgroup.directory()).map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata)).unwrap(),
        );
        stimulus::run(&cgroup, &[&format!("getppid={}", 100 * round)]);
        drop(cgroup);
        let before = expected;
        expected += f64::from(100 * round);
        agent.until("the new calls are added", |scrape| {
            let total = scrape.value(COUNT, &labels).unwrap_or_default();
            assert!(before <= total && total <= expected, "{before} <= {total} <= {expected}");
            (total == expected).then_some(())
        });
    }
    created.sort_unstable();
    created.dedup();
    assert_eq!(created.len(), 20, "each restart is a cgroup of its own");
    agent.stop();
}
