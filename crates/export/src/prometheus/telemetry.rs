//! What the reader measures of itself.

use std::time::Duration;

use model::Metric;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use super::block::Counts;
use crate::http::Hooks;
use crate::otlp::telemetry::{BYTES, DURATION, POINTS};

/// Scrapes by how they ended.
pub static SCRAPES: Metric = Metric::counter(
    "telesonde_scrapes",
    "{scrape}",
    "Scrapes by outcome: success, timeout, unauthorized, refused (too many connections) or error.",
    &["outcome"],
);

/// All metrics of the reader that the OTLP reader does not have too.
pub static METRICS: [&Metric; 1] = [&SCRAPES];

/// The instruments of the reader.
pub(super) struct Instruments {
    exporter: [KeyValue; 1],
    scrapes: Counter<u64>,
    points: Counter<u64>,
    bytes: Counter<u64>,
    duration: Histogram<f64>,
}

impl Instruments {
    pub(super) fn new(meter: &Meter) -> Self {
        let counter = |metric: &'static Metric| {
            meter.u64_counter(&*metric.name).with_unit(&*metric.unit).with_description(&*metric.help).build()
        };
        let (name, unit, help) = (&*DURATION.name, &*DURATION.unit, &*DURATION.help);
        Self {
            exporter: [KeyValue::new("exporter", "prometheus")],
            scrapes: counter(&SCRAPES),
            points: counter(&POINTS),
            bytes: counter(&BYTES),
            duration: meter.f64_histogram(name).with_unit(unit).with_description(help).build(),
        }
    }

    pub(super) fn scrape(&self, outcome: &'static str) {
        self.scrapes.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    pub(super) fn served(&self, counts: Counts, bytes: usize, took: Duration) {
        self.scrape("success");
        self.points.add(counts.points, &self.exporter);
        self.bytes.add(bytes as u64, &self.exporter);
        self.duration.record(took.as_secs_f64(), &self.exporter);
    }
}

impl Hooks for Instruments {
    fn refused(&self) {
        self.scrape("refused");
    }
}
