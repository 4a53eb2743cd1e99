//! The section `integrations.ebpf.collectors.dns`.

use std::time::Duration;

use bpf::abi::histogram::HistShape;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::histogram::Scale;
use crate::period::Period;
use crate::process::config::Kind;

/// What is observed, how long answers are awaited, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// Count what servers on this host are asked, and their answers, too, with `role="server"`: whose sockets are bound
    /// to port 53.
    pub servers: bool,
    /// Count queries and answers by the name asked for (`dns.question.name`), as far as `max_names` allows.
    pub names: bool,
    /// The answers that clients get, each with the name asked for: `dns.response`.
    pub events: Kind,
    /// How long an answer is awaited; what comes later is none.
    pub timeout: Period<1, 300_000>,
    /// How finely latencies are told apart, 0 to 3: into 2^scale parts of each doubling.
    pub latency_scale: Scale,
    /// Entries of the map of queries: one for each workload and type of question. What does not fit goes to the
    /// overflow series.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_queries: u32,
    /// Entries of the map of responses: one for each workload and response code.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_responses: u32,
    /// Entries of the map of latencies: one for each workload.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_latencies: u32,
    /// Entries of the map of names, where names are counted: one for each workload, type or response code, and name. What
    /// does not fit counts without its name; names that are no longer asked for make room.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_names: u32,
    /// Queries whose answers are awaited at once. The answers of those beyond are not counted.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_pending: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            servers: false,
            names: false,
            events: Kind { enabled: false, ..Kind::default() },
            timeout: Period(Duration::from_secs(5)),
            latency_scale: Scale(2),
            max_queries: 2_048,
            max_responses: 2_048,
            max_latencies: 512,
            max_names: 1_024,
            max_pending: 16_384,
        }
    }
}

impl Config {
    /// Gives what the histograms of latencies hold: 4 µs to 17 s.
    pub(super) fn latency_shape(&self) -> HistShape {
        self.latency_scale.shape(12, 34)
    }
}
