//! The identity of the agent and its node: the OpenTelemetry resource.

use std::collections::BTreeMap;
use std::path::Path;

use config::sections::host::Host;
use model::{Attributes, Text};
use uuid::Uuid;

/// What the configuration says of the identity.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The node's name; empty: the host name.
    pub node_name: String,
    /// Whether the node is a Kubernetes node.
    pub kubernetes: bool,
    /// What the API server knows of the node and its cluster.
    pub known: Vec<(&'static str, String)>,
    /// Resource attributes that replace or add to those found.
    pub resource: BTreeMap<String, String>,
    /// Where the host is seen.
    pub host: Host,
    /// The agent's own pod, if it is in one.
    pub pod_name: String,
}

/// Gives the name of the host: as the kernel has it, which in a container is the container's, or as the host's own file
/// says, where its root directory is given.
pub fn host_name(host: &Host) -> String {
    let named = || {
        let text = std::fs::read_to_string(host.file("/etc/hostname")).ok()?;
        let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'))?;
        Some(name.to_owned())
    };
    let given = (!host.root.as_os_str().is_empty()).then(named).flatten();
    given.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// Gives the resource attributes (metrics.md, Identity), never the agent's own pod.
pub fn resource(given: &Given) -> Attributes {
    let mut host = host_name(&given.host);
    // A pod without the host's network has a host name of its own, the pod's.
    if host == given.pod_name && !given.node_name.is_empty() {
        host.clone_from(&given.node_name);
    }
    let node = if given.node_name.is_empty() { host.clone() } else { given.node_name.clone() };
    let host_id = host_id(&given.host);
    // Stable on the node and different on every other: derived from the machine id where there is one.
    let instance =
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("telesonde/{}", host_id.as_deref().unwrap_or(&node)).as_bytes());
    let mut pairs: Vec<(Text, Text)> = vec![
        ("service.name".into(), "telesonde".into()),
        ("service.version".into(), env!("CARGO_PKG_VERSION").into()),
        ("service.instance.id".into(), instance.to_string().into()),
        ("host.name".into(), host.into()),
        ("host.id".into(), host_id.unwrap_or_default().into()),
        ("os.type".into(), "linux".into()),
    ];
    if given.kubernetes {
        pairs.push(("k8s.node.name".into(), node.into()));
    }
    pairs.extend(given.known.iter().map(|(key, value)| ((*key).into(), value.clone().into())));
    let added = given.resource.iter().map(|(key, value)| (key.clone().into(), value.clone().into()));
    Attributes::new(pairs.into_iter().chain(added))
}

/// Says whether this host is a Kubernetes node: a kubelet gives every container these variables.
pub fn in_kubernetes(host: &Host) -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() || host.file("/var/lib/kubelet/pods").is_dir()
}

/// Says whether the agent runs in a pod that may talk to the API.
pub fn has_service_account() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        && Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
}

fn host_id(host: &Host) -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid"].iter().find_map(|path| {
        let text = std::fs::read_to_string(host.file(path)).ok()?;
        let id = text.trim();
        (!id.is_empty() && id != "uninitialized").then(|| id.to_lowercase())
    })
}
