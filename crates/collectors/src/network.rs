//! Counts packets and bytes of every workload's sockets, and packets that the kernel dropped.
//! It hooks `cgroup_skb` at the root of the v2 hierarchy and `kfree_skb`. What it cannot see stands in its descriptor.

mod config;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bpf::abi::network::{DIRECTION_TRANSMIT, Dropped, FAMILY_IPV6, Flow, NetworkLoss, Traffic};
use bpf::{Error, PerCpuCells, Types, cost};
use model::{Metric, Subject, Text};
use runtime::own::{EVENTS_LOST, MAP_OVERFLOW};
use runtime::{CollectError, Collector, Descriptor, MakeError, Need, Plan, Scrape, Section, Setup, Step};

use crate::sockets::{self, Sockets, User};
use crate::table::{Cell, Entries, Key, sum};
pub use config::Config;

static BYTES: Metric = Metric::counter(
    "ebpf_network_bytes_total",
    "By",
    "Bytes that sockets sent and received, from the IP header on, as on the wire.",
    &["network.io.direction", "network.transport", "network.type"],
);

static PACKETS: Metric = Metric::counter(
    "ebpf_network_packets_total",
    "{packet}",
    "Packets that sockets sent and received, as on the wire.",
    &["network.io.direction", "network.transport", "network.type"],
);

static DROPS: Metric = Metric::counter(
    "ebpf_network_drops",
    "{packet}",
    "Packets that the kernel dropped, by its own reason.",
    &["reason"],
);

static OVERFLOWS: Metric = Metric::counter(
    "ebpf_tcp_listen_overflows",
    "{connection}",
    "Segments of new TCP connections that found the accept queue of the listening socket full.",
    &[],
);

