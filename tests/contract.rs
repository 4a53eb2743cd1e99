//! Every metric is part of the contract, has one name on both paths, speaks the semantic conventions, and is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use model::{Kind, Metric, name};

/// The metrics of the contract.
const CONTRACT: &str = include_str!("contract.txt");
/// The keys of the pinned semantic conventions.
const CONVENTIONS: &str = include_str!("semconv.txt");

/// Keys of our own: the semantic conventions have none for them.
const OURS: &[&str] = &[
    "action",
    "api_key",
    "arch",
    "cgroup.id",
    "cgroup.path",
    "collector",
    "destination.app",
    "destination.identity",
    "destination.namespace",
    "destination.pod",
    "destination.workload",
    "direction",
    "dns.question.type",
    "dns.response_code",
    "event",
    "exporter",
    "family",
    "flag",
    "identity",
    "ips_returned",
    "kernel",
    "map",
    "match",
    "method",
    "metric",
    "operation",
    "otel.metric.overflow",
    "outcome",
    "part",
    "port",
    "program",
    "program_type",
    "protocol",
    "qtype",
    "qtypes",
    "rcode",
    "reason",
    "reporter",
    "resource",
    "revision",
    "role",
    "rpc.service",
    "service",
    "share",
    "source",
    "source.app",
    "source.identity",
    "source.namespace",
    "source.pod",
    "source.workload",
    "state",
    "status",
    "step",
    "subtype",
    "syscall",
    "systemd.unit",
    "topic",
    "type",
    "verdict",
    "version",
    "workload.name",
];

/// A line of the contract.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub kind: Kind,
    pub unit: String,
    pub attributes: Vec<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {} with {:?}", self.kind, self.unit, self.attributes)
    }
}

/// Gives the contract by name.
pub fn contract() -> BTreeMap<String, Line> {
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, kind, unit, attributes] = fields[..] else { panic!("no line of the contract: {line}") };
        let kind = match kind {
            "counter" => Kind::Counter,
            "gauge" => Kind::Gauge,
            "histogram" => Kind::Histogram,
            other => panic!("{name} is a {other}"),
        };
        let attributes = attributes.split(',').map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
        (name.to_owned(), Line { kind, unit: unit.to_owned(), attributes: attributes.collect() })
    };
    CONTRACT.lines().filter(|line| !line.starts_with('#')).map(parse).collect()
}

/// Gives every attribute key that may appear, as OTLP has it.
pub fn keys() -> BTreeSet<&'static str> {
    CONVENTIONS.lines().filter(|line| !line.starts_with('#')).chain(OURS.iter().copied()).collect()
}

/// Gives the metrics that are declared as statics.
fn metrics() -> impl Iterator<Item = &'static Metric> {
    let collectors = collectors::ALL.iter().flat_map(|descriptor| descriptor.metrics.iter().copied());
    let readers = export::otlp::telemetry::METRICS.into_iter().chain(export::prometheus::telemetry::METRICS);
    let readers = readers.chain(export::events::METRICS);
    let own = runtime::own::SHARED.iter().chain(runtime::own::METRICS).copied();
    collectors.chain(own).chain(readers)
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn every_metric_is_in_the_contract() {
    let contract = contract();
    let declared: BTreeSet<&str> = metrics().map(|metric| &*metric.name).collect();
    let missing: Vec<_> = contract.keys().filter(|name| !declared.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "agreed, but declared nowhere: {missing:?}");
    for metric in metrics() {
        let attributes = metric.attributes.iter().map(|&key| key.to_owned()).collect();
        let declared = Line { kind: metric.kind, unit: metric.unit.to_string(), attributes };
        let line = contract.get(&*metric.name).unwrap_or_else(|| panic!("tests/contract.txt lacks {}", metric.name));
        assert_eq!(&declared, line, "{}: declared {declared}, agreed {line}", metric.name);
    }
}

#[test]
fn every_attribute_key_is_of_the_conventions_or_ours() {
    let keys = keys();
    for (name, line) in contract() {
        for key in &line.attributes {
            assert!(keys.contains(key.as_str()), "{name}: {key} is in neither tests/semconv.txt nor OURS");
        }
    }
    let twice: Vec<_> = OURS.iter().filter(|key| CONVENTIONS.lines().any(|line| line == **key)).collect();
    assert!(twice.is_empty(), "the conventions have these: {twice:?}");
}

#[test]
fn the_scopes_name_the_pinned_conventions() {
    let pinned = CONVENTIONS.lines().find_map(|line| line.strip_prefix("# https://")).unwrap();
    assert_eq!(name::SCHEMA_URL, format!("https://{pinned}"), "tests/semconv.txt is of another version");
}

#[test]
fn every_metric_is_asked_for_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = std::fs::read_to_string(root.join("tests/kernel.rs")).unwrap();
    text += &std::fs::read_to_string(root.join("tests/hubble.rs")).unwrap();
    for path in ["tests/kernel", "crates/collectors/tests"].iter().flat_map(|path| sources(&root.join(path))) {
        text += &std::fs::read_to_string(path).unwrap();
    }
    for metric in collectors::ALL.iter().flat_map(|descriptor| descriptor.metrics) {
        assert!(
            text.contains(&*metric.name),
            "no test in tests/kernel, tests/hubble.rs or crates/collectors/tests asks for {}",
            metric.name
        );
    }
}

/// The name that Prometheus' OTLP receiver and the collector's exporter make of a metric (default translation): the
/// unit's word and `_total` are appended unless the name has them.
fn translated(name: &str, unit: &str, kind: Kind) -> String {
    let word = match unit {
        "s" => "seconds",
        "ms" => "milliseconds",
        "us" => "microseconds",
        "ns" => "nanoseconds",
        "By" => "bytes",
        "KiBy" => "kibibytes",
        "MiBy" => "mebibytes",
        "%" => "percent",
        "Hz" => "hertz",
        "Cel" => "celsius",
        "1" if kind == Kind::Gauge => "ratio",
        "1" => "",
        unit if unit.starts_with('{') => "",
        other => other,
    };
    let mut tokens: Vec<&str> =
        name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty()).collect();
    if !word.is_empty() && !tokens.contains(&word) {
        tokens.push(word);
    }
    if kind == Kind::Counter {
        tokens.retain(|&token| token != "total");
        tokens.push("total");
    }
    tokens.join("_")
}

#[test]
fn both_paths_give_one_name() {
    for (name, line) in contract() {
        let metric = Metric {
            name: name.clone().into(),
            kind: line.kind,
            unit: line.unit.clone().into(),
            help: "".into(),
            attributes: &[],
            bounds: &[],
        };
        let scraped = name::prometheus(&metric);
        assert_eq!(scraped, translated(&name, &line.unit, line.kind), "{name} by scrape and by OTLP");
        assert_eq!(scraped.ends_with("_total"), line.kind == Kind::Counter, "{scraped}");
        assert_eq!(scraped.matches("total").count(), usize::from(line.kind == Kind::Counter), "{scraped}");
        assert!(!scraped.ends_with("_created") && !scraped.ends_with("_bucket"), "{scraped} is a reserved name");
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(scraped.chars().all(legal), "{scraped}");
    }
    assert_eq!(translated("a_count", "s", Kind::Counter), "a_count_seconds_total");
    assert_eq!(translated("used", "1", Kind::Gauge), "used_ratio");
}
