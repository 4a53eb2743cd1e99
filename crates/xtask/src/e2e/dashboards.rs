//! `cargo xtask e2e dashboards`: every query of the dashboards, and every metric of the alerts, against a real Prometheus that scraped
//! a real agent under load, once with native and once with classic histograms, and that the agent pushed to.

mod grafana;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::hubble::server::Server;
use super::load::{Bounded, Load};
use super::{END, Report, peers, prometheus};
use crate::chart::files;
use crate::tools::{self, Tool};
use crate::{process, run};

/// What cannot be shown here, and why: the beginning of a query or the name of an alert's metric, and the reason.
const ALLOWED: &str = include_str!("../../dashboards-allow.txt");

/// The ways in which Prometheus has the agent's series, by job.
const JOBS: [(&str, &str); 3] =
    [("native", "scraped, native"), ("classic", "scraped, classic"), ("telesonde", "pushed")];

/// What the dashboards' variables stand for: a rate needs a few scrapes.
const VARIABLES: [(&str, &str); 6] = [
    ("$__rate_interval", "15s"),
    ("$instance", ".*"),
    ("$namespace", ".*"),
    ("$pod", ".*"),
    ("$container", ".*"),
    ("$unit", ".*"),
];

/// The longest that all queries of a dashboard may take to have data.
const PATIENCE: Duration = Duration::from_mins(1);

/// What the agent may take of memory.
const AMPLE: u64 = 4 << 30;

/// Runs the proof.
///
/// # Errors
/// Fails when something cannot be built or started.
pub fn run(options: &crate::Proof) -> Result<ExitCode> {
    run::binary(options.no_build)?;
    Report::of(options, prove)
}

/// The series, and what goes on meanwhile.
struct Stage {
    prometheus: u16,
    hubble: Option<Server>,
}

