//! The environment: `TELESONDE_A__B__C` for any key, and the four names that manifests commonly set.
//!
//! Only variables that match a known key are taken: Kubernetes injects others with the same prefix.

use serde_json::Value;

use crate::check::{child, values};
use crate::error::Warning;
use crate::nearest::nearest;
use crate::node::{Data, Node};
use crate::place::{Key, Place};

const PREFIX: &str = "TELESONDE_";

/// Variables without our prefix, and the keys that they are known to set.
const COMMON: [(&str, &str); 4] = [
    ("DEPLOYMENT_MODE", "agent.deployment_mode"),
    ("NODE_NAME", "agent.node_name"),
    ("POD_NAME", "agent.pod_name"),
    ("POD_NAMESPACE", "agent.pod_namespace"),
];

/// Variables of ours that are not keys: the command line reads them.
const COMMAND_LINE: [&str; 2] = ["TELESONDE_CONFIG", "TELESONDE_SET"];

/// Collects the variables without our prefix; each is too common a name for a strange value to be an error.
pub(crate) fn common(env: &[(String, String)]) -> Node {
    let mut root = Node::empty(Place::Default);
    for (name, key) in COMMON {
        if let Some((_, value)) = env.iter().find(|(variable, value)| variable == name && !value.is_empty()) {
            root.put(&Key::of(key).0, Node::new(Place::variable(name), Data::Raw(value.clone())));
        }
    }
    root
}

/// Collects the variables with our prefix that name a key; warns of those that nearly do.
pub(crate) fn prefixed(env: &[(String, String)], schema: &Value, warnings: &mut Vec<Warning>) -> Node {
    let mut root = Node::empty(Place::Default);
    let mut ours: Vec<&(String, String)> = env.iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    for (name, value) in ours {
        let rest = &name[PREFIX.len()..];
        if injected(rest) || COMMAND_LINE.contains(&name.as_str()) {
            continue;
        }
        let segments: Vec<&str> = rest.split("__").collect();
        if let Some(path) = resolve(&segments, schema, "__") {
            root.put(&path, Node::new(Place::variable(name), Data::Raw(value.clone())));
        } else if let Some(near) = near(rest, schema) {
            warnings.push(Warning {
                place: Place::variable(name),
                key: name.clone(),
                message: format!("no key has this name, so it is ignored; did you mean {near}?"),
            });
        }
    }
    root
}

/// Follows segments through the schema; the keys of user maps are taken in lower case, and keep what separates them.
pub(crate) fn resolve(segments: &[&str], schema: &Value, separator: &str) -> Option<Vec<String>> {
    let Some((first, rest)) = segments.split_first() else { return Some(Vec::new()) };
    if let Some((name, schema)) = child(schema, first) {
        let mut path = vec![name.to_owned()];
        path.extend(resolve(rest, schema, separator)?);
        return Some(path);
    }
    let of = values(schema)?;
    if first.is_empty() {
        return None;
    }
    let lower = |text: &str| if separator == "__" { text.to_ascii_lowercase() } else { text.to_owned() };
    if of.get("properties").is_some() {
        let mut path = vec![lower(first)];
        path.extend(resolve(rest, of, separator)?);
        return Some(path);
    }
    Some(vec![lower(&segments.join(separator))])
}

/// Tells the variables that Kubernetes sets for a Service of our name: `TELESONDE_SERVICE_HOST`, `TELESONDE_PORT_9464_TCP_ADDR`…
fn injected(rest: &str) -> bool {
    if rest.contains("__") {
        return false;
    }
    let rest = format!("_{rest}");
    let numbered = rest.match_indices("_PORT_").any(|(at, word)| {
        let tail = &rest[at + word.len()..];
        let digits = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        digits > 0 && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| tail[digits..].starts_with(protocol))
    });
    numbered
        || rest.ends_with("_SERVICE_HOST")
        || rest.ends_with("_SERVICE_PORT")
        || rest.contains("_SERVICE_PORT_")
        || rest.ends_with("_PORT")
}

