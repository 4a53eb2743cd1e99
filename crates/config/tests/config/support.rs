//! A collector's section as the collectors crate would give it, and short ways to load.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use config::{Loaded, Section, Sources};
use serde_json::{Value, json};

/// A directory of one test, removed at its end.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("telesonde-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn sections() -> Vec<Section> {
    fn judge(section: &Value) -> Result<(), String> {
        match section["syscalls"].as_array().into_iter().flatten().find(|name| *name == "raed") {
            Some(_) => Err("raed is not a system call; did you mean read?".to_owned()),
            None => Ok(()),
        }
    }
    let defaults = json!({
        "mode": "auto", "hubble_address": "hubble-relay.kube-system.svc:4245", "hubble_node_address": "", "hubble_tls_enabled": false,
        "hubble_tls_cert": "", "hubble_tls_key": "", "hubble_tls_ca": "", "collect_flows": true,
        "collect_l7_flows": true, "collect_drops": true, "collect_policies": true, "collect_services": true,
        "kubernetes_enabled": true, "watch_namespaces": [], "exclude_namespaces": [], "flow_buffer_size": 4096,
        "flow_sample_rate": 1, "max_flows_per_second": 10000, "aggregation_window": "10s"
    });
    let of = |value: &Value| match value {
        Value::Bool(_) => json!({"type": "boolean", "description": "."}),
        Value::Number(_) => json!({"type": "integer", "description": "."}),
        Value::Array(_) => json!({"type": "array", "items": {"type": "string"}, "description": "."}),
        _ => json!({"type": "string", "description": "."}),
    };
    let properties: serde_json::Map<_, _> =
        defaults.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), of(value))).collect();
    let schema = json!({"type": "object", "properties": properties});
    let hubble = Section { name: "hubble", defaults, schema, check: |_| Ok(()) };
    vec![
        Section {
            name: "syscalls",
            defaults: json!({"syscalls": [], "latency": {"sample": 16}, "latency_by_syscall": []}),
            schema: json!({
                "type": "object",
                "description": "System calls.",
                "properties": {
                    "syscalls": {"type": "array", "items": {"type": "string"}, "description": "Only these; empty for all."},
                    "latency": {"$ref": "#/$defs/Latency", "description": "Which calls are timed."},
                    "latency_by_syscall": {"type": "array", "items": {"type": "string"}, "description": "Timed one by one."}
                },
                "$defs": {"Latency": {"oneOf": [
                    {"type": "string", "enum": ["all", "off"]},
                    {"type": "object", "required": ["sample"], "properties": {"sample": {"type": "integer", "minimum": 1, "maximum": 65536}}}
                ]}}
            }),
            check: judge,
        },
        hubble,
    ]
}

pub fn pairs(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn from(files: &[&Path], env: &[(&str, &str)], set: &[&str]) -> Result<Loaded, Vec<String>> {
    let sources = Sources {
        files: files.iter().map(|path| path.to_path_buf()).collect(),
        default_file: None,
        env: pairs(env),
        set: set.iter().map(|text| (*text).to_owned()).collect(),
    };
    config::load(&sources, &sections()).map_err(|errors| errors.0.iter().map(ToString::to_string).collect())
}

/// Loads one text; errors name it `f.yaml`.
pub fn text(text: &str) -> Result<Loaded, Vec<String>> {
    let directory = Directory::new();
    let path = directory.file("f.yaml", text);
    let prefix = format!("{}/", directory.0.display());
    from(&[&path], &[], &[]).map_err(|errors| errors.iter().map(|error| error.replace(&prefix, "")).collect())
}

pub fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.message)).collect()
}
