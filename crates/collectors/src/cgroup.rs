//! Watches which cgroups come and go, so that a workload that lives between two gathers still gets its name, and reads
//! what the kernel itself accounts to each: throttling, memory and pressure.
//! It hooks `cgroup_mkdir` and `cgroup_rmdir`. Under lockdown=confidentiality the kernel gives ids without paths.

mod figures;
mod files;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bpf::abi::cgroup::{CHANGE_MADE, CHANGE_REMOVED, Change};
use bpf::{Loader, Object, PerCpuCells, Ring};
use model::{CgroupChange, Subject, Text};
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flush::{Flush, Wishes};
use crate::{filter, ring};

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "cgroup",
    summary: "Workloads as their cgroups come and go, and what the kernel accounts to them: throttling, memory, pressure",
    limits: &[
        "Under lockdown=confidentiality the kernel gives ids only; the names then come from the file system.",
        "The files of a container speak for all that is within it, also for containers within. Any other cgroup is read \
         where nothing below it has another name: what a slice, a pod or a service holds beside the workloads below it \
         is not seen. So nothing is counted twice under one name.",
        "What a cgroup counts between the last gather and its removal is lost: its files go with it.",
        "With version 1 controllers throttling is read in the cpu hierarchy and pressure in version 2, each where the \
         same path exists there, else they are absent; of the memory events there are max and oom_kill.",
        "Throttling is absent without a CPU limit, the memory limit where it is `max`, and pressure where the kernel \
         has none (CONFIG_PSI, psi=1).",
        "With `granularity: process`: the files are those of a whole workload, so these metrics have no \
         process.executable.name.",
        "A reading of memory.usage_in_bytes includes what each CPU has charged ahead, at most 64 pages.",
    ],
    metrics: &[
        &files::THROTTLED_PERIODS,
        &files::THROTTLED,
        &files::USAGE,
        &files::LIMIT,
        &files::EVENTS,
        &files::PRESSURE,
        &MAP_OVERFLOW,
        &EVENTS_LOST,
    ],
    needs: &[
        Need::Btf,
        Need::Tracepoint("cgroup_mkdir"),
        Need::Tracepoint("cgroup_rmdir"),
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
    ],
    ladder: &[],
    section: Section::of::<Config>(),
    plan: |_, _| Plan {
        maps: vec![("changes", u64::from(ring::bytes(ring::DEFAULT)))],
        // Six lines of pressure, four of events, two of throttling, two of memory.
        numbers: 14,
        histograms: 0,
    },
    make,
};

/// The section `integrations.ebpf.collectors.cgroup`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "they are the keys of the configuration")]
struct Config {
    /// How many files of cgroups are kept open, up to seven for each; never more than an eighth of what the process
    /// may open. Those beyond are opened for each reading, which costs more.
    #[schemars(range(min = 0, max = 1_048_576))]
    max_open_files: u32,
    /// How many cgroups the kernel can filter by `container_filter`, 72 B each; no map is made where that is empty.
    /// What does not fit is counted in vain and left out afterwards.
    #[schemars(range(min = 1, max = 4_194_304))]
    max_rules: u32,
    /// How many executables the kernel tells apart with `granularity: process`, 104 B each; else no map is made. What
    /// does not fit is its workload's own, without process.executable.name.
    #[schemars(range(min = 1, max = 1_048_576))]
    max_executables: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_open_files: 4_096, max_rules: 16_384, max_executables: 8_192 }
    }
}

/// How often the kernel's filter follows names that came after their cgroups.
const NAMES: Duration = Duration::from_millis(250);

