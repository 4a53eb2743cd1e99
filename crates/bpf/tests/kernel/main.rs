//! Loads the programs into the running kernel. Where eBPF is refused each test says so and passes; set
//! `TELESONDE_REQUIRE_BPF` to make that a failure.

mod bench;
mod dns;
mod gate;
mod network;
mod pins;
mod scales;

use bench::{Cgroup, Work, builds, facts, is_locked, ready};
use bpf::abi::cgroup::{CHANGE_MADE, CHANGE_REMOVED, Change};
use bpf::abi::filter::{COMM_EXCLUDE, COMM_INCLUDE, CommRule, comm, comm_slot};
use bpf::abi::histogram::{HistShape, Histogram};
use bpf::abi::sample::{TIME_EVERY, TIME_NONE, TIME_SAMPLE};
use bpf::abi::syscalls::{ABI_NATIVE, Call, Failure, LISTED_COUNT, LISTED_TIME, Loss, NR_ALL, NR_LIMIT};
use bpf::{Loader, Object, Types};

const SHAPE: HistShape = HistShape::new(0, 4, 40);
const ENOENT: u16 = libc::ENOENT as u16;

fn call(cgroup: u64, nr: libc::c_long) -> Call {
    Call { cgroup, nr: nr as u32, abi: ABI_NATIVE }
}

fn loader(object: &'static str, timing: u32) -> Loader {
    Loader::new(object)
        .constant("hierarchy", &(facts().cgroups.primary as u32))
        .constant("timing", &timing)
        .histogram("latency", SHAPE)
}

/// Loads and attaches: `sys_exit` first, so that every start finds its end.
fn attach(loader: Loader, timing: u32, types: &Types) -> Object {
    let mut object = loader.load(types).expect("the object loads");
    object.attach("sys_exit", types).expect("sys_exit attaches");
    if timing != TIME_NONE {
        object.attach("sys_enter", types).expect("sys_enter attaches");
    }
    object
}

fn total(object: &Object, call: Call) -> u64 {
    let calls = object.table::<Call, u64>("calls").expect("calls");
    calls.get(&call).expect("readable").unwrap_or_default().iter().sum()
}

fn latency(object: &Object, call: Call) -> Histogram {
    let table = object.histograms::<Call>("latency", SHAPE).expect("latency");
    let mut sum = Histogram::default();
    sum.read(SHAPE, &table.get(&call).expect("readable").unwrap_or_default());
    sum
}

/// Gives what the map of latencies had no room for.
fn lost_latency(object: &Object) -> Histogram {
    let cells = object.lost_histogram("latency", SHAPE).expect("latency_lost").get(0).expect("readable");
    let mut sum = Histogram::default();
    sum.read(SHAPE, &cells);
    sum
}

fn losses(object: &Object) -> Loss {
    let mut sum = Loss::default();
    for loss in object.per_cpu_cells::<Loss>("losses").expect("losses").get(0).expect("readable") {
        sum.calls += loss.calls;
        sum.errors += loss.errors;
        sum.busy += loss.busy;
        sum.stale += loss.stale;
    }
    sum
}

#[test]
fn calls_and_errors_are_counted_exactly_in_every_mode() {
    let Some(types) = ready() else { return };
    for &object in builds() {
        for timing in [TIME_NONE, TIME_EVERY, TIME_SAMPLE] {
            let object = attach(loader(object, timing), timing, &types);
            let cgroup = Cgroup::make("counts");
            cgroup.run(Work { getppid: 5000, missing: 300, ..Work::default() });
            assert_eq!(total(&object, call(cgroup.id(), libc::SYS_getppid)), 5000, "timing {timing}");
            let errors = object.table::<Failure, u64>("errors").expect("errors");
            let key = Failure { cgroup: cgroup.id(), nr: libc::SYS_openat as u32, abi: 0, number: ENOENT };
            let errors: u64 = errors.get(&key).expect("readable").unwrap_or_default().iter().sum();
            assert_eq!(errors, 300, "timing {timing}");
            assert!(object.watch().programs().iter().all(|program| program.misses.unwrap_or(0) == 0));
        }
    }
}

