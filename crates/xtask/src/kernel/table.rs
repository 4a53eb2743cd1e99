//! What tests came to, by collector and kernel.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What one test came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped(String),
    Failed,
}

/// The rows of the table, and the modules of the tests that belong there beside that of the row's own name. What is about
/// no collector is about the agent.
const ROWS: [(&str, &[&str]); 13] = [
    ("agent", &[]),
    ("block", &[]),
    ("bpf", &[]),
    ("cgroup", &[]),
    ("connection", &[]),
    ("dns", &[]),
    ("file_io", &[]),
    ("memory", &[]),
    ("network", &["foreign"]),
    ("process", &["flood"]),
    ("scheduler", &[]),
    ("syscalls", &["churn", "counts", "granularity", "limits", "quantiles"]),
    ("tcp", &[]),
];

/// The results of one kernel.
pub struct Column {
    /// The kernel and how it was booted.
    pub title: String,
    tests: BTreeMap<String, Outcome>,
    /// How long each test took on this machine.
    seconds: BTreeMap<String, f64>,
    /// How many guests it took.
    pub boots: usize,
}

impl Column {
    /// Reads the console of one guest, or of several of the same kind, one after another: a later result counts.
    pub fn read(title: &str, output: &str) -> Self {
        let mut column = Self { title: title.to_owned(), tests: BTreeMap::new(), seconds: BTreeMap::new(), boots: 0 };
        for line in output.lines() {
            if let Some(reason) = line.trim_start().strip_prefix("SKIPPED ") {
                // A test says so before its end; the harness shows it behind its result.
                let (name, reason) = reason.split_once(": ").unwrap_or((reason, "no reason given"));
                column.tests.insert(name.to_owned(), Outcome::Skipped(reason.to_owned()));
            } else if let Some((name, result)) = line.strip_prefix("test ").and_then(|test| test.split_once(" ... ")) {
                let outcome = if result.trim() == "ok" { Outcome::Passed } else { Outcome::Failed };
                column.tests.insert(name.to_owned(), outcome);
            } else if let Some(line) = line.strip_prefix("guest: ") {
                column.note(line);
            } else if line == "host: boot" {
                column.boots += 1;
            } else if let Some((name, seconds)) = line.strip_prefix("host: ").and_then(|line| line.split_once(' ')) {
                column.seconds.insert(name.to_owned(), seconds.parse().unwrap_or_default());
            }
        }
        column
    }

    /// Reads what a guest says of its tests, and what was said of its fall.
    fn note(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("begin ") {
            // Until its result comes.
            self.tests.insert(name.to_owned(), Outcome::Failed);
        } else if let Some((name, _)) = line.split_once(" met the emulator's fault ") {
            self.tests.remove(name);
        } else if let Some((name, _)) = line.split_once(" ended with ") {
            self.tests.insert(name.to_owned(), Outcome::Failed);
        }
    }

    /// Gives the tests that have a result.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tests.keys().map(String::as_str)
    }

    /// Gives the tests that failed; a guest without any test counts as one.
    pub fn failed(&self) -> Vec<&str> {
        let failed = self.tests.iter().filter(|(_, outcome)| **outcome == Outcome::Failed);
        let failed: Vec<&str> = failed.map(|(name, _)| name.as_str()).collect();
        if self.tests.is_empty() { vec!["(no test has run)"] } else { failed }
    }

    /// Gives the tests that were skipped, with the reasons.
    pub fn skipped(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tests.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Skipped(reason) => Some((name.as_str(), reason.as_str())),
            _ => None,
        })
    }

    /// Gives the rows of which no test has passed.
    pub fn without_a_pass(&self) -> Vec<&'static str> {
        rows().filter(|row| self.count(row).0 == 0).collect()
    }

    /// Gives those of the names of which there is no result.
    pub fn without<'n>(&self, names: &[&'n str]) -> Vec<&'n str> {
        names.iter().copied().filter(|name| !self.tests.contains_key(*name)).collect()
    }

    /// Gives how many tests of a row passed, were skipped, failed.
    fn count(&self, row: &str) -> (usize, usize, usize) {
        let of = |kind: fn(&Outcome) -> bool| {
            self.tests.iter().filter(|(name, outcome)| group(name) == Some(row) && kind(outcome)).count()
        };
        (
            of(|outcome| *outcome == Outcome::Passed),
            of(|outcome| matches!(outcome, Outcome::Skipped(_))),
            of(|outcome| *outcome == Outcome::Failed),
        )
    }

    /// Gives how many tests there are, and how long they took together.
    pub fn totals(&self) -> (usize, f64) {
        (self.tests.len(), self.seconds.values().sum())
    }

    fn cell(&self, row: &str) -> String {
        match self.count(row) {
            (0, 0, 0) => "untested".to_owned(),
            (passed, skipped, failed) => format!("{passed}/{skipped}/{failed}"),
        }
    }
}

fn rows() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|(row, _)| *row)
}

