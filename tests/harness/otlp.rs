//! A receiver of OTLP over HTTP/protobuf that keeps each series, the latest point or the sum of the deltas, and all
//! events.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, ExponentialHistogramDataPoint, metric::Data, number_data_point,
};
use prost::Message;

const DELTA: i32 = AggregationTemporality::Delta as i32;

/// A metric's name and a point's attributes.
pub type Key = (String, BTreeMap<String, String>);

/// An event's attributes, with its name as `event_name` and its severity as `severity_text`.
pub type Event = BTreeMap<String, String>;

/// A point as it came.
#[derive(Clone, Debug)]
pub enum Point {
    /// A counter's or gauge's.
    Number(f64),
    /// A histogram's.
    Exponential(Box<ExponentialHistogramDataPoint>),
}

#[derive(Default)]
struct Shared {
    series: Mutex<BTreeMap<Key, Point>>,
    starts: Mutex<BTreeMap<Key, u64>>,
    events: Mutex<Vec<Event>>,
    resource: Mutex<BTreeMap<String, String>>,
    resources: Mutex<BTreeMap<String, BTreeMap<String, String>>>,
    faults: Mutex<Vec<String>>,
    refusing: AtomicBool,
    refused: AtomicU64,
}

/// A running receiver; it ends with the process.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Receiver {
    /// Listens on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, shared) = (listener.local_addr().unwrap(), Arc::<Shared>::default());
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || while serve(&stream, &state).is_some() {});
            }
        });
        Self { address, shared }
    }

    /// Answers from now on that it is unavailable, or takes everything again.
    pub fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
    }

    /// Gives how many requests were answered that it is unavailable.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Gives the events so far that have at least these attributes.
    pub fn events(&self, attributes: &[(&str, &str)]) -> Vec<Event> {
        let events = self.shared.events.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |event: &&Event| attributes.iter().all(|&(key, value)| event.get(key).is_some_and(|v| v == value));
        events.iter().filter(has).cloned().collect()
    }

    /// Gives the attributes of the resource that came last.
    pub fn resource(&self) -> BTreeMap<String, String> {
        self.shared.resource.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the attributes of the resource under which a metric came last.
    pub fn resource_of(&self, metric: &str) -> Option<BTreeMap<String, String>> {
        self.shared.resources.lock().unwrap_or_else(PoisonError::into_inner).get(metric).cloned()
    }

    /// Gives the series that a request had twice, and the cumulative counters that fell.
    pub fn faults(&self) -> Vec<String> {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the address to send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives the latest point of the one series with a name and at least these attributes.
    pub fn point(&self, name: &str, attributes: &[(&str, &str)]) -> Option<Point> {
        let series = self.shared.series.lock().unwrap_or_else(PoisonError::into_inner);
        only(&series, name, attributes).cloned()
    }

    /// Gives the latest value of the one counter with a name and at least these attributes.
    pub fn number(&self, name: &str, attributes: &[(&str, &str)]) -> Option<f64> {
        match self.point(name, attributes)? {
            Point::Number(value) => Some(value),
            Point::Exponential(_) => panic!("{name} is a histogram"),
        }
    }

    /// Gives the latest start time of the one counter with a name and at least these attributes, in Unix nanoseconds.
    pub fn began(&self, name: &str, attributes: &[(&str, &str)]) -> Option<u64> {
        let starts = self.shared.starts.lock().unwrap_or_else(PoisonError::into_inner);
        only(&starts, name, attributes).copied()
    }

    /// Gives the latest point of the one histogram with a name and at least these attributes.
    pub fn histogram(&self, name: &str, attributes: &[(&str, &str)]) -> Option<ExponentialHistogramDataPoint> {
        match self.point(name, attributes)? {
            Point::Number(_) => panic!("{name} is a number"),
            Point::Exponential(point) => Some(*point),
        }
    }
}

/// Gives what is kept of the one series with a name and at least these attributes.
fn only<'s, T: std::fmt::Debug>(all: &'s BTreeMap<Key, T>, name: &str, attributes: &[(&str, &str)]) -> Option<&'s T> {
    let has = |set: &BTreeMap<String, String>| {
        attributes.iter().all(|&(key, value)| set.get(key).is_some_and(|found| found == value))
    };
    let found: Vec<_> = all.iter().filter(|((metric, set), _)| metric == name && has(set)).collect();
    assert!(found.len() <= 1, "{name}{attributes:?} is not one series: {found:?}");
    found.first().map(|(_, kept)| *kept)
}

