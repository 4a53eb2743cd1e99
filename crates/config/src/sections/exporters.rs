//! Where the telemetry goes: the Prometheus listener, and events.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::otlp::Endpoint;
use crate::secret::Secret;

/// Where the telemetry goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Exporters {
    /// The endpoint that Prometheus scrapes.
    pub prometheus: Prometheus,
    /// OTLP endpoints that are pushed to, by a name of your choice; none by default.
    pub otlp: BTreeMap<String, Endpoint>,
    /// Events: rare things that happened, as log records.
    pub events: Events,
}

/// The endpoint that Prometheus scrapes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Prometheus {
    /// Whether it is served.
    pub enabled: bool,
    /// The address it listens on.
    #[serde(with = "crate::listen")]
    #[schemars(schema_with = "crate::listen::schema")]
    pub listen: SocketAddr,
    /// The path of the metrics.
    #[schemars(extend("x-kind" = "path"))]
    pub path: String,
    /// A scrape gathers afresh unless the last gather is younger than this.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::any")]
    pub max_age: Duration,
    /// By how much the bounds of classic histograms differ at least, each from the one before; those that there are
    /// are powers of 4. Native histograms, which Prometheus asks for by protobuf, and OTLP are not concerned.
    #[schemars(range(min = 4, max = 4_096))]
    pub bucket_ratio: u16,
    /// TLS of the listener: off unless cert and key are given.
    pub tls: ServerTls,
    /// Who may scrape: anybody unless basic or bearer is given.
    pub auth: Auth,
    /// Bounds that a client cannot exceed.
    pub limits: ServerLimits,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            path: "/metrics".to_owned(),
            max_age: Duration::from_secs(1),
            bucket_ratio: 16,
            tls: ServerTls::default(),
            auth: Auth::default(),
            limits: ServerLimits::default(),
        }
    }
}

impl Prometheus {
    /// Gives how many doublings the ratio of bounds is, in full.
    pub fn bucket_doublings(&self) -> u8 {
        self.bucket_ratio.max(1).next_power_of_two().ilog2() as u8
    }
}

/// TLS of a listener. Files are read again when they change.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerTls {
    /// The certificate chain, a PEM file.
    #[schemars(extend("x-kind" = "file"))]
    pub cert: PathBuf,
    /// Its key, a PEM file.
    #[schemars(extend("x-kind" = "file"))]
    pub key: PathBuf,
    /// Clients must show a certificate signed by this authority, a PEM file; empty for any client.
    #[schemars(extend("x-kind" = "file"))]
    pub client_ca: PathBuf,
}

/// Who may scrape; at most one of the two.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Auth {
    /// User and password.
    pub basic: Basic,
    /// A token.
    pub bearer: Bearer,
}

/// User and password.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Basic {
    /// The user; empty for no basic authentication.
    pub username: String,
    /// The password.
    pub password: Secret,
    /// A file that holds the password, in place of `password`.
    #[schemars(extend("x-kind" = "file"))]
    pub password_file: PathBuf,
}

/// A token.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Bearer {
    /// The token; empty for no bearer authentication.
    pub token: Secret,
    /// A file that holds the token, in place of `token`.
    #[schemars(extend("x-kind" = "file"))]
    pub token_file: PathBuf,
}

/// Bounds that a client cannot exceed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerLimits {
    /// The most bytes of a request's head.
    #[serde(with = "crate::size")]
    #[schemars(schema_with = "crate::size::head")]
    pub header_size: u64,
    /// The most connections at once.
    #[schemars(range(min = 1, max = 65_536))]
    pub connections: usize,
    /// The most time for one request, from its first byte to the last of the answer.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::positive")]
    pub request_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { header_size: 16 << 10, connections: 64, request_timeout: Duration::from_secs(30) }
    }
}

/// Where events go and how many may wait.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Events {
    /// The name of the OTLP endpoint that takes events; empty for none.
    pub otlp: String,
    /// Whether events are written to standard output, one JSON object a line.
    pub stdout: bool,
    /// The events that may wait; more are dropped and counted.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub queue: usize,
    /// The most events of one request.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub batch: usize,
    /// How long an event may wait for others to go with it.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::positive")]
    pub schedule_delay: Duration,
    /// How long the delivery of one batch may take, retries included.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::positive")]
    pub export_timeout: Duration,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            otlp: "main".to_owned(),
            stdout: false,
            queue: 65_536,
            batch: 8_192,
            schedule_delay: Duration::from_secs(1),
            export_timeout: Duration::from_secs(30),
        }
    }
}
