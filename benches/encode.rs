//! What a cycle costs by number of series: the gather's merge of a prepared scrape, the OTLP bodies and the Prometheus
//! text, in CPU time, allocations and memory. The series are those of the syscalls collector: each
//! cgroup has 40 calls, 9 errors and a histogram, each series six attributes or more. Reading the kernel's maps is not
//! part of it.

mod measure;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use export::otlp::encode::{Encoder, Layout};
use export::prometheus::{self, Format};
use measure::{Estimate, pairs, timed};
use model::metric::NANOSECOND_BOUNDS;
use model::{Answer, Attributes, Family, Metric, Resolver, Scope, Snapshot, Subject, Text};
use runtime::series::{Moment, Origin, Store};
use runtime::{Distribution, Limits, Scrape};
use rustix::time::ClockId;

static COUNT: Metric = Metric::counter("ebpf_syscall_count", "{syscall}", "System calls that returned.", &["syscall"]);
static ERRORS: Metric =
    Metric::counter("ebpf_syscall_errors", "{error}", "System calls that failed.", &["syscall", "error.type"]);
static LATENCY: Metric =
    Metric::histogram("ebpf_syscall_latency_ns", "{ns}", "Enter to exit.", &["syscall"], NANOSECOND_BOUNDS);

/// Calls of each cgroup.
const CALLS: [&str; 40] = [
    "read",
    "write",
    "close",
    "fstat",
    "poll",
    "lseek",
    "mmap",
    "mprotect",
    "munmap",
    "brk",
    "ioctl",
    "pread64",
    "writev",
    "access",
    "sched_yield",
    "madvise",
    "nanosleep",
    "getpid",
    "socket",
    "connect",
    "accept4",
    "sendto",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "clone",
    "execve",
    "wait4",
    "kill",
    "fcntl",
    "fsync",
    "getdents64",
    "getcwd",
    "openat",
    "newfstatat",
    "readlinkat",
    "epoll_wait",
    "epoll_ctl",
    "futex",
    "getrandom",
];

/// Errors of each cgroup.
const ERROR_TYPES: [&str; 9] =
    ["EAGAIN", "ENOENT", "EINTR", "EINPROGRESS", "EACCES", "ENOTTY", "ECHILD", "ETIMEDOUT", "EEXIST"];

/// Each cgroup has its calls, its errors and one histogram, which fills this many slots.
const SERIES: usize = CALLS.len() + ERROR_TYPES.len() + 1;
const SLOTS: usize = 37;

/// Series and the goal for a cycle in milliseconds.
const SIZES: [(usize, f64); 3] = [(1_000, 2.0), (10_000, 4.0), (100_000, 40.0)];
const GOAL_ALLOCATIONS: u64 = 1_000;

/// Workloads with the attributes that a container in Kubernetes has.
struct Workloads(Vec<Arc<Attributes>>);

impl Workloads {
    fn new(cgroups: usize) -> Self {
        let attributes = |cgroup: usize| {
            let pairs: [(&'static str, String); 5] = [
                ("k8s.namespace.name", format!("team-{}", cgroup % 20)),
                ("k8s.pod.name", format!("service-{}-7d9c6b5f4-x{cgroup:04}", cgroup % 50)),
                ("k8s.pod.uid", format!("0b0c8f3e-52a7-4c3b-9a4f-{cgroup:012}")),
                ("k8s.container.name", "main".to_owned()),
                ("k8s.deployment.name", format!("service-{}", cgroup % 50)),
            ];
            Arc::new(Attributes::new(pairs.map(|(key, value)| (Text::from(key), Text::from(value)))))
        };
        Self((0..cgroups).map(attributes).collect())
    }
}

impl Resolver for Workloads {
    fn generation(&self) -> u64 {
        1
    }

    fn resolve(&self, subject: Subject) -> Answer {
        self.resolve_now(subject)
    }

    fn resolve_now(&self, subject: Subject) -> Answer {
        match subject {
            Subject::Cgroup(cgroup) => Answer::Known(Arc::clone(&self.0[cgroup as usize])),
            _ => Answer::Known(Arc::default()),
        }
    }
}

/// An agent without a kernel.
struct Bench {
    series: usize,
    workloads: Workloads,
    store: Store,
    resource: Arc<Attributes>,
    encoder: Encoder,
    text: Vec<u8>,
    /// The last snapshot: readers hold it until the next one.
    latest: Option<Snapshot>,
    number: u64,
}

/// CPU time of one cycle.
#[derive(Clone, Copy, Default)]
struct Cycle {
    gather: Duration,
    otlp: Duration,
    text: Duration,
}

impl Cycle {
    fn all(&self) -> f64 {
        (self.gather + self.otlp + self.text).as_secs_f64() * 1e3
    }
}

impl Bench {
    fn new(series: usize) -> Self {
        let limits = Limits {
            series_per_metric: series * 2,
            series_total: series * 2,
            samples_per_workload: 1_000_000,
            bucket_doublings: 4,
            series_ttl: 300_000_000_000,
        };
        let mut store = Store::new(limits);
        let scope = Scope { name: "telesonde.syscalls".into(), version: "0".into(), schema_url: String::new() };
        store.declare(&[&COUNT, &ERRORS, &LATENCY], &Arc::new(scope));
        let resource = [("service.name", "telesonde"), ("host.name", "bench"), ("k8s.node.name", "node-1")];
        Self {
            series,
            workloads: Workloads::new(series / SERIES),
            store,
            resource: Arc::new(Attributes::new(resource.map(|(key, value)| (key.into(), value.into())))),
            encoder: Encoder::new(Layout::default()),
            text: Vec::new(),
            latest: None,
            number: 0,
        }
    }

