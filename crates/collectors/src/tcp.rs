//! Follows TCP sockets by workload: states, how connections begin and end, round trips, what is sent again.
//! It hooks `inet_sock_set_state`, the ends of sockets, resets and retransmissions. What it cannot see stands in its
//! descriptor.

mod config;
mod peers;
mod walks;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bpf::abi::histogram::HistShape;
use bpf::abi::tcp::{CAUSES, Connections, INBOUND, Lifecycle, NETWORK_IPV6, OUTBOUND, Owner, Peer, STATES, TcpLoss};
use bpf::{Loader, Object, PerCpuCells, cost};
use model::metric::{MICROSECOND_BOUNDS, NANOSECOND_BOUNDS};
use model::{Metric, Subject};
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Scrape, Section, Setup, Step};

use crate::filter;
use crate::histogram::Histograms;
use crate::table::{Cell, Entries, Entry, Key, sum};
use config::Config;
use peers::Peers;
use walks::Walks;

static CONNECTIONS: Metric = Metric::gauge(
    "ebpf_tcp_connections",
    "{connection}",
    "TCP sockets by state now, TIME_WAIT aside.",
    &["network.connection.state", "direction", "network.type"],
);

static CONNECT_LATENCY: Metric = Metric::histogram(
    "ebpf_tcp_connect_latency_ns",
    "{ns}",
    "Time from the first SYN of an outbound connection until it was established.",
    &["network.type"],
    NANOSECOND_BOUNDS,
);

static CONNECTS: Metric = Metric::counter(
    "ebpf_tcp_connects",
    "{connection}",
    "Outbound TCP connections that were established.",
    &["network.type"],
);

static ACCEPTS: Metric = Metric::counter(
    "ebpf_tcp_accepts",
    "{connection}",
    "Inbound TCP connections that were established.",
    &["network.type"],
);

static CLOSES: Metric = Metric::counter(
    "ebpf_tcp_closes",
    "{connection}",
    "Established TCP connections that ended, in whatever way.",
    &["network.type"],
);

static RESETS: Metric = Metric::counter(
    "ebpf_tcp_resets",
    "{connection}",
    "Established TCP connections that were reset, by either side.",
    &["network.type"],
);

static CONNECT_ERRORS: Metric =
    Metric::counter("ebpf_tcp_connect_errors", "{connection}", "TCP connects that failed.", &["error.type"]);

static RTT: Metric = Metric::gauge(
    "ebpf_tcp_rtt_us",
    "{us}",
    "Mean of the smoothed round-trip times of the TCP connections that are open.",
    &[],
);

static SRTT: Metric = Metric::histogram(
    "ebpf_tcp_srtt_us",
    "{us}",
    "Smoothed round-trip time of each TCP connection, once, when it ended.",
    &[],
    MICROSECOND_BOUNDS,
);

static RETRANSMITS: Metric =
    Metric::counter("ebpf_tcp_retransmits", "{segment}", "TCP segments that were sent again.", &["network.type"]);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "tcp",
    summary: "TCP by workload: connections by state, connects and their failures, resets, round trips, retransmissions",
    limits: &[
        "TIME_WAIT is absent: the kernel keeps no socket for it. So are orphans that wait for the peer's FIN.",
        "Inbound connections are absent until their handshake is done; a connection counts as accepted from then on.",
        "A connect that finds no route never begins: it is an error of the system call connect.",
        "A connect that its own side gives up is aborted, even where a router's word made it do so before the kernel gave up.",
        "A socket belongs to the task that connected it or called listen, also when another got it passed (socket activation).",
        "Before Linux 5.12 sockets that are older than the agent and round trips of open connections are absent, and two cgroups that listen on one port of a namespace (SO_REUSEPORT) are taken for the later one.",
        "A connection that is older than the agent belongs to the first task that has it open; without one, to the workload kernel. It counts as inbound where its listener's backlog was not 0.",
        "A change of state that interrupts another one's program on its CPU is skipped by the kernel; telesonde_bpf_misses says how many.",
        "Where a kernel hides a task from tracing, as sandboxes do with what runs them, what a timer or a packet does to a connection while it interrupts that task is not seen; the connection's next event makes up for it. A failed connect whose error is taken away by then counts as _OTHER, and is no event.",
        "A peer is known by its address alone: workloads of this node that share an address are not told apart as peers.",
        "Overflows of accept queues have no hook of their own: the collector network counts them, as it sees the segments.",
    ],
    metrics: &[
        &CONNECTIONS,
        &CONNECT_LATENCY,
        &CONNECTS,
        &ACCEPTS,
        &CLOSES,
        &RESETS,
        &CONNECT_ERRORS,
        &RTT,
        &SRTT,
        &RETRANSMITS,
        &MAP_OVERFLOW,
        &EVENTS_LOST,
    ],
    needs: &[
        Need::Btf,
        Need::Tracepoint("inet_sock_set_state"),
        Need::Tracepoint("tcp_destroy_sock"),
        Need::Tracepoint("tcp_send_reset"),
        Need::Tracepoint("tcp_receive_reset"),
        Need::Tracepoint("tcp_retransmit_skb"),
        Need::Tracepoint("tcp_retransmit_synack"),
        Need::Capability("CAP_BPF"),
        Need::Capability("CAP_PERFMON"),
        Need::HostPid,
    ],
    ladder: &[Step::Paused],
    section: Section::of::<Config>(),
    plan,
    make,
};

