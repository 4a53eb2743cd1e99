//! What the agent's readers see of a pod: every series that mentions it in any way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
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

/// The series of one container on all ways out: its names, and its calls to the last one.
///
/// # Errors
/// Fails when a way has another number, another name, or a second series that mentions the pod.
pub fn counted(peers: &Peers, pod: &Pod, names: &Names, calls: u64) -> Result<()> {
    let scrape = exposition::parse(&http::get(peers.scrape, "/metrics", "text/plain")?.body)?;
    let total = crate::e2e::compare::total(METRIC);
    let scraped = scrape.samples.iter().filter(|((name, _), _)| *name == total);
    only(pod, names, calls, scraped.map(|((_, labels), value)| (labels.clone(), *value)))
        .context("the scrape differs")?;
    let received = Received::read(&peers.received("grpc"))?;
    let mut last = BTreeMap::new();
    for point in received.points.iter().filter(|point| point.metric == METRIC) {
        if let Measured::Counter(value, false) = point.value {
            last.insert(point.labels.clone(), value);
        }
    }
    only(pod, names, calls, last.into_iter()).context("the cumulative push differs")?;
    let received = Received::read(&peers.received("delta"))?;
    let mut sums = BTreeMap::new();
    for point in received.points.iter().filter(|point| point.metric == METRIC) {
        if let Measured::Counter(value, true) = point.value {
            *sums.entry(point.labels.clone()).or_insert(0.0) += value;
        }
    }
    only(pod, names, calls, sums.into_iter()).context("the sum of deltas differs")
}

/// Among all series of the stimulus exactly one mentions the pod, and it has these names and this value.
fn only(pod: &Pod, names: &Names, calls: u64, all: impl Iterator<Item = (Labels, f64)>) -> Result<()> {
    let of_stimulus = |(labels, _): &(Labels, f64)| labels.get("syscall").is_some_and(|name| name == "getppid");
    let mentioned = all.filter(of_stimulus).filter(|(labels, _)| labels.values().any(|value| pod.is_in(value)));
    let same = |labels: &Labels| names.iter().all(|(key, value)| labels.get(*key).is_some_and(|v| v == value));
    // Other containers of the same pod have series of their own.
    let container = names.iter().find(|(key, _)| *key == "k8s_container_name").map(|(_, name)| *name);
    let other = |labels: &Labels| labels.get("k8s_container_name").is_some_and(|name| Some(name.as_str()) != container);
    let found: Vec<(Labels, f64)> = mentioned.filter(|(labels, _)| !other(labels)).collect();
    match found.as_slice() {
        [(labels, value)] if same(labels) && value.to_bits() == (calls as f64).to_bits() => Ok(()),
        _ => bail!("{} should have {calls} calls in one series with {names:?}, and there is {found:?}", pod.name),
    }
}

/// The names that every container of a pod has.
pub fn names<'a>(pod: &'a Pod, container: &'a str) -> [(&'a str, &'a str); 3] {
    [("k8s_namespace_name", NAMESPACE), ("k8s_pod_name", &pod.name), ("k8s_container_name", container)]
}

/// Forgets what the receivers have so far, so that what comes is read quickly.
///
/// # Errors
/// Fails when a file cannot be emptied.
pub fn forget(peers: &Peers) -> Result<()> {
    for endpoint in crate::e2e::peers::cumulative().chain(["delta"]) {
        File::options().write(true).open(peers.received(endpoint))?.set_len(0)?;
    }
    Ok(())
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
