//! Counts the bytes that disks read and write and times their requests, by the workload that the I/O is charged to.
//! It hooks `block_rq_complete`. What it cannot see stands in its descriptor.

mod owners;

use std::sync::Arc;

use async_trait::async_trait;
use bpf::abi::block::{BLOCK_READ, Loss, Transfer};
use bpf::abi::histogram::{HistShape, Histogram};
use bpf::{Loader, Object, PerCpuCells, cost};
use model::metric::NANOSECOND_BOUNDS;
use model::{Census, Metric, Subject, Text};
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW, SAMPLE_INTERVAL};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Scrape, Section, Setup, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::histogram::{Histograms, Scale};
use crate::sums::{Addend, Sums, Written};
use crate::table::{Entries, Key, cell, sum};
use owners::{Known, Owners};

static BYTES: Metric = Metric::counter(
    "ebpf_block_io_bytes",
    "By",
    "Bytes that disks read and wrote for requests of the block layer.",
    &["disk.io.direction", "system.device"],
);

static LATENCY: Metric = Metric::histogram(
    "ebpf_block_io_latency_ns",
    "{ns}",
    "Time from making a request of the block layer to its completion, the I/O scheduler's queue included.",
    &["disk.io.direction", "system.device"],
    NANOSECOND_BOUNDS,
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "block",
    summary: "Bytes to and from disks by workload, disk and direction, and how long requests took",
    limits: &[
        "With `granularity: process`: the kernel charges I/O to cgroups, so these metrics have no process.executable.name.",
        "Disks without requests of their own (dm, md, zram) are not seen; the disks below them are.",
        "Flush, discard and write-zeroes requests transfer no data and are not counted.",
        "I/O of the root cgroup is the workload `kernel`: kernel threads, and buffered writes where the file system or cgroup version does not charge them to who wrote.",
        "With version 2 cgroups, I/O belongs to the closest cgroup above for which the I/O controller is enabled.",
        "With version 1, the I/O controller's cgroups are joined to workloads by path; one that came and went between two gathers is the workload `kernel`.",
        "process_filter and exclude_processes do not apply: requests complete in nobody's context. container_filter \
         applies once they are counted.",
        "A disk whose queue/iostats is 0 has no latencies.",
    ],
    metrics: &[&BYTES, &LATENCY, &MAP_OVERFLOW, &EVENTS_LOST, &SAMPLE_INTERVAL],
    needs: &[
        Need::Btf,
        Need::Tracepoint("block_rq_complete"),
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
    ],
    ladder: &[Step::Counting, Step::Paused],
    section: Section::of::<Config>(),
    plan,
    make,
};

/// How fine latencies are, and how large the kernel maps.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Config {
    /// How finely latencies are told apart, 0 to 3: into 2^scale parts of each doubling.
    latency_scale: Scale,
    /// Entries of the map of bytes: one for each workload, disk and direction. What does not fit goes to the overflow
    /// series.
    #[schemars(range(min = 1, max = 1_048_576))]
    max_transfers: u32,
    /// Entries of the map of latencies: one for each workload, disk and direction.
    #[schemars(range(min = 1, max = 1_048_576))]
    max_latencies: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { latency_scale: Scale(2), max_transfers: 1_024, max_latencies: 512 }
    }
}

impl Config {
    /// Gives what the histograms of latencies hold: 1 microsecond to 69 seconds.
    fn latency_shape(&self) -> HistShape {
        self.latency_scale.shape(10, 36)
    }
}

fn plan(section: &serde_json::Value, cpus: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let (key, histogram) = (size_of::<Transfer>(), config.latency_shape().bytes() as usize);
    let maps = vec![
        ("block_bytes", cost::per_cpu_hash(config.max_transfers, key, 8, cpus)),
        ("block_latency", cost::hash(config.max_latencies, key, histogram)),
    ];
    // One disk, mostly read or mostly written.
    Plan { maps, numbers: 1, histograms: 1 }
}

/// A disk's name and a direction.
type Side = ([u8; 32], u32);

/// What only the collector knows, and the next agent has to.
#[derive(Default, Serialize, Deserialize)]
struct Bequest {
    owners: Vec<Known>,
    bytes: Option<Written<(u64, Side), Side, u64>>,
    latency: Option<Written<(u64, Side), Side, <Histogram as Addend>::Written>>,
}

