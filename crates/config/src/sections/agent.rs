//! The agent itself: who it is, what it may use, how it is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::switch::Switch;

/// The agent itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Agent {
    /// Where the agent runs; auto recognises a pod by its service account. Also `DEPLOYMENT_MODE`.
    pub deployment_mode: DeploymentMode,
    /// The name of the node; empty for the host name. Also `NODE_NAME`.
    pub node_name: String,
    /// The agent's own pod: an attribute of `telesonde_info`, never of what is measured. Also `POD_NAME`.
    pub pod_name: String,
    /// The namespace of the agent's own pod, likewise. Also `POD_NAMESPACE`.
    pub pod_namespace: String,
    /// Extra resource attributes, such as deployment.environment.name or k8s.cluster.name, which no API server tells.
    pub resource: BTreeMap<String, String>,
    /// keep: only the capabilities that collectors declare; drop: give those up, too, once everything is attached. Then what
    /// attaches anew is refused: reloads that switch collectors on or change them, and new attempts of those that failed.
    /// Before Linux 5.19 one is kept with which maps are read.
    pub privileges: Privileges,
    /// Whether system calls that the agent never makes are refused to it (seccomp), and files are written only where the
    /// configuration names a place (Landlock). auto: as far as the kernel has both; require: or the agent does not start.
    pub sandbox: Sandbox,
}

/// Where the agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeploymentMode {
    /// Decided at the start.
    #[default]
    Auto,
    /// In a pod, with names from the Kubernetes API.
    Kubernetes,
    /// On a plain host, with names from systemd and the cgroup path.
    Vm,
}

/// What becomes of the capabilities once everything is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Privileges {
    /// The declared ones are kept.
    #[default]
    Keep,
    /// All are given up.
    Drop,
}

/// Whether the process confines itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// As far as the kernel lets it.
    #[default]
    Auto,
    /// Wholly, or it does not start.
    Require,
    /// Not at all.
    Off,
}

/// How kernel terms become names.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Enrich {
    /// Names of pods and their owners, from the Kubernetes API.
    pub kubernetes: Kubernetes,
    /// What is done to attributes before series are formed.
    pub attributes: Attributes,
    /// Names of networks, each as its prefixes (`fd00::/8`), for peers of which nothing else is known; the narrowest one counts.
    pub networks: BTreeMap<String, Vec<String>>,
}

/// Names from the Kubernetes API.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Kubernetes {
    /// Whether the API is asked; auto: where the agent runs in a pod or a kubeconfig is given.
    pub enabled: Switch,
    /// A kubeconfig file, for an agent outside a pod; empty for the pod's service account.
    #[schemars(extend("x-kind" = "file"))]
    pub kubeconfig: PathBuf,
    /// Pod labels that become attributes (k8s.pod.label.NAME); each multiplies the series.
    pub labels: Vec<String>,
    /// Pod annotations that become attributes (k8s.pod.annotation.NAME).
    pub annotations: Vec<String>,
    /// Whether peers are named by the services of the cluster, too, and by the pods that answer for them
    /// (k8s.service.name). Each agent then lists and watches all services of the cluster and their endpoints:
    /// docs/kubernetes.md tells what that costs the API server.
    pub services: bool,
}

/// What is done to attributes before series are formed.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Attributes {
    /// Attributes that are left out, such as k8s.pod.name; series that then coincide are summed.
    pub drop: Vec<String>,
    /// Attributes of containers that are left out unless they stand here: container.id, container.image.name and
    /// k8s.pod.uid. Each makes a restarted or recreated workload a series of its own.
    pub add: Vec<String>,
}

/// Budgets of series and of kernel memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// The most series that one metric may have.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub series_per_metric: usize,
    /// The most series in all.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub series_total: usize,
    /// How many samples a workload may have in any case in what Prometheus scrapes as text, where a histogram counts with
    /// all its lines. It may have more as long as all workloads together have no more than 60 times this; after that, what
    /// has not changed for longest goes into the metric's overflow series. Gauges always have room.
    #[schemars(range(min = 16, max = 1_000_000))]
    pub samples_per_workload: usize,
    /// The most memory that the maps in the kernel may take.
    #[serde(with = "crate::size")]
    #[schemars(schema_with = "crate::size::memory")]
    pub map_memory: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { series_per_metric: 20_000, series_total: 100_000, samples_per_workload: 130, map_memory: 32 << 20 }
    }
}

/// What collectors may cost, as CPU time of their programs in the kernel and of their rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Budget {
    /// Percent of one CPU for all collectors together; 0 for no such budget.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub cpu_percent: f64,
    /// Percent of one CPU for a collector, by its name. The programs of network and connection count as network's, as
    /// long as that runs.
    pub collectors: BTreeMap<String, f64>,
    /// Over how long the cost is measured. Two windows above a budget lead a step down, three and more with room to spare
    /// a step up.
    #[serde(with = "crate::duration")]
    #[schemars(schema_with = "crate::duration::positive")]
    pub window: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self { cpu_percent: 0.0, collectors: BTreeMap::new(), window: Duration::from_secs(10) }
    }
}

/// The listener of the probes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Health {
    /// The address of /healthz and /readyz.
    #[serde(with = "crate::listen")]
    #[schemars(schema_with = "crate::listen::schema")]
    pub listen: SocketAddr,
}

impl Default for Health {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9465)) }
    }
}

/// The way to ask a running agent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Admin {
    /// The Unix socket; empty for none.
    #[schemars(extend("x-kind" = "file"))]
    pub socket: PathBuf,
    /// A TCP address for the same; anybody who reaches it may reload and debug the agent. Not set: none.
    #[serde(with = "crate::listen::option")]
    #[schemars(schema_with = "crate::listen::schema")]
    pub listen: Option<SocketAddr>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/telesonde/admin.sock"), listen: None }
    }
}

/// The agent's own log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Log {
    /// The least severe level that is written. Also `OTEL_LOG_LEVEL`.
    pub level: LogLevel,
    /// auto: text on a terminal, JSON otherwise.
    pub format: LogFormat,
}

/// A level of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing is written.
    Off,
    /// What stops something from working.
    Error,
    /// What may surprise.
    Warn,
    /// What happens seldom and matters.
    #[default]
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything.
    Trace,
}

/// The shape of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}
