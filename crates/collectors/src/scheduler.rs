//! Counts time on CPU, context switches and waits for a CPU by workload.
//! It reads the kernel's own per-task fields at gather and at a task's end, and hooks `sched_switch` for the waits.
//! What it cannot see stands in its descriptor.

use async_trait::async_trait;
use bpf::abi::histogram::HistShape;
use bpf::abi::scheduler::{Loss, Work};
use bpf::{Loader, Object, PerCpuCells, Types, cost};
use model::metric::NANOSECOND_BOUNDS;
use model::{Metric, Subject, Text};
use runtime::governor::LADDER;
use runtime::own::{MAP_OVERFLOW, SAMPLE_INTERVAL};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::histogram::{Histograms, Scale};
use crate::table::{Entries, cell, sum};
use crate::timing::{self, Latency};
use crate::{account, filter};

static RUNTIME: Metric =
    Metric::counter("ebpf_process_runtime_ns", "{ns}", "Time that the workload's tasks spent on a CPU.", &[]);

static SWITCHES: Metric = Metric::counter(
    "ebpf_context_switches",
    "{switch}",
    "Switches away from the workload's tasks, those they asked for and those forced on them.",
    &["process.context_switch.type"],
);

static LATENCY: Metric = Metric::histogram(
    "ebpf_runqueue_latency_ns",
    "{ns}",
    "Time from being ready to run to running; where one wait in N is taken, each counts N times.",
    &[],
    NANOSECOND_BOUNDS,
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "scheduler",
    summary: "Time on CPU, context switches and waits for a CPU by workload",
    limits: &[
        timing::LIMIT,
        "A task counts from the moment the collector attaches; only tasks of the agent's own pid namespace and those \
         below it are read while they live, others when they end.",
        "What a task ran since its CPU's last clock tick is taken from the clock, interrupts and stolen time included, \
         until the kernel has counted it; on kernels before 5.12 it is left out until then.",
        "When a process moves to another cgroup, what its other threads did since the last gather is counted in the \
         first one, and what it ran since the last clock tick in the second.",
        "Where a kernel hides a task from tracing, as sandboxes do with what runs them, the wait of whoever follows it on \
         a CPU is counted together with that one's next wait.",
        "A wait that is spread over several CPUs' queues counts from the last one on where two threads share a place \
         (see max_threads).",
    ],
    metrics: &[&RUNTIME, &SWITCHES, &LATENCY, &MAP_OVERFLOW, &SAMPLE_INTERVAL],
    needs: &[
        Need::Btf,
        account::NEEDS[0],
        account::NEEDS[1],
        account::NEEDS[2],
        Need::Tracepoint("sched_switch"),
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
        Need::HostPid,
    ],
    ladder: LADDER,
    section: Section::of::<Config>(),
    plan,
    make,
};

/// What is measured, and how large the kernel maps are.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// Which waits for a CPU are taken: `all`, `off`, or one in N on average (`sample: N`). It is the only part that
    /// costs something at each switch.
    latency: Latency,
    /// How finely waits are told apart, 0 to 3: into 2^scale parts of each doubling.
    latency_scale: Scale,
    /// Entries of the map of runtimes and switches: one for each workload.
    #[schemars(range(min = 1, max = 1_048_576))]
    max_workloads: u32,
    /// Entries of the map of waits: one for each workload.
    #[schemars(range(min = 1, max = 1_048_576))]
    max_latencies: u32,
    /// Threads whose waits are followed from one CPU to another; rounded up to a power of two.
    #[schemars(range(min = 64, max = 4_194_304))]
    max_threads: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            latency: Latency::Sample(16),
            latency_scale: Scale(0),
            max_workloads: 2_048,
            max_latencies: 1_024,
            max_threads: 16_384,
        }
    }
}

impl Config {
    /// Gives what the histograms of waits hold.
    fn shape(&self) -> HistShape {
        self.latency_scale.brief()
    }
}

