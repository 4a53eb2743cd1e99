//! Network flows of Cilium: the connection to Hubble and what is taken from it.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Network flows of Cilium, from Hubble.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the documented keys are switches of their own")]
pub struct Cilium {
    /// Whether Hubble is read.
    pub enabled: bool,
    /// node: each agent reads its own node; relay: one agent reads Hubble Relay; auto: by the address.
    pub mode: Mode,
    /// The address of Hubble Relay or of the node's Hubble, HOST:PORT.
    #[schemars(extend("x-kind" = "host-port"))]
    pub hubble_address: String,
    /// Whether the connection uses TLS.
    pub hubble_tls_enabled: bool,
    /// The client certificate, PEM; read again when it changes.
    #[schemars(extend("x-kind" = "file"))]
    pub hubble_tls_cert: PathBuf,
    /// The key of the client certificate, PEM.
    #[schemars(extend("x-kind" = "file"))]
    pub hubble_tls_key: PathBuf,
    /// The authority that signed the server's certificate, PEM.
    #[schemars(extend("x-kind" = "file"))]
    pub hubble_tls_ca: PathBuf,
    /// Flows of the network and transport layers.
    pub collect_flows: bool,
    /// HTTP, gRPC, DNS and Kafka.
    pub collect_l7_flows: bool,
    /// Dropped packets.
    pub collect_drops: bool,
    /// Verdicts of network policies.
    pub collect_policies: bool,
    /// Services and their endpoints.
    pub collect_services: bool,
    /// Whether names are completed from the Kubernetes API.
    pub kubernetes_enabled: bool,
    /// Only flows of these namespaces; empty for all.
    pub watch_namespaces: Vec<String>,
    /// No flows of these namespaces.
    pub exclude_namespaces: Vec<String>,
    /// The flows that may wait to be counted.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub flow_buffer_size: usize,
    /// One flow in this many is taken: 1 is all, 10 is a tenth.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub flow_sample_rate: u32,
    /// The most flows a second; more are dropped and counted.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_flows_per_second: u32,
    /// The window in which equal flows are summed.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::second")]
    pub aggregation_window: Duration,
}

impl Default for Cilium {
    fn default() -> Self {
        Self {
            enabled: false,
            mode: Mode::default(),
            hubble_address: "hubble-relay.kube-system.svc:4245".to_owned(),
            hubble_tls_enabled: false,
            hubble_tls_cert: PathBuf::new(),
            hubble_tls_key: PathBuf::new(),
            hubble_tls_ca: PathBuf::new(),
            collect_flows: true,
            collect_l7_flows: true,
            collect_drops: true,
            collect_policies: true,
            collect_services: true,
            kubernetes_enabled: true,
            watch_namespaces: Vec::new(),
            exclude_namespaces: Vec::new(),
            flow_buffer_size: 4_096,
            flow_sample_rate: 1,
            max_flows_per_second: 10_000,
            aggregation_window: Duration::from_secs(10),
        }
    }
}

/// Whose flows one agent reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Decided by the address.
    #[default]
    Auto,
    /// Those of its node.
    Node,
    /// Those of the cluster.
    Relay,
}
