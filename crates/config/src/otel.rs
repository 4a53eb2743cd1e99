//! The standard `OTEL_*` variables: a layer below the files, so that what is configured here wins key by key.
//!
//! An unknown word or a bad number is warned of and passed over, as the OpenTelemetry specification asks: the variables
//! are often set for a whole cluster. A bad URL or header list is an error, because telemetry would silently go nowhere.

mod endpoint;
mod table;

use serde_json::{Value, json};

use crate::check;
use crate::error::{Problem, Warning};
use crate::nearest::within;
use crate::node::{Data, Node};
use crate::place::{Key, Place};

pub(crate) use table::Form;
pub use table::{OTEL_VARIABLES, OtelVariable, Status, otel_table};

/// What a reader of variables works with.
pub(crate) struct Reading<'a> {
    env: &'a [(String, String)],
    schema: &'a Value,
    /// The layers above this one, the weakest first.
    above: &'a [&'a Node],
    root: Node,
    problems: &'a mut Vec<Problem>,
    warnings: &'a mut Vec<Warning>,
}

/// Collects the layer of the standard variables.
pub(crate) fn collect(
    env: &[(String, String)],
    schema: &Value,
    above: &[&Node],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Node {
    let mut reading = Reading { env, schema, above, root: Node::empty(Place::Default), problems, warnings };
    reading.misspelt();
    reading.inapplicable();
    reading.direct();
    reading.resource();
    reading.prometheus();
    endpoint::read(&mut reading);
    reading.disabled();
    reading.root
}

impl Reading<'_> {
    /// Returns a variable that is set; an empty one counts as not set.
    fn get(&self, name: &str) -> Option<String> {
        self.env
            .iter()
            .find(|(variable, _)| variable == name)
            .map(|(_, value)| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    fn warn(&mut self, name: &str, message: String) {
        self.warnings.push(Warning { place: Place::variable(name), key: name.to_owned(), message });
    }

    /// Returns what the strongest layer above says of a key.
    fn above(&self, key: &str) -> Option<&Node> {
        self.above.iter().rev().find_map(|root| root.find(key))
    }

    /// Checks a value against its key and takes it; a value that does not fit is warned of and passed over.
    fn put(&mut self, name: &str, key: &Key, value: &Value) {
        let node = Node::from_json(value, &Place::variable(name));
        let Some(schema) = locate(self.schema, &key.0) else { return };
        let mut own = Vec::new();
        let typed = check::check(&node, schema, key, &mut own);
        match (typed, own.first()) {
            (Some(node), None) => self.root.put(&key.0, node),
            (_, Some(Problem::WrongValue { expected, found, .. })) => {
                self.warn(name, format!("{key} must be {expected}, not {found}; it is ignored"));
            }
            _ => {}
        }
    }

    fn inapplicable(&mut self) {
        for variable in OTEL_VARIABLES {
            // Those that concern traces alone are set everywhere and mean nothing here; a word about each would be noise.
            if let Status::NotApplicable(why) = variable.status
                && variable.form != Form::Traces
                && self.get(variable.name).is_some()
            {
                self.warn(variable.name, format!("not applicable: {why}"));
            }
        }
    }

    /// Names that nearly are one of the table's; those of languages and other tools begin the same way and differ by more.
    fn misspelt(&mut self) {
        let names = || OTEL_VARIABLES.iter().map(|variable| variable.name);
        let slips: Vec<(&str, &str)> = self
            .env
            .iter()
            .filter(|(name, _)| name.starts_with("OTEL_") && !names().any(|known| known == name))
            .filter_map(|(name, _)| Some((name.as_str(), within(2, name, names())?)))
            .collect();
        for (name, near) in slips {
            self.warn(name, format!("no variable has this name, so it is ignored; did you mean {near}?"));
        }
    }

    /// Takes the variables that are one value for one key.
    fn direct(&mut self) {
        for variable in OTEL_VARIABLES {
            let (Status::Honoured(key), Some(text)) = (variable.status, self.get(variable.name)) else { continue };
            let endpoint = key.starts_with("exporters.otlp.");
            if endpoint || matches!(variable.form, Form::Special | Form::Traces) {
                continue;
            }
            match variable.form.read(&text) {
                Ok(value) => self.put(variable.name, &Key::of(key), &value),
                Err(reason) => self.warn(variable.name, format!("{reason}; it is ignored")),
            }
        }
    }

    fn resource(&mut self) {
        let key = Key::of("agent.resource");
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        if let Some(text) = self.get(name) {
            match table::pairs(&text) {
                // The specification asks to discard all of a list that does not decode.
                Err(reason) => self.warn(name, format!("{reason}; all of it is ignored")),
                Ok(pairs) => {
                    for (attribute, value) in pairs {
                        self.put(name, &key.child(&attribute), &json!(value));
                    }
                }
            }
        }
        let name = "OTEL_SERVICE_NAME";
        if let Some(text) = self.get(name) {
            self.put(name, &key.child("service.name"), &json!(text));
        }
    }

    fn prometheus(&mut self) {
        let key = Key::of("exporters.prometheus.listen");
        let (host, port) = ("OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT");
        let name = if self.get(host).is_some() { host } else { port };
        let (Some(_), address, number) = (self.get(name), self.get(host), self.get(port)) else { return };
        let address = address.unwrap_or_else(|| "127.0.0.1".to_owned());
        let address = if address.contains(':') && !address.starts_with('[') { format!("[{address}]") } else { address };
        self.put(name, &key, &json!(format!("{address}:{}", number.unwrap_or_else(|| "9464".to_owned()))));
    }

    /// `OTEL_SDK_DISABLED=true`: nothing is collected or exported, short of what the configuration itself switches on.
    fn disabled(&mut self) {
        let name = "OTEL_SDK_DISABLED";
        let Some(text) = self.get(name) else { return };
        if !text.eq_ignore_ascii_case("true") {
            if !text.eq_ignore_ascii_case("false") {
                self.warn(name, "it must be true or false; it counts as false".to_owned());
            }
            return;
        }
        self.put(name, &Key::of("integrations.ebpf.enabled"), &json!(false));
        self.put(name, &Key::of("exporters.prometheus.enabled"), &json!(false));
        self.put(name, &Key::of("exporters.events.otlp"), &json!(""));
        let mut endpoints = endpoint::names(self.above);
        endpoints.extend(
            self.root.find("exporters.otlp").into_iter().flat_map(Node::entries).map(|entry| entry.key.clone()),
        );
        for endpoint in endpoints {
            self.put(name, &Key::of("exporters.otlp").child(&endpoint).child("metrics"), &json!(false));
        }
    }
}

/// Returns the schema at a path.
fn locate<'s>(schema: &'s Value, path: &[String]) -> Option<&'s Value> {
    path.iter().try_fold(schema, |schema, segment| {
        check::child(schema, segment).map(|(_, child)| child).or_else(|| check::values(schema))
    })
}

/// Wraps a value that is not checked here because the caller did.
fn text(name: &str, value: String) -> Node {
    Node::new(Place::variable(name), Data::Text(value))
}
