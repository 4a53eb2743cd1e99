//! The JSON Schema of the whole tree: it serves editors, and it is what the checker walks.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::collectors::{self, Section};
use crate::inert;
use crate::sections::Config;

const WITHOUT_EFFECT: &str = " Without effect in this version.";

/// Returns the JSON Schema (draft 2020-12) of a configuration file, with the collectors' sections in their places.
pub fn schema(sections: &[Section]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut root = settings.into_generator().into_root_schema_for::<Config>().to_value();
    if let Some(ebpf) =
        root.pointer_mut("/properties/integrations/properties/ebpf/properties").and_then(Value::as_object_mut)
    {
        let described = ebpf.get("collectors").and_then(|old| old.get("description")).cloned().unwrap_or_default();
        let names = collectors::names(sections);
        let of: Map<String, Value> = names
            .iter()
            .map(|name| {
                let section = sections.iter().find(|section| section.name == *name);
                ((*name).to_owned(), section.map_or_else(|| absent(name), |section| own(section, true)))
            })
            .collect();
        ebpf.insert("collectors".to_owned(), json!({"type": "object", "description": described, "properties": of}));
        let words = ebpf.get("cilium").and_then(|old| old.get("description")).cloned().unwrap_or_default();
        let cilium =
            collectors::hubble(sections).map_or_else(|| json!({"type": "object"}), |section| own(section, false));
        ebpf.insert("cilium".to_owned(), cilium);
        ebpf["cilium"]["description"] = words;
        for name in names {
            ebpf.insert(
                collectors::short_form(name),
                json!({"type": "boolean", "description": format!("Short form of collectors.{name}.enabled.{}", later(name, sections))}),
            );
        }
    }
    annotate(&mut root);
    close(&mut root);
    root
}

fn enabled(default: bool) -> Value {
    json!({"enum": [true, false, "require"], "default": default,
        "description": "true: if this kernel can; require: an unmet need is fatal."})
}

/// What there is to say of collectors that this build lacks.
fn later(name: &str, sections: &[Section]) -> &'static str {
    if collectors::is_present(name, sections) { "" } else { WITHOUT_EFFECT }
}

/// Says in the descriptions which keys have no effect so far.
fn annotate(root: &mut Value) {
    for key in inert::silent() {
        let pointer = format!("/properties/{}/description", key.replace('.', "/properties/"));
        if let Some(Value::String(words)) = root.pointer_mut(&pointer) {
            words.push_str(WITHOUT_EFFECT);
        }
    }
}

fn absent(name: &str) -> Value {
    json!({"type": "object", "x-absent": true, "properties": {"enabled": enabled(true)},
        "description": format!("The collector {name} is not in this version yet.")})
}

fn own(section: &Section, on: bool) -> Value {
    let mut schema = resolved(&section.schema, &section.schema, 0);
    let mut properties = Map::from_iter([("enabled".to_owned(), enabled(on))]);
    if let Some(Value::Object(own)) = schema.get_mut("properties").map(Value::take) {
        properties.extend(own.into_iter().filter(|(name, _)| name != "enabled"));
    }
    if let Some(defaults) = section.defaults.as_object() {
        for (name, default) in defaults {
            if let Some(Value::Object(property)) = properties.get_mut(name) {
                property.entry("default").or_insert_with(|| default.clone());
            }
        }
    }
    if let Some(schema) = schema.as_object_mut() {
        for word in ["$schema", "$defs", "title", "required", "additionalProperties"] {
            schema.shift_remove(word);
        }
        // A section of nothing but `enabled` has nothing to describe.
        if properties.len() == 1 {
            schema.shift_remove("description");
        }
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), Value::Object(properties));
    }
    schema
}

/// Puts what `$ref` points to in its place; words beside a `$ref` (a description) stay.
fn resolved(schema: &Value, root: &Value, depth: usize) -> Value {
    match schema {
        // Sixteen levels are far beyond any section; a recursive type ends as "anything".
        _ if depth > 16 => Value::Bool(true),
        Value::Object(map) => {
            let target = map.get("$ref").and_then(Value::as_str).and_then(|to| root.pointer(to.strip_prefix('#')?));
            let mut whole = match target.map(|target| resolved(target, root, depth + 1)) {
                Some(Value::Object(target)) => target,
                _ => Map::new(),
            };
            for (key, value) in map.iter().filter(|(key, _)| *key != "$ref") {
                let value = if key == "default" || key == "examples" {
                    value.clone()
                } else {
                    resolved(value, root, depth + 1)
                };
                whole.insert(key.clone(), value);
            }
            Value::Object(whole)
        }
        Value::Array(items) => items.iter().map(|item| resolved(item, root, depth + 1)).collect(),
        other => other.clone(),
    }
}

/// Makes every map with known keys refuse others.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("properties").is_some_and(Value::is_object) {
                map.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            for (_, value) in map.iter_mut().filter(|(key, _)| *key != "default" && *key != "examples") {
                close(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
