//! Counts DNS over UDP and TCP at its clients, and at its servers by choice: queries by type, answers by code, latency,
//! timeouts; by name and as events by choice. It hooks `cgroup_skb` egress and ingress at the root of the v2 hierarchy.
//! What it cannot see stands in its descriptor.

mod config;
mod decode;
mod named;
pub(crate) mod names;
mod unanswered;
mod wire;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bpf::abi::dns::{Asked, Loss, Named, Pending, Tally};
use bpf::{Loader, Object, PerCpuCells, Types, cost};
use model::event::EventKind;
use model::metric::NANOSECOND_BOUNDS;
use model::{Metric, Subject, Text};
use runtime::bus::EVENTS_EMITTED;
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Platform, Scrape, Section, Setup, Step};

use crate::histogram::Histograms;
use crate::reader::Reader;
use crate::table::{Entries, Key};
use crate::{filter, ring};
use config::Config;
use decode::Decoder;
use named::NamedCounts;
use unanswered::{Unanswered, keep_sweeping, lock};

static QUERIES: Metric = Metric::counter(
    "ebpf_dns_queries",
    "{query}",
    "DNS queries that clients sent, by the type of their first question; with role=server those that servers got.",
    &["dns.question.type", "dns.question.name", "role"],
);

static RESPONSES: Metric = Metric::counter(
    "ebpf_dns_responses",
    "{query}",
    "DNS queries that were answered in time, by the response code in the answer's header.",
    &["dns.response_code", "dns.question.name", "role"],
);

static LATENCY: Metric = Metric::histogram(
    "ebpf_dns_latency_ns",
    "{ns}",
    "Time from a DNS query to its answer.",
    &["role"],
    NANOSECOND_BOUNDS,
);

static TIMEOUTS: Metric = Metric::counter(
    "ebpf_dns_timeouts",
    "{query}",
    "DNS queries without an answer in time, and those that were asked again under the same id before they had one.",
    &["role"],
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "dns",
    summary: "DNS queries of workloads by type, their answers by code, latency and timeouts",
    limits: &[
        "Only port 53 is looked at: encrypted DNS (DoT, DoH, DoQ) and multicast DNS are not seen.",
        "Servers are counted by choice (`servers`), by the sockets that are bound to port 53; what comes to one over TCP out of order, or before the connection is accepted, is not read. Before Linux 5.12 a server that is older than the agent belongs to the workload kernel until it answers.",
        "Names are told by choice, as a label (`names`) and as events (`events`, of clients). A name that a segment of TCP cuts in two, or that a pointer ends, is not told; an event's is the one that the answer repeats.",
        "Names that find no room in their map (`max_names`) count without their name.",
        "Only standard queries count: notifications, updates and other operations do not.",
        "The extended response codes of EDNS show as their lower four bits.",
        "An answer is known by its socket and id alone; one that comes after `timeout` counts as none.",
        "Over TCP, what follows a gap or comes late is taken for the beginning of a message.",
        "Several datagrams that are handed over at once for segmentation (UDP_SEGMENT) count as the first one.",
        "Where addresses are translated on the node and the port is not 53 any more, only connected sockets are seen.",
    ],
    metrics: &[&QUERIES, &RESPONSES, &LATENCY, &TIMEOUTS, &EVENTS_EMITTED, &MAP_OVERFLOW, &EVENTS_LOST],
    needs: &[
        Need::Btf,
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
        Need::Capability("CAP_NET_ADMIN"),
        Need::HostPid,
    ],
    ladder: &[Step::Paused],
    section: Section::of::<Config>(),
    plan,
    make,
};

fn plan(section: &serde_json::Value, cpus: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let key = size_of::<Tally>();
    let mut maps = vec![
        ("dns_queries", cost::per_cpu_hash(config.max_queries, key, 8, cpus)),
        ("dns_responses", cost::per_cpu_hash(config.max_responses, key, 8, cpus)),
        ("dns_latency", cost::hash(config.max_latencies, key, config.latency_shape().bytes() as usize)),
        ("dns_pending", cost::hash(config.max_pending, size_of::<Asked>(), size_of::<Pending>())),
        // Empty unless it outlives the agent.
        ("dns_timeouts", cost::hash(config.max_latencies, key, 8)),
    ];
    if config.names {
        maps.push(("dns_names", cost::per_cpu_hash(config.max_names, size_of::<Named>(), 8, cpus)));
    }
    let ring = if config.events.enabled { ring::bytes(ring::DEFAULT) } else { unused_ring() };
    maps.push(("events", ring.into()));
    // Two types, a code or two, and timeouts.
    Plan { maps, numbers: 4, histograms: 1 }
}