#[test]
fn with_every_call_timed_the_histogram_counts_every_call() {
    let Some(types) = ready() else { return };
    for &name in builds() {
        let loader = loader(name, TIME_EVERY).constant("time_listed", &1_u32);
        let object = attach(loader, TIME_EVERY, &types);
        let mut listed = object.cells::<u32>("listed").expect("listed");
        listed.set(libc::SYS_clock_nanosleep as u32, &LISTED_TIME).expect("writable");
        let cgroup = Cgroup::make("timed");
        let outside = cgroup.run(Work { naps: 20, ..Work::default() });
        let naps = call(cgroup.id(), libc::SYS_clock_nanosleep);
        let hist = latency(&object, naps);
        assert_eq!(total(&object, naps), 20);
        assert_eq!(hist.count(), 20);
        assert!(hist.sum >= 20_000_000, "20 naps of 1 ms took {} ns", hist.sum);
        assert!(hist.sum <= outside.nap_ns, "{} ns inside, {} outside", hist.sum, outside.nap_ns);
        assert_eq!(losses(&object), Loss::default());
    }
}

#[test]
fn threads_that_share_a_slot_lose_no_time() {
    let Some(types) = ready() else { return };
    for &name in builds() {
        let loader = loader(name, TIME_EVERY).constant("time_listed", &1_u32);
        let loader = loader.constant("starts_mask", &0_u32).max_entries("starts", 1);
        let object = attach(loader, TIME_EVERY, &types);
        let mut listed = object.cells::<u32>("listed").expect("listed");
        listed.set(libc::SYS_getppid as u32, &LISTED_TIME).expect("writable");
        let cgroup = Cgroup::make("shared");
        cgroup.run(Work { getppid: 20_000, threads: 7, ..Work::default() });
        let getppid = call(cgroup.id(), libc::SYS_getppid);
        assert_eq!(total(&object, getppid), 160_000, "{name}");
        assert_eq!(latency(&object, getppid).count(), 160_000, "{name}");
        assert_eq!(losses(&object), Loss::default());
    }
}

#[test]
fn samples_are_a_sixteenth_of_the_calls() {
    let Some(types) = ready() else { return };
    for &name in builds() {
        let object = attach(loader(name, TIME_SAMPLE), TIME_SAMPLE, &types);
        let cgroup = Cgroup::make("sampled");
        cgroup.run(Work { getppid: 160_000, ..Work::default() });
        let hist = latency(&object, Call { nr: NR_ALL, ..call(cgroup.id(), 0) });
        // 10,000 expected, standard deviation 97.
        assert!((9_000..11_000).contains(&hist.count()), "{} samples of 160,000 calls", hist.count());
    }
}

#[test]
fn what_a_full_map_cannot_hold_is_counted() {
    let Some(types) = ready() else { return };
    let loader = loader(builds()[0], TIME_EVERY).max_entries("calls", 4).max_entries("errors", 4);
    let object = attach(loader.max_entries("latency", 4), TIME_EVERY, &types);
    let cgroups: Vec<Cgroup> = (0..8).map(|index| Cgroup::make(&format!("full{index}"))).collect();
    for cgroup in &cgroups {
        cgroup.run(Work { getppid: 1000, missing: 100, ..Work::default() });
    }
    let lost = losses(&object);
    assert!(lost.calls >= 7000, "{} calls overflowed", lost.calls);
    assert!(lost.errors >= 400, "{} errors overflowed", lost.errors);
    let samples = lost_latency(&object).count();
    assert!(samples >= 4000, "{samples} samples overflowed");
    let mut calls = object.table::<Call, u64>("calls").expect("calls");
    calls.for_each(|_, _| ()).expect("readable");
    assert_eq!(calls.len(), 4);
}

#[test]
fn only_listed_calls_are_counted() {
    let Some(types) = ready() else { return };
    let loader = loader(builds()[0], TIME_NONE).constant("count_listed", &1_u32);
    let mut object = loader.load(&types).expect("the object loads");
    let mut listed = object.cells::<u32>("listed").expect("listed");
    assert_eq!(listed.capacity(), 3 * NR_LIMIT);
    listed.set(libc::SYS_getppid as u32, &LISTED_COUNT).expect("writable");
    object.attach("sys_exit", &types).expect("sys_exit attaches");
    let cgroup = Cgroup::make("listed");
    cgroup.run(Work { getppid: 100, missing: 100, ..Work::default() });
    let mut found = Vec::new();
    let mut calls = object.table::<Call, u64>("calls").expect("calls");
    calls
        .for_each(|key, counts| {
            if key.cgroup == cgroup.id() {
                found.push((key.nr, counts.iter().sum::<u64>()));
            }
        })
        .expect("readable");
    assert_eq!(found, [(libc::SYS_getppid as u32, 100)]);
}