/// What the causes of failed connects are called, in the order of `bpf/tcp.h`.
const CAUSE_NAMES: [&str; CAUSES] = ["refused", "timeout", "unreachable", "aborted", "unsent", "_OTHER"];

/// What the states are called by the semantic conventions, as the kernel numbers them.
const STATE_NAMES: [&str; 13] = [
    "",
    "established",
    "syn_sent",
    "syn_received",
    "fin_wait_1",
    "fin_wait_2",
    "time_wait",
    "closed",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
    "syn_received",
];

/// The bytes of what is known of a connection: `struct conn` of `bpf/lib/conn.bpf.h`.
const CONN: usize = 40;
/// Kernels without storage of sockets for these programs have it in hashes of so many entries.
const LEGACY_CONNS: u32 = 65_536;
const LEGACY_LISTENERS: u32 = 4_096;

fn plan(section: &serde_json::Value, cpus: usize) -> Plan {
    let config: Config = serde_json::from_value(section.clone()).unwrap_or_default();
    let key = size_of::<Owner>();
    let histogram = |shape: HistShape| cost::hash(config.max_latencies, key, shape.bytes() as usize);
    let mut maps = vec![
        ("owners", cost::per_cpu_hash(config.max_workloads, key, size_of::<Connections>(), cpus)),
        ("connecting", histogram(config.connecting())),
        ("round_trips", histogram(config.round_trips())),
    ];
    if config.peers {
        maps.push(("peers", cost::hash(config.max_peers, size_of::<Peer>(), size_of::<Lifecycle>())));
    }
    if bpf::probe::is_legacy_version() {
        maps.extend([
            ("conns", cost::hash(LEGACY_CONNS, 8, CONN)),
            ("listeners", cost::hash(LEGACY_LISTENERS, 16, CONN)),
        ]);
    } else {
        maps.push(("conns", cost::storage(CONN, cpus)));
    }
    // Four states, five counters and the mean of round trips.
    Plan { maps, numbers: 10, histograms: 2 }
}

struct Tcp {
    /// What keeps the programs attached.
    object: Arc<Mutex<Object>>,
    owners: Entries<Owner, Connections>,
    /// Where peers are told apart.
    peers: Option<Peers>,
    connecting: Histograms<Owner>,
    round_trips: Histograms<Owner>,
    losses: PerCpuCells<TcpLoss>,
    walks: Option<Walks>,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    const HOOKS: [&str; 6] = [
        "tcp_destroy_sock",
        "tcp_send_reset",
        "tcp_receive_reset",
        "tcp_retransmit_skb",
        "tcp_retransmit_synack",
        "inet_sock_set_state",
    ];
    let config: Config = setup.section()?;
    let types = setup.types()?;
    let platform = setup.platform();
    let legacy = platform.facts.is_legacy();
    let loader = Loader::new(if legacy { "tcp_legacy" } else { "tcp" })
        .pinned(platform.lasting(), DESCRIPTOR.name, filter::FILLED)
        .constant("hierarchy", &(platform.facts.cgroups.primary as u32))
        .constant("by_peer", &u32::from(config.peers))
        .max_entries("peers", if config.peers { platform.scaled(config.max_peers).max(1) } else { 1 })
        .max_entries("owners", platform.scaled(config.max_workloads))
        .governed(platform.budget.governs(DESCRIPTOR.name))
        .histogram("connecting", config.connecting())
        .max_entries("connecting", platform.scaled(config.max_latencies))
        .histogram("round_trips", config.round_trips())
        .max_entries("round_trips", platform.scaled(config.max_latencies));
    let mut object = filter::tune(loader, platform).load(&types).map_err(crate::refused)?;
    filter::fill(platform, &object)?;
    for hook in HOOKS {
        object.attach(hook, &types).map_err(crate::refused)?;
    }
    // Before Linux 5.14 a cause may go unknown where the kernel skips a program.
    if types.has_tracepoint("inet_sk_error_report") {
        object.attach("inet_sk_error_report", &types).map_err(crate::refused)?;
    }
    let walkable = if legacy {
        Err("Linux before 5.12 does not show the socket of a file".to_owned())
    } else {
        object.load_iterator("walk", "task_file", &types).map_err(|error| error.to_string())
    };
    let (watch, reins) = (object.watch(), object.reins().map_err(crate::refused)?);
    let rounds = object.cells("rounds").map_err(crate::refused)?;
    let mut collector = Tcp {
        owners: Entries::open(&object, "owners", platform)?,
        peers: if config.peers { Some(Peers::open(&object, setup)?) } else { None },
        connecting: Histograms::open(&object, "connecting", config.connecting(), platform)?,
        round_trips: Histograms::open(&object, "round_trips", config.round_trips(), platform)?,
        losses: object.per_cpu_cells("losses").map_err(crate::refused)?,
        walks: None,
        object: Arc::new(Mutex::new(object)),
    };
    let walks = walkable.and_then(|()| {
        Walks::start(Arc::clone(&collector.object), rounds, config.interval()).map_err(|error| error.to_string())
    });
    match walks {
        Ok(walks) => collector.walks = Some(walks),
        Err(why) => setup.degrade(format!("no sockets older than the agent and no round trips of open ones: {why}")),
    }
    setup.watch(watch);
    setup.lead(reins);
    Ok(Box::new(collector))
}

