//! Turns kernel subjects into workload names.
//!
//! [`Workloads`] is told which cgroups come and go, reads their paths, and answers from memory: the names that a source
//! has for the pod and the container, else what the path has of them, else the systemd unit, else the path itself.

mod cache;
pub mod cgroup;
pub mod container;
mod directory;
mod error;
mod executables;
mod identity;
pub mod kubernetes;
mod learned;
mod members;
mod pairs;
pub mod peers;
mod roots;
pub mod runtimes;
mod services;
mod source;
mod stats;
pub mod unit;
mod workloads;

use std::sync::Arc;
use std::time::Duration;

pub use cgroup::Hierarchy;
pub use directory::{Container, Kind, Names, Pod};
pub use error::Error;
pub use learned::Learned;
pub use pairs::Pairs;
pub use peers::Peers;
pub use services::{Claim, Services};
pub use source::{Source, State};
pub use stats::{Reason, Stats};
pub use workloads::{Seen, Workloads};

/// How finely measurements are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Granularity {
    /// All workloads of the node are one.
    Node,
    /// Each container or unit is a workload.
    #[default]
    Container,
}

/// What the configuration says of names.
#[derive(Clone)]
pub struct Settings {
    /// How finely measurements are told apart.
    pub granularity: Granularity,
    /// Who knows the executables, where the kernel tells them apart within a workload.
    pub executables: Option<Arc<dyn model::Executables>>,
    /// The attribute keys to leave out; workloads that then look alike are one.
    pub drop: Vec<String>,
    /// Attributes of containers that are left out unless they stand here: they tell apart what else is one workload.
    pub add: Vec<String>,
    /// Beginnings of container ids, or whole names: when there are any, all other cgroups are excluded.
    pub container_filter: Vec<String>,
    /// Whether only pods are observed that their source marks so.
    pub filters_pods: bool,
    /// What sources are going to name: such cgroups wait a while for their names.
    pub expects: Vec<Kind>,
    /// How long they wait: the kubelet tells the API of a container seconds after its start, or even after its end.
    pub patience: Duration,
    /// How long a removed cgroup of a pod or a container keeps its names, and so does what a source no longer has.
    pub retention: Duration,
    /// How long any other removed cgroup does: units and sessions come and go by the thousand. Connections whose process
    /// has ended send their last for less long.
    pub brief_retention: Duration,
    /// How many removed cgroups keep their names, and pods and containers likewise; the oldest go first.
    pub removed_limit: usize,
    /// How often the file system is compared with what is known, beside the times when there is a reason to.
    pub rescan: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            granularity: Granularity::default(),
            executables: None,
            drop: Vec::new(),
            add: Vec::new(),
            container_filter: Vec::new(),
            filters_pods: false,
            expects: Vec::new(),
            patience: Duration::from_secs(10),
            retention: Duration::from_mins(10),
            brief_retention: Duration::from_mins(2),
            removed_limit: 16_384,
            rescan: Duration::from_mins(1),
        }
    }
}
