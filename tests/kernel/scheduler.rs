//! Time on CPU, switches and waits against what the kernel says in /proc and of cgroups.

use std::fs;
use std::path::PathBuf;

use crate::harness::agent::{Agent, Wish};
use crate::harness::cgroup::{self, Cgroup};
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

fn start() -> Agent {
    Agent::start(Wish { collectors: &["scheduler: {enabled: require}"], ..Wish::default() })
}

/// How often the threads of process 1 were switched away from: in a sandbox it may be hidden from tracing, and on other
/// machines it hardly runs.
fn switches_of_init() -> f64 {
    let threads = fs::read_dir("/proc/1/task").unwrap().flatten();
    // A thread may end between the listing and the reading.
    let read = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let count = |status: String| {
        let counts = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
        counts.map(|(_, count)| count.trim().parse::<f64>().unwrap()).sum::<f64>()
    };
    read.map(count).sum()
}

#[test]
fn time_switches_and_waits_are_the_kernels_own() {
    let _kernel = live!();
    let agent = Agent::start(Wish { collectors: &["scheduler: {enabled: require, latency: all}"], ..Wish::default() });
    let (cgroup, crowd) = (Cgroup::new("time"), Cgroup::new("crowd"));
    let mut tasks = Tasks::start(&cgroup);
    let hidden = switches_of_init();
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
    // Of a switch away from a task that the kernel hides from tracing nobody hears: then the next wait is the sum of two.
    let (waits, runs, hidden) =
        (last.waits - first.waits, after.runs - before.runs, (switches_of_init() - hidden).max(0.0));
    assert!(runs - hidden <= waits && waits <= runs, "{waits} waits in {runs} runs, {hidden} of them at most hidden");
    assert!(last.runtime - first.runtime >= 60e6 && last.voluntary - first.voluntary >= 200.0);
    // Three that want one CPU: each waits about twice as long as it runs.
    assert!(last.waited - first.waited >= 30e6, "{first:?} {last:?}");
    agent.stop();
}

/// Of N waits one in n counts, n times, after a random number of others: the deviation is under that of N/n draws.
#[test]
fn waits_are_sampled_and_switches_are_not() {
    const SLEEPS: f64 = 8_000.0;
    let _kernel = live!();
    let interval = [("metric", "ebpf_runqueue_latency_ns")];
    for (rate, every) in [("sample_rate: 100", 16.0), ("sample_rate: 50", 32.0)] {
        let collectors = &["scheduler: {enabled: require}"];
        let agent = Agent::start(Wish { collectors, ebpf: &[rate], ..Wish::default() });
        let cgroup = Cgroup::new("sampled");
        let mut tasks = Tasks::start(&cgroup);
        let (before, first) = tasks.at_rest(|| seen(&agent.scrape(), &cgroup));
        tasks.ask(&format!("sleep {SLEEPS}"));
        let (after, scrape) = tasks.at_rest(|| agent.scrape());
        let last = seen(&scrape, &cgroup);
        assert_eq!(last.voluntary - first.voluntary, after.voluntary - before.voluntary, "{rate}");
        let (waits, runs) = (last.waits - first.waits, after.runs - before.runs);
        assert!(waits % every == 0.0, "{rate}: {waits} waits are no multiple of {every}");
        let slack = 6.0 * every * (runs / every).sqrt();
        assert!((waits - runs).abs() <= slack, "{rate}: {waits} waits in {runs} runs, at most {slack} off");
        assert_eq!(scrape.value("telesonde_sample_interval", &interval), Some(every), "{rate}");
        agent.stop();
    }
    for (latency, timed) in [("all", true), ("off", false)] {
        let section = format!("scheduler: {{enabled: require, latency: {latency}}}");
        let agent = Agent::start(Wish { collectors: &[&section], ..Wish::default() });
        let cgroup = Cgroup::new("unsampled");
        let mut tasks = Tasks::start(&cgroup);
        tasks.ask("sleep 100");
        let (_, scrape) = tasks.at_rest(|| agent.scrape());
        assert_eq!(scrape.value("telesonde_sample_interval", &interval), None, "{latency}");
        assert_eq!(scrape.value(WAITS, &[("cgroup_path", cgroup.path())]).is_some(), timed, "{latency}");
        agent.stop();
    }
}

#[test]
fn what_runs_at_the_gather_is_counted_to_the_moment() {
    let _kernel = live!();
    let agent = start();
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
    let agent = start();
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

/// The kernel's own sum of the time of a cgroup's tasks, in a hierarchy of its own where it has one.
struct CpuTime(PathBuf);

impl CpuTime {
    fn of(tasks: &Tasks) -> Option<Self> {
        let mount = cgroup::mount().ok()?.parent()?.join("cpuacct");
        let directory = mount.join(format!("telesonde-test-{}", tasks.pid()));
        fs::create_dir(&directory).ok()?;
        let time = Self(directory);
        fs::write(time.0.join("cgroup.procs"), tasks.pid().to_string()).ok()?;
        Some(time)
    }

    fn nanoseconds(&self) -> f64 {
        fs::read_to_string(self.0.join("cpuacct.usage")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for CpuTime {
    fn drop(&mut self) {
        let _ = fs::write(self.0.parent().unwrap().join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn thousands_of_brief_tasks_sum_exactly() {
    const CHILDREN: u32 = 3_000;
    let _kernel = live!();
    let agent = start();
    let cgroup = Cgroup::new("brief");
    let mut tasks = Tasks::start(&cgroup);
    let time = CpuTime::of(&tasks);
    tasks.ask("sleep 1");
    let truth = || time.as_ref().map(CpuTime::nanoseconds);
    let (before, (first, zero)) = tasks.at_rest(|| (seen(&agent.scrape(), &cgroup), truth()));
    tasks.tell(&format!("children {CHILDREN} 1000"));
    let mut earlier = seen(&agent.scrape(), &cgroup);
    let answer = loop {
        let now = seen(&agent.scrape(), &cgroup);
        assert!(earlier.runtime <= now.runtime && earlier.voluntary <= now.voluntary, "{earlier:?} {now:?}");
        earlier = now;
        // Each child has used at least so much before it ends.
        if now.runtime - first.runtime >= f64::from(CHILDREN) * 1e6 {
            break tasks.answer();
        }
    };
    let (after, ()) = tasks.at_rest(|| ());
    let number = |key: &str| answer[key].as_f64().unwrap();
    // Whom its parent has reaped may still be on its way to its last switch, or be pushed aside on that way: the kernel's
    // sums move until the last one is gone.
    let last = agent.until("time on CPU is the kernel's own", |scrape| {
        let now = seen(scrape, &cgroup);
        assert!(earlier.runtime <= now.runtime && earlier.voluntary <= now.voluntary, "{earlier:?} {now:?}");
        let spent = truth().zip(zero).map(|(truth, zero)| truth - zero);
        println!("{} ns of {spent:?}", now.runtime - first.runtime);
        spent.is_none_or(|spent| now.runtime - first.runtime == spent).then_some(now)
    });
    for (counted, reported, kind) in [
        (last.voluntary - first.voluntary, after.voluntary - before.voluntary, "voluntary"),
        (last.involuntary - first.involuntary, after.involuntary - before.involuntary, "involuntary"),
    ] {
        // What a child does after its parent was told of its end is away from all reports: one switch of each kind at most.
        let reported = reported + number(kind);
        let most = reported + f64::from(CHILDREN);
        assert!(reported <= counted && counted <= most, "{kind}: {reported} <= {counted} <= {most}");
    }
    agent.stop();
}
