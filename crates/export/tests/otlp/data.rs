//! Snapshots to export, and a source that gives them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::source::Pending;
use model::{
    Attributes, Family, HistogramPoint, Metric, MetricRef, NumberPoint, Points, Scope, Series, Snapshot, Source, Value,
};

pub static CALLS: Metric = Metric::counter("ebpf_syscall_count", "{syscall}", "Calls that returned.", &["syscall"]);
pub static SECONDS: Metric = Metric::counter("process_cpu_seconds", "s", "Time on CPU.", &[]);
pub static OPEN: Metric = Metric::gauge("process_open_fds", "{file}", "Open files.", &[]);
pub static LATENCY: Metric =
    Metric::histogram("ebpf_syscall_latency_ns", "{ns}", "Enter to exit.", &["syscall"], &[1, 4, 10]);

pub fn attributes(pairs: &[(&'static str, &str)]) -> Arc<Attributes> {
    Arc::new(Attributes::new(pairs.iter().map(|(key, value)| ((*key).into(), value.to_string().into()))))
}

pub fn scope(name: &str) -> Arc<Scope> {
    let schema_url = "https://opentelemetry.io/schemas/1.37.0".to_owned();
    Arc::new(Scope { name: name.to_owned(), version: "0.1.0".to_owned(), schema_url })
}

/// Entities, dimensions and series that stay the same from snapshot to snapshot.
pub struct World {
    pub resource: Arc<Attributes>,
    scopes: [Arc<Scope>; 2],
    calls: Vec<Arc<Series>>,
    latencies: Vec<Arc<Series>>,
    node: Vec<Arc<Series>>,
}

const BORN: u64 = 1_700_000_000_000_000_000;

impl World {
    /// Makes a world of some workloads with two syscalls each.
    pub fn new(workloads: usize) -> Self {
        let syscalls = [attributes(&[("syscall", "openat")]), attributes(&[("syscall", "read")])];
        let nothing = attributes(&[]);
        let entities: Vec<_> = (0..workloads)
            .map(|at| {
                attributes(&[
                    ("k8s.namespace.name", "default"),
                    ("k8s.pod.name", &format!("pod-{at}")),
                    ("host.name", &format!("guest-{at}")),
                ])
            })
            .collect();
        let mut id = 0;
        let mut series = |entity: &Arc<Attributes>, dimensions: &Arc<Attributes>| {
            id += 1;
            Arc::new(Series {
                id,
                entity: entity.clone(),
                dimensions: dimensions.clone(),
                start: BORN + id,
                base: None,
            })
        };
        let mut by_syscall = || {
            let pairs = entities.iter().flat_map(|entity| syscalls.iter().map(move |syscall| (entity, syscall)));
            pairs.map(|(entity, syscall)| series(entity, syscall)).collect::<Vec<_>>()
        };
        let (calls, latencies) = (by_syscall(), by_syscall());
        let node = (0..2).map(|_| series(&nothing, &nothing)).collect();
        let resource = attributes(&[("host.name", "node-a"), ("service.name", "telesonde")]);
        Self { resource, scopes: [scope("telesonde.syscalls"), scope("telesonde.self")], calls, latencies, node }
    }

    /// Gives snapshot `number`: all counters grow with it, a series in three stands still now and then.
    pub fn snapshot(&self, number: u64) -> Snapshot {
        let numbers = |series: &[Arc<Series>], value: &dyn Fn(u64) -> Value| {
            Points::Numbers(
                series.iter().map(|series| NumberPoint { series: series.clone(), value: value(series.id) }).collect(),
            )
        };
        let grown = |id: u64| if id.is_multiple_of(3) { number / 2 * id } else { number * id };
        let mut points = Vec::new();
        let mut counts = Vec::new();
        for series in &self.latencies {
            let buckets = [0, grown(series.id), 0, number, series.id, 0];
            let zero = number / 4;
            let at = counts.len() as u32;
            counts.extend(buckets);
            points.push(HistogramPoint {
                series: series.clone(),
                sum: grown(series.id) as f64 * 1.5,
                count: zero + buckets.iter().sum::<u64>(),
                zero,
                scale: 1,
                first: series.id as i32 % 7 - 3,
                at,
                len: 6,
            });
        }
        let huge = |id: u64| if id == 1 { Value::U64(u64::MAX - (1 << 30) + number) } else { Value::U64(grown(id)) };
        let family = |metric, scope: usize, points| Family {
            metric: MetricRef::Static(metric),
            scope: self.scopes[scope].clone(),
            of_cluster: false,
            points,
        };
        Snapshot {
            number,
            time: BORN + number * 1_000_000_000,
            resource: self.resource.clone(),
            families: vec![
                family(&CALLS, 0, numbers(&self.calls, &huge)),
                family(&LATENCY, 0, Points::Histogram { points, counts }),
                family(&SECONDS, 1, numbers(&self.node[..1], &|_| Value::F64(number as f64 * 0.25))),
                family(&OPEN, 1, numbers(&self.node[1..], &|_| Value::U64(40 + number % 2))),
            ],
        }
    }
}

/// Gives a world's snapshots one after the other and notes what is acknowledged.
pub struct Clock {
    pub world: World,
    taken: AtomicU64,
    acknowledged: Mutex<Vec<u64>>,
}

impl Clock {
    pub fn new(workloads: usize) -> Arc<Self> {
        Arc::new(Self { world: World::new(workloads), taken: AtomicU64::new(0), acknowledged: Mutex::default() })
    }

    /// The number of snapshots so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The snapshots that were acknowledged.
    pub fn acknowledged(&self) -> Vec<u64> {
        self.acknowledged.lock().unwrap().clone()
    }
}

impl Source for Clock {
    fn snapshot(&self, _: Duration) -> Pending<'_> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move { Arc::new(self.world.snapshot(number)) })
    }

    fn register(&self) -> usize {
        7
    }

    fn acknowledge(&self, reader: usize, number: u64) {
        assert_eq!(reader, 7);
        // With that number it says that it leaves.
        if number != u64::MAX {
            self.acknowledged.lock().unwrap().push(number);
        }
    }
}
