//! What the store promises: sums are exact, totals never fall, one attribute set is one series.

use std::collections::HashMap;
use std::sync::Mutex;

use model::{Answer, NumberPoint, Points, Value};

use super::*;
use crate::collector::Distribution;

mod budget;

const ORIGIN: Origin = Origin { collector: 0, attached: 50, superseded: false };

static CALLS: Metric = Metric::counter("calls", "{call}", "h", &["syscall"]);
static OPEN: Metric = Metric::gauge("open", "{file}", "h", &[]);
static TIME: Metric = Metric::histogram("time_ns", "{ns}", "h", &[], &[10]);

#[derive(Default)]
struct Names(Mutex<(u64, HashMap<Subject, Answer>)>);

impl Names {
    fn set(&self, subject: u64, answer: Answer) {
        let mut inner = self.0.lock().unwrap();
        inner.0 += 1;
        inner.1.insert(Subject::Cgroup(subject), answer);
    }
}

impl Resolver for Names {
    fn generation(&self) -> u64 {
        self.0.lock().unwrap().0
    }

    fn resolve(&self, subject: Subject) -> Answer {
        self.0.lock().unwrap().1.get(&subject).cloned().unwrap_or(Answer::Pending)
    }

    fn resolve_now(&self, _: Subject) -> Answer {
        unreachable!("series wait for their names")
    }
}

fn named(name: &'static str) -> Answer {
    Answer::Known(Arc::new(Attributes::new([("pod".into(), name.into())])))
}

struct Bench {
    store: Store,
    names: Names,
    number: u64,
}

impl Bench {
    fn new(per_metric: usize, series_ttl: u64) -> Self {
        Self::with_share(per_metric, 1000, series_ttl)
    }

    fn with_share(per_metric: usize, samples_per_workload: usize, series_ttl: u64) -> Self {
        let limits = Limits {
            series_per_metric: per_metric,
            series_total: 1000,
            samples_per_workload,
            bucket_doublings: 0,
            series_ttl,
        };
        let mut store = Store::new(limits);
        let scope = Arc::new(Scope { name: "t".into(), version: "1".into(), schema_url: String::new() });
        store.declare(&[&CALLS, &OPEN, &TIME], &scope);
        Self { store, names: Names::default(), number: 0 }
    }

    fn gather(&mut self, fill: impl FnOnce(&mut Scrape)) -> Vec<Family> {
        self.number += 1;
        let now = self.number * 100;
        let moment = Moment { number: self.number, now, before: now - 100, steady: now };
        let mut scrape = Scrape::default();
        fill(&mut scrape);
        self.store.begin(moment, &self.names);
        self.store.merge(ORIGIN, &scrape, moment, &self.names).unwrap();
        self.store.finish(moment, u64::MAX)
    }
}

fn calls(scrape: &mut Scrape, subject: u64, value: u64) {
    scrape.record(&CALLS, Subject::Cgroup(subject), ["read".into()], value);
}

fn numbers(families: &[Family], name: &str) -> Vec<NumberPoint> {
    families
        .iter()
        .filter(|family| family.metric.name == name)
        .flat_map(|family| match &family.points {
            Points::Numbers(points) => points.clone(),
            Points::Histogram { .. } => panic!("{name} is a histogram"),
        })
        .collect()
}

fn values(families: &[Family], name: &str) -> Vec<u64> {
    let mut all: Vec<u64> = numbers(families, name).iter().map(|point| point.value.as_f64() as u64).collect();
    all.sort_unstable();
    all
}

#[test]
fn cgroups_with_one_name_are_one_series_that_never_falls() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("web-0"));
    bench.names.set(2, named("web-0"));
    assert_eq!(values(&bench.gather(|s| calls(s, 1, 10)), "calls"), [10]);
    let both = bench.gather(|s| {
        s.close(&CALLS, Subject::Cgroup(1), ["read".into()], 12);
        calls(s, 2, 5);
    });
    assert_eq!(values(&both, "calls"), [17]);
    assert_eq!(numbers(&both, "calls")[0].series.start, 50);
    assert_eq!(values(&bench.gather(|s| calls(s, 2, 6)), "calls"), [18]);
}

