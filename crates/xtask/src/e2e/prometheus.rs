//! What a real Prometheus makes of the agent: names, quantiles, and the increase of a workload it never saw alive.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::http::{self, encode};
use super::peers::Peers;
use super::stimulus::Workload;

const DEADLINE: Duration = Duration::from_secs(30);

/// Evaluates an instant query, at a time in seconds where one is given.
///
/// # Errors
/// Fails when Prometheus refuses it.
pub fn query(peers: &Peers, promql: &str, time: Option<f64>) -> Result<Vec<Value>> {
    ask(peers.prometheus, promql, time)
}

/// Does the same by the port of a Prometheus.
///
/// # Errors
/// Fails when Prometheus refuses it.
pub fn ask(port: u16, promql: &str, time: Option<f64>) -> Result<Vec<Value>> {
    let time = time.map_or_else(String::new, |time| format!("&time={time:.3}"));
    let path = format!("/api/v1/query?query={}{time}", encode(promql));
    let answer: Value = serde_json::from_str(&http::get(port, &path, "application/json")?.body)?;
    answer["data"]["result"].as_array().cloned().context("the query has no result")
}

/// Returns the single value of a query.
fn value(peers: &Peers, promql: &str, time: Option<f64>) -> Result<f64> {
    let result = query(peers, promql, time)?;
    let [one] = result.as_slice() else { bail!("`{promql}` gives {} series and should give one", result.len()) };
    Ok(one["value"][1].as_str().context("the value is no number")?.parse()?)
}

/// Tries until it succeeds; returns the last error after the deadline.
pub fn eventually<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(_) if started.elapsed() < DEADLINE => sleep(Duration::from_millis(200)),
            result => return result,
        }
    }
}

/// Returns when the last scrape was, in seconds since 1970.
fn last_scrape(peers: &Peers) -> Result<f64> {
    value(peers, "timestamp(up{job=\"scraped\"} == 1)", None)
}

/// A quantile query over the native histogram answers with a plausible latency.
///
/// # Errors
/// Fails when it does not answer, or not from a native histogram.
pub fn quantile(peers: &Peers) -> Result<String> {
    eventually(|| {
        let rate = "sum(rate(ebpf_syscall_latency_ns{job=\"scraped\"}[20s]))";
        let native = value(peers, &format!("histogram_count({rate})"), None)?;
        let p99 = value(peers, &format!("histogram_quantile(0.99, {rate})"), None)?;
        if !(p99.is_finite() && p99 > 0.0 && native > 0.0) {
            bail!("p99 is {p99} over {native} calls a second");
        }
        let classic = query(peers, "ebpf_syscall_latency_ns_bucket{job=\"scraped\"}", None)?;
        if !classic.is_empty() {
            bail!("the scrape has {} classic buckets and should be native", classic.len());
        }
        Ok(format!("p99 of all syscalls is {p99:.0} ns over {native:.0} calls a second, from native histograms"))
    })
}

/// A workload that lives 50 ms between two scrapes shows its exact count as an increase.
///
/// # Errors
/// Fails when the increase is another number, or the workload did not fit between two scrapes.
pub fn short_lived(peers: &Peers) -> Result<String> {
    const CALLS: u64 = 4_321;
    let before = eventually(|| last_scrape(peers))?;
    // Begin right after a scrape, so that the next one is a whole interval away.
    let born_after = eventually(|| match last_scrape(peers)? {
        scrape if scrape > before => Ok(scrape),
        _ => bail!("no further scrape"),
    })?;
    let born = now()?;
    let workload = Workload::start("brief", CALLS, Duration::from_millis(50))?.finish()?;
    let died = now()?;
    let series =
        format!("ebpf_syscall_count_total{{job=\"scraped\",syscall=\"getppid\",{}}}", label(peers, &workload)?);
    // Evaluated at the time of a sample, so that nothing is extrapolated.
    let seen = eventually(|| value(peers, &format!("timestamp({series})"), None))?;
    let next_scrape = format!("min_over_time((timestamp(up{{job=\"scraped\"}}) > {born_after:.3})[30s:100ms])");
    // A step of the subquery later than that scrape sees it.
    let next = value(peers, &next_scrape, Some(seen + 0.2))?;
    if born <= born_after || died >= next {
        bail!(
            "the workload lived from {born:.3} to {died:.3}, not between the scrapes at {born_after:.3} and {next:.3}"
        );
    }
    let increase = value(peers, &format!("increase({series}[1m])"), Some(seen))?;
    if increase.to_bits() != (CALLS as f64).to_bits() {
        bail!("increase() is {increase} and should be {CALLS}");
    }
    Ok(format!("increase() of a workload that lived {:.0} ms is {increase}", (died - born) * 1e3))
}

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// Finds the label that carries the workload's name and returns it as a matcher.
fn label(peers: &Peers, workload: &str) -> Result<String> {
    eventually(|| {
        let all = query(peers, "{__name__=\"ebpf_syscall_count_total\",syscall=\"getppid\",job=\"scraped\"}", None)?;
        let labels = all.iter().filter_map(|series| series["metric"].as_object()).flatten();
        let found = labels.filter_map(|(name, value)| Some((name, value.as_str()?)));
        let (name, value) = found.into_iter().find(|(_, value)| value.contains(workload)).context("not scraped yet")?;
        Ok(format!("{name}=\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
    })
}

/// Returns the metric names of one job; what Prometheus itself adds is left out.
///
/// # Errors
/// Fails when Prometheus does not answer.
pub fn names(peers: &Peers, job: &str) -> Result<BTreeSet<String>> {
    let path = format!("/api/v1/label/__name__/values?match[]={}", encode(&format!("{{job=\"{job}\"}}")));
    let answer: Value = serde_json::from_str(&http::get(peers.prometheus, &path, "application/json")?.body)?;
    let names = answer["data"].as_array().context("no names")?.iter().filter_map(Value::as_str);
    let own = |name: &&str| *name != "up" && !name.starts_with("scrape_");
    Ok(names.filter(own).map(str::to_owned).collect())
}

/// Compares sets of names with the first one.
///
/// # Errors
/// Fails with every name that is not in all of them.
pub fn same_names(sets: &BTreeMap<&str, BTreeSet<String>>) -> Result<String> {
    let all: BTreeSet<&String> = sets.values().flatten().collect();
    let mut missing = Vec::new();
    for name in &all {
        for (path, _) in sets.iter().filter(|(_, set)| !set.contains(*name)) {
            missing.push(format!("{name} is missing from {path}"));
        }
    }
    if all.is_empty() || !missing.is_empty() {
        bail!("{} names in all\n  {}", all.len(), missing.join("\n  "));
    }
    Ok(format!("{} names are the same on {} paths", all.len(), sets.len()))
}
