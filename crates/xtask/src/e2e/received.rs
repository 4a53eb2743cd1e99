//! What the Collector wrote: OTLP metrics as JSON lines, turned into points under the names and labels of a scrape.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::exposition::Labels;

/// One data point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Metric name as OTLP carries it.
    pub metric: String,
    /// Attributes, their keys as Prometheus labels.
    pub labels: Labels,
    /// When the snapshot was taken, in nanoseconds since 1970.
    pub time: u64,
    /// Since when the value counts, in nanoseconds since 1970; 0 for a gauge.
    pub start: u64,
    /// The measured value.
    pub value: Measured,
}

/// The value of a point by its kind.
#[derive(Clone, Debug)]
pub enum Measured {
    /// A monotonic sum, and whether it is a delta.
    Counter(f64, bool),
    /// Any other number.
    Gauge(f64),
    /// Any histogram: count, sum, upper bounds with their own (not cumulative) counts.
    Histogram(f64, f64, Vec<(f64, f64)>),
}

/// Everything one endpoint received.
#[derive(Default)]
pub struct Received {
    /// All points in the order of arrival.
    pub points: Vec<Point>,
    /// Resource attributes of the last request, their keys as Prometheus labels.
    pub resource: Labels,
}

impl Received {
    /// Reads the file of one endpoint; a last line still being written is left out.
    ///
    /// # Errors
    /// Fails when a complete line is not OTLP JSON.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_where(path, |_| true)
    }

    /// Does the same with those lines only that satisfy a condition as text.
    ///
    /// # Errors
    /// Fails when such a line is complete and not OTLP JSON.
    pub fn read_where(path: &Path, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut received = Self::default();
        for line in complete.lines().filter(|line| wanted(line)) {
            let request: Value =
                serde_json::from_str(line).with_context(|| format!("{} is damaged", path.display()))?;
            for resource in array(&request["resourceMetrics"]) {
                received.resource = labels(&resource["resource"]["attributes"]);
                for metric in array(&resource["scopeMetrics"]).flat_map(|scope| array(&scope["metrics"])) {
                    received.metric(metric);
                }
            }
        }
        Ok(received)
    }

    fn metric(&mut self, metric: &Value) {
        for (kind, body) in metric.as_object().into_iter().flatten() {
            let delta = body["aggregationTemporality"] == 1;
            for point in array(&body["dataPoints"]) {
                let value = match kind.as_str() {
                    "sum" if body["isMonotonic"] == true => Measured::Counter(scalar(point), delta),
                    "sum" | "gauge" => Measured::Gauge(scalar(point)),
                    "histogram" => Measured::Histogram(number(&point["count"]), number(&point["sum"]), explicit(point)),
                    "exponentialHistogram" => {
                        Measured::Histogram(number(&point["count"]), number(&point["sum"]), exponential(point))
                    }
                    _ => continue,
                };
                self.points.push(Point {
                    metric: metric["name"].as_str().unwrap_or_default().to_owned(),
                    labels: labels(&point["attributes"]),
                    time: nanos(&point["timeUnixNano"]),
                    start: nanos(&point["startTimeUnixNano"]),
                    value,
                });
            }
        }
    }

    /// Returns the points of each snapshot.
    pub fn by_time(&self) -> BTreeMap<u64, Vec<&Point>> {
        let mut times = BTreeMap::<u64, Vec<&Point>>::new();
        for point in &self.points {
            times.entry(point.time).or_default().push(point);
        }
        times
    }

    /// Returns the points of the getppid counter of one workload, in the order of arrival.
    pub fn getppid(&self, workload: &str) -> Vec<&Point> {
        let of = |point: &&Point| {
            point.metric == "ebpf_syscall_count"
                && point.labels.get("syscall").is_some_and(|name| name == "getppid")
                && point.labels.values().any(|value| value.contains(workload))
        };
        self.points.iter().filter(of).collect()
    }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Reads a number that JSON may carry as a string, because it is 64 bits wide.
fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0.0)
}

fn nanos(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn scalar(point: &Value) -> f64 {
    number(point.get("asInt").unwrap_or(&point["asDouble"]))
}

fn explicit(point: &Value) -> Vec<(f64, f64)> {
    let bounds = array(&point["explicitBounds"]).map(number).chain([f64::INFINITY]);
    bounds.zip(array(&point["bucketCounts"]).map(number)).collect()
}

fn exponential(point: &Value) -> Vec<(f64, f64)> {
    let scale = point["scale"].as_i64().unwrap_or(0) as i32;
    let offset = point["positive"]["offset"].as_i64().unwrap_or(0) as i32;
    let zero = (0.0, number(&point["zeroCount"]));
    let buckets = (offset + 1..).zip(array(&point["positive"]["bucketCounts"]));
    let upper = |index: i32| (f64::from(index) * 2f64.powi(-scale)).exp2();
    std::iter::once(zero).chain(buckets.map(|(index, count)| (upper(index), number(count)))).collect()
}

fn labels(attributes: &Value) -> Labels {
    array(attributes)
        .map(|attribute| {
            let key = attribute["key"].as_str().unwrap_or_default();
            let key = key.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_");
            let value = attribute["value"].as_object().and_then(|value| value.values().next());
            let text =
                value.map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            (key, text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exponential_point_becomes_bounds_and_counts() {
        let point =
            serde_json::json!({"scale": 0, "zeroCount": "2", "positive": {"offset": 3, "bucketCounts": ["1", "4"]}});
        assert_eq!(exponential(&point), [(0.0, 2.0), (16.0, 1.0), (32.0, 4.0)]);
    }

    #[test]
    fn attributes_become_labels() {
        let attributes = serde_json::json!([
            {"key": "error.type", "value": {"stringValue": "ENOENT"}}, {"key": "n", "value": {"intValue": "3"}}
        ]);
        let expected = [("error_type", "ENOENT"), ("n", "3")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(labels(&attributes), Labels::from(expected));
    }
}
