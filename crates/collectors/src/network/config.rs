//! The section `integrations.ebpf.collectors.network`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is counted, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// Count packets over loopback interfaces too: such a packet is one sent and one received.
    pub loopback: bool,
    /// Count packets that the kernel drops.
    pub drops: bool,
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
        Self { loopback: true, drops: true, max_flows: 8_192, max_drops: 2_048, max_listeners: 512 }
    }
}
