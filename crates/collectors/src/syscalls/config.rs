//! The section `integrations.ebpf.collectors.syscalls`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names;

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
            max_calls: 16_384,
            max_errors: 8_192,
            max_latencies: 4_096,
        }
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

/// Which calls are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Latency {
    All,
    Off,
    /// One call in so many.
    Sample(u32),
}

/// The largest N of «one call in N».
const LARGEST: u32 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    Sample { sample: u32 },
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::All => Written::Word("all".to_owned()),
            Self::Off => Written::Word("off".to_owned()),
            Self::Sample(sample) => Written::Sample { sample },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || serde::de::Error::custom(format!("latency: must be all, off, or sample: 1 to {LARGEST}"));
        match Written::deserialize(deserializer).map_err(|_| wrong())? {
            Written::Word(word) if word == "all" => Ok(Self::All),
            Written::Word(word) if word == "off" => Ok(Self::Off),
            Written::Sample { sample: 1 } => Ok(Self::All),
            Written::Sample { sample } if (1..=LARGEST).contains(&sample) => Ok(Self::Sample(sample)),
            _ => Err(wrong()),
        }
    }
}

impl JsonSchema for Latency {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Latency".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                {"type": "string", "enum": ["all", "off"]},
                {
                    "type": "object",
                    "properties": {"sample": {"type": "integer", "minimum": 1, "maximum": LARGEST}},
                    "required": ["sample"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_has_three_forms() {
        let parse = |text: &str| serde_json::from_str::<Config>(text).map(|config| config.latency);
        assert_eq!(parse("{}").unwrap(), Latency::Sample(16));
        assert_eq!(parse(r#"{"latency": "all"}"#).unwrap(), Latency::All);
        assert_eq!(parse(r#"{"latency": {"sample": 1}}"#).unwrap(), Latency::All);
        assert_eq!(parse(r#"{"latency": {"sample": 100}}"#).unwrap(), Latency::Sample(100));
        for wrong in [r#"{"latency": "some"}"#, r#"{"latency": {"sample": 0}}"#, r#"{"latency": 5}"#] {
            assert!(parse(wrong).unwrap_err().to_string().starts_with("latency: must be"), "{wrong}");
        }
    }

    #[test]
    fn names_that_no_table_has_are_refused() {
        let parse = |text: &str| serde_json::from_str::<Config>(text);
        assert!(parse(r#"{"syscalls": ["read", "openat"]}"#).is_ok());
        assert!(parse(r#"{"syscalls": ["raed"]}"#).unwrap_err().to_string().contains("raed"));
    }
}