/// Returns the variable that was probably meant; the separator is the usual slip.
fn near(rest: &str, schema: &Value) -> Option<String> {
    let mut known = Vec::new();
    enumerate(schema, "", &mut known);
    // A user's own name stands where the list says MAIN.
    let segments: Vec<&str> = rest.split("__").collect();
    if let ["EXPORTERS", "OTLP", name, ..] = segments.as_slice() {
        known = known.into_iter().map(|key| key.replace("OTLP__MAIN", &format!("OTLP__{name}"))).collect();
    }
    let flat = |text: &str| text.replace("__", "_").to_ascii_uppercase();
    if let Some(same) = known.iter().find(|key| flat(key) == flat(rest)) {
        return Some(format!("{PREFIX}{same}"));
    }
    nearest(rest, known.iter().map(String::as_str)).map(|near| format!("{PREFIX}{near}"))
}

fn enumerate(schema: &Value, prefix: &str, known: &mut Vec<String>) {
    let joined = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}__{name}") };
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let own = joined(&name.to_ascii_uppercase());
        enumerate(schema, &own, known);
        known.push(own);
    }
    if let Some(of) = values(schema).filter(|of| of.get("properties").is_some()) {
        enumerate(of, &joined("MAIN"), known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;

    fn read(env: &[(&str, &str)]) -> (Value, Vec<String>) {
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut warnings = Vec::new();
        let node = prefixed(&env, &schema(&[]), &mut warnings);
        (node.json(), warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn variables_reach_every_key() {
        let (json, warnings) = read(&[
            ("TELESONDE_EXPORTERS__OTLP__MAIN__ENDPOINT", "http://c:4317"),
            ("TELESONDE_EXPORTERS__OTLP__MAIN__HEADERS__X_TENANT", "7"),
            ("TELESONDE_SERIES_TTL", "1m"),
            ("TELESONDE_AGENT__RESOURCE__TEAM", "core"),
            ("PATH", "/bin"),
        ]);
        assert_eq!(
            json,
            serde_json::json!({
                "agent": {"resource": {"team": "core"}},
                "exporters": {"otlp": {"main": {"endpoint": "http://c:4317", "headers": {"x_tenant": "7"}}}},
                "series_ttl": "1m"
            })
        );
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_kubernetes_injects_is_passed_over_in_silence() {
        let (json, warnings) = read(&[
            ("TELESONDE_SERVICE_HOST", "10.0.0.1"),
            ("TELESONDE_SERVICE_PORT", "9464"),
            ("TELESONDE_SERVICE_PORT_METRICS", "9464"),
            ("TELESONDE_PORT", "tcp://10.0.0.1:9464"),
            ("TELESONDE_PORT_9464_TCP", "tcp://10.0.0.1:9464"),
            ("TELESONDE_PORT_9464_TCP_ADDR", "10.0.0.1"),
            ("TELESONDE_AGENT_SERVICE_HOST", "10.0.0.1"),
            ("TELESONDE_SOMETHING_ELSE_ENTIRELY", "1"),
        ]);
        assert_eq!((json, warnings), (serde_json::json!({}), vec![]));
    }

    #[test]
    fn near_misses_are_told() {
        let (_, warnings) = read(&[
            ("TELESONDE_EXPORTERS__OTLP__MAIN__ENDPIONT", "http://c:4317"),
            ("TELESONDE_EXPORTERS_PROMETHEUS_LISTEN", "127.0.0.1:1"),
            ("TELESONDE_SERIES_TLL", "1m"),
        ]);
        assert_eq!(
            warnings,
            [
                "environment variable TELESONDE_EXPORTERS_PROMETHEUS_LISTEN: no key has this name, so it is ignored; did you mean TELESONDE_EXPORTERS__PROMETHEUS__LISTEN?",
                "environment variable TELESONDE_EXPORTERS__OTLP__MAIN__ENDPIONT: no key has this name, so it is ignored; did you mean TELESONDE_EXPORTERS__OTLP__MAIN__ENDPOINT?",
                "environment variable TELESONDE_SERIES_TLL: no key has this name, so it is ignored; did you mean TELESONDE_SERIES_TTL?",
            ]
        );
    }
}
