//! The section `integrations.ebpf.collectors.network`.

use bpf::Loader;
use runtime::Platform;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is counted, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Count packets over loopback interfaces too: such a packet is one sent and one received.
    pub loopback: bool,
    /// Count packets that the kernel drops.
    pub drops: bool,
    /// Tell traffic apart by whom it is with: the peer's attributes as `peer.` ones, such as `peer.k8s.pod.name`. It
    /// needs the collector connection, whose table then has these counts, too, and multiplies the series.
    pub peers: bool,
    /// Entries of the map of traffic: one for each workload, direction, transport and version of IP. What does not fit
    /// goes to the overflow series.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_flows: u32,
    /// Entries of the map of drops: one for each workload and reason.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_drops: u32,
    /// Entries of the map of full accept queues: one for each workload that has had one.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_listeners: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { loopback: true, drops: true, peers: false, max_flows: 4_096, max_drops: 2_048, max_listeners: 512 }
    }
}

impl Config {
    /// Gives what the programs need where the collector does not run.
    pub fn off() -> Self {
        Self { drops: false, max_flows: 0, max_drops: 0, max_listeners: 0, ..Self::default() }
    }

    /// Sets constants and maps of the programs; traffic by peer comes from the table of connections.
    pub fn tune(&self, loader: Loader, platform: &Platform, peers: bool) -> Loader {
        let loader = if platform.facts.is_legacy() {
            loader
        } else {
            loader.max_entries("overflows", platform.scaled(self.max_listeners).max(1))
        };
        loader
            .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
            .constant("loopback", &u32::from(self.loopback))
            .constant("by_workload", &u32::from(self.max_flows > 0 && !peers))
            .max_entries("flows", platform.scaled(self.max_flows).max(1))
            .max_entries("drops", platform.scaled(self.max_drops).max(1))
    }
}
