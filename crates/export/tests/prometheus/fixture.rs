//! Snapshots to encode and sources that give them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::source::{Pending, Source};
use model::{
    Attributes, Family, HistogramPoint, Metric, MetricRef, NumberPoint, Points, Scope, Series, Snapshot, Value,
};

pub const START: u64 = 1_700_000_000_250_000_000;
pub const TIME: u64 = 1_700_000_060_000_000_000;

pub static CALLS: Metric =
    Metric::counter("ebpf_syscall_count", "{syscall}", "Calls that returned to user space.", &["syscall"]);
pub static BYTES: Metric =
    Metric::counter("ebpf_network_bytes_total", "By", "IP bytes on the wire.", &["network.io.direction"]);
pub static MEMORY: Metric =
    Metric::gauge("cgroup_memory_usage_bytes", "By", "Memory in use.\nA \"gauge\" \\ here.", &[]);
pub static LATENCY: Metric =
    Metric::histogram("ebpf_syscall_latency_ns", "{ns}", "Enter to exit.", &["syscall"], &[-1, 0, 4, 10, 20]);

pub fn attributes(pairs: &[(&str, &str)]) -> Arc<Attributes> {
    Arc::new(Attributes::new(pairs.iter().map(|&(key, value)| (key.to_owned().into(), value.to_owned().into()))))
}

pub fn series(entity: &Arc<Attributes>, dimensions: &[(&str, &str)]) -> Arc<Series> {
    Arc::new(Series { id: 0, entity: entity.clone(), dimensions: attributes(dimensions), start: START, base: None })
}

pub fn scope(name: &str) -> Arc<Scope> {
    Arc::new(Scope { name: name.to_owned(), version: String::new(), schema_url: String::new() })
}

pub fn numbers(metric: &'static Metric, points: Vec<(Arc<Series>, Value)>) -> Family {
    let points = points.into_iter().map(|(series, value)| NumberPoint { series, value }).collect();
    Family {
        metric: MetricRef::Static(metric),
        scope: scope("telesonde.test"),
        of_cluster: false,
        points: Points::Numbers(points),
    }
}

/// Makes a histogram's point of zeros and buckets, with a sum of 1.5.
pub fn histogram(series: Arc<Series>, zero: u64, scale: i8, first: i32, counts: &[u64]) -> (HistogramPoint, Vec<u64>) {
    let count = zero + counts.iter().sum::<u64>();
    let point = HistogramPoint { series, sum: 1.5, count, zero, scale, first, at: 0, len: counts.len() as u32 };
    (point, counts.to_vec())
}

pub fn histograms(metric: &'static Metric, all: Vec<(HistogramPoint, Vec<u64>)>) -> Family {
    let (mut points, mut counts) = (Vec::new(), Vec::new());
    for (mut point, buckets) in all {
        point.at = counts.len() as u32;
        counts.extend(buckets);
        points.push(point);
    }
    let points = Points::Histogram { points, counts };
    Family { metric: MetricRef::Static(metric), scope: scope("telesonde.test"), of_cluster: false, points }
}

pub fn snapshot(families: Vec<Family>) -> Snapshot {
    let resource = attributes(&[("service.name", "telesonde"), ("host.name", "node-1")]);
    Snapshot { number: 1, time: TIME, resource, families }
}

/// One of everything.
pub fn everything() -> Snapshot {
    let pod = attributes(&[("k8s.namespace.name", "shop"), ("k8s.pod.name", "web-0")]);
    let hostile = attributes(&[("k8s.pod.name", "a\\b\"c\nd\re\u{1}é"), ("k8s.pod-name", "joined")]);
    let node = attributes(&[]);
    snapshot(vec![
        histograms(
            &LATENCY,
            vec![
                histogram(series(&pod, &[("syscall", "read")]), 2, 0, 0, &[1, 0, 3, 0, 0, 0, 0, 5]),
                histogram(series(&node, &[]), 0, 2, 37, &[4, 1, 0, 2]),
                histogram(series(&hostile, &[]), 0, 0, 0, &[]),
            ],
        ),
        numbers(
            &CALLS,
            vec![
                (series(&pod, &[("syscall", "read")]), Value::U64(u64::MAX)),
                (series(&hostile, &[("syscall", "openat")]), Value::U64(7)),
                (series(&node, &[]), Value::F64(0.5)),
            ],
        ),
        numbers(&MEMORY, vec![(series(&pod, &[]), Value::F64(f64::NAN)), (series(&node, &[]), Value::F64(-1e21))]),
        numbers(&BYTES, vec![(series(&pod, &[("network.io.direction", "transmit")]), Value::U64(1500))]),
        numbers(&CALLS, vec![(series(&pod, &[("syscall", "write")]), Value::U64(1))]),
    ])
}

/// Gives a snapshot with a new number for each gather, and as many as asked for before it hangs.
pub struct Gathers {
    snapshot: Snapshot,
    pub taken: AtomicU64,
    most: u64,
}

impl Gathers {
    pub fn new(snapshot: Snapshot, most: u64) -> Arc<Self> {
        Arc::new(Self { snapshot, taken: AtomicU64::new(0), most })
    }
}

impl Source for Gathers {
    fn snapshot(&self, max_age: Duration) -> Pending<'_> {
        Box::pin(async move {
            let before = self.taken.load(Ordering::SeqCst);
            if before > 0 && max_age >= Duration::from_hours(1) {
                return Arc::new(Snapshot { number: before, ..self.snapshot.clone() });
            }
            if before >= self.most {
                std::future::pending::<()>().await;
            }
            let number = self.taken.fetch_add(1, Ordering::SeqCst) + 1;
            Arc::new(Snapshot { number, ..self.snapshot.clone() })
        })
    }

    fn register(&self) -> usize {
        0
    }

    fn acknowledge(&self, _reader: usize, _number: u64) {}
}
