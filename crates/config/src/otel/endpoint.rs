//! The variables of OTLP: they fill the endpoint `main`, and `logs` where logs are sent elsewhere than metrics.

use std::collections::BTreeSet;

use serde_json::json;

use super::{OTEL_VARIABLES, Reading, Status, table, text};
use crate::error::Problem;
use crate::node::{Data, Entry, Node};
use crate::place::{Key, Place};
use crate::url;

const GENERIC: &str = "OTEL_EXPORTER_OTLP_";
const METRICS: &str = "OTEL_EXPORTER_OTLP_METRICS_";
const LOGS: &str = "OTEL_EXPORTER_OTLP_LOGS_";

/// One signal: its variables and the endpoint that they fill.
struct Signal {
    prefix: &'static str,
    endpoint: &'static str,
    /// The key of a path that is used as it stands.
    path: &'static str,
}

/// Returns the names of the endpoints that other layers define.
pub(super) fn names(layers: &[&Node]) -> BTreeSet<String> {
    let entries = layers.iter().filter_map(|root| root.find("exporters.otlp")).flat_map(Node::entries);
    entries.map(|entry| entry.key.clone()).collect()
}

pub(super) fn read(reading: &mut Reading<'_>) {
    let known = names(reading.above);
    let metrics = exporters(reading, "OTEL_METRICS_EXPORTER");
    let logs = exporters(reading, "OTEL_LOGS_EXPORTER");
    let chosen =
        |list: &Option<Vec<String>>, name: &str| list.as_ref().is_some_and(|list| list.iter().any(|own| own == name));
    let generic = reading.get("OTEL_EXPORTER_OTLP_ENDPOINT").is_some();

    let main = Signal { prefix: METRICS, endpoint: "main", path: "metrics_path" };
    let wanted = reading.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT").is_some()
        || generic
        || chosen(&metrics, "otlp")
        || known.contains("main");
    let own = Signal { prefix: LOGS, endpoint: "logs", path: "logs_path" };
    let apart =
        OTEL_VARIABLES.iter().any(|variable| variable.name.starts_with(LOGS) && reading.get(variable.name).is_some())
            && (generic || reading.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT").is_some() || known.contains("logs"));
    // Logs alone by OTLP still need an endpoint to go to.
    let wanted = wanted || (chosen(&logs, "otlp") && !apart);

    if wanted {
        fill(reading, &main);
    }
    if apart {
        fill(reading, &own);
        let name = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT";
        let key = Key::of("exporters.otlp.logs.metrics");
        reading.put(name, &key, &json!(false));
        reading.put(name, &Key::of("exporters.events.otlp"), &json!("logs"));
    }
    unused(reading, wanted, apart);

    if let Some(list) = &metrics {
        let name = "OTEL_METRICS_EXPORTER";
        reading.put(name, &Key::of("exporters.prometheus.enabled"), &json!(list.iter().any(|own| own == "prometheus")));
        if wanted && !list.iter().any(|own| own == "otlp") {
            reading.put(name, &Key::of("exporters.otlp.main.metrics"), &json!(false));
        }
    }
    if let Some(list) = &logs {
        let name = "OTEL_LOGS_EXPORTER";
        let key = Key::of("exporters.events.otlp");
        if !list.iter().any(|own| own == "otlp") {
            reading.put(name, &key, &json!(""));
        } else if !apart {
            reading.put(name, &key, &json!("main"));
        }
        reading.put(name, &Key::of("exporters.events.stdout"), &json!(list.iter().any(|own| own == "console")));
    }
}

/// Reads a list of exporters; None where the variable is not set or holds nothing that is known.
fn exporters(reading: &mut Reading<'_>, name: &str) -> Option<Vec<String>> {
    let text = reading.get(name)?;
    let mut known = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match (word, name) {
            ("otlp" | "none", _) | ("prometheus", "OTEL_METRICS_EXPORTER") | ("console", "OTEL_LOGS_EXPORTER") => {
                known.push(word.to_owned());
            }
            ("console", _) => {
                let message = "console is not applicable: `telesonde run` shows a live summary on a terminal by itself";
                reading.warn(name, message.to_owned());
                known.push(word.to_owned());
            }
            _ => reading.warn(name, format!("{word:?} is not an exporter of this signal; it is ignored")),
        }
    }
    (!known.is_empty()).then_some(known)
}

