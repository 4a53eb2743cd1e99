//! Time on CPU, switches and waits against what the kernel says in /proc and of cgroups.

use std::fs;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::Cgroup;
use crate::harness::live;
use crate::harness::scrape::Scrape;
use crate::harness::tasks::Tasks;

const RUNTIME: &str = "ebpf_process_runtime_ns_total";
const SWITCHES: &str = "ebpf_context_switches_total";
const WAITED: &str = "ebpf_runqueue_latency_ns_sum";
const WAITS: &str = "ebpf_runqueue_latency_ns_count";

/// `getrusage` gives two numbers in whole microseconds.
const ROUNDING: f64 = 2_000.0;

/// What a cgroup has done so far.
#[derive(Clone, Copy, Debug)]
struct Seen {
    runtime: f64,
    voluntary: f64,
    involuntary: f64,
    waited: f64,
    waits: f64,
}

fn seen(scrape: &Scrape, cgroup: &Cgroup) -> Seen {
    let path = ("cgroup_path", cgroup.path());
    let value = |name| scrape.value(name, &[path]).unwrap_or_default();
    let switches = |kind| {
        let labels = [path, ("process_context_switch_type", kind)];
        scrape.value(SWITCHES, &labels).unwrap_or_default()
    };
    Seen {
        runtime: value(RUNTIME),
        voluntary: switches("voluntary"),
        involuntary: switches("involuntary"),
        waited: value(WAITED),
        waits: value(WAITS),
    }
}

#[test]
fn time_switches_and_waits_are_the_kernels_own() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let (cgroup, crowd) = (Cgroup::new("time"), Cgroup::new("crowd"));
    let mut tasks = Tasks::start(&cgroup);
    let mut others: Vec<_> = (0..2).map(|_| Tasks::start(&crowd)).collect();
    tasks.ask("pin 0");
    let (before, first) = tasks.at_rest(|| seen(&agent.scrape(), &cgroup));
    for other in &mut others {
        other.ask("pin 0");
        other.ask("busy");
    }
    tasks.ask("spin 60");
    tasks.ask("sleep 200");
    let (after, last) = tasks.at_rest(|| seen(&agent.scrape(), &cgroup));
    assert_eq!(last.runtime - first.runtime, after.runtime - before.runtime, "{before:?} {after:?}");
    assert_eq!(last.voluntary - first.voluntary, after.voluntary - before.voluntary);
    assert_eq!(last.involuntary - first.involuntary, after.involuntary - before.involuntary);
    assert_eq!(last.waited - first.waited, after.delay - before.delay);
    let page = agent.page();
    let missed: Vec<_> = page.lines().filter(|line| line.contains("misses")).collect();
    assert_eq!(last.waits - first.waits, after.runs - before.runs, "{missed:#?}");
    assert!(last.runtime - first.runtime >= 60e6 && last.voluntary - first.voluntary >= 200.0);
    // Three that want one CPU: each waits about twice as long as it runs.
    assert!(last.waited - first.waited >= 30e6, "{first:?} {last:?}");
    agent.stop();
}

#[test]
fn what_runs_at_the_gather_is_counted_to_the_moment() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let cgroup = Cgroup::new("running");
    let mut tasks = Tasks::start(&cgroup);
    let usage = |tasks: &mut Tasks| tasks.ask("usage")["ns"].as_f64().unwrap();
    tasks.ask("sleep 1");
    let zero = usage(&mut tasks);
    let (_, first) = tasks.at_rest(|| seen(&agent.scrape(), &cgroup));
    let upper = usage(&mut tasks);
    tasks.ask("busy");
    for _ in 0..50 {
        let least = usage(&mut tasks) - upper - ROUNDING;
        let total = seen(&agent.scrape(), &cgroup).runtime - first.runtime;
        let most = usage(&mut tasks) - zero + ROUNDING;
        assert!(least <= total && total <= most, "{least} <= {total} <= {most}");
    }
    agent.stop();
}

#[test]
fn what_was_done_before_a_move_stays_where_it_was() {
    let _kernel = live!();
    let agent = Agent::start(Wish::default());
    let (old, new) = (Cgroup::new("old"), Cgroup::new("new"));
    let mut tasks = Tasks::start(&old);
    let (before, first) = tasks.at_rest(|| seen(&agent.scrape(), &old));
    tasks.ask("spin 20");
    tasks.ask("sleep 30");
    let (moved, ()) = tasks.at_rest(|| ());
    fs::write(new.directory().join("cgroup.procs"), tasks.pid().to_string()).unwrap();
    tasks.ask("spin 10");
    tasks.ask("sleep 20");
    let (after, (old, new)) = tasks.at_rest(|| {
        let scrape = agent.scrape();
        (seen(&scrape, &old), seen(&scrape, &new))
    });
    assert_eq!(old.runtime - first.runtime, moved.runtime - before.runtime);
    assert_eq!(old.voluntary - first.voluntary, moved.voluntary - before.voluntary);
    assert_eq!(new.runtime, after.runtime - moved.runtime);
    assert_eq!(
        new.voluntary + new.involuntary,
        after.voluntary + after.involuntary - moved.voluntary - moved.involuntary
    );
    agent.stop();
}
