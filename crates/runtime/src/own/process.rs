//! The standard process metrics of the agent itself, read from `/proc/self`.

use std::fs;

use opentelemetry::metrics::Meter;

use super::metrics;

/// Makes the observable process metrics on a meter.
pub(super) fn observe(meter: &Meter) {
    meter
        .f64_observable_counter(&*metrics::CPU.name)
        .with_unit(&*metrics::CPU.unit)
        .with_description(&*metrics::CPU.help)
        .with_callback(|observer| {
            if let Some(seconds) = cpu_seconds() {
                observer.observe(seconds, &[]);
            }
        })
        .build();
    meter
        .u64_observable_gauge(&*metrics::RESIDENT.name)
        .with_unit(&*metrics::RESIDENT.unit)
        .with_description(&*metrics::RESIDENT.help)
        .with_callback(|observer| {
            if let Some(bytes) = resident_bytes() {
                observer.observe(bytes, &[]);
            }
        })
        .build();
    meter
        .u64_observable_gauge(&*metrics::OPEN_FDS.name)
        .with_unit(&*metrics::OPEN_FDS.unit)
        .with_description(&*metrics::OPEN_FDS.help)
        .with_callback(|observer| {
            if let Ok(entries) = fs::read_dir("/proc/self/fd") {
                // One of them is the directory being read.
                observer.observe(entries.count().saturating_sub(1) as u64, &[]);
            }
        })
        .build();
    let started = start_seconds();
    meter
        .f64_observable_gauge(&*metrics::STARTED.name)
        .with_unit(&*metrics::STARTED.unit)
        .with_description(&*metrics::STARTED.help)
        .with_callback(move |observer| {
            if let Some(started) = started {
                observer.observe(started, &[]);
            }
        })
        .build();
}

/// Gives the user and system time of all threads, ended ones included.
fn cpu_seconds() -> Option<f64> {
    let stat = stat_fields()?;
    let ticks = |at: usize| stat.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

/// Ticks a second of `/proc/PID/stat`: `USER_HZ`, which is 100 on every architecture that Telesonde supports.
const TICKS: f64 = 100.0;

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn start_seconds() -> Option<f64> {
    let stat = stat_fields()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat.get(19)?.parse::<f64>().ok()? / TICKS)
}

/// Gives the fields of `/proc/self/stat` behind the command, the state first.
fn stat_fields() -> Option<Vec<String>> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}