#[test]
fn processes_are_chosen_by_their_name() {
    let Some(types) = ready() else { return };
    // The legacy build reads the name of another task.
    for &name in builds().iter().filter(|name| !(is_locked() && name.ends_with("_legacy"))) {
        for (rule, counted) in [(COMM_INCLUDE, [100, 0]), (COMM_EXCLUDE, [0, 100])] {
            let loader = loader(name, TIME_NONE).constant("comm_filter", &rule);
            let mut object = loader.load(&types).expect("the object loads");
            let mut comms = object.cells::<CommRule>("comms").expect("comms");
            let (abc, mask) = (comm("abc"), comms.capacity() - 1);
            let slot = CommRule { comm: abc, rule: rule.into() };
            comms.set(comm_slot(abc, 0, mask), &slot).expect("writable");
            object.attach("sys_exit", &types).expect("sys_exit attaches");
            for (comm, count) in ["abc", "abcdefghijk"].into_iter().zip(counted) {
                let cgroup = Cgroup::make(&format!("comm{rule}{comm}"));
                cgroup.run(Work { getppid: 100, comm: Some(comm), ..Work::default() });
                assert_eq!(total(&object, call(cgroup.id(), libc::SYS_getppid)), count, "rule {rule}, {comm}");
            }
        }
    }
}

