//! The agent's own telemetry and plug-ins' instruments: an OpenTelemetry meter provider whose values are folded into
//! every snapshot, as one more producer.

mod fold;
pub mod metrics;
mod process;

use std::sync::{Arc, Weak};
use std::time::Duration;

use model::{Family, Metric};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{
    Aggregation, Instrument, InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Stream, Temporality,
};

use crate::series::Moment;
use fold::Fold;
pub use metrics::METRICS;

/// What full kernel maps could not hold; any collector with maps records it for [`model::Subject::Node`].
pub static MAP_OVERFLOW: Metric = Metric::counter(
    "telesonde_bpf_map_overflow",
    "{event}",
    "Events that found a kernel map full and were added to the metric's overflow series.",
    &["map"],
);

/// Events that were lost between the kernel and the agent.
pub static EVENTS_LOST: Metric = Metric::counter(
    "telesonde_events_lost",
    "{event}",
    "Events that were lost before anyone could read them.",
    &["collector", "reason"],
);

/// How a histogram was sampled, where it was; any collector that samples records it for [`model::Subject::Node`].
pub static SAMPLE_INTERVAL: Metric = Metric::gauge(
    "telesonde_sample_interval",
    "{operation}",
    "The average number of operations of which one is measured, where not all are; the metric's values are scaled by it.",
    &["metric"],
);

/// The metrics that collectors share.
pub static SHARED: &[&Metric] = &[&MAP_OVERFLOW, &EVENTS_LOST, &crate::bus::EVENTS_EMITTED, &SAMPLE_INTERVAL];

/// The scope of the agent's own telemetry.
pub const SCOPE: &str = "telesonde";

#[derive(Clone, Debug)]
struct Reader(Arc<ManualReader>);

impl MetricReader for Reader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

/// The meter provider and what turns its values into families.
pub struct Own {
    provider: SdkMeterProvider,
    reader: Reader,
    data: ResourceMetrics,
    fold: Fold,
}

impl Own {
    /// Makes a provider whose histograms are exponential, four buckets a doubling at most.
    pub fn new() -> Self {
        let reader = Reader(Arc::new(ManualReader::builder().with_temporality(Temporality::Cumulative).build()));
        let exponential = |instrument: &Instrument| {
            let aggregation =
                Aggregation::Base2ExponentialHistogram { max_size: 160, max_scale: 2, record_min_max: false };
            let histogram = instrument.kind() == InstrumentKind::Histogram;
            histogram.then(|| Stream::builder().with_aggregation(aggregation).build().ok()).flatten()
        };
        let provider = SdkMeterProvider::builder().with_reader(reader.clone()).with_view(exponential).build();
        process::observe(&provider.meter(SCOPE));
        Self { provider, reader, data: ResourceMetrics::default(), fold: Fold::default() }
    }

    /// Gives the provider: for the agent's own instruments and for plug-ins.
    pub fn provider(&self) -> SdkMeterProvider {
        self.provider.clone()
    }

    /// Sets the version and the schema URL of scopes that do not say their own.
    pub(crate) fn describe(&mut self, version: &str, schema_url: &str) {
        self.fold.describe(version, schema_url);
    }

    /// Gives the present values of all instruments.
    pub(crate) fn collect(&mut self, moment: Moment) -> Vec<Family> {
        if let Err(error) = self.reader.collect(&mut self.data) {
            tracing::warn!("the agent's own metrics: {error}");
            return Vec::new();
        }
        let mut families = self.fold.families(&self.data, moment);
        // The agent's own scope comes first: it goes on where the collectors' shared metrics ended.
        families.sort_by(|a, b| (a.scope.name != SCOPE, &a.scope.name).cmp(&(b.scope.name != SCOPE, &b.scope.name)));
        families
    }
}

impl Default for Own {
    fn default() -> Self {
        Self::new()
    }
}

/// The instruments of the integration manager.
pub(crate) struct Instruments {
    pub load_status: Gauge<u64>,
    pub load_attempts: Counter<u64>,
    pub load_duration: Gauge<f64>,
    pub bpf_errors: Counter<u64>,
    pub collection_duration: Histogram<f64>,
    pub collector_errors: Counter<u64>,
    pub collector_state: Gauge<u64>,
    pub collector_cpu: Counter<f64>,
    pub collector_step: Gauge<u64>,
    pub series: Gauge<u64>,
    pub series_folded: Counter<u64>,
    pub batch_size: Gauge<u64>,
    pub clock_jumps: Counter<u64>,
    pub pin_takeovers: Counter<u64>,
}

impl Instruments {
    pub fn new(meter: &Meter) -> Self {
        Self {
            load_status: metrics::gauge(meter, &metrics::LOAD_STATUS),
            load_attempts: metrics::counter(meter, &metrics::LOAD_ATTEMPTS),
            load_duration: metrics::seconds(meter, &metrics::LOAD_DURATION),
            bpf_errors: metrics::counter(meter, &metrics::BPF_ERRORS),
            collection_duration: metrics::durations(meter, &metrics::COLLECTION_DURATION),
            collector_errors: metrics::counter(meter, &metrics::COLLECTOR_ERRORS),
            collector_state: metrics::gauge(meter, &metrics::COLLECTOR_STATE),
            collector_cpu: metrics::spent(meter, &metrics::COLLECTOR_CPU),
            collector_step: metrics::gauge(meter, &metrics::COLLECTOR_STEP),
            series: metrics::gauge(meter, &metrics::SERIES),
            series_folded: metrics::counter(meter, &metrics::SERIES_FOLDED),
            batch_size: metrics::gauge(meter, &metrics::BATCH_SIZE),
            clock_jumps: metrics::counter(meter, &metrics::CLOCK_JUMPS),
            pin_takeovers: metrics::counter(meter, &metrics::PIN_TAKEOVERS),
        }
    }
}

/// Gives the attribute that names a collector.
pub(crate) fn collector(name: &'static str) -> KeyValue {
    KeyValue::new("collector", name)
}

#[cfg(test)]
mod tests;
