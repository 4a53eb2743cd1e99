//! How many instructions the kernel's verifier walks through for each program: recorded in docs/verifier.md, and compared
//! with what this machine's kernel says, so that no program comes near the verifier's limits unnoticed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process;

const FILE: &str = "docs/verifier.md";

/// What a test writes before each line of `telesonde debug programs`.
const MARK: &str = "PROGRAM ";

/// By how much a program may grow before somebody has to look at it, in percent.
const GROWTH: u64 = 20;

/// Growth of tiny programs is none.
const TINY: u64 = 50;

const DEADLINE: Duration = Duration::from_mins(1);

/// The instructions verified, by program.
pub type Counts = BTreeMap<String, u64>;

/// Reads what the programs of an agent came to from a guest's console. Programs of one name are summed.
pub fn read(console: &str) -> Counts {
    counts(console.lines().filter_map(|line| line.strip_prefix(MARK)))
}

/// Reads lines of `telesonde debug programs`; before Linux 5.16 the kernel says nothing.
fn counts<'l>(lines: impl Iterator<Item = &'l str>) -> Counts {
    let mut counts = Counts::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, _, _, verified, _] = words[..]
            && let Ok(verified) = verified.parse::<u64>()
        {
            *counts.entry(name.to_owned()).or_default() += verified;
        }
    }
    counts
}

/// Adds kernels to the record, or replaces what it has of them. Their names are as `uname -r` gives them.
///
/// # Errors
/// Fails when the file cannot be written.
pub fn record(kernels: &[(String, Counts)]) -> Result<()> {
    let path = process::root().join(FILE);
    let mut known = parse(&fs::read_to_string(&path).unwrap_or_default());
    for (release, counts) in kernels.iter().filter(|(_, counts)| !counts.is_empty()) {
        known.insert(version(release), counts.clone());
    }
    fs::write(&path, document(&known)).with_context(|| format!("cannot write {}", path.display()))
}

/// Compares with the record what this machine's kernel verifies; records it instead where that is wanted and it differs
/// by too much. Where no program can be loaded, it says why and does nothing.
///
/// # Errors
/// Fails when a program has grown too much, or is not recorded.
pub fn compare(check: bool) -> Result<()> {
    let here = match here() {
        Ok(here) => here,
        Err(why) => {
            eprintln!("{FILE} is not compared: {why:#}");
            return Ok(());
        }
    };
    let known = parse(&fs::read_to_string(process::root().join(FILE)).unwrap_or_default());
    let complaints = complaints(&known, &version(&here.0), &here.1);
    if complaints.is_empty() {
        eprintln!("{} programs take the verifier no longer than {FILE} says", here.1.len());
        return Ok(());
    }
    if check {
        bail!(
            "the verifier takes longer than {FILE} says; if that is meant, run `cargo xtask gen` and commit:\n  {}",
            complaints.join("\n  ")
        );
    }
    eprintln!("wrote {FILE}");
    record(&[here])
}

