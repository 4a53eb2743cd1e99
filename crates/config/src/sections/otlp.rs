//! One OTLP endpoint.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::url;

/// One OTLP endpoint that is pushed to.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Endpoint {
    /// The URL; http:// is plain text, https:// is TLS. With http/protobuf /v1/metrics and /v1/logs are appended unless it ends so.
    #[schemars(extend("x-kind" = "url"))]
    pub endpoint: String,
    /// The wire protocol.
    pub protocol: Protocol,
    /// Whether metrics are pushed; events go where exporters.events.otlp says.
    pub metrics: bool,
    /// With http/protobuf: the path of metrics, where it is not the usual one; empty for the usual one.
    #[schemars(extend("x-kind" = "optional-path"))]
    pub metrics_path: String,
    /// With http/protobuf: the path of events, where it is not the usual one; empty for the usual one.
    #[schemars(extend("x-kind" = "optional-path"))]
    pub logs_path: String,
    /// How often metrics are pushed. Not set: `integrations.ebpf.scrape_interval`.
    #[serde(with = "crate::duration::option")]
    #[schemars(schema_with = "crate::duration::second")]
    pub interval: Option<Duration>,
    /// How long one request may take.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::positive")]
    pub timeout: Duration,
    /// The compression of requests.
    pub compression: Compression,
    /// Headers of every request; their values are never shown.
    pub headers: BTreeMap<String, Secret>,
    /// The form of histograms.
    pub histogram: Histogram,
    /// Whether values count from the start of the series or from the last acknowledged export.
    pub temporality: Temporality,
    /// datapoint: the workload is attributes of each point; resource: one resource per workload.
    pub workload: Workload,
    /// After this a gRPC connection is dialled anew and the name resolved again, so that a fleet rebalances.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::second")]
    pub max_connection_age: Duration,
    /// TLS of an https:// endpoint.
    pub tls: ClientTls,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            endpoint: "http://127.0.0.1:4317".to_owned(),
            protocol: Protocol::default(),
            metrics: true,
            metrics_path: String::new(),
            logs_path: String::new(),
            interval: None,
            timeout: Duration::from_secs(10),
            compression: Compression::default(),
            headers: BTreeMap::new(),
            histogram: Histogram::default(),
            temporality: Temporality::default(),
            workload: Workload::default(),
            max_connection_age: Duration::from_mins(5),
            tls: ClientTls::default(),
        }
    }
}

impl Endpoint {
    /// Returns the URL that metrics are sent to: for gRPC the endpoint itself.
    pub fn metrics_url(&self) -> String {
        self.signal_url(&self.metrics_path, "/v1/metrics")
    }

    /// Returns the URL that events are sent to: for gRPC the endpoint itself.
    pub fn logs_url(&self) -> String {
        self.signal_url(&self.logs_path, "/v1/logs")
    }

    fn signal_url(&self, own: &str, usual: &str) -> String {
        let parts = match url::parse(&self.endpoint) {
            Ok(parts) if self.protocol == Protocol::HttpProtobuf => parts,
            _ => return self.endpoint.clone(),
        };
        let root = format!("{}://{}", parts.scheme, parts.authority);
        if !own.is_empty() {
            return root + own;
        }
        let base = parts.path.trim_end_matches('/');
        let base = ["/v1/metrics", "/v1/logs"].iter().find_map(|end| base.strip_suffix(end)).unwrap_or(base);
        format!("{root}{base}{usual}")
    }
}

/// A wire protocol of OTLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// gRPC over HTTP/2, usually port 4317.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP, usually port 4318.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// The compression of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None at all.
    None,
    /// What every receiver takes.
    Gzip,
    /// Smaller and cheaper than gzip.
    #[default]
    Zstd,
}

/// The form of histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Histogram {
    /// Base-2 exponential buckets.
    #[default]
    Exponential,
    /// Buckets with explicit bounds.
    Explicit,
}

/// What a value counts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Temporality {
    /// The start of the series.
    #[default]
    Cumulative,
    /// The last acknowledged export.
    Delta,
}

/// Where the workload's attributes stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// On each data point.
    #[default]
    Datapoint,
    /// On a resource of its own.
    Resource,
}

/// TLS towards a server. Files are read again when they change.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClientTls {
    /// The authority that signed the server's certificate, a PEM file; empty for the well-known ones.
    #[schemars(extend("x-kind" = "file"))]
    pub ca: PathBuf,
    /// The client certificate, a PEM file.
    #[schemars(extend("x-kind" = "file"))]
    pub cert: PathBuf,
    /// The key of the client certificate, a PEM file.
    #[schemars(extend("x-kind" = "file"))]
    pub key: PathBuf,
    /// The name that the server's certificate must carry; empty for the host of the endpoint.
    pub server_name: String,
    /// Whether any certificate is accepted: for experiments only.
    pub insecure_skip_verify: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_signal_follows_the_specification() {
        for (endpoint, own, metrics, logs) in [
            ("http://h:4318", "", "http://h:4318/v1/metrics", "http://h:4318/v1/logs"),
            ("http://h:4318/", "", "http://h:4318/v1/metrics", "http://h:4318/v1/logs"),
            ("https://h/base", "", "https://h/base/v1/metrics", "https://h/base/v1/logs"),
            ("https://h/base/v1/metrics", "", "https://h/base/v1/metrics", "https://h/base/v1/logs"),
            ("http://h/base", "/", "http://h/", "http://h/base/v1/logs"),
        ] {
            let endpoint = Endpoint {
                endpoint: endpoint.to_owned(),
                protocol: Protocol::HttpProtobuf,
                metrics_path: own.to_owned(),
                ..Endpoint::default()
            };
            assert_eq!(endpoint.metrics_url(), metrics);
            assert_eq!(endpoint.logs_url(), logs);
        }
        assert_eq!(Endpoint::default().metrics_url(), "http://127.0.0.1:4317");
    }
}
