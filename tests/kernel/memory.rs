//! Page faults, page allocations and OOM kills against what the kernel says in /proc and of cgroups.

use std::fs;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::scrape::Scrape;
use crate::harness::tasks::Tasks;
use crate::harness::{live, skipped};

const FAULTS: &str = "ebpf_page_faults_total";
const ALLOCATIONS: &str = "ebpf_memory_allocations_total";
const KILLS: &str = "ebpf_oom_kills_total";

fn faults(scrape: &Scrape, cgroup: &Cgroup, kind: &str) -> f64 {
    let labels = [("cgroup_path", cgroup.path()), ("system_paging_fault_type", kind)];
    scrape.value(FAULTS, &labels).unwrap_or_default()
}

fn pages(scrape: &Scrape, cgroup: &Cgroup) -> f64 {
    scrape.value(ALLOCATIONS, &[("cgroup_path", cgroup.path())]).unwrap_or_default()
}

fn start() -> Agent {
    Agent::start(Wish { collectors: &["memory: {enabled: require}"], ..Wish::default() })
}

#[test]
fn fresh_pages_are_minor_faults_and_allocations() {
    const PAGES: f64 = 20_000.0;
    /// Entries of a page table.
    const ENTRIES: f64 = 512.0;
    /// The pages of a new mapping's upper tables, of its administration and of two messages through a pipe.
    const BESIDES: f64 = 64.0;
    let _kernel = live!();
    let agent = start();
    let cgroup = Cgroup::new("pages");
    let mut tasks = Tasks::start(&cgroup);
    tasks.ask("pages 10");
    let (before, first) = tasks.at_rest(|| agent.scrape());
    let told = tasks.ask(&format!("pages {PAGES}"));
    let (after, last) = tasks.at_rest(|| agent.scrape());
    assert_eq!((told["minor"].as_f64(), told["major"].as_f64()), (Some(PAGES), Some(0.0)));
    let minor = faults(&last, &cgroup, "minor") - faults(&first, &cgroup, "minor");
    assert_eq!(minor, after.minor - before.minor);
    assert!((PAGES..=PAGES + BESIDES).contains(&minor), "{minor} faults");
    assert_eq!(faults(&last, &cgroup, "major") - faults(&first, &cgroup, "major"), after.major - before.major);
    let allocated = pages(&last, &cgroup) - pages(&first, &cgroup);
    let most = PAGES + PAGES / ENTRIES + BESIDES;
    assert!(PAGES <= allocated && allocated <= most, "{PAGES} <= {allocated} <= {most} pages");
    agent.stop();
}

#[test]
fn the_faults_of_brief_tasks_sum_exactly() {
    const CHILDREN: u32 = 2_000;
    let _kernel = live!();
    let agent = start();
    let cgroup = Cgroup::new("faults");
    let mut tasks = Tasks::start(&cgroup);
    let (before, first) = tasks.at_rest(|| faults(&agent.scrape(), &cgroup, "minor"));
    let told = tasks.ask(&format!("children {CHILDREN} 1"));
    let (after, ()) = tasks.at_rest(|| ());
    let expected = after.minor - before.minor + told["minor"].as_f64().unwrap();
    agent.until("all children are freed", |scrape| {
        let now = faults(scrape, &cgroup, "minor") - first;
        assert!(now <= expected, "{now} of {expected} faults");
        (now == expected).then_some(())
    });
    assert!(expected >= f64::from(CHILDREN), "{expected} faults");
    agent.stop();
}

#[test]
fn a_kill_belongs_to_the_victim() {
    let _kernel = live!();
    let agent = start();
    let (cgroup, other) = (Cgroup::new("oom"), Cgroup::new("calm"));
    let limit = ["memory.limit_in_bytes", "memory.max"].map(|file| cgroup.directory().join(file));
    let Some(limit) = limit.iter().find(|file| file.exists()) else {
        skipped("the memory controller is not enabled here");
        return;
    };
    fs::write(limit, (16 << 20).to_string()).unwrap();
    let (mut tasks, mut calm) = (Tasks::start(&cgroup), Tasks::start(&other));
    for kills in 1..=3 {
        assert_eq!(tasks.ask("hog 64")["signal"], 9, "the child is killed");
        assert_eq!(calm.ask("hog 1")["signal"], 0);
        agent.until("the kill is counted", |scrape| {
            let counted = scrape.value(KILLS, &[("cgroup_path", cgroup.path())]).unwrap_or_default();
            assert!(counted <= f64::from(kills), "{counted} of {kills} kills");
            (counted == f64::from(kills)).then_some(())
        });
    }
    let scrape = agent.scrape();
    assert_eq!(scrape.value(KILLS, &[("cgroup_path", other.path())]), None);
    let events = ["memory.oom_control", "memory.events"].map(|file| cgroup.directory().join(file));
    let events = events.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap();
    assert!(events.lines().any(|line| line == "oom_kill 3"), "{events}");
    agent.stop();
}
