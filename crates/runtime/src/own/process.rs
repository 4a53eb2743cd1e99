//! The standard process metrics of the agent itself, read from `/proc/self`.

use std::fs;

use opentelemetry::metrics::Meter;

/// Makes the observable process metrics on a meter.
pub(super) fn observe(meter: &Meter) {
    meter
        .f64_observable_counter("process_cpu_seconds_total")
        .with_unit("s")
        .with_description("Time that the agent's threads spent on a CPU.")
        .with_callback(|observer| {
            if let Some(seconds) = cpu_seconds() {
                observer.observe(seconds, &[]);
            }
        })
        .build();
    meter
        .u64_observable_gauge("process_resident_memory_bytes")
        .with_unit("By")
        .with_description("Memory of the agent that is in RAM.")
        .with_callback(|observer| {
            if let Some(bytes) = resident_bytes() {
                observer.observe(bytes, &[]);
            }
        })
        .build();
    meter
        .u64_observable_gauge("process_open_fds")
        .with_unit("{fd}")
        .with_description("File descriptors that the agent holds.")
        .with_callback(|observer| {
            if let Ok(entries) = fs::read_dir("/proc/self/fd") {
                // One of them is the directory being read.
                observer.observe(entries.count().saturating_sub(1) as u64, &[]);
            }
        })
        .build();
    let started = start_seconds();
    meter
        .f64_observable_gauge("process_start_time_seconds")
        .with_unit("s")
        .with_description("When the agent started, in Unix seconds.")
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