#[test]
fn a_table_is_read_in_batches_and_entries_are_taken() {
    let Some(types) = ready() else { return };
    let object = Loader::new(builds()[0]).histogram("latency", SHAPE).load(&types).expect("the object loads");
    let mut table = object.table::<Call, u64>("calls").expect("calls");
    let cpus = table.cpus();
    for index in 0..10_000_u64 {
        table.insert(&Call { cgroup: index, nr: 1, abi: 0 }, &vec![index; cpus]).expect("room");
    }
    let (mut count, mut sum) = (0, 0);
    table
        .for_each(|key, counts| {
            assert_eq!(counts, vec![key.cgroup; cpus]);
            count += 1;
            sum += key.cgroup;
        })
        .expect("readable");
    assert_eq!((count, sum), (10_000, 9_999 * 10_000 / 2));
    assert_eq!(table.len(), 10_000);
    assert_eq!(table.capacity(), 16_384);

    let key = Call { cgroup: 7, nr: 1, abi: 0 };
    assert_eq!(table.take(&key).expect("taken"), Some(vec![7; cpus]));
    assert_eq!(table.take(&key).expect("nothing there"), None);
    assert_eq!(table.get(&key).expect("nothing there"), None);

    let mut histograms = object.histograms::<Call>("latency", SHAPE).expect("latency");
    let words = SHAPE.bytes() as usize / 8 * cpus;
    let all: Vec<u64> = (0..words as u64).collect();
    histograms.insert(&key, &all).expect("room");
    let mut seen = 0;
    histograms.for_each(|_, cells| seen += usize::from(*cells == all)).expect("readable");
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn cgroups_are_reported_with_their_paths() {
    let Some(types) = ready() else { return };
    for programs in [["cgroup_mkdir__id", "cgroup_rmdir__id"], ["cgroup_mkdir", "cgroup_rmdir"]] {
        let with_path = !programs[0].ends_with("__id");
        let mut object = Loader::new("cgroup")
            .constant("hierarchy_id", &facts().cgroups.hierarchy_id)
            .load(&types)
            .expect("the object loads");
        let mut ring = object.ring("changes").expect("changes");
        if with_path && is_locked() {
            let error = object.attach(programs[0], &types).expect_err("locked down");
            assert!(error.is_refused(), "{error}");
            return;
        }
        for program in programs {
            object.attach(program, &types).expect("the program attaches");
        }
        let cgroup = Cgroup::make("reported");
        let (id, path, parent) = (cgroup.id(), cgroup.path(), Cgroup::root_id());
        drop(cgroup);
        let mut kinds = Vec::new();
        while kinds.len() < 2 {
            let next = ring.next(|record| {
                let (change, path) = Change::decode(record).expect("a whole record");
                (change, path.map(str::to_owned))
            });
            let next = tokio::time::timeout(std::time::Duration::from_secs(5), next).await;
            let (change, found) = next.expect("an event in time").expect("readable");
            if change.id == id {
                assert_eq!(change.parent, parent);
                assert_eq!(found.as_deref(), with_path.then_some(path.as_str()));
                kinds.push(change.kind);
            }
        }
        assert_eq!(kinds, [CHANGE_MADE, CHANGE_REMOVED]);
        let drops: u64 = object.per_cpu_cells::<u64>("drops").expect("drops").get(0).expect("readable").iter().sum();
        assert_eq!(drops, 0);
    }
}

#[tokio::test]
async fn a_path_that_is_too_long_is_left_out() {
    let Some(types) = ready() else { return };
    if is_locked() {
        return bench::skip(&"the kernel is locked down, and paths are not read");
    }
    let loader = Loader::new("cgroup").constant("hierarchy_id", &facts().cgroups.hierarchy_id);
    let mut object = loader.load(&types).expect("the object loads");
    object.attach("cgroup_mkdir", &types).expect("the program attaches");
    let mut ring = object.ring("changes").expect("changes");
    let outer = Cgroup::make("long");
    let (inner, innermost) = (outer.nest(&"a".repeat(250)), outer.nest(&format!("{0}/{0}", "a".repeat(250))));
    let mut paths = std::collections::HashMap::new();
    ring.drain(|record| {
        let (change, path) = Change::decode(record).expect("a whole record");
        paths.insert(change.id, (change.parent, path.map(str::len)));
    });
    let id = outer.id();
    assert_eq!(paths[&inner.id()], (id, Some(outer.path().len() + 251)));
    assert_eq!(paths[&innermost.id()], (inner.id(), None));
    drop(innermost);
    drop(inner);
}

#[tokio::test]
async fn what_a_full_ring_cannot_hold_is_counted() {
    let Some(types) = ready() else { return };
    let loader = Loader::new("cgroup").constant("hierarchy_id", &facts().cgroups.hierarchy_id);
    let mut object = loader.max_entries("changes", 4096).load(&types).expect("the object loads");
    object.attach("cgroup_mkdir__id", &types).expect("the program attaches");
    let mut ring = object.ring("changes").expect("changes");
    let cgroups: Vec<Cgroup> = (0..200).map(|index| Cgroup::make(&format!("ring{index}"))).collect();
    let received = ring.drain(|_| ()) as u64;
    let dropped: u64 = object.per_cpu_cells::<u64>("drops").expect("drops").get(0).expect("readable").iter().sum();
    assert!(dropped > 0);
    assert!(received + dropped >= cgroups.len() as u64, "{received} received, {dropped} dropped");
}

#[test]
fn the_cost_is_what_the_kernel_says_and_ends_with_the_object() {
    let Some(types) = ready() else { return };
    let mut object = Loader::new("syscalls_legacy").histogram("latency", SHAPE).load(&types).expect("the object loads");
    object.attach("sys_exit", &types).expect("sys_exit attaches");
    let watch = object.watch();
    let programs = watch.programs();
    assert_eq!(programs.len(), 1);
    assert_eq!((programs[0].name.as_str(), programs[0].kind), ("sys_exit", "tracing"));
    assert!(programs[0].verified.unwrap_or(1) > 0);
    let costs = watch.maps();
    let known = bench::memlock(&costs);
    assert!(known.len() > 4, "{} maps are known to the kernel", known.len());
    // Before 6.4 fdinfo leaves out what is allocated for each CPU.
    let known = if facts().version < (6, 4) { Vec::new() } else { known };
    // In small maps what the kernel keeps beside the entries outweighs them.
    for (map, memlock) in known.into_iter().filter(|(map, _)| map.memory > 32 * 1024) {
        let ratio = map.memory as f64 / memlock as f64;
        assert!((0.9..1.1).contains(&ratio), "{}: {} computed, {memlock} by the kernel", map.name, map.memory);
    }
    drop(object);
    assert!(!watch.is_alive());
    assert!(watch.programs().is_empty() && watch.maps().is_empty());
}

#[test]
fn errors_name_the_place() {
    let Some(types) = ready() else { return };
    let unknown = Loader::new("nothing").load(&types).err().expect("no such object").to_string();
    assert!(unknown.contains("nothing") && unknown.contains("syscalls"), "{unknown}");
    let mut object = Loader::new("floor").load(&types).expect("the object loads");
    let error = object.attach("sys_nothing", &types).expect_err("no such program").to_string();
    assert_eq!(error, "the eBPF object floor has no program sys_nothing on a tracepoint with BTF");
    let error = object.table::<Call, u64>("calls").expect_err("no such map").to_string();
    assert_eq!(error, "the eBPF object floor has no map calls");
    let object = Loader::new(builds()[0]).histogram("latency", SHAPE).load(&types).expect("the object loads");
    let error = object.table::<u64, u64>("calls").expect_err("another key").to_string();
    assert_eq!(error, "the map calls has a key of 16 bytes, not of 8");
}