fn prove(dir: &Path, report: &mut Report) -> Result<()> {
    let hubble = if tools::installed(Tool::CiliumHubble) {
        Some(Server::node(dir, &tools::install(Tool::CiliumHubble)?, "node-1", false)?)
    } else {
        None
    };
    let held = (0..2).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<Vec<_>, _>>()?;
    let ports = held.iter().map(|l| Ok(l.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
    let (scrape, prometheus) = (ports[0], ports[1]);
    fs::write(dir.join("prometheus.yaml"), scraping(scrape))?;
    fs::write(dir.join("telesonde.yaml"), configuration(dir, scrape, prometheus, hubble.as_ref()))?;
    drop(held);
    let server = peers::start_prometheus(dir, prometheus)?;
    // A budget and a limit that are never reached: what is shown of them is there all the same.
    let bounded = Bounded::new("agent", AMPLE)?;
    let agent = peers::start_agent(dir, scrape, bounded.command(&peers::agent()), &[dir.join("telesonde.yaml")])?;
    let mut load = Load::start()?;
    load.kill_one()?;
    let stage = Stage { prometheus, hubble };
    let mut boards = Vec::new();
    for file in files(&process::root().join("examples/grafana"), "json")? {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        boards.push((name.clone(), serde_json::from_str(&fs::read_to_string(&file)?)?));
        for (job, way) in JOBS {
            report.check("dashboards", &format!("{name}, {way}"), || stage.dashboard(&file, job));
        }
    }
    report.check("grafana", "what it would make of them", || grafana::understood(&boards));
    report.check("alerts", "every metric that they are about", || stage.alerts());
    report.check("allowed", "at most one query in twenty", allowed);
    drop(load);
    agent.stop(END)?;
    server.stop(END)?;
    Ok(())
}

fn scraping(agent: u16) -> String {
    let target = format!("static_configs: [{{targets: ['127.0.0.1:{agent}']}}]");
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
         - {{job_name: native, scrape_native_histograms: true, {target}}}\n\
         - {{job_name: classic, scrape_native_histograms: false, scrape_protocols: [OpenMetricsText1.0.0], {target}}}\n"
    )
}

fn configuration(dir: &Path, scrape: u16, prometheus: u16, hubble: Option<&Server>) -> String {
    let cilium = hubble.map_or_else(String::new, |server| {
        format!(
            "    cilium: {{enabled: require, mode: node, hubble_node_address: '127.0.0.1:{}', kubernetes_enabled: false}}\n",
            server.port
        )
    });
    format!(
        "integrations:\n  ebpf:\n    collectors: {{dns: {{timeout: 200ms}}, tcp: {{rtt_interval: 1s}}}}\n{cilium}\
         exporters:\n  prometheus: {{listen: '127.0.0.1:{scrape}'}}\n  otlp:\n    \
         main: {{endpoint: 'http://127.0.0.1:{prometheus}/api/v1/otlp', protocol: http/protobuf, compression: gzip, interval: 1s}}\n  \
         events: {{stdout: true, otlp: ''}}\n\
         health: {{listen: '127.0.0.1:0'}}\nbudget: {{cpu_percent: 10000, window: 1s}}\nadmin: {{socket: {}/admin.sock}}\n",
        dir.display()
    )
}

impl Stage {
    /// Every query of a dashboard has data of a job, those aside that are allowed to have none.
    fn dashboard(&self, file: &Path, job: &str) -> Result<String> {
        if self.hubble.is_none() && file.ends_with("hubble.json") {
            return Ok("not tried, as Cilium's Hubble is not built (`cargo xtask tools cilium-hubble`)".to_owned());
        }
        let board: Value = serde_json::from_str(&fs::read_to_string(file)?).context("it is no JSON")?;
        let queries = queries(&board);
        let all = queries.len();
        let mut empty: BTreeSet<&String> = queries.iter().filter(|query| reason(query).is_none()).collect();
        let tried = empty.len();
        let started = Instant::now();
        while !empty.is_empty() && started.elapsed() < PATIENCE {
            if let Some(hubble) = &self.hubble {
                hubble.emit(70)?;
            }
            let mut still = BTreeSet::new();
            for query in empty {
                if !self.answers(&with(query, job))? {
                    still.insert(query);
                }
            }
            empty = still;
            if !empty.is_empty() {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        if !empty.is_empty() {
            let list = empty.into_iter().fold(String::new(), |mut list, query| {
                let _ = write!(list, "\n  {query}");
                list
            });
            bail!("no data for{list}");
        }
        Ok(format!("{tried} of {all} queries have data"))
    }

    /// Says whether a query gives a number, or a histogram.
    fn answers(&self, query: &str) -> Result<bool> {
        let result = prometheus::ask(self.prometheus, query, None)?;
        let number = |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
        Ok(result.iter().any(|series| number(series) || series["histogram"].is_array()))
    }

    /// The expressions of alerts are empty while all is well; what they are about is there.
    fn alerts(&self) -> Result<String> {
        let mut names = BTreeSet::new();
        for file in files(&process::root().join("examples/prometheus/rules"), "yaml")? {
            let text = fs::read_to_string(file)?;
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
            let metric =
                |word: &&str| ["ebpf_", "telesonde_", "hubble_", "cgroup_"].iter().any(|p| word.starts_with(p));
            names.extend(words.filter(metric).filter(|word| *word != "cgroup_path").map(str::to_owned));
        }
        let tried: Vec<&String> = names.iter().filter(|name| reason(name).is_none()).collect();
        prometheus::eventually(|| {
            let mut missing = Vec::new();
            for name in tried.iter().filter(|name| self.hubble.is_some() || !name.contains("hubble_")) {
                if !self.answers(&format!("count({name})"))? {
                    missing.push(name.as_str());
                }
            }
            ensure!(missing.is_empty(), "nothing is called {}", missing.join(", "));
            Ok(())
        })?;
        Ok(format!("{} of {} metrics are there", tried.len(), names.len()))
    }
}

/// Gives the queries of a dashboard: those of its panels, and those that fill its variables.
pub fn queries(board: &Value) -> Vec<String> {
    let panels = board["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let variables = board["templating"]["list"].as_array().into_iter().flatten();
    let filling = variables.filter_map(|variable| variable["query"]["query"].as_str()).filter_map(|query| {
        let (series, label) = query.strip_prefix("label_values(")?.strip_suffix(')')?.rsplit_once(", ")?;
        // Prometheus tells a label that is there from one that is not.
        Some(format!("count by ({label}) ({series})"))
    });
    targets.filter_map(|target| Some(target["expr"].as_str()?.to_owned())).chain(filling).collect()
}

/// Fills in the variables.
pub fn with(query: &str, job: &str) -> String {
    let query = query.replace("$job", job);
    VARIABLES.iter().fold(query, |query, (variable, value)| query.replace(variable, value))
}

/// Says why a query, or a metric of an alert, may have no data here.
fn reason(query: &str) -> Option<&'static str> {
    let lines = ALLOWED.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(" # ")).find(|(allowed, _)| query == *allowed).map(|(_, why)| why)
}

/// What is allowed to have no data is little.
fn allowed() -> Result<String> {
    let boards: Vec<PathBuf> = files(&process::root().join("examples/grafana"), "json")?;
    let mut all = Vec::new();
    for file in boards {
        all.extend(queries(&serde_json::from_str(&fs::read_to_string(file)?)?));
    }
    let without = all.iter().filter(|query| reason(query).is_some()).count();
    if without * 20 > all.len() {
        bail!("{without} of {} queries may be empty", all.len());
    }
    Ok(format!("{without} of {} queries may be empty", all.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_found_and_filled_in() {
        let board = serde_json::json!({
            "templating": {"list": [{"name": "job", "query": {"query": "label_values(telesonde_info{job=~\"$job\"}, instance)"}}]},
            "panels": [{"type": "row"}, {"targets": [{"expr": "rate(a{job=~\"$job\"}[$__rate_interval])"}]}],
        });
        let queries: Vec<String> = queries(&board).iter().map(|query| with(query, "x")).collect();
        assert_eq!(queries, ["rate(a{job=~\"x\"}[15s])", "count by (instance) (telesonde_info{job=~\"x\"})"]);
    }
}
