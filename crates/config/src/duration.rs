//! Durations as people write them: `15s`, `1m 30s`, `500ms`.

use std::time::Duration;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer, de};

/// Parses a duration; a number without a unit is refused, because seconds and milliseconds are equally likely.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim()).map_err(|error| error.to_string())
}

/// Renders a duration so that `parse` reads it back.
pub fn format(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// The same for a duration that may be left out.
pub(crate) mod option {
    use super::{Deserialize, Deserializer, Duration, Serializer, de, format, parse};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(crate) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_str(&format(*duration)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| parse(&text).map_err(de::Error::custom)).transpose()
    }
}

fn schema(minimum: &str) -> Schema {
    json_schema!({
        "type": "string",
        "pattern": "^\\s*[0-9]+\\s*[a-zµ]+(\\s*[0-9]+\\s*[a-zµ]+)*\\s*$",
        "examples": ["15s", "1m 30s", "500ms"],
        "x-kind": "duration",
        "x-minimum": minimum
    })
}

/// Any duration, 0s too.
pub(crate) fn any(_: &mut SchemaGenerator) -> Schema {
    schema("0s")
}

/// More than nothing.
pub(crate) fn positive(_: &mut SchemaGenerator) -> Schema {
    schema("1ms")
}

/// At least a second.
pub(crate) fn second(_: &mut SchemaGenerator) -> Schema {
    schema("1s")
}
