//! Checks one layer against the schema: every value at its own place, so that a mistake is found even where a later layer hides it.
//!
//! Text from variables and the command line gets its type here, because only the schema knows which one is meant.

mod expected;
mod form;

use serde_json::Value;

use crate::error::Problem;
use crate::nearest::nearest;
use crate::node::{Data, Entry, Node};
use crate::place::Key;

pub(crate) use expected::{brief, choices, expected, found};

/// Returns the typed value without nulls, or None where it is a null or wrong.
pub(crate) fn check(node: &Node, schema: &Value, key: &Key, problems: &mut Vec<Problem>) -> Option<Node> {
    if matches!(node.data, Data::Null) {
        return None;
    }
    if let Some(choices) = choices(schema) {
        return choice(node, schema, &choices, key, problems);
    }
    if let Some(branches) = branches(schema) {
        return alternative(node, schema, branches, key, problems);
    }
    let types = types(schema);
    if let Data::Raw(text) = &node.data {
        let node = form::typed(text, &node.place, schema, &types, key, problems)?;
        return check(&node, schema, key, problems);
    }
    let of = |name: &str| types.is_empty() || types.contains(&name);
    let fits = match &node.data {
        Data::Map(_) => of("object"),
        Data::List(_) => of("array"),
        Data::Bool(_) => of("boolean"),
        Data::Integer(_) => of("integer") || of("number"),
        Data::Float(_) => of("number"),
        Data::Text(_) => of("string"),
        Data::Null | Data::Raw(_) => false,
    };
    if !fits {
        problems.push(wrong(node, schema, key, expected::type_hint(node, schema, &types)));
        return None;
    }
    match &node.data {
        Data::Map(entries) => Some(map(node, entries, schema, key, problems)),
        Data::List(items) => {
            let all = &Value::Bool(true);
            let of = schema.get("items").unwrap_or(all);
            let items: Vec<Node> =
                items.iter().enumerate().filter_map(|(i, item)| check(item, of, &key.item(i), problems)).collect();
            Some(Node::new(node.place.clone(), Data::List(items)))
        }
        _ => match form::refuse(&node.data, schema) {
            None => Some(node.clone()),
            Some(refusal) => {
                let mut problem = wrong(node, schema, key, refusal.hint);
                if let (Problem::WrongValue { found, .. }, Some(shown)) = (&mut problem, refusal.shown) {
                    shown.clone_into(found);
                }
                problems.push(problem);
                None
            }
        },
    }
}

/// Returns the schemas between which a value may choose.
pub(crate) fn branches(schema: &Value) -> Option<&Vec<Value>> {
    ["oneOf", "anyOf"].iter().find_map(|word| schema.get(word)?.as_array())
}

/// Returns the names of the types that a schema allows; none means any.
pub(crate) fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect(),
        _ => Vec::new(),
    }
}

/// Returns the schema of one key of a map, looking into alternatives too.
pub(crate) fn child<'s>(schema: &'s Value, key: &str) -> Option<(&'s str, &'s Value)> {
    if let Some(branches) = branches(schema) {
        return branches.iter().find_map(|branch| child(branch, key));
    }
    schema
        .get("properties")?
        .as_object()?
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
        .map(|(name, schema)| (name.as_str(), schema))
}

/// Returns the schema of the values of a map whose keys are the user's.
pub(crate) fn values(schema: &Value) -> Option<&Value> {
    schema.get("additionalProperties").filter(|values| values.is_object())
}

pub(crate) fn is_secret(schema: &Value) -> bool {
    schema.get("writeOnly") == Some(&Value::Bool(true))
}

fn wrong(node: &Node, schema: &Value, key: &Key, hint: Option<String>) -> Problem {
    Problem::WrongValue {
        place: node.place.clone(),
        key: key.to_string(),
        expected: expected(schema),
        found: found(node, is_secret(schema)),
        hint: hint.map(|hint| format!("; {hint}")).unwrap_or_default(),
    }
}

fn choice(node: &Node, schema: &Value, choices: &[Value], key: &Key, problems: &mut Vec<Problem>) -> Option<Node> {
    let json = match &node.data {
        Data::Raw(text) => choices.iter().find(|choice| expected::bare(choice) == text.trim()).cloned(),
        _ => Some(node.json()).filter(|value| choices.contains(value)),
    };
    if let Some(value) = json {
        return Some(Node::from_json(&value, &node.place));
    }
    let words: Vec<String> = choices.iter().map(expected::bare).collect();
    let hint = node.text().and_then(|text| {
        let word = expected::truth(text).filter(|word| words.iter().any(|choice| choice == word));
        word.or_else(|| nearest(text, words.iter().map(String::as_str)))
    });
    problems.push(wrong(node, schema, key, hint.map(|word| format!("did you mean {word}?"))));
    None
}

fn alternative(
    node: &Node,
    schema: &Value,
    branches: &[Value],
    key: &Key,
    problems: &mut Vec<Problem>,
) -> Option<Node> {
    // Text takes anything that comes from the environment, so it is tried last.
    let (last, first): (Vec<&Value>, Vec<&Value>) =
        branches.iter().partition(|branch| types(branch) == ["string"] && choices(branch).is_none());
    let mut closest: Option<Vec<Problem>> = None;
    for branch in first.into_iter().chain(last) {
        let mut own = Vec::new();
        let typed = check(node, branch, key, &mut own);
        if own.is_empty() {
            return typed;
        }
        // A map that was refused inside was meant for this alternative; its own messages say more.
        let inside = matches!(node.data, Data::Map(_)) && types(branch).contains(&"object");
        if inside && closest.as_ref().is_none_or(|closest| own.len() < closest.len()) {
            closest = Some(own);
        }
    }
    match closest {
        Some(own) => problems.extend(own),
        None => problems.push(wrong(node, schema, key, None)),
    }
    None
}

fn map(node: &Node, entries: &[Entry], schema: &Value, key: &Key, problems: &mut Vec<Problem>) -> Node {
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    let mut typed = Vec::with_capacity(entries.len());
    for entry in entries {
        let own = key.child(&entry.key);
        let any = &Value::Bool(true);
        let of = match (properties.and_then(|properties| properties.get(&entry.key)), others) {
            (Some(of), _) | (None, Some(of @ Value::Object(_))) => of,
            (None, None | Some(Value::Bool(true))) => any,
            (None, Some(_)) => {
                let known: Vec<&str> = properties.iter().flat_map(|known| known.keys()).map(String::as_str).collect();
                let hint = expected::key_hint(&entry.key, &known);
                problems.push(Problem::UnknownKey { place: entry.place.clone(), key: own.to_string(), hint });
                continue;
            }
        };
        if let Some(value) = check(&entry.value, of, &own, problems) {
            typed.push(Entry { key: entry.key.clone(), place: entry.place.clone(), value });
        }
    }
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !entries.iter().any(|entry| entry.key == required) {
            let reason = format!("the key {required} is missing");
            problems.push(Problem::Conflict { place: node.place.clone(), key: key.to_string(), reason });
        }
    }
    Node::new(node.place.clone(), Data::Map(typed))
}

#[cfg(test)]
mod tests;
