//! The samples of documents, the shipped files and the generated ones.

use std::path::{Path, PathBuf};

use config::{Enabled, Sources, sections::agent::DeploymentMode};
use serde_json::Value;

use crate::support::{from, sections, text, warnings};

const NOT_YET: &str = "accepted, but what it controls is not in this version yet";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name)
}

#[test]
fn the_first_sample_loads_unchanged() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seed003_ebpf.yaml");
    let loaded = from(&[&path], &[], &[]).expect("loads");
    let ebpf = &loaded.config.integrations.ebpf;
    assert_eq!(ebpf.pin_path, Path::new("/sys/fs/bpf/tfo-agent"));
    assert_eq!(ebpf.scrape_interval.as_secs(), 15);
    assert_eq!(ebpf.exclude_processes, ["tfo-agent", "systemd"]);
    assert_eq!((ebpf.ring_buffer_size, ebpf.perf_buffer_size, ebpf.sample_rate), (65_536, 8_192, 100));
    assert_eq!(loaded.collectors[0].enabled, Enabled::True);
    let expected: Vec<String> = [
        "collectors.network.enabled",
        "collectors.file_io.enabled",
        "collectors.tcp.enabled",
        "programs_path",
        "max_stack_depth",
    ]
    .iter()
    .map(|key| format!("integrations.ebpf.{key}: {NOT_YET}"))
    .collect();
    assert_eq!(warnings(&loaded), expected);
}

#[test]
fn the_second_sample_loads_unchanged() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seed003_cilium.yaml");
    let loaded = from(&[&path], &[], &[]).expect("loads");
    let cilium = &loaded.config.integrations.ebpf.cilium;
    assert_eq!(cilium["enabled"], true);
    assert_eq!(cilium["hubble_address"], "hubble-relay.kube-system.svc:4245");
    let hubble = loaded.collectors.iter().find(|selection| selection.name == "hubble").expect("hubble");
    assert_eq!(hubble.enabled, Enabled::True);
    assert_eq!(hubble.section["exclude_namespaces"], serde_json::json!(["kube-system", "cilium"]));
    assert_eq!(hubble.section["aggregation_window"], "10s");
    assert_eq!(warnings(&loaded), Vec::<String>::new());
}

#[test]
fn the_reference_is_the_defaults() {
    let reference = config::reference(&sections());
    let loaded = text(&reference).unwrap_or_else(|errors| panic!("{errors:#?}\n{reference}"));
    assert_eq!(warnings(&loaded), Vec::<String>::new());
    let defaults = config::load(&Sources::default(), &sections()).expect("defaults");
    let json = |config: &config::Config| serde_json::to_value(config).expect("json");
    assert_eq!(json(&loaded.config), json(&defaults.config));
}

fn keys(schema: &Value, path: &str, out: &mut Vec<(String, bool)>) {
    for (name, of) in schema["properties"].as_object().into_iter().flatten() {
        // Collectors that this build lacks are named by their short forms alone.
        if of["x-absent"] == true {
            continue;
        }
        let path = format!("{path}.{name}");
        keys(of, &path, out);
        keys(&of["additionalProperties"], &path, out);
        out.push((path, of["description"].as_str().is_some_and(|words| !words.is_empty())));
    }
}

/// Every key of the schema is in the reference, set or commented out.
#[test]
fn the_reference_names_every_key_and_documents_it() {
    let reference = config::reference(&sections());
    let mut all = Vec::new();
    keys(&config::schema(&sections()), "", &mut all);
    assert!(all.len() > 100, "{}", all.len());
    for (path, documented) in all {
        let name = path.rsplit('.').next().expect("a name");
        let there = reference.lines().any(|line| {
            let line = line.trim_start();
            line.strip_prefix('#').unwrap_or(line).starts_with(&format!("{name}:"))
        });
        assert!(there, "{path} is missing in\n{reference}");
        assert!(documented || path.ends_with("latency.sample"), "{path} has no description");
    }
}

#[test]
fn the_shipped_files_load() {
    for name in ["minimal.yaml", "kubernetes.yaml", "hubble.yaml"] {
        let loaded = from(&[&shipped(name)], &[], &[]).unwrap_or_else(|errors| panic!("{name}: {errors:#?}"));
        assert_eq!(warnings(&loaded), Vec::<String>::new(), "{name}");
    }
    let kubernetes = from(&[&shipped("kubernetes.yaml")], &[("NODE_NAME", "node-1")], &[]).expect("loads").config;
    assert_eq!(kubernetes.agent.deployment_mode, DeploymentMode::Kubernetes);
    assert_eq!(kubernetes.agent.node_name, "node-1");
}

#[test]
fn what_is_printed_loads_as_the_same() {
    let source = "agent: {resource: {a.b: 'x: y'}}\nexporters: {otlp: {gate-way: {endpoint: https://g:4317, headers: {k: v}}}}\n\
                  integrations: {ebpf: {collectors: {syscalls: {latency: all, syscalls: [read]}}}}\n";
    let first = text(source).expect("loads");
    let printed = first.print();
    assert!(
        printed.contains("    gate-way:\n") && printed.contains("# f.yaml") || printed.contains("f.yaml:2"),
        "{printed}"
    );
    assert!(printed.contains("k: \"[redacted]\""), "{printed}");
    let second = text(&printed).unwrap_or_else(|errors| panic!("{errors:#?}\n{printed}"));
    let strip = |text: String| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(strip(second.print()), strip(printed));
    assert!(!format!("{first:?}").contains("\"v\""), "a secret is shown");
}

#[test]
fn the_schema_is_for_editors() {
    let schema = config::schema(&sections());
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let ebpf = &schema["properties"]["integrations"]["properties"]["ebpf"];
    assert_eq!(ebpf["additionalProperties"], false);
    assert_eq!(
        ebpf["properties"]["collectors"]["properties"]["syscalls"]["properties"]["latency"]["oneOf"][0]["enum"][0],
        "all"
    );
    assert_eq!(ebpf["properties"]["scrape_interval"]["default"], "15s");
    assert!(!schema.to_string().contains("$ref"));
}
