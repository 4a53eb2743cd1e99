//! `cargo xtask test`: every test of the workspace, those on the live kernel as root, with the skipped ones counted as such.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result};

use crate::tracer::Tracer;
use crate::{process, setup};

/// How many failed tests get a second attempt; more are no accident.
const SECOND_ATTEMPTS: usize = 3;

/// Runs `cargo test` with these arguments and closes with one line of totals.
///
/// Tests of the live kernel share it with everything else on the machine, and some kernels lose an event now and then
/// (CONTRIBUTING.md). A few that fail run once more, alone, and are named when only that passes.
///
/// # Errors
/// Fails when cargo cannot be started, and when the tracer that was asked for cannot be had or ends before the tests.
pub fn run(tracer: bool, args: &[String]) -> Result<ExitCode> {
    setup::test()?;
    let (for_cargo, for_tests) = split(args);
    let (mut command, raised) = command(for_cargo, for_tests)?;
    if !raised {
        eprintln!("Tests on the live kernel need root, which cannot be had here: they will report themselves skipped.");
    }
    let tracer = if tracer { Some(Tracer::start()?) } else { None };
    let mut tally = Tally::default();
    let mut status = tally.watch(&mut command)?;
    if (1..=SECOND_ATTEMPTS).contains(&tally.failures.len()) {
        let names: Vec<String> = std::mem::take(&mut tally.failures).into_iter().collect();
        println!("\nonce more, alone: {}", names.join(", "));
        let exact: Vec<String> =
            ["--exact", "--test-threads=1"].map(String::from).into_iter().chain(names.clone()).collect();
        let mut again = Tally::default();
        let second = again.watch(&mut self::command(for_cargo, &exact)?.0)?;
        if second.success() && again.passed == names.len() as u64 {
            status = second;
            tally.failed -= again.passed;
            tally.passed += again.passed;
            tally.skipped.extend(again.skipped);
            for name in names {
                println!("PASSED AT THE SECOND ATTEMPT {name}");
            }
        }
    }
    if let Some(tracer) = tracer {
        println!("bpftrace counted {}", tracer.stop()?);
    }
    for reason in &tally.skipped {
        println!("SKIPPED {reason}");
    }
    let strict = process::is_ci() && raised && Path::new("/sys/kernel/btf/vmlinux").exists();
    let unexcused = strict && !tally.skipped.is_empty();
    if unexcused {
        println!("a test was skipped although this machine can run BPF: that counts as a failure in CI");
    }
    if !status.success() && tally.failed == 0 {
        println!("cargo test ended with {status}");
        tally.failed += 1;
    }
    println!("\n{}", tally.line());
    Ok(ExitCode::from(u8::from(!status.success() || unexcused || tally.failed > 0)))
}

/// Makes the command, and says whether its tests will be root.
fn command(for_cargo: &[String], for_tests: &[String]) -> Result<(Command, bool)> {
    let mut command = process::cargo()?;
    command.args(["test", "--no-fail-fast"]);
    let selects = |arg: &String| {
        ["-p", "--package", "--workspace", "--all"].iter().any(|s| arg == s || arg.starts_with("--package="))
    };
    if !for_cargo.iter().any(selects) {
        // With the feature, the proof's own unit tests are among them.
        command.args(["--workspace", "--features", "telesonde-xtask/e2e"]);
    }
    // Without --show-output the reason of a skipped test stays in the harness.
    command.args(for_cargo).args(["--", "--show-output"]).args(for_tests);
    let raised = process::run_raised(&mut command)?;
    Ok((command, raised))
}

/// Separates the arguments for cargo from those after `--`.
fn split(args: &[String]) -> (&[String], &[String]) {
    match args.iter().position(|arg| arg == "--") {
        Some(at) => (&args[..at], &args[at + 1..]),
        None => (args, &[]),
    }
}

/// Sums what the test binaries say.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    skipped: BTreeSet<String>,
    /// The names of those that failed.
    failures: BTreeSet<String>,
    in_successes: bool,
}

impl Tally {
    /// Runs the command to its end, and shows of what it prints what is worth it.
    fn watch(&mut self, command: &mut Command) -> Result<ExitStatus> {
        eprintln!("$ {}", process::line(command));
        let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
        let stdout = child.stdout.take().context("cargo has no output")?;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read what cargo prints")?;
            if self.read(&line) {
                println!("{line}");
            }
        }
        child.wait().context("cannot await cargo")
    }

    /// Reads one line; returns whether it is worth showing.
    fn read(&mut self, line: &str) -> bool {
        if let Some(reason) = line.trim_start().strip_prefix("SKIPPED ") {
            self.skipped.insert(reason.to_owned());
            return false;
        }
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.insert(name.to_owned());
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if let Some(result) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            let count = |word: &str| -> u64 {
                result
                    .split(&[';', '.'][..])
                    .filter_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u64>().ok())
                    .sum()
            };
            self.passed += count("passed");
            self.failed += count("failed");
            self.ignored += count("ignored");
        }
        !self.in_successes
    }

    /// Returns the closing line; a skipped test is not a passed one.
    fn line(&self) -> String {
        let skipped = self.skipped.len() as u64;
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed.saturating_sub(skipped),
            self.failed,
            self.ignored + skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a ... ok
test kernel::b ... ok
test c ... FAILED

successes:

---- kernel::b stdout ----
SKIPPED kernel::b: needs root


successes:
    a
    kernel::b

failures:

---- c stdout ----
boom

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s

test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";

    #[test]
    fn totals_count_a_skipped_test_as_skipped() {
        let mut tally = Tally::default();
        let shown: Vec<&str> = OUTPUT.lines().filter(|line| tally.read(line)).collect();
        assert_eq!(tally.line(), "6 passed, 1 failed, 3 skipped");
        assert!(shown.contains(&"boom"), "the output of a failed test is shown");
        assert!(!shown.contains(&"    a"), "the output of passed tests is not");
        assert_eq!(tally.failures.iter().collect::<Vec<_>>(), ["c"]);
        assert_eq!(tally.skipped.iter().collect::<Vec<_>>(), ["kernel::b: needs root"]);
    }

    #[test]
    fn arguments_split_at_the_dashes() {
        let args = ["-p", "x", "--", "name"].map(String::from);
        let (cargo, tests) = split(&args);
        assert_eq!((cargo.len(), tests.len()), (2, 1));
        assert_eq!(split(&args[..2]).1.len(), 0);
    }
}
