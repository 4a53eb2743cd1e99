//! `cargo xtask bench`: runs a bench as root on this machine and keeps what it printed, with the machine's description, in docs/performance.md.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::process::{self, ByHand};
use crate::setup;

/// A bench.
#[derive(Clone, Copy, ValueEnum)]
pub enum Name {
    /// Nanoseconds that the programs add to a system call.
    Overhead,
    /// What the table of connections costs by packet, gather and memory, beside programs on an interface.
    Connection,
    /// Events a second from the kernel to a sink on one core.
    Events,
    /// What a gather and both expositions cost by number of series.
    Encode,
    /// What a look-up of names costs, a pod's memory, and a gather beside 10,000 pods.
    Names,
    /// Flows a second of one core from Hubble's socket to counters.
    Hubble,
}

/// Runs one bench and replaces its part of docs/performance.md.
///
/// # Errors
/// Fails when the bench cannot be built, fails, or cannot be raised.
pub fn run(name: Name) -> Result<()> {
    if matches!(name, Name::Overhead | Name::Connection) { setup::overhead() } else { setup::build() }?;
    let package = if matches!(name, Name::Hubble) { "telesonde-collectors" } else { "telesonde" };
    let name = name.to_possible_value().context("a bench has a name")?.get_name().to_owned();
    let mut command = process::cargo()?;
    command.args(["bench", "--package", package, "--bench", &name]);
    if !process::run_raised(&mut command)? {
        let by_hand = format!("sudo cargo xtask bench {name}");
        return Err(ByHand::new("a bench loads programs into the kernel and needs root", by_hand).into());
    }
    let printed = watch(command)?;
    record(&name, &printed)
}

/// Runs a command to its end, shows what it prints and gives it.
///
/// # Errors
/// Fails when it cannot be started or ends with another code than 0.
pub fn watch(mut command: Command) -> Result<String> {
    let shown = process::line(&command);
    eprintln!("$ {shown}");
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let mut printed = String::new();
    for line in BufReader::new(child.stdout.take().context("it has no output")?).lines() {
        let line = line?;
        println!("{line}");
        writeln!(printed, "{}", line.trim_end())?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(printed)
}

/// Replaces the part of docs/performance.md that has a name by what was printed on this machine.
///
/// # Errors
/// Fails when the page cannot be written.
pub fn record(name: &str, printed: &str) -> Result<()> {
    let path = process::root().join("docs/performance.md");
    let page = fs::read_to_string(&path).unwrap_or_else(|_| PAGE.to_owned());
    let part = format!("{}\n```text\n{}\n```\n", machine(), printed.trim());
    fs::write(&path, replace(&page, name, &part)).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("wrote docs/performance.md");
    Ok(())
}

const PAGE: &str = "# Performance\n\nMeasured by `cargo xtask bench` with `overhead`, `connection`, `events`, `encode` and `names`, which replace their own part of this page.\n";

/// Puts `part` between the markers of `name`, at the end of the page where it has none.
fn replace(page: &str, name: &str, part: &str) -> String {
    let (open, close) = (format!("<!-- bench:{name} -->\n"), format!("<!-- /bench:{name} -->\n"));
    let between = page.find(&open).and_then(|start| {
        let start = start + open.len();
        Some((start, start + page[start..].find(&close)?))
    });
    match between {
        Some((start, end)) => format!("{}{part}{}", &page[..start], &page[end..]),
        None => format!("{page}\n## {name}\n\n{open}{part}{close}"),
    }
}

/// Describes this machine in one line per fact.
fn machine() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let version = |program: &str| {
        process::output(Command::new(program).arg("--version")).and_then(|text| text.lines().next().map(str::to_owned))
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned());
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = field("/proc/cpuinfo", "model name").or_else(|| field("/proc/cpuinfo", "CPU implementer"));
    let facts = [
        ("CPU", model.map(|model| format!("{model}, {cpus} usable"))),
        ("architecture", Some(std::env::consts::ARCH.to_owned())),
        ("kernel", kernel),
        ("memory", field("/proc/meminfo", "MemTotal")),
        ("clang", version("clang")),
        ("rustc", version("rustc")),
    ];
    let line = |(name, fact): &(&str, Option<String>)| format!("- {name}: {}\n", fact.as_deref().unwrap_or("unknown"));
    facts.iter().map(line).collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_replaces_only_its_own() {
        let first = replace(PAGE, "overhead", "one\n");
        let second = replace(&first, "encode", "two\n");
        let third = replace(&second, "overhead", "three\n");
        assert!(third.contains("<!-- bench:overhead -->\nthree\n<!-- /bench:overhead -->"));
        assert!(third.contains("two\n") && !third.contains("one\n"));
        assert!(third.starts_with(PAGE));
    }
}
