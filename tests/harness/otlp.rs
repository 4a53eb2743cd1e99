//! A receiver of OTLP metrics over HTTP/protobuf that keeps the latest point of each series.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogramDataPoint, metric::Data, number_data_point};
use prost::Message;

/// A metric's name and a point's attributes.
pub type Key = (String, BTreeMap<String, String>);

/// A point as it came.
#[derive(Clone, Debug)]
pub enum Point {
    /// A counter's or gauge's.
    Number(f64),
    /// A histogram's.
    Exponential(Box<ExponentialHistogramDataPoint>),
}

type Latest = Arc<Mutex<BTreeMap<Key, Point>>>;

/// A running receiver; it ends with the process.
pub struct Receiver {
    address: SocketAddr,
    latest: Latest,
}

impl Receiver {
    /// Listens on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, latest) = (listener.local_addr().unwrap(), Latest::default());
        let shared = Arc::clone(&latest);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let latest = Arc::clone(&shared);
                std::thread::spawn(move || while serve(&stream, &latest).is_some() {});
            }
        });
        Self { address, latest }
    }

    /// Gives the address to send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives the latest point of the one series with a name and at least these attributes.
    pub fn point(&self, name: &str, attributes: &[(&str, &str)]) -> Option<Point> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |set: &BTreeMap<String, String>| {
            attributes.iter().all(|&(key, value)| set.get(key).is_some_and(|found| found == value))
        };
        let found: Vec<_> = latest.iter().filter(|((metric, set), _)| metric == name && has(set)).collect();
        assert!(found.len() <= 1, "{name}{attributes:?} is not one series: {found:?}");
        found.first().map(|(_, point)| (*point).clone())
    }

    /// Gives the latest value of the one counter with a name and at least these attributes.
    pub fn number(&self, name: &str, attributes: &[(&str, &str)]) -> Option<f64> {
        match self.point(name, attributes)? {
            Point::Number(value) => Some(value),
            Point::Exponential(_) => panic!("{name} is a histogram"),
        }
    }

    /// Gives the latest point of the one histogram with a name and at least these attributes.
    pub fn histogram(&self, name: &str, attributes: &[(&str, &str)]) -> Option<ExponentialHistogramDataPoint> {
        match self.point(name, attributes)? {
            Point::Number(_) => panic!("{name} is a number"),
            Point::Exponential(point) => Some(*point),
        }
    }
}

/// Answers one request; nothing when the connection has ended.
fn serve(mut stream: &TcpStream, latest: &Latest) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    for number in 0.. {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if number == 0 {
            assert_eq!(line, "post /v1/metrics http/1.1");
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
    keep(ExportMetricsServiceRequest::decode(body.as_slice()).unwrap(), latest);
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(answer.as_bytes()).ok()
}

fn keep(request: ExportMetricsServiceRequest, latest: &Latest) {
    let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
    let scopes = request.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
    for metric in scopes.flat_map(|scope| scope.metrics) {
        let key = |attributes: Vec<KeyValue>| (metric.name.clone(), attributes.into_iter().map(pair).collect());
        let numbers = match metric.data {
            Some(Data::Sum(sum)) => sum.data_points,
            Some(Data::Gauge(gauge)) => gauge.data_points,
            Some(Data::ExponentialHistogram(histogram)) => {
                for mut point in histogram.data_points {
                    let attributes = std::mem::take(&mut point.attributes);
                    latest.insert(key(attributes), Point::Exponential(Box::new(point)));
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
            latest.insert(key(point.attributes), Point::Number(value));
        }
    }
}

fn pair(attribute: KeyValue) -> (String, String) {
    let value = match attribute.value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    };
    (attribute.key, value)
}