/// Starts the agent that `cargo xtask gen` has built with its defaults; gives the kernel's name and what it verified.
///
/// # Errors
/// Fails when the agent does not come up.
pub fn here() -> Result<(String, Counts)> {
    if !process::is_root() {
        bail!("only root loads programs");
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's name")?;
    let dir = std::env::temp_dir().join(format!("telesonde-verifier-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let program = process::target().join("debug/telesonde");
    let socket = format!("admin.socket={}", dir.join("admin.sock").display());
    let mut agent = Command::new(&program);
    agent.args(["run", "--quiet", "--set", &socket, "--set", "health.listen=127.0.0.1:0"]);
    agent.args(["--set", "exporters.prometheus.listen=127.0.0.1:0"]);
    // As in the guests: what makes events is attached, and the first collector says why it cannot be.
    agent.args([
        "--set",
        "exporters.events.stdout=true",
        "--set",
        "integrations.ebpf.collectors.syscalls.enabled=require",
    ]);
    let mut agent = agent.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let listed = list(&mut agent, Command::new(&program).args(["debug", "programs", "--set", &socket]));
    let _ = Command::new("sh").args(["-c", &format!("kill {}", agent.id())]).status();
    let ended = Instant::now();
    while agent.try_wait()?.is_none() && ended.elapsed() < DEADLINE {
        sleep(Duration::from_millis(20));
    }
    let _ = agent.kill();
    let _ = fs::remove_dir_all(&dir);
    let counts = counts(listed?.lines());
    if counts.is_empty() {
        bail!("Linux {} does not tell", release.trim());
    }
    Ok((release.trim().to_owned(), counts))
}

fn list(agent: &mut Child, question: &mut Command) -> Result<String> {
    let begin = Instant::now();
    while begin.elapsed() < DEADLINE {
        if let Some(status) = agent.try_wait()? {
            bail!("the agent ended with {status}; `telesonde check` says why");
        }
        // The socket is the last thing that it opens, when all collectors have been tried.
        if let Some(text) = process::output(question) {
            return Ok(text);
        }
        sleep(Duration::from_millis(50));
    }
    bail!("the agent did not come up within a minute")
}

/// Says which programs take the verifier too long: against the same kernel, or where that has not been recorded against
/// the most that any kernel took.
fn complaints(known: &BTreeMap<String, Counts>, version: &str, here: &Counts) -> Vec<String> {
    let recorded = |name: &str| match known.get(version) {
        Some(counts) => counts.get(name).copied(),
        None => known.values().filter_map(|counts| counts.get(name).copied()).max(),
    };
    let complain = |(name, &now): (&String, &u64)| match recorded(name) {
        None => Some(format!("{name} is not recorded for Linux {version}, and takes {now} instructions")),
        Some(was) if now > was.max(TINY) * (100 + GROWTH) / 100 => {
            Some(format!("{name} takes {now} instructions, not {was}"))
        }
        Some(_) => None,
    };
    here.iter().filter_map(complain).collect()
}

/// Gives `6.1` of `6.1.0-40-cloud-amd64`.
fn version(release: &str) -> String {
    let numbers: Vec<&str> = release.split(|c: char| !c.is_ascii_digit()).take(2).collect();
    numbers.join(".")
}

fn document(known: &BTreeMap<String, Counts>) -> String {
    let mut text = String::from(include_str!("verifier.md"));
    let mut kernels: Vec<(&String, &Counts)> = known.iter().collect();
    kernels.sort_by_key(|(version, _)| version.split('.').filter_map(|part| part.parse().ok()).collect::<Vec<u32>>());
    let names: BTreeSet<&String> = kernels.iter().flat_map(|(_, counts)| counts.keys()).collect();
    text.push_str("\n| program |");
    for (version, _) in &kernels {
        let _ = write!(text, " {version} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(kernels.len()));
    for name in names {
        let _ = write!(text, "| {name} |");
        for (_, counts) in &kernels {
            let _ = match counts.get(name) {
                Some(count) => write!(text, " {count} |"),
                None => write!(text, " |"),
            };
        }
        text.push('\n');
    }
    text
}

/// Reads what [`document`] wrote.
fn parse(text: &str) -> BTreeMap<String, Counts> {
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let Some(heading) = rows.next() else { return BTreeMap::new() };
    let versions: Vec<&str> = heading.split('|').skip(1).map(str::trim).collect();
    let mut known: BTreeMap<String, Counts> = BTreeMap::new();
    for row in rows {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap_or_default();
        for (version, cell) in versions.iter().zip(cells) {
            if let Ok(count) = cell.parse::<u64>() {
                known.entry((*version).to_owned()).or_default().insert(name.to_owned(), count);
            }
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(counts: &[(&str, u64)]) -> Counts {
        counts.iter().map(|&(name, count)| (name.to_owned(), count)).collect()
    }

    #[test]
    fn a_console_has_the_counts_of_its_programs() {
        let console = "PROGRAM tcp/close  tracing  0011  412  0\nPROGRAM dns/ingress  cgroup_skb  0022  -  -\n\
                       PROGRAM PROGRAM  TYPE  TAG  VERIFIED  MISSES\ntest a ... ok\n";
        assert_eq!(read(console), of(&[("tcp/close", 412)]));
    }

    #[test]
    fn what_is_written_is_read() {
        let known: BTreeMap<_, _> = [("6.12", of(&[("a/b", 1), ("c/d", 2)])), ("6.1", of(&[("a/b", 3)]))]
            .map(|(v, c)| (v.to_owned(), c))
            .into();
        let text = document(&known);
        assert!(text.ends_with("| program | 6.1 | 6.12 |\n|---|---|---|\n| a/b | 3 | 1 |\n| c/d | | 2 |\n"), "{text}");
        assert_eq!(parse(&text), known);
        assert_eq!(version("6.12.94+deb13-cloud-amd64"), "6.12");
    }

    #[test]
    fn growth_beyond_a_fifth_is_told() {
        let known: BTreeMap<_, _> = [("6.1", of(&[("a/b", 1000), ("e/f", 10)])), ("6.12", of(&[("a/b", 100)]))]
            .map(|(v, c)| (v.to_owned(), c))
            .into();
        assert_eq!(complaints(&known, "6.1", &of(&[("a/b", 1200), ("e/f", 60)])), Vec::<String>::new());
        assert_eq!(complaints(&known, "6.12", &of(&[("a/b", 121)])), ["a/b takes 121 instructions, not 100"]);
        assert_eq!(complaints(&known, "6.18", &of(&[("a/b", 1200)])), Vec::<String>::new());
        assert_eq!(complaints(&known, "6.18", &of(&[("c/d", 7)])).len(), 1);
    }
}
