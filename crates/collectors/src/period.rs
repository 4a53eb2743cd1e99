//! Durations in the sections of collectors, as people write them: `5s`.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration from so many milliseconds to so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period<const LEAST: u64, const MOST: u64>(pub Duration);

impl<const LEAST: u64, const MOST: u64> Period<LEAST, MOST> {
    /// Gives the duration in nanoseconds.
    pub fn nanos(self) -> u64 {
        self.0.as_nanos().min(u64::MAX.into()) as u64
    }
}

impl<const LEAST: u64, const MOST: u64> Serialize for Period<LEAST, MOST> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Period<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (least, most) = (Duration::from_millis(LEAST), Duration::from_millis(MOST));
        let text = String::deserialize(deserializer)?;
        match humantime::parse_duration(text.trim()) {
            Ok(period) if (least..=most).contains(&period) => Ok(Self(period)),
            _ => {
                let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
                Err(serde::de::Error::custom(format!(
                    "must be a duration from {least} to {most}, such as 5s, not {text}"
                )))
            }
        }
    }
}

impl<const LEAST: u64, const MOST: u64> JsonSchema for Period<LEAST, MOST> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let least = format!("{LEAST}ms");
        json_schema!({"type": "string", "examples": ["5s", "500ms"], "x-kind": "duration", "x-minimum": least})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_a_unit_and_bounds() {
        let parse = |text: &str| serde_json::from_value::<Period<1, 300_000>>(text.into());
        assert_eq!(parse("250ms").unwrap(), Period(Duration::from_millis(250)));
        assert_eq!(serde_json::to_value(parse("5s").unwrap()).unwrap(), "5s");
        for wrong in ["5", "6m", "0s", "-1s", "soon"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert_eq!(error, format!("must be a duration from 1ms to 5m, such as 5s, not {wrong}"));
        }
        assert!(serde_json::from_str::<Period<0, 1000>>("\"0s\"").is_ok());
    }
}
