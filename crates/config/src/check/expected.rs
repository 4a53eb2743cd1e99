//! The words of the checker: what is allowed, what was found, and what was probably meant.

use serde_json::Value;

use super::{branches, types};
use crate::nearest::nearest;
use crate::node::{Data, Node};

/// Returns the fixed choices of a schema: its `enum`, its `const`, or alternatives that are nothing but those.
pub(crate) fn choices(schema: &Value) -> Option<Vec<Value>> {
    if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
        return Some(choices.clone());
    }
    if let Some(only) = schema.get("const") {
        return Some(vec![only.clone()]);
    }
    let parts: Option<Vec<Vec<Value>>> = branches(schema)?.iter().map(choices).collect();
    parts.map(|parts| parts.into_iter().flatten().collect())
}

/// Renders a choice as somebody would type it.
pub(super) fn bare(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Reads what YAML 1.1 took for true and false.
pub(super) fn truth(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "y" | "1" => Some("true"),
        "false" | "no" | "off" | "n" | "0" => Some("false"),
        _ => None,
    }
}

pub(crate) fn expected(schema: &Value) -> String {
    if let Some(choices) = choices(schema) {
        return join(&choices.iter().map(bare).collect::<Vec<_>>());
    }
    if let Some(branches) = branches(schema) {
        let each = |branch| match choices(branch) {
            Some(choices) => choices.iter().map(bare).collect(),
            None => vec![expected(branch)],
        };
        return join(&branches.iter().flat_map(each).collect::<Vec<_>>());
    }
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    match text("x-kind") {
        Some("duration") => match text("x-minimum") {
            Some(minimum) if minimum != "0s" => return format!("a duration of at least {minimum}, such as 15s"),
            _ => return "a duration such as 15s".to_owned(),
        },
        Some("size") => {
            let bound = |key: &str| crate::size::format(schema.get(key).and_then(Value::as_u64).unwrap_or_default());
            return format!("a size between {} and {}, such as 64KiB", bound("minimum"), bound("maximum"));
        }
        Some("listen") => return "an address and a port, such as 127.0.0.1:9464".to_owned(),
        Some("url") => return "a URL, such as http://127.0.0.1:4317".to_owned(),
        Some("path") => return "a path that begins with /".to_owned(),
        Some("optional-path") => return "empty or a path that begins with /".to_owned(),
        Some("file") => return "the path of a file".to_owned(),
        _ => {}
    }
    let names: Vec<String> = types(schema)
        .into_iter()
        .map(|name| match name {
            "boolean" => "true or false".to_owned(),
            "integer" => format!("a whole number{}", bounds(schema)),
            "number" => format!("a number{}", bounds(schema)),
            "array" => "a list".to_owned(),
            "object" => shape(schema),
            _ => "text".to_owned(),
        })
        .collect();
    join(&names)
}

/// Names the choices or bounds of a schema in as few words as a comment has room for.
pub(crate) fn brief(schema: &Value) -> Option<String> {
    if choices(schema).is_some() {
        return Some(expected(schema));
    }
    let size = schema.get("x-kind").is_some_and(|kind| kind == "size");
    let bound = |key: &str| {
        let bound = schema.get(key)?;
        Some(if size { crate::size::format(bound.as_u64()?) } else { bare(bound) })
    };
    match (bound("minimum").or_else(|| bound("x-minimum")), bound("maximum")) {
        (Some(low), Some(high)) => Some(format!("{low} to {high}")),
        (Some(low), None) if low != "0s" => Some(format!("at least {low}")),
        _ => None,
    }
}

fn bounds(schema: &Value) -> String {
    let bound = |key: &str| schema.get(key).filter(|bound| bound.is_number()).map(Value::to_string);
    match (bound("minimum").or_else(|| bound("exclusiveMinimum")), bound("maximum")) {
        (Some(low), Some(high)) => {
            format!(" between {} and {}", low.trim_end_matches(".0"), high.trim_end_matches(".0"))
        }
        (Some(low), None) => format!(" of at least {}", low.trim_end_matches(".0")),
        (None, Some(high)) => format!(" of at most {}", high.trim_end_matches(".0")),
        (None, None) => String::new(),
    }
}

fn shape(schema: &Value) -> String {
    let names: Vec<&str> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    match names.as_slice() {
        [] => "a map".to_owned(),
        names if names.len() <= 3 => format!("a map of {}", names.join(", ")),
        [first, second, ..] => format!("a map of {first}, {second} and others"),
        [first] => format!("a map of {first}"),
    }
}

/// Joins alternatives: `a, b or c`.
pub(crate) fn join(words: &[String]) -> String {
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "something else".to_owned(),
    }
}

/// Names what was found, in at most a line; secrets by their type alone.
pub(crate) fn found(node: &Node, secret: bool) -> String {
    match &node.data {
        Data::Null => "nothing".to_owned(),
        Data::Map(_) => "a map".to_owned(),
        Data::List(_) => "a list".to_owned(),
        Data::Bool(_) | Data::Integer(_) | Data::Float(_) if secret => "an unquoted number or truth value".to_owned(),
        Data::Text(_) | Data::Raw(_) if secret => "what is given".to_owned(),
        Data::Bool(value) => value.to_string(),
        Data::Integer(value) => format!("the number {value}"),
        Data::Float(value) => format!("the number {value:?}"),
        Data::Text(text) | Data::Raw(text) => {
            let short: String = text.chars().take(60).collect();
            let more = if short.len() < text.len() { "…" } else { "" };
            format!("{:?}", short + more)
        }
    }
}

/// Says how a value of the wrong type is mended, where that is plain.
pub(super) fn type_hint(node: &Node, schema: &Value, types: &[&str]) -> Option<String> {
    let kind = schema.get("x-kind").and_then(Value::as_str);
    match &node.data {
        Data::Integer(value) if kind == Some("duration") => Some(format!("write {value}s for seconds or {value}ms")),
        Data::Integer(_) | Data::Float(_) | Data::Bool(_) if types.contains(&"string") && kind.is_none() => {
            Some("put it in quotes".to_owned())
        }
        Data::Text(text) if types == ["boolean"] => truth(text).map(|word| format!("write {word}")),
        Data::Text(text) if types.iter().any(|name| ["integer", "number"].contains(name)) => {
            text.parse::<f64>().ok().map(|_| "remove the quotes".to_owned())
        }
        Data::Text(_) | Data::Integer(_) | Data::Bool(_) if types == ["array"] => Some("put it in [ ]".to_owned()),
        _ => None,
    }
}

/// Names the nearest valid key; where none is near, those that are valid here.
pub(crate) fn key_hint(key: &str, known: &[&str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("; did you mean {near}?"),
        None if known.is_empty() => String::new(),
        None => format!("; the keys here are {}", known.join(", ")),
    }
}