    /// Records what the kernel would have counted by now; not measured.
    fn scrape(&mut self) -> Scrape {
        self.number += 1;
        let mut scrape = Scrape::default();
        let cgroups = || (0..self.series / SERIES).map(|cgroup| (cgroup, Subject::Cgroup(cgroup as u64)));
        // Map by map, as they are read.
        for (cgroup, subject) in cgroups() {
            for (at, call) in CALLS.into_iter().enumerate() {
                let value = self.number * (1 + (cgroup * at) as u64 % 7919);
                scrape.record(&COUNT, subject, [call.into()], value);
            }
        }
        for (cgroup, subject) in cgroups() {
            for (at, error) in ERROR_TYPES.into_iter().enumerate() {
                let value = self.number * (1 + (cgroup * at) as u64 % 97);
                scrape.record(&ERRORS, subject, [CALLS[at * 4].into(), error.into()], value);
            }
        }
        for (cgroup, subject) in cgroups() {
            let slot = |at: usize| {
                if (5..29).contains(&at) { self.number as u32 * (1 + (cgroup + at) as u32 % 50) } else { 0 }
            };
            let counts: [u32; SLOTS] = std::array::from_fn(slot);
            let distribution = Distribution {
                sum: self.number * 1_000_003,
                unit: 1.0,
                zero: 0,
                scale: 0,
                first: 4,
                counts: &counts,
                weight: 1,
            };
            scrape.record_histogram(&LATENCY, subject, ["".into()], distribution);
        }
        scrape
    }

    fn gather(&mut self, scrape: &Scrape) {
        let second = |number: u64| number * 1_000_000_000;
        let now = second(self.number);
        let moment = Moment { number: self.number, now, before: second(self.number - 1), steady: now };
        let origin = Origin { collector: 0, attached: 1, superseded: false };
        self.store.begin(moment, &self.workloads);
        self.store.merge(origin, scrape, moment, &self.workloads).expect("the metric is declared");
        let families: Vec<Family> = self.store.finish(moment, u64::MAX);
        let (number, time, resource) = (self.number, moment.now, Arc::clone(&self.resource));
        self.latest = Some(Snapshot { number, time, resource, families });
    }

    fn cycle(&mut self, scrape: &Scrape) -> Cycle {
        let (gather, ()) = timed(ClockId::ThreadCPUTime, || self.gather(scrape));
        let snapshot = self.latest.as_ref().expect("it was just gathered");
        let (otlp, points) = timed(ClockId::ThreadCPUTime, || {
            let parts = black_box(self.encoder.parts(snapshot));
            parts.iter().map(|part| part.points).sum::<u64>()
        });
        let (text, counts) = timed(ClockId::ThreadCPUTime, || {
            self.text.clear();
            let counts = prometheus::encode(snapshot, Format::Text, &mut self.text);
            black_box(&self.text);
            counts
        });
        assert_eq!((points, counts.points), (self.series as u64, self.series as u64), "every series was encoded");
        Cycle { gather, otlp, text }
    }

    fn sample(&mut self) -> Cycle {
        let scrape = self.scrape();
        self.cycle(&scrape)
    }
}

fn main() {
    // Another target's filter asks for a list or a test run: there is nothing to do then.
    if std::env::args().any(|argument| argument == "--list" || argument == "--test") {
        return;
    }
    measure::pin(measure::cpus().0).expect("a CPU that is allowed can be pinned to");
    control();
    println!();
    println!("One cycle: merge of the readings, snapshot, OTLP bodies and Prometheus text; ms of thread CPU time,");
    println!("median of {} cycles and its 95 % interval.\n", pairs());
    println!(
        "{:>7}  {:<22} {:<22} {:<22} {:<25} {:>4}  {:<13} {:>11} {:>8}",
        "series", "gather", "OTLP", "Prometheus", "all", "goal", "", "allocations", "RSS MiB"
    );
    let mut most = 0;
    for (series, goal) in SIZES {
        let mut bench = Bench::new(series);
        // The first cycles make every series and render every attribute.
        for _ in 0..3 {
            bench.sample();
        }
        let scrape = bench.scrape();
        let allocations = allocation_counter::measure(|| {
            bench.cycle(&scrape);
        });
        drop(scrape);
        let cycles: Vec<Cycle> = (0..pairs()).map(|_| bench.sample()).collect();
        let of = |part: fn(&Cycle) -> f64| Estimate::of(&cycles.iter().map(part).collect::<Vec<_>>());
        let all = of(Cycle::all);
        println!(
            "{series:>7}  {:<22.2} {:<22.2} {:<22.2} {all:<25.2} {goal:>4}  {:<13} {:>11} {:>8.1}",
            of(|cycle| cycle.gather.as_secs_f64() * 1e3),
            of(|cycle| cycle.otlp.as_secs_f64() * 1e3),
            of(|cycle| cycle.text.as_secs_f64() * 1e3),
            all.verdict(goal),
            allocations.count_total,
            measure::memory(std::process::id(), "VmRSS").unwrap_or_default() as f64 / f64::from(1 << 20),
        );
        most = allocations.count_total;
    }
    let verdict = if most < GOAL_ALLOCATIONS { "met" } else { "missed" };
    println!("\nallocations at 100,000 series: goal under {GOAL_ALLOCATIONS}: {verdict}");
}

/// Compares the same with the same: the difference shows what the machine's noise hides.
fn control() {
    let mut bench = Bench::new(10_000);
    for _ in 0..3 {
        bench.sample();
    }
    let differences: Vec<f64> = (0..pairs()).map(|_| bench.sample().all() - bench.sample().all()).collect();
    println!("control: 10,000 series, difference of two equal cycles: {:.3} ms", Estimate::of(&differences));
}
