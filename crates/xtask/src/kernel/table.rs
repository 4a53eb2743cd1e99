//! The result by collector and kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What one group of tests came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Cell {
    passed: u32,
    skipped: u32,
    failed: u32,
}

/// One kernel's results by group: the module below `kernel`, or the test program's own tests.
pub struct Column {
    kernel: String,
    cells: BTreeMap<String, Cell>,
    reasons: BTreeSet<String>,
}

impl Column {
    /// Reads the console of a guest.
    pub fn read(kernel: &str, output: &str) -> Self {
        let mut column = Self { kernel: kernel.to_owned(), cells: BTreeMap::new(), reasons: BTreeSet::new() };
        let mut skipped = BTreeSet::new();
        for line in output.lines() {
            if let Some(reason) = line.trim_start().strip_prefix("SKIPPED ") {
                skipped.insert(reason.split_once(": ").map_or(reason, |(name, _)| name));
                column.reasons.insert(reason.to_owned());
            }
        }
        for line in output.lines() {
            let Some((name, result)) = line.strip_prefix("test ").and_then(|test| test.split_once(" ... ")) else {
                continue;
            };
            let Some(group) = group(name) else { continue };
            let cell = column.cells.entry(group.to_owned()).or_default();
            match result.trim() {
                "ok" if skipped.contains(name) => cell.skipped += 1,
                "ok" => cell.passed += 1,
                _ => cell.failed += 1,
            }
        }
        column
    }

    /// Gives the number of failed tests; no tests at all count as one.
    pub fn failed(&self) -> u32 {
        if self.cells.is_empty() { 1 } else { self.cells.values().map(|cell| cell.failed).sum() }
    }
}

/// Gives `tcp` of `kernel::tcp::resets_are_counted`; nothing where the test needs no kernel.
fn group(test: &str) -> Option<&str> {
    match test.split_once("::") {
        Some(("kernel", rest)) => Some(rest.split_once("::").map_or("all", |(group, _)| group)),
        Some(("harness" | "pipeline" | "registry" | "contract", _)) => None,
        _ => Some("bpf"),
    }
}

/// Writes a table: passed / skipped / failed for each group and kernel, and why tests were skipped.
pub fn render(columns: &[Column]) -> String {
    let groups: BTreeSet<&String> = columns.iter().flat_map(|column| column.cells.keys()).collect();
    let mut text = format!("{:<12}", "TESTS");
    for column in columns {
        let _ = write!(text, " {:>24}", column.kernel);
    }
    text.push_str("   passed/skipped/failed\n");
    for group in groups {
        let _ = write!(text, "{group:<12}");
        for column in columns {
            let cell = column.cells.get(group).cloned().unwrap_or_default();
            let _ = write!(text, " {:>24}", format!("{}/{}/{}", cell.passed, cell.skipped, cell.failed));
        }
        text.push('\n');
    }
    for column in columns {
        for reason in &column.reasons {
            let _ = writeln!(text, "{}: SKIPPED {reason}", column.kernel);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_becomes_a_column() {
        let output = "test kernel::tcp::a ... ok\ntest kernel::tcp::b ... ok\nSKIPPED kernel::tcp::b: no TUN\n\
                      test kernel::dns::c ... FAILED\ntest harness::lines ... ok\ntest calls ... ok\n";
        let column = Column::read("6.1", output);
        assert_eq!(column.cells["tcp"], Cell { passed: 1, skipped: 1, failed: 0 });
        assert_eq!((column.failed(), column.cells.len()), (1, 3));
        assert!(render(&[column]).contains("1/1/0"));
    }
}