#[test]
fn an_entry_that_returns_after_its_close_adds_to_the_series() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    bench.gather(|s| s.close(&CALLS, Subject::Cgroup(1), ["read".into()], 12));
    assert_eq!(values(&bench.gather(|s| calls(s, 1, 3)), "calls"), [15]);
}

#[test]
fn a_series_that_returns_is_the_same_one_however_much_has_come_and_gone() {
    let mut bench = Bench::new(10_000, 1_000_000);
    bench.names.set(1, named("a"));
    let rare = |s: &mut Scrape, last: bool, value: u64| {
        let values = ["rare".into()];
        if last {
            s.close(&CALLS, Subject::Cgroup(1), values, value);
        } else {
            s.record(&CALLS, Subject::Cgroup(1), values, value);
        }
    };
    bench.gather(|s| rare(s, true, 7));
    // Many other attributes and subjects, each once: what nothing refers to is forgotten meanwhile.
    for round in 0..40_u64 {
        for subject in 0..50 {
            bench.names.set(100 + round * 50 + subject, named("b"));
        }
        bench.gather(|s| {
            for number in 0..50 {
                let values = [Text::from(format!("call-{}", round * 50 + number))];
                s.close(&CALLS, Subject::Cgroup(100 + round * 50 + number), values, 1_u64);
            }
        });
    }
    let after = numbers(&bench.gather(|s| rare(s, false, 2)), "calls");
    let named = |point: &&NumberPoint| point.series.dimensions.get("syscall") == Some("rare");
    let found: Vec<u64> = after.iter().filter(named).map(|point| point.value.as_f64() as u64).collect();
    assert_eq!(found, [9], "one series, which goes on");
}

#[test]
fn attributes_without_series_are_forgotten() {
    let mut bench = Bench::new(10_000, 100);
    bench.names.set(1, named("a"));
    for round in 0..2_000_u64 {
        bench.gather(|s| s.close(&CALLS, Subject::Cgroup(1), [Text::from(format!("call-{round}"))], 1_u64));
    }
    assert!(bench.store.dimensions.len() < 1_000, "{}", bench.store.dimensions.len());
}

#[test]
fn readings_wait_for_a_name_and_lose_nothing() {
    let mut bench = Bench::new(100, 1000);
    assert!(bench.gather(|s| calls(s, 1, 10)).is_empty());
    assert!(bench.gather(|s| s.close(&CALLS, Subject::Cgroup(1), ["read".into()], 15)).is_empty());
    assert!(bench.gather(|s| calls(s, 1, 4)).is_empty());
    bench.names.set(1, named("late"));
    assert_eq!(values(&bench.gather(|s| calls(s, 1, 7)), "calls"), [22]);
}

#[test]
fn a_renamed_workload_begins_a_new_series_and_keeps_the_old_total() {
    let mut bench = Bench::new(100, 10_000);
    bench.names.set(1, named("before"));
    bench.gather(|s| calls(s, 1, 10));
    bench.names.set(1, named("after"));
    assert_eq!(values(&bench.gather(|s| calls(s, 1, 13)), "calls"), [3, 10]);
}

#[test]
fn a_series_starts_at_the_gather_before_it_appeared() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    bench.names.set(2, named("b"));
    bench.gather(|s| calls(s, 1, 1));
    let families = bench.gather(|s| {
        calls(s, 1, 1);
        calls(s, 2, 1);
    });
    let starts: Vec<_> = numbers(&families, "calls").iter().map(|point| point.series.start).collect();
    assert_eq!(starts, [50, 100]);
}

#[test]
fn dead_series_stay_for_their_time_and_return_at_zero_with_a_new_start() {
    let mut bench = Bench::new(100, 200);
    bench.names.set(1, named("a"));
    bench.gather(|s| s.close(&CALLS, Subject::Cgroup(1), ["read".into()], 9));
    assert_eq!(values(&bench.gather(|_| {}), "calls"), [9]);
    assert!(bench.gather(|_| {}).is_empty());
    let back = bench.gather(|s| calls(s, 1, 2));
    assert_eq!(values(&back, "calls"), [2]);
    assert_eq!(numbers(&back, "calls")[0].series.start, 300);
}

