//! Turns the SDK's aggregated data into families, with series that stay the same from gather to gather.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::fast::RandomState;
use model::metric::SECOND_BOUNDS;
use model::{
    Attributes, Family, HistogramPoint, Kind, Metric, MetricRef, NumberPoint, Points, Scope, Series, Text, Value,
};
use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};

use crate::series::Moment;

/// Series of instruments have ids from here on, so that they never meet those of collectors.
const FIRST_ID: u64 = 1 << 63;

#[derive(Default)]
pub(super) struct Fold {
    hasher: RandomState,
    instruments: HashMap<u64, Instrument>,
    scopes: HashMap<String, Arc<Scope>>,
    next: u64,
    version: String,
    schema_url: String,
}

struct Instrument {
    metric: Arc<Metric>,
    series: HashMap<u64, Arc<Series>>,
}

impl Fold {
    pub fn describe(&mut self, version: &str, schema_url: &str) {
        version.clone_into(&mut self.version);
        schema_url.clone_into(&mut self.schema_url);
    }

    pub fn families(&mut self, data: &ResourceMetrics, moment: Moment) -> Vec<Family> {
        let mut families = Vec::new();
        for metrics in data.scope_metrics() {
            let scope = self.scope(metrics.scope());
            for metric in metrics.metrics() {
                let header =
                    Header { scope: &scope, name: metric.name(), unit: metric.unit(), help: metric.description() };
                let family = match metric.data() {
                    AggregatedMetrics::U64(data) => self.family(&header, data, moment, Value::U64, |sum| sum as f64),
                    AggregatedMetrics::I64(data) => {
                        self.family(&header, data, moment, |v| Value::F64(v as f64), |sum| sum as f64)
                    }
                    AggregatedMetrics::F64(data) => self.family(&header, data, moment, Value::F64, |sum| sum),
                };
                families.extend(family);
            }
        }
        families
    }

    fn scope(&mut self, scope: &opentelemetry::InstrumentationScope) -> Arc<Scope> {
        if let Some(known) = self.scopes.get(scope.name()) {
            return Arc::clone(known);
        }
        let made = Arc::new(Scope {
            name: scope.name().to_owned(),
            version: scope.version().unwrap_or(&self.version).to_owned(),
            schema_url: scope.schema_url().unwrap_or(&self.schema_url).to_owned(),
        });
        self.scopes.insert(scope.name().to_owned(), Arc::clone(&made));
        made
    }

    fn family<T: Copy>(
        &mut self,
        header: &Header<'_>,
        data: &MetricData<T>,
        moment: Moment,
        value: impl Fn(T) -> Value,
        double: impl Fn(T) -> f64,
    ) -> Option<Family> {
        let kind = match data {
            MetricData::Sum(sum) if sum.is_monotonic() => Kind::Counter,
            MetricData::Sum(_) | MetricData::Gauge(_) => Kind::Gauge,
            MetricData::ExponentialHistogram(_) => Kind::Histogram,
            // A view of the provider makes every histogram exponential.
            MetricData::Histogram(_) => return None,
        };
        let (hasher, next) = (&self.hasher, &mut self.next);
        let key = hasher.hash_one((&header.scope.name, header.name));
        let instrument = self.instruments.entry(key).or_insert_with(|| header.instrument(kind));
        let mut series = |attributes: &mut dyn Iterator<Item = &KeyValue>, since: SystemTime| {
            instrument.series(hasher, next, attributes, since, moment)
        };
        let points = match data {
            MetricData::Sum(sum) => {
                let since = sum.start_time();
                let point = |p: &opentelemetry_sdk::metrics::data::SumDataPoint<T>| NumberPoint {
                    series: series(&mut p.attributes(), since),
                    value: value(p.value()),
                };
                Points::Numbers(sum.data_points().map(point).collect())
            }
            MetricData::Gauge(gauge) => {
                let since = gauge.start_time().unwrap_or(SystemTime::UNIX_EPOCH);
                let point = |p: &opentelemetry_sdk::metrics::data::GaugeDataPoint<T>| NumberPoint {
                    series: series(&mut p.attributes(), since),
                    value: value(p.value()),
                };
                Points::Numbers(gauge.data_points().map(point).collect())
            }
            MetricData::ExponentialHistogram(histogram) => {
                let since = histogram.start_time();
                let (mut points, mut counts) = (Vec::new(), Vec::new());
                for p in histogram.data_points() {
                    let at = counts.len() as u32;
                    let buckets = p.positive_bucket();
                    counts.extend(buckets.counts());
                    points.push(HistogramPoint {
                        series: series(&mut p.attributes(), since),
                        sum: double(p.sum()),
                        count: p.count() as u64,
                        zero: p.zero_count(),
                        scale: p.scale(),
                        first: buckets.offset() + 1,
                        at,
                        len: counts.len() as u32 - at,
                    });
                }
                Points::Histogram { points, counts }
            }
            MetricData::Histogram(_) => return None,
        };
        let empty = match &points {
            Points::Numbers(points) => points.is_empty(),
            Points::Histogram { points, .. } => points.is_empty(),
        };
        let metric = MetricRef::Shared(Arc::clone(&instrument.metric));
        (!empty).then(|| Family { metric, scope: Arc::clone(header.scope), of_cluster: false, points })
    }
}

struct Header<'a> {
    scope: &'a Arc<Scope>,
    name: &'a str,
    unit: &'a str,
    help: &'a str,
}

impl Header<'_> {
    fn instrument(&self, kind: Kind) -> Instrument {
        let metric = Metric {
            name: self.name.to_owned().into(),
            kind,
            unit: self.unit.to_owned().into(),
            help: self.help.to_owned().into(),
            attributes: &[],
            bounds: SECOND_BOUNDS,
        };
        Instrument { metric: Arc::new(metric), series: HashMap::new() }
    }
}

impl Instrument {
    fn series(
        &mut self,
        hasher: &RandomState,
        next: &mut u64,
        attributes: &mut dyn Iterator<Item = &KeyValue>,
        since: SystemTime,
        moment: Moment,
    ) -> Arc<Series> {
        let mut pairs: [Option<&KeyValue>; 8] = [None; 8];
        let mut key = 0_u64;
        let mut more = Vec::new();
        for (at, pair) in attributes.enumerate() {
            // Order does not matter, so the hashes of the pairs are added.
            key = key.wrapping_add(hasher.hash_one((pair.key.as_str(), pair.value.as_str())));
            match pairs.get_mut(at) {
                Some(slot) => *slot = Some(pair),
                None => more.push(pair),
            }
        }
        let make = || {
            let text = |pair: &&KeyValue| {
                (Text::from(pair.key.as_str().to_owned()), Text::from(pair.value.as_str().into_owned()))
            };
            let all = pairs.iter().flatten().chain(&more);
            let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
            *next += 1;
            Arc::new(Series {
                id: FIRST_ID + *next,
                entity: Arc::default(),
                dimensions: Arc::new(Attributes::new(all.map(text))),
                start: since.max(moment.before).min(moment.now),
                base: None,
            })
        };
        Arc::clone(self.series.entry(key).or_insert_with(make))
    }
}
