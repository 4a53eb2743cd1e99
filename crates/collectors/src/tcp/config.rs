//! The section `integrations.ebpf.collectors.tcp`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use bpf::abi::histogram::HistShape;

use crate::histogram::Scale;
use crate::period::Period;

/// Whether round trips of open connections are read, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How often the round-trip times of all open connections are read; 0s: never. It takes at most 2 % of a CPU, if
    /// need be by pausing longer.
    pub rtt_interval: Period<0, 3_600_000>,
    /// How finely connect latencies and round trips are told apart, 0 to 3: into 2^scale parts of each doubling.
    pub latency_scale: Scale,
    /// Tell what becomes of connections (all counters: connects, accepts, ends, resets, retransmissions and failures) apart
    /// by whom they are with: the peer's attributes as `peer.` ones, such as `peer.k8s.pod.name`. It multiplies the series.
    pub peers: bool,
    /// Entries of the map of peers: one for each workload, address and, where the peer is the server, port. Silent ones are
    /// freed when it fills up; what does not fit counts for its workload without a peer.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_peers: u32,
    /// Entries of the map of connections: two for each workload, IPv4 and IPv6. What does not fit goes to the overflow
    /// series.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_workloads: u32,
    /// Entries of each map of histograms: connect latencies (two for each workload) and round trips (one).
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_latencies: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rtt_interval: Period(Duration::from_secs(5)),
            latency_scale: Scale(2),
            peers: false,
            max_peers: 4_096,
            max_workloads: 1_024,
            max_latencies: 1_024,
        }
    }
}

impl Config {
    /// Gives the pause between walks over all sockets, if there are to be any.
    pub fn interval(&self) -> Option<Duration> {
        Some(self.rtt_interval.0).filter(|interval| !interval.is_zero())
    }

    /// Gives what the histograms of connect latencies hold: 1 µs to 137 s.
    pub fn connecting(&self) -> HistShape {
        self.latency_scale.shape(10, 37)
    }

    /// Gives what the histograms of round trips hold: 1 µs to 17 s.
    pub fn round_trips(&self) -> HistShape {
        self.latency_scale.shape(0, 24)
    }
}
