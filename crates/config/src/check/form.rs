//! The inner form of scalars (durations, sizes, addresses, URLs, paths), and the types of text that comes from a variable.

use std::sync::Arc;

use serde_json::Value;

use super::expected::expected;
use super::{choices, found, is_secret, values};
use crate::error::Problem;
use crate::node::{Data, Entry, Node};
use crate::place::{Key, Place};
use crate::{duration, listen, size, url, yaml};

/// Why a scalar of the right type is refused all the same.
pub(super) struct Refusal {
    /// What stands in the message in place of the value, where the value may hold a secret.
    pub(super) shown: Option<&'static str>,
    pub(super) hint: Option<String>,
}

pub(super) fn refuse(data: &Data, schema: &Value) -> Option<Refusal> {
    let plain = |hint: Option<String>| Some(Refusal { shown: None, hint });
    match (data, schema.get("x-kind").and_then(Value::as_str)) {
        (Data::Text(text), Some(kind)) => text_form(text, kind, schema),
        (Data::Integer(value), _) if !within(*value as f64, schema) => plain(None),
        (Data::Float(value), _) if !within(*value, schema) => plain(None),
        (Data::Text(text), None) => {
            let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or_default();
            if (text.chars().count() as u64) < least { plain(Some("it must not be empty".to_owned())) } else { None }
        }
        _ => None,
    }
}

fn within(value: f64, schema: &Value) -> bool {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    bound("minimum").is_none_or(|least| value >= least)
        && bound("exclusiveMinimum").is_none_or(|below| value > below)
        && bound("maximum").is_none_or(|most| value <= most)
        && bound("exclusiveMaximum").is_none_or(|above| value < above)
        && !value.is_nan()
}

fn text_form(text: &str, kind: &str, schema: &Value) -> Option<Refusal> {
    let plain = |hint: String| Some(Refusal { shown: None, hint: Some(hint) });
    let range = Some(Refusal { shown: None, hint: None });
    match kind {
        "duration" => {
            let minimum = schema.get("x-minimum").and_then(Value::as_str).and_then(|text| duration::parse(text).ok());
            match (duration::parse(text), minimum) {
                (Err(_), _) if text.trim().parse::<f64>().is_ok() => plain(format!("add a unit: {}s", text.trim())),
                (Err(reason), _) => plain(reason),
                (Ok(value), Some(minimum)) if value < minimum => range,
                (Ok(_), _) => None,
            }
        }
        "size" => match size::parse(text) {
            Err(reason) => plain(reason),
            Ok(bytes) if !within(bytes as f64, schema) => range,
            Ok(_) => None,
        },
        "listen" => listen::parse(text).err().and_then(plain),
        "url" => url::parse(text).err().map(|hint| Refusal {
            shown: text.contains('@').then_some("a URL with user and password"),
            hint: Some(hint),
        }),
        "path" if !text.starts_with('/') => plain(format!("write /{text}")),
        "optional-path" if !text.is_empty() && !text.starts_with('/') => plain(format!("write /{text}")),
        "file" if text.contains("-----BEGIN") => Some(Refusal {
            shown: Some("the content of one"),
            hint: Some("write it to a file and give its path".to_owned()),
        }),
        _ => None,
    }
}

/// Gives text from a variable or from `--set` the type that the schema wants; None with a problem where it has none.
pub(super) fn typed(
    text: &str,
    place: &Place,
    schema: &Value,
    types: &[&str],
    key: &Key,
    problems: &mut Vec<Problem>,
) -> Option<Node> {
    let node = |data| Some(Node::new(place.clone(), data));
    let is = |name: &str| types.contains(&name);
    let trimmed = text.trim();
    if (is("array") && trimmed.starts_with('[')) || (is("object") && trimmed.starts_with('{')) {
        return flow(trimmed, place, key, problems);
    }
    if is("array") {
        let items = trimmed.split(',').map(str::trim).filter(|item| !item.is_empty());
        return node(Data::List(items.map(|item| Node::new(place.clone(), Data::Raw(item.to_owned()))).collect()));
    }
    if is("object") && values(schema).is_some_and(|of| super::types(of) == ["string"]) {
        return pairs(trimmed, place, schema, key, problems);
    }
    if is("string") {
        return node(Data::Text(text.to_owned()));
    }
    if trimmed.is_empty() {
        return None;
    }
    // Whatever does not fit is refused by the caller, in the words of the schema.
    match yaml::plain(trimmed) {
        data @ (Data::Integer(_) | Data::Float(_)) if is("integer") || is("number") => node(data),
        data if types.is_empty() && choices(schema).is_none() => node(data),
        data @ Data::Bool(_) if is("boolean") => node(data),
        _ => node(Data::Text(text.to_owned())),
    }
}

fn flow(text: &str, place: &Place, key: &Key, problems: &mut Vec<Problem>) -> Option<Node> {
    let nowhere = Arc::from(std::path::Path::new(""));
    if let Ok(node) = yaml::parse(text, &nowhere) {
        Some(moved(node, place))
    } else {
        let reason = "the text in brackets is not valid YAML; write [a, b] or {key: value}".to_owned();
        problems.push(Problem::Conflict { place: place.clone(), key: key.to_string(), reason });
        None
    }
}

/// Gives a whole tree one place.
fn moved(node: Node, place: &Place) -> Node {
    let data = match node.data {
        Data::List(items) => Data::List(items.into_iter().map(|item| moved(item, place)).collect()),
        Data::Map(entries) => Data::Map(
            entries
                .into_iter()
                .map(|entry| Entry { key: entry.key, place: place.clone(), value: moved(entry.value, place) })
                .collect(),
        ),
        // A number in brackets may stand where text is wanted, as it may without them.
        Data::Integer(value) => Data::Raw(value.to_string()),
        Data::Float(value) => Data::Raw(value.to_string()),
        other => other,
    };
    Node::new(place.clone(), data)
}

/// Reads `a=b,c=d`, the form of maps in the environment.
fn pairs(text: &str, place: &Place, schema: &Value, key: &Key, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut entries: Vec<Entry> = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            let node = Node::new(place.clone(), Data::Raw(text.to_owned()));
            let secret = values(schema).is_some_and(is_secret);
            problems.push(Problem::WrongValue {
                place: place.clone(),
                key: key.to_string(),
                expected: expected(schema),
                found: found(&node, secret),
                hint: "; write name=value,name=value".to_owned(),
            });
            return None;
        };
        let value = Node::new(place.clone(), Data::Raw(value.trim().to_owned()));
        entries.push(Entry { key: name.trim().to_owned(), place: place.clone(), value });
    }
    Some(Node::new(place.clone(), Data::Map(entries)))
}
