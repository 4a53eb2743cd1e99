//! What an endpoint measures of itself.

use std::time::Duration;

use model::Metric;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

/// Requests by how they ended.
pub static REQUESTS: Metric = Metric::counter(
    "telesonde_export_requests",
    "{request}",
    "Export requests by outcome: success, partial_success, retryable_error or permanent_error.",
    &["exporter", "outcome"],
);

/// Accepted points.
pub static POINTS: Metric =
    Metric::counter("telesonde_export_points", "{point}", "Data points that receivers accepted.", &["exporter"]);

/// Points that receivers refused.
pub static REJECTED_POINTS: Metric = Metric::counter(
    "telesonde_export_rejected_points",
    "{point}",
    "Data points that receivers refused, by partial success or with their whole request.",
    &["exporter"],
);

/// Bytes sent.
pub static BYTES: Metric = Metric::counter(
    "telesonde_export_bytes",
    "By",
    "Bytes of request bodies sent, after compression, repeated attempts included.",
    &["exporter"],
);

/// Time per request.
pub static DURATION: Metric = Metric::histogram(
    "telesonde_export_duration_seconds",
    "s",
    "Time of one export request, connecting included.",
    &["exporter"],
    model::metric::SECOND_BOUNDS,
);

/// All of the above.
pub static METRICS: [&Metric; 5] = [&REQUESTS, &POINTS, &REJECTED_POINTS, &BYTES, &DURATION];

/// The instruments of one endpoint.
pub(super) struct Instruments {
    exporter: KeyValue,
    requests: Counter<u64>,
    points: Counter<u64>,
    rejected: Counter<u64>,
    bytes: Counter<u64>,
    duration: Histogram<f64>,
}

impl Instruments {
    pub fn new(meter: &Meter, exporter: &str) -> Self {
        let counter = |metric: &'static Metric| {
            meter.u64_counter(&*metric.name).with_unit(&*metric.unit).with_description(&*metric.help).build()
        };
        let (name, unit, help) = (&*DURATION.name, &*DURATION.unit, &*DURATION.help);
        Self {
            exporter: KeyValue::new("exporter", exporter.to_owned()),
            requests: counter(&REQUESTS),
            points: counter(&POINTS),
            rejected: counter(&REJECTED_POINTS),
            bytes: counter(&BYTES),
            duration: meter.f64_histogram(name).with_unit(unit).with_description(help).build(),
        }
    }

    /// Counts an attempt, however it ended.
    pub fn request(&self, outcome: &'static str, bytes: usize, took: Duration) {
        let exporter = std::slice::from_ref(&self.exporter);
        self.requests.add(1, &[self.exporter.clone(), KeyValue::new("outcome", outcome)]);
        self.bytes.add(bytes as u64, exporter);
        self.duration.record(took.as_secs_f64(), exporter);
    }

    /// Counts the points of a request that was accepted or given up for good.
    pub fn points(&self, accepted: u64, rejected: u64) {
        let exporter = std::slice::from_ref(&self.exporter);
        if accepted > 0 {
            self.points.add(accepted, exporter);
        }
        if rejected > 0 {
            self.rejected.add(rejected, exporter);
        }
    }
}
