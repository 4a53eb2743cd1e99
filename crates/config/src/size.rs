//! Sizes in bytes: plain numbers, or with a unit such as `64KiB` or `1MB`.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer, de};

const UNITS: [(&str, u64); 10] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KIB", 1 << 10),
    ("MIB", 1 << 20),
    ("GIB", 1 << 30),
    ("KI", 1 << 10),
    ("MI", 1 << 20),
    ("GI", 1 << 30),
];

/// Parses a size in bytes.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "a size begins with a whole number".to_owned())?;
    let unit = unit.trim().to_ascii_uppercase();
    let unit = if unit.is_empty() { "B" } else { &unit };
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| "the unit must be B, KiB, MiB, GiB, KB, MB or GB".to_owned())?;
    number.checked_mul(*factor).ok_or_else(|| "the size does not fit 64 bits".to_owned())
}

/// Renders a size with the largest binary unit that leaves no fraction.
pub fn format(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
pub(crate) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*bytes))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bytes(u64),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Bytes(bytes) => Ok(bytes),
        Written::Text(text) => parse(&text).map_err(de::Error::custom),
    }
}

fn schema(minimum: u64, maximum: u64) -> Schema {
    json_schema!({
        "type": ["integer", "string"],
        "minimum": minimum,
        "maximum": maximum,
        "pattern": "^\\s*[0-9]+\\s*([kKmMgG]?[bB]|[kKmMgG][iI][bB]?)?\\s*$",
        "examples": [65536, "64KiB"],
        "x-kind": "size"
    })
}

/// A buffer of the kernel: a page to a gibibyte.
pub(crate) fn buffer(_: &mut SchemaGenerator) -> Schema {
    schema(4096, 1 << 30)
}

/// Memory of the kernel's maps: 1 MiB to 64 GiB.
pub(crate) fn memory(_: &mut SchemaGenerator) -> Schema {
    schema(1 << 20, 64 << 30)
}

/// The head of a request: 1 KiB to 1 MiB.
pub(crate) fn head(_: &mut SchemaGenerator) -> Schema {
    schema(1 << 10, 1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_are_written() {
        for (text, bytes) in
            [("65536", 65_536), ("64KiB", 65_536), ("64 kib", 65_536), ("32Mi", 32 << 20), ("1GB", 1_000_000_000)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "-1", "10 parsecs", "99999999999GiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rendered_size_reads_back() {
        for bytes in [0, 1, 1023, 1024, 65_536, 1 << 20, (1 << 20) + 1, 3 << 30, u64::MAX] {
            assert_eq!(parse(&format(bytes)), Ok(bytes));
        }
    }
}
