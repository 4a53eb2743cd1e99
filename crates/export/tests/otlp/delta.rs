//! Delta temporality: what the receiver adds up is what was counted, whatever fails in between.

use std::collections::BTreeMap;
use std::time::Duration;

use export::otlp::{Options, Temporality};
use model::Kind;
use tonic::Status;

use crate::collector::{Collector, Reply, Running};
use crate::data::Clock;
use crate::flat::{Data, Flat, expected};

/// One series as a receiver of differences sees it: sums, buckets by index, and the end of its last span.
#[derive(Default, Debug, PartialEq)]
struct Total {
    int: i128,
    double: f64,
    count: u64,
    zero: u64,
    buckets: BTreeMap<i32, u64>,
    until: u64,
}

fn add(total: &mut Total, data: &Data) {
    match data {
        Data::Int(value) => total.int += i128::from(*value),
        Data::Double(value) => total.double += value,
        Data::Exponential { count, sum, zero, offset, buckets, .. } => {
            total.double += sum;
            total.count += count;
            total.zero += zero;
            for (index, count) in (*offset..).zip(buckets).filter(|(_, count)| **count > 0) {
                *total.buckets.entry(index).or_default() += count;
            }
        }
        Data::Explicit { .. } => panic!("explicit"),
    }
}

/// Adds differences up, checking that the spans of each series do not overlap.
/// Between two of them lie only spans in which the series stood still.
fn totals(points: &[Flat]) -> BTreeMap<String, Total> {
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    for point in points {
        let total = totals.entry(point.identity()).or_default();
        if point.kind.0 == 0 {
            // A gauge: only its last value counts.
            *total = Total::default();
        } else {
            assert_eq!(point.kind.0, 1, "delta");
            assert!(total.until <= point.span.0 && point.span.0 < point.span.1, "{point:?} after {total:?}");
            total.until = point.span.1;
        }
        add(total, &point.data);
    }
    for total in totals.values_mut() {
        total.until = 0;
    }
    totals
}

fn counted(clock: &Clock) -> BTreeMap<String, Total> {
    let last = clock.world.snapshot(*clock.acknowledged().last().unwrap());
    let mut totals: BTreeMap<String, Total> = BTreeMap::new();
    for point in expected(&last, false, false) {
        add(totals.entry(point.identity()).or_default(), &point.data);
    }
    assert!(last.families.iter().any(|family| family.metric.kind == Kind::Gauge));
    totals
}

/// The world's one counter beyond `i64::MAX` is a double as long as it is sent whole, and an integer afterwards.
fn same(found: &BTreeMap<String, Total>, wanted: &BTreeMap<String, Total>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (series, wanted) in wanted {
        let found = &found[series];
        if wanted.double > 1e18 {
            assert!((found.double + found.int as f64) / wanted.double > 0.999_999, "{series}");
        } else {
            assert_eq!(found, wanted, "{series}");
        }
    }
}

fn delta(collector: &Collector) -> Options {
    Options { temporality: Temporality::Delta, ..collector.options() }
}

#[tokio::test]
async fn differences_add_up() {
    let collector = Collector::start().await;
    let clock = Clock::new(4);
    let mut running = Running::start(delta(&collector), &clock, Duration::from_secs(20));
    running.exports(&clock, 5).await;
    running.stop().await;
    same(&totals(&collector.log.accepted()), &counted(&clock));
}

#[tokio::test]
async fn unchanged_series_are_not_sent() {
    let collector = Collector::start().await;
    let clock = Clock::new(4);
    let mut running = Running::start(delta(&collector), &clock, Duration::from_secs(20));
    running.exports(&clock, 3).await;
    running.stop().await;
    let sent = collector.log.accepted().len();
    let snapshots = clock.acknowledged().len();
    let all = expected(&clock.world.snapshot(1), false, false).len();
    assert!(sent < all * snapshots, "{sent} points of {snapshots} snapshots");
}

#[tokio::test]
async fn differences_add_up_through_an_outage() {
    let collector = Collector::start().await;
    let clock = Clock::new(4);
    let settings = delta(&collector);
    let mut running = Running::start(settings.clone(), &clock, Duration::from_secs(20));
    running.exports(&clock, 2).await;
    let (address, log) = collector.stop();
    running.failures(10).await;
    let missed = clock.taken();
    let collector = Collector::start_at(address, log, None).await;
    running.exports(&clock, 2).await;
    running.stop().await;
    assert!(clock.acknowledged().last().unwrap() > &missed);
    same(&totals(&collector.log.accepted()), &counted(&clock));
}

#[tokio::test]
async fn differences_add_up_when_some_requests_of_a_snapshot_fail() {
    let collector = Collector::start().await;
    let no = || Reply::Refuse(Status::unavailable("busy"));
    let never = || Reply::Refuse(Status::invalid_argument("no"));
    // Refusals in the midst of snapshots, some for good, some until the next snapshot.
    for round in 0..12 {
        collector.log.will(std::iter::repeat_n(Reply::Accept, round % 5));
        collector.log.will(std::iter::repeat_with(if round % 3 == 0 { never } else { no }).take(1 + round % 7));
    }
    let clock = Clock::new(6);
    let settings = Options { request_limit: 900, ..delta(&collector) };
    let mut running = Running::start(settings, &clock, Duration::from_secs(20));
    running.exports(&clock, 3).await;
    running.stop().await;
    assert!(collector.log.received().iter().any(|at| !at.accepted));
    same(&totals(&collector.log.accepted()), &counted(&clock));
}

#[tokio::test]
async fn an_endpoint_that_takes_the_place_of_another_goes_on_from_what_was_acknowledged() {
    let collector = Collector::start().await;
    let clock = Clock::new(5);
    let mut running = Running::start(delta(&collector), &clock, Duration::from_secs(20));
    running.exports(&clock, 2).await;
    let remains = running.stop().await;
    let otherwise = Options { interval: Duration::from_millis(20), ..delta(&collector) };
    let mut running = Running::after(remains, otherwise, &clock, Duration::from_secs(20));
    running.exports(&clock, 2).await;
    running.stop().await;
    same(&totals(&collector.log.accepted()), &counted(&clock));
}
