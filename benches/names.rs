//! What names cost: a look-up beside one in a plain hash table, the memory of a pod, and a gather beside no pods, beside
//! ten thousand, and while those change.

mod measure;

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use enrich::{Container, Hierarchy, Kind, Pod, Settings, Workloads};
use measure::{Estimate, pairs, timed};
use model::{Answer, Attributes, Census, CgroupChange, Metric, Resolver, Scope, Subject, Text};
use runtime::series::{Moment, Origin, Store};
use runtime::{Limits, Scrape};
use rustix::time::ClockId;

static COUNT: Metric = Metric::counter("ebpf_syscall_count", "{syscall}", "System calls that returned.", &["syscall"]);

/// Pods, each with a sandbox and two containers: three cgroups beside its own.
const PODS: u64 = 10_000;
/// Look-ups of one sample.
const LOOKUPS: usize = 100_000;
/// The goal for a look-up in nanoseconds.
const GOAL: f64 = 200.0;
/// Workloads and calls of each that a gather has, as on a busy node.
const ACTIVE: u64 = 100;
const CALLS: u64 = 100;

fn uid(number: u64) -> String {
    format!("{number:08x}-3a02-4b1e-9f0f-2d4c67a8e913")
}

fn id(number: u64, at: u64) -> String {
    format!("{:064x}", 4 * number + at)
}

/// The cgroup of a container of a pod; at 0 that of the pod itself.
fn cgroup(number: u64, at: u64) -> u64 {
    10_000 + 4 * number + at
}

fn pod(number: u64, phase: u64) -> Pod {
    let name = |key: &'static str, value: String| (Text::Static(key), Text::from(value));
    let container = |at: u64| Container {
        id: id(number, at).into(),
        names: [
            name("k8s.container.name", format!("container-{at}")),
            name("container.image.name", "registry.example/shop/web".into()),
        ]
        .into(),
    };
    let names = [
        name("k8s.namespace.name", format!("team-{}", number % 20)),
        name("k8s.pod.name", format!("web-5d9c7b8f4-{number:05}")),
        name("k8s.deployment.name", format!("web-{}", number % 50)),
        name("k8s.pod.label.phase", phase.to_string()),
    ];
    let containers = vec![container(2), container(3)];
    let addresses = vec![std::net::Ipv4Addr::from(0x0a00_0000 + number as u32).into()];
    Pod { uid: uid(number).into(), alias: None, names: names.into(), observed: true, containers, addresses }
}

fn workloads(root: &Path) -> Workloads {
    let settings = Settings { expects: vec![Kind::Pods], ..Settings::default() };
    let hierarchy = Hierarchy { mount: root.to_owned(), whole: true };
    Workloads::start(hierarchy, &settings).expect("an empty directory is a hierarchy")
}

fn fill(workloads: &Workloads, number: u64) {
    assert!(workloads.put_pod(pod(number, 0)), "there is room");
    let made = |at: u64, path: String| {
        let id = cgroup(number, at);
        workloads.changed(CgroupChange::Made { id, parent: 1, path: Some(path.into()) });
    };
    made(0, format!("/kubepods/burstable/pod{}", uid(number)));
    (1..4).for_each(|at| made(at, format!("/kubepods/burstable/pod{}/{}", uid(number), id(number, at))));
}

/// Ids of containers in an order in which memory is not read ahead.
fn order() -> Vec<u64> {
    let mut random = 42_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    (0..LOOKUPS).map(|_| cgroup(next() % PODS, 2 + next() % 2)).collect()
}

