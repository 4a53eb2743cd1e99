//! `cargo xtask e2e`: the agent on the live kernel against a real OpenTelemetry Collector and a real Prometheus, all on
//! the loopback interface; with `kubernetes`, beside a real API server too; with `runtimes`, beside real container runtimes;
//! with `containers`, in such containers as the chart's pods are; with `dockerfile`, in one that Podman builds;
//! with `hubble`, on Cilium's own servers; with `dashboards`, every query that users look at; with `docs`, every
//! command that they read; with `package`, the packages.

mod certificates;
mod child;
mod compare;
pub mod containers;
mod dashboards;
mod dockerfile;
mod docs;
mod exposition;
mod http;
mod hubble;
mod kubernetes;
pub mod load;
mod outage;
mod package;
mod peers;
mod prometheus;
mod received;
mod runtimes;
pub mod seccomp;
mod snapshots;
pub mod stimulus;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Against, process, run};
use child::Program;
use peers::Peers;
use received::Received;
use stimulus::Workload;

/// The longest that a program may take to end.
const END: Duration = Duration::from_secs(10);

/// What `promtool check metrics` may say: names that the metric contract fixes.
const ALLOWED: &str = include_str!("../promtool-allow.txt");

/// Counts the checks and prints each as it is done.
struct Report {
    only: Vec<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    /// Makes a proof in a directory of its own, prints the totals, and removes the directory where it tells nothing more.
    fn of(options: &crate::Proof, prove: impl FnOnce(&Path, &mut Self) -> Result<()>) -> Result<ExitCode> {
        let mut report = Self { only: options.only.clone(), passed: 0, failed: 0, skipped: 0 };
        let dir = peers::work_dir()?;
        let result = prove(&dir, &mut report);
        peers::clean(&dir, options.keep || result.is_err() || report.failed > 0);
        report.total();
        result?;
        Ok(ExitCode::from(u8::from(report.failed > 0)))
    }

    /// Says that a proof cannot be made here, and what it lacks.
    fn skipped(what: &str, why: &str) -> ExitCode {
        println!("SKIPPED {what}: {why}");
        Self { only: Vec::new(), passed: 0, failed: 0, skipped: 1 }.total();
        ExitCode::SUCCESS
    }

    fn check(&mut self, group: &str, name: &str, check: impl FnOnce() -> Result<String>) {
        if !self.only.is_empty() && !self.only.iter().any(|only| only == group) {
            self.skipped += 1;
            return;
        }
        match check() {
            Ok(said) => {
                self.passed += 1;
                println!("ok      {group}: {name}: {said}");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {group}: {name}: {error:#}");
            }
        }
    }

    /// Counts a check that cannot be made here.
    fn skip(&mut self, group: &str, why: &str) {
        self.skipped += 1;
        println!("skipped {group}: {why}");
    }

    fn total(&self) {
        println!("\n{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped);
    }
}

/// Builds the agent, starts everything, runs the checks of the chosen groups (all by default) and ends everything.
///
/// # Errors
/// Fails when something cannot be built or started.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    match options.against {
        Against::Receivers => {}
        Against::Kubernetes => return kubernetes::run(options),
        Against::Runtimes => return runtimes::run(options),
        Against::Containers => return containers::run(options),
        Against::Dockerfile => return dockerfile::run(options),
        Against::Hubble => return hubble::run(options),
        Against::Dashboards => return dashboards::run(options),
        Against::Docs => return docs::run(options),
        Against::Package => return package::run(options),
    }
    run::binary(options.no_build)?;
    Report::of(options, |dir, report| prove(&Peers::prepare(dir.to_owned())?, report))
}

fn prove(peers: &Peers, report: &mut Report) -> Result<()> {
    let mut collector = peers.start_collector()?;
    let prometheus = peers.start_prometheus()?;
    let agent = peers.start_agent(&[])?;
    // Something is always going on, in a cgroup that outlives every check but the last.
    let load = Workload::start("load", 600_000, Duration::from_mins(10))?;

    for endpoint in peers::cumulative() {
        for (format, accept) in snapshots::FORMATS {
            report.check("compare", &format!("{endpoint} equals the {format} scrape of the same snapshot"), || {
                snapshots::equal(peers, endpoint, accept)
            });
        }
    }
    report.check("compare", "resource attributes equal target_info", || snapshots::resource(peers));
    report.check("compare", "gzip and zstd compress", || snapshots::compressed(peers));
    report.check("prometheus", "a quantile query answers", || prometheus::quantile(peers));
    report.check("prometheus", "increase() of a workload that lived 50 ms", || prometheus::short_lived(peers));
    report.check("names", "scrape, Collector's exporter and OTLP receiver agree", || names(peers));
    report.check("lint", "promtool check metrics", || promtool(peers));
    report.check("outage", "nothing lost, nothing counted twice", || outage::survive(peers, &mut collector));
    drop(load);
    report.check("shutdown", "final flush, exit code 0, nothing left in the kernel", || shutdown(peers, agent));
    prometheus.stop(END)?;
    collector.stop(END)?;
    Ok(())
}