fn plan(section: &serde_json::Value, cpus: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let mut maps = account::maps::<Work>("ran", config.max_workloads, cpus);
    if config.latency != Latency::Off {
        let histogram = config.shape().bytes() as usize;
        maps.push(("waits", cost::per_cpu_hash(config.max_latencies, size_of::<u64>(), histogram, cpus)));
        maps.push(("delays", cost::array(config.max_threads.next_power_of_two(), size_of::<u64>())));
    }
    Plan { maps, numbers: 3, histograms: usize::from(config.latency != Latency::Off) }
}

struct Scheduler {
    /// What keeps the programs attached.
    object: Object,
    ran: Entries<u64, Work>,
    waits: Option<Histograms<u64>>,
    losses: PerCpuCells<Loss>,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let mut config: Config = setup.section()?;
    config.latency = config.latency.thinned(setup.platform());
    let types = setup.types()?;
    let platform = setup.platform();
    let (object, refusal) = load(&config, platform, &types)?;
    let collector = Scheduler {
        ran: Entries::open(&object, "ran", platform)?,
        waits: match refusal {
            Some(_) => None,
            None => config.latency.open(&object, "waits", config.shape(), platform)?,
        },
        losses: object.per_cpu_cells("losses").map_err(crate::refused)?,
        object,
    };
    setup.watch(collector.object.watch());
    setup.lead(collector.object.reins().map_err(crate::refused)?);
    if let Some(refusal) = refusal {
        setup.degrade(format!(
            "no waits for a CPU, which need CONFIG_SCHED_INFO and CONFIG_FAIR_GROUP_SCHED: {refusal}"
        ));
    }
    Ok(Box::new(collector))
}

/// Loads and attaches the programs; says why waits cannot be measured.
fn load(config: &Config, platform: &Platform, types: &Types) -> Result<(Object, Option<bpf::Error>), MakeError> {
    let variant = if platform.facts.is_legacy() { "scheduler_legacy" } else { "scheduler" };
    let threads = platform.scaled(config.max_threads.next_power_of_two());
    // Whole cache lines, and a power of two again.
    let threads = threads.next_power_of_two().clamp(64, 1 << 22);
    let loader = Loader::new(variant)
        .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
        .passing("attached", &account::now())
        .constant("delays_mask", &(threads - 1))
        .max_entries("ran", platform.scaled(config.max_workloads))
        .histogram("waits", config.shape())
        .max_entries("waits", platform.scaled(config.max_latencies))
        .max_entries("delays", threads);
    let loader = loader.governed(platform.budget.governs(DESCRIPTOR.name));
    let loader = loader.pinned(platform.lasting(), DESCRIPTOR.name, filter::FILLED);
    let mut object = config.latency.tune(filter::tune(loader, platform)).load(types).map_err(crate::refused)?;
    filter::fill(platform, &object)?;
    account::open(&mut object, types, platform)?;
    let timed = config.latency != Latency::Off;
    let refusal = if timed { object.attach("sched_switch", types).err() } else { None };
    if refusal.is_some() || !timed {
        object.attach("sched_switch__end", types).map_err(crate::refused)?;
    }
    Ok((object, refusal))
}

#[async_trait]
impl Collector for Scheduler {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.read(scrape).map_err(|error| CollectError(error.to_string()))
    }
}

impl Scheduler {
    fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        account::settle(&mut self.object)?;
        self.ran.read(scrape, |_, work, entry| {
            entry.count(&RUNTIME, [], work.runtime);
            entry.count(&SWITCHES, ["voluntary".into()], work.voluntary);
            entry.count(&SWITCHES, ["involuntary".into()], work.involuntary);
        })?;
        if let Some(waits) = &mut self.waits {
            waits.record(scrape, &LATENCY, |_| [])?;
        }
        self.read_losses(scrape)
    }

    /// Exports what the kernel could not put where it belongs.
    fn read_losses(&self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let lost = sum(&self.losses.get(0)?);
        if lost.works > 0 {
            scrape.record(&RUNTIME, Subject::Overflow, [], lost.work.runtime);
            scrape.record(
                &SWITCHES,
                Subject::Overflow,
                [""].map(Text::from),
                lost.work.voluntary + lost.work.involuntary,
            );
        }
        scrape.record(&MAP_OVERFLOW, Subject::Node, ["ran".into()], lost.works);
        Ok(())
    }
}

cell!(Work: runtime, voluntary, involuntary);
cell!(Loss: work, works);
