//! Counts system calls, their errors and their latency by workload and call.
//! It hooks `sys_exit`, and `sys_enter` where calls are timed. What it cannot see stands in its descriptor.

mod config;
mod names;

use std::collections::HashMap;

use async_trait::async_trait;
use bpf::abi::syscalls::{
    ABI_COMPAT, ABI_NATIVE, ABI_X32, Call, Failure, LISTED_COUNT, LISTED_TIME, Loss, NR_ALL, NR_LIMIT,
};
use bpf::{Loader, Object, PerCpuCells, Types, cost};
use model::metric::NANOSECOND_BOUNDS;
use model::{Metric, Subject, Text};
use runtime::governor::LADDER;
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW, SAMPLE_INTERVAL};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup};

use crate::filter;
use crate::histogram::Histograms;
use crate::table::{Entries, Key, cell, sum};
use crate::timing::{self, Latency};
use config::Config;

static COUNT: Metric = Metric::counter(
    "ebpf_syscall_count",
    "{syscall}",
    "System calls that returned to user space, each once.",
    &["syscall"],
);

static ERRORS: Metric = Metric::counter(
    "ebpf_syscall_errors",
    "{error}",
    "System calls that returned an error; restarts within the kernel are none.",
    &["syscall", "error.type"],
);

static LATENCY: Metric = Metric::histogram(
    "ebpf_syscall_latency_ns",
    "{ns}",
    "Time from entering a system call to leaving it; where one call in N is timed, each counts N times.",
    &["syscall"],
    NANOSECOND_BOUNDS,
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "syscalls",
    summary: "System calls by workload: how many, which failed and why, how long they took",
    limits: &[
        timing::LIMIT,
        "exit and exit_group never return, so they are absent; calls in flight are not counted yet.",
        "What io_uring does without a system call is not seen.",
        "A successful execve into a program of another table (32-bit, 64-bit) is counted in the new one's.",
        "From Linux 7.0 on the kernel may preempt a program; calls on that CPU until it goes on are not counted, but in telesonde_bpf_misses.",
        "On kernels before 5.12 a 64-bit program's calls through int 0x80 pass for native ones.",
    ],
    metrics: &[&COUNT, &ERRORS, &LATENCY, &MAP_OVERFLOW, &EVENTS_LOST, &SAMPLE_INTERVAL],
    needs: &[
        Need::Btf,
        Need::Tracepoint("sys_exit"),
        Need::Tracepoint("sys_enter"),
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
    ],
    ladder: LADDER,
    section: Section::of::<Config>(),
    plan,
    make,
};

fn plan(section: &serde_json::Value, cpus: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let mut maps = vec![
        ("calls", cost::per_cpu_hash(config.max_calls, size_of::<Call>(), 8, cpus)),
        ("errors", cost::per_cpu_hash(config.max_errors, size_of::<Failure>(), 8, cpus)),
        ("listed", cost::array(3 * NR_LIMIT, 4)),
    ];
    if config.latency != Latency::Off {
        let histogram = config.latency_shape().bytes() as usize;
        maps.push(("latency", cost::per_cpu_hash(config.max_latencies, size_of::<Call>(), histogram, cpus)));
    }
    maps.extend(config.latency.waiting());
    // Some 45 calls and 5 errors.
    Plan { maps, numbers: 50, histograms: 1 }
}

struct Syscalls {
    /// What keeps the programs attached.
    object: Object,
    calls: Entries<Call, u64>,
    errors: Entries<Failure, u64>,
    latency: Option<Histograms<Call>>,
    losses: PerCpuCells<Loss>,
    names: names::Names,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let mut config: Config = setup.section()?;
    config.latency = config.latency.thinned(setup.platform());
    let types = setup.types()?;
    let platform = setup.platform();
    let object = load(&config, platform, &types)?;
    let collector = Syscalls {
        calls: Entries::open(&object, "calls", platform)?,
        errors: Entries::open(&object, "errors", platform)?,
        latency: config.latency.open(&object, "latency", config.latency_shape(), platform)?,
        losses: object.per_cpu_cells("losses").map_err(crate::refused)?,
        names: names::Names::default(),
        object,
    };
    setup.watch(collector.object.watch());
    setup.lead(collector.object.reins().map_err(crate::refused)?);
    Ok(Box::new(collector))
}

