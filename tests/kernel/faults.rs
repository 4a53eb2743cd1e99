//! Faults of the host, each with what the agent does: it says so, counts what it loses, and goes on with the rest.
//! docs/faults.md names the test of each fault; here are those that have no other place.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::agent::{Agent, Wish, is_emulated, wrapped};
use crate::harness::cgroup::Cgroup;
use crate::harness::scrape::{Sample, Scrape};
use crate::harness::{DEADLINE, directory, eventually, live, patiently, skipped, stimulus};

const COUNT: &str = "ebpf_syscall_count_total";

/// How many cgroups come and go with nobody in them: in each of them the kernel makes and frees some 100 KiB. Beside them
/// come and go a quarter as many in which somebody makes some calls.
const CGROUPS: &str = "TELESONDE_TEST_CGROUPS";
const CALLS: u32 = 20;

/// More than what thousands of names and series take for a while. They are as many as the defaults allow from some tens of
/// thousands of cgroups on: more of them take no more.
const ROOM: u64 = 24 << 20;
const FULL: u64 = 96 << 20;
/// From so many cgroups on the room is the larger one, and what they leave is looked at in the end.
const MANY: u32 = 5_000;
/// The most series of a metric, by default; the overflow series and what others make aside.
const SERIES: usize = 20_100;
/// Descriptors that may be open for a moment, such as of connections.
const FEW: usize = 16;
const KEPT: &str = "series_ttl: 1h\n";

#[test]
fn thousands_of_cgroups_leave_nothing_but_their_sum() {
    let _kernel = live!();
    let wanted = std::env::var(CGROUPS).ok().and_then(|count| count.parse().ok());
    let count: u32 = wanted.unwrap_or(if is_emulated() { 500 } else { 2_000 });
    let (used, calls) = (count / 4, f64::from(count / 4 * CALLS));
    // Only what these processes do is counted: to the last call, whoever else makes such calls.
    let name = format!("churn-{}", std::process::id());
    let filter = format!("process_filter: [{name}]");
    let syscalls = "syscalls: [sched_rr_get_interval]";
    let agent = Agent::start(Wish { syscalls, ebpf: &[&filter], ..Wish::default() });
    // What was counted stays to be seen until it is looked at, however long it takes.
    agent.rewrite(&[("admin: {", &format!("{KEPT}admin: {{"))]);
    assert_eq!(agent.reload().0, Some(0), "{}", agent.log());
    let (above, busy) = (Cgroup::new("thousands"), Cgroup::new("busy"));
    let begin = (agent.resident(), agent.scrape().0.len(), agent.open_descriptors());
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| stimulus::run_as(&name, &busy, &[&format!("churn={used}:{CALLS}")]));
        for number in 0..count {
            let brief = above.directory().join(number.to_string());
            fs::create_dir(&brief).unwrap();
            fs::remove_dir(&brief).unwrap();
        }
    });
    let came = Instant::now();
    println!("{count} cgroups came and went in {:?}", came - started);
    // The more there are the longer it takes, most of all where others want the CPUs, too.
    let patience = DEADLINE.max(Duration::from_millis(5) * count);
    let until = |what: &str, done: &mut dyn FnMut(&Scrape) -> bool| {
        patiently(what, patience, || done(&agent.scrape()).then_some(()));
        println!("{what} after {:?}", came.elapsed());
    };
    // Of whom the agent did not hear the kernel's id is all that is known; others found no series of their own.
    let mut found = None;
    until("all calls are counted", &mut |scrape| {
        let is_busy = |sample: &&Sample| sample.labels.get("cgroup_path").is_some_and(|at| at.starts_with(busy.path()));
        let named: f64 = scrape.all(COUNT, &[]).filter(is_busy).map(|sample| sample.value).sum();
        let of =
            |key: &str| scrape.all(COUNT, &[]).filter(|one| one.labels.contains_key(key)).map(|one| one.value).sum();
        let nameless: [f64; 2] = ["cgroup_id", "otel_metric_overflow"].map(of);
        let own = named + nameless.iter().sum::<f64>();
        assert!(own <= calls, "{own} of {calls} calls");
        found = (own == calls).then(|| (own, scrape.clone()));
        found.is_some()
    });
    let (own, scrape) = found.unwrap();
    println!("{own} calls are counted, {calls} were made in {used} cgroups");
    // Who was there leaves its entry after a while, and others may be there, too.
    if count <= MANY {
        assert!(agent.map_entries("calls") <= 1000, "{} entries", agent.map_entries("calls"));
    }
    let inside = format!("{}/", above.path());
    let path = |sample: &Sample| sample.labels.get("cgroup_path").filter(|path| path.starts_with(&inside)).cloned();
    // The figures of those that were there at a gather are the cgroup's own.
    let counted = scrape.0.iter().filter(|sample| sample.name.starts_with("ebpf_")).find_map(path);
    assert_eq!(counted, None, "nobody was there");
    let grown = (agent.resident().saturating_sub(begin.0), scrape.0.len() - begin.1);
    println!("{count} cgroups: {} bytes and {} samples more", grown.0, grown.1);
    assert!(grown.0 < if count > MANY { FULL } else { ROOM }, "{} bytes more", grown.0);

    assert!(scrape.all(COUNT, &[]).count() <= SERIES, "{} series", scrape.all(COUNT, &[]).count());
    assert!(agent.open_descriptors() <= begin.2 + FEW, "{} descriptors, not {}", agent.open_descriptors(), begin.2);
    if count > MANY {
        // What takes longer than a test should: entries go when nothing was counted for a while, and then the series.
        until("their entries are gone", &mut |_| agent.map_entries("calls") <= 100);
        agent.rewrite(&[(KEPT, "series_ttl: 1s\n")]);
        assert_eq!(agent.reload().0, Some(0), "{}", agent.log());
        let left =
            |scrape: &Scrape| scrape.all(COUNT, &[]).filter(|one| one.labels.contains_key("cgroup_path")).count();
        until("their series are gone", &mut |scrape| left(scrape) <= 100);
        println!("in the end: {} bytes more", agent.resident().saturating_sub(begin.0));
    }
    agent.stop();
}