/// Answers one request; nothing when the connection has ended.
fn serve(mut stream: &TcpStream, shared: &Shared) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut events) = (0, false);
    for number in 0.. {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if number == 0 {
            events = line == "post /v1/logs http/1.1";
            assert!(events || line == "post /v1/metrics http/1.1", "{line}");
        }
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let status = if shared.refusing.load(Ordering::SeqCst) {
        shared.refused.fetch_add(1, Ordering::SeqCst);
        "503 Service Unavailable"
    } else {
        if events {
            keep_events(ExportLogsServiceRequest::decode(body.as_slice()).unwrap(), shared);
        } else {
            keep(ExportMetricsServiceRequest::decode(body.as_slice()).unwrap(), shared);
        }
        "200 OK"
    };
    let headers = "Content-Type: application/x-protobuf\r\nContent-Length: 0";
    write!(stream, "HTTP/1.1 {status}\r\n{headers}\r\n\r\n").ok()
}

fn keep_events(request: ExportLogsServiceRequest, shared: &Shared) {
    let mut events = shared.events.lock().unwrap_or_else(PoisonError::into_inner);
    let scopes = request.resource_logs.into_iter().flat_map(|resource| resource.scope_logs);
    events.extend(scopes.flat_map(|scope| scope.log_records).map(|log| {
        let mut event: Event = log.attributes.into_iter().map(pair).collect();
        event.insert("event_name".to_owned(), log.event_name);
        event.insert("severity_text".to_owned(), log.severity_text);
        event
    }));
}

fn keep(request: ExportMetricsServiceRequest, shared: &Shared) {
    let mut series = shared.series.lock().unwrap_or_else(PoisonError::into_inner);
    let mut faults = shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
    let mut seen = BTreeSet::new();
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| {
        let attributes: BTreeMap<_, _> =
            resource.resource.into_iter().flat_map(|resource| resource.attributes).map(pair).collect();
        let metrics = resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
        let mut resources = shared.resources.lock().unwrap_or_else(PoisonError::into_inner);
        resources.extend(metrics.map(|metric| (metric.name.clone(), attributes.clone())));
        *shared.resource.lock().unwrap_or_else(PoisonError::into_inner) = attributes;
        resource.scope_metrics
    });
    for metric in scopes.flat_map(|scope| scope.metrics) {
        let rises = matches!(&metric.data, Some(Data::Sum(sum)) if sum.is_monotonic);
        let key = |attributes: Vec<KeyValue>| (metric.name.clone(), attributes.into_iter().map(pair).collect());
        let (numbers, delta) = match metric.data {
            Some(Data::Sum(sum)) => (sum.data_points, sum.aggregation_temporality == DELTA),
            Some(Data::Gauge(gauge)) => (gauge.data_points, false),
            Some(Data::ExponentialHistogram(histogram)) => {
                for mut point in histogram.data_points {
                    let attributes = std::mem::take(&mut point.attributes);
                    series.insert(key(attributes), Point::Exponential(Box::new(point)));
                }
                continue;
            }
            _ => continue,
        };
        for point in numbers {
            let value = match point.value {
                Some(number_data_point::Value::AsInt(value)) => value as f64,
                Some(number_data_point::Value::AsDouble(value)) => value,
                None => continue,
            };
            let key = key(point.attributes);
            if !seen.insert(key.clone()) {
                faults.push(format!("twice in one request: {key:?}"));
            }
            let before = match series.get(&key) {
                Some(Point::Number(before)) => *before,
                _ => 0.0,
            };
            if rises && !delta && value < before {
                faults.push(format!("{key:?} fell from {before} to {value}"));
            }
            let mut starts = shared.starts.lock().unwrap_or_else(PoisonError::into_inner);
            starts.insert(key.clone(), point.start_time_unix_nano);
            series.insert(key, Point::Number(if delta { before + value } else { value }));
        }
    }
}

fn pair(attribute: KeyValue) -> (String, String) {
    let value = match attribute.value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    (attribute.key, value)
}
