//! The pods of this node, from the Kubernetes API: one list and one watch, by a field selector on the node's name; by wish
//! the services of the cluster; and elections among its agents, by Leases.

mod client;
mod describe;
mod follow;
#[doc(hidden)]
pub mod fuzz;
mod lease;
mod lines;
mod node;
mod owner;
mod pod;
mod pods;
mod selector;
mod services;

use std::path::PathBuf;
use std::sync::Arc;

pub use kube::core::Selector;
pub use lease::Election;
pub use node::Known;
pub use selector::parse_selector;

use follow::{Account, Follower};

use crate::{Services, Workloads};

/// The name of the source of pods.
pub const KUBERNETES: &str = "kubernetes";
/// The name of the source of services.
pub const SERVICES: &str = "kubernetes_services";
/// The name of the source of their endpoints.
pub const ENDPOINT_SLICES: &str = "kubernetes_endpointslices";

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
        let account = Account { workloads: Arc::clone(&workloads), source: KUBERNETES };
        Follower::new(self.kubeconfig.clone(), account, pods::Pods::new(self, workloads)).run().await;
    }

    /// Tells services of the whole cluster and of their endpoints, until the future is dropped.
    pub async fn follow_services(self, services: Arc<Services>, workloads: Arc<Workloads>) {
        let account = |source| Account { workloads: Arc::clone(&workloads), source };
        let all = services::Followed::<services::Service>::new(Arc::clone(&services), account(SERVICES));
        let slices = services::Followed::<services::Slice>::new(services, account(ENDPOINT_SLICES));
        tokio::join!(
            Follower::new(self.kubeconfig.clone(), account(SERVICES), all).run(),
            Follower::new(self.kubeconfig, account(ENDPOINT_SLICES), slices).run(),
        );
    }
}