#[async_trait]
impl Collector for Tcp {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        self.read(scrape).map_err(|error| CollectError(error.to_string()))
    }
}

impl Tcp {
    fn read(&mut self, scrape: &mut Scrape) -> Result<(), bpf::Error> {
        let mut means: BTreeMap<Subject, (u64, u64)> = BTreeMap::new();
        let round = self.walks.as_ref().map_or(0, Walks::last);
        let mut meet = |subject, all: &Connections| {
            if let Some(visit) = all.visits.iter().find(|visit| visit.round == round && visit.count > 0) {
                let mean = means.entry(subject).or_default();
                mean.0 += visit.rtt;
                mean.1 += u64::from(visit.count);
            }
        };
        self.owners.read(scrape, |owner, all, entry| {
            record_past(entry, network(owner.network), &all.past);
            record_open(entry, network(owner.network), all);
            meet(owner.subject(), all);
        })?;
        self.connecting.record(scrape, &CONNECT_LATENCY, |owner| [network(owner.network).into()])?;
        self.round_trips.record(scrape, &SRTT, |_| [])?;
        let lost = sum(&self.losses.get(0)?);
        record_losses(scrape, &lost);
        if let Some(peers) = &mut self.peers {
            peers.read(|subject, of, past, last| {
                record_past(&mut Entry::new(scrape, subject, last), network(of), past);
            })?;
            if let Some(known) = peers.known() {
                scrape.bequeath(&known);
            }
            scrape.record(&MAP_OVERFLOW, Subject::Node, ["peers".into()], lost.strangers);
        }
        meet(Subject::Overflow, &lost.connections);
        for (subject, (sum, count)) in means {
            scrape.record_mean(&RTT, subject, [], sum, count);
        }
        Ok(())
    }
}

/// Records what has ever become of connections.
fn record_past(entry: &mut Entry<'_>, network: &'static str, all: &Lifecycle) {
    let counters = [
        (&CONNECTS, all.connects),
        (&ACCEPTS, all.accepts),
        (&CLOSES, all.closes),
        (&RESETS, all.resets),
        (&RETRANSMITS, all.retransmits),
    ];
    for (metric, count) in counters.into_iter().filter(|(_, count)| *count > 0) {
        entry.count(metric, [network.into()], count);
    }
    for (name, &count) in CAUSE_NAMES.into_iter().zip(&all.failed).filter(|(_, count)| **count > 0) {
        entry.count(&CONNECT_ERRORS, [name.into()], count);
    }
}

/// Records the sockets of an owner that are there now.
fn record_open(entry: &mut Entry<'_>, network: &'static str, all: &Connections) {
    for (direction, name) in [(OUTBOUND, "outbound"), (INBOUND, "inbound")] {
        let open = &all.open[direction * STATES..(direction + 1) * STATES];
        // A count below 0 is of an entry that was freed too early.
        for (state, &count) in STATE_NAMES.into_iter().zip(open).filter(|(_, count)| count.cast_signed() > 0) {
            entry.count(&CONNECTIONS, [state.into(), name.into(), network.into()], u64::from(count));
        }
    }
}

/// Exports what the kernel could not put where it belongs.
fn record_losses(scrape: &mut Scrape, lost: &TcpLoss) {
    let mut entry = Entry::new(scrape, Subject::Overflow, false);
    record_past(&mut entry, "", &lost.connections.past);
    record_open(&mut entry, "", &lost.connections);
    scrape.record(&MAP_OVERFLOW, Subject::Node, ["owners".into()], lost.connections.past.events());
    let values = [DESCRIPTOR.name.into(), "unfollowed".into()];
    scrape.record(&EVENTS_LOST, Subject::Node, values, lost.unfollowed);
}

fn network(network: u32) -> &'static str {
    if network == NETWORK_IPV6 { "ipv6" } else { "ipv4" }
}

impl Key for Owner {
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
}

impl Cell for Connections {
    fn add(&mut self, other: &Self) {
        Connections::add(self, other);
    }

    fn reading(&self) -> u64 {
        self.past.events()
    }

    fn is_settled(&self) -> bool {
        self.open.iter().all(|&count| count == 0)
    }
}

impl Cell for Lifecycle {
    fn add(&mut self, other: &Self) {
        Lifecycle::add(self, other);
    }

    fn reading(&self) -> u64 {
        self.events()
    }
}

impl Cell for TcpLoss {
    fn add(&mut self, other: &Self) {
        self.connections.add(&other.connections);
        self.unfollowed += other.unfollowed;
        self.strangers += other.strangers;
    }

    fn reading(&self) -> u64 {
        self.connections.reading()
    }
}
