//! The OTLP reader: pushes snapshots to an OpenTelemetry collector over gRPC or HTTP.
//!
//! [`encode`] turns a snapshot into request bodies, [`Endpoint`] takes snapshots at its own pace and delivers them.

mod answer;
pub mod delta;
mod dial;
pub mod encode;
mod endpoint;
mod error;
pub mod logs;
mod phase;
mod point;
mod request;
pub mod retry;
mod target;
pub mod telemetry;
mod tls;

use std::path::PathBuf;
use std::time::Duration;

pub use endpoint::{Endpoint, Remains, Status};
pub use error::Error;
pub use phase::phase;

/// Bytes that a request's body may have before compression: receivers refuse messages above 4 MiB.
pub const REQUEST_LIMIT: usize = 3_900_000;

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC over HTTP/2.
    Grpc,
    /// Protobuf bodies in HTTP/1.1 POST requests.
    Http,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Snapshots of all series.
    Metrics,
    /// Events, as log records.
    Logs,
}

/// How request bodies are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// How histograms are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Histogram {
    /// Base-2 exponential, as they are counted.
    Exponential,
    /// With the metric's classic boundaries.
    Explicit,
}

/// What the values of counters and histograms refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporality {
    /// To the start of their series.
    Cumulative,
    /// To what the receiver acknowledged last.
    Delta,
}

/// Where a workload's attributes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// On each data point.
    DataPoint,
    /// On a resource of its own: one `ResourceMetrics` per workload.
    Resource,
}

/// The TLS settings of an endpoint; they matter for `https` URLs only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// A PEM file of the only certificate authorities to trust; without it, those of the system.
    pub ca: Option<PathBuf>,
    /// A PEM file of the client's certificate chain.
    pub cert: Option<PathBuf>,
    /// A PEM file of the client's private key.
    pub key: Option<PathBuf>,
    /// The name that the server's certificate must carry, where it is not the URL's host.
    pub server_name: Option<String>,
    /// Accepts any certificate of the server.
    pub insecure_skip_verify: bool,
}

/// Reads a receiver's answer in both protocols.
pub(crate) fn read_answer(head: &http::response::Parts, body: &bytes::Bytes) {
    // Whatever it says is an outcome.
    drop(answer::http(head, body));
    drop(answer::grpc(head, Some(&head.headers), body));
}

/// All settings of one endpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// The endpoint's name in the configuration, for messages and self metrics.
    pub name: String,
    /// The receiver's URL. `Protocol::Http` posts to it as it stands; for `Protocol::Grpc` it has no path.
    pub endpoint: String,
    /// What is sent.
    pub signal: Signal,
    /// How requests travel.
    pub protocol: Protocol,
    /// The time between two exports.
    pub interval: Duration,
    /// The time that one attempt may take, connecting included.
    pub timeout: Duration,
    /// How bodies are compressed.
    pub compression: Compression,
    /// Headers (gRPC metadata) to send with each request. Their values are secrets: they are never shown.
    pub headers: Vec<(String, String)>,
    /// How histograms are sent.
    pub histogram: Histogram,
    /// What the values of counters and histograms refer to.
    pub temporality: Temporality,
    /// Where a workload's attributes stand.
    pub workload: Workload,
    /// The age at which a connection is dialled anew, give or take 10 %, so that a fleet rebalances.
    pub max_connection_age: Duration,
    /// The TLS settings.
    pub tls: Tls,
    /// What decides when within the interval to export: the node's name.
    pub phase_seed: String,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// The pace of repeated attempts.
    pub retry: retry::Policy,
    /// Bytes that a request's body may have before compression.
    pub request_limit: usize,
}

impl Options {
    /// Gives the default settings for a named endpoint.
    pub fn new(name: impl Into<String>, endpoint: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            endpoint: endpoint.into(),
            signal: Signal::Metrics,
            protocol: Protocol::Grpc,
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            compression: Compression::Zstd,
            headers: Vec::new(),
            histogram: Histogram::Exponential,
            temporality: Temporality::Cumulative,
            workload: Workload::DataPoint,
            max_connection_age: Duration::from_mins(5),
            tls: Tls::default(),
            phase_seed: String::new(),
            user_agent: concat!("telesonde/", env!("CARGO_PKG_VERSION")).to_owned(),
            retry: retry::Policy::default(),
            request_limit: REQUEST_LIMIT,
        }
    }
}
