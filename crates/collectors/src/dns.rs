//! Counts DNS over UDP and TCP at its clients: queries by type, answers by code, latency, timeouts.
//! It hooks `cgroup_skb` egress and ingress at the root of the v2 hierarchy. What it cannot see stands in its descriptor.

mod config;
mod names;
mod unanswered;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bpf::abi::dns::{Asked, Loss, Pending, Tally};
use bpf::{Loader, Object, PerCpuCells, Types, cost};
use model::metric::NANOSECOND_BOUNDS;
use model::{Metric, Subject, Text};
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup};

use crate::filter;
use crate::histogram::Histograms;
use crate::table::{Entries, Key};
use config::Config;
use unanswered::{Unanswered, keep_sweeping, lock};

static QUERIES: Metric = Metric::counter(
    "ebpf_dns_queries",
    "{query}",
    "DNS queries that clients sent, by the type of their first question.",
    &["dns.question.type"],
);

static RESPONSES: Metric = Metric::counter(
    "ebpf_dns_responses",
    "{query}",
    "DNS queries that were answered in time, by the response code in the answer's header.",
    &["dns.response_code"],
);

static LATENCY: Metric =
    Metric::histogram("ebpf_dns_latency_ns", "{ns}", "Time from a DNS query to its answer.", &[], NANOSECOND_BOUNDS);

static TIMEOUTS: Metric = Metric::counter(
    "ebpf_dns_timeouts",
    "{query}",
    "DNS queries without an answer in time, and those that were asked again under the same id before they had one.",
    &[],
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "dns",
    summary: "DNS queries of workloads by type, their answers by code, latency and timeouts",
    limits: &[
        "Only clients are counted, on port 53: encrypted DNS (DoT, DoH, DoQ) and multicast DNS are not seen, nor are the names asked for.",
        "Only standard queries count: notifications, updates and other operations do not.",
        "The extended response codes of EDNS show as their lower four bits.",
        "An answer is known by its socket and id alone; one that comes after `timeout` counts as none.",
        "Over TCP, what follows a gap or comes late is taken for the beginning of a message.",
        "Several datagrams that are handed over at once for segmentation (UDP_SEGMENT) count as the first one.",
        "Where addresses are translated on the node and the port is not 53 any more, only connected sockets are seen.",
    ],
    metrics: &[&QUERIES, &RESPONSES, &LATENCY, &TIMEOUTS, &MAP_OVERFLOW, &EVENTS_LOST],
    needs: &[
        Need::Btf,
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
        Need::Capability("CAP_NET_ADMIN"),
    ],
    section: Section::of::<Config>(),
    plan,
    make,
};

/// Samples that a typical container adds: two types, two codes, timeouts, and a histogram of 16 lines.
const SAMPLES: usize = 21;

fn plan(section: &serde_json::Value, cpus: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let key = size_of::<Tally>();
    let maps = vec![
        ("dns_queries", cost::per_cpu_hash(config.max_queries, key, 8, cpus)),
        ("dns_responses", cost::per_cpu_hash(config.max_responses, key, 8, cpus)),
        ("dns_latency", cost::hash(config.max_latencies, key, config.latency_shape().bytes() as usize)),
        ("dns_pending", cost::hash(config.max_pending, size_of::<Asked>(), size_of::<Pending>())),
    ];
    Plan { maps, samples_per_workload: SAMPLES }
}

struct Dns {
    /// What keeps the programs attached.
    object: Object,
    queries: Entries<Tally, u64>,
    responses: Entries<Tally, u64>,
    latency: Histograms<Tally>,
    unanswered: Arc<Mutex<Unanswered>>,
    losses: PerCpuCells<Loss>,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    let types = setup.types()?;
    let platform = setup.platform();
    let object = load(&config, platform, &types)?;
    let window = config.timeout.nanos();
    let unanswered = Arc::new(Mutex::new(Unanswered::open(&object, window, platform)?));
    setup.runtime().spawn(keep_sweeping(Arc::downgrade(&unanswered), window));
    let collector = Dns {
        queries: Entries::open(&object, "dns_queries", platform)?,
        responses: Entries::open(&object, "dns_responses", platform)?,
        latency: Histograms::open(&object, "dns_latency", config.latency_shape(), platform)?,
        unanswered,
        losses: object.per_cpu_cells("losses").map_err(crate::refused)?,
        object,
    };
    setup.watch(collector.object.watch());
    Ok(Box::new(collector))
}

/// Loads and attaches the programs.
fn load(config: &Config, platform: &Platform, types: &Types) -> Result<Object, MakeError> {
    let root = platform.facts.cgroups.open_root().map_err(|error| {
        MakeError::Unsupported(format!("packets are watched at the root of the v2 cgroup hierarchy: {error}"))
    })?;
    let variant = if platform.facts.is_legacy() { "dns_legacy" } else { "dns" };
    let loader = Loader::new(variant)
        .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
        .constant("window", &config.timeout.nanos())
        .constant("known_types", &names::known())
        .max_entries("dns_queries", platform.scaled(config.max_queries))
        .max_entries("dns_responses", platform.scaled(config.max_responses))
        .histogram("dns_latency", config.latency_shape())
        .max_entries("dns_latency", platform.scaled(config.max_latencies))
        .max_entries("dns_pending", platform.scaled(config.max_pending));
    let mut object = filter::tune(loader, platform).load(types).map_err(crate::refused)?;
    filter::fill(platform, &object)?;
    // The answers first, so that every query that is counted finds its own.
    for program in ["dns_ingress", "dns_egress"] {
        object.attach_cgroup(program, &root).map_err(crate::refused)?;
    }
    Ok(object)
}

#[async_trait]
impl Collector for Dns {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.read(scrape).map_err(|error| CollectError(error.to_string()))
    }
}

impl Dns {
    fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        self.queries.read(scrape, |query, total, entry| {
            entry.count(&QUERIES, [names::question(query.code).into()], *total);
        })?;
        self.responses.read(scrape, |response, total, entry| {
            entry.count(&RESPONSES, [names::response(response.code).into()], *total);
        })?;
        self.latency.record(scrape, &LATENCY, |_| [])?;
        {
            let mut unanswered = lock(&self.unanswered);
            unanswered.sweep()?;
            unanswered.record(scrape, &TIMEOUTS);
        }
        self.read_losses(scrape)
    }

    /// Exports what the kernel could not put where it belongs.
    fn read_losses(&self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let mut all = Loss::default();
        for loss in self.losses.get(0)? {
            all.queries += loss.queries;
            all.responses += loss.responses;
            all.pending += loss.pending;
            all.unread += loss.unread;
        }
        for (metric, events) in [(&QUERIES, all.queries), (&RESPONSES, all.responses)] {
            if events > 0 {
                scrape.record(metric, Subject::Overflow, [""].map(Text::from), events);
            }
        }
        let maps = [("dns_queries", all.queries), ("dns_responses", all.responses), ("dns_pending", all.pending)];
        for (map, events) in maps {
            scrape.record(&MAP_OVERFLOW, Subject::Node, [map.into()], events);
        }
        let values = [DESCRIPTOR.name.into(), "tcp_unread".into()];
        scrape.record(&EVENTS_LOST, Subject::Node, values, all.unread);
        Ok(())
    }
}

impl Key for Tally {
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
}
