//! From a collector to both readers: the tutorial's own collectors, and every line that the agent exposes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use model::Kind;

use crate::contract;
use crate::harness::agent::{Agent, Wish};
use crate::harness::otlp::Receiver;
use crate::harness::{eventually, live, scrape};

/// Gives the tutorial's program, built if a run of this test alone has not built it.
pub fn tutorial() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let directory = Path::new(env!("CARGO_BIN_EXE_telesonde")).parent().unwrap();
        let program = directory.join("examples/custom_collector");
        if !program.exists() {
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--package", "telesonde", "--example", "custom_collector"]);
            assert!(build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success());
        }
        program
    });
    &PROGRAM
}

/// Gives the microseconds that tasks have waited for memory.
fn waited() -> Option<f64> {
    let text = fs::read_to_string("/proc/pressure/memory").ok()?;
    text.lines().find_map(|line| line.strip_prefix("some ")?.rsplit_once("total=")?.1.parse().ok())
}

#[test]
fn a_collector_of_ones_own_is_one_like_any_other() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let agent = Agent::start(Wish {
        program: Some(tutorial()),
        collectors: &["pressure: {resources: [memory]}"],
        otlp: Some(receiver.address()),
        ..Wish::default()
    });
    let status = agent.status().unwrap();
    let state = |name: &str| {
        let all = status["integrations"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(state("syscalls"), "running");
    assert_eq!(state("load"), "running");

    let load = agent.scrape();
    assert_eq!(load.all("host_load", &[]).count(), 3, "1, 5 and 15 minutes");
    assert!(load.sum("ebpf_syscall_count_total", &[]) > 0.0, "the built-in collectors run beside it");
    let pushed = eventually("the load is pushed", || receiver.number("host_load", &[("window", "15m")]));
    assert!(pushed >= 0.0);

    let Some(before) = waited() else {
        assert_eq!(state("pressure"), "unsupported", "this kernel has no pressure stall information");
        return agent.stop();
    };
    assert_eq!(state("pressure"), "running");
    let scrape = agent.scrape();
    let after = waited().unwrap();
    let some = [("resource", "memory"), ("share", "some")];
    let counted = scrape.value("host_pressure_seconds_total", &some).unwrap();
    let (least, most) = (before / 1e6, after / 1e6);
    assert!((least - 1e-6..=most + 1e-6).contains(&counted), "{least} <= {counted} <= {most}");
    assert_eq!(scrape.all("host_pressure_seconds_total", &[("resource", "cpu")]).count(), 0, "only what is configured");
    let pushed = eventually("the pressure is pushed", || receiver.number("host_pressure_seconds", &some));
    assert!(pushed >= 0.0 && pushed.is_finite());
    agent.stop();
}

#[test]
fn a_collector_of_ones_own_is_configured_and_listed() {
    let run = |arguments: &[&str]| {
        let output = Command::new(tutorial()).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (success, list, _) = run(&["list"]);
    assert!(success && list.contains("pressure") && list.contains("load"), "{list}");
    let (success, metrics, _) = run(&["metrics"]);
    assert!(success && metrics.contains("host_pressure_seconds"), "{metrics}");
    let (success, print, _) = run(&["config", "print"]);
    assert!(success && print.contains("pressure") && print.contains("memory"), "{print}");
    let (success, _, error) =
        run(&["--set", "integrations.ebpf.collectors.pressure.resorces=[cpu]", "config", "validate"]);
    assert!(!success && error.contains("resorces") && error.contains("resources"), "{error}");
}

#[test]
fn every_exposed_name_is_agreed() {
    let _kernel = live!();
    let receiver = Receiver::start();
    let agent = Agent::start(Wish { otlp: Some(receiver.address()), ..Wish::default() });
    eventually("an export is done", || receiver.number("telesonde_batch_size", &[]));
    agent.scrape();
    let text = agent.page();
    let contract = contract::contract();
    let agreed = |name: &str| {
        contract.iter().find(|(own, line)| {
            let suffix = if line.kind == Kind::Counter && !own.ends_with("_total") { "_total" } else { "" };
            format!("{own}{suffix}") == name
        })
    };
    let mut types = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        if name == "target_info" {
            continue;
        }
        let (_, line) = agreed(name).unwrap_or_else(|| panic!("tests/contract.txt lacks {name}"));
        assert_eq!(format!("{:?}", line.kind).to_lowercase(), kind, "{name}");
        types += 1;
    }
    assert!(types > 20, "only {types} families");
    let labels: Vec<String> = contract::keys().iter().map(|key| model::name::label(key).into_owned()).collect();
    for sample in scrape::Scrape::parse(&text).0 {
        for label in sample.labels.keys().filter(|label| *label != "le") {
            // Of traffic between two, each has its own.
            let key = label.strip_prefix("source_").or(label.strip_prefix("destination_")).unwrap_or(label);
            assert!(
                labels.iter().any(|known| known == key),
                "{}: {label} is in neither tests/semconv.txt nor OURS",
                sample.name
            );
        }
    }
    agent.stop();
}
