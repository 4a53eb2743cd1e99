//! A receiver that goes away and comes back: cumulative series go on as if nothing had been.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::collector::{Collector, Running};
use crate::data::Clock;
use crate::flat::expected;

#[tokio::test]
async fn cumulative_series_continue_after_an_outage() {
    let collector = Collector::start().await;
    let clock = Clock::new(3);
    let mut running = Running::start(collector.options(), &clock, Duration::from_secs(20));
    running.exports(&clock, 2).await;
    let (address, log) = collector.stop();
    running.failures(5).await;
    let collector = Collector::start_at(address, log, None).await;
    running.exports(&clock, 2).await;
    running.stop().await;
    let status = expected(&clock.world.snapshot(*clock.acknowledged().last().unwrap()), false, false);
    let points = collector.log.accepted();
    let mut last = BTreeMap::new();
    for point in &points {
        if let Some((start, time)) = last.insert(point.identity(), point.span) {
            assert_eq!(start, point.span.0, "a series keeps its start");
            assert!(time < point.span.1);
        }
    }
    assert_eq!(points[points.len() - status.len()..], status[..]);
}