/// A thread that is killed within a call leaves its start behind; whoever gets its id next must not end that call.
#[test]
fn a_process_id_that_is_used_again_belongs_to_its_present_owner() {
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    let _kernel = live!();
    if !Path::new(LAST).exists() {
        return skipped("this kernel does not let process ids be chosen");
    }
    let agent = Agent::start(Wish {
        syscalls: "latency: all, syscalls: [nanosleep, sched_rr_get_interval], latency_by_syscall: [nanosleep, sched_rr_get_interval]",
        ..Wish::default()
    });
    let victims = Cgroup::new("victim");
    let mut victim = stimulus::start(&victims, &["sched_rr_get_interval=3", "nanosleep=1:600000000000"]);
    let id = victim.id();
    eventually("it sleeps", || {
        let call = fs::read_to_string(format!("/proc/{id}/syscall")).unwrap();
        call.starts_with(if cfg!(target_arch = "x86_64") { "35 " } else { "101 " }).then_some(())
    });
    victim.kill().unwrap();
    victim.wait().unwrap();
    // Others may be quicker: whoever got another id counts just as well.
    let heirs: Vec<_> = (0..100).map(|number| victims.child(&number.to_string())).collect();
    let mut used = 0;
    let reused = heirs.iter().any(|heir| {
        fs::write(LAST, (id - 1).to_string()).unwrap();
        let child = stimulus::start(heir, &["sched_rr_get_interval=50"]);
        used += 1;
        let is_same = child.id() == id;
        stimulus::finish(child);
        is_same
    });
    assert!(reused, "somebody else always gets {id}");
    let heir = &heirs[used - 1];
    let labels = |path| [("cgroup_path", path), ("syscall", "sched_rr_get_interval")];
    let scrape = agent.until("its calls are counted", |scrape| {
        let count = scrape.value(COUNT, &labels(heir.path()))?;
        assert!(count <= 50.0, "{count} calls");
        (count == 50.0).then(|| scrape.clone())
    });
    assert_eq!(scrape.value(COUNT, &labels(victims.path())), Some(3.0));
    assert_eq!(scrape.value("ebpf_syscall_latency_ns_count", &labels(heir.path())), Some(50.0));
    let slept = scrape.sum("ebpf_syscall_latency_ns_count", &[("cgroup_path", heir.path()), ("syscall", "nanosleep")]);
    assert_eq!(slept, 0.0, "it did not sleep");
    agent.stop();
}

#[test]
fn collectors_for_which_there_are_descriptors_go_on() {
    let _kernel = live!();
    let place = directory("few");
    // Kernels before 5.12 take more of them for a collector.
    let few = if bpf::probe::Facts::gather().is_legacy() { 200 } else { 120 };
    let program = wrapped(&place, &format!("[ $1 = run ] && ulimit -n {few}"));
    // Which collector comes first is not said.
    let env = [("TELESONDE_INTEGRATIONS__EBPF__COLLECTORS__SYSCALLS__ENABLED", "true")];
    let agent = Agent::start(Wish { program: Some(&program), all: true, env: &env, ..Wish::default() });
    let of = |state: &str| {
        let status = agent.status()?;
        let all = status["integrations"].as_array()?.iter().filter(|one| one["state"] == state);
        Some(all.map(|one| (one["name"].to_string(), one["why"].to_string())).collect::<Vec<_>>())
    };
    let (running, failed) = eventually("some run and some do not", || {
        let (running, failed) = (of("running")?, of("failed")?);
        (!running.is_empty() && !failed.is_empty()).then_some((running, failed))
    });
    println!("{running:?} run");
    assert!(of("unsupported").unwrap().is_empty(), "what lacks is the process' own");
    for (name, why) in &failed {
        assert!(why.contains(&format!("may have {few} files open")) && why.contains("LimitNOFILE"), "{name}: {why}");
        let name = format!("\"collector\":{name}");
        let said = agent.log().lines().filter(|line| line.contains(&name) && line.contains("files open")).count();
        assert!(said <= 1, "{name} said it {said} times: {}", agent.log());
    }
    // Whoever asks is answered, again and again.
    for _ in 0..20 {
        let scrape = agent.scrape();
        assert!(scrape.value("process_open_fds", &[]).unwrap() <= f64::from(few));
    }
    agent.stop();
    fs::remove_dir_all(place).unwrap();
}
