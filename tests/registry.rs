//! Every collector has its five places, and every metric follows the contract.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use model::{Kind, Metric};

use crate::kernel::STIMULI;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metrics() -> impl Iterator<Item = &'static Metric> {
    collectors::ALL.iter().flat_map(|descriptor| descriptor.metrics.iter().copied())
}

#[test]
fn a_collector_has_one_name_everywhere() {
    for descriptor in collectors::ALL {
        let name = descriptor.name;
        // What needs nothing of the kernel has no program, and no stimulus moves it.
        let kernel = !descriptor.needs.is_empty();
        let places = [(true, format!("crates/collectors/src/{name}.rs")), (kernel, format!("bpf/{name}.bpf.c"))];
        for (_, place) in places.iter().filter(|(wanted, _)| *wanted) {
            assert!(root().join(place).exists(), "the collector {name} lacks {place}");
        }
        assert_eq!(
            STIMULI.iter().filter(|stimulus| stimulus.collector == name).count(),
            usize::from(kernel),
            "the collector {name} lacks its line in STIMULI of tests/kernel.rs"
        );
        let sentence = descriptor.summary;
        assert!(!sentence.is_empty() && !sentence.ends_with('.'), "the summary of {name} is a heading: {sentence}");
    }
    let names: BTreeSet<_> = collectors::ALL.iter().map(|descriptor| descriptor.name).collect();
    assert_eq!(names.len(), collectors::ALL.len(), "two collectors have one name");
    assert!(STIMULI.iter().all(|stimulus| names.contains(stimulus.collector)), "a stimulus without a collector");
}

#[test]
fn a_program_file_has_a_collector() {
    // `classifier`, `floor`, `flood` and `scales` are for benches and tests; `NAME_legacy` is NAME for older kernels, `NAME_perf` with perf buffers.
    for entry in std::fs::read_dir(root().join("bpf")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = file.strip_suffix(".bpf.c") else { continue };
        let name = stem.strip_suffix("_legacy").or(stem.strip_suffix("_perf")).unwrap_or(stem);
        let known = ["classifier", "dispatcher", "floor", "flood", "gate", "scales"].contains(&name)
            || collectors::ALL.iter().any(|descriptor| descriptor.name == name);
        assert!(known, "bpf/{file} belongs to no collector of crates/collectors/src/lib.rs");
    }
}

#[test]
fn the_architecture_names_what_programs_share() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for entry in std::fs::read_dir(root().join("bpf/lib")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(text.contains(&file), "ARCHITECTURE.md does not say what bpf/lib/{file} is for");
    }
}

#[test]
fn a_metric_is_declared_once_and_whole() {
    let mut known: BTreeMap<&str, &Metric> = BTreeMap::new();
    for metric in metrics() {
        let name = metric.name.as_ref();
        assert_eq!(*known.entry(name).or_insert(metric), metric, "two metrics have one name");
        assert!(metric.help.ends_with('.'), "the help of {name} is no sentence: {}", metric.help);
        assert!(!metric.unit.is_empty(), "{name} has no unit");
        for (ending, unit) in [("_ns", "{ns}"), ("_us", "{us}"), ("_seconds", "s"), ("_bytes", "By")] {
            assert!(!name.ends_with(ending) || metric.unit == unit, "{name} is not in {unit}: {}", metric.unit);
        }
        assert_eq!(metric.kind == Kind::Histogram, !metric.bounds.is_empty(), "{name}: bounds are of histograms");
        assert!(metric.bounds.is_sorted(), "{name}: bounds ascend");
        for key in metric.attributes {
            let legal = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_'));
            assert!(legal, "{name}: {key} is no attribute key");
        }
    }
}
