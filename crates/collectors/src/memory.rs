//! Counts page faults, page allocations and OOM kills by workload.
//! It reads the kernel's own per-task fields at gather and at a task's end, and hooks `mm_page_alloc`.
//! What it cannot see stands in its descriptor.

use async_trait::async_trait;
use bpf::abi::memory::{Loss, Work};
use bpf::{Loader, Object, PerCpuCells, Types, cost};
use model::{Metric, Subject, Text};
use runtime::own::MAP_OVERFLOW;
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::table::{Entries, cell, sum};
use crate::{account, filter};

static FAULTS: Metric = Metric::counter(
    "ebpf_page_faults",
    "{fault}",
    "Page faults of the workload's tasks, those without and those with I/O.",
    &["system.paging.fault.type"],
);

static ALLOCATIONS: Metric = Metric::counter(
    "ebpf_memory_allocations",
    "{page}",
    "Pages that the kernel allocated on the workload's behalf; freed pages are not subtracted.",
    &[],
);

static KILLS: Metric = Metric::counter(
    "ebpf_oom_kills",
    "{kill}",
    "Processes of the workload that were killed because memory ran out.",
    &[],
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "memory",
    summary: "Page faults, page allocations and OOM kills by workload",
    limits: &[
        "A task's faults count from the moment the collector attaches; only tasks of the agent's own pid namespace and \
         those below it are read while they live, others when they end.",
        "When a process moves to another cgroup, the faults of its other threads since the last gather are counted in \
         the first one.",
        "What a task faults after its last event (sched_process_exit) is counted when it is freed; that is not told where \
         it happens on the CPU of a task that the kernel hides from tracing, as sandboxes do with what runs them.",
        "Bulk allocations are not seen, nor is that pages are freed; pages that an interrupt allocates belong to the \
         workload kernel.",
        "A process that was already dying when memory ran out and that was let go on is counted as a kill.",
    ],
    metrics: &[&FAULTS, &ALLOCATIONS, &KILLS, &MAP_OVERFLOW],
    needs: &[
        Need::Btf,
        account::NEEDS[0],
        account::NEEDS[1],
        account::NEEDS[2],
        Need::Tracepoint("sched_process_exit"),
        Need::Tracepoint("mm_page_alloc"),
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
        Need::HostPid,
    ],
    ladder: &[Step::Paused],
    section: Section::of::<Config>(),
    plan,
    make,
};

/// What is counted, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Count the pages that the kernel allocates: the only part that costs something at each allocation.
    allocations: bool,
    /// Entries of the maps of faults and of allocations: one for each workload.
    #[schemars(range(min = 1, max = 1_048_576))]
    max_workloads: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { allocations: true, max_workloads: 2_048 }
    }
}

fn plan(section: &serde_json::Value, cpus: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let entries = config.max_workloads;
    let mut maps = account::maps::<Work>("faults", entries, cpus);
    if config.allocations {
        maps.push(("allocations", cost::per_cpu_hash(entries, size_of::<u64>(), size_of::<u64>(), cpus)));
    }
    Plan { maps, numbers: if config.allocations { 3 } else { 2 }, histograms: 0 }
}

struct Memory {
    /// What keeps the programs attached.
    object: Object,
    faults: Entries<u64, Work>,
    allocations: Option<Entries<u64, u64>>,
    late_pages: PerCpuCells<u64>,
    losses: PerCpuCells<Loss>,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    let types = setup.types()?;
    let platform = setup.platform();
    let object = load(&config, platform, &types)?;
    let collector = Memory {
        faults: Entries::open(&object, "faults", platform)?,
        allocations: if config.allocations { Some(Entries::open(&object, "allocations", platform)?) } else { None },
        late_pages: object.per_cpu_cells("late_pages").map_err(crate::refused)?,
        losses: object.per_cpu_cells("losses").map_err(crate::refused)?,
        object,
    };
    setup.watch(collector.object.watch());
    setup.lead(collector.object.reins().map_err(crate::refused)?);
    Ok(Box::new(collector))
}

/// Loads and attaches the programs.
fn load(config: &Config, platform: &Platform, types: &Types) -> Result<Object, MakeError> {
    let variant = if platform.facts.is_legacy() { "memory_legacy" } else { "memory" };
    let workloads = platform.scaled(config.max_workloads);
    let loader = Loader::new(variant)
        .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
        .passing("attached", &account::now())
        .max_entries("faults", workloads)
        .max_entries("allocations", if config.allocations { workloads } else { 1 });
    let loader = loader.governed(platform.budget.governs(DESCRIPTOR.name));
    let loader = loader.pinned(platform.lasting(), DESCRIPTOR.name, filter::FILLED);
    let mut object = filter::tune(loader, platform).load(types).map_err(crate::refused)?;
    filter::fill(platform, &object)?;
    account::open(&mut object, types, platform)?;
    object.attach("sched_process_exit", types).map_err(crate::refused)?;
    if config.allocations {
        object.attach("mm_page_alloc", types).map_err(crate::refused)?;
    }
    Ok(object)
}

#[async_trait]
impl Collector for Memory {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.read(scrape).map_err(|error| CollectError(error.to_string()))
    }
}

impl Memory {
    fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        account::settle(&mut self.object)?;
        self.faults.read(scrape, |_, work, entry| {
            entry.count(&FAULTS, ["minor".into()], work.minor);
            entry.count(&FAULTS, ["major".into()], work.major);
            // Almost all workloads have none in their life.
            if work.kills > 0 {
                entry.count(&KILLS, [], work.kills);
            }
        })?;
        if let Some(allocations) = &mut self.allocations {
            allocations.read(scrape, |_, pages, entry| entry.count(&ALLOCATIONS, [], *pages))?;
        }
        self.read_losses(scrape)
    }

    /// Exports what the kernel could not put where it belongs.
    fn read_losses(&self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let lost = sum(&self.losses.get(0)?);
        if lost.works > 0 {
            scrape.record(&FAULTS, Subject::Overflow, [""].map(Text::from), lost.work.minor + lost.work.major);
        }
        if lost.work.kills > 0 {
            scrape.record(&KILLS, Subject::Overflow, [], lost.work.kills);
        }
        let pages = sum(&self.late_pages.get(0)?);
        if pages > 0 {
            scrape.record(&ALLOCATIONS, Subject::Overflow, [], pages);
        }
        scrape.record(&MAP_OVERFLOW, Subject::Node, ["faults".into()], lost.works);
        scrape.record(&MAP_OVERFLOW, Subject::Node, ["allocations".into()], pages);
        Ok(())
    }
}

cell!(Work: minor, major, kills);
cell!(Loss: work, works);