/// Loads and attaches the programs.
fn load(config: &Config, platform: &Platform, types: &Types) -> Result<Object, MakeError> {
    let variant = if platform.facts.is_legacy() { "syscalls_legacy" } else { "syscalls" };
    let (count_listed, time_listed) =
        (u32::from(!config.syscalls.is_empty()), u32::from(!config.latency_by_syscall.is_empty()));
    let loader = Loader::new(variant)
        .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
        .constant("count_listed", &count_listed)
        .constant("time_listed", &time_listed)
        .max_entries("calls", platform.scaled(config.max_calls))
        .max_entries("errors", platform.scaled(config.max_errors))
        .histogram("latency", config.latency_shape())
        .max_entries("latency", platform.scaled(config.max_latencies));
    let loader = loader.governed(platform.budget.governs(DESCRIPTOR.name));
    let loader = loader.pinned(platform.lasting(), DESCRIPTOR.name, &["comms", "listed"]);
    let mut object = config.latency.tune(filter::tune(loader, platform)).load(types).map_err(crate::refused)?;
    list(config, &object)?;
    filter::fill(platform, &object)?;
    // The end first, so that every start finds its end.
    object.attach_behind(&platform.gates, "sys_exit", types).map_err(crate::refused)?;
    if config.latency != Latency::Off {
        object.attach_behind(&platform.gates, "sys_enter", types).map_err(crate::refused)?;
    }
    Ok(object)
}

/// Marks the calls that the configuration lists, in every table that knows them.
fn list(config: &Config, object: &Object) -> Result<(), MakeError> {
    let mut marks: HashMap<u32, u32> = HashMap::new();
    for (listed, mark) in [(&config.syscalls, LISTED_COUNT), (&config.latency_by_syscall, LISTED_TIME)] {
        for name in listed {
            for abi in [ABI_NATIVE, ABI_COMPAT, ABI_X32] {
                if let Some(nr) = names::number(abi, name) {
                    *marks.entry(abi * NR_LIMIT + nr).or_default() |= mark;
                }
            }
        }
    }
    let mut cells = object.cells::<u32>("listed").map_err(crate::refused)?;
    for (index, mark) in marks {
        cells.set(index, &mark).map_err(crate::refused)?;
    }
    Ok(())
}

#[async_trait]
impl Collector for Syscalls {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.read(scrape).map_err(|error| CollectError(error.to_string()))
    }
}

impl Syscalls {
    fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let names = &mut self.names;
        self.calls.read(scrape, |call, total, entry| entry.count(&COUNT, [names.call(call.abi, call.nr)], *total))?;
        self.errors.read(scrape, |failure, total, entry| entry.count(&ERRORS, names.failure(failure), *total))?;
        if let Some(latency) = &mut self.latency {
            latency.record(scrape, &LATENCY, |call| [names.timed(call)])?;
        }
        self.read_losses(scrape)
    }

    /// Exports what the kernel could not put where it belongs.
    fn read_losses(&self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let all = sum(&self.losses.get(0)?);
        if all.calls > 0 {
            scrape.record(&COUNT, Subject::Overflow, [""].map(Text::from), all.calls);
        }
        if all.errors > 0 {
            scrape.record(&ERRORS, Subject::Overflow, ["", ""].map(Text::from), all.errors);
        }
        for (map, events) in [("calls", all.calls), ("errors", all.errors)] {
            scrape.record(&MAP_OVERFLOW, Subject::Node, [map.into()], events);
        }
        timing::record_lost(scrape, DESCRIPTOR.name, all.busy, all.stale);
        Ok(())
    }
}

cell!(Loss: calls, errors, busy, stale);

impl Key for Call {
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
}

impl Key for Failure {
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
}

impl names::Names {
    fn failure(&mut self, failure: &Failure) -> [Text; 2] {
        [self.call(u32::from(failure.abi), failure.nr), names::error(failure.number)]
    }

    /// Names the call of a histogram; those that are not timed apart share one without a name.
    fn timed(&mut self, call: &Call) -> Text {
        if call.nr == NR_ALL { "".into() } else { self.call(call.abi, call.nr) }
    }
}
