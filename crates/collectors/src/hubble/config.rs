//! The section `integrations.ebpf.cilium`, beside `enabled`.

use std::path::PathBuf;

use hubble::{Address, Tls};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::period::Period;
use crate::process::config::Kind;

/// Network flows of Cilium, from Hubble.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the documented keys are switches of their own")]
pub struct Config {
    /// node: each agent reads its own node's Hubble; relay: one agent, elected where the Kubernetes API is used, reads
    /// Hubble Relay; auto: node where the node's own Hubble answers or its socket exists, else relay until it does. In
    /// Kubernetes agents with auto read their own nodes or the relay, never both at once: the Lease is theirs together.
    pub mode: Mode,
    /// The address of Hubble Relay: `HOST:PORT`, or `unix:///PATH`.
    pub hubble_address: String,
    /// The address of the node's own Hubble: `unix:///PATH`, or `HOST:PORT` (usually port 4244).
    pub hubble_node_address: String,
    /// Whether TCP connections use TLS 1.3.
    pub hubble_tls_enabled: bool,
    /// The client certificate, PEM; read again for each connection.
    #[schemars(extend("x-kind" = "file"))]
    pub hubble_tls_cert: PathBuf,
    /// The key of the client certificate, PEM.
    #[schemars(extend("x-kind" = "file"))]
    pub hubble_tls_key: PathBuf,
    /// The authority that signed the server's certificate, PEM; empty for those that the host trusts.
    #[schemars(extend("x-kind" = "file"))]
    pub hubble_tls_ca: PathBuf,
    /// The name that the server's certificate must have, where it is not the address' host: usually
    /// *.hubble-relay.cilium.io.
    pub hubble_tls_server_name: String,
    /// Flows of the network and transport layers.
    pub collect_flows: bool,
    /// HTTP, gRPC, DNS and Kafka.
    pub collect_l7_flows: bool,
    /// Dropped packets.
    pub collect_drops: bool,
    /// Verdicts of network policies.
    pub collect_policies: bool,
    /// Requests to services.
    pub collect_services: bool,
    /// Whether the Kubernetes API may be used: in Kubernetes the one agent that reads the relay is elected there.
    /// Without it every agent that is told to read the relay does so.
    pub kubernetes_enabled: bool,
    /// The Lease by which that agent is elected, in the namespace of the agents.
    pub relay_lease: String,
    /// Only flows with an end in one of these namespaces; empty for all.
    pub watch_namespaces: Vec<String>,
    /// No flows whose ends are in these namespaces. A flow between one of them and another namespace is that one's, too,
    /// and stays.
    pub exclude_namespaces: Vec<String>,
    /// The flows that may wait to be counted; more are dropped and counted as such.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub flow_buffer_size: usize,
    /// One flow in this many is taken: 1 is all, 10 is a tenth. Counters are scaled by it, and
    /// `telesonde_sample_interval` says so.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub flow_sample_rate: u32,
    /// The most flows a second that are counted; more are dropped and counted as such.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_flows_per_second: u32,
    /// How far apart what Hubble reports of one connection's beginning may be, at several points of its way, and still
    /// be one connection.
    pub aggregation_window: Period<1_000, 600_000>,
    /// How flows are labelled beyond namespaces.
    pub labels: Labels,
    /// Which flows are events, too.
    pub events: Events,
    /// Whether what flows tell of addresses names the peers of connections, traffic and events of the kernel that the
    /// Kubernetes API does not name: pods of other nodes, nodes and the API server, by the first of labels.workload.
    pub name_peers: bool,
    /// The most addresses that are kept for that.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub max_addresses: usize,
    /// An address of which no flow spoke for so long is forgotten.
    pub address_timeout: Period<10_000, 86_400_000>,
    /// The most series of all Hubble metrics together; what is beyond is in each metric's overflow series.
    #[schemars(range(min = 100, max = 1_000_000))]
    pub max_series: usize,
    /// Series that have not changed for so long end; should they come back, they begin anew.
    pub series_idle_timeout: Period<60_000, 86_400_000>,
    /// The most open TCP connections whose beginning is remembered for their duration, some 100 B each.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_connections: usize,
    /// A connection of which nothing was seen for so long is forgotten, and has no duration.
    pub connection_idle_timeout: Period<10_000, 86_400_000>,
}