struct Cgroup {
    _object: Object,
    drops: PerCpuCells<u64>,
    platform: Arc<Platform>,
    lost: u64,
    files: files::Files,
    flush: Flush<()>,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    let types = setup.types()?;
    let platform = Arc::clone(setup.platform());
    let load = || {
        let loader = Loader::new("cgroup")
            .constant("hierarchy_id", &platform.facts.cgroups.hierarchy_id)
            .max_entries("changes", ring::bytes(platform.ring_bytes));
        filter::share(loader, &platform).load(&types)
    };
    let mut object = load().map_err(crate::refused)?;
    let with_paths = object.attach("cgroup_mkdir", &types).and_then(|()| object.attach("cgroup_rmdir", &types));
    if let Err(error) = with_paths {
        // What was attached of the first try goes with its object.
        object = load().map_err(crate::refused)?;
        object.attach("cgroup_mkdir__id", &types).map_err(crate::refused)?;
        object.attach("cgroup_rmdir__id", &types).map_err(crate::refused)?;
        setup.degrade(format!("the kernel gives no paths of cgroups ({error}); names come from the file system"));
    }
    if !platform.facts.cgroups.whole {
        setup.degrade(
            "only a part of the cgroup hierarchy is to be seen: workloads that are older than the agent have no names, and \
             no files of cgroups are read; mount the host's and name it in host.cgroup",
        );
    }
    setup.watch(object.watch());
    let runtime = setup.runtime().clone();
    let ring = {
        let _inside = runtime.enter();
        object.ring("changes").map_err(crate::refused)?
    };
    let drops = object.per_cpu_cells("drops").map_err(crate::refused)?;
    let census = Arc::clone(&platform.census);
    // Cgroups that were made before the hooks were attached.
    census.changed(CgroupChange::Lost);
    let (flush, flushes) = Flush::new("nobody listens to the ring of cgroup changes any more");
    runtime.spawn(listen(ring, flushes, Arc::clone(&platform)));
    let budget = (platform.facts.open_files / runtime::descriptors::KEPT).min(u64::from(config.max_open_files));
    let files = files::Files::new(&platform.facts, budget, &*census);
    Ok(Box::new(Cgroup { _object: object, drops, platform, lost: 0, files, flush }))
}

/// Passes changes on as they come, until the collector is dropped.
async fn listen(mut ring: Ring, mut flushes: Wishes<()>, platform: Arc<Platform>) {
    let mut names = tokio::time::interval(NAMES);
    names.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            flush = flushes.recv() => {
                let Some(done) = flush else { return };
                ring.drain(|record| pass_on(record, &platform));
                // The collector may have stopped waiting.
                let _ = done.send(());
            }
            _ = names.tick(), if platform.cgroup_rules.is_some() => {
                if let Some(rules) = &platform.cgroup_rules {
                    rules.update(&*platform.census);
                }
            }
            change = ring.next(|record| pass_on(record, &platform)) => {
                if let Err(error) = change {
                    tracing::warn!("the ring of cgroup changes: {error}");
                    return;
                }
            }
        }
    }
}

fn pass_on(record: &[u8], platform: &Platform) {
    let Some((change, path)) = Change::decode(record) else { return };
    platform.census.changed(match change.kind {
        CHANGE_MADE => CgroupChange::Made { id: change.id, parent: change.parent, path: path.map(Box::from) },
        CHANGE_REMOVED => CgroupChange::Removed { id: change.id },
        _ => return,
    });
    if change.kind == CHANGE_MADE
        && let Some(rules) = &platform.cgroup_rules
    {
        // Its name may tell more than what the kernel has passed on from the one above it.
        rules.correct(&*platform.census, change.id);
    }
}

#[async_trait]
impl Collector for Cgroup {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.flush.wait().await?;
        let drops = self.drops.get(0).map_err(|error| CollectError(error.to_string()))?;
        let lost = drops.iter().sum();
        if lost > self.lost {
            self.platform.census.changed(CgroupChange::Lost);
            self.lost = lost;
        }
        let values = [Text::Static(DESCRIPTOR.name), Text::Static("ring_full")];
        scrape.record(&EVENTS_LOST, Subject::Node, values, lost);
        if let Some(rules) = &self.platform.cgroup_rules {
            rules.update(&*self.platform.census);
        }
        if let Some(executables) = &self.platform.executables {
            let lost = executables.tidy(&*self.platform.census);
            let lost = lost.map_err(|error| CollectError(error.to_string()))?;
            scrape.record(&MAP_OVERFLOW, Subject::Node, ["executables".into()], lost);
        }
        self.files.read(&*self.platform.census, scrape);
        Ok(())
    }
}
