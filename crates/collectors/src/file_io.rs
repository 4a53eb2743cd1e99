//! Counts bytes that calls read from and write to files, files opened, and times the calls.
//! It hooks `sys_exit`, and `sys_enter` where calls are timed. What it cannot see stands in its descriptor.

mod file_systems;

use async_trait::async_trait;
use bpf::abi::file_io::{Amount, FILE_COPY, FILE_READ, FILE_SYNC, FILE_WRITE, Loss};
use bpf::abi::histogram::HistShape;
use bpf::{Loader, Object, PerCpuCells, Types, cost};
use model::metric::NANOSECOND_BOUNDS;
use model::{Metric, Subject, Text};
use runtime::governor::LADDER;
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW, SAMPLE_INTERVAL};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::filter;
use crate::histogram::{Histograms, Scale};
use crate::sums::Sums;
use crate::table::{Entries, Key, cell, sum};
use crate::timing::{self, Latency};

static READ: Metric = Metric::counter(
    "ebpf_file_read_bytes",
    "By",
    "Bytes that system calls read from regular files.",
    &["system.filesystem.type"],
);

static WRITTEN: Metric = Metric::counter(
    "ebpf_file_write_bytes",
    "By",
    "Bytes that system calls wrote to regular files.",
    &["system.filesystem.type"],
);

static OPENS: Metric = Metric::counter(
    "ebpf_file_open_count",
    "{open}",
    "Regular files that were opened or created; directories and devices do not count.",
    &[],
);

static LATENCY: Metric = Metric::histogram(
    "ebpf_file_io_latency_ns",
    "{ns}",
    "Time that system calls on regular files took: read, write, fsync, or copy between two; where one call in N is timed, each counts N times.",
    &["operation"],
    NANOSECOND_BOUNDS,
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "file_io",
    summary: "Bytes read from and written to files by workload and file system, files opened, latency",
    limits: &[
        timing::LIMIT,
        "What goes through mmap, io_uring or AIO is not seen, nor what the kernel itself does with files.",
        "Directories do not count as files opened; execve's files do not either.",
        "A descriptor is looked up when its call ends: what another thread closed or replaced meanwhile is not counted, or as the new file.",
        "Latency includes calls that found the end of the file or failed; its operation `copy` is sendfile, splice and copy_file_range.",
        "Under lockdown=confidentiality, which refuses bpf_probe_read_kernel, files are not seen before Linux 5.12, and \
         before 6.17 not of processes whose table of descriptors has grown: a descriptor above 63 was open there, or where \
         the process was started (bash has one). telesonde_events_lost says how many calls that may concern \
         (far_descriptor).",
    ],
    metrics: &[&READ, &WRITTEN, &OPENS, &LATENCY, &MAP_OVERFLOW, &EVENTS_LOST, &SAMPLE_INTERVAL],
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

/// What is timed, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Which calls are timed: `all`, `off`, or one call in N on average (`sample: N`).
    latency: Latency,
    /// How finely latencies are told apart, 0 to 3: into 2^scale parts of each doubling.
    latency_scale: Scale,
    /// Entries of the map of bytes and opens: two for each workload and kind of file system, and one for its opens.
    /// What does not fit goes to the overflow series.
    #[schemars(range(min = 1, max = 1_048_576))]
    max_amounts: u32,
    /// Entries of the map of latencies: one for each workload and operation.
    #[schemars(range(min = 1, max = 1_048_576))]
    max_latencies: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { latency: Latency::Sample(16), latency_scale: Scale(0), max_amounts: 4_096, max_latencies: 1_024 }
    }
}

impl Config {
    /// Gives what the histograms of latencies hold.
    fn latency_shape(&self) -> HistShape {
        self.latency_scale.brief()
    }
}

fn plan(section: &serde_json::Value, cpus: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let mut maps = vec![("file_amounts", cost::per_cpu_hash(config.max_amounts, size_of::<Amount>(), 8, cpus))];
    if config.latency != Latency::Off {
        let histogram = config.latency_shape().bytes() as usize;
        maps.push(("file_latency", cost::per_cpu_hash(config.max_latencies, size_of::<Amount>(), histogram, cpus)));
    }
    maps.extend(config.latency.waiting());
    // Two kinds of file system, both ways, and opens.
    Plan { maps, numbers: 5, histograms: 2 }
}

