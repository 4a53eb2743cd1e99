//! What the SDK counted is what the snapshot shows, under series that keep their identity.

use model::{Kind, NumberPoint, Points, Scope, Value};

use super::*;

struct Bench {
    own: Own,
    meter: Meter,
    number: u64,
}

impl Bench {
    fn new() -> Self {
        let mut own = Own::new();
        own.describe("9.9", "https://example.org/schema");
        let meter = own.provider().meter("plug_in");
        Self { own, meter, number: 0 }
    }

    fn gather(&mut self) -> Vec<Family> {
        self.number += 1;
        let now = self.number * 100;
        let moment = Moment { number: self.number, now, before: now - 100, steady: now };
        self.own.collect(moment)
    }
}

fn family<'a>(families: &'a [Family], name: &str) -> &'a Family {
    families.iter().find(|family| family.metric.name == name).unwrap()
}

fn point(families: &[Family], name: &str) -> NumberPoint {
    match &family(families, name).points {
        Points::Numbers(points) => points[0].clone(),
        Points::Histogram { .. } => panic!("{name} is a histogram"),
    }
}

#[test]
fn numbers_keep_their_kind_value_and_series() {
    let mut bench = Bench::new();
    let counter = bench.meter.u64_counter("sent").with_unit("By").with_description("Bytes sent.").build();
    let gauge = bench.meter.f64_gauge("load").build();
    let up_down = bench.meter.i64_up_down_counter("open").build();
    let here = [KeyValue::new("where", "here")];
    counter.add(u64::MAX >> 1, &here);
    gauge.record(0.5, &[]);
    up_down.add(3, &[]);
    let first = bench.gather();
    counter.add(2, &here);
    gauge.record(0.25, &[]);
    up_down.add(-5, &[]);
    let second = bench.gather();
    let values = |families: &[Family]| ["sent", "load", "open"].map(|name| point(families, name).value);
    assert_eq!(values(&first), [Value::U64(u64::MAX >> 1), Value::F64(0.5), Value::F64(3.0)]);
    assert_eq!(values(&second), [Value::U64((u64::MAX >> 1) + 2), Value::F64(0.25), Value::F64(-2.0)]);
    for name in ["sent", "load", "open"] {
        assert!(Arc::ptr_eq(&point(&first, name).series, &point(&second, name).series), "{name}");
    }
    let sent = family(&first, "sent");
    assert_eq!((sent.metric.kind, &*sent.metric.unit, &*sent.metric.help), (Kind::Counter, "By", "Bytes sent."));
    assert_eq!(family(&first, "load").metric.kind, Kind::Gauge);
    assert_eq!(family(&first, "open").metric.kind, Kind::Gauge, "what may fall is no counter");
    assert_eq!(point(&first, "sent").series.dimensions.get("where"), Some("here"));
}

#[test]
fn histograms_are_exponential() {
    let mut bench = Bench::new();
    let histogram = bench.meter.f64_histogram("took_seconds").build();
    for value in [0.0, 1.0, 1.5, 4.0] {
        histogram.record(value, &[]);
    }
    let families = bench.gather();
    let Points::Histogram { points, counts } = &family(&families, "took_seconds").points else {
        panic!("no histogram")
    };
    let point = &points[0];
    assert_eq!((point.sum, point.count, point.zero), (6.5, 4, 1));
    for (value, at_most) in [(1.0, 1), (1.5, 2), (4.0, 3)] {
        let buckets = point.buckets(counts);
        let bound = |at: usize| model::histogram::upper_bound(buckets.first + at as i32, point.scale);
        let up_to: u64 =
            (0..buckets.counts.len()).filter(|&at| bound(at) < value * 1.2).map(|at| buckets.counts[at]).sum();
        assert_eq!(up_to, at_most, "values up to {value}");
    }
}

#[test]
fn a_plug_in_has_its_own_scope_and_series_start_where_they_were_absent() {
    let mut bench = Bench::new();
    bench.gather();
    bench.number = u64::from(u32::MAX);
    bench.meter.u64_counter("late").build().add(1, &[]);
    let families = bench.gather();
    let late = family(&families, "late");
    assert_eq!(
        *late.scope,
        Scope { name: "plug_in".into(), version: "9.9".into(), schema_url: "https://example.org/schema".into() }
    );
    assert!(point(&families, "late").series.start >= (bench.number - 1) * 100);
    assert_eq!(family(&families, "process_open_fds").scope.name, SCOPE);
}

#[test]
fn two_series_of_one_instrument_have_two_identities() {
    let mut bench = Bench::new();
    let counter = bench.meter.u64_counter("sent").build();
    counter.add(1, &[KeyValue::new("a", "1"), KeyValue::new("b", "2")]);
    counter.add(2, &[KeyValue::new("a", "2"), KeyValue::new("b", "1")]);
    counter.add(4, &[KeyValue::new("b", "2"), KeyValue::new("a", "1")]);
    let families = bench.gather();
    let Points::Numbers(points) = &family(&families, "sent").points else { panic!("a histogram") };
    let mut all: Vec<_> = points.iter().map(|p| (p.series.dimensions.get("a"), p.value.as_f64())).collect();
    all.sort_by_key(|(a, _)| *a);
    assert_eq!(all, [(Some("1"), 5.0), (Some("2"), 2.0)]);
    assert_ne!(points[0].series.id, points[1].series.id);
}

#[test]
fn the_instruments_of_the_manager_are_those_of_the_contract() {
    let mut bench = Bench::new();
    let own = bench.own.provider().meter(SCOPE);
    let i = Instruments::new(&own);
    let name = [collector("a")];
    for gauge in [&i.load_status, &i.collector_state, &i.series, &i.batch_size] {
        gauge.record(1, &name);
    }
    for counter in [&i.load_attempts, &i.bpf_errors, &i.collector_errors, &i.series_folded] {
        counter.add(1, &name);
    }
    i.load_duration.record(1.0, &name);
    i.collection_duration.record(1.0, &name);
    let families = bench.gather();
    let mut found: Vec<_> = families
        .iter()
        .map(|family| format!("{} {:?}", model::name::prometheus(&family.metric), family.metric.kind))
        .collect();
    found.sort_unstable();
    let contract = [
        "process_cpu_seconds_total Counter",
        "process_open_fds Gauge",
        "process_resident_memory_bytes Gauge",
        "process_start_time_seconds Gauge",
        "telesonde_batch_size Gauge",
        "telesonde_bpf_errors_total Counter",
        "telesonde_bpf_load_attempts_total Counter",
        "telesonde_bpf_load_duration_seconds Gauge",
        "telesonde_bpf_load_status Gauge",
        "telesonde_collection_duration_seconds Histogram",
        "telesonde_collector_errors_total Counter",
        "telesonde_collector_state Gauge",
        "telesonde_series Gauge",
        "telesonde_series_folded_total Counter",
    ];
    assert_eq!(found, contract);
}
