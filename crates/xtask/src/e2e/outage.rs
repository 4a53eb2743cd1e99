//! The Collector goes away under load and comes back: cumulative values arrive in full, deltas add up to them.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::child::Program;
use super::peers::{self, Peers};
use super::prometheus::eventually;
use super::received::{Measured, Point, Received};
use super::stimulus::Workload;
use super::{END, http};

const CALLS: u64 = 250_007;

/// Stops the Collector while a workload runs, starts it again, and compares what arrived with what was done.
///
/// # Errors
/// Fails when a call is lost or counted twice anywhere, or scrapes suffered.
pub fn survive(peers: &Peers, collector: &mut Program) -> Result<String> {
    let workload = Workload::start("outage", CALLS, Duration::from_secs(9))?;
    let name = workload.name.clone();
    eventually(|| match Received::read(&peers.received("delta"))?.getppid(&name).len() {
        0 => bail!("nothing of {name} arrived before the outage"),
        _ => Ok(()),
    })?;
    // SIGTERM lets it write what it has acknowledged.
    collector.end(END)?;
    let down = Instant::now();
    let mut slowest = Duration::ZERO;
    while down.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        http::get(peers.scrape, "/metrics", "text/plain")?;
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(100));
    }
    *collector = peers.start_collector()?;
    workload.finish()?;
    for endpoint in peers::cumulative() {
        eventually(|| cumulative(endpoint, &Received::read(&peers.received(endpoint))?.getppid(&name)))?;
    }
    eventually(|| delta(&Received::read(&peers.received("delta"))?.getppid(&name)))?;
    // Nothing more may come of a workload that is gone.
    sleep(Duration::from_secs(3));
    let received = Received::read(&peers.received("delta"))?;
    delta(&received.getppid(&name))?;
    gapless(&received)?;
    if slowest > Duration::from_secs(1) {
        bail!("a scrape took {} ms while the Collector was down", slowest.as_millis());
    }
    Ok(format!(
        "{CALLS} calls on 4 cumulative endpoints and as the sum of {} deltas; slowest scrape meanwhile {} ms",
        received.getppid(&name).len(),
        slowest.as_millis()
    ))
}

/// A cumulative series never falls, keeps its start, and ends at the exact count.
fn cumulative(endpoint: &str, points: &[&Point]) -> Result<()> {
    let mut last = 0.0;
    for point in points {
        let Measured::Counter(value, false) = point.value else { bail!("{endpoint}: {point:?} is no cumulative sum") };
        if value < last || point.start != points[0].start {
            bail!("{endpoint}: the series fell from {last} to {value} or changed its start");
        }
        last = value;
    }
    if last.to_bits() != (CALLS as f64).to_bits() {
        bail!("{endpoint} ends at {last} and should end at {CALLS}");
    }
    Ok(())
}

/// The deltas add up to the exact count.
fn delta(points: &[&Point]) -> Result<()> {
    let mut sum = 0.0;
    for point in points {
        let Measured::Counter(value, true) = point.value else { bail!("{point:?} is no delta") };
        sum += value;
    }
    if sum.to_bits() != (CALLS as f64).to_bits() {
        bail!("{} deltas add up to {sum} and should add up to {CALLS}", points.len());
    }
    Ok(())
}

/// Each delta of a series begins where the one before it ended, or later where nothing happened in between.
fn gapless(received: &Received) -> Result<()> {
    let mut ends = BTreeMap::new();
    for point in received.points.iter().filter(|point| matches!(point.value, Measured::Counter(_, true))) {
        let key = (point.metric.clone(), point.labels.clone());
        if let Some(end) = ends.insert(key, point.time)
            && point.start < end
        {
            bail!("{} {:?} covers {} ns twice", point.metric, point.labels, end - point.start);
        }
    }
    Ok(())
}