#[test]
fn dead_series_wait_for_their_receivers() {
    let mut bench = Bench::new(100, 100);
    bench.names.set(1, named("a"));
    bench.gather(|s| s.close(&CALLS, Subject::Cgroup(1), ["read".into()], 9));
    let moment = Moment { number: 9, now: 9000, before: 8000, steady: 9000 };
    assert_eq!(values(&bench.store.finish(moment, 0), "calls"), [9]);
    assert!(bench.store.finish(moment, 1).is_empty());
}

#[test]
fn a_clock_that_jumps_changes_neither_lives_nor_starts() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    bench.gather(|s| s.close(&CALLS, Subject::Cgroup(1), ["read".into()], 9));
    let century = 100 * 365 * 24 * 3_600_000_000_000;
    let moment = |number, now, steady| Moment { number, now, before: 100, steady };
    assert_eq!(values(&bench.store.finish(moment(2, century, 200), u64::MAX), "calls"), [9], "it lives on");
    bench.names.set(2, named("b"));
    let mut scrape = Scrape::default();
    calls(&mut scrape, 2, 7);
    let back = Moment { number: 3, now: 150, before: century, steady: 300 };
    bench.store.begin(back, &bench.names);
    bench.store.merge(Origin { attached: century, ..ORIGIN }, &scrape, back, &bench.names).unwrap();
    let families = bench.store.finish(back, u64::MAX);
    let Points::Numbers(points) = &families[0].points else { panic!("no numbers") };
    assert!(points.iter().all(|point| point.series.start <= 150), "no series begins after its points");
    assert_eq!(values(&bench.store.finish(moment(4, 150, 1100), u64::MAX), "calls"), [7], "and ends in time");
}

#[test]
fn what_is_past_the_budget_folds_and_the_sum_is_exact() {
    let mut bench = Bench::new(2, 1000);
    for subject in 0..10 {
        bench.names.set(subject, named(["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"][subject as usize]));
    }
    let families = bench.gather(|s| (0..10).for_each(|subject| calls(s, subject, 1 + subject)));
    assert_eq!(values(&families, "calls").iter().sum::<u64>(), 55);
    let points = numbers(&families, "calls");
    assert_eq!(points.len(), 3);
    let overflow = points.iter().find(|p| p.series.entity.get("otel.metric.overflow").is_some()).unwrap();
    assert_eq!(overflow.value, Value::U64(52));
    assert_eq!(bench.store.sizes().next().unwrap(), ("calls", 2, 8));
    assert_eq!(bench.store.sizes().next().unwrap(), ("calls", 2, 0));
}

#[test]
fn what_the_kernel_could_not_tell_apart_stays_one_series() {
    let mut bench = Bench::new(100, 100);
    bench.names.0.lock().unwrap().1.insert(Subject::Overflow, named("overflow"));
    for (round, expected) in [(1_u64, 5), (2, 10), (3, 15)] {
        let families = bench.gather(|s| s.record(&CALLS, Subject::Overflow, [""].map(Text::from), round * 5));
        assert_eq!(values(&families, "calls"), [expected]);
        // Something else got a name: answers given before may have changed.
        bench.names.set(round, named("another"));
    }
}

#[test]
fn gauges_add_up_within_a_gather_and_vanish_with_their_readings() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    bench.names.set(2, named("a"));
    for _ in 0..2 {
        let families = bench.gather(|s| {
            s.record(&OPEN, Subject::Cgroup(1), [], 3);
            s.record(&OPEN, Subject::Cgroup(2), [], 4);
        });
        assert_eq!(values(&families, "open"), [7]);
    }
    assert_eq!(values(&bench.gather(|s| s.record(&OPEN, Subject::Cgroup(2), [], 4)), "open"), [4]);
    assert!(bench.gather(|_| {}).is_empty());
}