fn look_ups(root: &Path) {
    let workloads = workloads(root);
    let resident = || measure::memory(std::process::id(), "VmRSS").unwrap_or_default();
    let before = resident();
    let memory = allocation_counter::measure(|| (0..PODS).for_each(|number| fill(&workloads, number)));
    let resident = resident().saturating_sub(before);
    let order = order();
    let attributes = |id: u64| match workloads.resolve(Subject::Cgroup(id)) {
        Answer::Known(set) => set,
        other => panic!("{id} has no names: {other:?}"),
    };
    let plain: HashMap<u64, Arc<Attributes>> =
        (0..PODS).flat_map(|number| [2, 3].map(|at| cgroup(number, at))).map(|id| (id, attributes(id))).collect();
    let each = |taken: Duration| taken.as_nanos() as f64 / LOOKUPS as f64;
    let (mut floors, mut own, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs() {
        let (floor, ()) = timed(ClockId::ThreadCPUTime, || {
            for id in &order {
                drop(black_box(plain.get(id).cloned()));
            }
        });
        let (taken, ()) = timed(ClockId::ThreadCPUTime, || {
            for &id in &order {
                drop(black_box(workloads.resolve(Subject::Cgroup(id))));
            }
        });
        floors.push(each(floor));
        own.push(each(taken));
        ratios.push(each(taken) / each(floor));
    }
    let own = Estimate::of(&own);
    println!("Look-ups of the containers of {PODS} pods in no order, ns of thread CPU time each,");
    println!("median of {} interleaved samples of {LOOKUPS} and its 95 % interval:\n", pairs());
    println!("floor: a plain hash table   {:.0}", Estimate::of(&floors));
    println!("a look-up                   {own:.0}   goal {GOAL}: {}", own.verdict(GOAL));
    println!("ratio to the floor          {:.2}", Estimate::of(&ratios));
    let each = |bytes: u64| bytes as f64 / PODS as f64;
    println!(
        "\nA pod of a sandbox and two containers, with its four cgroups, takes {:.0} B",
        each(memory.bytes_current as u64)
    );
    println!("of allocations, {:.0} B of resident memory.\n", each(resident));
}

/// A gather of a scrape that was prepared, with the names of [`ACTIVE`] containers.
struct Gather {
    store: Store,
    number: u64,
}

impl Gather {
    fn new() -> Self {
        let limits = Limits {
            series_per_metric: 100_000,
            series_total: 100_000,
            samples_per_workload: 1_000_000,
            bucket_doublings: 4,
            series_ttl: 300_000_000_000,
        };
        let mut store = Store::new(limits);
        let scope = Scope { name: "telesonde.syscalls".into(), version: "0".into(), schema_url: String::new() };
        store.declare(&[&COUNT], &Arc::new(scope));
        Self { store, number: 0 }
    }

    fn run(&mut self, workloads: &Workloads) -> Duration {
        self.number += 1;
        let mut scrape = Scrape::default();
        for number in 0..ACTIVE {
            for call in 0..CALLS {
                let subject = Subject::Cgroup(cgroup(number, 2));
                scrape.record(&COUNT, subject, [format!("call-{call}").into()], self.number * (1 + call));
            }
        }
        let now = self.number * 1_000_000_000;
        let moment = Moment { number: self.number, now, before: now - 1_000_000_000, steady: now };
        let origin = Origin { collector: 0, attached: 1, superseded: false };
        let (taken, families) = timed(ClockId::ThreadCPUTime, || {
            self.store.begin(moment, workloads);
            self.store.merge(origin, &scrape, moment, workloads).expect("the metric is declared");
            self.store.finish(moment, u64::MAX)
        });
        assert!(!families.is_empty(), "all was gathered");
        taken
    }
}

fn gathers(root: &Path) {
    let (few, many) = (workloads(root), workloads(root));
    (0..ACTIVE).for_each(|number| fill(&few, number));
    (0..PODS).for_each(|number| fill(&many, number));
    let (changing, stop, changes) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let mut times = [const { Vec::new() }; 3];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // On the other CPU: a label of one pod after the other, each with new names for its four cgroups.
            drop(measure::pin(measure::cpus().1));
            while !stop.load(Relaxed) {
                if changing.load(Relaxed) {
                    let change = changes.fetch_add(1, Relaxed);
                    many.put_pod(pod(ACTIVE + change % (PODS - ACTIVE), 1 + change / (PODS - ACTIVE)));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let mut kinds = [(Gather::new(), &few, false), (Gather::new(), &many, false), (Gather::new(), &many, true)];
        for round in 0..3 + pairs() {
            for ((gather, workloads, changes), times) in kinds.iter_mut().zip(&mut times) {
                changing.store(*changes, Relaxed);
                std::thread::sleep(Duration::from_millis(10));
                let taken = gather.run(workloads).as_secs_f64() * 1e3;
                // The first ones make every series.
                if round >= 3 {
                    times.push(taken);
                }
            }
        }
        stop.store(true, Relaxed);
    });
    let ratio = |at: usize| {
        let ratios: Vec<f64> = times[at].iter().zip(&times[0]).map(|(other, none)| other / none).collect();
        Estimate::of(&ratios)
    };
    println!(
        "A gather of {} series of {ACTIVE} containers, ms of thread CPU time, {} interleaved",
        ACTIVE * CALLS,
        pairs()
    );
    println!("rounds; and its ratio to that beside no other pods:\n");
    println!("no other pods               {:.2}", Estimate::of(&times[0]));
    println!("10,000 pods                 {:<22.2} {:.2}", Estimate::of(&times[1]), ratio(1));
    println!("10,000, 1,000 changes a s   {:<22.2} {:.2}", Estimate::of(&times[2]), ratio(2));
}

fn main() {
    // Another target's filter asks for a list or a test run: there is nothing to do then.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    measure::pin(measure::cpus().0).expect("a CPU that is allowed can be pinned to");
    let root = std::env::temp_dir().join(format!("telesonde-bench-names-{}", std::process::id()));
    std::fs::create_dir_all(&root).expect("a directory can be made");
    look_ups(&root);
    gathers(&root);
    drop(std::fs::remove_dir(&root));
}