impl Default for Config {
    fn default() -> Self {
        let seconds = std::time::Duration::from_secs;
        Self {
            mode: Mode::default(),
            hubble_address: "hubble-relay.kube-system.svc:4245".to_owned(),
            hubble_node_address: "unix:///var/run/cilium/hubble.sock".to_owned(),
            hubble_tls_enabled: false,
            hubble_tls_cert: PathBuf::new(),
            hubble_tls_key: PathBuf::new(),
            hubble_tls_ca: PathBuf::new(),
            hubble_tls_server_name: String::new(),
            collect_flows: true,
            collect_l7_flows: true,
            collect_drops: true,
            collect_policies: true,
            collect_services: true,
            kubernetes_enabled: true,
            relay_lease: "telesonde-hubble".to_owned(),
            watch_namespaces: Vec::new(),
            exclude_namespaces: Vec::new(),
            flow_buffer_size: 4_096,
            flow_sample_rate: 1,
            max_flows_per_second: 10_000,
            aggregation_window: Period(seconds(10)),
            labels: Labels::default(),
            events: Events::default(),
            name_peers: true,
            max_addresses: 65_536,
            address_timeout: Period(seconds(600)),
            max_series: 20_000,
            series_idle_timeout: Period(seconds(600)),
            max_connections: 65_536,
            connection_idle_timeout: Period(seconds(3600)),
        }
    }
}

/// Whose flows one agent reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Those of its node where the node's own Hubble answers, else those of the cluster.
    #[default]
    Auto,
    /// Those of its node.
    Node,
    /// Those of the cluster.
    Relay,
}

/// How flows are labelled beyond namespaces.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a label of its own, or none")]
pub struct Labels {
    /// Where source.workload and destination.workload come from: the first of these that is known.
    pub workload: Vec<Name>,
    /// Whether there are source.pod and destination.pod, too: a set of series for each pair of pods.
    pub pod: bool,
    /// Whether there are source.app and destination.app, too: the label app.kubernetes.io/name, k8s-app or app.
    pub app: bool,
    /// Whether there are source.identity and destination.identity, too: the number of the security identity.
    pub identity: bool,
    /// The most DNS names that are labels, where labels.workload asks for them; further ones are none and counted.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_names: usize,
    /// Whether what Cilium's own exporter counts, too, has its names and labels and is counted when it does, so that its
    /// dashboards work: `hubble_flows_processed_total` instead of `hubble_flows_total`, requests of HTTP by method and
    /// status, those of DNS by qtypes, verdicts by match and action, and the metrics that only its exporter has.
    pub cilium: bool,
}

impl Default for Labels {
    fn default() -> Self {
        let workload = vec![Name::Workload, Name::App, Name::Reserved];
        Self { workload, pod: false, app: false, identity: false, max_names: 1_000, cilium: false }
    }
}

impl Labels {
    /// Says whether DNS names are asked for.
    pub fn wants_dns(&self) -> bool {
        self.workload.contains(&Name::Dns)
    }
}

/// Which flows are events, too, as far as they are collected; nobody makes any while no sink takes them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// Dropped packets, those aside that a policy denied: `hubble.drop`.
    pub drop: Kind,
    /// What a policy denied, or would have in audit mode: `hubble.policy`.
    pub policy: Kind,
    /// Requests of HTTP, gRPC, DNS and Kafka that failed: `hubble.l7_error`.
    pub l7_error: Kind,
}

/// What an end of a flow can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// The workload that the pod belongs to. Hubble knows it of pods of the reporting node only.
    Workload,
    /// The label app.kubernetes.io/name, k8s-app or app.
    App,
    /// The pod.
    Pod,
    /// A DNS name by which Cilium knows the address of what is no pod: before reserved, it tells destinations in the
    /// world apart. At most `max_names` of them.
    Dns,
    /// reserved:world, reserved:host and the like.
    Reserved,
    /// The number of the security identity.
    Identity,
}

impl Config {
    /// Gives the address of the relay or of the node.
    ///
    /// # Errors
    /// Says which key holds no address.
    pub fn address(&self, relay: bool) -> Result<Address, String> {
        let (key, text) = if relay {
            ("hubble_address", &self.hubble_address)
        } else {
            ("hubble_node_address", &self.hubble_node_address)
        };
        text.parse().map_err(|error| format!("{key}: {error}"))
    }

    /// Says how connections to an address are secured.
    pub fn tls(&self, address: &Address) -> Option<Tls> {
        let given = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let tcp = matches!(address, Address::Tcp { .. });
        (tcp && self.hubble_tls_enabled).then(|| Tls {
            ca: given(&self.hubble_tls_ca),
            identity: given(&self.hubble_tls_cert).zip(given(&self.hubble_tls_key)),
            server_name: Some(self.hubble_tls_server_name.clone()).filter(|name| !name.is_empty()),
        })
    }

    /// Says what no schema can.
    ///
    /// # Errors
    /// Names the key and the fix.
    pub fn check(section: &serde_json::Value) -> Result<(), String> {
        let config: Self = serde_json::from_value(section.clone()).map_err(|error| error.to_string())?;
        config.address(true)?;
        config.address(false)?;
        let wrong = |name: &&String| name.is_empty() || name.contains('/');
        for (key, list) in
            [("watch_namespaces", &config.watch_namespaces), ("exclude_namespaces", &config.exclude_namespaces)]
        {
            if let Some(name) = list.iter().find(wrong) {
                return Err(format!("{key}: {name:?} is no name of a namespace"));
            }
        }
        Ok(())
    }
}
