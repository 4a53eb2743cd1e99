//! The section `integrations.ebpf.collectors.dns`.

use std::time::Duration;

use bpf::abi::histogram::HistShape;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::histogram::Scale;

/// How long answers are awaited, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    /// How long an answer is awaited; what comes later is none.
    pub timeout: Timeout,
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
    /// Queries whose answers are awaited at once. The answers of those beyond are not counted.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_pending: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Timeout(Duration::from_secs(5)),
            latency_scale: Scale(2),
            max_queries: 2_048,
            max_responses: 2_048,
            max_latencies: 512,
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

/// A duration above 0, as people write it: `5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timeout(pub Duration);

impl Timeout {
    const LONGEST: Duration = Duration::from_mins(5);

    /// Gives the duration in nanoseconds.
    pub(super) fn nanos(self) -> u64 {
        self.0.min(Self::LONGEST).as_nanos() as u64
    }
}

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match humantime::parse_duration(text.trim()) {
            Ok(timeout) if !timeout.is_zero() && timeout <= Self::LONGEST => Ok(Self(timeout)),
            _ => Err(serde::de::Error::custom(format!("timeout: must be a duration up to 5m, such as 5s, not {text}"))),
        }
    }
}

impl JsonSchema for Timeout {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timeout".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["5s", "500ms"], "x-kind": "duration", "x-minimum": "1ns"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_duration_above_0() {
        let parse = |text: &str| serde_json::from_str::<Config>(text).map(|config| config.timeout.nanos());
        assert_eq!(parse("{}").unwrap(), 5_000_000_000);
        assert_eq!(parse(r#"{"timeout": "250ms"}"#).unwrap(), 250_000_000);
        for wrong in [r#"{"timeout": "0s"}"#, r#"{"timeout": "6m"}"#, r#"{"timeout": "5"}"#] {
            assert!(parse(wrong).unwrap_err().to_string().starts_with("timeout: must be"), "{wrong}");
        }
    }
}
