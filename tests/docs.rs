//! The pages for users keep up with what the agent says: docs/troubleshooting.md explains every finding and reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use enrich::Reason;
use serde_json::Value;

use crate::harness::live;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap()
}

/// What stands between backticks in the first column of the tables.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2))
}

/// The Rust sources below a directory, with strings that go on over lines put together.
fn sources(dir: &Path, all: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            for line in fs::read_to_string(path).unwrap().lines() {
                let line = line.trim_start();
                let goes_on = line.strip_suffix('\\');
                all.push_str(goes_on.unwrap_or(line));
                all.push_str(if goes_on.is_some() { "" } else { "\n" });
            }
        }
    }
}

fn source() -> String {
    let mut all = String::new();
    sources(&root().join("crates"), &mut all);
    all
}

#[test]
fn what_check_finds_is_explained() {
    let _kernel = live!();
    let mut command = Command::new(env!("CARGO_BIN_EXE_telesonde"));
    let output = command.args(["check", "--format", "json", "--set", "admin.socket="]).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let page = page();
    let quoted: BTreeSet<&str> = quoted(&page).collect();
    for finding in report["host"].as_array().unwrap() {
        let what = finding["what"].as_str().unwrap();
        assert!(quoted.contains(what), "docs/troubleshooting.md does not explain `{what}`");
    }
    for state in ["usable", "degraded", "unsupported", "failed", "disabled"] {
        assert!(quoted.contains(state), "docs/troubleshooting.md does not explain the state `{state}`");
    }
    for reason in Reason::ALL {
        assert!(quoted.contains(reason.as_str()), "docs/troubleshooting.md does not explain `{}`", reason.as_str());
    }
}

/// What a message of the agent begins with in the sources of collectors, and where it stands.
const REASONS: [&str; 9] = [
    "lacking.push(\"",
    ".degrade(\"",
    ".degrade(\n\"",
    ".degrade(format!(\"",
    ".degrade(format!(\n\"",
    "MakeError::Unsupported(\n\"",
    "MakeError::Unsupported(format!(\"",
    "MakeError::Idle(\"",
    "let why = \"",
];

#[test]
fn every_reason_of_a_collector_is_explained() {
    let mut source = String::new();
    sources(&root().join("crates/collectors/src"), &mut source);
    let page = page();
    let (mut found, mut missing) = (0, Vec::new());
    for before in REASONS {
        for (at, _) in source.match_indices(before) {
            let reason = &source[at + before.len()..];
            let end = reason.find('"').unwrap();
            // What differs is a placeholder there and an ellipsis here.
            let fixed = reason[..end].split(['{', '}']).step_by(2).max_by_key(|part| part.len()).unwrap();
            let begin: String = fixed.trim().chars().take(40).collect();
            if !page.contains(&begin) {
                missing.push(&reason[..end]);
            }
            found += 1;
        }
    }
    assert_eq!(missing, [""; 0], "docs/troubleshooting.md does not explain these");
    assert!(found > 15, "only {found} reasons were found in the sources");
}

#[test]
fn what_is_quoted_is_said_by_the_agent() {
    let (page, source) = (page(), source());
    let parts = |message: &str| -> Vec<String> {
        message.split('…').map(|part| part.trim_matches([' ', '(', ')', ':', '.']).to_owned()).collect()
    };
    let unsaid = quoted(&page).filter(|message| parts(message).iter().any(|part| !source.contains(part)));
    assert_eq!(unsaid.collect::<Vec<_>>(), [""; 0], "docs/troubleshooting.md quotes these, which nothing says");
}

#[test]
fn every_fault_has_a_test() {
    let page = fs::read_to_string(root().join("docs/faults.md")).unwrap();
    let mut source = source();
    sources(&root().join("tests"), &mut source);
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault"));
    let mut faults = 0;
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            assert!(
                source.contains(&format!("fn {name}(")),
                "docs/faults.md names the test {name}, which is not there"
            );
        }
        faults += 1;
    }
    assert!(faults >= 20, "{faults} faults");
}
