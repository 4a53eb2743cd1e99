//! Reads the files of those cgroups that stand for whole workloads, through descriptors that stay open.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use bpf::probe::Facts;
use model::{Census, Metric, Root, Subject};
use runtime::Scrape;

use crate::table::Entry;

use super::figures::{COUNTERS, Counter, Figures, File, files};

pub(super) static THROTTLED_PERIODS: Metric = Metric::counter(
    "cgroup_cpu_throttled_periods",
    "{period}",
    "Periods in which a workload used up its CPU limit and had to wait.",
    &[],
);

pub(super) static THROTTLED: Metric = Metric::counter(
    "cgroup_cpu_throttled_seconds",
    "s",
    "Time in which a workload had to wait because its CPU limit was used up, as the kernel sums it over CPUs.",
    &[],
);

pub(super) static USAGE: Metric =
    Metric::gauge("cgroup_memory_usage_bytes", "By", "Memory that is charged to a workload, page cache included.", &[]);

pub(super) static LIMIT: Metric =
    Metric::gauge("cgroup_memory_limit_bytes", "By", "Memory that a workload may use; absent without a limit.", &[]);

pub(super) static EVENTS: Metric = Metric::counter(
    "cgroup_memory_events",
    "{event}",
    "How often a workload was throttled at `high`, hit its limit (`max`), ran out of memory (`oom`) or lost a task to that (`oom_kill`).",
    &["event"],
);

pub(super) static PRESSURE: Metric = Metric::counter(
    "cgroup_pressure_seconds",
    "s",
    "Time in which some or all tasks of a workload waited for a resource.",
    &["resource", "share"],
);

const EVENT_NAMES: [(Counter, &str); 4] =
    [(Counter::High, "high"), (Counter::Max, "max"), (Counter::Oom, "oom"), (Counter::OomKill, "oom_kill")];

const PRESSURE_NAMES: [(Counter, &str, &str); 6] = [
    (Counter::CpuSome, "cpu", "some"),
    (Counter::CpuFull, "cpu", "full"),
    (Counter::MemorySome, "memory", "some"),
    (Counter::MemoryFull, "memory", "full"),
    (Counter::IoSome, "io", "some"),
    (Counter::IoFull, "io", "full"),
];

/// What a file says whose cgroup was removed.
const ENODEV: i32 = 19;

/// More than any of the files holds.
const LARGEST: usize = 4096;

/// All cgroups that are read.
pub(super) struct Files {
    kinds: Vec<File>,
    /// How many descriptors may stay open, and how many do.
    budget: u64,
    open: u64,
    /// The number of the census' list, and when it was asked for last.
    known: u64,
    asked: Instant,
    watched: HashMap<u64, Watched>,
    warned: bool,
}

/// One cgroup.
struct Watched {
    path: Box<str>,
    kept: Vec<Option<std::fs::File>>,
    /// What the counters said before the agent looked for the first time.
    base: [u64; COUNTERS],
    /// The last reading.
    last: Figures,
    /// Whether it was in the census' present list.
    listed: bool,
    /// Whether a file has said that the cgroup is gone: another may have its path by now.
    gone: bool,
}

impl Files {
    /// Opens the files of all cgroups that exist: what they have counted so far is not of the agent's time.
    pub(super) fn new(facts: &Facts, budget: u64, census: &dyn Census) -> Self {
        let mut files = Self {
            kinds: files(&facts.cgroups, facts.pressure),
            budget,
            open: 0,
            known: 0,
            asked: Instant::now(),
            watched: HashMap::new(),
            warned: false,
        };
        files.update(census, &mut Scrape::default());
        files
    }

    /// Records what all files say now.
    pub(super) fn read(&mut self, census: &dyn Census, scrape: &mut Scrape) {
        self.update(census, scrape);
        for (&id, watched) in &mut self.watched {
            if watched.gone {
                continue;
            }
            let before = watched.last.counters;
            watched.last = read_all(&self.kinds, watched, self.budget, &mut self.open);
            for (now, before) in watched.last.counters.iter_mut().zip(before) {
                *now = now.or(before);
            }
            record(scrape, id, watched, false);
        }
        if self.open >= self.budget && !self.watched.is_empty() && !self.warned {
            self.warned = true;
            tracing::warn!(
                "{} files of cgroups are kept open, as many as may be; the others are opened for each reading \
                 (integrations.ebpf.collectors.cgroup.max_open_files, and the process' limit of open files)",
                self.open
            );
        }
    }