/// The collector.
pub static DESCRIPTOR: Descriptor = Descriptor {
    name: "network",
    summary: "Network traffic by workload: bytes and packets of its sockets, packets that were dropped, accept queues that overflowed",
    limits: &[
        "Only what a socket of this host sends or receives is traffic: not what is forwarded, answered for a closed port, or meant for a connection in TIME_WAIT.",
        "A datagram that IP fragments is one packet, without the headers of its fragments.",
        "Before Linux 6.3 a socket stays with its creator although another workload uses it; from then on the first use is still the former owner's.",
        "Before Linux 5.12 sockets that are older than the agent belong to the workload kernel.",
        "Linux 6.1 and older do not show the SYN-ACK of a connection over IPv6; 6.12 does.",
        "What another program of the same hook drops has been counted.",
        "The subflows of Multipath TCP belong to the workload kernel.",
        "Overflows of accept queues are counted by looking at the queue as a segment comes, as the kernel does right after: with several CPUs on one listener they may differ from ListenOverflows by a few. Before Linux 5.12 they are absent.",
        "A drop has an owner only where the packet has a socket. Before Linux 5.17 the kernel gives no reasons and drops are absent.",
    ],
    metrics: &[&BYTES, &PACKETS, &DROPS, &OVERFLOWS, &MAP_OVERFLOW, &EVENTS_LOST],
    needs: &[
        Need::Btf,
        Need::Tracepoint("kfree_skb"),
        Need::Tracepoint("sock_send_length"),
        Need::Tracepoint("sock_recv_length"),
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
    let mut maps = vec![
        ("flows", cost::per_cpu_hash(config.max_flows, size_of::<Flow>(), size_of::<Traffic>(), cpus)),
        // A cgroup, a protocol and a place in the table of connections.
        ("owners", cost::storage(24, cpus)),
    ];
    if !bpf::probe::is_legacy_version() {
        maps.push(("overflows", cost::per_cpu_hash(config.max_listeners, size_of::<u64>(), size_of::<u64>(), cpus)));
    }
    if config.drops {
        maps.push(("drops", cost::per_cpu_hash(config.max_drops, size_of::<Dropped>(), size_of::<u64>(), cpus)));
    }
    // Bytes and packets of four flows.
    Plan { maps, numbers: 8, histograms: 0 }
}

struct Network {
    /// What keeps the programs attached.
    sockets: Arc<Sockets>,
    /// Whether traffic is told apart by peer: then it comes from the table of connections.
    peers: bool,
    flows: Entries<Flow, Traffic>,
    drops: Option<(Entries<Dropped, u64>, Reasons)>,
    overflows: Option<Entries<u64, u64>>,
    losses: PerCpuCells<NetworkLoss>,
}

fn make(setup: &mut Setup) -> Result<Box<dyn Collector>, MakeError> {
    let config: Config = setup.section()?;
    let types = setup.types()?;
    let sockets = sockets::open(setup, User::Network)?;
    let platform = Arc::clone(setup.platform());
    let legacy = platform.facts.is_legacy();
    let mut lacking = sockets.lacking().to_vec();
    if legacy {
        lacking.push("overflows of accept queues cannot be seen");
    }
    let object = sockets.object();
    let reasons = if sockets.counts_drops() { Reasons::load(&types) } else { None };
    let drops = match reasons {
        Some(reasons) => Some((Entries::open(&object, "drops", &platform)?, reasons)),
        None => None,
    };
    if config.drops && drops.is_none() {
        lacking.push("the kernel gives no reasons for drops");
    }
    if !lacking.is_empty() {
        setup.degrade(lacking.join("; "));
    }
    let flows = Entries::open(&object, "flows", &platform)?;
    let overflows = if legacy { None } else { Some(Entries::open(&object, "overflows", &platform)?) };
    let losses = object.per_cpu_cells("losses").map_err(crate::refused)?;
    drop(object);
    let peers = sockets.tells_peers();
    if config.peers && !peers {
        setup.degrade("peers are not told apart: the collector connection, which knows them, does not run");
    }
    Ok(Box::new(Network { sockets, peers, flows, drops, overflows, losses }))
}

/// The running kernel's names for why a packet was dropped.
struct Reasons(HashMap<u32, Text>);

impl Reasons {
    fn load(types: &Types) -> Option<Self> {
        let known = types.enumeration("skb_drop_reason")?;
        let name = |(name, value): (String, u32)| {
            (value, name.strip_prefix("SKB_DROP_REASON_").unwrap_or(&name).to_owned().into())
        };
        Some(Self(known.into_iter().map(name).collect()))
    }

    /// Names a reason; those of modules (wireless, Open vSwitch) have only a number.
    fn name(&mut self, reason: u32) -> Text {
        self.0.entry(reason).or_insert_with(|| format!("{reason:#x}").into()).clone()
    }
}

#[async_trait]
impl Collector for Network {
    async fn collect(&mut self, scrape: &mut Scrape) -> Result<(), CollectError> {
        if self.peers {
            self.read_peers(scrape).await?;
        }
        self.read(scrape).map_err(|error| CollectError(error.to_string()))
    }
}

impl Network {
    /// Exports traffic by peer, from the table of connections.
    async fn read_peers(&self, scrape: &mut Scrape) -> Result<(), CollectError> {
        let gone = || CollectError("the collector connection, which knows the peers, does not run".to_owned());
        let table = self.sockets.table().ok_or_else(gone)?;
        let lost = table.exchanges(|subject, values, traffic, last| {
            for (metric, value) in [(&BYTES, traffic.bytes), (&PACKETS, traffic.packets)] {
                if last {
                    scrape.close(metric, subject, values.clone(), value);
                } else {
                    scrape.record(metric, subject, values.clone(), value);
                }
            }
        });
        for (direction, traffic) in lost.await? {
            for (metric, value) in [(&BYTES, traffic.bytes), (&PACKETS, traffic.packets)] {
                scrape.record(metric, Subject::Overflow, [direction, "", ""].map(Text::from), value);
            }
        }
        Ok(())
    }

    fn read(&mut self, scrape: &mut Scrape) -> Result<(), Error> {
        self.flows.read(scrape, |flow, total, entry| {
            entry.count(&BYTES, flow.values(), total.bytes);
            entry.count(&PACKETS, flow.values(), total.packets);
        })?;
        if let Some((drops, reasons)) = &mut self.drops {
            drops.read(scrape, |drop, total, entry| entry.count(&DROPS, [reasons.name(drop.reason)], *total))?;
        }
        if let Some(overflows) = &mut self.overflows {
            overflows.read(scrape, |_, total, entry| entry.count(&OVERFLOWS, [], *total))?;
        }
        self.read_losses(scrape)
    }

    /// Exports what the kernel could not put where it belongs.
    fn read_losses(&self, scrape: &mut Scrape) -> Result<(), Error> {
        let all = sum(&self.losses.get(0)?);
        if all.traffic.packets > 0 {
            scrape.record(&BYTES, Subject::Overflow, ["", "", ""].map(Text::from), all.traffic.bytes);
            scrape.record(&PACKETS, Subject::Overflow, ["", "", ""].map(Text::from), all.traffic.packets);
        }
        if all.drops > 0 {
            scrape.record(&DROPS, Subject::Overflow, [""].map(Text::from), all.drops);
        }
        if all.overflows > 0 {
            scrape.record(&OVERFLOWS, Subject::Overflow, [], all.overflows);
        }
        let maps = [("flows", all.traffic.packets), ("drops", all.drops), ("overflows", all.overflows)];
        for (map, events) in maps {
            scrape.record(&MAP_OVERFLOW, Subject::Node, [map.into()], events);
        }
        let values = [DESCRIPTOR.name.into(), "socket_owner".into()];
        scrape.record(&EVENTS_LOST, Subject::Node, values, all.owners);
        Ok(())
    }
}

trait Attributes {
    /// Gives direction, transport and type.
    fn values(&self) -> [Text; 3];
}

impl Attributes for Flow {
    fn values(&self) -> [Text; 3] {
        let direction = if self.direction == DIRECTION_TRANSMIT { "transmit" } else { "receive" };
        let family = if self.family == FAMILY_IPV6 { "ipv6" } else { "ipv4" };
        [direction.into(), transport(self.transport), family.into()]
    }
}

/// Names a socket's IP protocol.
pub(crate) fn transport(protocol: u16) -> Text {
    match protocol {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        // Of raw sockets only.
        other => format!("protocol_{other}").into(),
    }
}

impl Key for Flow {
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
}

impl Key for Dropped {
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
}

impl Cell for Traffic {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.packets += other.packets;
    }

    fn reading(&self) -> u64 {
        self.packets
    }
}

impl Cell for NetworkLoss {
    fn add(&mut self, other: &Self) {
        self.traffic.add(&other.traffic);
        self.drops += other.drops;
        self.overflows += other.overflows;
        self.owners += other.owners;
    }

    fn reading(&self) -> u64 {
        self.traffic.packets + self.drops + self.overflows
    }
}