/// Fills one endpoint: the generic variables first, so that those of the signal win.
fn fill(reading: &mut Reading<'_>, signal: &Signal) {
    let root = Key::of("exporters.otlp").child(signal.endpoint);
    for prefix in [GENERIC, signal.prefix] {
        for variable in OTEL_VARIABLES {
            // The interval and timeout of OTEL_METRIC_EXPORT_* have no generic prefix: they are those of metrics alone.
            let own = if prefix == GENERIC {
                !variable.name.starts_with(METRICS)
                    && !variable.name.starts_with(LOGS)
                    && (signal.endpoint == "main" || variable.name.starts_with(GENERIC))
            } else {
                variable.name.starts_with(prefix)
            };
            let Status::Honoured(key) = variable.status else { continue };
            let (Some(key), true) = (key.strip_prefix("exporters.otlp.").and_then(|key| key.split_once('.')), own)
            else {
                continue;
            };
            let Some(given) = reading.get(variable.name) else { continue };
            match key.1 {
                // It needs the protocol, which may come later.
                "endpoint" => {}
                "headers" => headers(reading, variable.name, &given, &root),
                field => match variable.form.read(&given) {
                    Ok(value) => {
                        let key = Key([root.0.clone(), Key::of(field).0].concat());
                        reading.put(variable.name, &key, &value);
                    }
                    Err(reason) => reading.warn(variable.name, format!("{reason}; it is ignored")),
                },
            }
        }
    }
    endpoint(reading, signal, &root);
}

/// Takes the endpoint itself, which depends on the protocol and on `INSECURE`.
fn endpoint(reading: &mut Reading<'_>, signal: &Signal, root: &Key) {
    let own = format!("{}ENDPOINT", signal.prefix);
    let generic = format!("{GENERIC}ENDPOINT");
    let (name, specific) = if reading.get(&own).is_some() { (own, true) } else { (generic, false) };
    let Some(given) = reading.get(&name) else { return };
    let protocol = root.child("protocol");
    let above = reading.above(&protocol.to_string()).and_then(Node::text).map(str::to_owned);
    let here = reading.root.at(&protocol).and_then(Node::text).map(str::to_owned);
    let http = above.or(here).as_deref() == Some("http/protobuf");
    let given = if given.contains("://") || http {
        given
    } else {
        let insecure = ["INSECURE"].iter().find_map(|word| {
            reading.get(&format!("{}{word}", signal.prefix)).or_else(|| reading.get(&format!("{GENERIC}{word}")))
        });
        let scheme = if insecure.is_some_and(|value| value.eq_ignore_ascii_case("true")) { "http" } else { "https" };
        format!("{scheme}://{given}")
    };
    let parts = match url::parse(&given) {
        Ok(parts) => parts,
        Err(reason) => {
            reading.problems.push(Problem::Conflict {
                place: Place::variable(&name),
                key: root.child("endpoint").to_string(),
                reason,
            });
            return;
        }
    };
    let path = if parts.path.is_empty() { "/" } else { parts.path };
    let (endpoint, path) = if specific && http {
        (format!("{}://{}", parts.scheme, parts.authority), Some(path.to_owned()))
    } else {
        (given.clone(), None)
    };
    reading.root.put(&root.child("endpoint").0, text(&name, endpoint));
    if let Some(path) = path {
        reading.root.put(&root.child(signal.path).0, text(&name, path));
    }
}

/// Takes headers whole: those of the signal replace the generic ones, and those of our own configuration replace both.
fn headers(reading: &mut Reading<'_>, name: &str, given: &str, root: &Key) {
    let key = root.child("headers");
    if reading.above(&key.to_string()).is_some() {
        let message = format!("ignored, because {key} is configured; remove one of the two");
        return reading.warn(name, message);
    }
    let place = Place::variable(name);
    match table::pairs(given) {
        Err(reason) => reading.problems.push(Problem::Conflict { place, key: key.to_string(), reason }),
        Ok(pairs) => {
            let entries = pairs.into_iter().map(|(header, value)| Entry {
                key: header,
                place: place.clone(),
                value: text(name, value),
            });
            reading.root.put(&key.0, Node::new(place.clone(), Data::Map(entries.collect())));
        }
    }
}

/// Says so where variables are set that find no endpoint to fill.
fn unused(reading: &mut Reading<'_>, main: bool, logs: bool) {
    for variable in OTEL_VARIABLES {
        let Status::Honoured(key) = variable.status else { continue };
        let used =
            if variable.name.starts_with(LOGS) { logs } else { main || (logs && variable.name.starts_with(GENERIC)) };
        if key.starts_with("exporters.otlp.") && !used && reading.get(variable.name).is_some() {
            let message = "it has no effect, because no OTLP endpoint is configured; set OTEL_EXPORTER_OTLP_ENDPOINT";
            reading.warn(variable.name, message.to_owned());
        }
    }
}
