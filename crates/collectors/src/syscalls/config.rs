//! The section `integrations.ebpf.collectors.syscalls`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use bpf::abi::histogram::HistShape;

use super::names;
use crate::histogram::Scale;
use crate::timing::Latency;

/// What is counted and timed, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// Count only these system calls, by name; empty: all.
    #[serde(deserialize_with = "known")]
    pub syscalls: Vec<String>,
    /// Which calls are timed: `all`, `off`, or one call in N on average (`sample: N`).
    pub latency: Latency,
    /// Time each of these system calls apart; all others of a workload share one histogram without a `syscall`.
    #[serde(deserialize_with = "known")]
    pub latency_by_syscall: Vec<String>,
    /// How finely latencies are told apart, 0 to 3: into 2^scale parts of each doubling.
    pub latency_scale: Scale,
    /// Entries of the map of counts: one for each workload and call. What does not fit goes to the overflow series.
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_calls: u32,
    /// Entries of the map of errors: one for each workload, call and error.
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_errors: u32,
    /// Entries of the map of latencies: one for each workload, and for each of its calls that is timed apart.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_latencies: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            syscalls: Vec::new(),
            latency: Latency::Sample(16),
            latency_by_syscall: Vec::new(),
            latency_scale: Scale(0),
            max_calls: 16_384,
            max_errors: 4_096,
            max_latencies: 1_024,
        }
    }
}

impl Config {
    /// Gives what the histograms of latencies hold: 16 ns to 18 minutes.
    pub fn latency_shape(&self) -> HistShape {
        self.latency_scale.brief()
    }
}

/// Refuses names that no table has.
fn known<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    match names.iter().find(|name| !names::is_known(name)) {
        None => Ok(names),
        Some(name) => Err(serde::de::Error::custom(format!("{name} is no system call of this architecture"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_table_has_are_refused() {
        let parse = |text: &str| serde_json::from_str::<Config>(text);
        assert!(parse(r#"{"syscalls": ["read", "openat"]}"#).is_ok());
        assert!(parse(r#"{"syscalls": ["raed"]}"#).unwrap_err().to_string().contains("raed"));
    }
}