    /// Takes over the census' list where it has changed.
    fn update(&mut self, census: &dyn Census, scrape: &mut Scrape) {
        let before = self.asked;
        let asked = Instant::now();
        let Some((number, roots)) = census.roots(self.known) else { return };
        (self.known, self.asked) = (number, asked);
        for watched in self.watched.values_mut() {
            watched.listed = false;
        }
        for Root { id, path, since } in roots {
            let known = self.watched.get_mut(&id).filter(|watched| watched.path == path);
            if let Some(watched) = known {
                watched.listed = true;
                continue;
            }
            let kept = self.kinds.iter().map(|_| None).collect();
            let mut new =
                Watched { path, kept, base: [0; COUNTERS], last: Figures::default(), listed: true, gone: false };
            if since <= before {
                new.last = read_all(&self.kinds, &mut new, self.budget, &mut self.open);
                new.base = new.last.counters.map(Option::unwrap_or_default);
            }
            if let Some(old) = self.watched.insert(id, new) {
                self.open -= old.kept.iter().flatten().count() as u64;
                // The new path goes on where the old one was.
                if let Some(new) = self.watched.get_mut(&id) {
                    new.base = old.base;
                }
            }
        }
        let open = &mut self.open;
        self.watched.retain(|&id, watched| {
            if !watched.listed {
                *open -= watched.kept.iter().flatten().count() as u64;
                record(scrape, id, watched, true);
            }
            watched.listed
        });
    }
}

/// Reads all files of a cgroup; what it does not have, or no longer has, is absent.
fn read_all(files: &[File], watched: &mut Watched, budget: u64, open: &mut u64) -> Figures {
    let mut figures = Figures::default();
    let mut buffer = [0; LARGEST];
    for (file, kept) in files.iter().zip(&mut watched.kept) {
        let fresh;
        let descriptor = if let Some(descriptor) = kept {
            &*descriptor
        } else {
            // It may come later: controllers are enabled, and other hierarchies' directories made, after the cgroup.
            let path = file.mount.join(watched.path.trim_start_matches('/')).join(file.name);
            let Ok(opened) = std::fs::File::open(path) else { continue };
            if *open < budget {
                *open += 1;
                kept.insert(opened)
            } else {
                fresh = opened;
                &fresh
            }
        };
        match read(descriptor, &mut buffer) {
            Ok(text) => figures.take(file.content, text),
            Err(error) => {
                *open -= u64::from(kept.take().is_some());
                if error.raw_os_error() == Some(ENODEV) {
                    watched.gone = true;
                    break;
                }
            }
        }
    }
    figures
}

fn read<'b>(file: &std::fs::File, buffer: &'b mut [u8]) -> io::Result<&'b str> {
    let mut length = 0;
    loop {
        match file.read_at(&mut buffer[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(std::str::from_utf8(&buffer[..length]).unwrap_or_default())
}

fn record(scrape: &mut Scrape, id: u64, watched: &Watched, last: bool) {
    let subject = Subject::Cgroup(id);
    let figures = &watched.last;
    let grown = |counter: Counter| {
        let value = figures.counters[counter as usize]?;
        Some(value.saturating_sub(watched.base[counter as usize]))
    };
    let mut entry = Entry::new(scrape, subject, last);
    if let Some(periods) = grown(Counter::ThrottledPeriods) {
        entry.count(&THROTTLED_PERIODS, [], periods);
    }
    if let Some(time) = grown(Counter::Throttled) {
        entry.count(&THROTTLED, [], time as f64 / 1e9);
    }
    for (counter, name) in EVENT_NAMES {
        if let Some(events) = grown(counter) {
            entry.count(&EVENTS, [name.into()], events);
        }
    }
    for (counter, resource, share) in PRESSURE_NAMES {
        if let Some(time) = grown(counter) {
            entry.count(&PRESSURE, [resource.into(), share.into()], time as f64 / 1e6);
        }
    }
    if last {
        return;
    }
    if let Some(usage) = figures.usage {
        scrape.record(&USAGE, subject, [], usage);
    }
    if let Some(limit) = figures.limit {
        scrape.record(&LIMIT, subject, [], limit);
    }
}

#[cfg(test)]
mod tests;