/// The same agent has the same metric names whichever way they come into Prometheus.
fn names(peers: &Peers) -> Result<String> {
    prometheus::eventually(|| {
        let scraped = exposition::parse(&http::get(peers.scrape, "/metrics", "text/plain")?.body)?.families;
        let collected = exposition::parse(&http::get(peers.collected, "/metrics", "text/plain")?.body)?.families;
        prometheus::same_names(&BTreeMap::from([
            ("the scrape", scraped),
            ("the scrape as Prometheus stores it", prometheus::names(peers, "scraped")?),
            ("Prometheus' OTLP receiver", prometheus::names(peers, "telesonde")?),
            ("the Collector's Prometheus exporter", collected),
        ]))
    })
}

fn promtool(peers: &Peers) -> Result<String> {
    let text = http::get(peers.scrape, "/metrics", "text/plain")?.body;
    let mut child = Command::new(Peers::promtool()?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool")?;
    let mut stdin = child.stdin.take().context("promtool has no input")?;
    let written = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    written.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said)?;
    let allowed: BTreeSet<&str> = ALLOWED.lines().filter(|line| !line.starts_with('#')).collect();
    let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    let beyond: Vec<&&str> = said.iter().filter(|line| !allowed.contains(**line)).collect();
    if !beyond.is_empty() {
        bail!("says beyond the allow-list:\n  {}", beyond.iter().map(|line| **line).collect::<Vec<_>>().join("\n  "));
    }
    Ok(format!("{} remarks, all on the allow-list", said.len()))
}

/// What happened just before SIGTERM is delivered, the agent exits with 0, and the kernel has none of its programs left.
fn shutdown(peers: &Peers, agent: Program) -> Result<String> {
    const CALLS: u64 = 777;
    let programs = programs_of(agent.id())?;
    if programs.is_empty() {
        bail!("the agent holds no program");
    }
    let workload = Workload::start("last", CALLS, Duration::from_millis(20))?.finish()?;
    let status = agent.stop(END)?;
    if !status.success() {
        bail!("the agent ended with {status}");
    }
    let mut flushed = 0;
    for endpoint in peers::cumulative() {
        prometheus::eventually(|| {
            let received = Received::read(&peers.received(endpoint))?;
            match received.getppid(&workload).last().map(|point| point.value.clone()) {
                Some(received::Measured::Counter(value, _)) if value.to_bits() == (CALLS as f64).to_bits() => Ok(()),
                other => bail!("{endpoint} received {other:?} and should have received {CALLS}"),
            }
        })?;
        flushed += 1;
    }
    // The kernel frees a detached program once nobody can be in it any more, which may be after the agent's end.
    let detached = prometheus::eventually(|| match all_programs() {
        Some(all) => {
            let left: Vec<&u64> = programs.intersection(&all).collect();
            if !left.is_empty() {
                bail!("bpftool still shows the programs {left:?}");
            }
            Ok(format!("{} programs gone", programs.len()))
        }
        None => Ok(format!("{} programs not looked for, as bpftool is not installed", programs.len())),
    })?;
    Ok(format!("{flushed} endpoints have the last {CALLS} calls; {detached}"))
}

/// Returns the ids of the programs that a process holds, directly or by their links.
fn programs_of(pid: u32) -> Result<BTreeSet<u64>> {
    let mut programs = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).context("cannot look into the agent")? {
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let ids = text.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u64>().ok());
        programs.extend(ids);
    }
    Ok(programs)
}

/// Returns the ids of all programs in the kernel.
fn all_programs() -> Option<BTreeSet<u64>> {
    let text = process::output(Command::new(process::find("bpftool")?).args(["-j", "prog", "show"]))?;
    let programs: serde_json::Value = serde_json::from_str(&text).ok()?;
    Some(programs.as_array()?.iter().filter_map(|program| program["id"].as_u64()).collect())
}