struct FileIo {
    /// What keeps the programs attached.
    object: Object,
    amounts: Entries<Amount, u64>,
    /// Bytes on file systems without a name, by what was done to them.
    others: Sums<(u64, u32, u32), u32, u64>,
    latency: Option<Histograms<Amount>>,
    losses: PerCpuCells<Loss>,
    /// Files of processes with many descriptors are lost.
    only_near: bool,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let mut config: Config = setup.section()?;
    config.latency = config.latency.thinned(setup.platform());
    let types = setup.types()?;
    let platform = setup.platform();
    let (object, refusal) = load(&config, platform, &types)?;
    let collector = FileIo {
        amounts: Entries::open(&object, "file_amounts", platform)?,
        others: Sums::new(platform.lasting().is_some(), setup.inherited()),
        latency: config.latency.open(&object, "file_latency", config.latency_shape(), platform)?,
        losses: object.per_cpu_cells("losses").map_err(crate::refused)?,
        only_near: refusal.is_some(),
        object,
    };
    setup.watch(collector.object.watch());
    setup.lead(collector.object.reins().map_err(crate::refused)?);
    if let Some(refusal) = refusal {
        setup.degrade(format!("no files of processes that have had a descriptor above 63: {refusal}"));
    }
    Ok(Box::new(collector))
}

/// Loads and attaches the programs; says why not all descriptors can be looked up.
fn load(config: &Config, platform: &Platform, types: &Types) -> Result<(Object, Option<bpf::Error>), MakeError> {
    let legacy = platform.facts.is_legacy();
    let loader = Loader::new(if legacy { "file_io_legacy" } else { "file_io" })
        .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
        .max_entries("file_amounts", platform.scaled(config.max_amounts))
        .histogram("file_latency", config.latency_shape())
        .max_entries("file_latency", platform.scaled(config.max_latencies));
    let loader = loader.governed(platform.budget.governs(DESCRIPTOR.name));
    let loader = loader.pinned(platform.lasting(), DESCRIPTOR.name, filter::FILLED);
    let mut object = config.latency.tune(filter::tune(loader, platform)).load(types).map_err(crate::refused)?;
    filter::fill(platform, &object)?;
    // The end first, so that every start finds its end. Only Linux 6.17 follows the table of descriptors by itself.
    let gates = &platform.gates;
    let mut refusal = None;
    if legacy {
        object.attach_behind(gates, "sys_exit__probe", types).map_err(crate::refused)?;
    } else if object.attach_behind(gates, "sys_exit", types).is_err() {
        refusal = object.attach_behind(gates, "sys_exit__probe", types).err();
    }
    if refusal.is_some() {
        object.attach_behind(gates, "sys_exit__near", types).map_err(crate::refused)?;
    }
    if config.latency != Latency::Off {
        object.attach_behind(gates, "sys_enter", types).map_err(crate::refused)?;
    }
    Ok((object, refusal))
}

#[async_trait]
impl Collector for FileIo {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.read(scrape).map_err(|error| CollectError(error.to_string()))
    }
}

impl FileIo {
    fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let others = &mut self.others;
        self.amounts.read(scrape, |amount, total, entry| {
            let Some(metric) = bytes(amount.kind) else {
                entry.count(&OPENS, [], *total);
                return;
            };
            if let Some(name) = file_systems::name(amount.magic) {
                entry.count(metric, [name.into()], *total);
            } else {
                let key = (amount.cgroup, amount.kind, amount.magic);
                others.add(entry.subject(), amount.kind, key, total, entry.is_last());
            }
        })?;
        others.finish(scrape, |kind, total, entry| {
            if let Some(metric) = bytes(*kind) {
                entry.count(metric, ["other".into()], *total);
            }
        });
        if let Some(others) = others.write() {
            scrape.bequeath(&others);
        }
        if let Some(latency) = &mut self.latency {
            latency.record(scrape, &LATENCY, |amount| [operation(amount.kind).into()])?;
        }
        self.read_losses(scrape)
    }

    /// Exports what the kernel could not put where it belongs.
    fn read_losses(&self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let all = sum(&self.losses.get(0)?);
        for (metric, bytes) in [(&READ, all.read), (&WRITTEN, all.written)] {
            if bytes > 0 {
                scrape.record(metric, Subject::Overflow, [""].map(Text::from), bytes);
            }
        }
        if all.opens > 0 {
            scrape.record(&OPENS, Subject::Overflow, [], all.opens);
        }
        scrape.record(&MAP_OVERFLOW, Subject::Node, ["file_amounts".into()], all.amounts);
        timing::record_lost(scrape, DESCRIPTOR.name, all.busy, all.stale);
        if self.only_near {
            scrape.record(&EVENTS_LOST, Subject::Node, [DESCRIPTOR.name.into(), "far_descriptor".into()], all.far);
        }
        Ok(())
    }
}

/// Gives the metric of bytes, if it is bytes that an amount counts.
fn bytes(kind: u32) -> Option<&'static Metric> {
    match kind {
        FILE_READ => Some(&READ),
        FILE_WRITE => Some(&WRITTEN),
        _ => None,
    }
}

fn operation(kind: u32) -> &'static str {
    match kind {
        FILE_READ => "read",
        FILE_WRITE => "write",
        FILE_SYNC => "fsync",
        FILE_COPY => "copy",
        _ => "",
    }
}

cell!(Loss: read, written, opens, amounts, busy, stale, far);

impl Key for Amount {
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
}