#[test]
fn histograms_are_wrapping_differences() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    let record = |s: &mut Scrape, sum, counts: &[u32]| {
        let distribution = Distribution { sum, unit: 1.0, zero: 1, scale: 0, first: 3, counts, weight: 1 };
        s.record_histogram(&TIME, Subject::Cgroup(1), [], distribution);
    };
    bench.gather(|s| record(s, 100, &[u32::MAX, 2]));
    let families = bench.gather(|s| record(s, 130, &[4, 3]));
    let Points::Histogram { points, counts } = &families[0].points else { panic!("no histogram") };
    assert_eq!(counts, &[u64::from(u32::MAX) + 5, 3]);
    assert_eq!((points[0].sum as u64, points[0].zero, points[0].first), (130, 1, 3));
    assert_eq!(points[0].count, u64::from(u32::MAX) + 5 + 3 + 1);
}

#[test]
fn a_sample_counts_as_often_as_it_stands_for() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    let record = |s: &mut Scrape, sum, zero, counts: &[u32]| {
        let distribution = Distribution { sum, unit: 1.0, zero, scale: 0, first: 3, counts, weight: 16 };
        s.record_histogram(&TIME, Subject::Cgroup(1), [], distribution);
    };
    bench.gather(|s| record(s, 100, 0, &[u32::MAX - 1, 2]));
    let families = bench.gather(|s| record(s, 130, 1, &[u32::MAX, 3]));
    let Points::Histogram { points, counts } = &families[0].points else { panic!("no histogram") };
    assert_eq!(counts, &[u64::from(u32::MAX) * 16, 48]);
    assert_eq!((points[0].sum as u64, points[0].zero), (130 * 16, 16));
}

#[test]
fn a_collector_that_is_made_anew_counts_on() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    bench.gather(|s| calls(s, 1, 10));
    bench.store.forget(0, 100);
    assert_eq!(values(&bench.gather(|s| calls(s, 1, 12)), "calls"), [22]);
}

#[test]
fn excluded_subjects_have_no_series() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, Answer::Excluded);
    assert!(bench.gather(|s| calls(s, 1, 10)).is_empty());
    bench.names.set(1, named("a"));
    assert_eq!(values(&bench.gather(|s| calls(s, 1, 12)), "calls"), [2]);
}

#[test]
fn subjects_that_are_gone_are_forgotten() {
    let mut bench = Bench::new(10_000, 0);
    for subject in 0..2000 {
        bench.names.set(subject, named("a"));
        bench.gather(|s| s.close(&CALLS, Subject::Cgroup(subject), ["read".into()], 1));
    }
    assert!(bench.store.cells.len() < 10, "{} cells", bench.store.cells.len());
}

#[test]
fn of_two_rounds_in_one_gather_the_later_gauge_counts() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    let moment = Moment { number: 1, now: 100, before: 0, steady: 100 };
    bench.store.begin(moment, &bench.names);
    for (superseded, calls_now, open_now) in [(true, 10, 3), (false, 12, 4)] {
        let mut scrape = Scrape::default();
        calls(&mut scrape, 1, calls_now);
        scrape.record(&OPEN, Subject::Cgroup(1), [], open_now);
        bench.store.merge(Origin { superseded, ..ORIGIN }, &scrape, moment, &bench.names).unwrap();
    }
    let families = bench.store.finish(moment, u64::MAX);
    assert_eq!((values(&families, "calls"), values(&families, "open")), (vec![12], vec![4]));
}

#[test]
fn collectors_that_share_a_metric_add_up() {
    let mut bench = Bench::new(100, 1000);
    bench.names.set(1, named("a"));
    for (number, first, second) in [(1, 10, 100), (2, 11, 102)] {
        let moment = Moment { number, now: number * 100, before: 0, steady: number * 100 };
        bench.store.begin(moment, &bench.names);
        for (collector, value) in [(0, first), (1, second)] {
            let mut scrape = Scrape::default();
            calls(&mut scrape, 1, value);
            bench.store.merge(Origin { collector, ..ORIGIN }, &scrape, moment, &bench.names).unwrap();
        }
        assert_eq!(values(&bench.store.finish(moment, u64::MAX), "calls"), [first + second]);
    }
}