/// Gives the size of a ring that nothing goes through: the object has it in any case.
fn unused_ring() -> u32 {
    rustix::param::page_size() as u32
}

struct Dns {
    /// What keeps the programs attached; nothing once the last events are being read.
    object: Option<Object>,
    queries: Entries<Tally, u64>,
    responses: Entries<Tally, u64>,
    latency: Histograms<Tally>,
    named: Option<NamedCounts>,
    reader: Option<Reader>,
    unanswered: Arc<Mutex<Unanswered>>,
    losses: PerCpuCells<Loss>,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    let types = setup.types()?;
    let platform = Arc::clone(setup.platform());
    let mut lacking = Vec::new();
    let reports = config.events.enabled && reportable(&platform, &mut lacking)?;
    let mut object = load(&config, &platform, &types, reports)?;
    let reader = if reports {
        let limits = config.events.limit().map(|limit| (EventKind::DnsResponse, limit));
        Some(Reader::start(setup, DESCRIPTOR.name, &mut object, limits.into_iter().collect(), Decoder)?)
    } else {
        None
    };
    attach(&config, &platform, &types, &mut object, &mut lacking)?;
    if !lacking.is_empty() {
        setup.degrade(lacking.join("; "));
    }
    let window = config.timeout.nanos();
    let unanswered = Arc::new(Mutex::new(Unanswered::open(&object, window, &platform)?));
    setup.runtime().spawn(keep_sweeping(Arc::downgrade(&unanswered), window));
    setup.watch(object.watch());
    setup.lead(object.reins().map_err(crate::refused)?);
    Ok(Box::new(Dns {
        queries: Entries::open(&object, "dns_queries", &platform)?,
        responses: Entries::open(&object, "dns_responses", &platform)?,
        latency: Histograms::open(&object, "dns_latency", config.latency_shape(), &platform)?,
        named: if config.names { Some(NamedCounts::open(&object, &platform)?) } else { None },
        reader,
        unanswered,
        losses: object.per_cpu_cells("losses").map_err(crate::refused)?,
        object: Some(object),
    }))
}

/// Says whether answers can be reported; if not, why.
fn reportable(platform: &Platform, lacking: &mut Vec<&'static str>) -> Result<bool, MakeError> {
    if !platform.bus.is_wanted() {
        lacking.push("no sink takes the events of dns.events: set exporters.events.otlp or exporters.events.stdout");
        return Ok(false);
    }
    if platform.facts.is_legacy() && ring::wants_perf(platform)? {
        lacking.push("before Linux 5.12 the events of dns.events need a ring: set events.buffer to auto");
        return Ok(false);
    }
    Ok(true)
}

/// Loads the programs.
fn load(config: &Config, platform: &Platform, types: &Types, reports: bool) -> Result<Object, MakeError> {
    let perf = reports && ring::wants_perf(platform)?;
    let variant = match (platform.facts.is_legacy(), perf) {
        (true, _) => "dns_legacy",
        (false, true) => "dns_perf",
        (false, false) => "dns",
    };
    let lasting = platform.lasting();
    let mut loader = Loader::new(variant)
        .pinned(lasting, DESCRIPTOR.name, filter::FILLED)
        .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
        .constant("window", &config.timeout.nanos())
        .constant("known_types", &names::known())
        .constant("servers", &u32::from(config.servers))
        .constant("names", &u32::from(config.names))
        .constant("reports", &u32::from(reports))
        .constant("sample_every", &platform.sample_every)
        .max_entries("dns_queries", platform.scaled(config.max_queries))
        .max_entries("dns_responses", platform.scaled(config.max_responses))
        .histogram("dns_latency", config.latency_shape())
        .max_entries("dns_latency", platform.scaled(config.max_latencies))
        .max_entries("dns_names", if config.names { platform.scaled(config.max_names) } else { 1 })
        .max_entries("dns_pending", platform.scaled(config.max_pending))
        .max_entries("dns_timeouts", if lasting.is_some() { unanswered::entries(config, platform) } else { 1 });
    if !perf {
        let bytes = if reports { ring::bytes(platform.ring_bytes) } else { unused_ring() };
        loader = loader.max_entries("events", bytes);
    }
    let loader = loader.governed(platform.budget.governs(DESCRIPTOR.name));
    let object = filter::tune(loader, platform).load(types).map_err(crate::refused)?;
    filter::fill(platform, &object)?;
    Ok(object)
}

