//! What the agent's readers see of a pod: every series that mentions it in any way.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::pods::{NAMESPACE, Pod};
use crate::e2e::exposition::{self, Labels};
use crate::e2e::http;
use crate::e2e::peers::Peers;
use crate::e2e::received::{Measured, Received};

const METRIC: &str = "ebpf_syscall_count";

/// Names that something must have.
pub type Names<'a> = [(&'a str, &'a str)];

/// Tries until it succeeds or the time is over; returns the last error.
pub fn within<T>(time: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(_) if started.elapsed() < time => std::thread::sleep(Duration::from_millis(250)),
            result => return result,
        }
    }
}

/// How calls may be spread over series.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// All are in the one series that has the names.
    Named,
    /// Those that waited for names in vain stay where they were counted, under the ids in the cgroup's path.
    Anywhere,
}

/// The calls of one container on all ways out: under its names, and none missing or twice.
///
/// # Errors
/// Fails when a way has another number, no series with the names, or calls where they may not be.
pub fn counted(peers: &Peers, pod: &Pod, names: &Names, calls: u64, spread: Spread) -> Result<()> {
    let scrape = exposition::parse(&http::get(peers.scrape, "/metrics", "text/plain")?.body)?;
    let total = crate::e2e::compare::total(METRIC);
    let scraped = scrape.samples.iter().filter(|((name, _), _)| *name == total);
    add_up((pod, names, calls, spread), scraped.map(|((_, labels), value)| (labels.clone(), *value)))
        .context("the scrape differs")?;
    let received = Received::read_where(&peers.received("grpc"), |line| pod.is_in(line))?;
    let mut last = BTreeMap::new();
    for point in received.points.iter().filter(|point| point.metric == METRIC) {
        if let Measured::Counter(value, false) = point.value {
            last.insert(point.labels.clone(), value);
        }
    }
    add_up((pod, names, calls, spread), last.into_iter()).context("the cumulative push differs")?;
    let received = Received::read_where(&peers.received("delta"), |line| pod.is_in(line))?;
    let mut sums = BTreeMap::new();
    for point in received.points.iter().filter(|point| point.metric == METRIC) {
        if let Measured::Counter(value, true) = point.value {
            *sums.entry(point.labels.clone()).or_insert(0.0) += value;
        }
    }
    add_up((pod, names, calls, spread), sums.into_iter()).context("the sum of deltas differs")
}

/// Among all series of the stimulus, those that mention the pod add up, and one has the names.
fn add_up(
    (pod, names, calls, spread): (&Pod, &Names, u64, Spread),
    all: impl Iterator<Item = (Labels, f64)>,
) -> Result<()> {
    // Other containers of the same pod have series of their own.
    let container = names.iter().find(|(key, _)| *key == "k8s_container_name").map(|(_, name)| *name);
    let of_pod = |(labels, _): &(Labels, f64)| {
        labels.get("syscall").is_some_and(|name| name == "getppid")
            && labels.values().any(|value| pod.is_in(value))
            && labels.get("k8s_container_name").is_none_or(|name| Some(name.as_str()) == container)
    };
    let found: Vec<(Labels, f64)> = all.filter(of_pod).collect();
    let fits = |labels: &Labels| names.iter().all(|(key, value)| labels.get(*key).is_some_and(|v| v == value));
    let sum: f64 = found.iter().map(|(_, value)| value).sum();
    let spread_well = match spread {
        Spread::Named => found.len() == 1 && fits(&found[0].0),
        Spread::Anywhere => found.iter().filter(|(labels, _)| fits(labels)).count() == 1,
    };
    if !spread_well || sum.to_bits() != (calls as f64).to_bits() {
        bail!("{} should have {calls} calls with {names:?}, and there is {found:?}", pod.name);
    }
    Ok(())
}

/// The names that every container of a pod has.
pub fn names<'a>(pod: &'a Pod, container: &'a str) -> [(&'a str, &'a str); 3] {
    [("k8s_namespace_name", NAMESPACE), ("k8s_pod_name", &pod.name), ("k8s_container_name", container)]
}

/// Asks the agent how it fares.
///
/// # Errors
/// Fails when it does not answer.
pub fn status(peers: &Peers) -> Result<Value> {
    let mut stream = UnixStream::connect(peers.dir.join("admin.sock")).context("cannot reach the agent")?;
    write!(stream, "GET /status HTTP/1.1\r\nHost: telesonde\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("the agent does not answer in HTTP")?;
    Ok(serde_json::from_str(body)?)
}

/// Runs `telesonde check` and writes all that it prints into a file of the run; gives its line on the API server.
///
/// # Errors
/// Fails when it cannot be run or says nothing of the API server.
pub fn check(peers: &Peers, command: &mut Command, file: &str) -> Result<String> {
    let output = command.output().context("cannot run `telesonde check`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    fs::write(peers.dir.join(file), text.as_bytes()).with_context(|| format!("cannot write {file}"))?;
    let line = text.lines().find(|line| line.starts_with("kubernetes "));
    let line = line.with_context(|| format!("check says nothing of Kubernetes: {text}"))?;
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}
