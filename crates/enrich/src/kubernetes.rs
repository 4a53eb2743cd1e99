//! The pods of this node, from the Kubernetes API: one list and one watch, by a field selector on the node's name; and
//! elections among the agents of a cluster, by its Leases.

mod client;
mod describe;
mod follow;
mod lease;
mod lines;
mod node;
mod owner;
mod pod;
mod selector;

use std::path::PathBuf;
use std::sync::Arc;

pub use kube::core::Selector;
pub use lease::Election;
pub use node::Known;
pub use selector::parse_selector;

use crate::Workloads;

/// The name of this source.
pub const KUBERNETES: &str = "kubernetes";

/// Where the pods come from and what is wanted of them.
#[derive(Clone, Debug, Default)]
pub struct Kubernetes {
    /// The node whose pods these are.
    pub node: String,
    /// A kubeconfig file; without one the service account of the agent's pod.
    pub kubeconfig: Option<PathBuf>,
    /// Labels that become attributes.
    pub labels: Vec<String>,
    /// Annotations that become attributes.
    pub annotations: Vec<String>,
    /// Only pods of these namespaces are observed; empty for all.
    pub namespaces: Vec<String>,
    /// Only pods with such labels are observed; empty for all.
    pub selector: Selector,
}

impl Kubernetes {
    /// Tells workloads of the node's pods, until the future is dropped.
    pub async fn follow(self, workloads: Arc<Workloads>) {
        follow::Follower::new(self, workloads).run().await;
    }
}
