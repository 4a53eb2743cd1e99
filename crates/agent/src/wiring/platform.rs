//! Which collectors run, and what they share: the limits and filters of the configuration, and who names and elects.

use std::collections::HashMap;
use std::sync::Arc;

use bpf::probe::Facts;
use config::sections::agent::Privileges;
use config::{Config, Enabled, Loaded};
use enrich::{Learned, Peers, Workloads};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use runtime::{Budget, Buffer, Bus, CgroupRules, Descriptor, Elections, Executables, Platform, Selection};

use super::{filters_pods, given, own_number};

/// Gives which collectors run and with what sections.
pub fn selections(loaded: &Loaded, registry: &[&'static Descriptor]) -> Vec<Selection> {
    let select = |descriptor: &&'static Descriptor| {
        let selection = loaded.collectors.iter().find(|selection| selection.name == descriptor.name)?;
        Some(Selection {
            descriptor,
            key: config::section_key(descriptor.name),
            enabled: selection.enabled != Enabled::False,
            required: selection.enabled == Enabled::Require,
            section: selection.section.clone(),
        })
    };
    registry.iter().filter_map(select).collect()
}

/// Who names, and who elects.
pub type Parties<'a> = (&'a Arc<Workloads>, &'a Arc<Peers>, Arc<Learned>, Option<Arc<dyn Elections>>);

/// Gives what all collectors share.
pub fn platform(
    loaded: &Loaded,
    registry: &[&'static Descriptor],
    facts: Facts,
    (workloads, peers, learned, elections): Parties<'_>,
    (executables, pins): (Option<Arc<Executables>>, Option<bpf::Pins>),
    meters: SdkMeterProvider,
    bus: Arc<Bus>,
) -> Arc<Platform> {
    let selections = selections(loaded, registry);
    let mut platform = Platform {
        cgroup_rules: cgroup_rules(loaded, workloads).map(Arc::new),
        executables,
        budget: Budget::default(),
        sealed: Arc::default(),
        excluded_process: None,
        sample_every: 1,
        facts,
        census: Arc::clone(workloads) as Arc<dyn model::Census>,
        elections,
        learner: Some(learned),
        peers: Arc::clone(peers) as Arc<dyn model::Peers>,
        sections: HashMap::new(),
        shared: std::sync::Mutex::default(),
        btf_path: None,
        types: std::sync::Mutex::default(),
        gates: bpf::Gates::default(),
        pins,
        map_scale: 1.0,
        ring_bytes: 0,
        perf_bytes: 0,
        buffer: Buffer::Auto,
        bus,
        process_filter: Vec::new(),
        exclude_processes: Vec::new(),
        meters,
    };
    tune(&mut platform, loaded, &selections);
    platform.map_scale = even_scale(&loaded.config, &selections, platform.facts.possible_cpus);
    Arc::new(platform)
}

/// Sets what collectors are told by the configuration, except for how large their maps may be.
pub fn tune(platform: &mut Platform, loaded: &Loaded, selections: &[Selection]) {
    let ebpf = &loaded.config.integrations.ebpf;
    let running = selections.iter().filter(|selection| selection.enabled);
    platform.sections = running.map(|selection| (selection.descriptor.name, selection.section.clone())).collect();
    platform.excluded_process = platform.facts.process.filter(|_| !ebpf.include_self);
    platform.sample_every = sample_every(ebpf.sample_rate);
    platform.btf_path = given(&ebpf.btf_path);
    platform.ring_bytes = u32::try_from(ebpf.ring_buffer_size).unwrap_or(u32::MAX);
    platform.perf_bytes = ebpf.perf_buffer_size;
    platform.buffer = match ebpf.events.buffer {
        config::sections::integrations::Buffer::Auto => Buffer::Auto,
        config::sections::integrations::Buffer::Ring => Buffer::Ring,
        config::sections::integrations::Buffer::Perf => Buffer::Perf,
    };
    platform.budget = budget(&loaded.config);
    platform.process_filter.clone_from(&ebpf.process_filter);
    platform.exclude_processes.clone_from(&ebpf.exclude_processes);
}

/// Gives what collectors may cost.
fn budget(config: &Config) -> Budget {
    let section = &config.budget;
    Budget {
        whole: Some(section.cpu_percent).filter(|percent| *percent > 0.0),
        each: section.collectors.clone().into_iter().collect(),
        window: section.window,
        // Who gives up what it takes to attach must not detach for a while.
        pauses: config.agent.privileges == Privileges::Keep,
    }
}

/// Gives to what share of their sizes the maps of all collectors are cut to keep within the limit, if all are made now.
pub fn even_scale(config: &Config, selections: &[Selection], cpus: usize) -> f64 {
    let limit = config.limits.map_memory as f64;
    let all: f64 = selections.iter().filter(|selection| selection.enabled).map(|one| planned(one, cpus)).sum();
    let scale = (limit / all.max(1.0)).min(1.0);
    if scale < 1.0 {
        tracing::warn!(
            "kernel maps would take {all} bytes when full: they get {:.0} % of their entries to keep within \
             limits.map_memory ({limit} bytes)",
            scale * 100.0,
        );
    }
    scale
}

/// Gives to what share maps that are made now are cut when those of the collectors that need not be made anew stay as they
/// are, with the share of each; nothing when that would leave the new ones less than their part.
pub fn spare_scale(
    config: &Config,
    selections: &[Selection],
    (before, scales): (&[Selection], &HashMap<&'static str, f64>),
    cpus: usize,
) -> Option<f64> {
    let stays = |now: &Selection| {
        let name = now.descriptor.name;
        before.iter().any(|was| was.descriptor.name == name && was.enabled && was.section == now.section)
    };
    let (kept, fresh): (Vec<_>, Vec<_>) =
        selections.iter().filter(|selection| selection.enabled).partition(|now| stays(now));
    let share = |one: &&Selection| planned(one, cpus) * scales.get(one.descriptor.name).copied().unwrap_or(1.0);
    let (kept, fresh): (f64, f64) = (kept.iter().map(share).sum(), fresh.iter().map(|one| planned(one, cpus)).sum());
    let room = config.limits.map_memory as f64 - kept;
    let scale = if fresh > 0.0 { (room / fresh).min(1.0) } else { 1.0 };
    let all: f64 = selections.iter().filter(|selection| selection.enabled).map(|one| planned(one, cpus)).sum();
    let even = (config.limits.map_memory as f64 / all.max(1.0)).min(1.0);
    (room >= 0.0 && scale >= even).then_some(scale)
}

fn planned(selection: &Selection, cpus: usize) -> f64 {
    let plan = (selection.descriptor.plan)(&selection.section, cpus);
    plan.maps.iter().map(|(_, bytes)| *bytes).sum::<u64>() as f64
}

/// Makes the kernel's table of cgroups where some are left out and the collector runs that keeps it current.
fn cgroup_rules(loaded: &Loaded, workloads: &Workloads) -> Option<CgroupRules> {
    if loaded.config.integrations.ebpf.container_filter.is_empty() && !filters_pods(&loaded.config) {
        return None;
    }
    let cgroup = loaded.collectors.iter().find(|selection| selection.name == "cgroup")?;
    if cgroup.enabled == Enabled::False {
        return None;
    }
    let entries = own_number(loaded, "max_rules")?;
    let made = CgroupRules::new(workloads, entries);
    made.inspect_err(|error| tracing::warn!("filters by name are applied only after counting: {error}")).ok()
}

/// Turns a percentage into «one in so many».
fn sample_every(percent: u8) -> u32 {
    (100 + u32::from(percent) / 2) / u32::from(percent.max(1))
}
