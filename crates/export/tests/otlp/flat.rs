//! What was received, point by point, and what the model says should be.

use model::{Attributes, Family, Kind, Points, Series, Snapshot, Value, histogram};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};

/// One data point with all that applies to it.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub struct Flat {
    pub resource: Vec<(String, String)>,
    pub scope: [String; 3],
    pub metric: [String; 3],
    /// Aggregation temporality, and whether the sum is monotonic.
    pub kind: (i32, bool),
    pub attributes: Vec<(String, String)>,
    pub span: (u64, u64),
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub enum Data {
    Int(i64),
    Double(f64),
    Exponential { count: u64, sum: f64, scale: i32, zero: u64, offset: i32, buckets: Vec<u64> },
    Explicit { count: u64, sum: f64, buckets: Vec<u64>, bounds: Vec<f64> },
}

impl Flat {
    /// What tells the point's series from all others.
    pub fn identity(&self) -> String {
        format!("{:?} {:?}", self.metric, self.attributes)
    }
}

fn pairs(attributes: &[KeyValue]) -> Vec<(String, String)> {
    let text = |pair: &KeyValue| match &pair.value.as_ref().unwrap().value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        other => panic!("not a string: {other:?}"),
    };
    attributes.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

/// Takes a request apart; fails on empty messages.
pub fn received(request: &ExportMetricsServiceRequest) -> Vec<Flat> {
    let mut all = Vec::new();
    assert!(!request.resource_metrics.is_empty());
    for of_resource in &request.resource_metrics {
        let resource = pairs(&of_resource.resource.as_ref().unwrap().attributes);
        assert!(!of_resource.scope_metrics.is_empty());
        for of_scope in &of_resource.scope_metrics {
            let scope = of_scope.scope.as_ref().unwrap();
            let scope = [scope.name.clone(), scope.version.clone(), of_scope.schema_url.clone()];
            assert!(!of_scope.metrics.is_empty());
            for metric in &of_scope.metrics {
                let names = [metric.name.clone(), metric.description.clone(), metric.unit.clone()];
                let before = all.len();
                let mut push = |kind, attributes: &[KeyValue], span, data| {
                    let (resource, scope) = (resource.clone(), scope.clone());
                    let attributes = pairs(attributes);
                    all.push(Flat { resource, scope, metric: names.clone(), kind, attributes, span, data });
                };
                match metric.data.as_ref().unwrap() {
                    metric::Data::Gauge(gauge) => {
                        for at in &gauge.data_points {
                            let span = (at.start_time_unix_nano, at.time_unix_nano);
                            push((0, false), &at.attributes, span, number(at.value.as_ref()));
                        }
                    }
                    metric::Data::Sum(sum) => {
                        for at in &sum.data_points {
                            let span = (at.start_time_unix_nano, at.time_unix_nano);
                            let kind = (sum.aggregation_temporality, sum.is_monotonic);
                            push(kind, &at.attributes, span, number(at.value.as_ref()));
                        }
                    }
                    metric::Data::ExponentialHistogram(histogram) => {
                        for at in &histogram.data_points {
                            let span = (at.start_time_unix_nano, at.time_unix_nano);
                            let positive = at.positive.clone().unwrap_or_default();
                            let data = Data::Exponential {
                                count: at.count,
                                sum: at.sum.unwrap(),
                                scale: at.scale,
                                zero: at.zero_count,
                                offset: positive.offset,
                                buckets: positive.bucket_counts,
                            };
                            push((histogram.aggregation_temporality, false), &at.attributes, span, data);
                        }
                    }
                    metric::Data::Histogram(histogram) => {
                        for at in &histogram.data_points {
                            let span = (at.start_time_unix_nano, at.time_unix_nano);
                            let data = Data::Explicit {
                                count: at.count,
                                sum: at.sum.unwrap(),
                                buckets: at.bucket_counts.clone(),
                                bounds: at.explicit_bounds.clone(),
                            };
                            push((histogram.aggregation_temporality, false), &at.attributes, span, data);
                        }
                    }
                    metric::Data::Summary(_) => panic!("a summary"),
                }
                assert!(all.len() > before, "empty metric {names:?}");
            }
        }
    }
    all
}

fn number(value: Option<&number_data_point::Value>) -> Data {
    match value.unwrap() {
        number_data_point::Value::AsInt(value) => Data::Int(*value),
        number_data_point::Value::AsDouble(value) => Data::Double(*value),
    }
}

/// Gives the points that a snapshot's cumulative export must have, in the snapshot's order.
pub fn expected(snapshot: &Snapshot, explicit: bool, by_entity: bool) -> Vec<Flat> {
    let mut all = Vec::new();
    for family in &snapshot.families {
        match &family.points {
            Points::Numbers(points) => {
                for point in points {
                    let data = match point.value {
                        Value::U64(value) => i64::try_from(value).map_or(Data::Double(value as f64), Data::Int),
                        Value::F64(value) => Data::Double(value),
                    };
                    all.push(flat(snapshot, family, &point.series, data, by_entity));
                }
            }
            Points::Histogram { points, counts } => {
                for point in points {
                    let (count, sum) = (point.count, point.sum);
                    let buckets = point.buckets(counts);
                    let data = if explicit {
                        let bounds: Vec<f64> = family.metric.bounds.iter().map(|e| f64::from(*e).exp2()).collect();
                        let mut merged = vec![0; bounds.len() + 1];
                        merged[0] = point.zero;
                        for (slot, count) in (buckets.first..).zip(buckets.counts) {
                            let upper = histogram::upper_bound(slot, point.scale);
                            let at = bounds.iter().position(|bound| upper <= bound * (1.0 + 1e-9));
                            merged[at.unwrap_or(bounds.len())] += count;
                        }
                        Data::Explicit { count, sum, buckets: merged, bounds }
                    } else {
                        Data::Exponential {
                            count,
                            sum,
                            scale: point.scale.into(),
                            zero: point.zero,
                            offset: if buckets.counts.is_empty() { 0 } else { buckets.first - 1 },
                            buckets: buckets.counts.to_vec(),
                        }
                    };
                    all.push(flat(snapshot, family, &point.series, data, by_entity));
                }
            }
        }
    }
    all
}

fn flat(snapshot: &Snapshot, family: &Family, series: &Series, data: Data, by_entity: bool) -> Flat {
    let text = |set: &Attributes| -> Vec<(String, String)> {
        set.pairs().iter().map(|pair| (pair.key.to_string(), pair.value.to_string())).collect()
    };
    let (mut resource, mut attributes) = (text(&snapshot.resource), text(&series.entity));
    if by_entity {
        resource.retain(|(key, _)| series.entity.get(key).is_none());
        resource.append(&mut attributes);
    }
    attributes.extend(text(&series.dimensions));
    let metric = &family.metric;
    let kind = match metric.kind {
        Kind::Counter => (2, true),
        Kind::Gauge => (0, false),
        Kind::Histogram => (2, false),
    };
    Flat {
        resource,
        scope: [family.scope.name.clone(), family.scope.version.clone(), family.scope.schema_url.clone()],
        metric: [metric.name.to_string(), metric.help.to_string(), metric.unit.to_string()],
        kind,
        attributes,
        span: (series.start, snapshot.time),
        data,
    }
}