/// Attaches the programs.
fn attach(
    config: &Config,
    platform: &Platform,
    types: &Types,
    object: &mut Object,
    lacking: &mut Vec<&'static str>,
) -> Result<(), MakeError> {
    let root = platform.facts.cgroups.open_root().map_err(|error| {
        MakeError::Unsupported(format!("packets are watched at the root of the v2 cgroup hierarchy: {error}"))
    })?;
    // The owners of servers' sockets first: of new ones, then of old ones.
    if config.servers {
        for program in ["dns_bind4", "dns_bind6"] {
            object.attach_cgroup(program, &root, types).map_err(crate::refused)?;
        }
        if platform.facts.is_legacy() {
            lacking.push("servers that are older than the agent belong to the workload kernel until they answer");
        } else {
            object.load_iterator("dns_seed", "task_file", types).map_err(crate::refused)?;
            object.walk("dns_seed", &mut Vec::new()).map_err(crate::refused)?;
        }
    }
    // What comes in first, so that every query that a client sends finds its answer.
    for program in ["dns_ingress", "dns_egress"] {
        object.attach_cgroup_behind(&platform.gates, program, &root, types).map_err(crate::refused)?;
    }
    Ok(())
}

#[async_trait]
impl Collector for Dns {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.read(scrape).map_err(|error| CollectError(error.to_string()))?;
        match &self.reader {
            Some(reader) => reader.record(scrape).await,
            None => Ok(()),
        }
    }

    async fn shutdown(&mut self) {
        // Detached first: what is in the ring then is all there will be.
        self.object = None;
        if let Some(reader) = &self.reader
            && let Err(error) = reader.flush().await
        {
            tracing::warn!("the last events: {error}");
        }
    }
}

impl Dns {
    fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        self.queries.read(scrape, |query, total, entry| {
            let role = names::role(query.role.into());
            entry.count(&QUERIES, [names::question(query.code).into(), "".into(), role.into()], *total);
        })?;
        self.responses.read(scrape, |response, total, entry| {
            let role = names::role(response.role.into());
            entry.count(&RESPONSES, [names::response(response.code).into(), "".into(), role.into()], *total);
        })?;
        if let Some(named) = &mut self.named {
            named.read(scrape)?;
        }
        self.latency.record(scrape, &LATENCY, |key| [names::role(key.role.into()).into()])?;
        {
            let mut unanswered = lock(&self.unanswered);
            unanswered.sweep()?;
            unanswered.record(scrape, &TIMEOUTS)?;
        }
        self.read_losses(scrape)
    }

    /// Exports what the kernel could not put where it belongs.
    fn read_losses(&self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let mut all = Loss::default();
        for loss in self.losses.get(0)? {
            all.queries += loss.queries;
            all.responses += loss.responses;
            all.names += loss.names;
            all.pending += loss.pending;
            all.unread += loss.unread;
        }
        for (metric, events) in [(&QUERIES, all.queries), (&RESPONSES, all.responses)] {
            if events > 0 {
                scrape.record(metric, Subject::Overflow, ["", "", ""].map(Text::from), events);
            }
        }
        let maps = [("dns_queries", all.queries), ("dns_responses", all.responses), ("dns_pending", all.pending)];
        let named = self.named.is_some().then_some(("dns_names", all.names));
        let unanswered = lock(&self.unanswered).beyond().map(|events| ("dns_timeouts", events));
        for (map, events) in maps.into_iter().chain(named).chain(unanswered) {
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
/// Reads a record, for [`crate::fuzz`].
pub(crate) fn read_record(data: &[u8]) {
    // Whatever it says is an outcome.
    drop(crate::reader::Decode::decode(&mut Decoder, data, 7));
}

/// Reads a question, for [`crate::fuzz`].
pub(crate) fn read_question(data: &[u8]) {
    if let Some((name, rest)) = wire::name(data) {
        let kind = rest.first_chunk().map(|&bytes| u16::from_be_bytes(bytes));
        drop((name, names::question(kind.map_or(0, u32::from))));
    }
}