/// Gives `tcp` of `kernel::tcp::resets_are_counted`; nothing where the test needs no kernel.
fn group(test: &str) -> Option<&'static str> {
    let module = match test.split_once("::") {
        Some(("kernel", rest)) => rest.split_once("::").map_or("agent", |(module, _)| module),
        Some(("harness" | "pipeline" | "registry" | "contract", _)) => return None,
        _ => "bpf",
    };
    let row = ROWS.iter().find(|(row, modules)| *row == module || modules.contains(&module));
    Some(row.map_or("agent", |(row, _)| row))
}

/// Writes a table for a terminal: passed/skipped/failed for each row and kernel, and why tests were skipped.
pub fn render(columns: &[Column]) -> String {
    let widths: Vec<usize> = columns.iter().map(|column| column.title.len()).collect();
    let mut text = format!("{:<12}", "TESTS");
    for column in columns {
        let _ = write!(text, " {}", column.title);
    }
    text.push_str("   passed/skipped/failed\n");
    for row in rows() {
        let _ = write!(text, "{row:<12}");
        for (column, width) in columns.iter().zip(&widths) {
            let _ = write!(text, " {:>width$}", column.cell(row));
        }
        text.push('\n');
    }
    for column in columns {
        for (name, reason) in column.skipped() {
            let _ = writeln!(text, "{}: SKIPPED {name}: {reason}", column.title);
        }
        for name in column.failed() {
            let _ = writeln!(text, "{}: FAILED {name}", column.title);
        }
    }
    text
}

/// Writes the closing line of a run.
pub fn totals(columns: &[Column]) -> String {
    let count = |kind: fn(&Outcome) -> bool| -> usize {
        columns.iter().map(|column| column.tests.values().filter(|outcome| kind(outcome)).count()).sum()
    };
    format!(
        "{} passed, {} failed, {} skipped",
        count(|outcome| *outcome == Outcome::Passed),
        count(|outcome| *outcome == Outcome::Failed),
        count(|outcome| matches!(outcome, Outcome::Skipped(_))),
    )
}

/// Writes the same as a document.
pub fn document(columns: &[Column]) -> String {
    let mut text = String::from("| tests |");
    for column in columns {
        let _ = write!(text, " {} |", column.title);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(columns.len()));
    text.push('\n');
    for row in rows() {
        let _ = write!(text, "| {row} |");
        for column in columns {
            let _ = write!(text, " {} |", column.cell(row));
        }
        text.push('\n');
    }
    for (name, which) in [("tests run", 0), ("minutes", 1), ("boots", 2)] {
        let _ = write!(text, "| {name} |");
        for column in columns {
            let (tests, seconds) = column.totals();
            let _ = match which {
                0 => write!(text, " {tests} |"),
                2 if column.boots > 0 => write!(text, " {} |", column.boots),
                1 if seconds > 0.0 => write!(text, " {:.0} |", seconds / 60.0),
                _ => write!(text, " unknown |"),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_becomes_a_column() {
        let output = "test kernel::tcp::a ... ok\nhost: kernel::tcp::a 1.5\ntest kernel::tcp::b ... ok\n\
                      SKIPPED kernel::tcp::b: no TUN\ntest kernel::dns::c ... FAILED\ntest harness::lines ... ok\n\
                      test calls ... ok\nguest: kernel::counts::d ended with 124\n";
        let mut column = Column::read("6.1", output);
        assert_eq!(column.count("tcp"), (1, 1, 0));
        assert_eq!(column.failed(), ["kernel::counts::d", "kernel::dns::c"]);
        assert_eq!(column.skipped().collect::<Vec<_>>(), [("kernel::tcp::b", "no TUN")]);
        assert!(render(&[column]).contains("1/1/0"));
        let fallen = "host: boot\nguest: begin a\ntest a ... ok\nguest: begin b\nguest: b met the emulator's fault x\n";
        let again = format!("{fallen}host: boot\nguest: begin b\n");
        let (fallen, again) = (Column::read("6.1", fallen), Column::read("6.1", &again));
        assert_eq!((fallen.names().collect::<Vec<_>>(), fallen.boots), (vec!["a"], 1));
        assert_eq!((again.failed(), again.boots), (vec!["b"], 2));
        assert_eq!(totals(&[again]), "1 passed, 1 failed, 0 skipped");
        column = Column::read("6.1", &format!("{output}test kernel::tcp::b ... ok\n"));
        assert_eq!((column.count("tcp"), column.count("syscalls")), ((2, 0, 0), (0, 0, 1)));
        assert_eq!((group("kernel::reload::a"), group("kernel::dns::named::b")), (Some("agent"), Some("dns")));
        assert_eq!(column.without(&["kernel::tcp::a", "kernel::tcp::x"]), ["kernel::tcp::x"]);
        assert!(column.without_a_pass().contains(&"block") && !column.without_a_pass().contains(&"tcp"));
        assert!(document(&[column]).contains("| tcp | 2/0/0 |\n"));
    }
}
