//! The same snapshot by two ways: what an endpoint received at a time, and the scrape that names this time in its head.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::compare::compare;
use super::exposition::{self, Exposition};
use super::http;
use super::peers::{self, Peers};
use super::received::Received;

/// The text formats and how to ask for them.
pub const FORMATS: [(&str, &str); 2] =
    [("text 0.0.4", "text/plain;version=0.0.4"), ("OpenMetrics", "application/openmetrics-text;version=1.0.0")];

/// Names the snapshot that a scrape shows.
const TIME: &str = "telesonde-snapshot-time";

/// Finds a snapshot that was scraped and reached the endpoint, and compares all its values.
///
/// # Errors
/// Fails with the differences, or when no snapshot took both ways within 20 s.
pub fn equal(peers: &Peers, endpoint: &str, accept: &str) -> Result<String> {
    let started = Instant::now();
    let mut scrapes: Vec<(u64, Exposition)> = Vec::new();
    while started.elapsed() < Duration::from_secs(20) {
        let response = http::get(peers.scrape, "/metrics", accept)?;
        let time = response.headers.get(TIME).with_context(|| format!("the scrape has no header {TIME}"))?;
        let time: u64 = time.parse().with_context(|| format!("{TIME} is `{time}`"))?;
        if scrapes.last().is_none_or(|(last, _)| *last != time) {
            scrapes.push((time, exposition::parse(&response.body)?));
        }
        sleep(Duration::from_millis(150));
        let received = Received::read(&peers.received(endpoint))?;
        let by_time = received.by_time();
        // The newest snapshot may have arrived in part: one is complete once a later one is there.
        let complete = by_time.keys().next_back().copied().unwrap_or(0);
        let shared = scrapes.iter().find(|(time, _)| *time < complete && by_time.contains_key(time));
        if let Some((time, scrape)) = shared {
            let points = &by_time[time];
            return match compare(points, scrape) {
                Ok(samples) => Ok(format!("{samples} samples of {} points are equal", points.len())),
                Err(differences) => {
                    let shown = differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n  ");
                    bail!("{} differences, among them\n  {shown}", differences.len())
                }
            };
        }
    }
    let received = Received::read(&peers.received(endpoint))?;
    bail!("none of {} scraped snapshots is among the {} that arrived", scrapes.len(), received.by_time().len())
}

/// Compares the pushed resource with `target_info`.
///
/// # Errors
/// Fails when they differ.
pub fn resource(peers: &Peers) -> Result<String> {
    let scrape = exposition::parse(&http::get(peers.scrape, "/metrics", FORMATS[1].1)?.body)?;
    let (_, info) =
        scrape.samples.keys().find(|(name, _)| name == "target_info").context("no target_info is scraped")?;
    for endpoint in peers::cumulative() {
        let resource = Received::read(&peers.received(endpoint))?.resource;
        if resource != *info {
            bail!("{endpoint} received the resource {resource:?} and target_info has {info:?}");
        }
    }
    Ok(format!("{} attributes", info.len()))
}

/// The endpoints with gzip and zstd send well under half of the bytes per point that the uncompressed one does.
///
/// # Errors
/// Fails when one does not.
pub fn compressed(peers: &Peers) -> Result<String> {
    let scrape = exposition::parse(&http::get(peers.scrape, "/metrics", FORMATS[0].1)?.body)?;
    let sum = |name: &str, endpoint: &str| -> f64 {
        let of = |(key, labels): &&(String, exposition::Labels)| {
            key == name && labels.get("exporter").is_some_and(|exporter| exporter.ends_with(endpoint))
        };
        scrape.samples.keys().filter(of).map(|key| scrape.samples[key]).sum()
    };
    let per_point = |endpoint: &str| {
        let (bytes, points) =
            (sum("telesonde_export_bytes_total", endpoint), sum("telesonde_export_points_total", endpoint));
        if points > 0.0 { Ok(bytes / points) } else { bail!("no points were counted for {endpoint}") }
    };
    let (plain, gzip, zstd) = (per_point("grpc")?, per_point("http")?, per_point("zstd")?);
    if gzip * 2.0 > plain || zstd * 2.0 > plain {
        bail!("bytes per point: {plain:.1} plain, {gzip:.1} gzip, {zstd:.1} zstd");
    }
    Ok(format!("bytes per point: {plain:.1} plain, {gzip:.1} with gzip, {zstd:.1} with zstd"))
}
