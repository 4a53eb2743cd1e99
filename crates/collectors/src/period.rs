//! Durations in the sections of collectors, as people write them: `5s`.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration up to an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

impl Period {
    const LONGEST: Duration = Duration::from_hours(1);
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match humantime::parse_duration(text.trim()) {
            Ok(period) if period <= Self::LONGEST => Ok(Self(period)),
            _ => Err(serde::de::Error::custom(format!("must be a duration up to 1h, such as 5s, not {text}"))),
        }
    }
}

impl JsonSchema for Period {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "examples": ["5s", "500ms"], "x-kind": "duration"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_a_unit_and_an_end() {
        let parse = |text: &str| serde_json::from_value::<Period>(text.into());
        assert_eq!(parse("250ms").unwrap(), Period(Duration::from_millis(250)));
        assert_eq!(serde_json::to_value(Period(Duration::from_secs(5))).unwrap(), "5s");
        for wrong in ["5", "2h", "-1s", "soon"] {
            assert!(parse(wrong).unwrap_err().to_string().starts_with("must be a duration"), "{wrong}");
        }
    }
}
