//! Turns kernel subjects into workload names.
//!
//! [`Workloads`] is told which cgroups come and go, reads their paths, and answers from memory: a container's id, pod
//! and runtime where the path has them, else the systemd unit, else the path itself.

mod cache;
pub mod cgroup;
pub mod container;
mod error;
mod identity;
mod roots;
mod stats;
pub mod unit;
mod workloads;

use std::time::Duration;

pub use cgroup::Hierarchy;
pub use error::Error;
pub use stats::{Reason, Stats};
pub use workloads::Workloads;

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
#[derive(Clone, Debug)]
pub struct Settings {
    /// How finely measurements are told apart.
    pub granularity: Granularity,
    /// The attribute keys to leave out; workloads that then look alike are one.
    pub drop: Vec<String>,
    /// Beginnings of container ids: when there are any, all other cgroups are excluded.
    pub container_filter: Vec<String>,
    /// How long a removed cgroup keeps its names.
    pub retention: Duration,
    /// How many removed cgroups keep their names; the oldest go first.
    pub removed_limit: usize,
    /// How often the file system is compared with what is known, beside the times when there is a reason to.
    pub rescan: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            granularity: Granularity::default(),
            drop: Vec::new(),
            container_filter: Vec::new(),
            retention: Duration::from_mins(10),
            removed_limit: 16_384,
            rescan: Duration::from_mins(1),
        }
    }
}
