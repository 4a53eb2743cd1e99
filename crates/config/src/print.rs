//! The effective configuration as YAML, each value with its origin and no secret.

use std::fmt::Write as _;

use serde_json::Value;

use crate::check::{child, is_secret, values};
use crate::node::{Data, Entry, Node};
use crate::secret::REDACTED;

/// Renders a tree in the order of its schema.
pub(crate) fn print(root: &Node, schema: &Value) -> String {
    let mut out = String::new();
    walk(root, schema, 0, &mut out);
    out
}

fn walk(node: &Node, schema: &Value, depth: usize, out: &mut String) {
    for entry in ordered(node, schema) {
        let any = &Value::Bool(true);
        let of = child(schema, &entry.key).map(|(_, schema)| schema).or_else(|| values(schema)).unwrap_or(any);
        let indent = "  ".repeat(depth);
        let key = text(&entry.key);
        // Writing to a string cannot fail.
        if matches!(&entry.value.data, Data::Map(entries) if !entries.is_empty()) {
            let _ = writeln!(out, "{indent}{key}:");
            walk(&entry.value, of, depth + 1, out);
        } else {
            let value = inline(&entry.value, is_secret(of));
            let _ = writeln!(out, "{indent}{key}: {value}  # {}", entry.value.place.origin());
        }
    }
}

/// Returns the entries of a map in the order of the schema; those of the user's own maps as they come.
pub(crate) fn ordered<'a>(node: &'a Node, schema: &Value) -> Vec<&'a Entry> {
    let names: Vec<&String> =
        schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name).collect();
    let mut entries: Vec<&Entry> = node.entries().iter().collect();
    entries.sort_by_key(|entry| names.iter().position(|name| **name == entry.key).unwrap_or(usize::MAX));
    entries
}

/// Renders a value on one line.
pub(crate) fn inline(node: &Node, secret: bool) -> String {
    match &node.data {
        Data::Null => "null".to_owned(),
        Data::Text(value) if secret && !value.is_empty() => text(REDACTED),
        Data::Text(value) | Data::Raw(value) => text(value),
        Data::List(items) => {
            let items: Vec<String> = items.iter().map(|item| inline(item, secret)).collect();
            format!("[{}]", items.join(", "))
        }
        Data::Map(entries) => {
            let entries: Vec<String> =
                entries.iter().map(|entry| format!("{}: {}", text(&entry.key), inline(&entry.value, secret))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        Data::Bool(value) => value.to_string(),
        Data::Integer(value) => value.to_string(),
        Data::Float(value) => value.to_string(),
    }
}

/// Quotes text unless it reads back as itself.
pub(crate) fn text(value: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./ ".contains(c);
    let plain = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '_')
        && !value.ends_with(' ')
        && value.chars().all(safe)
        && matches!(crate::yaml::plain(value), Data::Text(_));
    if plain {
        return value.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() || c == '\u{feff}' || c == '\u{2028}' || c == '\u{2029}' => {
                let _ = write!(quoted, "\\U{:08x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::place::shared;
    use crate::yaml;

    #[test]
    fn printed_text_reads_back() {
        for value in [
            "",
            "true",
            "12",
            "1e3",
            "a: b",
            "- x",
            "#",
            "ü\n\t\"\\",
            "null",
            "x ",
            "127.0.0.1:1",
            "\u{7}",
            "a/b",
            "~",
            "0x1",
        ] {
            let node = yaml::parse(&format!("k: {}\n", text(value)), &shared(Path::new("f"))).expect("yaml");
            assert_eq!(node.get("k").and_then(Node::text), Some(value), "{}", text(value));
        }
    }
}