struct Block {
    /// What keeps the program attached.
    object: Object,
    owners: Arc<Owners>,
    bytes: Entries<Transfer, u64>,
    /// What belongs to one workload may be charged to several cgroups of the I/O controller.
    bytes_by_owner: Sums<(u64, Side), Side, u64>,
    latency: Histograms<Transfer>,
    latency_by_owner: Sums<(u64, Side), Side, Histogram>,
    losses: PerCpuCells<Loss>,
    /// Whether there may be a next agent that goes on.
    lasts: bool,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    let types = setup.types()?;
    let platform = Arc::clone(setup.platform());
    let owners = Owners::new(&platform.facts.cgroups, platform.census.clone());
    let owners = Arc::new(owners.map_err(|why| MakeError::Unsupported(why.to_owned()))?);
    let shape = config.latency_shape();
    let mut object = Loader::new(if platform.facts.is_legacy() { "block_legacy" } else { "block" })
        .governed(platform.budget.governs(DESCRIPTOR.name))
        .pinned(platform.lasting(), DESCRIPTOR.name, &[])
        .sample_histograms(platform.sample_every)
        .max_entries("block_bytes", platform.scaled(config.max_transfers))
        .histogram("block_latency", shape)
        .max_entries("block_latency", platform.scaled(config.max_latencies))
        .load(&types)
        .map_err(crate::refused)?;
    object.attach("block_rq_complete", &types).map_err(crate::refused)?;
    let lasts = platform.lasting().is_some();
    let before: Bequest = setup.inherited().unwrap_or_default();
    owners.remember(before.owners);
    let census: Arc<dyn Census> = owners.clone();
    let collector = Block {
        owners,
        bytes: Entries::of(&object, "block_bytes", census.clone())?,
        bytes_by_owner: Sums::new(lasts, before.bytes),
        latency: Histograms::of(&object, "block_latency", shape, census)?,
        latency_by_owner: Sums::new(lasts, before.latency),
        losses: object.per_cpu_cells("losses").map_err(crate::refused)?,
        lasts,
        object,
    };
    setup.watch(collector.object.watch());
    setup.lead(collector.object.reins().map_err(crate::refused)?);
    Ok(Box::new(collector))
}

#[async_trait]
impl Collector for Block {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.read(scrape).map_err(|error| CollectError(error.to_string()))
    }
}

impl Block {
    fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let Self { owners, bytes, bytes_by_owner, latency, latency_by_owner, .. } = self;
        owners.begin();
        bytes.read(scrape, |transfer, total, entry| {
            let (subject, key) = (owners.subject(transfer.cgroup), (transfer.cgroup, side(transfer)));
            bytes_by_owner.add(subject, key.1, key, total, entry.is_last());
        })?;
        bytes_by_owner.finish(scrape, |side, total, entry| entry.count(&BYTES, values(side), *total));
        latency.read(|transfer, total, last| {
            let (subject, key) = (owners.subject(transfer.cgroup), (transfer.cgroup, side(transfer)));
            latency_by_owner.add(subject, key.1, key, total, last);
        })?;
        latency_by_owner.finish(scrape, |side, total, entry| {
            entry.distribution(&LATENCY, values(side), latency.distribution(total));
        });
        if self.lasts {
            let (bytes, latency) = (bytes_by_owner.write(), latency_by_owner.write());
            scrape.bequeath(&Bequest { owners: owners.known(), bytes, latency });
        }
        self.latency.record_lost::<2>(scrape, &LATENCY)?;
        self.read_losses(scrape)
    }

    /// Exports what the kernel could not put where it belongs.
    fn read_losses(&self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let all = sum(&self.losses.get(0)?);
        for (direction, bytes) in [("read", all.read), ("write", all.written)] {
            if bytes > 0 {
                scrape.record(&BYTES, Subject::Overflow, [direction, ""].map(Text::from), bytes);
            }
        }
        scrape.record(&MAP_OVERFLOW, Subject::Node, ["block_bytes".into()], all.transfers);
        scrape.record(&EVENTS_LOST, Subject::Node, [DESCRIPTOR.name.into(), "no_start".into()], all.untimed);
        Ok(())
    }
}

fn side(transfer: &Transfer) -> Side {
    (transfer.device, transfer.direction)
}

/// Gives the attribute values of a disk and direction.
fn values((device, direction): &Side) -> [Text; 2] {
    let name = device.split(|&byte| byte == 0).next().unwrap_or_default();
    let direction = if *direction == BLOCK_READ { "read" } else { "write" };
    [direction.into(), String::from_utf8_lossy(name).into_owned().into()]
}

cell!(Loss: read, written, transfers, untimed);

impl Key for Transfer {
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
}
